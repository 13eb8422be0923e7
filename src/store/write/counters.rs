//! Counts what a recorder has stored since it started, for its metrics and its status.
//!
//! The number of counters is bounded, whatever types and actions engines send. This module does not know how the counts
//! are exposed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use crate::event::Event;
use crate::store::format::gap::GapReason;
use crate::store::format::source::SourceRow;
use crate::store::ids::{KindId, SourceId};

/// Maximum number of sources counted separately; a recorder has a few.
const MAX_SOURCES: usize = 64;

/// Maximum number of types and actions counted separately for one source; engines have about eighty.
const MAX_TYPE_ACTIONS: usize = 128;

/// Maximum length in bytes of a type or action that is counted separately.
const MAX_NAME_BYTES: usize = 64;

/// Name under which everything else is counted.
const OTHER: &str = "other";

/// Type of an event, and its action without the text after the colon.
pub type TypeAction = (String, String);

/// Counters of all sources, by name.
#[derive(Debug, Default)]
pub struct Counters {
    sources: Mutex<BTreeMap<String, SourceCounters>>,
}

/// Counters of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceCounters {
    /// ID of the engine; `None` for imports.
    pub engine_id: Option<String>,
    /// Number of events stored, by type and action.
    pub stored: BTreeMap<TypeAction, u64>,
    /// Number of events that arrived again after they were stored.
    pub duplicates: u64,
    /// Number of events stored that were missing from the engine's stream.
    pub recovered: u64,
    /// Number of health check events that were not stored because of `--no-healthchecks`.
    pub excluded_healthchecks: u64,
    /// Number of rejected lines.
    pub rejected: u64,
    /// Number of gaps, by reason. While an engine cannot be reached, its gap is not counted: it may be withdrawn.
    pub gaps: BTreeMap<&'static str, u64>,
    /// Time of the latest event stored, in nanoseconds since the epoch.
    pub last_nano: Option<i64>,
}

impl SourceCounters {
    /// Returns the number of events stored.
    pub fn events(&self) -> u64 {
        self.stored.values().sum()
    }
}

impl Counters {
    /// Adds a source with what the store contains of it, before its first event arrives.
    pub fn add_source(&self, row: &SourceRow) {
        let mut sources = self.sources();
        let source = source_entry(&mut sources, &row.name);
        source.engine_id.clone_from(&row.engine_id);
        source.last_nano = source.last_nano.max(row.last_nano);
    }

    /// Returns a copy of all counters.
    pub fn snapshot(&self) -> BTreeMap<String, SourceCounters> {
        self.sources().clone()
    }

    /// Adds what one commit stored.
    pub(super) fn add(&self, commit: CommitCounters) {
        let mut sources = self.sources();
        for delta in commit.sources.into_values() {
            let source = source_entry(&mut sources, &delta.name);
            source.engine_id = delta.engine_id.or(source.engine_id.take());
            source.duplicates += delta.duplicates;
            source.recovered += delta.recovered;
            source.excluded_healthchecks += delta.excluded_healthchecks;
            source.rejected += delta.rejected;
            source.last_nano = source.last_nano.max(delta.last_nano);
            for reason in delta.gaps {
                *source.gaps.entry(reason.as_str()).or_default() += 1;
            }
            for (kind, count) in delta.stored_by_kind.into_values() {
                let has_capacity = source.stored.len() < MAX_TYPE_ACTIONS;
                let kind =
                    if has_capacity || source.stored.contains_key(&kind) { kind } else { (OTHER.into(), OTHER.into()) };
                *source.stored.entry(kind).or_default() += count;
            }
        }
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<String, SourceCounters>> {
        self.sources.lock().expect("no thread panics while it holds this lock")
    }
}

/// Returns the counters of a source, or those of [`OTHER`] once there are too many sources.
fn source_entry<'a>(sources: &'a mut BTreeMap<String, SourceCounters>, name: &str) -> &'a mut SourceCounters {
    let name = if sources.len() < MAX_SOURCES || sources.contains_key(name) { name } else { OTHER };
    sources.entry(name.into()).or_default()
}

/// Changes to the counters by one commit, by the row ID of the source.
#[derive(Debug, Default)]
pub(super) struct CommitCounters {
    sources: HashMap<SourceId, SourceDelta>,
}

/// Changes to the counters of one source by one commit.
#[derive(Debug)]
pub(super) struct SourceDelta {
    name: String,
    engine_id: Option<String>,
    /// By the ID of the event kind, which is cheap to compare.
    stored_by_kind: HashMap<KindId, (TypeAction, u64)>,
    pub(super) duplicates: u64,
    pub(super) recovered: u64,
    pub(super) excluded_healthchecks: u64,
    pub(super) rejected: u64,
    gaps: Vec<GapReason>,
    last_nano: Option<i64>,
}

impl CommitCounters {
    /// Returns the changes for a source.
    pub(super) fn source(&mut self, id: SourceId, name: &str, engine_id: Option<&str>) -> &mut SourceDelta {
        self.sources.entry(id).or_insert_with(|| SourceDelta {
            name: name.into(),
            engine_id: engine_id.map(Into::into),
            stored_by_kind: HashMap::new(),
            duplicates: 0,
            recovered: 0,
            excluded_healthchecks: 0,
            rejected: 0,
            gaps: Vec::new(),
            last_nano: None,
        })
    }
}

impl SourceDelta {
    /// Counts a stored event of this event kind.
    pub(super) fn count_event(&mut self, kind_id: KindId, event: &Event<'_>) {
        self.stored_by_kind.entry(kind_id).or_insert_with(|| (type_action(event), 0)).1 += 1;
        self.last_nano = self.last_nano.max(Some(event.time_nano));
    }

    /// Counts a gap that is new or has a new reason.
    pub(super) fn count_gap(&mut self, reason: GapReason) {
        if reason != GapReason::Disconnected {
            self.gaps.push(reason);
        }
    }
}

fn type_action(event: &Event<'_>) -> TypeAction {
    let action = event.action.split_once(':').map_or(&*event.action, |(action, _)| action);
    if event.kind.len() > MAX_NAME_BYTES || action.len() > MAX_NAME_BYTES {
        return (OTHER.into(), OTHER.into());
    }
    (event.kind.to_string(), action.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_events(counters: &Counters, source: i64, kinds: impl Iterator<Item = (String, String)>) {
        let mut commit = CommitCounters::default();
        for (n, (kind, action)) in kinds.enumerate() {
            let line = format!(r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"a"}},"timeNano":{n}}}"#);
            let event = Event::parse(line.as_bytes()).unwrap();
            commit.source(SourceId(source), &format!("s{source}"), None).count_event(KindId(n as i64), &event);
        }
        counters.add(commit);
    }

    #[test]
    fn actions_are_counted_without_the_text_after_the_colon() {
        let counters = Counters::default();
        let container_action = |action: &str| ("container".to_owned(), action.to_owned());
        count_events(
            &counters,
            1,
            [container_action("exec_start: ls"), container_action("exec_start: id"), container_action("start")]
                .into_iter(),
        );
        let counted = &counters.snapshot()["s1"];
        assert_eq!(
            counted.stored,
            BTreeMap::from([(container_action("exec_start"), 2), (container_action("start"), 1)])
        );
        assert_eq!(counted.last_nano, Some(2));
    }

    #[test]
    fn the_number_of_counters_is_bounded() {
        let counters = Counters::default();
        count_events(&counters, 0, (0..1000).map(|n| ("t".into(), format!("a{n}"))));
        count_events(&counters, 0, std::iter::once(("t".repeat(65), "a".into())));
        for source in 1..100 {
            count_events(&counters, source, std::iter::once(("t".into(), "a".into())));
        }
        let all = counters.snapshot();
        assert_eq!(all.len(), MAX_SOURCES + 1);
        assert_eq!(all["s0"].stored.len(), MAX_TYPE_ACTIONS + 1);
        assert_eq!((all["s0"].events(), all["s0"].stored[&(OTHER.into(), OTHER.into())]), (1001, 1001 - 128));
        assert_eq!(all[OTHER].events(), 100 - MAX_SOURCES as u64);
    }
}
