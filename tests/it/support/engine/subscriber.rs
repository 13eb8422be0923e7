//! One open stream as the engine sees it: a bounded queue, and a publisher that does not wait long for room in it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::memory::Happened;

/// How many events wait for a subscriber.
const ROOM: usize = 1024;

/// How long an engine waits for room before it skips the event for this subscriber.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// What goes down a stream.
#[derive(Clone)]
pub(super) enum Message {
    Event(Happened),
    /// Bytes that the engine knows nothing of, as the body's.
    Bytes(Vec<u8>),
    /// The last chunk: a clean end.
    End,
    /// These raw bytes, and the connection is cut.
    Cut(Vec<u8>),
}

/// What became of a message.
#[derive(PartialEq, Eq)]
pub(super) enum Fate {
    Taken,
    /// There was no room in time.
    Skipped,
    /// Nobody listens any more.
    Gone,
}

#[derive(Default)]
pub(super) struct Subscriber {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    gone: bool,
    stalled: bool,
}

impl Subscriber {
    pub(super) fn offer(&self, message: Message, patience: Duration) -> Fate {
        let mut waiting = self.waiting();
        // How a stream ends is not for a queue to say.
        let waits = matches!(message, Message::Event(_) | Message::Bytes(_));
        if waits && waiting.messages.len() >= ROOM {
            let full = |waiting: &mut Waiting| waiting.messages.len() >= ROOM && !waiting.gone;
            waiting = self.changed.wait_timeout_while(waiting, patience, full).expect("no holder panics").0;
        }
        if waiting.gone {
            return Fate::Gone;
        }
        if waits && waiting.messages.len() >= ROOM {
            return Fate::Skipped;
        }
        waiting.messages.push_back(message);
        drop(waiting);
        self.changed.notify_all();
        Fate::Taken
    }

    /// Waits for messages and takes all there are; `None` once the stream is over, or it is that late.
    pub(super) fn take(&self, until: Option<Instant>) -> Option<Vec<Message>> {
        let mut waiting = self.waiting();
        while (waiting.messages.is_empty() || waiting.stalled) && !waiting.gone {
            let left = until.map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            waiting = self.changed.wait_timeout(waiting, left).expect("no holder panics").0;
        }
        let messages: Vec<Message> = (!waiting.gone).then(|| waiting.messages.drain(..).collect())?;
        drop(waiting);
        self.changed.notify_all();
        Some(messages)
    }

    /// The stream is over; what waits is not sent.
    pub(super) fn leave(&self) {
        self.waiting().gone = true;
        self.changed.notify_all();
    }

    /// The connection stands and brings nothing, until it goes on.
    pub(super) fn stall(&self, stalled: bool) {
        self.waiting().stalled = stalled;
        self.changed.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder panics")
    }
}
