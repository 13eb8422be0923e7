//! The outbox: what a session has read and not delivered yet, filtered and redacted as the store needs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Now;
use super::healthcheck_gate::{Classification, HealthcheckGate};
use crate::event::{Event, EventBatch, Identity, is_redacted};
use crate::recorder::config::Config;
use crate::store::{Delivery, GapChange, Rejection, SourceKey};

/// Maximum time that events are held back while it is unknown whether they are health checks. This applies only if
/// health checks are left out, or flagged because of `--redact`.
const MAX_HOLD_DURATION: Duration = Duration::from_secs(1);

/// Maximum size of the events that are held back for this reason, in bytes.
const MAX_HELD_BYTES: usize = 4 << 20;

/// Last event that arrived and is not delivered yet.
#[derive(Debug)]
enum LastEvent {
    None,
    /// The last event of the outbox. Its identity is computed when it is delivered.
    InOutbox,
    Known(Identity),
}

/// Events and other data that are not delivered yet.
#[derive(Debug)]
pub(super) struct Outbox {
    config: Arc<Config>,
    source: Arc<SourceKey>,
    delivery: Delivery,
    /// Number of events in the delivery that are from the backlog, not from the stream.
    backlog_events: usize,
    /// Last event that arrived and is not delivered yet, whether it passes the selection or not.
    last_event: LastEvent,
    /// Time until which the outbox is held back, if it is.
    hold_until: Option<Instant>,
    /// Deliveries that the queue refused, oldest first.
    refused: Vec<Delivery>,
}

impl Outbox {
    pub(super) fn new(config: Arc<Config>, source: Arc<SourceKey>) -> Outbox {
        let delivery = Delivery::new(source.clone(), 0);
        Outbox {
            config,
            source,
            delivery,
            backlog_events: 0,
            last_event: LastEvent::None,
            hold_until: None,
            refused: Vec::new(),
        }
    }

    /// Adds an event of the stream if it passes the filters. Returns true if it is stored as the engine sent it.
    pub(super) fn add_event(&mut self, event: &Event<'_>, classification: Classification) -> bool {
        let Outbox { config, delivery, .. } = self;
        let is_stored = should_store(config, event, classification, &mut delivery.excluded_healthchecks);
        if is_stored {
            push_event(config, event, classification, &mut delivery.events);
        }
        is_stored && config.redaction.is_empty() && classification != Classification::Undecided
    }

    /// Marks the event that was added last as the last event that arrived.
    pub(super) fn mark_last_added(&mut self) {
        self.last_event = LastEvent::InOutbox;
    }

    /// Sets the last event that arrived.
    pub(super) fn set_last_event(&mut self, identity: Identity) {
        self.last_event = LastEvent::Known(identity);
    }

    /// Forgets the last event that arrived, so that the delivery does not make it the last event seen.
    pub(super) fn forget_last_event(&mut self) {
        self.last_event = LastEvent::None;
    }

    /// Returns the last event that arrived, if it is not delivered yet.
    pub(super) fn last_event(&self) -> Option<Identity> {
        match &self.last_event {
            LastEvent::Known(identity) => Some(*identity),
            LastEvent::InOutbox => self.delivery.events.last().map(|event| event.identity()),
            LastEvent::None => None,
        }
    }

    /// Marks the events of the stream so far as seen before. Their health checks were counted before.
    pub(super) fn mark_seen_before(&mut self) {
        let seen_again = self.delivery.events.split_off(self.backlog_events);
        self.delivery.replayed = seen_again.append_to(std::mem::take(&mut self.delivery.replayed));
        self.delivery.excluded_healthchecks = 0;
    }

    /// Adds a line that is not an event.
    pub(super) fn add_rejected(&mut self, rejection: Rejection) {
        self.delivery.rejected.push(redacted(&self.config, rejection));
    }

    /// Marks the source as connected, with the time by which its clock is ahead.
    pub(super) fn set_connected(&mut self, skew_nano: Option<i64>) {
        (self.delivery.connected, self.delivery.skew_nano) = (true, skew_nano);
    }

    /// Sets the change of a gap. It is stored before the events.
    pub(super) fn set_gap(&mut self, gap: GapChange) {
        self.delivery.gap = Some(gap);
    }

    /// Returns true if a change of a gap is not delivered yet.
    pub(super) fn has_gap(&self) -> bool {
        self.delivery.gap.is_some()
    }

    /// Counts events that the stream had left out.
    pub(super) fn add_recovered(&mut self, count: u64) {
        self.delivery.recovered += count;
    }

    /// Puts the events of a backlog before those of the stream. Events up to and including `known_index` were in an
    /// earlier backlog.
    pub(super) fn prepend_backlog(
        &mut self,
        gate: &mut HealthcheckGate,
        events: EventBatch,
        known_index: Option<usize>,
        should_count: bool,
    ) {
        let (replayed, events) = self.select_backlog(gate, events, known_index, should_count);
        self.backlog_events = events.len();
        let Delivery { replayed: outbox_replayed, events: outbox_events, .. } = &mut self.delivery;
        *outbox_replayed = std::mem::take(outbox_replayed).append_to(replayed);
        *outbox_events = std::mem::take(outbox_events).append_to(events);
    }

    /// Creates a delivery of the events of a backlog alone. Returns `None` if none passes the filters.
    pub(super) fn backlog_delivery(
        &mut self,
        gate: &mut HealthcheckGate,
        now: Now,
        events: EventBatch,
        known_index: Option<usize>,
    ) -> Option<Delivery> {
        let (replayed, events) = self.select_backlog(gate, events, known_index, true);
        let is_empty = replayed.is_empty() && events.is_empty();
        (!is_empty).then(|| Delivery { replayed, events, ..self.empty_delivery(now) })
    }

    /// Creates an empty delivery.
    pub(super) fn empty_delivery(&self, now: Now) -> Delivery {
        Delivery::new(self.source.clone(), now.nano)
    }

    /// Selects the events of a backlog to store. Returns those up to and including `known_index`, which arrived before,
    /// and the others.
    fn select_backlog(
        &mut self,
        gate: &mut HealthcheckGate,
        mut events: EventBatch,
        known_index: Option<usize>,
        should_count: bool,
    ) -> (EventBatch, EventBatch) {
        let newer = events.split_off(known_index.map_or(0, |known| known + 1));
        let (replayed, replayed_left_out) = select(&self.config, gate, events, should_count);
        let (events, newer_left_out) = select(&self.config, gate, newer, should_count);
        self.delivery.excluded_healthchecks += replayed_left_out + newer_left_out;
        (replayed, events)
    }

    /// Returns the time until which the outbox is held back, if it is.
    pub(super) fn hold_until(&self) -> Option<Instant> {
        self.hold_until
    }

    /// Takes everything out for delivery. Returns `None` if it must be held back until its exec events are classified.
    pub(super) fn take_unless_held(&mut self, gate: &mut HealthcheckGate, now: Now) -> Option<Delivery> {
        (!self.should_hold(gate, now)).then(|| self.take(gate, now))
    }

    /// Takes everything out for delivery.
    pub(super) fn take(&mut self, gate: &mut HealthcheckGate, now: Now) -> Delivery {
        self.settle_healthchecks(gate);
        let empty = self.empty_delivery(now);
        let last_seen = self.last_event();
        self.last_event = LastEvent::None;
        self.backlog_events = 0;
        Delivery { received_nano: now.nano, last_seen, ..std::mem::replace(&mut self.delivery, empty) }
    }

    /// Keeps a delivery that the queue refused.
    pub(super) fn keep_refused(&mut self, delivery: Delivery) {
        self.refused.push(delivery);
    }

    /// Takes the refused deliveries out, to deliver them again.
    pub(super) fn take_refused(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.refused)
    }

    /// Returns the size of the oldest refused delivery, in bytes, if refused deliveries wait for room.
    pub(super) fn refused_bytes(&self) -> Option<usize> {
        self.refused.first().map(Delivery::bytes)
    }

    /// Returns true if the outbox must wait until its exec events are classified.
    fn should_hold(&mut self, gate: &HealthcheckGate, now: Now) -> bool {
        let is_relevant = self.config.selection.no_healthchecks || !self.config.redaction.is_empty();
        if !(is_relevant && gate.has_undecided() && self.delivery.events.heap_size() < MAX_HELD_BYTES) {
            return false;
        }
        let deadline = self.hold_until.get_or_insert_with(|| now.instant + MAX_HOLD_DURATION);
        now.instant < *deadline
    }

    /// Classifies the exec events in the outbox with what is known now.
    fn settle_healthchecks(&mut self, gate: &mut HealthcheckGate) {
        self.hold_until = None;
        let Outbox { delivery, config, source, .. } = self;
        if let Some(left_out) = gate.settle() {
            let mut is_healthcheck =
                |event: &Event<'_>| event.exec_event().is_some_and(|exec| gate.is_healthcheck(exec.id));
            if config.selection.no_healthchecks {
                delivery.excluded_healthchecks += left_out;
                delivery.replayed.retain(|event| !is_healthcheck(event));
                delivery.events.retain(|event| !is_healthcheck(event));
            } else if !config.redaction.is_empty() {
                delivery.replayed.flag_healthchecks(|event| is_redacted(event) && is_healthcheck(event));
                delivery.events.flag_healthchecks(|event| is_redacted(event) && is_healthcheck(event));
            }
        }
        if config.selection.no_healthchecks && gate.take_unavailable_warning() {
            let name = &source.name;
            tracing::warn!(
                "cannot read the configuration of some containers of {name}: the recorder stores all their exec events"
            );
        }
        let commands = gate.take_unstored_commands().into_iter();
        delivery
            .healthchecks
            .extend(commands.map(|(container, command)| (container, config.redaction.redact_command(&command))));
    }
}

/// Returns the events to store, redacted, and the number of health check events that are left out and count. The filter
/// applies to the event as the engine sent it.
fn select(
    config: &Config,
    gate: &mut HealthcheckGate,
    mut events: EventBatch,
    should_count: bool,
) -> (EventBatch, u64) {
    let mut left_out = 0;
    if config.redaction.is_empty() {
        events.retain(|event| should_store(config, event, gate.classify(event, should_count), &mut left_out));
        return (events, left_out);
    }
    let mut redacted = EventBatch::default();
    for (event, _) in events.iter() {
        let classification = gate.classify(&event, should_count);
        if should_store(config, &event, classification, &mut left_out) {
            push_event(config, &event, classification, &mut redacted);
        }
    }
    (redacted, left_out)
}

/// Returns true if an event should be stored, as far as its classification is known. Counts health check events that
/// are left out.
fn should_store(config: &Config, event: &Event<'_>, classification: Classification, left_out: &mut u64) -> bool {
    match classification {
        _ if !config.selection.matches(event) => false,
        Classification::Healthcheck { is_new } if config.selection.no_healthchecks => {
            *left_out += u64::from(is_new);
            false
        }
        _ => true,
    }
}

/// Appends an event to a list, redacted and flagged as the store needs it.
fn push_event(config: &Config, event: &Event<'_>, classification: Classification, events: &mut EventBatch) {
    match config.redaction.apply(event) {
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
fn redacted(config: &Config, rejection: Rejection) -> Rejection {
    if config.redaction.is_empty() { rejection } else { rejection.redacted() }
}
