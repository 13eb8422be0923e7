//! What was read and is not yet stored: bounded in bytes, and never a reason for the reader to wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::chain::Head;
use super::counters::Counters;
use super::writer::Delivery;

/// Fewer events than these may wait a little for more to come.
const FEW: usize = 1000;

/// The queue between the streams and the writer.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    /// Signalled to the writer: something came, or nothing more will.
    filled: Condvar,
    /// Signalled to the streams: something was stored.
    drained: Notify,
    /// The same, to a source that waits.
    emptied: Condvar,
    budget: usize,
    /// Whether there is somebody to tell when the store cannot be written, rather than wait for it for ever.
    attended: bool,
    /// Where what is stored is counted, if anybody wants to know.
    counters: Option<Arc<Counters>>,
}

/// How the writer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many events are not yet stored.
    pub events: usize,
    /// How many bytes these hold.
    pub bytes: usize,
    /// When the first of what is not yet stored was read, in nanoseconds since the epoch.
    pub oldest_nano: Option<i64>,
    /// How long the writer has been at what it does now; `None` while it has nothing to do.
    pub busy: Option<Duration>,
    /// Whether what it did last failed, and is to be tried again.
    pub failing: bool,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Delivery>,
    /// Bytes and events that are waiting or with the writer.
    bytes: usize,
    events: usize,
    closed: bool,
    head: Option<Head>,
    /// When what the writer has was read, and since when it is at it.
    taken_nano: Option<i64>,
    busy: Option<Instant>,
    failing: bool,
}

/// The queue holds as much as it may; the delivery comes back.
#[derive(Debug)]
pub struct Full(pub Box<Delivery>);

impl Queue {
    /// A queue that holds up to `budget` bytes, for a service: a store that cannot be written is waited for.
    pub fn new(budget: usize) -> Self {
        Queue { attended: false, ..Queue::attended(budget) }
    }

    /// The same for a command that somebody waits for: it fails if the store cannot be written for long.
    pub fn attended(budget: usize) -> Self {
        Queue {
            attended: true,
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Notify::new(),
            emptied: Condvar::new(),
            budget,
            counters: None,
        }
    }

    /// The same, and what is stored is counted there.
    #[must_use]
    pub fn counting(self, counters: Arc<Counters>) -> Self {
        Queue { counters: Some(counters), ..self }
    }

    /// Where what is stored is counted.
    pub(super) fn counters(&self) -> Option<&Counters> {
        self.counters.as_deref()
    }

    /// Hands a delivery to the writer, at once or not at all. One that alone is over the budget is taken when the
    /// queue is empty.
    ///
    /// # Errors
    /// [`Full`].
    pub fn push(&self, delivery: Delivery) -> Result<(), Full> {
        let mut state = self.state();
        if state.bytes > 0 && state.bytes + delivery.bytes() > self.budget {
            return Err(Full(Box::new(delivery)));
        }
        let (idle, may_wait) = (state.waiting.is_empty(), self.may_wait(&state));
        state.bytes += delivery.bytes();
        state.events += delivery.len();
        state.waiting.push_back(delivery);
        // A writer that waits for more is not to be woken for each.
        if idle || may_wait && !self.may_wait(&state) {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Hands a delivery to the writer, and waits for room if there is none: for sources that can wait. Whether the
    /// writer takes it.
    pub fn push_waiting(&self, delivery: Delivery) -> bool {
        let mut state = self.state();
        while state.bytes > 0 && state.bytes + delivery.bytes() > self.budget && !state.closed {
            state = self.emptied.wait(state).expect("no holder of this lock panics");
        }
        if state.closed {
            return false;
        }
        drop(state);
        self.push(delivery).is_ok()
    }

    /// Waits until the queue is at most half full.
    pub async fn room(&self) {
        loop {
            let mut drained = std::pin::pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.state().bytes <= self.budget / 2 {
                return;
            }
            drained.await;
        }
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
        self.emptied.notify_all();
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Whether a store that cannot be written is given up after a while.
    pub(super) fn gives_up(&self) -> bool {
        self.attended || self.is_closed()
    }

    /// How many events are not yet stored.
    pub fn buffered(&self) -> usize {
        self.state().events
    }

    /// How the writer is doing.
    pub fn progress(&self) -> Progress {
        let state = self.state();
        Progress {
            events: state.events,
            bytes: state.bytes,
            oldest_nano: state.taken_nano.or_else(|| Some(state.waiting.front()?.received_nano)),
            busy: state.busy.map(|since| since.elapsed()),
            failing: state.failing,
        }
    }

    /// The writer could not store what it has, and tries again.
    pub(super) fn trying_again(&self) {
        let mut state = self.state();
        (state.busy, state.failing) = (Some(Instant::now()), true);
    }

    /// Waits for deliveries and takes all of them, as far as they hold no more than `events` events (but one
    /// delivery at least); `None` once the queue is closed and empty. A few are not taken before `when`, for more may
    /// come. They count as buffered until [`stored`](Self::stored). Where nothing comes until `idle`, it takes none.
    pub(super) fn take(&self, events: usize, when: Instant, idle: Option<Instant>) -> Option<Vec<Delivery>> {
        let mut state = self.state();
        state.busy = None;
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            state = match idle.map(|idle| idle.saturating_duration_since(Instant::now())) {
                None => self.filled.wait(state).expect("no holder of this lock panics"),
                Some(Duration::ZERO) => {
                    state.busy = Some(Instant::now());
                    return Some(Vec::new());
                }
                Some(left) => self.filled.wait_timeout(state, left).expect("no holder of this lock panics").0,
            };
        }
        while !state.closed && self.may_wait(&state) {
            let left = when.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.filled.wait_timeout(state, left).expect("no holder of this lock panics").0;
        }
        let mut taken: Vec<Delivery> = Vec::new();
        let mut count = 0;
        while let Some(next) = state.waiting.front() {
            count += next.len();
            if !taken.is_empty() && count > events {
                break;
            }
            taken.extend(state.waiting.pop_front());
        }
        state.busy = Some(Instant::now());
        state.taken_nano = taken.first().map(|delivery| delivery.received_nano);
        Some(taken)
    }

    /// The end of the hash chain after what was stored last; `None` before anything was.
    pub fn head(&self) -> Option<Head> {
        self.state().head
    }

    /// These deliveries are stored, and with them the chain ends so.
    pub(super) fn stored(&self, deliveries: &[Delivery], head: Head) {
        let mut state = self.state();
        state.head = Some(head);
        (state.busy, state.taken_nano, state.failing) = (Some(Instant::now()), None, false);
        state.bytes -= deliveries.iter().map(Delivery::bytes).sum::<usize>();
        state.events -= deliveries.iter().map(Delivery::len).sum::<usize>();
        drop(state);
        self.emptied.notify_all();
        self.drained.notify_waiters();
    }

    /// Whether there is so little that it may wait for more to come.
    fn may_wait(&self, state: &State) -> bool {
        state.events < FEW && state.bytes <= self.budget / 2
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SourceKey;

    #[test]
    fn a_writer_is_busy_from_what_it_took_until_it_asks_for_more() {
        let queue = Queue::new(1 << 20);
        assert_eq!(queue.progress(), Progress::default());
        let key = SourceKey { engine_id: None, name: "s".into(), renamed: false, host: None };
        assert!(queue.push(Delivery::new(Arc::new(key), 7)).is_ok());
        let waiting = queue.progress();
        assert_eq!((waiting.busy, waiting.oldest_nano), (None, Some(7)));
        let taken = queue.take(10, Instant::now(), None).expect("there is one");
        let first = queue.progress().busy.expect("it is busy");
        let second = queue.progress();
        assert!(second.busy.is_some_and(|busy| busy > first) && second.oldest_nano == Some(7));
        queue.trying_again();
        assert!(queue.progress().failing);
        queue.stored(&taken, Head { seq: 1, hash: [0; 32] });
        // It may have more to do before it asks for more.
        assert!(queue.progress().busy.is_some());
        queue.close();
        assert!(queue.take(10, Instant::now(), None).is_none());
        assert_eq!(queue.progress(), Progress::default());
    }
}
