//! Status of the writer, which other threads read: its progress, and the chain head after the last commit.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::store::format::chain::Head;

/// Progress of the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Number of events that are not yet stored.
    pub events: usize,
    /// Size of these events, in bytes.
    pub bytes: usize,
    /// Time at which the oldest delivery that is not yet stored was read, in nanoseconds since the epoch.
    pub oldest_nano: Option<i64>,
    /// Time since the writer began its current work; `None` while it is idle.
    pub busy_for: Option<Duration>,
    /// True if the last commit failed and will be retried.
    pub failing: bool,
}

/// Deliveries that are not yet stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// Time at which the oldest delivery that the writer has not taken was read.
    pub(super) oldest_nano: Option<i64>,
}

/// Status of the writer. The writer changes it, and any thread reads it.
#[derive(Debug, Default)]
pub(super) struct WriterStatus {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    head: Option<Head>,
    /// Time at which the oldest of the deliveries being written was read.
    in_flight_nano: Option<i64>,
    /// Instant at which the writer began its current work.
    busy_since: Option<Instant>,
    failing: bool,
}

impl WriterStatus {
    /// Returns the progress of the writer, which has not yet stored `pending`.
    pub(super) fn progress(&self, pending: Pending) -> Progress {
        let state = self.state();
        Progress {
            events: pending.events,
            bytes: pending.bytes,
            oldest_nano: state.in_flight_nano.or(pending.oldest_nano),
            busy_for: state.busy_since.map(|since| since.elapsed()),
            failing: state.failing,
        }
    }

    /// Chain head after the last commit; `None` before the first one.
    pub(super) fn head(&self) -> Option<Head> {
        self.state().head
    }

    /// Marks the writer as waiting for work.
    pub(super) fn mark_idle(&self) {
        self.state().busy_since = None;
    }

    /// Marks the writer as busy with something else than deliveries.
    pub(super) fn mark_busy(&self) {
        self.state().busy_since = Some(Instant::now());
    }

    /// Marks the writer as writing deliveries, of which the oldest was read at `in_flight_nano`.
    pub(super) fn mark_writing(&self, in_flight_nano: Option<i64>) {
        let mut state = self.state();
        (state.busy_since, state.in_flight_nano) = (Some(Instant::now()), in_flight_nano);
    }

    /// Marks the current commit as failed; the writer will retry it.
    pub(super) fn mark_retrying(&self) {
        let mut state = self.state();
        (state.busy_since, state.failing) = (Some(Instant::now()), true);
    }

    /// Marks the current commit as done; `head` is the chain head after it. The writer may have more work.
    pub(super) fn mark_stored(&self, head: Head) {
        let mut state = self.state();
        state.head = Some(head);
        (state.busy_since, state.in_flight_nano, state.failing) = (Some(Instant::now()), None, false);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds this lock")
    }
}
