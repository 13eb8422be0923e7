//! One session with an engine. Queues its events as they arrive, or holds them back until continuity is established or
//! a gap is found.
//!
//! The session reads clocks and sends requests. The rules are in `stream/continuity.rs` and in the modules for the
//! backlog check and the drop counter. While it follows a stream, a session never waits for the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::Config;
use super::backlog::{Backlog, Timeouts, rejection};
use super::backlog_check::{BacklogCheck, ReceivedEvents};
use super::drop_counter::{CounterReadings, DroppedEvents};
use super::engine_counter::{self, BacklogReply, EngineCounter};
use super::gap_report::{GapReport, PendingGap};
use super::healthcheck_gate::{Classification, ContainerReply, ContainerRequests, HealthcheckGate};
use super::sources::Lease;
use crate::commands::now_nano;
use crate::engine::{ByteStream, Client, EngineError};
use crate::error::chain;
use crate::event::{Event, EventBatch, Fingerprint, Identity, is_redacted};
use crate::store::{Delivery, Full, GapChange, GapReason, Queue, Rejection, SourceKey};
use crate::stream::continuity::{BACKLOG_LEN, ContinuityCheck, ContinuityOutcome};
use crate::stream::{Decoder, Item, StreamEnd};

/// Maximum time without data before an outcome is forced. Stream and backlog arrive immediately. This is for an engine
/// that is stuck, or a server that is not an engine.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// The same limit if the backlog cannot be fetched, so that only the stream can send more.
const OUTCOME_TIMEOUT_WITHOUT_BACKLOG: Duration = Duration::from_secs(1);

/// Time limits for the backlog response.
const BACKLOG_TIMEOUTS: Timeouts = Timeouts { idle: Duration::from_secs(2), total: Duration::from_secs(10) };

/// Maximum time that the stream may lag behind the backlog before the session reconnects.
const STREAM_CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// Minimum interval of backlog checks that start because half of the backlog is new. Up to some 2,000 events a second,
/// an event that the stream left out is then still in the backlog.
const MIN_BACKLOG_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Number of consecutive failed backlog requests after which the engine counts as lost.
const MAX_FAILED_BACKLOG_CHECKS: u32 = 2;

/// Interval between checks whether the stored list of containers is too old.
const CONTAINER_REFRESH_INTERVAL: Duration = Duration::from_secs(3600);

/// Time limit for requests about containers with `--until now`.
const BACKLOG_ONLY_CONTAINERS_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum time that events are held back while it is unknown whether they are health checks. This applies only if
/// health checks are left out, or flagged because of `--redact`.
const MAX_HOLD_DURATION: Duration = Duration::from_secs(1);
/// Maximum size of the events that are held back for this reason, in bytes.
const MAX_HELD_BYTES: usize = 4 << 20;

/// Maximum number of bytes read before they are handed on, if they arrive without a pause.
const MAX_READ_BYTES: usize = 256 * 1024;

/// Minimum interval between warnings that the store does not keep up.
const OVERFLOW_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// End of a session.
pub(super) enum SessionEnd {
    /// The stream ended, as it does when the engine stops, or it stopped sending events that are in the backlog.
    StreamEnded,
    /// The queue was full. It has room now.
    Overflowed,
    /// Another host reaches the same engine and has the lease.
    LeasedElsewhere,
    /// The backlog is queued, and nothing else was requested.
    Completed,
}

/// State left by earlier sessions.
#[derive(Clone, Copy, Default)]
pub(super) struct PreviousSession {
    /// True if events were discarded because the queue was full.
    pub(super) overflowed: bool,
    /// True if the engine could not be reached for a while.
    pub(super) unreachable: bool,
}

/// Creates an empty delivery.
pub(super) fn empty_delivery(source: Arc<SourceKey>) -> Delivery {
    Delivery::new(source, now_nano())
}

/// Last event that arrived and is not queued yet.
enum LastEvent {
    None,
    /// The last event of the outbox. Its identity is computed when it is queued.
    InOutbox,
    Known(Identity),
}

/// A session with an engine.
pub(super) struct Session {
    config: Arc<Config>,
    queue: Arc<Queue>,
    source: Arc<SourceKey>,
    lease: Lease,
    previous: PreviousSession,
    decoder: Decoder,
    /// Continuity check, until there is an outcome.
    continuity: Option<ContinuityCheck>,
    /// Time at which an outcome is forced.
    outcome_deadline: Instant,
    /// Last event seen before this session, if the outcome was forced. If that event arrives after all, nothing was
    /// missed.
    provisional_last_seen: Option<Identity>,
    /// Backlog check in progress, and the time by which the stream must have caught up.
    backlog_check: Option<(BacklogCheck, Instant)>,
    /// Newest event of the last backlog. If that was empty, the first event after it. Everything up to this event is
    /// known.
    complete_until: Option<Fingerprint>,
    received: ReceivedEvents,
    /// Events that the stream had left out at the last backlog check.
    missing: HashSet<Fingerprint>,
    /// Last event that the stream sent.
    last_received: Option<Fingerprint>,
    /// Time of the last backlog request.
    backlog_requested_at: Instant,
    /// Number of events that arrived since that request.
    events_since_request: usize,
    /// Events that arrived since that request, if the engine has a counter.
    received_since_request: HashSet<Identity>,
    /// Readings of the engine's counter at the last backlog request.
    counter_readings: Option<CounterReadings>,
    failed_backlog_checks: u32,
    /// Counter of the engine, if it has a metrics page.
    engine_counter: Option<EngineCounter>,
    /// True if a gap report is due.
    should_list_containers: bool,
    containers_requested_at: Instant,
    healthcheck_gate: HealthcheckGate,
    /// Time until which the outbox is held back, if it is.
    hold_until: Option<Instant>,
    /// Events and other data that are not queued yet.
    outbox: Delivery,
    /// Number of events in the outbox that are from the backlog, not from the stream.
    backlog_events: usize,
    /// Last event that arrived and is not queued yet, whether it passes the selection or not.
    last_event: LastEvent,
    /// True if an event arrived that was not known before.
    has_new_events: bool,
    opened_at: Option<Instant>,
    /// Time by which the engine's clock is ahead, until it is queued.
    skew_nano: Option<i64>,
}

impl Session {
    pub(super) fn new(
        config: Arc<Config>,
        queue: Arc<Queue>,
        source: Arc<SourceKey>,
        lease: Lease,
        previous: PreviousSession,
        counter: Option<EngineCounter>,
    ) -> Self {
        let mut healthcheck_gate = lease.take_healthcheck_gate();
        healthcheck_gate.start_session();
        Session {
            healthcheck_gate,
            hold_until: None,
            continuity: Some(ContinuityCheck::new(lease.last_seen())),
            outcome_deadline: Instant::now() + OUTCOME_TIMEOUT,
            provisional_last_seen: None,
            backlog_check: None,
            complete_until: None,
            received: ReceivedEvents::default(),
            missing: HashSet::new(),
            last_received: None,
            backlog_requested_at: Instant::now(),
            events_since_request: 0,
            received_since_request: HashSet::new(),
            counter_readings: None,
            failed_backlog_checks: 0,
            engine_counter: counter,
            should_list_containers: false,
            containers_requested_at: Instant::now(),
            outbox: empty_delivery(source.clone()),
            backlog_events: 0,
            decoder: Decoder::with_limit(config.max_event),
            last_event: LastEvent::None,
            has_new_events: false,
            opened_at: None,
            skew_nano: None,
            config,
            queue,
            source,
            lease,
            previous,
        }
    }

    /// Sets the time by which the engine's clock is ahead.
    pub(super) fn set_skew(&mut self, skew_nano: Option<i64>) {
        self.skew_nano = skew_nano;
    }

    /// Returns true if new events arrived, or if the stream was open for `min_duration`.
    pub(super) fn was_stable(&self, min_duration: Duration) -> bool {
        self.has_new_events || self.opened_at.is_some_and(|opened_at| opened_at.elapsed() >= min_duration)
    }

    /// Returns true if the session has reached an outcome.
    pub(super) fn has_outcome(&self) -> bool {
        self.continuity.is_none()
    }

    /// Takes the engine's counter, for the next session.
    pub(super) fn take_engine_counter(&mut self) -> Option<EngineCounter> {
        self.engine_counter.take()
    }

    /// Follows the stream to its end.
    pub(super) async fn follow(
        &mut self,
        client: &Client,
        mut stream: ByteStream,
        last_overflow_warning: &mut Option<Instant>,
    ) -> Result<SessionEnd, EngineError> {
        self.opened_at = Some(Instant::now());
        // Dropping these at the end of the session cancels the pending requests.
        let (mut backlog_requests, mut gap_reports, mut container_requests) =
            (JoinSet::new(), JoinSet::new(), ContainerRequests::default());
        let max_event = self.config.max_event;
        let page = self.engine_counter.as_ref().map(EngineCounter::page);
        let request_backlog = |requests: &mut JoinSet<_>| {
            let (client, page) = (client.clone(), page.clone());
            requests
                .spawn(async move { engine_counter::fetch_backlog(&client, page, max_event, BACKLOG_TIMEOUTS).await });
        };
        request_backlog(&mut backlog_requests);
        let interval = self.config.backlog_check_interval.unwrap_or(Duration::from_secs(3600));
        // The counter is compared from the first backlog check on, so that check is immediate.
        let initial_delay = if page.is_some() { Duration::ZERO } else { interval };
        let mut check_timer = interval_at(Instant::now() + initial_delay, interval);
        check_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.should_list_containers && gap_reports.is_empty() {
                gap_reports.spawn(self.gap_report(client).run());
            }
            if self.events_since_request >= BACKLOG_LEN / 2
                && self.backlog_requested_at.elapsed() >= MIN_BACKLOG_CHECK_INTERVAL
                && self.can_check_backlog(&backlog_requests)
            {
                self.start_backlog_check();
                request_backlog(&mut backlog_requests);
            }
            container_requests.send(client, &mut self.healthcheck_gate);
            let outcome_deadline = self.outcome_deadline;
            let hold_deadline = self.hold_until;
            let check_deadline = self.backlog_check.as_ref().map(|check| check.1);
            let result = tokio::select! {
                next = stream.next() => {
                    let is_open = self.read_stream(next, &mut stream).await?;
                    let result = self.on_stream_data();
                    if !is_open && result.is_ok() {
                        return Ok(SessionEnd::StreamEnded);
                    }
                    result
                }
                Some(reply) = backlog_requests.join_next() => self.on_backlog_reply(reply.expect("the request does not panic"))?,
                () = sleep_until(outcome_deadline), if self.continuity.is_some() => {
                    self.conclude();
                    self.flush()
                }
                () = sleep_until(check_deadline.unwrap_or(outcome_deadline)), if check_deadline.is_some() => {
                    let stream_active = self.finish_backlog_check();
                    let result = self.flush();
                    if !stream_active && result.is_ok() {
                        tracing::debug!("the stream of {} omits events that are in the backlog", self.source.name);
                        return Ok(SessionEnd::StreamEnded);
                    }
                    result
                }
                _ = check_timer.tick(), if self.can_check_backlog(&backlog_requests) => {
                    self.start_backlog_check();
                    self.should_list_containers |= self.containers_requested_at.elapsed() > CONTAINER_REFRESH_INTERVAL;
                    request_backlog(&mut backlog_requests);
                    Ok(())
                }
                Some(reply) = gap_reports.join_next() => self.on_gap_report(reply.expect("the request does not panic")),
                Some(reply) = container_requests.next_reply() => self.on_container_reply(reply),
                () = sleep_until(hold_deadline.unwrap_or(outcome_deadline)), if hold_deadline.is_some() => self.flush(),
            };
            if let Err(Full(delivery)) = result {
                return Ok(self.discard_until_room(*delivery, &mut stream, last_overflow_warning).await);
            }
        }
    }

    fn can_check_backlog<T>(&self, requests: &JoinSet<T>) -> bool {
        self.config.backlog_check_interval.is_some()
            && requests.is_empty()
            && self.backlog_check.is_none()
            && self.continuity.is_none()
    }

    /// Prepares for a new backlog request.
    fn start_backlog_check(&mut self) {
        (self.backlog_requested_at, self.events_since_request) = (Instant::now(), 0);
        self.received_since_request.clear();
    }

    /// Reads everything that the stream has, beginning with `next`. Returns true if the stream is still open.
    async fn read_stream(
        &mut self,
        mut next: Result<Option<Bytes>, EngineError>,
        stream: &mut ByteStream,
    ) -> Result<bool, EngineError> {
        let mut bytes_read = 0;
        loop {
            match next {
                Ok(Some(bytes)) => {
                    bytes_read += bytes.len().max(1);
                    self.decode_items(|decoder, on_item| decoder.push(&bytes, on_item));
                }
                end => {
                    self.decode_items(|decoder, on_item| {
                        if decoder.finish(on_item) == StreamEnd::Truncated {
                            tracing::debug!("the stream ended inside an event");
                        }
                    });
                    return if bytes_read > 0 { Ok(false) } else { end.map(|_| false) };
                }
            }
            if bytes_read >= MAX_READ_BYTES {
                return Ok(true);
            }
            // The connection is a task of its own and passes on one chunk at a time, usually one event. Handing on many
            // events costs little more than handing on one.
            next = tokio::select! {
                biased;
                next = stream.next() => next,
                () = tokio::task::yield_now() => return Ok(true),
            };
        }
    }

    fn decode_items(&mut self, decode: impl FnOnce(&mut Decoder, &mut dyn FnMut(Item<'_>))) {
        let Session {
            outbox,
            backlog_events,
            continuity,
            provisional_last_seen,
            backlog_check,
            received,
            last_received,
            complete_until,
            events_since_request,
            received_since_request,
            last_event,
            config,
            engine_counter: counter,
            lease,
            healthcheck_gate,
            ..
        } = self;
        let last_seen = continuity.as_ref().and_then(|_| lease.last_seen());

        let mut on_item = |item: Item<'_>| match item {
            Item::Event(event) => {
                let classification = healthcheck_gate.classify(&event, true);
                let passes = config.should_store(&event, classification, &mut outbox.excluded_healthchecks);
                if passes {
                    config.push_event(&event, classification, &mut outbox.events);
                }
                *events_since_request += 1;
                let fingerprint = event.fingerprint();
                received.insert(fingerprint);
                *last_received = Some(fingerprint);
                complete_until.get_or_insert(fingerprint);
                if let Some((check, _)) = backlog_check {
                    check.record_event(&fingerprint);
                }
                // An identity costs a hash of the whole event. While a stream is only followed, just the last event
                // needs one.
                let is_identity_unused = continuity.is_none() && provisional_last_seen.is_none() && counter.is_none();
                if passes
                    && config.redaction.is_empty()
                    && is_identity_unused
                    && classification != Classification::Undecided
                {
                    *last_event = LastEvent::InOutbox;
                    return;
                }
                let identity = event.identity();
                if let Some(continuity) = continuity {
                    continuity.on_stream_event(identity);
                    if last_seen == Some(identity) {
                        let seen_again = outbox.events.split_off(*backlog_events);
                        outbox.replayed = seen_again.append_to(std::mem::take(&mut outbox.replayed));
                    }
                }
                if last_seen == Some(identity) {
                    outbox.excluded_healthchecks = 0;
                    healthcheck_gate.reset_uncounted();
                }
                if let Some(counter) = counter {
                    received_since_request.insert(identity);
                    counter.drop_counter.record_event(identity);
                }
                if *provisional_last_seen == Some(identity) {
                    *provisional_last_seen = None;
                    lease.clear_pending_gap(identity.time_nano);
                    outbox.gap = Some(GapChange::Withdrawn { from: Some(identity.time_nano) });
                }
                *last_event = LastEvent::Known(identity);
            }
            Item::Rejected(rejected) => outbox.rejected.push(config.rejection(rejection(&rejected))),
        };
        decode(&mut self.decoder, &mut on_item);
    }

    /// Handles data from the stream.
    fn on_stream_data(&mut self) -> Result<(), Full> {
        self.try_conclude();
        match &self.continuity {
            Some(continuity) => {
                let outcome_timeout =
                    if continuity.is_backlog_unavailable() { OUTCOME_TIMEOUT_WITHOUT_BACKLOG } else { OUTCOME_TIMEOUT };
                self.outcome_deadline = Instant::now() + outcome_timeout;
                Ok(())
            }
            None => {
                self.try_finish_backlog_check();
                self.flush()
            }
        }
    }

    /// Handles a backlog response. The first one decides about continuity; later ones show what the stream left out.
    ///
    /// # Errors
    /// Fails if the engine no longer answers.
    fn on_backlog_reply(&mut self, reply: BacklogReply) -> Result<Result<(), Full>, EngineError> {
        let readings = self
            .engine_counter
            .as_mut()
            .zip(reply.readings)
            .and_then(|(counter, readings)| counter.accept_readings(readings));
        self.counter_readings = readings;
        Ok(match (&mut self.continuity, reply.backlog) {
            (Some(continuity), Ok(backlog)) => {
                if let Some(incomplete) = &backlog.incomplete {
                    tracing::debug!("{incomplete}");
                }
                self.complete_until = backlog.fingerprints.last().copied();
                // If the response does not end, the end of the backlog is unknown. The events that arrived are part of
                // it.
                let last_seen = self.lease.last_seen();
                if let Some(counter) = &mut self.engine_counter {
                    backlog.identities.iter().for_each(|identity| counter.drop_counter.record_event(*identity));
                }
                let known_index =
                    last_seen.and_then(|seen| backlog.identities.iter().position(|identity| *identity == seen));
                if backlog.incomplete.is_none() || known_index.is_some() {
                    continuity.on_backlog(backlog.identities);
                } else {
                    continuity.on_backlog_unavailable();
                    self.outcome_deadline = Instant::now() + OUTCOME_TIMEOUT_WITHOUT_BACKLOG;
                }
                // The stream should send these events too, so they are not counted here. Those that it leaves out are
                // stored anyway.
                self.prepend_backlog(backlog.events, known_index, false);
                self.try_conclude();
                if self.continuity.is_none() { self.flush() } else { Ok(()) }
            }
            (Some(continuity), Err(e)) => {
                tracing::debug!("{}", chain(&e));
                continuity.on_backlog_unavailable();
                self.outcome_deadline = Instant::now() + OUTCOME_TIMEOUT_WITHOUT_BACKLOG;
                Ok(())
            }
            (None, Ok(backlog)) if backlog.incomplete.is_none() => {
                self.failed_backlog_checks = 0;
                self.check_backlog(backlog)
            }
            (None, Ok(backlog)) => {
                self.count_events(&backlog.identities);
                let known_index = self
                    .complete_until
                    .and_then(|known| backlog.fingerprints.iter().position(|fingerprint| *fingerprint == known));
                self.push_backlog(backlog.events, known_index)
            }
            (None, Err(e)) => {
                tracing::debug!("{}", chain(&e));
                self.failed_backlog_checks += 1;
                if self.failed_backlog_checks >= MAX_FAILED_BACKLOG_CHECKS {
                    return Err(e);
                }
                Ok(())
            }
        })
    }

    /// Starts a backlog check with a new backlog.
    fn check_backlog(&mut self, mut backlog: Backlog) -> Result<(), Full> {
        let newest = backlog.fingerprints.last().copied();
        let previous_newest = std::mem::replace(&mut self.complete_until, newest);
        let known_index =
            previous_newest.and_then(|since| backlog.fingerprints.iter().position(|fingerprint| *fingerprint == since));
        let events = std::mem::take(&mut backlog.events);
        let mut check = BacklogCheck::new(previous_newest, backlog, &self.received, self.last_received);
        // If the two backlogs share an event, every missing event is in the new one.
        let has_missing = check.has_missing(&self.received);
        if has_missing {
            let candidates = events.iter().zip(&check.backlog.fingerprints);
            let selected = candidates.filter(|((event, _), _)| self.config.selection.matches(event));
            check.selected = selected.map(|(_, fingerprint)| *fingerprint).collect();
        }
        let events_to_store = if check.overlaps_previous() && has_missing {
            events
        } else {
            check.backlog.events = events;
            EventBatch::default()
        };
        self.backlog_check = Some((check, Instant::now() + STREAM_CATCH_UP_TIMEOUT));
        self.try_finish_backlog_check();
        self.push_backlog(events_to_store, known_index)?;
        self.flush()
    }

    fn push_backlog(&mut self, events: EventBatch, known_index: Option<usize>) -> Result<(), Full> {
        let (replayed, events) = self.select_backlog(events, known_index, true);
        if replayed.is_empty() && events.is_empty() {
            return Ok(());
        }
        self.queue.push(Delivery { replayed, events, ..empty_delivery(self.source.clone()) })
    }

    fn count_events(&mut self, identities: &[Identity]) {
        if let Some(counter) = &mut self.engine_counter {
            identities.iter().for_each(|identity| counter.drop_counter.record_event(*identity));
        }
    }

    /// Finishes the backlog check if the stream has caught up with the backlog.
    fn try_finish_backlog_check(&mut self) {
        let caught_up = self.backlog_check.as_ref().is_some_and(|(check, _)| check.is_caught_up(&self.received));
        if caught_up && self.outbox.gap.is_none() {
            self.finish_backlog_check();
        }
    }

    /// Finishes the backlog check. Events that the stream left out are taken from the backlog; if they are not in it, a
    /// gap is stored. Returns true if the stream has sent anything since the backlog arrived.
    fn finish_backlog_check(&mut self) -> bool {
        let Some((mut check, _)) = self.backlog_check.take() else { return true };
        let stream_active = check.stream_active || check.is_caught_up(&self.received);
        // Every check finds a missing event again while it is in the backlog, so it counts only once.
        let missing = check.missing_selected(&self.received);
        self.outbox.recovered += missing.difference(&self.missing).count() as u64;
        self.missing = missing;
        if let (false, Some(previous_newest), Some(oldest)) =
            (check.overlaps_previous(), check.previous_newest, check.backlog.fingerprints.first())
            && check.has_missing(&self.received)
        {
            let is_full = check.backlog.fingerprints.len() >= BACKLOG_LEN;
            let reason = if is_full { GapReason::Overrun } else { GapReason::EngineRestart };
            // A stream that no longer sends anything was complete until its last event.
            let last = self.last_seen().map(|last| last.time_nano);
            let last = last.filter(|last| !stream_active && *last <= oldest.time_nano);
            self.engine_counter.iter_mut().for_each(|counter| counter.drop_counter.reset());
            self.record_gap(GapChange::Reported {
                from: Some(last.unwrap_or(previous_newest.time_nano)),
                to: Some(oldest.time_nano),
                reason,
                detail: Some("the stream left out more events than the backlog keeps".into()),
            });
            self.prepend_backlog(std::mem::take(&mut check.backlog.events), None, true);
            return stream_active;
        }
        let readings = self.counter_readings.take();
        let Some(counter) = &mut self.engine_counter else { return stream_active };
        if !stream_active {
            self.count_events(&check.backlog.identities);
        } else if let Some(DroppedEvents { from, to, counted, received }) = readings.and_then(|counted| {
            counter.drop_counter.compare(counted, &check.backlog.identities, &self.received_since_request)
        }) {
            self.record_gap(GapChange::Reported {
                from: Some(from),
                to: Some(to),
                reason: GapReason::DroppedByEngine,
                detail: Some(format!("the engine counted {counted} events, {received} arrived")),
            });
        }
        stream_active
    }

    /// Returns the last event that arrived, queued or not.
    fn last_seen(&self) -> Option<Identity> {
        match &self.last_event {
            LastEvent::Known(identity) => Some(*identity),
            LastEvent::InOutbox => self.outbox.events.last().map(|event| event.identity()),
            LastEvent::None => self.lease.last_seen(),
        }
    }

    /// Logs a gap, adds it to the outbox, and requests a gap report.
    fn record_gap(&mut self, gap: GapChange) {
        if let GapChange::Reported { reason, .. } = &gap
            && *reason != GapReason::FirstContact
        {
            tracing::warn!("a gap in the record of {}: {}", self.source.name, reason.as_str());
        }
        self.lease.set_pending_gap(PendingGap::from_change(&gap));
        self.outbox.gap = Some(gap);
        self.should_list_containers = true;
    }

    /// Creates the gap report that is due.
    fn gap_report(&mut self, client: &Client) -> GapReport {
        self.should_list_containers = false;
        self.containers_requested_at = Instant::now();
        GapReport {
            client: client.clone(),
            config: self.config.clone(),
            source: self.source.clone(),
            gap: self.lease.pending_gap(),
        }
    }

    /// Handles a gap report. Queues it, unless the gap was withdrawn or replaced by another. If the report failed, the
    /// next session requests it again.
    fn on_gap_report(&mut self, (gap, report): (Option<PendingGap>, Option<Delivery>)) -> Result<(), Full> {
        if gap != self.lease.pending_gap() {
            self.should_list_containers = true;
            return Ok(());
        }
        let Some(report) = report else { return Ok(()) };
        self.lease.set_pending_gap(None);
        self.queue.push(report)
    }

    /// Puts the events of a backlog before those of the stream. Events up to and including `known_index` were in an
    /// earlier backlog.
    fn prepend_backlog(&mut self, events: EventBatch, known_index: Option<usize>, should_count: bool) {
        let (replayed, events) = self.select_backlog(events, known_index, should_count);
        let Delivery { replayed: outbox_replayed, events: outbox_events, .. } = &mut self.outbox;
        self.backlog_events = events.len();
        *outbox_replayed = std::mem::take(outbox_replayed).append_to(replayed);
        *outbox_events = std::mem::take(outbox_events).append_to(events);
    }

    /// Selects the events of a backlog to store. Returns those up to and including `known_index`, which arrived before,
    /// and the others.
    fn select_backlog(
        &mut self,
        mut events: EventBatch,
        known_index: Option<usize>,
        should_count: bool,
    ) -> (EventBatch, EventBatch) {
        let newer = events.split_off(known_index.map_or(0, |known| known + 1));
        let ((replayed, replayed_left_out), (events, newer_left_out)) =
            (self.select(events, should_count), self.select(newer, should_count));
        self.outbox.excluded_healthchecks += replayed_left_out + newer_left_out;
        (replayed, events)
    }

    /// Returns the events to store, redacted, and the number of health check events that are left out and count. The
    /// filter applies to the event as the engine sent it.
    fn select(&mut self, mut events: EventBatch, should_count: bool) -> (EventBatch, u64) {
        let Session { config, healthcheck_gate, .. } = self;
        let mut left_out = 0;
        if config.redaction.is_empty() {
            events.retain(|event| {
                config.should_store(event, healthcheck_gate.classify(event, should_count), &mut left_out)
            });
            return (events, left_out);
        }
        let mut redacted = EventBatch::default();
        for (event, _) in events.iter() {
            let classification = healthcheck_gate.classify(&event, should_count);
            if config.should_store(&event, classification, &mut left_out) {
                config.push_event(&event, classification, &mut redacted);
            }
        }
        (redacted, left_out)
    }

    /// Handles an answer about containers.
    fn on_container_reply(&mut self, reply: ContainerReply) -> Result<(), Full> {
        self.healthcheck_gate.on_reply(reply);
        let should_flush = self.hold_until.is_some() || self.healthcheck_gate.has_unstored_commands();
        if should_flush && self.continuity.is_none() { self.flush() } else { Ok(()) }
    }

    /// Returns true if the outbox must wait until its exec events are classified.
    fn should_hold(&mut self) -> bool {
        let is_relevant = self.config.selection.no_healthchecks || !self.config.redaction.is_empty();
        if !(is_relevant && self.healthcheck_gate.has_undecided() && self.outbox.events.heap_size() < MAX_HELD_BYTES) {
            return false;
        }
        let deadline = self.hold_until.get_or_insert_with(|| Instant::now() + MAX_HOLD_DURATION);
        Instant::now() < *deadline
    }

    /// Classifies the exec events in the outbox with what is known now.
    fn settle_healthchecks(&mut self) {
        self.hold_until = None;
        let Session { healthcheck_gate, outbox, config, source, .. } = self;
        if let Some(left_out) = healthcheck_gate.settle() {
            let mut is_healthcheck =
                |event: &Event<'_>| event.exec_event().is_some_and(|exec| healthcheck_gate.is_healthcheck(exec.id));
            if config.selection.no_healthchecks {
                outbox.excluded_healthchecks += left_out;
                outbox.replayed.retain(|event| !is_healthcheck(event));
                outbox.events.retain(|event| !is_healthcheck(event));
            } else if !config.redaction.is_empty() {
                outbox.replayed.flag_healthchecks(|event| is_redacted(event) && is_healthcheck(event));
                outbox.events.flag_healthchecks(|event| is_redacted(event) && is_healthcheck(event));
            }
        }
        if config.selection.no_healthchecks && healthcheck_gate.take_unavailable_warning() {
            let name = &source.name;
            tracing::warn!(
                "cannot read the configuration of some containers of {name}: the recorder stores all their exec events"
            );
        }
        let commands = healthcheck_gate.take_unstored_commands().into_iter();
        outbox
            .healthchecks
            .extend(commands.map(|(container, command)| (container, config.redaction.redact_command(&command))));
    }

    /// Queues the backlog as the only events of this session. Waits for the store if the queue is full.
    pub(super) async fn store_backlog_only(&mut self, client: &Client, backlog: Backlog) {
        let mut continuity = ContinuityCheck::new(self.lease.last_seen());
        backlog.identities.iter().for_each(|identity| continuity.on_stream_event(*identity));
        self.last_event = backlog.identities.last().map_or(LastEvent::None, |identity| LastEvent::Known(*identity));
        let last_seen = self.lease.last_seen();
        let known_index = backlog.identities.iter().position(|identity| Some(*identity) == last_seen);
        continuity.on_backlog(backlog.identities);
        self.continuity = Some(continuity);
        self.inspect_containers(client, &backlog.events).await;
        self.prepend_backlog(backlog.events, known_index, true);
        self.outbox.rejected = backlog.rejected.into_iter().map(|rejected| self.config.rejection(rejected)).collect();
        self.conclude();
        self.settle_healthchecks();
        let mut result = self.flush();
        while let Err(Full(delivery)) = result {
            self.queue.wait_for_space().await;
            result = self.push_delivery(*delivery);
        }
        if let Ok(report) = timeout(BACKLOG_ONLY_CONTAINERS_TIMEOUT, self.gap_report(client).run()).await
            && let Err(Full(delivery)) = self.on_gap_report(report)
        {
            self.queue.wait_for_space().await;
            let _ = self.queue.push(*delivery);
        }
    }

    /// Requests the configuration of the containers that have exec events.
    async fn inspect_containers(&mut self, client: &Client, events: &EventBatch) {
        self.healthcheck_gate.request_containers(events);
        let mut requests = ContainerRequests::default();
        let inspect_all = async {
            loop {
                requests.send(client, &mut self.healthcheck_gate);
                let Some(reply) = requests.next_reply().await else { return };
                self.healthcheck_gate.on_reply(reply);
            }
        };
        if timeout(BACKLOG_ONLY_CONTAINERS_TIMEOUT, inspect_all).await.is_err() {
            tracing::debug!("requests about the containers of {} timed out", self.source.name);
        }
    }

    /// Determines the outcome as soon as that is possible.
    fn try_conclude(&mut self) {
        if self.continuity.as_ref().is_some_and(|continuity| continuity.outcome().is_some()) {
            self.conclude();
            self.provisional_last_seen = None;
        }
    }

    fn conclude(&mut self) {
        let Some(continuity) = self.continuity.take() else { return };
        let last_seen = self.lease.last_seen();
        let from = last_seen.map(|seen| seen.time_nano);
        self.outbox.connected = true;
        self.outbox.skew_nano = self.skew_nano.take();
        // Without a pending gap, the report only stores the list of containers, if the stored one is too old.
        self.should_list_containers = true;
        let outcome = continuity.conclude();
        if outcome != ContinuityOutcome::Continuous {
            self.engine_counter.iter_mut().for_each(|counter| counter.drop_counter.reset());
        }
        let (to, reason, detail) = match outcome {
            ContinuityOutcome::Continuous => {
                self.outbox.gap = Some(GapChange::Withdrawn { from });
                from.into_iter().for_each(|from| self.lease.clear_pending_gap(from));
                return;
            }
            ContinuityOutcome::FirstSession { backlog_start: to } if self.lease.was_recorded_elsewhere() => {
                (to, GapReason::StoreFailed, Some("the previous file was moved, deleted or replaced"))
            }
            ContinuityOutcome::FirstSession { backlog_start: to } => (to, GapReason::FirstContact, None),
            ContinuityOutcome::Restarted { backlog_start: to } | ContinuityOutcome::Overrun { backlog_start: to }
                if self.previous.overflowed =>
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
        };
        // An idle engine has an empty backlog in session after session. It was never away in between, so the gap does
        // not grow.
        if to.is_none() && self.lease.mark_idle() && !self.previous.unreachable {
            return;
        }
        self.provisional_last_seen = last_seen;
        let to = Some(to.unwrap_or_else(now_nano));
        self.record_gap(GapChange::Reported { from, to, reason, detail: detail.map(Into::into) });
    }

    /// Pushes the outbox into the queue, unless it must be held back.
    fn flush(&mut self) -> Result<(), Full> {
        if self.should_hold() {
            return Ok(());
        }
        self.settle_healthchecks();
        let mut delivery = std::mem::replace(&mut self.outbox, empty_delivery(self.source.clone()));
        delivery.received_nano = now_nano();
        delivery.last_seen = match std::mem::replace(&mut self.last_event, LastEvent::None) {
            LastEvent::None => None,
            LastEvent::InOutbox => delivery.events.last().map(|event| event.identity()),
            LastEvent::Known(identity) => Some(identity),
        };
        self.push_delivery(delivery)
    }

    fn push_delivery(&mut self, delivery: Delivery) -> Result<(), Full> {
        if delivery.is_empty() {
            return Ok(());
        }
        let last_seen = delivery.last_seen;
        self.queue.push(delivery)?;
        if let Some(last_seen) = last_seen {
            self.has_new_events |= self.lease.last_seen() != Some(last_seen);
            self.lease.set_last_seen(last_seen);
        }
        Ok(())
    }

    /// Reads the stream and discards its data until the full queue has room. The next session finds the discarded
    /// events in the backlog, or stores a gap.
    async fn discard_until_room(
        &mut self,
        delivery: Delivery,
        stream: &mut ByteStream,
        last_warning: &mut Option<Instant>,
    ) -> SessionEnd {
        if last_warning.is_none_or(|warned_at| warned_at.elapsed() > OVERFLOW_WARNING_INTERVAL) {
            *last_warning = Some(Instant::now());
            let name = &self.source.name;
            tracing::warn!(
                "the buffer is full: the recorder discards events of {name} and requests them again when there is room"
            );
        }
        let queue = self.queue.clone();
        {
            let room = queue.wait_for_space();
            tokio::pin!(room);
            loop {
                tokio::select! {
                    () = &mut room => break,
                    next = stream.next() => if !matches!(next, Ok(Some(_))) {
                        room.await;
                        break;
                    },
                }
            }
        }
        if let Err(Full(undelivered)) = self.push_delivery(delivery) {
            self.healthcheck_gate.restore_commands(undelivered.healthchecks);
            tracing::debug!("the buffer is full again");
        }
        SessionEnd::Overflowed
    }
}

impl Config {
    /// Returns true if an event should be stored, as far as its classification is known. Counts health check events
    /// that are left out.
    fn should_store(&self, event: &Event<'_>, classification: Classification, left_out: &mut u64) -> bool {
        match classification {
            _ if !self.selection.matches(event) => false,
            Classification::Healthcheck { is_new } if self.selection.no_healthchecks => {
                *left_out += u64::from(is_new);
                false
            }
            _ => true,
        }
    }

    /// Appends an event to a list, redacted and flagged as the store needs it.
    fn push_event(&self, event: &Event<'_>, classification: Classification, events: &mut EventBatch) {
        match self.redaction.apply(event) {
            None => events.push(event),
            Some(text) => {
                events.push(&Event::parse(text.as_bytes()).expect("a redacted event is still an event"));
                if let Classification::Healthcheck { .. } = classification {
                    events.flag_last_healthcheck();
                }
            }
        }
    }

    /// Returns a rejected line, redacted. A line that is not an event can only be redacted as a whole.
    fn rejection(&self, rejection: Rejection) -> Rejection {
        if self.redaction.is_empty() { rejection } else { rejection.redacted() }
    }
}

impl Drop for Session {
    /// Queues what arrived, however the session ends. Without an outcome, these events prove nothing about earlier
    /// ones, so they do not count as seen.
    fn drop(&mut self) {
        if self.continuity.is_some() {
            self.last_event = LastEvent::None;
        }
        self.try_finish_backlog_check();
        if let Some((check, _)) = self.backlog_check.take() {
            self.count_events(&check.backlog.identities);
            self.prepend_backlog(check.backlog.events, None, true);
        }
        self.settle_healthchecks();
        if self.flush().is_err() {
            tracing::warn!("the buffer is full: the recorder requests the last events from the engine again");
        }
        self.lease.return_healthcheck_gate(std::mem::take(&mut self.healthcheck_gate));
    }
}
