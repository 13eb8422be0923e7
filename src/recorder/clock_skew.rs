//! Measures the difference between an engine's clock and the clock of this machine.
//!
//! Events have the time of their engine. All other times are those of this machine.

use std::time::Duration;

use chrono::DateTime;

use crate::clock::now_nano;
use crate::engine::{Client, EngineError, EngineInfo};

/// Interval between comparisons while the stream is open.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Difference above which a warning is logged, in nanoseconds.
const MAX_SKEW_NANO: u64 = 5_000_000_000;

/// Result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skew {
    /// Time by which the engine's clock is ahead, in nanoseconds.
    pub(crate) nano: i64,
    /// Duration of the request, in nanoseconds. The result is wrong by at most half of it.
    round_trip: u64,
}

impl Skew {
    /// Compares the engine's time with the times before and after the request. Returns `None` if the engine reported no
    /// time, or if the clock of this machine was set back in between.
    fn new(system_time: &str, sent_nano: i64, received_nano: i64) -> Option<Skew> {
        let engine_nano = DateTime::parse_from_rfc3339(system_time).ok()?.timestamp_nanos_opt()?;
        let round_trip = u64::try_from(received_nano.checked_sub(sent_nano)?).ok()?;
        Some(Skew { nano: engine_nano.checked_sub(sent_nano + (received_nano - sent_nano) / 2)?, round_trip })
    }

    fn is_off(self) -> bool {
        let magnitude = self.nano.unsigned_abs();
        magnitude > MAX_SKEW_NANO && magnitude > self.round_trip
    }
}

/// Requests `/info`, and compares the engine's clock with the clock of this machine.
pub(crate) async fn measure(client: &Client) -> Result<(EngineInfo, Option<Skew>), EngineError> {
    let sent_nano = now_nano();
    let info = client.info().await?;
    let skew = Skew::new(&info.system_time, sent_nano, now_nano());
    Ok((info, skew))
}

/// Warning about the clock of one host's engine.
#[derive(Debug, Default)]
pub(crate) struct SkewWarning {
    logged: bool,
}

impl SkewWarning {
    /// Logs a warning if the clock is wrong. Logs it again only after the clock was right in between.
    pub(crate) fn update(&mut self, name: &str, skew: Option<Skew>) {
        let Some(skew) = skew else { return };
        let is_off = skew.is_off();
        if is_off && !self.logged {
            let direction = if skew.nano > 0 { "ahead of" } else { "behind" };
            let seconds = skew.nano.unsigned_abs() as f64 / 1e9;
            tracing::warn!(
                source = name,
                "the clock of {name} is {seconds:.1} s {direction} this machine's; events have the engine's time"
            );
        }
        self.logged = is_off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn skew_is_measured_at_the_midpoint_of_the_request() {
        let skew = |text: &str| Skew::new(text, 100 * SECOND, 102 * SECOND);
        assert_eq!(skew("1970-01-01T00:01:41Z"), Some(Skew { nano: 0, round_trip: 2 * SECOND as u64 }));
        assert_eq!(skew("1970-01-01T02:01:41.5+02:00").map(|skew| skew.nano), Some(SECOND / 2));
        assert_eq!(skew("1970-01-01T00:01:31.000000001Z").map(|skew| skew.nano), Some(1 - 10 * SECOND));
        assert_eq!((skew(""), skew("yesterday")), (None, None));
        assert_eq!(
            Skew::new("1970-01-01T00:01:41Z", 102 * SECOND, 100 * SECOND),
            None,
            "the clock of this machine was set back"
        );
    }

    #[test]
    fn skew_within_the_round_trip_is_ignored() {
        let is_off = |nano, round_trip| Skew { nano, round_trip: round_trip as u64 }.is_off();
        assert!(is_off(6 * SECOND, SECOND) && is_off(-6 * SECOND, SECOND));
        assert!(!is_off(5 * SECOND, SECOND) && !is_off(6 * SECOND, 7 * SECOND) && !is_off(-6 * SECOND, 7 * SECOND));
    }
}
