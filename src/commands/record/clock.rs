//! How far an engine's clock is from ours: events bear the engine's time, everything else ours.

use std::time::Duration;

use chrono::DateTime;

use crate::commands::now_nano;
use crate::engine::{Client, EngineError, Info};

/// How often the clocks are compared while the stream is open.
pub(in crate::commands) const EVERY: Duration = Duration::from_secs(3600);

/// A clock that is off by more, in nanoseconds, is warned of.
const TOLERATED: u64 = 5_000_000_000;

/// What a comparison gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Skew {
    /// How far the engine's clock is ahead, in nanoseconds.
    pub(in crate::commands) nano: i64,
    /// How long the engine took to answer: half of it is how far this may be wrong.
    took: u64,
}

impl Skew {
    /// Its clock as it told it, between our asking and its answer. `None` if it told none, or ours was set meanwhile.
    fn new(system_time: &str, asked: i64, answered: i64) -> Option<Skew> {
        let theirs = DateTime::parse_from_rfc3339(system_time).ok()?.timestamp_nanos_opt()?;
        let took = u64::try_from(answered.checked_sub(asked)?).ok()?;
        Some(Skew { nano: theirs.checked_sub(asked + (answered - asked) / 2)?, took })
    }

    fn is_off(self) -> bool {
        let off = self.nano.unsigned_abs();
        off > TOLERATED && off > self.took
    }
}

/// Asks the engine who it is, and compares its clock with ours.
pub(in crate::commands) async fn compared(client: &Client) -> Result<(Info, Option<Skew>), EngineError> {
    let asked = now_nano();
    let info = client.info().await?;
    let skew = Skew::new(&info.system_time, asked, now_nano());
    Ok((info, skew))
}

/// What was said of the clock of the engine at a host.
#[derive(Debug, Default)]
pub(in crate::commands) struct Clock {
    said: bool,
}

impl Clock {
    /// Warns of a clock that is off; once, until it is right again.
    pub(in crate::commands) fn note(&mut self, name: &str, skew: Option<Skew>) {
        let Some(skew) = skew else { return };
        let off = skew.is_off();
        if off && !self.said {
            let side = if skew.nano > 0 { "ahead of" } else { "behind" };
            let seconds = skew.nano.unsigned_abs() as f64 / 1e9;
            tracing::warn!("the clock of {name} is {seconds:.1} s {side} this machine's; its events bear its own time");
        }
        self.said = off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn the_clock_is_compared_with_the_middle_of_the_question() {
        let skew = |text: &str| Skew::new(text, 100 * SECOND, 102 * SECOND);
        assert_eq!(skew("1970-01-01T00:01:41Z"), Some(Skew { nano: 0, took: 2 * SECOND as u64 }));
        assert_eq!(skew("1970-01-01T02:01:41.5+02:00").map(|skew| skew.nano), Some(SECOND / 2));
        assert_eq!(skew("1970-01-01T00:01:31.000000001Z").map(|skew| skew.nano), Some(1 - 10 * SECOND));
        assert_eq!((skew(""), skew("yesterday")), (None, None));
        assert_eq!(Skew::new("1970-01-01T00:01:41Z", 102 * SECOND, 100 * SECOND), None, "our clock was set");
    }

    #[test]
    fn what_is_within_the_time_of_the_answer_is_no_skew() {
        let off = |nano, took| Skew { nano, took: took as u64 }.is_off();
        assert!(off(6 * SECOND, SECOND) && off(-6 * SECOND, SECOND));
        assert!(!off(5 * SECOND, SECOND) && !off(6 * SECOND, 7 * SECOND) && !off(-6 * SECOND, 7 * SECOND));
    }
}
