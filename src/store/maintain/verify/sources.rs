//! Checks the rows of the sources against their entries: names, counts and times.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::fault::{Fault, FaultLog, readable};
use crate::store::format::chain::EntryKind;
use crate::store::format::source::{self, SourceRow};
use crate::store::ids::{Nanos, SourceId};

/// Sources, each as recorded in its row and as computed from its entries.
#[derive(Default)]
pub(super) struct SourceCheck(BTreeMap<SourceId, Source>);

struct Source {
    recorded: SourceRow,
    computed: SourceStats,
}

/// Values in the row of a source that its entries determine.
#[derive(Debug, Default, PartialEq, Eq)]
struct SourceStats {
    name: Option<String>,
    events: u64,
    rejected: u64,
    first_nano: Option<i64>,
    last_nano: Option<i64>,
}

impl SourceCheck {
    /// Reads the rows. If they cannot be read, the rows that were read before stay.
    pub(super) fn load(&mut self, db: &Connection, faults: &mut FaultLog<'_>) -> rusqlite::Result<()> {
        match readable(source::all(db))? {
            Some(sources) => {
                let sources = sources.into_iter();
                let unchecked = |recorded: SourceRow| Source { recorded, computed: SourceStats::default() };
                self.0 = sources.map(|recorded| (SourceId(recorded.id), unchecked(recorded))).collect();
            }
            None => faults.report(Fault::Schema("the table source cannot be read".into())),
        }
        Ok(())
    }

    /// Returns the name of a source in the chain; an empty one for an entry without a source.
    pub(super) fn chain_name(&self, id: SourceId) -> &str {
        self.0.get(&id).map_or("", |source| source.recorded.chain_name())
    }

    /// Counts an event.
    pub(super) fn count_event(&mut self, id: SourceId, time_nano: Nanos) {
        if let Some(Source { computed, .. }) = self.0.get_mut(&id) {
            computed.events += 1;
            let time = time_nano.0;
            computed.first_nano = Some(computed.first_nano.map_or(time, |first| first.min(time)));
            computed.last_nano = Some(computed.last_nano.map_or(time, |last| last.max(time)));
        }
    }

    /// Counts an entry that is not an event.
    pub(super) fn count_entry(&mut self, id: SourceId, kind: EntryKind, fields: &[Vec<u8>]) {
        if let Some(Source { computed, .. }) = self.0.get_mut(&id) {
            match kind {
                EntryKind::SourceName => computed.name = Some(String::from_utf8_lossy(&fields[0]).into_owned()),
                EntryKind::Rejected => computed.rejected += 1,
                EntryKind::Event | EntryKind::Gap | EntryKind::Checkpoint | EntryKind::Healthcheck => {}
            }
        }
    }

    /// Checks that the rows match what was counted.
    pub(super) fn finish(&mut self, faults: &mut FaultLog<'_>) {
        for (id, Source { recorded, computed }) in std::mem::take(&mut self.0) {
            // Beyond a limit, rejected lines are counted but not stored.
            let rejected = recorded.rejected.min(computed.rejected);
            let SourceRow { name, events, first_nano, last_nano, .. } = recorded;
            let recorded = SourceStats { name: Some(name), events, rejected, first_nano, last_nano };
            if recorded.name != computed.name {
                let (recorded, computed) = (recorded.name.unwrap_or_default(), computed.name.unwrap_or_default());
                let problem = format!("the name is '{recorded}', but the last stored name is '{computed}'");
                faults.report_row("source", id.0, problem);
            } else if recorded != computed {
                let problem = "the counts or times do not match the events and rejected lines";
                faults.report_row("source", id.0, problem);
            }
        }
    }
}
