//! Checks the blocks against their events: a query skips a block by its times and its event kinds.

use std::collections::{BTreeSet, VecDeque};

use rusqlite::Connection;

use super::fault::{Fault, FaultLog};
use crate::store::format::blocks::{self, Block, parse_ids};
use crate::store::format::decode::EventRow;
use crate::store::ids::{KindId, Seq};

/// Blocks that are checked while their events are read in order.
#[derive(Default)]
pub(super) struct BlockCheck {
    /// Blocks whose events were not reached yet.
    remaining: VecDeque<Block>,
    current: Option<Block>,
    /// Events read of the current block: their number and their kinds.
    events: i64,
    kinds: BTreeSet<KindId>,
}

impl BlockCheck {
    pub(super) fn load(db: &Connection) -> rusqlite::Result<BlockCheck> {
        Ok(BlockCheck { remaining: blocks::load_after(db, Seq(0))?.into(), ..BlockCheck::default() })
    }

    /// Checks that an event is in a block, and that its time is within the block's range.
    pub(super) fn check_event(&mut self, db: &Connection, row: &EventRow, faults: &mut FaultLog<'_>) {
        while self.current.as_ref().is_none_or(|block| block.last_seq < row.seq) {
            self.finish_current(db, faults);
            match self.remaining.pop_front() {
                Some(block) => self.current = Some(block),
                None => break,
            }
        }
        let Some(block) = self.current.as_ref().filter(|block| block.first_seq <= row.seq) else {
            return faults.report_row("event", row.seq.0, "no block contains the event");
        };
        if !(block.min_nano..=block.max_nano).contains(&row.time_nano) {
            let problem = format!("the time of event {} is outside the range of the block", row.seq);
            faults.report_row("stretch", block.first_seq.0, problem);
        }
        self.events += 1;
        self.kinds.insert(row.kind_id);
    }

    /// Checks the last block, and reports blocks without events.
    pub(super) fn finish(&mut self, db: &Connection, faults: &mut FaultLog<'_>) {
        self.finish_current(db, faults);
        for block in std::mem::take(&mut self.remaining) {
            let problem = "the block has no events".into();
            faults.report(Fault::Row { table: "stretch", row: block.first_seq.0, problem });
        }
    }

    fn finish_current(&mut self, db: &Connection, faults: &mut FaultLog<'_>) {
        let (events, kinds) = (std::mem::take(&mut self.events), std::mem::take(&mut self.kinds));
        let Some(block) = self.current.take() else { return };
        let row = block.first_seq.0;
        if events != block.events {
            let problem = format!("the row counts {} events, but the block has {events}", block.events);
            faults.report_row("stretch", row, problem);
        }
        let kinds_json: rusqlite::Result<Option<String>> =
            db.query_row("SELECT shapes FROM stretch WHERE first_seq = ?1", [row], |row| row.get(0));
        if let Ok(Some(kinds_json)) = kinds_json
            && !kinds.is_subset(&parse_ids(&kinds_json).collect())
        {
            faults.report_row("stretch", row, "the row does not list all event kinds of the block");
        }
    }
}
