//! The backlog check: compares an engine's backlog with the events that its stream sent.
//!
//! Two consecutive backlogs that share an event prove that nothing is missing between them, whatever the stream left
//! out. If more events happened in between than a backlog keeps, the stream decides. A stream that has passed the new
//! backlog and left out one of its events drops events. Then nothing is proven about the events in between. This module
//! handles only fingerprints and reads no clock.

use std::collections::HashSet;

use super::backlog::Backlog;
use crate::event::Fingerprint;

/// Minimum number of the latest events that are kept: more than can arrive during a backlog request.
const GENERATION_SIZE: usize = 8192;

/// Number of newer events after which the stream has passed a backlog. Concurrent events may arrive in another order,
/// so fewer would not be enough.
const CATCH_UP_EVENTS: usize = 32;

/// Fingerprints of the latest events that the stream sent.
#[derive(Debug, Default)]
pub(super) struct ReceivedEvents {
    young: HashSet<Fingerprint>,
    old: HashSet<Fingerprint>,
}

impl ReceivedEvents {
    pub(super) fn insert(&mut self, event: Fingerprint) {
        if self.young.len() == GENERATION_SIZE {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(event);
    }

    fn contains(&self, event: &Fingerprint) -> bool {
        self.young.contains(event) || self.old.contains(event)
    }
}

/// A backlog that the stream may not have sent completely yet.
#[derive(Debug)]
pub(super) struct BacklogCheck {
    /// Newest event of the previous backlog. Everything up to it is known.
    pub(super) previous_newest: Option<Fingerprint>,
    pub(super) backlog: Backlog,
    members: HashSet<Fingerprint>,
    /// True once the stream has sent an event of this backlog.
    stream_entered: bool,
    /// Number of newer events that the stream has sent.
    newer_count: usize,
    /// True once the stream has sent an event after this backlog arrived.
    pub(super) stream_active: bool,
    /// Events of this backlog that pass the selection. Empty if the stream had sent the whole backlog when it arrived.
    pub(super) selected: Vec<Fingerprint>,
}

impl BacklogCheck {
    /// Starts a check. `last_received` is the last event that the stream sent.
    pub(super) fn new(
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
    pub(super) fn record_event(&mut self, event: &Fingerprint) {
        let is_member = self.members.contains(event);
        self.newer_count += usize::from(self.stream_entered && !is_member);
        self.stream_entered |= is_member;
        self.stream_active = true;
    }

    /// Returns true if nothing is missing between this backlog and the previous one.
    pub(super) fn overlaps_previous(&self) -> bool {
        self.previous_newest.is_none_or(|since| self.members.contains(&since))
    }

    /// Returns true if the stream has passed this backlog.
    pub(super) fn is_caught_up(&self, received: &ReceivedEvents) -> bool {
        self.newer_count >= CATCH_UP_EVENTS
            || self.backlog.fingerprints.last().is_none_or(|newest| received.contains(newest))
    }

    /// Selected events that the stream left out, once it has caught up.
    pub(super) fn missing_selected(&self, received: &ReceivedEvents) -> HashSet<Fingerprint> {
        self.selected.iter().filter(|event| !received.contains(event)).copied().collect()
    }

    /// Returns true if the stream left out an event of this backlog, once it has caught up.
    pub(super) fn has_missing(&self, received: &ReceivedEvents) -> bool {
        self.members.iter().any(|event| !received.contains(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::continuity::BACKLOG_LEN;
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
        (0..GENERATION_SIZE as i64 * 5).for_each(|n| received.insert(fingerprint(n)));
        assert!((GENERATION_SIZE as i64 * 4..GENERATION_SIZE as i64 * 5).all(|n| received.contains(&fingerprint(n))));
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
