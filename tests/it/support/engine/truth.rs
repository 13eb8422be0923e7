//! Record of all events that an engine emitted, and of those that a recorder could obtain.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that a recorder must keep running after an event for the event to count as delivered. A recorder that is killed
/// sooner can only obtain it from the backlog.
const STORE_GRACE_PERIOD: Duration = Duration::from_secs(1);

/// An emitted event.
#[derive(Clone, Debug)]
pub(crate) struct EmittedEvent {
    /// Name of the engine that emitted it.
    pub engine: String,
    pub time_nano: i64,
    /// Time at which it was last sent completely to a recorder.
    delivered_at: Option<Instant>,
}

impl EmittedEvent {
    pub(crate) fn is_obtainable(&self) -> bool {
        self.delivered_at.is_some()
    }
}

/// Record of an engine across all its restarts and names.
#[derive(Clone, Default)]
pub(crate) struct Truth {
    pub emitted: Vec<EmittedEvent>,
    numbers_by_digest: HashMap<u64, usize>,
    /// Lines sent to a recorder that are not events.
    pub junk: Vec<Vec<u8>>,
    /// Events that were being sent when the connection was cut: a part of one may have arrived.
    pub torn: Vec<Arc<str>>,
    /// Number of events skipped for subscribers that were too slow.
    pub skipped_count: usize,
    /// Number of recorders killed so far.
    recorder_generation: u64,
}

impl Truth {
    /// Adds an event and returns its number.
    pub(crate) fn add_event(&mut self, engine: &str, line: &str) -> usize {
        let number = self.emitted.len();
        self.emitted.push(EmittedEvent { engine: engine.into(), time_nano: time_nano(line), delivered_at: None });
        self.numbers_by_digest.insert(digest(line.as_bytes()), number);
        number
    }

    /// Number of the event with these bytes.
    pub(crate) fn number(&self, line: &[u8]) -> Option<usize> {
        self.numbers_by_digest.get(&digest(line)).copied()
    }

    /// Generation of the current recorder.
    pub(crate) fn recorder_generation(&self) -> u64 {
        self.recorder_generation
    }

    /// Marks events as delivered, unless the recorder of this generation was killed.
    pub(crate) fn mark_delivered(&mut self, numbers: impl IntoIterator<Item = usize>, recorder_generation: u64) {
        if recorder_generation == self.recorder_generation {
            let now = Instant::now();
            numbers.into_iter().for_each(|number| self.emitted[number].delivered_at = Some(now));
        }
    }

    /// Starts a new generation: the killed recorder need not have stored the events that it received last.
    pub(crate) fn on_recorder_killed(&mut self) {
        self.recorder_generation += 1;
        let now = Instant::now();
        for event in &mut self.emitted {
            event.delivered_at =
                event.delivered_at.filter(|delivered_at| now.duration_since(*delivered_at) > STORE_GRACE_PERIOD);
        }
    }

    /// Counts events from this number on as not delivered, until they are delivered again.
    pub(crate) fn invalidate_deliveries_from(&mut self, number: usize) {
        self.emitted[number..].iter_mut().for_each(|event| event.delivered_at = None);
    }
}

fn digest(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

/// Time at the end of a line, read without the parser under test.
fn time_nano(line: &str) -> i64 {
    let Some((_, after)) = line.rsplit_once("\"timeNano\":") else { return 0 };
    let digits: String = after.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
    digits.parse().unwrap_or(0)
}
