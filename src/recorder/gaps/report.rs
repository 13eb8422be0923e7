//! The gap report: requests an engine's containers, beside the stream. It adds to a gap what must have happened in it,
//! and stores the list of containers for the next gap.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::backlog::{self, BACKLOG_LEN, Timeouts};
use super::super::config::Config;
use super::container_diff::{
    Container, ContainerDiff, Containers, InspectedContainer, LIFECYCLE_ACTIONS, RecordedTimes, gap_detail,
};
use crate::clock::now_nano;
use crate::engine::{Client, ContainerSummary, ContainerTimes};
use crate::error::chain;
use crate::event::{Event, EventBatch};
use crate::query::{Filter, Selection};
use crate::store::{Actions, Delivery, EventPredicate, GapChange, GapReason, Order, Query, Reader, SourceKey};

/// Maximum age of the stored list of containers. It limits how much of the record is read when a gap is found.
const DAY_NANO: i64 = 24 * 3_600_000_000_000;

/// Maximum number of containers whose times are requested.
const MAX_INSPECTED_CONTAINERS: usize = 500;

/// Time limit for a gap report; longer than a store may be locked.
const REPORT_TIMEOUT: Duration = Duration::from_secs(90);

/// Interval between checks whether the gap is stored.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Time after which an engine has certainly sent the event for a time that it set.
const EVENT_DELIVERY_DELAY: Duration = Duration::from_millis(300);

/// Time limits for the backlog response.
const BACKLOG_TIMEOUTS: Timeouts = Timeouts { idle: Duration::from_secs(2), total: Duration::from_secs(10) };

/// A gap whose report is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::recorder) struct PendingGap {
    pub(in crate::recorder) from: i64,
    pub(in crate::recorder) to: i64,
    pub(in crate::recorder) reason: GapReason,
    pub(in crate::recorder) detail: String,
}

impl PendingGap {
    /// Returns the gap if it has both ends. Without them, the containers cannot explain it.
    pub(in crate::recorder) fn from_change(gap: &GapChange) -> Option<PendingGap> {
        match gap {
            GapChange::Reported { from: Some(from), to: Some(to), reason, detail } => Some(PendingGap {
                from: *from,
                to: *to,
                reason: *reason,
                detail: detail.clone().unwrap_or_else(|| reason.as_str().to_owned()),
            }),
            _ => None,
        }
    }
}

/// One gap report.
#[derive(Debug)]
pub(in crate::recorder) struct GapReport {
    pub(in crate::recorder) client: Client,
    pub(in crate::recorder) config: Arc<Config>,
    pub(in crate::recorder) source: Arc<SourceKey>,
    /// Gap to explain. With `None`, only the list of containers is stored, if that is due.
    pub(in crate::recorder) gap: Option<PendingGap>,
}

/// Reason for a missing report: the store cannot be read, or the engine does not answer.
type ReportError = String;

impl GapReport {
    /// Creates the report. Returns its gap, and the delivery to store, if any.
    pub(in crate::recorder) async fn run(self) -> (Option<PendingGap>, Option<Delivery>) {
        let (name, gap) = (self.source.name.clone(), self.gap.clone());
        let result =
            timeout(REPORT_TIMEOUT, self.collect()).await.unwrap_or_else(|_| Err("the report timed out".into()));
        let delivery = result.unwrap_or_else(|reason| {
            tracing::debug!("cannot report on the containers of {name}: {reason}");
            None
        });
        (gap, delivery)
    }

    async fn collect(self) -> Result<Option<Delivery>, ReportError> {
        if self.gap.is_none() && !self.is_due().await? {
            return Ok(None);
        }
        let requested_nano = now_nano();
        let listed = self.client.list_containers().await.map_err(|e| chain(&e))?;
        let containers = serde_json::to_string(&listed.iter().map(to_container).collect::<Vec<_>>());
        let mut delivery = Delivery::new(self.source.clone(), requested_nano);
        delivery.containers = Some(containers.map_err(|e| e.to_string())?);
        if let Some(gap) = &self.gap {
            delivery.gap = self.explain(gap, &listed, requested_nano).await?;
        }
        Ok(Some(delivery))
    }

    /// Returns true if the stored list of containers is missing or too old.
    async fn is_due(&self) -> Result<bool, ReportError> {
        let engine_id = self.engine_id();
        let taken_nano =
            self.read_store(move |reader| Ok(reader.containers(&engine_id)?.map(|(taken_nano, _)| taken_nano))).await?;
        let now = now_nano();
        Ok(taken_nano.is_none_or(|taken_nano| taken_nano > now || now - taken_nano > DAY_NANO))
    }

    /// Returns the gap with what must have happened in it, or `None` if nothing more is known.
    async fn explain(
        &self,
        gap: &PendingGap,
        listed: &[ContainerSummary],
        requested_nano: i64,
    ) -> Result<Option<GapChange>, ReportError> {
        let previous_detail = self.wait_until_stored(gap).await?;
        // The history is read twice: first to choose which containers to inspect, then to include events that arrived
        // since.
        let history = self.load_history(requested_nano).await?;
        let inspected = self.inspect(listed, history.expected.as_ref()).await;
        sleep(EVENT_DELIVERY_DELAY).await;
        let backlog =
            backlog::fetch(&self.client, self.config.max_event, BACKLOG_TIMEOUTS).await.map_err(|e| chain(&e))?;
        let History { expected, mut expected_latest, mut recorded_times } = self.load_history(requested_nano).await?;
        let oldest = backlog.events.iter().next().map(|(event, _)| event.time_nano);
        if expected.is_none() && backlog.events.len() >= BACKLOG_LEN && oldest > Some(gap.to) {
            return Err("the engine's backlog no longer contains the events after the gap".into());
        }
        apply_events(&backlog.events, &mut expected_latest, &mut recorded_times);
        let diff = ContainerDiff {
            expected: expected.as_ref(),
            expected_latest: &expected_latest,
            recorded_times: &recorded_times,
            inspected: &inspected,
            from: gap.from,
            to: gap.to,
        };
        let detail = gap_detail(&gap.detail, previous_detail.as_deref(), diff.differences());
        Ok(detail.map(|detail| GapChange::Reported {
            from: Some(gap.from),
            to: Some(gap.to),
            reason: gap.reason,
            detail: Some(detail),
        }))
    }

    /// Waits until the gap and the events before and after it are stored. Returns the detail that was stored before.
    async fn wait_until_stored(&self, gap: &PendingGap) -> Result<Option<String>, ReportError> {
        loop {
            let (engine_id, from) = (self.engine_id(), gap.from);
            let history = self.read_store(move |reader| reader.gap_history(&engine_id, Some(from))).await?;
            let is_stored_gap = |(to, reason, _): &(Option<i64>, Option<String>, _)| {
                *to == Some(gap.to) && reason.as_deref() == Some(gap.reason.as_str())
            };
            if history.last().is_some_and(is_stored_gap) {
                let current = history.rsplit(|(_, reason, _)| reason.is_none()).next().unwrap_or_default();
                let details = current.iter().rev().filter_map(|(_, _, detail)| detail.clone());
                return Ok(details.max_by_key(String::len));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Reads from the store what is known without the engine.
    async fn load_history(&self, requested_nano: i64) -> Result<History, ReportError> {
        let (engine_id, is_complete) = (self.engine_id(), covers_lifecycle(&self.config.selection));
        self.read_store(move |reader| {
            let source = reader.sources()?.into_iter().find(|row| row.engine_id.as_ref() == Some(&engine_id));
            let saved_list = reader.containers(&engine_id)?;
            let base = saved_list
                .and_then(|(taken_nano, json)| Some((taken_nano, serde_json::from_str::<Vec<Container>>(&json).ok()?)));
            let base = base.filter(|(taken_nano, _)| *taken_nano <= requested_nano);
            let taken_nano = base.as_ref().map_or(requested_nano, |(taken_nano, _)| *taken_nano);
            let mut expected =
                Containers::new(base.as_ref().map(|(_, containers)| containers.clone()).unwrap_or_default());
            let (mut recorded_times, mut after) = (RecordedTimes::default(), EventBatch::default());
            let query = Query {
                source: source.map(|row| row.id),
                // The two clocks may differ.
                since: Some(taken_nano - DAY_NANO),
                types: vec!["container".into()],
                actions: Actions::Exact(LIFECYCLE_ACTIONS.map(str::to_owned).into()),
                ..Query::default()
            };
            let is_lifecycle =
                |event: &Event<'_>| event.kind == "container" && LIFECYCLE_ACTIONS.contains(&&*event.action);
            let snapshot = reader.snapshot(0)?;
            let _ = reader.events::<()>(
                &query,
                snapshot,
                Order::Arrival,
                EventPredicate::PerKindAndActor(&is_lifecycle),
                |stored| {
                    if let Ok(event) = Event::parse(stored.raw) {
                        recorded_times.apply(&event);
                        if stored.received_nano >= requested_nano {
                            after.push(&event);
                        } else if stored.received_nano >= taken_nano {
                            expected.apply(&event);
                        }
                    }
                    ControlFlow::Continue(())
                },
            )?;
            let mut expected_latest = expected.clone();
            apply_events(&after, &mut expected_latest, &mut recorded_times);
            Ok(History {
                expected: Some(expected).filter(|_| is_complete && base.is_some()),
                expected_latest,
                recorded_times,
            })
        })
        .await
    }

    /// Requests the times of the containers, first of those that are most likely to have changed.
    async fn inspect(&self, listed: &[ContainerSummary], expected: Option<&Containers>) -> Vec<InspectedContainer> {
        let is_unchanged = |listed: &ContainerSummary| {
            let known = expected.and_then(|known| known.get(&listed.id));
            known.is_some_and(|known| known.state == listed.state && !matches!(&*known.state, "running" | "restarting"))
        };
        let mut order: Vec<&ContainerSummary> = listed.iter().collect();
        order.sort_by_key(|listed| is_unchanged(listed));
        let to_inspect: HashSet<&str> = order.iter().take(MAX_INSPECTED_CONTAINERS).map(|listed| &*listed.id).collect();
        let mut is_responding = true;
        let mut inspected = Vec::new();
        for listed in order {
            let mut times: Option<ContainerTimes> = None;
            if is_responding && to_inspect.contains(&*listed.id) {
                times = self.client.container_times(&listed.id).await.unwrap_or_else(|e| {
                    tracing::debug!("{}", chain(&e));
                    is_responding = false;
                    None
                });
            }
            inspected.push(InspectedContainer { container: to_container(listed), times });
        }
        inspected
    }

    fn engine_id(&self) -> String {
        self.source.engine_id.clone().unwrap_or_default()
    }

    /// Reads the store on a thread that may block.
    async fn read_store<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, crate::store::StoreError> + Send + 'static,
    ) -> Result<T, ReportError> {
        let path: PathBuf = self.config.path.clone();
        let task = tokio::task::spawn_blocking(move || Reader::open(&path).and_then(|reader| read(&reader)));
        task.await.map_err(|e| e.to_string())?.map_err(|e| chain(&e))
    }
}

/// Containers according to the record.
struct History {
    /// Containers at the time of the request. `None` if the record is incomplete.
    expected: Option<Containers>,
    /// Containers after all events recorded since.
    expected_latest: Containers,
    recorded_times: RecordedTimes,
}

fn apply_events(events: &EventBatch, containers: &mut Containers, recorded_times: &mut RecordedTimes) {
    for (event, _) in events.iter() {
        containers.apply(&event);
        recorded_times.apply(&event);
    }
}

fn to_container(listed: &ContainerSummary) -> Container {
    Container { id: listed.id.clone(), name: listed.name().to_owned(), state: listed.state.clone() }
}

/// Returns true if a selection stores all lifecycle events of containers.
fn covers_lifecycle(selection: &Selection) -> bool {
    let mut container_filter = Filter::default();
    let includes_containers = selection.filter.is_empty()
        || (container_filter.add("type=container").is_ok() && selection.filter == container_filter);
    let is_harmless = |exclude: &Filter| {
        let mut query = Query::default();
        exclude.narrow(&mut query);
        let no_containers = !query.types.is_empty() && !query.types.iter().any(|kind| kind == "container");
        let no_lifecycle = match &query.actions {
            Actions::Any => false,
            Actions::Exact(actions) => !actions.iter().any(|action| LIFECYCLE_ACTIONS.contains(&&**action)),
            Actions::Prefix(prefixes) => !prefixes
                .iter()
                .any(|prefix| LIFECYCLE_ACTIONS.iter().any(|action| action.starts_with(prefix.as_str()))),
        };
        no_containers || no_lifecycle
    };
    includes_containers && selection.excludes.iter().all(is_harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(filters: &[&str], excludes: &[&str]) -> Selection {
        let filter = |texts: &[&str]| {
            let mut filter = Filter::default();
            texts.iter().for_each(|text| filter.add(text).unwrap());
            filter
        };
        Selection {
            filter: filter(filters),
            excludes: excludes.iter().map(|text| filter(&[text])).collect(),
            ..Selection::default()
        }
    }

    #[test]
    fn selections_that_cover_the_container_lifecycle_are_recognized() {
        for (filters, excludes, expected) in [
            (&[][..], &[][..], true),
            (&["type=container"], &[], true),
            (&[], &["event=exec_create", "event=exec_die", "type=image"], true),
            (&[], &["event=health_status"], true),
            (&["type=image"], &[], false),
            (&["type=container", "container=web"], &[], false),
            (&["event=start"], &[], false),
            (&[], &["event=die"], false),
            (&[], &["container=web"], false),
            (&[], &["type=container"], false),
        ] {
            assert_eq!(covers_lifecycle(&selection(filters, excludes)), expected, "{filters:?} {excludes:?}");
        }
    }
}
