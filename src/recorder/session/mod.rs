//! One session with an engine, from the opening of its stream to its end: what is delivered to the store, and where a
//! gap is.
//!
//! A session does no input and output, and reads no clock. It takes an [`Input`] with the time at which it happened, and
//! returns the [`Action`]s to take. [`Session::deadline`] is the time at which it wants to be called again. So a test
//! can drive it through every interleaving.
//!
//! Until continuity is established or a gap is found, the session holds its events back. The rules are in the parts:
//! [`continuity`], [`backlog_check`], [`drop_counter`], [`healthcheck_gate`]. The [`outbox`] is what is not delivered yet.

mod backlog_check;
mod backlog_only;
mod continuity;
mod drop_counter;
mod engine_state;
mod healthcheck_gate;
mod opening;
mod outbox;
mod schedule;
#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use self::backlog_check::{BacklogChecks, FinishedCheck};
use self::backlog_only::BacklogOnly;
use self::opening::Opening;
use self::outbox::Outbox;
use self::schedule::Schedule;
use super::backlog::{BACKLOG_LEN, Backlog, rejection};
use super::clock_skew::Skew;
use super::config::Config;
use super::gaps::PendingGap;
use crate::engine::{EngineError, EngineInfo};
use crate::error::chain;
use crate::event::{Event, EventBatch, Identity};
use crate::query::time::rfc3339;
use crate::store::{Delivery, GapChange, GapReason, SourceKey};
use crate::stream::{Decoder, Item, StreamEnd};

pub(super) use self::drop_counter::{CounterReadings, EngineCounter};
pub(super) use self::engine_state::EngineState;
pub(super) use self::healthcheck_gate::{ContainerReply, ContainerRequest, HealthcheckGate};

/// The time of an input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Instant of the monotonic clock, for durations.
    pub(super) instant: Instant,
    /// Time of the wall clock, in nanoseconds since the epoch.
    pub(super) nano: i64,
}

/// An event in the world of a session: data arrived, or time passed.
#[derive(Debug)]
pub(super) enum Input {
    /// Bytes of the stream arrived: all chunks that were there.
    Bytes(Vec<Bytes>),
    /// The stream ended, cleanly or not.
    StreamEnded(Result<(), EngineError>),
    /// The backlog was answered.
    Backlog(Box<BacklogReply>),
    /// A request for containers was answered.
    Container(ContainerReply),
    /// A gap report is ready.
    GapReport(Box<GapReportReply>),
    /// The engine's version was answered, as JSON.
    Version(Result<String, EngineError>),
    /// The engine's clock was compared.
    Clock(Result<(EngineInfo, Option<Skew>), EngineError>),
    /// A ping was answered.
    Pong(Result<(), EngineError>),
    /// The deadline was reached.
    DeadlineReached,
    /// A delivery was queued; its last event seen, if it has one.
    Queued(Option<Identity>),
    /// A delivery was refused, because the queue is full.
    Refused(Box<Delivery>),
    /// The queue has room again.
    RoomInQueue,
    /// The session must end: it delivers everything that arrived.
    Closing,
}

/// A task for the driver.
#[derive(Debug)]
pub(super) enum Action {
    /// Queue this delivery, and report the result.
    Deliver(Box<Delivery>),
    /// Queue this delivery if there is room. Events need the space more.
    DeliverIfRoom(Box<Delivery>),
    /// Fetch the backlog, with the engine's counter around the request.
    FetchBacklog,
    /// Request containers.
    RequestContainers(ContainerRequest),
    /// Create the report on this gap. Without one, only the list of containers is renewed, if it is too old.
    ReportGap(Option<PendingGap>),
    /// Fetch the engine's version.
    FetchVersion,
    /// Compare the engine's clock with that of this machine.
    CompareClocks,
    /// Ping the engine.
    Ping,
    /// End the session.
    End(Result<SessionEnd, EngineError>),
}

/// Backlog of an engine, and its counter around that request if it has a metrics page.
#[derive(Debug)]
pub(super) struct BacklogReply {
    pub(super) backlog: Result<Backlog, EngineError>,
    pub(super) readings: Option<Result<CounterReadings, String>>,
}

/// Report on a gap, and what to store of it, if anything.
#[derive(Debug)]
pub(super) struct GapReportReply {
    pub(super) gap: Option<PendingGap>,
    pub(super) delivery: Option<Delivery>,
}

/// End of a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// The stream ended, as it does when the engine stops, or it stopped sending events that are in the backlog.
    StreamEnded,
    /// The queue was full. It has room now.
    Overflowed,
    /// The backlog is queued, and nothing else was requested.
    Completed,
}

/// How earlier sessions ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PreviousSession {
    /// True if events were discarded because the queue was full.
    pub(super) overflowed: bool,
    /// True if the engine could not be reached for a while.
    pub(super) unreachable: bool,
}

/// Everything that a session needs to begin.
#[derive(Debug)]
pub(super) struct SessionStart {
    pub(super) config: Arc<Config>,
    pub(super) source: Arc<SourceKey>,
    pub(super) engine: EngineState,
    pub(super) counter: Option<EngineCounter>,
    pub(super) previous: PreviousSession,
    /// Time by which the engine's clock is ahead.
    pub(super) skew: Option<Skew>,
}

/// State that a session leaves to the next one.
#[derive(Debug)]
pub(super) struct SessionRest {
    pub(super) engine: EngineState,
    pub(super) counter: Option<EngineCounter>,
    /// True if the session has reached an outcome.
    pub(super) has_outcome: bool,
}

/// Phase of a session.
#[derive(Debug)]
enum Phase {
    /// Continuity is not established yet.
    Opening(Box<Opening>),
    /// The outcome is known.
    Following {
        /// Last event seen before this session, if the outcome was forced. If that event arrives after all, nothing was
        /// missed.
        provisional_last_seen: Option<Identity>,
    },
}

/// A session with an engine.
#[derive(Debug)]
pub(super) struct Session {
    config: Arc<Config>,
    source: Arc<SourceKey>,
    engine: EngineState,
    now: Now,
    decoder: Decoder,
    phase: Phase,
    /// Progress of a session that reads only the backlog.
    backlog_only: Option<BacklogOnly>,
    checks: BacklogChecks,
    /// Counter of the engine, if it has a metrics page.
    counter: Option<EngineCounter>,
    outbox: Outbox,
    schedule: Schedule,
    /// Actions to take.
    actions: Vec<Action>,
}

impl Session {
    /// Starts a session whose stream was opened at `now`. The first actions are those of [`start`](Self::start).
    pub(super) fn new(start: SessionStart, now: Now) -> Session {
        let SessionStart { config, source, mut engine, mut counter, previous, skew } = start;
        engine.healthcheck_gate.start_session();
        // An engine that was away may have restarted, and its empty backlog then proves nothing.
        engine.is_idle &= !previous.unreachable;
        counter.iter_mut().for_each(EngineCounter::start_session);
        let opening = Opening::new(engine.last_seen, previous, skew.map(|skew| skew.nano), now.instant);
        Session {
            now,
            decoder: Decoder::with_limit(config.max_event),
            phase: Phase::Opening(Box::new(opening)),
            backlog_only: None,
            checks: BacklogChecks::new(config.backlog_check_interval, now.instant, counter.is_some()),
            counter,
            outbox: Outbox::new(config.clone(), source.clone()),
            schedule: Schedule::new(&config, now.instant),
            actions: Vec::new(),
            config,
            source,
            engine,
        }
    }

    /// Returns the actions with which the session begins.
    pub(super) fn start(&mut self) -> Vec<Action> {
        self.fetch_backlog();
        if self.backlog_only.is_none() {
            self.request_what_is_due();
        }
        std::mem::take(&mut self.actions)
    }

    /// Handles an input, and returns the actions to take.
    pub(super) fn on(&mut self, now: Now, input: Input) -> Vec<Action> {
        self.now = now;
        match input {
            Input::Queued(last_seen) => self.on_queued(last_seen),
            Input::Refused(delivery) => self.outbox.keep_refused(*delivery),
            Input::RoomInQueue => self.on_room_in_queue(),
            Input::Closing => self.close(),
            // The next session finds what is discarded here in the backlog, or stores a gap.
            _ if self.is_overflowed() && self.backlog_only.is_none() => {}
            input if self.backlog_only.is_some() => self.on_backlog_only_input(input),
            input => {
                self.on_engine_input(input);
                self.request_what_is_due();
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// Returns the time at which the session wants [`Input::DeadlineReached`], if any.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.is_overflowed() {
            return None;
        }
        if let Some(backlog_only) = &self.backlog_only {
            return backlog_only.deadline();
        }
        let outcome = match &self.phase {
            Phase::Opening(opening) => Some(opening.deadline()),
            Phase::Following { .. } => None,
        };
        let next_check = self.checks.next_at().filter(|_| outcome.is_none());
        let deadlines = [outcome, self.checks.catch_up_deadline(), next_check, self.outbox.hold_until()];
        deadlines.into_iter().chain(self.schedule.deadlines()).flatten().min()
    }

    /// Returns true if the queue refused a delivery, and the session waits for room. Until then nothing else may be
    /// queued, because the order of deliveries must not change.
    pub(super) fn is_overflowed(&self) -> bool {
        self.refused_bytes().is_some()
    }

    /// Returns the size of the refused delivery that waits for room, in bytes.
    pub(super) fn refused_bytes(&self) -> Option<usize> {
        self.outbox.refused_bytes()
    }

    /// Returns true while continuity is not established.
    fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Opening(_))
    }

    /// Ends the session. Everything that arrived must have been delivered with [`Input::Closing`].
    pub(super) fn into_rest(mut self) -> SessionRest {
        self.engine.undelivered = self.outbox.take_refused();
        SessionRest { has_outcome: !self.is_opening(), engine: self.engine, counter: self.counter }
    }

    /// Handles an input of the engine, or the deadline.
    fn on_engine_input(&mut self, input: Input) {
        match input {
            Input::Bytes(chunks) => {
                for bytes in &chunks {
                    self.decode_items(|decoder, on_item| decoder.push(bytes, on_item));
                }
                self.on_stream_data();
            }
            Input::StreamEnded(end) => {
                self.decode_items(|decoder, on_item| {
                    if decoder.finish(on_item) == StreamEnd::Truncated {
                        tracing::debug!("the stream ended inside an event");
                    }
                });
                self.on_stream_data();
                self.end(end.map(|()| SessionEnd::StreamEnded));
            }
            Input::Backlog(reply) => self.on_backlog_reply(*reply),
            Input::Container(reply) => self.on_container_reply(reply),
            Input::GapReport(reply) => self.on_gap_report(*reply),
            Input::Version(reply) => self.on_version(reply),
            Input::Clock(reply) => self.on_clock(reply),
            Input::Pong(reply) => self.on_pong(reply),
            Input::DeadlineReached => self.on_deadline(),
            Input::Queued(_) | Input::Refused(_) | Input::RoomInQueue | Input::Closing => {
                unreachable!("`on` handles these inputs")
            }
        }
    }

    /// Takes the actions that are due whatever happened: a gap report, an early backlog check, requests for containers.
    fn request_what_is_due(&mut self) {
        if self.schedule.take_due_report(self.now.instant) {
            self.actions.push(Action::ReportGap(self.engine.pending_gap.clone()));
        }
        if !self.is_opening() && self.checks.is_due_early(self.now.instant) {
            self.fetch_backlog();
        }
        self.request_containers();
    }

    fn request_containers(&mut self) {
        let requests = self.engine.healthcheck_gate.next_requests();
        self.actions.extend(requests.into_iter().map(Action::RequestContainers));
    }

    fn fetch_backlog(&mut self) {
        self.checks.set_requested(self.now.instant);
        self.counter.iter_mut().for_each(EngineCounter::set_requested);
        self.actions.push(Action::FetchBacklog);
    }

    fn end(&mut self, end: Result<SessionEnd, EngineError>) {
        self.actions.push(Action::End(end));
    }

    fn decode_items(&mut self, decode: impl FnOnce(&mut Decoder, &mut dyn FnMut(Item<'_>))) {
        let mut decoder = std::mem::take(&mut self.decoder);
        decode(&mut decoder, &mut |item| match item {
            Item::Event(event) => self.on_event(&event),
            Item::Rejected(rejected) => self.outbox.add_rejected(rejection(&rejected)),
        });
        self.decoder = decoder;
    }

    /// Handles an event of the stream.
    fn on_event(&mut self, event: &Event<'_>) {
        let classification = self.engine.healthcheck_gate.classify(event, true);
        let is_unchanged = self.outbox.add_event(event, classification);
        self.checks.record_event(event.fingerprint());
        // An identity costs a hash of the whole event. While a stream is only followed, just the last event needs one.
        let is_identity_unused =
            matches!(self.phase, Phase::Following { provisional_last_seen: None }) && self.counter.is_none();
        if is_unchanged && is_identity_unused {
            self.outbox.mark_last_added();
            return;
        }
        let identity = event.identity();
        match &mut self.phase {
            Phase::Opening(opening) => {
                opening.record_event(identity);
                if self.engine.last_seen == Some(identity) {
                    self.outbox.mark_seen_before();
                    self.engine.healthcheck_gate.reset_uncounted();
                }
            }
            Phase::Following { provisional_last_seen } => {
                if provisional_last_seen.take_if(|seen| *seen == identity).is_some() {
                    self.engine.clear_pending_gap(identity.time_nano);
                    self.outbox.set_gap(GapChange::Withdrawn { from: Some(identity.time_nano) });
                }
            }
        }
        if let Some(counter) = &mut self.counter {
            counter.record_stream_event(identity);
        }
        self.outbox.set_last_event(identity);
    }

    /// Handles data from the stream, after its events were added to the outbox.
    fn on_stream_data(&mut self) {
        self.try_conclude();
        match &mut self.phase {
            Phase::Opening(opening) => opening.extend_deadline(self.now.instant),
            Phase::Following { .. } => {
                self.try_finish_backlog_check();
                self.flush();
            }
        }
    }

    /// Handles a backlog reply. The first one decides about continuity; later ones show what the stream left out.
    fn on_backlog_reply(&mut self, reply: BacklogReply) {
        self.checks.set_answered();
        if let Some(counter) = &mut self.counter {
            counter.set_readings(reply.readings);
        }
        match reply.backlog {
            backlog if self.is_opening() => self.on_first_backlog(backlog),
            Ok(backlog) if backlog.incomplete.is_none() => self.check_backlog(backlog),
            Ok(backlog) => {
                self.count_events(&backlog.identities);
                let known_index = self.checks.known_index(&backlog);
                self.deliver_backlog(backlog.events, known_index);
            }
            Err(e) => {
                tracing::debug!("{}", chain(&e));
                if self.checks.record_failure() {
                    self.end(Err(e));
                }
            }
        }
    }

    /// Starts a backlog check with a new backlog.
    fn check_backlog(&mut self, backlog: Backlog) {
        let known_index = self.checks.known_index(&backlog);
        let selection = &self.config.selection;
        let events_to_deliver = self.checks.start(backlog, self.now.instant, |backlog| {
            let candidates = backlog.events.iter().zip(&backlog.fingerprints);
            let selected = candidates.filter(|((event, _), _)| selection.matches(event));
            selected.map(|(_, fingerprint)| *fingerprint).collect()
        });
        self.try_finish_backlog_check();
        self.deliver_backlog(events_to_deliver, known_index);
        self.flush();
    }

    /// Finishes the backlog check if the stream has caught up with the backlog.
    fn try_finish_backlog_check(&mut self) {
        if self.checks.is_caught_up() && !self.outbox.has_gap() {
            self.finish_backlog_check();
        }
    }

    /// Finishes the backlog check. Events that the stream left out are taken from the backlog; if they are not in it, a
    /// gap is stored. Returns true if the stream has sent anything since the backlog arrived.
    fn finish_backlog_check(&mut self) -> bool {
        let Some(finished) = self.checks.finish() else { return true };
        let FinishedCheck { backlog, is_stream_active, recovered, loss_after } = finished;
        self.outbox.add_recovered(recovered);
        if let (Some(previous_newest), Some(oldest)) = (loss_after, backlog.fingerprints.first()) {
            let is_full = backlog.fingerprints.len() >= BACKLOG_LEN;
            let reason = if is_full { GapReason::Overrun } else { GapReason::EngineRestart };
            // A stream that no longer sends anything was complete until its last event.
            let last = self.outbox.last_event().or(self.engine.last_seen).map(|last| last.time_nano);
            let last = last.filter(|last| !is_stream_active && *last <= oldest.time_nano);
            self.counter.iter_mut().for_each(EngineCounter::reset);
            self.record_gap(GapChange::Reported {
                from: Some(last.unwrap_or(previous_newest.time_nano)),
                to: Some(oldest.time_nano),
                reason,
                detail: Some("the stream left out more events than the backlog keeps".into()),
            });
            self.outbox.prepend_backlog(&mut self.engine.healthcheck_gate, backlog.events, None, true);
            return is_stream_active;
        }
        self.compare_counter(&backlog, is_stream_active);
        is_stream_active
    }

    /// Compares the engine's counter with the events that arrived, and records a gap for those that are certainly lost.
    fn compare_counter(&mut self, backlog: &Backlog, is_stream_active: bool) {
        let Some(counter) = &mut self.counter else { return };
        if !is_stream_active {
            counter.clear_readings();
            counter.record_backlog(&backlog.identities);
        } else if let Some(dropped) = counter.compare(&backlog.identities) {
            self.record_gap(GapChange::Reported {
                from: Some(dropped.from),
                to: Some(dropped.to),
                reason: GapReason::DroppedByEngine,
                detail: Some(format!("the engine counted {} events, {} arrived", dropped.counted, dropped.received)),
            });
        }
    }

    fn count_events(&mut self, identities: &[Identity]) {
        self.counter.iter_mut().for_each(|counter| counter.record_backlog(identities));
    }

    /// Logs a gap, adds it to the outbox, and requests a gap report.
    fn record_gap(&mut self, gap: GapChange) {
        if let GapChange::Reported { from, to, reason, .. } = &gap
            && *reason != GapReason::FirstContact
        {
            let (from, to) = (from.map(rfc3339), to.map(rfc3339));
            tracing::warn!(source = self.source.name, reason = reason.as_str(), from, to, "gap");
        }
        self.engine.pending_gap = PendingGap::from_change(&gap);
        self.outbox.set_gap(gap);
        self.schedule.set_report_due();
    }

    /// Handles a gap report. Delivers it, unless the gap was withdrawn or replaced by another. If the report failed, the
    /// next session requests it again.
    fn on_gap_report(&mut self, GapReportReply { gap, delivery }: GapReportReply) {
        self.schedule.set_report_answered();
        if gap != self.engine.pending_gap {
            self.schedule.set_report_due();
        } else if let Some(delivery) = delivery {
            self.engine.pending_gap = None;
            self.deliver(delivery);
        }
    }

    /// Handles a reply about containers.
    fn on_container_reply(&mut self, reply: ContainerReply) {
        let gate = &mut self.engine.healthcheck_gate;
        gate.on_reply(reply);
        if (self.outbox.hold_until().is_some() || gate.has_unstored_commands()) && !self.is_opening() {
            self.flush();
        }
    }

    /// Does what is due now.
    fn on_deadline(&mut self) {
        let now = self.now.instant;
        let is_reached = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        match &self.phase {
            Phase::Opening(opening) => {
                if opening.deadline() <= now {
                    self.conclude();
                    self.flush();
                }
            }
            Phase::Following { .. } if self.checks.is_due(now) => {
                self.checks.postpone(now);
                self.schedule.refresh_containers(now);
                self.fetch_backlog();
            }
            Phase::Following { .. } => {}
        }
        if is_reached(self.checks.catch_up_deadline()) {
            let is_stream_active = self.finish_backlog_check();
            self.flush();
            if !is_stream_active {
                tracing::debug!("the stream of {} omits events that are in the backlog", self.source.name);
                self.end(Ok(SessionEnd::StreamEnded));
            }
        }
        if is_reached(self.outbox.hold_until()) {
            self.flush();
        }
        self.actions.extend(self.schedule.due_requests(now));
    }

    /// Delivers the outbox, unless it must be held back.
    fn flush(&mut self) {
        if let Some(delivery) = self.outbox.take_unless_held(&mut self.engine.healthcheck_gate, self.now) {
            self.deliver(delivery);
        }
    }

    /// Delivers the events of a backlog alone.
    fn deliver_backlog(&mut self, events: EventBatch, known_index: Option<usize>) {
        let gate = &mut self.engine.healthcheck_gate;
        if let Some(delivery) = self.outbox.backlog_delivery(gate, self.now, events, known_index) {
            self.deliver(delivery);
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        if !delivery.is_empty() {
            self.actions.push(Action::Deliver(Box::new(delivery)));
        }
    }

    /// Delivers again what the queue refused.
    fn deliver_refused(&mut self) {
        let refused = self.outbox.take_refused();
        self.actions.extend(refused.into_iter().map(|delivery| Action::Deliver(Box::new(delivery))));
    }

    fn on_queued(&mut self, last_seen: Option<Identity>) {
        if let Some(last_seen) = last_seen {
            self.engine.set_last_seen(last_seen);
        }
        if self.backlog_only.is_some() {
            self.on_backlog_only_queued();
        }
    }

    fn on_room_in_queue(&mut self) {
        self.deliver_refused();
        if self.backlog_only.is_none() {
            self.end(Ok(SessionEnd::Overflowed));
        }
    }

    /// Delivers what arrived, however the session ends. Without an outcome, these events prove nothing about earlier
    /// ones, so they do not count as seen.
    fn close(&mut self) {
        self.deliver_refused();
        if self.is_opening() {
            self.outbox.forget_last_event();
        }
        self.try_finish_backlog_check();
        if let Some(backlog) = self.checks.cancel() {
            self.count_events(&backlog.identities);
            self.outbox.prepend_backlog(&mut self.engine.healthcheck_gate, backlog.events, None, true);
        }
        let delivery = self.outbox.take(&mut self.engine.healthcheck_gate, self.now);
        self.deliver(delivery);
    }
}
