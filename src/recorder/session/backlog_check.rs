//! The backlog check: compares an engine's backlog with the events that its stream sent.
//!
//! Two consecutive backlogs that share an event prove that nothing is missing between them, whatever the stream left
//! out. If more events happened in between than a backlog keeps, the stream decides. A stream that has passed the new
//! backlog and left out one of its events drops events. Then nothing is proven about the events in between. This module
//! handles only fingerprints and reads no clock.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::cache::GenerationalCache;
use crate::event::{EventBatch, Fingerprint};
use crate::recorder::backlog::{BACKLOG_LEN, Backlog};

/// Minimum number of the latest events that are kept: more than can arrive during a backlog request.
const RECEIVED_EVENTS: usize = 8192;

/// Number of newer events after which the stream has passed a backlog. Concurrent events may arrive in another order,
/// so fewer would not be enough.
const CATCH_UP_EVENTS: usize = 32;

/// Maximum time that the stream may lag behind the backlog before the session reconnects.
const STREAM_CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// Minimum interval of backlog checks that start because half of the backlog is new. Up to some 2,000 events a second,
/// an event that the stream left out is then still in the backlog.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Number of consecutive failed backlog requests after which the engine counts as lost.
const MAX_FAILED_REQUESTS: u32 = 2;

/// Fingerprints of the latest events that the stream sent.
#[derive(Debug)]
pub(super) struct ReceivedEvents(GenerationalCache<Fingerprint, ()>);

impl Default for ReceivedEvents {
    fn default() -> Self {
        ReceivedEvents(GenerationalCache::new(RECEIVED_EVENTS))
    }
}

impl ReceivedEvents {
    fn insert(&mut self, event: Fingerprint) {
        self.0.insert(event, ());
    }

    fn contains(&self, event: &Fingerprint) -> bool {
        self.0.peek(event).is_some()
    }
}

/// The backlog checks of a session: when the next one is due, what is known up to when, and the one in progress.
#[derive(Debug)]
pub(super) struct BacklogChecks {
    /// Interval between checks; `None` if they are off.
    interval: Option<Duration>,
    next_at: Instant,
    /// True while a backlog request is not answered.
    is_requested: bool,
    requested_at: Instant,
    /// Number of events that arrived since the last request.
    events_since_request: usize,
    failed_requests: u32,
    /// Check in progress, and the time by which the stream must have caught up.
    current: Option<(BacklogCheck, Instant)>,
    /// Newest event of the last backlog. If that was empty, the first event after it. Everything up to this event is
    /// known.
    complete_until: Option<Fingerprint>,
    received: ReceivedEvents,
    /// Last event that the stream sent.
    last_received: Option<Fingerprint>,
    /// Events that the stream had left out at the last check.
    missing: HashSet<Fingerprint>,
}

/// A check that has finished.
#[derive(Debug)]
pub(super) struct FinishedCheck {
    /// The backlog, with the events that were not delivered yet.
    pub(super) backlog: Backlog,
    /// True if the stream has sent anything since the backlog arrived.
    pub(super) is_stream_active: bool,
    /// Number of events that the stream left out and that no earlier check found.
    pub(super) recovered: u64,
    /// Newest event of the previous backlog, if the stream left out more events than the backlog keeps.
    pub(super) loss_after: Option<Fingerprint>,
}

impl BacklogChecks {
    /// Creates the checks of a session that starts at `now`. With a drop counter, the first check is immediate, because
    /// the counter is compared from then on.
    pub(super) fn new(interval: Option<Duration>, now: Instant, has_counter: bool) -> BacklogChecks {
        let initial_delay = if has_counter { Duration::ZERO } else { interval.unwrap_or_default() };
        BacklogChecks {
            interval,
            next_at: now + initial_delay,
            is_requested: false,
            requested_at: now,
            events_since_request: 0,
            failed_requests: 0,
            current: None,
            complete_until: None,
            received: ReceivedEvents::default(),
            last_received: None,
            missing: HashSet::new(),
        }
    }

    /// Records an event that the stream sent.
    pub(super) fn record_event(&mut self, event: Fingerprint) {
        self.events_since_request += 1;
        self.received.insert(event);
        self.last_received = Some(event);
        self.complete_until.get_or_insert(event);
        if let Some((check, _)) = &mut self.current {
            check.record_event(&event);
        }
    }

    /// Returns true if a check may start.
    fn can_start(&self) -> bool {
        self.interval.is_some() && !self.is_requested && self.current.is_none()
    }

    /// Returns the time at which the next check is due, if one may start.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.can_start().then_some(self.next_at)
    }

    /// Returns true if a check is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_at().is_some_and(|at| at <= now)
    }

    /// Returns true if a check is due before its time, because half of the backlog is new.
    pub(super) fn is_due_early(&self, now: Instant) -> bool {
        self.can_start()
            && self.events_since_request >= BACKLOG_LEN / 2
            && now.saturating_duration_since(self.requested_at) >= MIN_INTERVAL
    }

    /// Delays the next check by the interval.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.next_at = now + self.interval.unwrap_or_default();
    }

    /// Records that the backlog was requested.
    pub(super) fn set_requested(&mut self, now: Instant) {
        (self.is_requested, self.requested_at, self.events_since_request) = (true, now, 0);
    }

    /// Records that the request was answered.
    pub(super) fn set_answered(&mut self) {
        self.is_requested = false;
    }

    /// Counts a failed request. Returns true if the engine counts as lost.
    pub(super) fn record_failure(&mut self) -> bool {
        self.failed_requests += 1;
        self.failed_requests >= MAX_FAILED_REQUESTS
    }

    /// Sets the newest event of the first backlog.
    pub(super) fn set_complete_until(&mut self, newest: Option<Fingerprint>) {
        self.complete_until = newest;
    }

    /// Returns the index of the newest known event in a backlog.
    pub(super) fn known_index(&self, backlog: &Backlog) -> Option<usize> {
        let known = self.complete_until?;
        backlog.fingerprints.iter().position(|fingerprint| *fingerprint == known)
    }

    /// Starts a check with a new backlog; `selected` returns the fingerprints of its events that pass the selection.
    /// Returns the events to deliver now: those of a backlog that shares an event with the previous one, if the stream
    /// left out any.
    pub(super) fn start(
        &mut self,
        backlog: Backlog,
        now: Instant,
        selected: impl FnOnce(&Backlog) -> Vec<Fingerprint>,
    ) -> EventBatch {
        self.failed_requests = 0;
        let newest = backlog.fingerprints.last().copied();
        let previous_newest = std::mem::replace(&mut self.complete_until, newest);
        let selected = {
            let has_missing = backlog.fingerprints.iter().any(|event| !self.received.contains(event));
            if has_missing { selected(&backlog) } else { Vec::new() }
        };
        let mut check = BacklogCheck::new(previous_newest, backlog, &self.received, self.last_received);
        check.selected = selected;
        // If the two backlogs share an event, every missing event is in the new one.
        let is_recoverable = check.overlaps_previous() && check.has_missing(&self.received);
        let events_to_deliver =
            if is_recoverable { std::mem::take(&mut check.backlog.events) } else { EventBatch::default() };
        self.current = Some((check, now + STREAM_CATCH_UP_TIMEOUT));
        events_to_deliver
    }

    /// Returns the time by which the stream must have caught up, if a check is in progress.
    pub(super) fn catch_up_deadline(&self) -> Option<Instant> {
        self.current.as_ref().map(|(_, deadline)| *deadline)
    }

    /// Returns true if the stream has caught up with the backlog of the check in progress.
    pub(super) fn is_caught_up(&self) -> bool {
        self.current.as_ref().is_some_and(|(check, _)| check.is_caught_up(&self.received))
    }

    /// Finishes the check in progress, if there is one.
    pub(super) fn finish(&mut self) -> Option<FinishedCheck> {
        let (check, _) = self.current.take()?;
        let is_stream_active = check.stream_active || check.is_caught_up(&self.received);
        // Every check finds a missing event again while it is in the backlog, so it counts only once.
        let missing = check.missing_selected(&self.received);
        let recovered = missing.difference(&self.missing).count() as u64;
        self.missing = missing;
        let is_loss = !check.overlaps_previous() && check.has_missing(&self.received);
        let loss_after = check.previous_newest.filter(|_| is_loss);
        Some(FinishedCheck { backlog: check.backlog, is_stream_active, recovered, loss_after })
    }

    /// Cancels the check in progress, and returns its backlog.
    pub(super) fn cancel(&mut self) -> Option<Backlog> {
        self.current.take().map(|(check, _)| check.backlog)
    }
}

/// A backlog that the stream may not have sent completely yet.
#[derive(Debug)]
struct BacklogCheck {
    /// Newest event of the previous backlog. Everything up to it is known.
    previous_newest: Option<Fingerprint>,
    backlog: Backlog,
    members: HashSet<Fingerprint>,
    /// True once the stream has sent an event of this backlog.
    stream_entered: bool,
    /// Number of newer events that the stream has sent.
    newer_count: usize,
    /// True once the stream has sent an event after this backlog arrived.
    stream_active: bool,
    /// Events of this backlog that pass the selection. Empty if the stream had sent the whole backlog when it arrived.
    selected: Vec<Fingerprint>,
}

impl BacklogCheck {
    /// Starts a check. `last_received` is the last event that the stream sent.
    fn new(
        previous_newest: Option<Fingerprint>,
        backlog: Backlog,
        received: &ReceivedEvents,
        last_received: Option<Fingerprint>,
    ) -> BacklogCheck {
        let members: HashSet<Fingerprint> = backlog.fingerprints.iter().copied().collect();
        let stream_entered = members.iter().any(|event| received.contains(event));
        let newer_count = usize::from(stream_entered && last_received.is_some_and(|last| !members.contains(&last)));
        BacklogCheck {
            previous_newest,
            backlog,
            members,
            stream_entered,
            newer_count,
            stream_active: false,
            selected: Vec::new(),
        }
    }

    /// Records an event that the stream sent.
    fn record_event(&mut self, event: &Fingerprint) {
        let is_member = self.members.contains(event);
        self.newer_count += usize::from(self.stream_entered && !is_member);
        self.stream_entered |= is_member;
        self.stream_active = true;
    }

    /// Returns true if nothing is missing between this backlog and the previous one.
    fn overlaps_previous(&self) -> bool {
        self.previous_newest.is_none_or(|since| self.members.contains(&since))
    }

    /// Returns true if the stream has passed this backlog.
    fn is_caught_up(&self, received: &ReceivedEvents) -> bool {
        self.newer_count >= CATCH_UP_EVENTS
            || self.backlog.fingerprints.last().is_none_or(|newest| received.contains(newest))
    }

    /// Selected events that the stream left out, once it has caught up.
    fn missing_selected(&self, received: &ReceivedEvents) -> HashSet<Fingerprint> {
        self.selected.iter().filter(|event| !received.contains(event)).copied().collect()
    }

    /// Returns true if the stream left out an event of this backlog, once it has caught up.
    fn has_missing(&self, received: &ReceivedEvents) -> bool {
        self.members.iter().any(|event| !received.contains(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fingerprint(n: i64) -> Fingerprint {
        Fingerprint { time_nano: n, hash: 0 }
    }

    fn backlog(newest: i64) -> Backlog {
        let fingerprints = ((newest - BACKLOG_LEN as i64 + 1).max(0)..=newest).map(fingerprint).collect();
        Backlog { fingerprints, ..Backlog::default() }
    }

    #[test]
    fn recent_events_are_kept_and_old_ones_dropped() {
        let mut received = ReceivedEvents::default();
        (0..RECEIVED_EVENTS as i64 * 5).for_each(|n| received.insert(fingerprint(n)));
        assert!((RECEIVED_EVENTS as i64 * 4..RECEIVED_EVENTS as i64 * 5).all(|n| received.contains(&fingerprint(n))));
        assert!(!received.contains(&fingerprint(0)));
    }

    proptest! {
        /// Events are numbered from 0, and the stream leaves some out. The backlog is fetched twice. Every loss that
        /// the second backlog can show is detected, and none is made up.
        #[test]
        fn a_visible_loss_is_detected_and_none_is_invented(
            first in 0i64..400, newer in 1i64..900, lag in 0i64..600,
            missing in proptest::collection::hash_set(0i64..1300, 0..4),
        ) {
            let newest = first + newer;
            let is_received = |n: &i64| !missing.contains(n);
            let mut received = ReceivedEvents::default();
            let stream_position = (newest - lag).max(0);
            let before: Vec<i64> = (0..=stream_position).filter(is_received).collect();
            before.iter().for_each(|n| received.insert(fingerprint(*n)));
            let mut check = BacklogCheck::new(Some(fingerprint(first)), backlog(newest), &received, before.last().map(|n| fingerprint(*n)));
            let mut after = (stream_position + 1..newest + 300).filter(is_received);
            while !check.is_caught_up(&received) {
                let Some(next) = after.next() else { break };
                received.insert(fingerprint(next));
                check.record_event(&fingerprint(next));
            }
            prop_assert!(check.is_caught_up(&received));
            let oldest = (newest - 255).max(0);
            prop_assert_eq!(check.overlaps_previous(), first >= oldest);
            let lost = (oldest..=newest).any(|n| !is_received(&n));
            prop_assert_eq!(check.has_missing(&received), lost);
        }
    }
}
