//! Queue of deliveries that were read and are not yet stored.
//!
//! The queue is bounded in bytes. A push succeeds or fails immediately, so a session never waits; only an import waits
//! for space.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::counters::Counters;
use super::delivery::Delivery;
use super::status::{Pending, Progress, WriterStatus};
use crate::store::format::chain::Head;

/// Number of events below which the writer waits a little for more.
const BATCH_THRESHOLD_EVENTS: usize = 1000;

/// Queue between the streams and the writer.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    /// Wakes the writer: a delivery was pushed, or the queue was closed.
    not_empty: Condvar,
    /// Wakes the sessions: deliveries were stored.
    not_full_async: Notify,
    /// Wakes a source that blocks: deliveries were stored.
    not_full: Condvar,
    budget: usize,
    /// True if the writer gives up after a while when it cannot write the store. Otherwise it retries without a time
    /// limit.
    interactive: bool,
    /// Counters of the stored entries, if they are needed.
    counters: Option<Arc<Counters>>,
    /// Status of the writer that empties this queue. A thread that locks both locks `state` first.
    status: WriterStatus,
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Delivery>,
    /// Bytes and events that are pending or being written.
    bytes: usize,
    events: usize,
    closed: bool,
}

/// Error of a push into a full queue; returns the delivery.
#[derive(Debug)]
pub struct Full(pub Box<Delivery>);

impl Queue {
    /// Creates a queue of up to `budget` bytes for a service: the writer retries without a time limit.
    pub fn new(budget: usize) -> Self {
        Queue { interactive: false, ..Queue::interactive(budget) }
    }

    /// Creates a queue for a command that a user waits for: the writer gives up if it cannot write the store for long.
    pub fn interactive(budget: usize) -> Self {
        Queue {
            interactive: true,
            state: Mutex::default(),
            not_empty: Condvar::new(),
            not_full_async: Notify::new(),
            not_full: Condvar::new(),
            budget,
            counters: None,
            status: WriterStatus::default(),
        }
    }

    /// Counts what is stored in `counters`.
    #[must_use]
    pub fn with_counters(self, counters: Arc<Counters>) -> Self {
        Queue { counters: Some(counters), ..self }
    }

    /// Counters of the stored entries.
    pub(super) fn counters(&self) -> Option<&Counters> {
        self.counters.as_deref()
    }

    /// Hands a delivery to the writer, without waiting. A delivery larger than the budget is accepted only into an
    /// empty queue.
    ///
    /// # Errors
    /// [`Full`] if the delivery does not fit.
    pub fn push(&self, delivery: Delivery) -> Result<(), Full> {
        let mut state = self.state();
        if state.bytes > 0 && state.bytes + delivery.bytes() > self.budget {
            return Err(Full(Box::new(delivery)));
        }
        let (was_empty, may_wait) = (state.pending.is_empty(), self.should_batch(&state));
        state.bytes += delivery.bytes();
        state.events += delivery.len();
        state.pending.push_back(delivery);
        // A writer that waits for more events need not wake up for each delivery.
        if was_empty || may_wait && !self.should_batch(&state) {
            self.not_empty.notify_one();
        }
        Ok(())
    }

    /// Hands a delivery to the writer, and blocks while the queue is full: for sources that can wait. Returns false if
    /// the queue was closed.
    pub fn push_blocking(&self, delivery: Delivery) -> bool {
        let mut state = self.state();
        while state.bytes > 0 && state.bytes + delivery.bytes() > self.budget && !state.closed {
            state = self.not_full.wait(state).expect("no holder of this lock panics");
        }
        if state.closed {
            return false;
        }
        drop(state);
        self.push(delivery).is_ok()
    }

    /// Waits until the queue is at most half full and accepts a delivery of this many bytes.
    pub async fn wait_for_space(&self, bytes: usize) {
        loop {
            let mut drained = std::pin::pin!(self.not_full_async.notified());
            drained.as_mut().enable();
            let pending = self.state().bytes;
            if pending == 0 || pending <= self.budget / 2 && pending + bytes <= self.budget {
                return;
            }
            drained.await;
        }
    }

    /// Closes the queue: the writer stores what is pending and stops.
    pub fn close(&self) {
        self.state().closed = true;
        self.not_empty.notify_one();
        self.not_full.notify_all();
    }

    /// Returns true if [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Returns true if the writer gives up after a while when it cannot write the store.
    pub(super) fn has_retry_deadline(&self) -> bool {
        self.interactive || self.is_closed()
    }

    /// Number of events that are not yet stored.
    pub fn pending_events(&self) -> usize {
        self.state().events
    }

    /// Progress of the writer.
    pub fn progress(&self) -> Progress {
        let state = self.state();
        let oldest_nano = state.pending.front().map(|delivery| delivery.received_nano);
        self.status.progress(Pending { events: state.events, bytes: state.bytes, oldest_nano })
    }

    /// Chain head after the last commit; `None` before the first one.
    pub fn head(&self) -> Option<Head> {
        self.status.head()
    }

    /// Status of the writer.
    pub(super) fn status(&self) -> &WriterStatus {
        &self.status
    }

    /// Waits for deliveries and takes them, up to `max_events` events but at least one delivery. Returns `None` once
    /// the queue is closed and empty. A small batch is not taken before `not_before`, because more may arrive. If
    /// nothing arrives before `idle_deadline`, the batch is empty. Deliveries count as pending until
    /// [`mark_stored`](Self::mark_stored).
    pub(super) fn take_batch(
        &self,
        max_events: usize,
        not_before: Instant,
        idle_deadline: Option<Instant>,
    ) -> Option<Vec<Delivery>> {
        let mut state = self.state();
        self.status.mark_idle();
        while state.pending.is_empty() {
            if state.closed {
                return None;
            }
            state = match idle_deadline.map(|idle| idle.saturating_duration_since(Instant::now())) {
                None => self.not_empty.wait(state).expect("no holder of this lock panics"),
                Some(Duration::ZERO) => {
                    self.status.mark_busy();
                    return Some(Vec::new());
                }
                Some(remaining) => {
                    self.not_empty.wait_timeout(state, remaining).expect("no holder of this lock panics").0
                }
            };
        }
        while !state.closed && self.should_batch(&state) {
            let remaining = not_before.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                break;
            }
            state = self.not_empty.wait_timeout(state, remaining).expect("no holder of this lock panics").0;
        }
        let mut batch: Vec<Delivery> = Vec::new();
        let mut count = 0;
        while let Some(next) = state.pending.front() {
            count += next.len();
            if !batch.is_empty() && count > max_events {
                break;
            }
            batch.extend(state.pending.pop_front());
        }
        self.status.mark_writing(batch.first().map(|delivery| delivery.received_nano));
        Some(batch)
    }

    /// Marks these deliveries as stored; `head` is the chain head after them.
    pub(super) fn mark_stored(&self, deliveries: &[Delivery], head: Head) {
        let mut state = self.state();
        self.status.mark_stored(head);
        state.bytes -= deliveries.iter().map(Delivery::bytes).sum::<usize>();
        state.events -= deliveries.iter().map(Delivery::len).sum::<usize>();
        drop(state);
        self.not_full.notify_all();
        self.not_full_async.notify_waiters();
    }

    /// Returns true if so little is pending that the writer may wait for more.
    fn should_batch(&self, state: &State) -> bool {
        state.events < BATCH_THRESHOLD_EVENTS && state.bytes <= self.budget / 2
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::write::delivery::SourceKey;

    /// A delivery of more than half of the budget does not fit beside others, although half of the queue is free.
    #[tokio::test(start_paused = true)]
    async fn a_refused_delivery_is_accepted_after_the_wait() {
        let key = Arc::new(SourceKey { engine_id: None, name: "s".into(), overrides_name: false, host: None });
        let delivery = |bytes: usize| Delivery { containers: Some("x".repeat(bytes)), ..Delivery::new(key.clone(), 7) };
        let queue = Queue::new(10_000);
        assert!(queue.push(delivery(1_000)).is_ok());
        let Err(Full(refused)) = queue.push(delivery(9_000)) else { panic!("it fits") };
        let mut wait = std::pin::pin!(queue.wait_for_space(refused.bytes()));
        assert!(tokio::time::timeout(Duration::from_millis(50), wait.as_mut()).await.is_err());
        let batch = queue.take_batch(10, Instant::now(), None).expect("a delivery is pending");
        queue.mark_stored(&batch, Head { seq: 1, hash: [0; 32] });
        wait.await;
        assert!(queue.push(*refused).is_ok());
    }

    #[test]
    fn the_writer_is_busy_until_it_asks_for_the_next_batch() {
        let queue = Queue::new(1 << 20);
        assert_eq!(queue.progress(), Progress::default());
        let key = SourceKey { engine_id: None, name: "s".into(), overrides_name: false, host: None };
        assert!(queue.push(Delivery::new(Arc::new(key), 7)).is_ok());
        let progress = queue.progress();
        assert_eq!((progress.busy_for, progress.oldest_nano), (None, Some(7)));
        let batch = queue.take_batch(10, Instant::now(), None).expect("a delivery is pending");
        let first = queue.progress().busy_for.expect("the writer is busy");
        let second = queue.progress();
        assert!(second.busy_for.is_some_and(|busy| busy > first) && second.oldest_nano == Some(7));
        queue.status().mark_retrying();
        assert!(queue.progress().failing);
        queue.mark_stored(&batch, Head { seq: 1, hash: [0; 32] });
        // The writer may have more work before it takes the next batch.
        assert!(queue.progress().busy_for.is_some());
        queue.close();
        assert!(queue.take_batch(10, Instant::now(), None).is_none());
        assert_eq!(queue.progress(), Progress::default());
    }
}
