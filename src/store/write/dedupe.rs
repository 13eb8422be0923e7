//! Finds events that are already stored: events of one source that may be the same have the same time.

use std::collections::HashSet;

use rusqlite::Connection;

use crate::cache::GenerationalCache;
use crate::event::{Event, is_redacted, may_be_same};
use crate::store::format::blocks::BlockIndex;
use crate::store::format::decode::{EVENT_COLUMNS, EventDecoder, EventRow};
use crate::store::ids::{Nanos, SourceId};

/// Number of instants for which the stored events of a source are cached.
const INSTANT_CACHE_SIZE: usize = 64;

/// Stored events of one source, for the instants looked up last.
#[derive(Debug)]
pub(super) struct StoredInstants {
    by_time: GenerationalCache<Nanos, InstantEvents>,
}

/// Stored events of a source at one instant.
#[derive(Debug, Default)]
struct InstantEvents {
    digests: HashSet<[u8; 16]>,
    /// True if a part of one of them was redacted.
    has_redacted: bool,
}

impl InstantEvents {
    fn add(&mut self, digest: [u8; 16], redacted: bool) {
        self.digests.insert(digest);
        self.has_redacted |= redacted;
    }
}

impl Default for StoredInstants {
    fn default() -> Self {
        StoredInstants { by_time: GenerationalCache::new(INSTANT_CACHE_SIZE) }
    }
}

impl StoredInstants {
    /// Returns true if no event like this one is stored for the source; the event then counts as stored.
    pub(super) fn insert_if_new(&mut self, lookup: &mut Lookup<'_>, event: &Event<'_>) -> rusqlite::Result<bool> {
        let time = Nanos(event.time_nano);
        if self.by_time.get(&time).is_none() {
            let mut instant = InstantEvents::default();
            lookup.for_each_at(time, |stored| {
                instant.add(stored.identity().digest, is_redacted(stored));
            })?;
            self.by_time.insert(time, instant);
        }
        let instant = self.by_time.get_mut(&time).expect("the instant was inserted above");
        let (is_first, digest, redacted) = (instant.digests.is_empty(), event.identity().digest, is_redacted(event));
        if instant.digests.contains(&digest) {
            return Ok(false);
        }
        if !is_first && (instant.has_redacted || redacted) {
            // A part of one event may have been redacted that was not redacted in the other.
            let mut is_duplicate = false;
            lookup.for_each_at(time, |stored| is_duplicate |= may_be_same(stored, event))?;
            if is_duplicate {
                return Ok(false);
            }
        }
        instant.add(digest, redacted);
        Ok(true)
    }
}

/// Reads the stored events of one source.
pub(super) struct Lookup<'a> {
    pub(super) db: &'a Connection,
    pub(super) blocks: &'a mut BlockIndex,
    pub(super) decoder: &'a mut EventDecoder,
    pub(super) source_id: SourceId,
}

impl Lookup<'_> {
    /// Calls `visit` with the stored events of the source at an instant.
    fn for_each_at(&mut self, time: Nanos, mut visit: impl FnMut(&Event<'_>)) -> rusqlite::Result<()> {
        let mut line = Vec::new();
        for seq in self.blocks.seqs_at(self.db, time)? {
            let row = self
                .db
                .prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM event WHERE seq = ?1"))?
                .query_row([seq], EventRow::read)?;
            if self.decoder.source(self.db, &row)? == self.source_id {
                self.decoder.decode(self.db, &row, &mut line)?;
                if let Ok(stored) = Event::parse(&line) {
                    visit(&stored);
                }
            }
        }
        Ok(())
    }
}
