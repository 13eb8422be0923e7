//! Asks an engine for its containers, beside the stream: to say of a gap what must have happened in it, and to know them
//! when the next one comes.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Plan;
use super::meanwhile::{Comparison, Container, Known, LIVES, Shown, Told, detail};
use super::memory::{self, Patience};
use crate::commands::now_nano;
use crate::engine::{Client, Listed, Times};
use crate::error::chain;
use crate::event::{Event, Events};
use crate::query::{Filter, Selection};
use crate::store::{Actions, Ask, Delivery, GapChange, Judge, Order, Reader, Reason, SourceKey};
use crate::stream::continuity::MEMORY;

/// How old what is known of the containers may get, so that what is read of the record when a gap is found stays little.
const DAY: i64 = 24 * 3_600_000_000_000;

/// Of so many containers at most the times are asked for.
const MOST: usize = 500;

/// How long an inquiry may take; longer than a store may be locked.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often it is looked whether the gap is stored yet.
const GLANCE: Duration = Duration::from_millis(50);

/// So long after an engine has noted something it has surely told the event.
const TELLING: Duration = Duration::from_millis(300);

/// How long the engine may take to say what it remembers.
const MEMORY_PATIENCE: Patience = Patience { idle: Duration::from_secs(2), whole: Duration::from_secs(10) };

/// A gap as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blindness {
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl Blindness {
    /// A gap of which the engine's containers can tell more: one that has both ends.
    pub(super) fn of(gap: &GapChange) -> Option<Blindness> {
        match gap {
            GapChange::Blind { from: Some(from), to: Some(to), reason, detail } => Some(Blindness {
                from: *from,
                to: *to,
                reason: *reason,
                detail: detail.clone().unwrap_or_else(|| reason.as_str().to_owned()),
            }),
            _ => None,
        }
    }
}

/// One round of asking.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) client: Client,
    pub(super) plan: Arc<Plan>,
    pub(super) source: Arc<SourceKey>,
    /// The gap to say more of; without one it is only noted what containers there are, if that is due.
    pub(super) gap: Option<Blindness>,
}

/// The record cannot be read, or the engine does not answer: then nothing is said.
type Unknown = String;

impl Inquiry {
    /// The gap that it was about, and what is to be stored of the answers.
    pub(super) async fn ask(self) -> (Option<Blindness>, Option<Delivery>) {
        let (name, gap) = (self.source.name.clone(), self.gap.clone());
        let answers = timeout(PATIENCE, self.asked()).await.unwrap_or_else(|_| Err("no answer in time".into()));
        let delivery = answers.unwrap_or_else(|why| {
            tracing::debug!("what containers {name} has is not known: {why}");
            None
        });
        (gap, delivery)
    }

    async fn asked(self) -> Result<Option<Delivery>, Unknown> {
        if self.gap.is_none() && !self.is_due().await? {
            return Ok(None);
        }
        let asked_nano = now_nano();
        let listed = self.client.containers().await.map_err(|e| chain(&e))?;
        let containers = serde_json::to_string(&listed.iter().map(container).collect::<Vec<_>>());
        let mut delivery = Delivery::new(self.source.clone(), asked_nano);
        delivery.containers = Some(containers.map_err(|e| e.to_string())?);
        if let Some(gap) = &self.gap {
            delivery.gap = self.explained(gap, &listed, asked_nano).await?;
        }
        Ok(Some(delivery))
    }

    /// Whether what is known of the containers is too old, or nothing is.
    async fn is_due(&self) -> Result<bool, Unknown> {
        let engine_id = self.engine_id();
        let taken = self.read(move |reader| Ok(reader.containers(&engine_id)?.map(|(taken, _)| taken))).await?;
        let now = now_nano();
        Ok(taken.is_none_or(|taken| taken > now || now - taken > DAY))
    }

    /// The gap with what must have happened in it; `None` if nothing more is known of it.
    async fn explained(
        &self,
        gap: &Blindness,
        listed: &[Listed],
        asked_nano: i64,
    ) -> Result<Option<GapChange>, Unknown> {
        let before = self.stored(gap).await?;
        // Once before it is asked when what was, for what is worth asking; once after it, for what was told meanwhile.
        let record = self.record(asked_nano).await?;
        let shown = self.shown(listed, record.known.as_ref()).await;
        sleep(TELLING).await;
        let memory = memory::take(&self.client, self.plan.max_event, MEMORY_PATIENCE).await.map_err(|e| chain(&e))?;
        let Record { known, mut later, mut told } = self.record(asked_nano).await?;
        let oldest = memory.events.iter().next().map(|(event, _)| event.time_nano);
        if known.is_none() && memory.events.len() >= MEMORY && oldest > Some(gap.to) {
            return Err("the engine does not remember what followed the gap any more".into());
        }
        take_in(&memory.events, &mut later, &mut told);
        let comparison =
            Comparison { known: known.as_ref(), later: &later, told: &told, shown: &shown, from: gap.from, to: gap.to };
        let detail = detail(&gap.detail, before.as_deref(), comparison.differences());
        Ok(detail.map(|detail| GapChange::Blind {
            from: Some(gap.from),
            to: Some(gap.to),
            reason: gap.reason,
            detail: Some(detail),
        }))
    }

    /// Waits until the gap is stored, and with it the events before and behind it. What was said of it before.
    async fn stored(&self, gap: &Blindness) -> Result<Option<String>, Unknown> {
        loop {
            let (engine_id, from) = (self.engine_id(), gap.from);
            let history = self.read(move |reader| reader.gap_history(&engine_id, Some(from))).await?;
            let is_this = |(to, reason, _): &(Option<i64>, Option<String>, _)| {
                *to == Some(gap.to) && reason.as_deref() == Some(gap.reason.as_str())
            };
            if history.last().is_some_and(is_this) {
                let standing = history.rsplit(|(_, reason, _)| reason.is_none()).next().unwrap_or_default();
                let told = standing.iter().rev().filter_map(|(_, _, detail)| detail.clone());
                return Ok(told.max_by_key(String::len));
            }
            sleep(GLANCE).await;
        }
    }

    /// What is known without the engine.
    async fn record(&self, asked_nano: i64) -> Result<Record, Unknown> {
        let (engine_id, is_whole) = (self.engine_id(), tells_all(&self.plan.selection));
        self.read(move |reader| {
            let source = reader.sources()?.into_iter().find(|row| row.engine_id.as_ref() == Some(&engine_id));
            let taken = reader.containers(&engine_id)?;
            let base =
                taken.and_then(|(taken, json)| Some((taken, serde_json::from_str::<Vec<Container>>(&json).ok()?)));
            let base = base.filter(|(taken, _)| *taken <= asked_nano);
            let taken_nano = base.as_ref().map_or(asked_nano, |(taken, _)| *taken);
            let mut known = Known::new(base.as_ref().map(|(_, containers)| containers.clone()).unwrap_or_default());
            let (mut told, mut after) = (Told::default(), Events::default());
            let ask = Ask {
                source: source.map(|row| row.id),
                // The two clocks may differ.
                since: Some(taken_nano - DAY),
                types: vec!["container".into()],
                actions: Actions::Exactly(LIVES.map(str::to_owned).into()),
                ..Ask::default()
            };
            let is_life = |event: &Event<'_>| event.kind == "container" && LIVES.contains(&&*event.action);
            let snapshot = reader.snapshot(0)?;
            let _ = reader.events::<()>(&ask, snapshot, Order::Arrival, Judge::Alike(&is_life), |stored| {
                if let Ok(event) = Event::parse(stored.raw) {
                    told.happened(&event);
                    if stored.received_nano >= asked_nano {
                        after.push(&event);
                    } else if stored.received_nano >= taken_nano {
                        known.happened(&event);
                    }
                }
                ControlFlow::Continue(())
            })?;
            let mut later = known.clone();
            take_in(&after, &mut later, &mut told);
            Ok(Record { known: Some(known).filter(|_| is_whole && base.is_some()), later, told })
        })
        .await
    }

    /// Asks for the times of the containers, first of those that are most likely to have changed.
    async fn shown(&self, listed: &[Listed], known: Option<&Known>) -> Vec<Shown> {
        let as_before = |listed: &Listed| {
            let known = known.and_then(|known| known.get(&listed.id));
            known.is_some_and(|known| known.state == listed.state && !matches!(&*known.state, "running" | "restarting"))
        };
        let mut order: Vec<&Listed> = listed.iter().collect();
        order.sort_by_key(|listed| as_before(listed));
        let asked: HashSet<&str> = order.iter().take(MOST).map(|listed| &*listed.id).collect();
        let mut answers = true;
        let mut shown = Vec::new();
        for listed in order {
            let mut times: Option<Times> = None;
            if answers && asked.contains(&*listed.id) {
                times = self.client.times(&listed.id).await.unwrap_or_else(|e| {
                    tracing::debug!("{}", chain(&e));
                    answers = false;
                    None
                });
            }
            shown.push(Shown { container: container(listed), times });
        }
        shown
    }

    fn engine_id(&self) -> String {
        self.source.engine_id.clone().unwrap_or_default()
    }

    /// Reads the store, where it may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, crate::store::StoreError> + Send + 'static,
    ) -> Result<T, Unknown> {
        let path: PathBuf = self.plan.path.clone();
        let reading = tokio::task::spawn_blocking(move || Reader::open(&path).and_then(|reader| read(&reader)));
        reading.await.map_err(|e| e.to_string())?.map_err(|e| chain(&e))
    }
}

/// What the record tells of the containers.
struct Record {
    /// Those there were when the engine was asked; `None` if not all of it was recorded.
    known: Option<Known>,
    /// Those there are with all that came since.
    later: Known,
    told: Told,
}

fn take_in(events: &Events, known: &mut Known, told: &mut Told) {
    for (event, _) in events.iter() {
        known.happened(&event);
        told.happened(&event);
    }
}

fn container(listed: &Listed) -> Container {
    Container { id: listed.id.clone(), name: listed.name().to_owned(), state: listed.state.clone() }
}

/// Whether a selection keeps nothing back that says where containers are in their lives.
fn tells_all(selection: &Selection) -> bool {
    let mut containers = Filter::default();
    let lets_through =
        selection.filter.is_empty() || (containers.add("type=container").is_ok() && selection.filter == containers);
    let is_harmless = |exclude: &Filter| {
        let mut ask = Ask::default();
        exclude.narrow(&mut ask);
        let no_containers = !ask.types.is_empty() && !ask.types.iter().any(|kind| kind == "container");
        let no_lives = match &ask.actions {
            Actions::Any => false,
            Actions::Exactly(actions) => !actions.iter().any(|action| LIVES.contains(&&**action)),
            Actions::BeginningWith(begins) => {
                !begins.iter().any(|begin| LIVES.iter().any(|action| action.starts_with(begin.as_str())))
            }
        };
        no_containers || no_lives
    };
    lets_through && selection.excludes.iter().all(is_harmless)
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
    fn whether_a_selection_tells_all_of_containers() {
        for (filters, excludes, all) in [
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
            assert_eq!(tells_all(&selection(filters, excludes)), all, "{filters:?} {excludes:?}");
        }
    }
}
