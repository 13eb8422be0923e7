//! Blocks of consecutive events, each with its minimum and maximum time, in place of an index on time.
//!
//! Events arrive nearly in the order of time. So a period covers few blocks, and the event of one instant is found in
//! one block. A clock that steps, a second engine or an import of old days only makes blocks overlap.

use std::collections::BTreeSet;

use crate::store::ids::{KindId, Nanos, Seq};
use rusqlite::{Connection, params};

/// Number of events in a block.
pub(in crate::store) const BLOCK_EVENTS: i64 = 4_096;

/// Maximum number of event kinds that are listed for a block. A block with more of them may contain any kind.
const MAX_BLOCK_KINDS: usize = 256;

/// Number of blocks whose instants are cached for lookups.
const CACHED_BLOCKS: usize = 4;

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Block {
    pub(in crate::store) first_seq: Seq,
    pub(in crate::store) last_seq: Seq,
    pub(in crate::store) events: i64,
    pub(in crate::store) min_nano: Nanos,
    pub(in crate::store) max_nano: Nanos,
}

/// All blocks, and the event kinds of the last one.
#[derive(Debug, Default)]
pub(in crate::store) struct BlockIndex {
    blocks: Vec<Block>,
    /// Event kinds of the last block; `None` if they are too many.
    last_kinds: Option<BTreeSet<KindId>>,
    /// Index of the first block that is not stored in its current state.
    first_unstored: Option<usize>,
    /// Blocks that were completed since the last commit.
    completed: Vec<CompletedBlock>,
    /// Blocks searched last, the latest one first.
    searched: Vec<SearchedBlock>,
}

/// Event kinds of a block that was completed; `None` if they are too many.
#[derive(Debug)]
struct CompletedBlock {
    index: usize,
    kinds: Option<BTreeSet<KindId>>,
}

/// Instants of the events of a block.
#[derive(Debug)]
struct SearchedBlock {
    index: usize,
    events: Vec<EventInstant>,
}

/// Instant of one event.
#[derive(Debug)]
struct EventInstant {
    time_nano: Nanos,
    seq: Seq,
}

impl BlockIndex {
    pub(in crate::store) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let blocks = load_after(db, Seq(0))?;
        let kinds_json: Option<String> = match blocks.last() {
            Some(last) => db
                .prepare_cached("SELECT shapes FROM stretch WHERE first_seq = ?1")?
                .query_row([last.first_seq], |row| row.get(0))?,
            None => None,
        };
        let last_kinds = kinds_json.map(|json| parse_ids(&json).collect());
        Ok(BlockIndex { blocks, last_kinds, ..BlockIndex::default() })
    }

    /// Adds an event to the last block, or to a new one if that is full.
    pub(in crate::store) fn add(&mut self, seq: Seq, time_nano: Nanos, kind_id: KindId) {
        let is_full = self.blocks.last().is_none_or(|last| last.events >= BLOCK_EVENTS);
        if is_full {
            if let Some(index) = self.blocks.len().checked_sub(1) {
                self.completed.push(CompletedBlock { index, kinds: self.last_kinds.take() });
            }
            self.last_kinds = Some(BTreeSet::new());
            self.blocks.push(Block {
                first_seq: seq,
                last_seq: seq,
                events: 0,
                min_nano: time_nano,
                max_nano: time_nano,
            });
        }
        let index = self.blocks.len() - 1;
        let last = &mut self.blocks[index];
        last.last_seq = seq;
        last.events += 1;
        last.min_nano = last.min_nano.min(time_nano);
        last.max_nano = last.max_nano.max(time_nano);
        self.last_kinds =
            self.last_kinds.take().filter(|kinds| kinds.len() < MAX_BLOCK_KINDS || kinds.contains(&kind_id));
        if let Some(kinds) = &mut self.last_kinds {
            kinds.insert(kind_id);
        }
        self.first_unstored = Some(self.first_unstored.map_or(index, |first| first.min(index)));
        if let Some(searched) = self.searched.iter_mut().find(|searched| searched.index == index) {
            searched.events.push(EventInstant { time_nano, seq });
        }
    }

    /// Stores the blocks that changed.
    pub(in crate::store) fn store(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let Some(first) = self.first_unstored.take() else { return Ok(()) };
        let mut upsert = db.prepare_cached(
            "INSERT INTO stretch (first_seq, last_seq, events, min_nano, max_nano, shapes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (first_seq) DO UPDATE
             SET last_seq = ?2, events = ?3, min_nano = ?4, max_nano = ?5, shapes = ?6",
        )?;
        let last = self.blocks.len() - 1;
        for index in first..=last {
            let kinds = match self.completed.iter().find(|completed| completed.index == index) {
                Some(completed) => completed.kinds.as_ref(),
                None => self.last_kinds.as_ref(),
            };
            let kinds_json =
                kinds.map(|kinds| format!("[{}]", kinds.iter().map(KindId::to_string).collect::<Vec<_>>().join(",")));
            let s = &self.blocks[index];
            upsert.execute(params![s.first_seq, s.last_seq, s.events, s.min_nano, s.max_nano, kinds_json])?;
        }
        self.completed.clear();
        Ok(())
    }

    /// Returns the sequences of the events at an instant.
    pub(in crate::store) fn seqs_at(&mut self, db: &Connection, time_nano: Nanos) -> rusqlite::Result<Vec<Seq>> {
        let mut found = Vec::new();
        for index in (0..self.blocks.len()).rev() {
            let block = &self.blocks[index];
            if !(block.min_nano..=block.max_nano).contains(&time_nano) {
                continue;
            }
            let events = self.instants(db, index)?;
            found.extend(events.iter().filter(|event| event.time_nano == time_nano).map(|event| event.seq));
        }
        Ok(found)
    }

    /// Returns the instants of the events of one block, including events that were just added.
    fn instants(&mut self, db: &Connection, index: usize) -> rusqlite::Result<&[EventInstant]> {
        let searched = match self.searched.iter().position(|searched| searched.index == index) {
            Some(position) => self.searched.remove(position),
            None => {
                let Block { first_seq, last_seq, .. } = self.blocks[index];
                let mut statement =
                    db.prepare_cached("SELECT time_nano, seq FROM event WHERE seq BETWEEN ?1 AND ?2")?;
                let events = statement.query_map([first_seq, last_seq], |row| {
                    Ok(EventInstant { time_nano: row.get(0)?, seq: row.get(1)? })
                })?;
                SearchedBlock { index, events: events.collect::<rusqlite::Result<_>>()? }
            }
        };
        self.searched.truncate(CACHED_BLOCKS - 1);
        self.searched.insert(0, searched);
        Ok(&self.searched[0].events)
    }
}

/// Returns the stored blocks in order, starting with the block of the sequence after `after`.
pub(in crate::store) fn load_after(db: &Connection, after: Seq) -> rusqlite::Result<Vec<Block>> {
    let mut statement = db.prepare_cached(
        "SELECT first_seq, last_seq, events, min_nano, max_nano FROM stretch
         WHERE first_seq >= ifnull((SELECT max(first_seq) FROM stretch WHERE first_seq <= ?1 + 1), 0)
         ORDER BY first_seq",
    )?;
    let rows = statement.query_map([after], |row| {
        Ok(Block {
            first_seq: row.get(0)?,
            last_seq: row.get(1)?,
            events: row.get(2)?,
            min_nano: row.get(3)?,
            max_nano: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// Parses a JSON array of row IDs.
pub(in crate::store) fn parse_ids<Id: From<i64>>(json: &str) -> impl Iterator<Item = Id> {
    json.split(['[', ',', ']']).filter_map(|number| number.parse::<i64>().ok()).map(Id::from)
}
