//! Determines whether events were missed between the last event seen and the start of a session.
//!
//! An engine keeps its last 256 events, the backlog, and does not number them. The backlog is a contiguous part of the
//! engine's history. So if it still contains the last event seen, it also contains every later event, and nothing was
//! missed.
//!
//! Each session opens the stream first, from the start of the backlog, and requests the backlog alone beside it. The
//! stream does not show where the backlog ends. The second response ends, so it shows how long the backlog is and
//! which event is the newest.
//!
//! Handles only identities of events, and reads no clock.

use std::collections::HashSet;

use crate::event::Identity;
use crate::recorder::backlog::BACKLOG_LEN;

/// Result of comparing a new session with the last event seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContinuityOutcome {
    /// No event of this engine has been seen before.
    FirstSession {
        /// Time of the oldest event in the backlog, if there is one.
        backlog_start: Option<i64>,
    },
    /// The backlog still contains the last event seen: nothing was missed.
    Continuous,
    /// The backlog is not full and does not contain the last event seen: the engine restarted.
    Restarted {
        /// Time of the oldest event in the backlog, if there is one.
        backlog_start: Option<i64>,
    },
    /// The backlog is full and does not contain the last event seen: newer events pushed it out.
    Overrun {
        /// Time of the oldest event in the backlog.
        backlog_start: Option<i64>,
    },
}

#[derive(Debug)]
enum BacklogState {
    Pending,
    Unavailable,
    Received(Vec<Identity>),
}

/// Collects the events of a session until its outcome is known.
#[derive(Debug)]
pub(super) struct ContinuityCheck {
    last_seen: Option<Identity>,
    backlog: BacklogState,
    first: Option<Identity>,
    received: HashSet<Identity>,
}

impl ContinuityCheck {
    /// Starts the check of a new session; `last_seen` is the last event seen from this engine before it.
    pub(super) fn new(last_seen: Option<Identity>) -> Self {
        ContinuityCheck { last_seen, backlog: BacklogState::Pending, first: None, received: HashSet::new() }
    }

    /// Adds an event from the stream, which was opened from the start of the backlog.
    pub(super) fn on_stream_event(&mut self, event: Identity) {
        self.first.get_or_insert(event);
        self.received.insert(event);
    }

    /// Sets the backlog, oldest event first. It must have been requested after the stream was opened.
    pub(super) fn on_backlog(&mut self, events: Vec<Identity>) {
        self.backlog = BacklogState::Received(events);
    }

    /// Records that the backlog could not be fetched.
    pub(super) fn on_backlog_unavailable(&mut self) {
        self.backlog = BacklogState::Unavailable;
    }

    /// Returns true if the backlog could not be fetched, so that only the stream can decide.
    pub(super) fn is_backlog_unavailable(&self) -> bool {
        matches!(self.backlog, BacklogState::Unavailable)
    }

    /// Returns true if the backlog was received.
    pub(super) fn is_backlog_received(&self) -> bool {
        matches!(self.backlog, BacklogState::Received(_))
    }

    /// Returns the outcome, or `None` while the stream must send more events first.
    ///
    /// The outcome is `None` until the stream has caught up with the last event seen, or with the newest event of the
    /// backlog. So from the outcome on, each event that arrives becomes the last event seen.
    pub(super) fn outcome(&self) -> Option<ContinuityOutcome> {
        let Some(last_seen) = self.last_seen else {
            let has_events = self.first.is_some() || matches!(self.backlog, BacklogState::Received(_));
            return has_events.then(|| self.conclude());
        };
        let caught_up = match &self.backlog {
            _ if self.received.contains(&last_seen) => true,
            BacklogState::Pending => false,
            BacklogState::Unavailable => self.received.len() >= BACKLOG_LEN,
            BacklogState::Received(events) if events.contains(&last_seen) => false,
            BacklogState::Received(events) => events.last().is_none_or(|newest| self.received.contains(newest)),
        };
        caught_up.then(|| self.conclude())
    }

    /// Returns the outcome from the events so far, without waiting for more.
    pub(super) fn conclude(&self) -> ContinuityOutcome {
        let backlog: &[Identity] = if let BacklogState::Received(events) = &self.backlog { events } else { &[] };
        let backlog_start = self.first.or(backlog.first().copied()).map(|event| event.time_nano);
        let Some(last_seen) = self.last_seen else {
            return ContinuityOutcome::FirstSession { backlog_start };
        };
        let backlog_len = match &self.backlog {
            BacklogState::Received(events) => events.len(),
            BacklogState::Pending | BacklogState::Unavailable => self.received.len(),
        };
        if self.received.contains(&last_seen) || backlog.contains(&last_seen) {
            ContinuityOutcome::Continuous
        } else if backlog_len < BACKLOG_LEN {
            ContinuityOutcome::Restarted { backlog_start }
        } else {
            ContinuityOutcome::Overrun { backlog_start }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: i64) -> Identity {
        Identity { time_nano: n, digest: [0; 16] }
    }

    fn ids(range: std::ops::Range<i64>) -> Vec<Identity> {
        range.map(id).collect()
    }

    #[test]
    fn continuity_is_established_when_the_last_seen_event_reappears() {
        let mut c = ContinuityCheck::new(Some(id(5)));
        for event in ids(1..5) {
            c.on_stream_event(event);
            assert_eq!(c.outcome(), None);
        }
        c.on_stream_event(id(5));
        assert_eq!(c.outcome(), Some(ContinuityOutcome::Continuous));
    }

    #[test]
    fn the_stream_must_catch_up_with_a_backlog_that_contains_the_last_seen_event() {
        let mut c = ContinuityCheck::new(Some(id(5)));
        c.on_backlog(ids(1..9));
        assert_eq!(c.outcome(), None);
        assert_eq!(c.conclude(), ContinuityOutcome::Continuous);
    }

    #[test]
    fn a_partial_backlog_without_the_last_seen_event_is_a_restart() {
        let mut c = ContinuityCheck::new(Some(id(5)));
        c.on_backlog(ids(10..12));
        assert_eq!(c.outcome(), None, "the stream must send the backlog first");
        c.on_stream_event(id(10));
        assert_eq!(c.outcome(), None);
        c.on_stream_event(id(11));
        assert_eq!(c.outcome(), Some(ContinuityOutcome::Restarted { backlog_start: Some(10) }));

        let mut c = ContinuityCheck::new(Some(id(5)));
        c.on_backlog(Vec::new());
        assert_eq!(c.outcome(), Some(ContinuityOutcome::Restarted { backlog_start: None }));
    }

    #[test]
    fn a_full_backlog_without_the_last_seen_event_is_an_overrun() {
        let mut c = ContinuityCheck::new(Some(id(5)));
        c.on_backlog(ids(10..266));
        ids(9..265).into_iter().for_each(|event| c.on_stream_event(event));
        assert_eq!(c.outcome(), None);
        c.on_stream_event(id(265));
        assert_eq!(c.outcome(), Some(ContinuityOutcome::Overrun { backlog_start: Some(9) }));
    }

    #[test]
    fn without_a_backlog_the_stream_alone_decides() {
        let mut c = ContinuityCheck::new(Some(id(5)));
        c.on_backlog_unavailable();
        ids(10..265).into_iter().for_each(|event| c.on_stream_event(event));
        assert_eq!(c.outcome(), None);
        assert_eq!(c.conclude(), ContinuityOutcome::Restarted { backlog_start: Some(10) });
        c.on_stream_event(id(265));
        assert_eq!(c.outcome(), Some(ContinuityOutcome::Overrun { backlog_start: Some(10) }));
    }

    #[test]
    fn the_first_session_needs_no_last_seen_event() {
        let mut c = ContinuityCheck::new(None);
        assert_eq!(c.outcome(), None);
        c.on_backlog(Vec::new());
        assert_eq!(c.outcome(), Some(ContinuityOutcome::FirstSession { backlog_start: None }));
        let mut c = ContinuityCheck::new(None);
        c.on_stream_event(id(3));
        assert_eq!(c.outcome(), Some(ContinuityOutcome::FirstSession { backlog_start: Some(3) }));
    }

    proptest! {
        /// Holds for any number of events while away, and for any interleaving of the two responses. If the engine
        /// no longer has the last event seen, the outcome is a gap; if it still has that event, nothing was missed.
        #[test]
        fn the_outcome_matches_what_the_engine_kept(
            restarted: bool, missed in 0i64..600, between in 0i64..20, order in proptest::collection::vec(any::<bool>(), 0..40),
        ) {
            // Events 1..=1000 are older, and 1000 is the last event seen. `missed` more events happen before the
            // stream is opened, and `between` more before the backlog is requested.
            let oldest = if restarted { 1001 } else { 1 };
            let backlog_up_to = |newest: i64| ids(oldest.max(newest - 255)..newest + 1);
            let at_open = 1000 + missed;
            let mut stream = backlog_up_to(at_open);
            stream.extend(ids(at_open + 1..at_open + between + 1));
            let is_in_backlog = stream.contains(&id(1000));
            let backlog = backlog_up_to(at_open + between);
            let full = backlog.len() == BACKLOG_LEN;
            let mut c = ContinuityCheck::new(Some(id(1000)));
            let mut stream = stream.into_iter();
            let mut backlog = Some(backlog);
            let mut order = order.into_iter();
            let outcome = loop {
                if let Some(outcome) = c.outcome() {
                    break outcome;
                }
                if order.next().unwrap_or(true) && let Some(backlog) = backlog.take() {
                    c.on_backlog(backlog);
                } else if let Some(event) = stream.next() {
                    c.on_stream_event(event);
                } else if backlog.is_none() {
                    prop_assert!(false, "no outcome after all events were received");
                }
            };
            match outcome {
                ContinuityOutcome::Continuous => prop_assert!(is_in_backlog),
                ContinuityOutcome::Restarted { .. } => prop_assert!(!is_in_backlog && !full),
                ContinuityOutcome::Overrun { .. } => prop_assert!(!is_in_backlog && full),
                ContinuityOutcome::FirstSession { .. } => prop_assert!(false),
            }
        }
    }
}
