//! Plays a recording from its first event, at the recorded pace or at another speed.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::time::Instant;

use super::fault::StreamFaults;
use crate::clock::now_nano;
use crate::event::{Event, with_time};

/// Speed of playback.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// N times as fast as recorded.
    Times(f64),
    /// As fast as the client accepts the events.
    Max,
}

/// A text that is not a speed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid speed '{0}': write a number above 0, or max")]
pub struct ParseSpeedError(String);

impl FromStr for Speed {
    type Err = ParseSpeedError;

    fn from_str(text: &str) -> Result<Self, ParseSpeedError> {
        match text.parse() {
            _ if text == "max" => Ok(Speed::Max),
            Ok(times) if f64::is_finite(times) && times > 0.0 => Ok(Speed::Times(times)),
            _ => Err(ParseSpeedError(text.into())),
        }
    }
}

impl Speed {
    /// Returns the delay from the start of playback for an event recorded `nanos` nanoseconds after the first.
    pub fn delay(self, nanos: i64) -> Duration {
        match self {
            Speed::Times(times) => {
                let seconds = nanos.max(0) as f64 / 1e9 / times;
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
            Speed::Max => Duration::ZERO,
        }
    }
}

/// A recording. Each subscriber gets it from its first event.
#[derive(Clone, Debug)]
pub struct Playback {
    /// Times in nanoseconds since the epoch, and bytes of the events.
    events: Arc<[(i64, Bytes)]>,
    speed: Speed,
    retime: bool,
}

impl Playback {
    /// Plays events in the order in which they are passed.
    pub fn new(events: impl IntoIterator<Item = (i64, Bytes)>, speed: Speed) -> Playback {
        Playback { events: events.into_iter().collect(), speed, retime: false }
    }

    /// If `retime` is true, replaces the times of events with the times at which they are played.
    #[must_use]
    pub fn with_retime(self, retime: bool) -> Playback {
        Playback { retime, ..self }
    }

    /// Returns the events of a stream, without those that a simulated restart discarded.
    pub(super) fn events(&self, faults: Option<&StreamFaults>) -> impl Iterator<Item = (i64, Bytes)> + use<> {
        let events = self.events.clone();
        let discarded = faults.map_or(0, |fault| fault.discarded);
        (discarded..events.len()).map(move |index| events[index].clone())
    }

    pub(super) fn pacer(&self) -> Pacer {
        let last_nano = self.retime.then(now_nano);
        Pacer { start: Instant::now(), first_nano: None, speed: self.speed, last_nano }
    }
}

/// Schedule of one playback.
pub(super) struct Pacer {
    start: Instant,
    first_nano: Option<i64>,
    speed: Speed,
    /// Last time assigned to an event, if times are replaced.
    last_nano: Option<i64>,
}

impl Pacer {
    /// Returns the event, with the current time if times are replaced.
    pub(super) fn stamp(&mut self, raw: Bytes) -> Bytes {
        let Some(last) = &mut self.last_nano else { return raw };
        let now = now_nano();
        // No two events get the same time.
        *last = now.max(last.saturating_add(1));
        Event::parse(&raw).map_or_else(|_| raw.clone(), |event| with_time(&event, *last).into())
    }

    /// Waits until an event with this time is due.
    pub(super) async fn wait_until_due(&mut self, nano: i64) {
        let first_nano = *self.first_nano.get_or_insert(nano);
        let due = self.speed.delay(nano.saturating_sub(first_nano));
        if !due.is_zero() {
            // The limit of about a century prevents an overflow of the instant.
            tokio::time::sleep_until(self.start + due.min(Duration::from_secs(3_000_000_000))).await;
        }
    }
}
