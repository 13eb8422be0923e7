//! Events with bytes of their own, to be handed from thread to thread: parsed once, and few allocations for many.

use std::borrow::Cow;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{Event, Redaction, Texts};

/// A list of events that owns their bytes, and knows the SHA-256 of each.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// Each event's own bytes, and behind them what is written with escapes there, in clear.
    text: String,
    attributes: Vec<(Place, Place)>,
    events: Vec<Kept>,
}

/// Where a text stands, from the beginning of its event: offset and length.
type Place = (u32, u32);

/// One event of the list.
#[derive(Clone, Debug)]
struct Kept {
    /// Where its own bytes begin in the list's, and their length.
    start: usize,
    length: u32,
    digest: [u8; 32],
    kind: Place,
    action: Place,
    actor_id: Place,
    scope: Place,
    attributes: Range<usize>,
    texts: [Option<Place>; 9],
    time_nano: i64,
    /// See [`Events::mark`].
    healthcheck: bool,
}

impl Events {
    /// Copies an event to the end of the list.
    pub fn push(&mut self, event: &Event<'_>) {
        let Events { text, attributes, events } = self;
        let start = text.len();
        text.push_str(event.text);
        let base = event.text.as_ptr() as usize;
        let place = |text: &str| match text.len() {
            0 => (0, 0), // May stand anywhere.
            length => ((text.as_ptr() as usize - base) as u32, length as u32),
        };
        let mut part = |part: &Cow<'_, str>| match part {
            Cow::Borrowed(part) => place(part),
            Cow::Owned(part) => {
                text.push_str(part);
                ((text.len() - part.len() - start) as u32, part.len() as u32)
            }
        };
        let first = attributes.len();
        attributes.extend(event.attributes.iter().map(|(key, value)| (part(key), part(value))));
        events.push(Kept {
            start,
            length: event.text.len() as u32,
            digest: Sha256::digest(event.text).into(),
            kind: part(&event.kind),
            action: part(&event.action),
            actor_id: part(&event.actor_id),
            scope: part(&event.scope),
            attributes: first..attributes.len(),
            texts: event.texts.all().map(|text| text.map(place)),
            time_nano: event.time_nano,
            healthcheck: false,
        });
    }

    /// Copies an event to the end of the list, without what is to be taken out of it.
    pub fn push_redacted(&mut self, event: &Event<'_>, redaction: &Redaction) {
        match redaction.apply(event) {
            Some(text) => self.push(&Event::parse(text.as_bytes()).expect("it is an event still")),
            None => self.push(event),
        }
    }

    /// Marks the events that are of a container's own health check, which their bytes do not tell any more.
    pub fn mark(&mut self, mut is_one: impl FnMut(&Event<'_>) -> bool) {
        for at in 0..self.events.len() {
            let is_one = is_one(&self.event(&self.events[at]));
            self.events[at].healthcheck |= is_one;
        }
    }

    /// Marks the last one.
    pub fn mark_last(&mut self) {
        self.events.iter_mut().last().into_iter().for_each(|kept| kept.healthcheck = true);
    }

    /// Of each event, whether it was marked as that of a health check.
    pub fn marks(&self) -> impl Iterator<Item = bool> {
        self.events.iter().map(|kept| kept.healthcheck)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Each event, with the SHA-256 of its bytes.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Event<'_>, &[u8; 32])> {
        self.events.iter().map(|kept| (self.event(kept), &kept.digest))
    }

    /// The last event.
    pub fn last(&self) -> Option<Event<'_>> {
        self.events.last().map(|kept| self.event(kept))
    }

    /// The events of `others` and behind them those of this list.
    #[must_use]
    pub fn behind(self, mut others: Events) -> Events {
        if others.is_empty() {
            return self;
        }
        let (start, first) = (others.text.len(), others.attributes.len());
        others.text.push_str(&self.text);
        others.attributes.extend(self.attributes);
        others.events.extend(self.events.into_iter().map(|kept| Kept {
            start: kept.start + start,
            attributes: kept.attributes.start + first..kept.attributes.end + first,
            ..kept
        }));
        others
    }

    /// Takes the events from a place on, if there are any, out of the list.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Events {
        let events = self.events.split_off(at.min(self.events.len()));
        Events { text: self.text.clone(), attributes: self.attributes.clone(), events }
    }

    /// Leaves the events that pass in the list.
    pub fn retain(&mut self, mut passes: impl FnMut(&Event<'_>) -> bool) {
        let stay: Vec<bool> = self.events.iter().map(|kept| passes(&self.event(kept))).collect();
        let mut stay = stay.into_iter();
        self.events.retain(|_| stay.next() == Some(true));
    }

    /// About how much memory they take, in bytes.
    pub fn size(&self) -> usize {
        self.text.capacity()
            + self.attributes.capacity() * size_of::<(Place, Place)>()
            + self.events.capacity() * size_of::<Kept>()
    }

    fn event(&self, kept: &Kept) -> Event<'_> {
        let text = &self.text[kept.start..];
        let at = |(start, length): Place| &text[start as usize..start as usize + length as usize];
        let part = |place: Place| Cow::Borrowed(at(place));
        let attributes = &self.attributes[kept.attributes.clone()];
        Event {
            text: &text[..kept.length as usize],
            kind: part(kept.kind),
            action: part(kept.action),
            actor_id: part(kept.actor_id),
            attributes: attributes.iter().map(|(key, value)| (part(*key), part(*value))).collect(),
            scope: part(kept.scope),
            time_nano: kept.time_nano,
            texts: Texts::from_all(kept.texts.map(|place| place.map(at))),
        }
    }
}

impl<'a> FromIterator<Event<'a>> for Events {
    fn from_iter<I: IntoIterator<Item = Event<'a>>>(events: I) -> Self {
        let mut list = Events::default();
        events.into_iter().for_each(|event| list.push(&event));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> String {
        let path = format!("{}/fixtures/docker-28.5.2.ndjson", env!("CARGO_MANIFEST_DIR"));
        let odd =
            r#"{"Action":"a\u0062","Type":"","Actor":{"Attributes":{"\u0061":"<","b":5},"ID":""},"time":1,"scope":""}"#;
        std::fs::read_to_string(path).unwrap() + odd
    }

    fn parsed(text: &str) -> Vec<Event<'_>> {
        text.lines().map(|line| Event::parse(line.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn a_copy_is_the_same_event() {
        let text = fixture();
        let events = parsed(&text);
        let list: Events = events.iter().cloned().collect();
        assert_eq!(list.len(), events.len());
        for ((copy, digest), event) in list.iter().zip(&events) {
            assert_eq!(&copy, event);
            assert_eq!(digest[..], Sha256::digest(event.text)[..]);
        }
        assert_eq!(list.last().as_ref(), events.last());
    }

    #[test]
    fn lists_are_joined_and_thinned() {
        let text = fixture();
        let events = parsed(&text);
        let (first, second) = events.split_at(100);
        let mut list = Events::from_iter(second.to_vec()).behind(first.iter().cloned().collect());
        assert!(list.iter().map(|(event, _)| event).eq(events.iter().cloned()));
        let after = list.split_off(7);
        assert!(list.iter().chain(after.iter()).map(|(event, _)| event).eq(events.iter().cloned()));
        assert_eq!((list.len(), after.len()), (7, events.len() - 7));
        list = after.behind(list);
        list.retain(|event| event.kind == "network");
        assert!(list.iter().map(|(event, _)| event).eq(events.iter().filter(|event| event.kind == "network").cloned()));
        assert!(Events::default().behind(Events::default()).is_empty());
    }
}
