//! Delays between connection attempts: none before the first retry, then 100 ms doubling to 5 s, with jitter.
//!
//! Only computes delays; the caller sleeps. The number of attempts has no limit.

use std::time::Duration;

const INITIAL_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Counts the attempts since the last success.
#[derive(Debug, Default)]
pub(in crate::recorder) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Returns the delay before the next attempt, and counts that attempt.
    ///
    /// Half of the delay is random, so that many recorders that lost one engine do not return at the same moment.
    pub(in crate::recorder) fn next_delay(&mut self) -> Duration {
        let base = self.base_delay();
        self.attempts = self.attempts.saturating_add(1);
        base.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// Resets the delay after a success, so that the next attempt is immediate.
    pub(in crate::recorder) fn reset(&mut self) {
        self.attempts = 0;
    }

    fn base_delay(&self) -> Duration {
        match self.attempts {
            0 => Duration::ZERO,
            n => INITIAL_DELAY.saturating_mul(1 << (n - 1).min(16)).min(MAX_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_is_immediate_and_delays_double_up_to_five_seconds() {
        let mut backoff = Backoff::default();
        let mut bases = Vec::new();
        for _ in 0..100 {
            let base = backoff.base_delay();
            let delay = backoff.next_delay();
            assert!(delay >= base / 2 && delay <= base, "{delay:?} of {base:?}");
            bases.push(base.as_millis());
        }
        assert_eq!(bases[..8], [0, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(bases[99], 5000);
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
    }
}
