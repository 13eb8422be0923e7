//! A recording played from its first event, at its own pace.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::time::Instant;

use super::fault::Fault;
use crate::event::{Event, retimed};

/// How fast to play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded.
    Times(f64),
    /// As fast as it is taken.
    Max,
}

/// A text that is no speed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no speed: write a number above 0, or max")]
pub struct NoSpeed(String);

impl FromStr for Speed {
    type Err = NoSpeed;

    fn from_str(text: &str) -> Result<Self, NoSpeed> {
        match text.parse() {
            _ if text == "max" => Ok(Speed::Max),
            Ok(times) if f64::is_finite(times) && times > 0.0 => Ok(Speed::Times(times)),
            _ => Err(NoSpeed(text.into())),
        }
    }
}

impl Speed {
    /// How long after the beginning an event is due that was recorded so many nanoseconds after the first.
    pub fn due(self, nanos: i64) -> Duration {
        match self {
            Speed::Times(times) => {
                let seconds = nanos.max(0) as f64 / 1e9 / times;
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
            Speed::Max => Duration::ZERO,
        }
    }
}

/// A recording, for each subscriber from its beginning.
#[derive(Clone, Debug)]
pub struct Play {
    /// Instants in nanoseconds since the epoch, and the events' bytes.
    events: Arc<[(i64, Bytes)]>,
    speed: Speed,
    retimed: bool,
}

impl Play {
    /// Plays events, which are in the order in which they are to come.
    pub fn new(events: impl IntoIterator<Item = (i64, Bytes)>, speed: Speed) -> Play {
        Play { events: events.into_iter().collect(), speed, retimed: false }
    }

    /// With the instants at which they are played, or their own.
    #[must_use]
    pub fn retimed(self, retimed: bool) -> Play {
        Play { retimed, ..self }
    }

    /// The events that come, without those that were forgotten.
    pub(super) fn events(&self, fault: Option<&Fault>) -> impl Iterator<Item = (i64, Bytes)> + use<> {
        let events = self.events.clone();
        let forgotten = fault.map_or(0, |fault| fault.forgotten);
        (forgotten..events.len()).map(move |at| events[at].clone())
    }

    pub(super) fn pace(&self) -> Pace {
        let retimed = self.retimed.then(|| chrono::Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX));
        Pace { begin: Instant::now(), first: None, speed: self.speed, retimed }
    }
}

/// When events are due.
pub(super) struct Pace {
    begin: Instant,
    first: Option<i64>,
    speed: Speed,
    /// The last instant given, where events get the instants at which they are played.
    retimed: Option<i64>,
}

impl Pace {
    /// The event with the instant that it is played with.
    pub(super) fn of(&mut self, raw: Bytes) -> Bytes {
        let Some(last) = &mut self.retimed else { return raw };
        let now = chrono::Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
        // Two never have the same.
        *last = now.max(last.saturating_add(1));
        Event::parse(&raw).map_or_else(|_| raw.clone(), |event| retimed(&event, *last).into())
    }

    /// Waits until an event of this instant is due.
    pub(super) async fn until(&mut self, nano: i64) {
        let first = *self.first.get_or_insert(nano);
        let due = self.speed.due(nano.saturating_sub(first));
        if !due.is_zero() {
            // What is due in more than a century is never waited for.
            tokio::time::sleep_until(self.begin + due.min(Duration::from_secs(3_000_000_000))).await;
        }
    }
}
