//! An event with bytes of its own, to be handed from thread to thread: parsed once.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::{Event, Texts};

/// An event that owns its bytes, and the SHA-256 of them.
#[derive(Clone, Debug)]
pub struct OwnedEvent {
    text: Box<str>,
    digest: [u8; 32],
    kind: Part,
    action: Part,
    actor_id: Part,
    scope: Part,
    attributes: Box<[(Part, Part)]>,
    texts: [Option<Place>; 9],
    time_nano: i64,
}

/// Where a text stands in the bytes: offset and length.
type Place = (u32, u32);

/// A text in the bytes, or beside them where it is written with escapes.
#[derive(Clone, Debug)]
enum Part {
    Within(Place),
    Beside(Box<str>),
}

impl OwnedEvent {
    /// Copies an event.
    pub fn of(event: &Event) -> OwnedEvent {
        let base = event.text.as_ptr() as usize;
        let place = |text: &str| match text.len() {
            0 => (0, 0), // May stand anywhere.
            length => ((text.as_ptr() as usize - base) as u32, length as u32),
        };
        let part = |text: &Cow<str>| match text {
            Cow::Borrowed(text) => Part::Within(place(text)),
            Cow::Owned(text) => Part::Beside(text.as_str().into()),
        };
        OwnedEvent {
            text: event.text.into(),
            digest: Sha256::digest(event.text).into(),
            kind: part(&event.kind),
            action: part(&event.action),
            actor_id: part(&event.actor_id),
            scope: part(&event.scope),
            attributes: event.attributes.iter().map(|(key, value)| (part(key), part(value))).collect(),
            texts: event.texts.all().map(|text| text.map(place)),
            time_nano: event.time_nano,
        }
    }

    /// The event.
    pub fn event(&self) -> Event<'_> {
        let text = &self.text;
        let at = |(start, length): Place| &text[start as usize..start as usize + length as usize];
        let part = |part: &'_ Part| -> Cow<'_, str> {
            match part {
                Part::Within(place) => Cow::Borrowed(at(*place)),
                Part::Beside(text) => Cow::Owned(text.to_string()),
            }
        };
        Event {
            text,
            kind: part(&self.kind),
            action: part(&self.action),
            actor_id: part(&self.actor_id),
            attributes: self.attributes.iter().map(|(key, value)| (part(key), part(value))).collect(),
            scope: part(&self.scope),
            time_nano: self.time_nano,
            texts: Texts::from_all(self.texts.map(|place| place.map(at))),
        }
    }

    /// The SHA-256 of the bytes.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// About how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.attributes.len() * size_of::<(Part, Part)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_event() {
        let path = format!("{}/fixtures/docker-28.5.2.ndjson", env!("CARGO_MANIFEST_DIR"));
        let odd =
            r#"{"Action":"a\u0062","Type":"","Actor":{"Attributes":{"\u0061":"<","b":5},"ID":""},"time":1,"scope":""}"#;
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines().chain([odd]) {
            let event = Event::parse(line.as_bytes()).unwrap();
            let owned = OwnedEvent::of(&event);
            assert_eq!(owned.event(), event);
            assert_eq!(owned.digest()[..], Sha256::digest(line)[..]);
        }
    }
}
