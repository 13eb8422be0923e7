//! Owned batches of parsed events, which can move between threads.
//!
//! Each event is parsed once, and a batch needs few allocations for many events.

use std::borrow::Cow;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{Event, RawValues, Redaction};

/// A batch of events that owns their bytes, with the SHA-256 of each.
#[derive(Clone, Debug, Default)]
pub struct EventBatch {
    /// The bytes of each event, followed by the decoded form of its strings that have escapes.
    text: String,
    attributes: Vec<(Span, Span)>,
    entries: Vec<Entry>,
}

/// Offset and length of a string, relative to the start of its event.
type Span = (u32, u32);

/// One event of the batch.
#[derive(Clone, Debug)]
struct Entry {
    /// Offset of the event in the text of the batch.
    start: usize,
    length: u32,
    digest: [u8; 32],
    kind: Span,
    action: Span,
    actor_id: Span,
    scope: Span,
    attributes: Range<usize>,
    raw_values: [Option<Span>; 9],
    time_nano: i64,
    /// Health-check flag, see [`EventBatch::flag_healthchecks`].
    is_healthcheck: bool,
}

impl EventBatch {
    /// Appends a copy of an event.
    pub fn push(&mut self, event: &Event<'_>) {
        let EventBatch { text, attributes, entries } = self;
        let start = text.len();
        text.push_str(event.text);
        let base = event.text.as_ptr() as usize;
        let span = |text: &str| match text.len() {
            0 => (0, 0), // An empty string may point anywhere.
            length => ((text.as_ptr() as usize - base) as u32, length as u32),
        };
        let mut span_of = |part: &Cow<'_, str>| match part {
            Cow::Borrowed(part) => span(part),
            Cow::Owned(part) => {
                text.push_str(part);
                ((text.len() - part.len() - start) as u32, part.len() as u32)
            }
        };
        let first = attributes.len();
        attributes.extend(event.attributes.iter().map(|(key, value)| (span_of(key), span_of(value))));
        entries.push(Entry {
            start,
            length: event.text.len() as u32,
            digest: Sha256::digest(event.text).into(),
            kind: span_of(&event.kind),
            action: span_of(&event.action),
            actor_id: span_of(&event.actor_id),
            scope: span_of(&event.scope),
            attributes: first..attributes.len(),
            raw_values: event.raw_values.to_array().map(|text| text.map(span)),
            time_nano: event.time_nano,
            is_healthcheck: false,
        });
    }

    /// Appends a copy of an event after redaction.
    pub fn push_redacted(&mut self, event: &Event<'_>, redaction: &Redaction) {
        match redaction.apply(event) {
            Some(text) => self.push(&Event::parse(text.as_bytes()).expect("a redacted event is a valid event")),
            None => self.push(event),
        }
    }

    /// Sets the health-check flag on the events for which `is_healthcheck` returns true.
    ///
    /// After redaction, the bytes of an event no longer show that it belongs to a health check.
    pub fn flag_healthchecks(&mut self, mut is_healthcheck: impl FnMut(&Event<'_>) -> bool) {
        for index in 0..self.entries.len() {
            let is_healthcheck = is_healthcheck(&self.event(&self.entries[index]));
            self.entries[index].is_healthcheck |= is_healthcheck;
        }
    }

    /// Sets the health-check flag on the last event.
    pub fn flag_last_healthcheck(&mut self) {
        self.entries.iter_mut().last().into_iter().for_each(|entry| entry.is_healthcheck = true);
    }

    /// Health-check flag of each event.
    pub fn healthcheck_flags(&self) -> impl Iterator<Item = bool> {
        self.entries.iter().map(|entry| entry.is_healthcheck)
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if the batch has no events.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Iterates over the events, each with the SHA-256 of its bytes.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Event<'_>, &[u8; 32])> {
        self.entries.iter().map(|entry| (self.event(entry), &entry.digest))
    }

    /// The last event.
    pub fn last(&self) -> Option<Event<'_>> {
        self.entries.last().map(|entry| self.event(entry))
    }

    /// Appends this batch to `others` and returns the result.
    #[must_use]
    pub fn append_to(self, mut others: EventBatch) -> EventBatch {
        if others.is_empty() {
            return self;
        }
        let (start, first) = (others.text.len(), others.attributes.len());
        others.text.push_str(&self.text);
        others.attributes.extend(self.attributes);
        others.entries.extend(self.entries.into_iter().map(|entry| Entry {
            start: entry.start + start,
            attributes: entry.attributes.start + first..entry.attributes.end + first,
            ..entry
        }));
        others
    }

    /// Removes the events from index `at` on, and returns them. They may be none.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> EventBatch {
        let entries = self.entries.split_off(at.min(self.entries.len()));
        EventBatch { text: self.text.clone(), attributes: self.attributes.clone(), entries }
    }

    /// Keeps only the events for which `predicate` returns true.
    pub fn retain(&mut self, mut predicate: impl FnMut(&Event<'_>) -> bool) {
        let keep: Vec<bool> = self.entries.iter().map(|entry| predicate(&self.event(entry))).collect();
        let mut keep = keep.into_iter();
        self.entries.retain(|_| keep.next() == Some(true));
    }

    /// Approximate heap memory of the batch in bytes.
    pub fn heap_size(&self) -> usize {
        self.text.capacity()
            + self.attributes.capacity() * size_of::<(Span, Span)>()
            + self.entries.capacity() * size_of::<Entry>()
    }

    fn event(&self, entry: &Entry) -> Event<'_> {
        let text = &self.text[entry.start..];
        let slice = |(start, length): Span| &text[start as usize..start as usize + length as usize];
        let borrowed = |span: Span| Cow::Borrowed(slice(span));
        let attributes = &self.attributes[entry.attributes.clone()];
        Event {
            text: &text[..entry.length as usize],
            kind: borrowed(entry.kind),
            action: borrowed(entry.action),
            actor_id: borrowed(entry.actor_id),
            attributes: attributes.iter().map(|(key, value)| (borrowed(*key), borrowed(*value))).collect(),
            scope: borrowed(entry.scope),
            time_nano: entry.time_nano,
            raw_values: RawValues::from_array(entry.raw_values.map(|span| span.map(slice))),
        }
    }
}

impl<'a> FromIterator<Event<'a>> for EventBatch {
    fn from_iter<I: IntoIterator<Item = Event<'a>>>(events: I) -> Self {
        let mut batch = EventBatch::default();
        events.into_iter().for_each(|event| batch.push(&event));
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> String {
        let path = format!("{}/fixtures/docker-28.5.2.ndjson", env!("CARGO_MANIFEST_DIR"));
        let edge_case =
            r#"{"Action":"a\u0062","Type":"","Actor":{"Attributes":{"\u0061":"<","b":5},"ID":""},"time":1,"scope":""}"#;
        std::fs::read_to_string(path).unwrap() + edge_case
    }

    fn parse_lines(text: &str) -> Vec<Event<'_>> {
        text.lines().map(|line| Event::parse(line.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn a_pushed_event_reads_back_equal() {
        let text = fixture();
        let events = parse_lines(&text);
        let batch: EventBatch = events.iter().cloned().collect();
        assert_eq!(batch.len(), events.len());
        for ((copy, digest), event) in batch.iter().zip(&events) {
            assert_eq!(&copy, event);
            assert_eq!(digest[..], Sha256::digest(event.text)[..]);
        }
        assert_eq!(batch.last().as_ref(), events.last());
    }

    #[test]
    fn batches_can_be_joined_split_and_filtered() {
        let text = fixture();
        let events = parse_lines(&text);
        let (first, second) = events.split_at(100);
        let mut batch = EventBatch::from_iter(second.to_vec()).append_to(first.iter().cloned().collect());
        assert!(batch.iter().map(|(event, _)| event).eq(events.iter().cloned()));
        let rest = batch.split_off(7);
        assert!(batch.iter().chain(rest.iter()).map(|(event, _)| event).eq(events.iter().cloned()));
        assert_eq!((batch.len(), rest.len()), (7, events.len() - 7));
        batch = rest.append_to(batch);
        batch.retain(|event| event.kind == "network");
        assert!(
            batch.iter().map(|(event, _)| event).eq(events.iter().filter(|event| event.kind == "network").cloned())
        );
        assert!(EventBatch::default().append_to(EventBatch::default()).is_empty());
    }
}
