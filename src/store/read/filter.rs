//! Filters the rows of a plan by the caller's predicate, and collects the matching events in a batch.

use std::collections::HashMap;

use rusqlite::Connection;

use super::healthchecks::{ContainerKey, HealthcheckClassifier, KindAndActor, Verdict};
use crate::event::Event;
use crate::store::format::decode::{EventDecoder, EventRow};
use crate::store::ids::{Nanos, Seq, SourceId};

/// Maximum number of cached results of a predicate, by event kind and actor.
const MAX_CACHED_MATCHES: usize = 100_000;

/// Predicate that decides which of the candidate events match.
#[derive(Clone, Copy)]
pub enum EventPredicate<'a> {
    /// Every event matches.
    All,
    /// The events that pass, where the result does not depend on attributes that vary between events of one actor. The
    /// predicate is called once for each event kind and actor.
    PerKindAndActor(&'a dyn Fn(&Event<'_>) -> bool),
    /// The events that pass. The predicate is called for each event.
    PerEvent(&'a dyn Fn(&Event<'_>) -> bool),
}

/// A stored event, borrowed from the reader.
#[derive(Clone, Copy, Debug)]
pub struct StoredEvent<'a> {
    /// Position in the order of arrival.
    pub seq: i64,
    /// [`SourceRow::id`](crate::store::SourceRow::id).
    pub source: i64,
    /// Time of arrival, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// True if the event has the health-check flag.
    pub is_healthcheck: bool,
    /// The event's own bytes.
    pub raw: &'a [u8],
}

/// Events that are passed to the caller together.
#[derive(Default)]
pub(super) struct Batch {
    rows: Vec<BatchRow>,
    lines: Vec<u8>,
    /// Containers of the events that could not be classified although health checks are excluded, by sequence.
    pub(super) unknown_healthchecks: HashMap<Seq, ContainerKey>,
}

/// Event of a batch, without its line.
struct BatchRow {
    seq: Seq,
    source: SourceId,
    received_nano: Nanos,
    is_healthcheck: bool,
    /// End of the line in [`Batch::lines`]; it begins where the previous one ends.
    line_end: usize,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.lines.clear();
    }

    /// Number of events.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Size of the lines in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn events(&self) -> impl Iterator<Item = StoredEvent<'_>> {
        let mut start = 0;
        self.rows.iter().map(move |row| {
            let raw = &self.lines[start..row.line_end];
            start = row.line_end;
            StoredEvent {
                seq: row.seq.0,
                source: row.source.0,
                received_nano: row.received_nano.0,
                is_healthcheck: row.is_healthcheck,
                raw,
            }
        })
    }
}

/// A predicate with its cached results.
pub(super) struct EventFilter<'a> {
    predicate: EventPredicate<'a>,
    /// Results by event kind and actor, for [`EventPredicate::PerKindAndActor`].
    cached_matches: HashMap<KindAndActor, bool>,
    /// Classifies events if those of health checks are excluded.
    classifier: Option<HealthcheckClassifier>,
    line: Vec<u8>,
}

impl<'a> EventFilter<'a> {
    pub(super) fn new(predicate: EventPredicate<'a>, exclude_healthchecks: bool) -> Self {
        let classifier = exclude_healthchecks.then(HealthcheckClassifier::default);
        EventFilter { predicate, cached_matches: HashMap::new(), classifier, line: Vec::new() }
    }

    /// Adds an event to the batch if it matches.
    pub(super) fn push_if_match(
        &mut self,
        db: &Connection,
        decoder: &mut EventDecoder,
        row: &EventRow,
        batch: &mut Batch,
    ) -> rusqlite::Result<()> {
        let verdict = match &mut self.classifier {
            Some(classifier) => classifier.classify(db, row)?,
            None => Verdict::Other,
        };
        if verdict == Verdict::Healthcheck {
            return Ok(());
        }
        let key = KindAndActor { kind_id: row.kind_id, actor_id: row.actor_id };
        let cached = if let EventPredicate::PerKindAndActor(_) = self.predicate {
            self.cached_matches.get(&key).copied()
        } else {
            None
        };
        if cached == Some(false) {
            return Ok(());
        }
        decoder.decode(db, row, &mut self.line)?;
        let is_match = match self.predicate {
            EventPredicate::All => true,
            EventPredicate::PerEvent(matches) => line_matches(&self.line, row.seq, matches),
            EventPredicate::PerKindAndActor(_) if cached.is_some() => true,
            EventPredicate::PerKindAndActor(matches) => {
                if self.cached_matches.len() >= MAX_CACHED_MATCHES {
                    self.cached_matches.clear();
                }
                *self.cached_matches.entry(key).or_insert_with(|| line_matches(&self.line, row.seq, matches))
            }
        };
        if is_match {
            if let (Verdict::Unknown, Some(classifier)) = (verdict, &mut self.classifier) {
                batch.unknown_healthchecks.insert(row.seq, classifier.container_of(db, row.actor_id)?);
            }
            batch.lines.extend_from_slice(&self.line);
            batch.rows.push(BatchRow {
                seq: row.seq,
                source: decoder.source(db, row)?,
                received_nano: decoder.received_nano(db, row)?,
                is_healthcheck: decoder.is_healthcheck(db, row)?,
                line_end: batch.lines.len(),
            });
        }
        Ok(())
    }
}

fn line_matches(line: &[u8], seq: Seq, matches: &dyn Fn(&Event<'_>) -> bool) -> bool {
    match Event::parse(line) {
        Ok(event) => matches(&event),
        Err(e) => {
            tracing::error!("the stored line of event {seq} is not an event: {e}");
            false
        }
    }
}
