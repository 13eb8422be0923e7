//! Rows in order: read stretch by stretch, given out by time, with little in memory.
//!
//! A stretch is nearly in the order of time, and a row may be given out as soon as no stretch still to be read can
//! hold an earlier one. Stretches that go back in time (the clock stepped, old days were imported) begin a new *run*;
//! runs are merged, each opened when its time comes.

use std::collections::VecDeque;

use rusqlite::Connection;

use super::Order;
use super::lines::EventRow;
use super::plan::{Access, Plan};
use super::stretch::Stretch;

/// How far back in time a stretch may reach into what its run has given already without beginning a new run, in
/// nanoseconds: two engines' clocks, what was found in an engine's memory.
const OVERLAP: i64 = 300_000_000_000;

/// How many stretches are read at once where an index finds the rows.
const AT_ONCE: usize = 16;

/// The wanted rows of a plan, in order.
pub(super) struct Ordered<'a> {
    plan: &'a Plan,
    order: Order,
    /// Runs whose time has not come, the next one last.
    later: Vec<Run>,
    open: Vec<Run>,
}

/// Stretches that are read one after the other.
struct Run {
    /// What is still to be read: from and to which sequence, and the least key in it and all after it.
    steps: VecDeque<Step>,
    /// What is read and not given out; the next one last.
    rows: Vec<EventRow>,
}

struct Step {
    first_seq: i64,
    last_seq: i64,
    floor: i64,
}

impl<'a> Ordered<'a> {
    pub(super) fn new(plan: &'a Plan, order: Order) -> Self {
        let mut stretches: Vec<&Stretch> = plan.stretches.iter().collect();
        if order == Order::TimeReversed {
            stretches.reverse();
        }
        let mut runs: Vec<Vec<&Stretch>> = Vec::new();
        let mut newest = i64::MIN;
        for stretch in stretches {
            let (least, greatest) = keys(stretch, order);
            match runs.last_mut() {
                Some(run) if least >= newest.saturating_sub(OVERLAP) => run.push(stretch),
                _ => {
                    newest = i64::MIN;
                    runs.push(vec![stretch]);
                }
            }
            newest = newest.max(greatest);
        }
        let mut later: Vec<Run> =
            runs.into_iter().map(|run| Run::new(&run, order, plan.access != Access::Scan)).collect();
        // The one that begins first is taken from the end; of equal ones, the one read first.
        later.reverse();
        later.sort_by_key(|run| std::cmp::Reverse(run.floor()));
        Ordered { plan, order, later, open: Vec::new() }
    }

    pub(super) fn runs(&self) -> usize {
        self.later.len() + self.open.len()
    }

    /// The next row.
    pub(super) fn next(&mut self, db: &Connection) -> rusqlite::Result<Option<EventRow>> {
        loop {
            let mut first: Option<((i64, i64), usize)> = None;
            for at in 0..self.open.len() {
                self.open[at].fill(db, self.plan, self.order)?;
                if let Some(row) = self.open[at].rows.last() {
                    let key = key(row, self.order);
                    if first.is_none_or(|(least, _)| key < least) {
                        first = Some((key, at));
                    }
                }
            }
            let comes_first = |run: &Run| first.is_none_or(|((time, _), _)| run.floor() <= time);
            if self.later.last().is_some_and(comes_first) {
                self.open.extend(self.later.pop());
                continue;
            }
            let Some((_, at)) = first else { return Ok(None) };
            let row = self.open[at].rows.pop();
            if self.open[at].rows.is_empty() && self.open[at].steps.is_empty() {
                self.open.remove(at);
            }
            return Ok(row);
        }
    }
}

impl Run {
    fn new(stretches: &[&Stretch], order: Order, by_index: bool) -> Run {
        let mut steps: VecDeque<Step> = VecDeque::new();
        let mut at_once = 1;
        let mut rest = stretches;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(at_once));
            rest = later;
            steps.push_back(Step {
                first_seq: now.iter().map(|s| s.first_seq).min().unwrap_or(0),
                last_seq: now.iter().map(|s| s.last_seq).max().unwrap_or(0),
                floor: now.iter().map(|s| keys(s, order).0).min().unwrap_or(i64::MAX),
            });
            if by_index {
                at_once = (at_once * 2).min(AT_ONCE);
            }
        }
        let mut floor = i64::MAX;
        for step in steps.iter_mut().rev() {
            floor = floor.min(step.floor);
            step.floor = floor;
        }
        Run { steps, rows: Vec::new() }
    }

    /// The least key that a row still to be read can have.
    fn floor(&self) -> i64 {
        self.steps.front().map_or(i64::MAX, |step| step.floor)
    }

    /// Reads until the next row is known, or there is none.
    fn fill(&mut self, db: &Connection, plan: &Plan, order: Order) -> rusqlite::Result<()> {
        while !self.steps.is_empty() && self.rows.last().is_none_or(|row| key(row, order).0 > self.floor()) {
            let Some(step) = self.steps.pop_front() else { break };
            plan.read(db, step.first_seq, step.last_seq, &mut self.rows)?;
            self.rows.sort_unstable_by_key(|row| std::cmp::Reverse(key(row, order)));
        }
        Ok(())
    }
}

/// The least and the greatest key in a stretch. In the order of arrival the key is the sequence.
fn keys(stretch: &Stretch, order: Order) -> (i64, i64) {
    match order {
        Order::Time => (stretch.min_nano, stretch.max_nano),
        Order::TimeReversed => (stretch.max_nano.saturating_neg(), stretch.min_nano.saturating_neg()),
        Order::Arrival => (stretch.first_seq, stretch.last_seq),
    }
}

fn key(row: &EventRow, order: Order) -> (i64, i64) {
    match order {
        Order::Time => (row.time_nano, row.seq),
        Order::TimeReversed => (row.time_nano.saturating_neg(), -row.seq),
        Order::Arrival => (row.seq, 0),
    }
}
