//! Merges rows into the requested order, with little memory.
//!
//! Blocks are nearly in the order of time. A row can be returned as soon as no unread block can contain an earlier one.
//! Blocks that go back in time, because a clock stepped or old days were imported, begin a new *run*. Runs are merged,
//! and each run is opened when its time comes.

use std::collections::VecDeque;

use rusqlite::Connection;

use super::planner::{AccessPath, QueryPlan};
use super::query::Order;
use crate::store::format::blocks::Block;
use crate::store::format::decode::EventRow;
use crate::store::ids::Seq;

/// Maximum time, in nanoseconds, by which a block may go back within its run; a larger step back begins a new run. The
/// clocks of two engines differ, and events found in a backlog arrive late.
const MAX_RUN_OVERLAP_NANO: i64 = 300_000_000_000;

/// Maximum number of blocks read in one step where an index finds the rows.
const MAX_BLOCKS_PER_STEP: usize = 16;

/// Matching rows of a plan, in order.
pub(super) struct MergedRows<'a> {
    plan: &'a QueryPlan,
    order: Order,
    /// Runs that are not opened yet; the next one is last.
    pending: Vec<Run>,
    active: Vec<Run>,
}

/// Blocks that are read one after the other.
struct Run {
    /// Remaining steps: each has a range of sequences, and the least key in that range and in all later ones.
    steps: VecDeque<ReadStep>,
    /// Rows that were read and not yet returned; the next one is last.
    rows: Vec<EventRow>,
}

struct ReadStep {
    first_seq: Seq,
    last_seq: Seq,
    min_key: i64,
}

impl<'a> MergedRows<'a> {
    pub(super) fn new(plan: &'a QueryPlan, order: Order) -> Self {
        let mut blocks: Vec<&Block> = plan.blocks.iter().collect();
        if order == Order::TimeReversed {
            blocks.reverse();
        }
        let mut runs: Vec<Vec<&Block>> = Vec::new();
        let mut run_max_key = i64::MIN;
        for block in blocks {
            let range = key_range(block, order);
            match runs.last_mut() {
                Some(run) if range.min >= run_max_key.saturating_sub(MAX_RUN_OVERLAP_NANO) => run.push(block),
                _ => {
                    run_max_key = i64::MIN;
                    runs.push(vec![block]);
                }
            }
            run_max_key = run_max_key.max(range.max);
        }
        let mut pending: Vec<Run> =
            runs.into_iter().map(|run| Run::new(&run, order, plan.access != AccessPath::Scan)).collect();
        // The run that begins first is popped from the end; among equal runs, the first one of the plan.
        pending.reverse();
        pending.sort_by_key(|run| std::cmp::Reverse(run.min_key()));
        MergedRows { plan, order, pending, active: Vec::new() }
    }

    pub(super) fn run_count(&self) -> usize {
        self.pending.len() + self.active.len()
    }

    /// Returns the next row.
    pub(super) fn next(&mut self, db: &Connection) -> rusqlite::Result<Option<EventRow>> {
        loop {
            let mut first: Option<(MergeKey, usize)> = None;
            for index in 0..self.active.len() {
                self.active[index].fill(db, self.plan, self.order)?;
                if let Some(row) = self.active[index].rows.last() {
                    let key = key(row, self.order);
                    if first.is_none_or(|(least, _)| key < least) {
                        first = Some((key, index));
                    }
                }
            }
            let comes_first = |run: &Run| first.is_none_or(|(key, _)| run.min_key() <= key.major);
            if self.pending.last().is_some_and(comes_first) {
                self.active.extend(self.pending.pop());
                continue;
            }
            let Some((_, at)) = first else { return Ok(None) };
            let row = self.active[at].rows.pop();
            if self.active[at].rows.is_empty() && self.active[at].steps.is_empty() {
                self.active.remove(at);
            }
            return Ok(row);
        }
    }
}

impl Run {
    fn new(blocks: &[&Block], order: Order, by_index: bool) -> Run {
        let mut steps: VecDeque<ReadStep> = VecDeque::new();
        let mut step_blocks = 1;
        let mut remaining = blocks;
        while !remaining.is_empty() {
            let (batch, tail) = remaining.split_at(remaining.len().min(step_blocks));
            remaining = tail;
            steps.push_back(ReadStep {
                first_seq: batch.iter().map(|s| s.first_seq).min().unwrap_or_default(),
                last_seq: batch.iter().map(|s| s.last_seq).max().unwrap_or_default(),
                min_key: batch.iter().map(|s| key_range(s, order).min).min().unwrap_or(i64::MAX),
            });
            if by_index {
                step_blocks = (step_blocks * 2).min(MAX_BLOCKS_PER_STEP);
            }
        }
        let mut min_key = i64::MAX;
        for step in steps.iter_mut().rev() {
            min_key = min_key.min(step.min_key);
            step.min_key = min_key;
        }
        Run { steps, rows: Vec::new() }
    }

    /// Returns the least key that an unread row can have.
    fn min_key(&self) -> i64 {
        self.steps.front().map_or(i64::MAX, |step| step.min_key)
    }

    /// Reads until the next row is certain or no row is left.
    fn fill(&mut self, db: &Connection, plan: &QueryPlan, order: Order) -> rusqlite::Result<()> {
        while !self.steps.is_empty() && self.rows.last().is_none_or(|row| key(row, order).major > self.min_key()) {
            let Some(step) = self.steps.pop_front() else { break };
            plan.read(db, step.first_seq, step.last_seq, &mut self.rows)?;
            self.rows.sort_unstable_by_key(|row| std::cmp::Reverse(key(row, order)));
        }
        Ok(())
    }
}

/// Sort key of a row. The major part is the time, or the sequence in the order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct MergeKey {
    major: i64,
    minor: i64,
}

/// Least and greatest major key in a block.
struct KeyRange {
    min: i64,
    max: i64,
}

fn key_range(block: &Block, order: Order) -> KeyRange {
    match order {
        Order::Time => KeyRange { min: block.min_nano.0, max: block.max_nano.0 },
        Order::TimeReversed => {
            KeyRange { min: block.max_nano.0.saturating_neg(), max: block.min_nano.0.saturating_neg() }
        }
        Order::Arrival => KeyRange { min: block.first_seq.0, max: block.last_seq.0 },
    }
}

fn key(row: &EventRow, order: Order) -> MergeKey {
    match order {
        Order::Time => MergeKey { major: row.time_nano.0, minor: row.seq.0 },
        Order::TimeReversed => MergeKey { major: row.time_nano.0.saturating_neg(), minor: -row.seq.0 },
        Order::Arrival => MergeKey { major: row.seq.0, minor: 0 },
    }
}
