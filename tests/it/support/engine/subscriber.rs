//! One open stream on the engine's side: a bounded queue, whose publisher waits only briefly for space.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::backlog::NumberedEvent;

/// Maximum number of queued events per subscriber.
const QUEUE_CAPACITY: usize = 1024;

/// Time that an engine waits for space before it skips the event for this subscriber.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// A message on a stream.
#[derive(Clone)]
pub(super) enum Message {
    Event(NumberedEvent),
    /// Bytes of the body that are not an event.
    Bytes(Vec<u8>),
    /// The last chunk, which is a clean end.
    End,
    /// Raw bytes after which the connection is cut.
    Cut(Vec<u8>),
}

/// Result of offering a message.
#[derive(PartialEq, Eq)]
pub(super) enum OfferOutcome {
    Queued,
    /// There was no space in time.
    Skipped,
    /// The stream is closed.
    Closed,
}

#[derive(Default)]
pub(super) struct Subscriber {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    messages: VecDeque<Message>,
    is_closed: bool,
    is_stalled: bool,
}

impl Subscriber {
    pub(super) fn offer(&self, message: Message, timeout: Duration) -> OfferOutcome {
        let mut state = self.lock();
        // The messages that end a stream do not wait for space.
        let is_bounded = matches!(message, Message::Event(_) | Message::Bytes(_));
        if is_bounded && state.messages.len() >= QUEUE_CAPACITY {
            let is_full = |state: &mut QueueState| state.messages.len() >= QUEUE_CAPACITY && !state.is_closed;
            state = self.changed.wait_timeout_while(state, timeout, is_full).expect("no holder panics").0;
        }
        if state.is_closed {
            return OfferOutcome::Closed;
        }
        if is_bounded && state.messages.len() >= QUEUE_CAPACITY {
            return OfferOutcome::Skipped;
        }
        state.messages.push_back(message);
        drop(state);
        self.changed.notify_all();
        OfferOutcome::Queued
    }

    /// Waits for messages and takes all of them. Returns `None` after the stream is closed, or at the deadline.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Option<Vec<Message>> {
        let mut state = self.lock();
        while (state.messages.is_empty() || state.is_stalled) && !state.is_closed {
            let remaining = deadline
                .map_or(Duration::from_secs(3600), |deadline| deadline.saturating_duration_since(Instant::now()));
            if remaining.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, remaining).expect("no holder panics").0;
        }
        let messages: Vec<Message> = (!state.is_closed).then(|| state.messages.drain(..).collect())?;
        drop(state);
        self.changed.notify_all();
        Some(messages)
    }

    /// Closes the stream. Queued messages are not sent.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Stalls the stream, which then sends nothing, or resumes it.
    pub(super) fn set_stalled(&self, stalled: bool) {
        self.lock().is_stalled = stalled;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().expect("no holder panics")
    }
}
