//! The opening of a session: the stream and the backlog together show whether events were missed since the last event
//! seen. This module decides where a gap is.

use std::time::{Duration, Instant};

use super::continuity::{ContinuityCheck, ContinuityOutcome};
use super::{EngineCounter, Phase, PreviousSession, Session};
use crate::engine::EngineError;
use crate::error::chain;
use crate::event::Identity;
use crate::recorder::backlog::Backlog;
use crate::store::{GapChange, GapReason};

/// Maximum time without data before an outcome is forced. Stream and backlog arrive immediately. This is for an engine
/// that is stuck, or a server that is not an engine.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// The same limit if the backlog cannot be fetched, so that only the stream can send more.
const OUTCOME_TIMEOUT_WITHOUT_BACKLOG: Duration = Duration::from_secs(1);

/// State of a session whose outcome is not known yet.
#[derive(Debug)]
pub(super) struct Opening {
    continuity: ContinuityCheck,
    /// Time at which an outcome is forced.
    deadline: Instant,
    previous: PreviousSession,
    /// Time by which the engine's clock is ahead, in nanoseconds.
    skew_nano: Option<i64>,
}

impl Opening {
    pub(super) fn new(
        last_seen: Option<Identity>,
        previous: PreviousSession,
        skew_nano: Option<i64>,
        now: Instant,
    ) -> Opening {
        Opening { continuity: ContinuityCheck::new(last_seen), deadline: now + OUTCOME_TIMEOUT, previous, skew_nano }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Records an event of the stream.
    pub(super) fn record_event(&mut self, identity: Identity) {
        self.continuity.on_stream_event(identity);
    }

    /// Delays the forced outcome, because data arrived.
    pub(super) fn extend_deadline(&mut self, now: Instant) {
        let is_unavailable = self.continuity.is_backlog_unavailable();
        self.deadline = now + if is_unavailable { OUTCOME_TIMEOUT_WITHOUT_BACKLOG } else { OUTCOME_TIMEOUT };
    }

    /// Records the backlog. A backlog that did not end proves nothing, unless it contains the last event seen.
    pub(super) fn record_backlog(&mut self, identities: Vec<Identity>, is_usable: bool, now: Instant) {
        if is_usable {
            self.continuity.on_backlog(identities);
        } else {
            self.record_no_backlog(now);
        }
    }

    /// Records that the backlog cannot be compared.
    fn record_no_backlog(&mut self, now: Instant) {
        self.continuity.on_backlog_unavailable();
        self.deadline = now + OUTCOME_TIMEOUT_WITHOUT_BACKLOG;
    }
}

impl Session {
    /// Handles the first backlog.
    pub(super) fn on_first_backlog(&mut self, backlog: Result<Backlog, EngineError>) {
        let Phase::Opening(opening) = &mut self.phase else { return };
        let backlog = match backlog {
            Ok(backlog) => backlog,
            Err(e) => {
                tracing::debug!("{}", chain(&e));
                opening.record_no_backlog(self.now.instant);
                return;
            }
        };
        if let Some(incomplete) = &backlog.incomplete {
            tracing::debug!("{incomplete}");
        }
        self.checks.set_complete_until(backlog.fingerprints.last().copied());
        self.counter.iter_mut().for_each(|counter| counter.record_backlog(&backlog.identities));
        let last_seen = self.engine.last_seen;
        let known_index = last_seen.and_then(|seen| backlog.identities.iter().position(|identity| *identity == seen));
        // The events that arrived are part of the backlog, even if its end is unknown.
        let is_usable = backlog.incomplete.is_none() || known_index.is_some();
        opening.record_backlog(backlog.identities, is_usable, self.now.instant);
        // The stream should send these events too, so they are not counted here. Those that it leaves out are stored
        // anyway.
        self.outbox.prepend_backlog(&mut self.engine.healthcheck_gate, backlog.events, known_index, false);
        self.try_conclude();
        if !self.is_opening() {
            self.flush();
        }
    }

    /// Determines the outcome as soon as that is possible.
    pub(super) fn try_conclude(&mut self) {
        if let Phase::Opening(opening) = &self.phase
            && opening.continuity.outcome().is_some()
        {
            self.conclude();
            self.phase = Phase::Following { provisional_last_seen: None };
        }
    }

    /// Determines the outcome from what has arrived. Withdraws the gap that is open, or records one.
    pub(super) fn conclude(&mut self) {
        let following = Phase::Following { provisional_last_seen: None };
        let Phase::Opening(opening) = std::mem::replace(&mut self.phase, following) else { return };
        let Opening { continuity, previous, skew_nano, .. } = *opening;
        let last_seen = self.engine.last_seen;
        let from = last_seen.map(|seen| seen.time_nano);
        self.outbox.set_connected(skew_nano);
        // Without a pending gap, the report only stores the list of containers, if the stored one is too old.
        self.schedule.set_report_due();
        let outcome = continuity.conclude();
        if outcome != ContinuityOutcome::Continuous {
            self.counter.iter_mut().for_each(EngineCounter::reset);
        }
        let Some((to, reason, detail)) = self.gap_of(outcome, previous) else {
            self.outbox.set_gap(GapChange::Withdrawn { from });
            from.into_iter().for_each(|from| self.engine.clear_pending_gap(from));
            return;
        };
        // An idle engine has an empty backlog in session after session. It was never away in between, so the gap does
        // not grow.
        let is_idle = to.is_none() && continuity.is_backlog_received();
        if is_idle && std::mem::replace(&mut self.engine.is_idle, true) {
            return;
        }
        self.phase = Phase::Following { provisional_last_seen: last_seen };
        let to = Some(to.unwrap_or(self.now.nano));
        self.record_gap(GapChange::Reported { from, to, reason, detail: detail.map(Into::into) });
    }

    /// Returns end, reason and detail of the gap that an outcome means; `None` if nothing was missed.
    fn gap_of(
        &self,
        outcome: ContinuityOutcome,
        previous: PreviousSession,
    ) -> Option<(Option<i64>, GapReason, Option<&'static str>)> {
        Some(match outcome {
            ContinuityOutcome::Continuous => return None,
            ContinuityOutcome::FirstSession { backlog_start: to } if self.engine.was_recorded_elsewhere => {
                (to, GapReason::StoreFailed, Some("the previous file was moved, deleted or replaced"))
            }
            ContinuityOutcome::FirstSession { backlog_start: to } => (to, GapReason::FirstContact, None),
            ContinuityOutcome::Restarted { backlog_start: to } | ContinuityOutcome::Overrun { backlog_start: to }
                if previous.overflowed =>
            {
                (to, GapReason::BufferFull, Some("events arrived faster than they could be stored"))
            }
            ContinuityOutcome::Restarted { backlog_start: to } => (
                to,
                GapReason::EngineRestart,
                Some("the last event seen is not in the engine's backlog, which is not full"),
            ),
            ContinuityOutcome::Overrun { backlog_start: to } => (
                to,
                GapReason::Overrun,
                Some("the last event seen is not among the 256 events of the engine's backlog"),
            ),
        })
    }
}
