//! Compares the engine's own count of events with the events that arrived, to find drops that the backlog does not
//! show.
//!
//! The engine counts an event, then adds it to the backlog, then sends it. Events have no number. So the counter is
//! read before and after the backlog request: at least the events counted before it must have arrived. A loss is
//! certain only if it still exists at the next check, because an event that is counted can take a moment to arrive.
//! This module reads no clock.

use std::collections::HashSet;

use crate::event::Identity;

/// Maximum number of events since the last backlog whose identities are kept. Beyond it, counting starts again.
const MAX_RECENT_EVENTS: usize = 1_000_000;

/// Values of the engine's counter before and after a backlog request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::recorder) struct CounterReadings {
    pub(in crate::recorder) before: u64,
    pub(in crate::recorder) after: u64,
}

/// Events that the engine counted and that never arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DroppedEvents {
    /// Last time up to which all events arrived.
    pub(super) from: i64,
    /// Time of the newest event when the loss was found.
    pub(super) to: i64,
    /// Number of events that the engine counted in this period.
    pub(super) counted: u64,
    /// Number of these events that arrived.
    pub(super) received: u64,
}

/// Events that arrived since the last time at which none was missing.
#[derive(Debug, Default)]
struct DropCounter {
    baseline: Option<Baseline>,
}

/// The engine's counter in a session: what arrived since the last backlog request, and the comparison.
#[derive(Debug, Default)]
pub(in crate::recorder) struct EngineCounter {
    drop_counter: DropCounter,
    /// Events that the stream sent since the last backlog request.
    received_since_request: HashSet<Identity>,
    /// Readings at the last backlog request.
    readings: Option<CounterReadings>,
    /// True if the log reports that the counter cannot be read.
    failure_logged: bool,
}

impl EngineCounter {
    /// Starts a session. The count goes on, unless [`reset`](Self::reset) is called.
    pub(super) fn start_session(&mut self) {
        self.received_since_request.clear();
        self.readings = None;
    }

    /// Starts counting again. Earlier events prove nothing about later ones.
    pub(in crate::recorder) fn reset(&mut self) {
        self.drop_counter.reset();
    }

    /// Records an event that the stream sent.
    pub(super) fn record_stream_event(&mut self, event: Identity) {
        self.received_since_request.insert(event);
        self.drop_counter.record_event(event);
    }

    /// Records the events of a backlog.
    pub(super) fn record_backlog(&mut self, events: &[Identity]) {
        events.iter().for_each(|event| self.drop_counter.record_event(*event));
    }

    /// Records that the backlog was requested.
    pub(super) fn set_requested(&mut self) {
        self.received_since_request.clear();
    }

    /// Sets the readings at the last backlog request. If they failed, logs the reason, as a warning only the first time.
    pub(super) fn set_readings(&mut self, readings: Option<Result<CounterReadings, String>>) {
        self.readings = match readings {
            None => None,
            Some(Ok(readings)) => {
                self.failure_logged = false;
                Some(readings)
            }
            Some(Err(reason)) => {
                if std::mem::replace(&mut self.failure_logged, true) {
                    tracing::debug!("{reason}");
                } else {
                    tracing::warn!(
                        "{reason}; the recorder cannot detect dropped events until it can read the engine's counter"
                    );
                }
                None
            }
        };
    }

    /// Compares the readings with the events that arrived. The stream must have caught up with `backlog`. Returns the
    /// events that are certainly lost, if any.
    pub(super) fn compare(&mut self, backlog: &[Identity]) -> Option<DroppedEvents> {
        self.drop_counter.compare(self.readings.take()?, backlog, &self.received_since_request)
    }

    /// Forgets the readings of a check that did not compare them.
    pub(super) fn clear_readings(&mut self) {
        self.readings = None;
    }
}

#[derive(Debug)]
struct Baseline {
    /// Value of the counter at that time, or an upper bound if the counter changed while it was read.
    counter_value: u64,
    /// Number of events that arrived since then.
    received: u64,
    /// Events that may arrive again: the last backlog, and everything since.
    recent: HashSet<Identity>,
    /// Last time up to which all events arrived.
    complete_until: i64,
    missing: Option<DroppedEvents>,
}

impl DropCounter {
    /// Starts counting again. Earlier events prove nothing about later ones.
    fn reset(&mut self) {
        self.baseline = None;
    }

    /// Records an event that the stream sent.
    fn record_event(&mut self, event: Identity) {
        let Some(baseline) = &mut self.baseline else { return };
        baseline.received += u64::from(baseline.recent.insert(event));
        if baseline.recent.len() > MAX_RECENT_EVENTS {
            self.baseline = None;
        }
    }

    /// Compares the counter with the events that arrived. The stream must have caught up with `backlog`. `received` are
    /// the events that it sent since the backlog was requested. Returns the events that are certainly lost, if any.
    fn compare(
        &mut self,
        readings: CounterReadings,
        backlog: &[Identity],
        received: &HashSet<Identity>,
    ) -> Option<DroppedEvents> {
        let newest = backlog.last()?.time_nano;
        let backlog_set: HashSet<Identity> = backlog.iter().copied().collect();
        let recent: HashSet<Identity> = received.union(&backlog_set).copied().collect();
        // These events are newer than the backlog, or already pushed out of it. As many may have been counted since.
        let outside_backlog = (recent.len() - backlog_set.len()) as u64;
        let is_settled = readings.before == readings.after && outside_backlog == 0;
        let new_baseline = |recent| Baseline {
            counter_value: readings.after,
            received: outside_backlog,
            recent,
            complete_until: newest,
            missing: None,
        };
        // A counter that decreased belongs to an engine that restarted.
        let Some(baseline) = self.baseline.as_mut().filter(|baseline| readings.before >= baseline.counter_value) else {
            self.baseline = Some(new_baseline(recent));
            return None;
        };
        baseline.received += backlog_set.iter().filter(|event| !baseline.recent.contains(event)).count() as u64;
        baseline.recent = recent;
        let total = readings.before - baseline.counter_value;
        let missing = total.saturating_sub(baseline.received);
        if missing == 0 {
            baseline.missing = None;
            if is_settled {
                *baseline = new_baseline(std::mem::take(&mut baseline.recent));
            }
            return None;
        }
        let current =
            DroppedEvents { from: baseline.complete_until, to: newest, counted: total, received: baseline.received };
        let previous = baseline.missing.replace(current)?;
        let lost = missing.min(previous.counted - previous.received);
        if missing > lost && newest == previous.to {
            // The loss is still growing. It is reported as a whole once it stops.
            return None;
        }
        let received = previous.counted - lost;
        baseline.counter_value += previous.counted;
        baseline.received -= received;
        baseline.complete_until = previous.to;
        baseline.missing = (missing > lost).then_some(DroppedEvents {
            from: previous.to,
            to: newest,
            counted: total - previous.counted,
            received: baseline.received,
        });
        Some(DroppedEvents { received, ..previous })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::backlog::BACKLOG_LEN;
    use proptest::prelude::*;

    /// Engine and the events that arrive from it. Numbers identify the events.
    #[derive(Default)]
    struct Simulation {
        published: i64,
        /// Events that are counted and not yet in the backlog.
        in_flight: Vec<i64>,
        backlog: Vec<i64>,
        seen: HashSet<i64>,
        drop_counter: DropCounter,
        dropped: Vec<DroppedEvents>,
    }

    fn identity(n: i64) -> Identity {
        Identity { time_nano: n, digest: [0; 16] }
    }

    impl Simulation {
        fn publish(&mut self) {
            self.published += 1;
            self.in_flight.push(self.published);
        }

        /// Moves the counted events into the backlog and sends them. `is_received` decides whether they arrive.
        fn deliver(&mut self, is_received: bool, received: &mut HashSet<Identity>) {
            for n in std::mem::take(&mut self.in_flight) {
                self.backlog.push(n);
                if is_received {
                    self.seen.insert(n);
                    self.drop_counter.record_event(identity(n));
                    received.insert(identity(n));
                }
            }
            let excess = self.backlog.len().saturating_sub(BACKLOG_LEN);
            self.backlog.drain(..excess);
        }

        /// Publishes events, which arrive or not.
        fn run(&mut self, count: usize, is_received: bool) {
            for _ in 0..count {
                self.publish();
                self.deliver(is_received, &mut HashSet::new());
            }
        }

        /// Runs a backlog check. `concurrent_events` are counted and sent before, during and after the backlog request.
        fn check_backlog(&mut self, concurrent_events: [usize; 3], counted_only: bool) {
            let mut received = HashSet::new();
            let publish_events = |simulation: &mut Simulation, count: usize, received: &mut HashSet<Identity>| {
                for _ in 0..count {
                    simulation.publish();
                    simulation.deliver(true, received);
                }
            };
            if counted_only {
                self.publish();
            }
            publish_events(self, concurrent_events[0] * usize::from(!counted_only), &mut received);
            let before = self.published as u64;
            publish_events(self, concurrent_events[1] * usize::from(!counted_only), &mut received);
            let backlog: Vec<Identity> = self.backlog.iter().map(|n| identity(*n)).collect();
            self.seen.extend(self.backlog.iter());
            let after = self.published as u64;
            self.deliver(true, &mut received);
            publish_events(self, concurrent_events[2], &mut received);
            self.dropped.extend(self.drop_counter.compare(CounterReadings { before, after }, &backlog, &received));
        }

        fn lost(&self) -> u64 {
            self.published as u64 - self.seen.len() as u64
        }

        fn reported(&self) -> u64 {
            self.dropped.iter().map(|dropped| dropped.counted - dropped.received).sum()
        }
    }

    #[test]
    fn events_dropped_beyond_the_backlog_are_reported_at_the_next_check() {
        let mut simulation = Simulation::default();
        simulation.run(10, true);
        simulation.check_backlog([0; 3], false);
        simulation.run(100, true);
        simulation.check_backlog([0; 3], false);
        simulation.run(300, false);
        simulation.check_backlog([0; 3], false);
        assert_eq!(simulation.dropped, []);
        simulation.run(1, true);
        simulation.check_backlog([0; 3], false);
        assert_eq!(simulation.dropped, [DroppedEvents { from: 110, to: 410, counted: 300, received: 256 }]);
        simulation.check_backlog([0; 3], false);
        assert_eq!((simulation.dropped.len(), simulation.lost()), (1, 44));
    }

    #[test]
    fn a_loss_found_in_two_checks_is_reported_once() {
        let mut simulation = Simulation::default();
        simulation.run(1, true);
        simulation.check_backlog([0; 3], false);
        simulation.run(253, false);
        // The counter advances during the backlog request, so the loss seems smaller than it is.
        simulation.check_backlog([4, 7, 0], false);
        (0..3).for_each(|_| simulation.check_backlog([0; 3], false));
        assert_eq!(simulation.dropped, [DroppedEvents { from: 1, to: 265, counted: 264, received: 256 }]);
    }

    #[test]
    fn a_counter_that_decreases_resets_the_baseline() {
        let mut simulation = Simulation::default();
        simulation.run(1000, true);
        simulation.check_backlog([0; 3], false);
        let backlog = [identity(1), identity(2)];
        for counter in [2, 2, 2] {
            let readings = CounterReadings { before: counter, after: counter };
            assert_eq!(simulation.drop_counter.compare(readings, &backlog, &HashSet::new()), None);
        }
    }

    proptest! {
        #[test]
        fn reported_losses_never_exceed_actual_losses_and_finally_equal_them(
            steps in prop::collection::vec(
                prop_oneof![
                    (0usize..400, any::<bool>())
                        .prop_map(|(number, is_received)| (Some((number, is_received)), [0; 3], false)),
                    (prop::array::uniform3(0usize..300), any::<bool>())
                        .prop_map(|(concurrent_events, counted_only)| (None, concurrent_events, counted_only)),
                ],
                0..30,
            )
        ) {
            let mut simulation = Simulation::default();
            simulation.run(1, true);
            simulation.check_backlog([0; 3], false);
            for (run, concurrent_events, counted_only) in steps {
                match run {
                    Some((count, is_received)) => simulation.run(count, is_received),
                    None => simulation.check_backlog(concurrent_events, counted_only),
                }
                prop_assert!(simulation.reported() <= simulation.lost(), "{:?} of {}", simulation.dropped, simulation.lost());
            }
            simulation.check_backlog([0; 3], false);
            simulation.check_backlog([0; 3], false);
            simulation.check_backlog([0; 3], false);
            prop_assert_eq!(simulation.reported(), simulation.lost());
            prop_assert!(simulation.dropped.is_sorted_by(|a, b| a.from < a.to && a.to <= b.from));
        }
    }
}
