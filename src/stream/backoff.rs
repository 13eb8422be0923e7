//! How long to wait before the next try: at once, then 100 ms doubling to 5 s, with jitter, forever.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Counts the tries since something last worked.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The wait before the next try. Half of it is fixed and half is chance, so that many recorders that lost one
    /// engine do not all come back in the same instant.
    pub fn wait(&mut self) -> Duration {
        let full = self.full();
        self.tries = self.tries.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// Something worked: the next try is made at once.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    fn full(&self) -> Duration {
        match self.tries {
            0 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 1).min(16)).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_is_at_once_and_the_waits_double_to_five_seconds() {
        let mut backoff = Backoff::default();
        let mut fulls = Vec::new();
        for _ in 0..100 {
            let full = backoff.full();
            let wait = backoff.wait();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
            fulls.push(full.as_millis());
        }
        assert_eq!(fulls[..8], [0, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(fulls[99], 5000);
        backoff.reset();
        assert_eq!(backoff.wait(), Duration::ZERO);
    }
}
