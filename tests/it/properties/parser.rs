//! An event is parsed as serde_json parses it.

use std::collections::BTreeMap;
use std::fmt;

use events::event::{Event, EventBatch, ParseError, RawValues};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Fields of an event, as serde_json reads them.
#[derive(Debug, PartialEq, Eq)]
struct EventFields {
    kind: String,
    action: String,
    actor_id: String,
    attributes: Vec<(String, String)>,
    scope: String,
    time_nano: i64,
}

/// The text of the bytes if they are one JSON value, without the white space around it.
fn as_json(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get)
}

/// Returns true if the bytes are an event.
pub(crate) fn is_event(bytes: &[u8]) -> bool {
    as_json(bytes).and_then(reference_parse).is_some()
}

pub(crate) fn check(bytes: &[u8]) {
    let expected = as_json(bytes);
    let event = match Event::parse(bytes) {
        Ok(event) => event,
        Err(e) => {
            let not_json = matches!(e, ParseError::InvalidUtf8(_) | ParseError::InvalidJson(_));
            assert_eq!(not_json, expected.is_none(), "{e}");
            assert_eq!(expected.and_then(reference_parse), None, "{e}");
            return;
        }
    };
    let text = expected.expect("an event is JSON");
    assert_eq!(event.raw(), text.as_bytes());
    let pairs = event.attributes.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let actual = EventFields {
        kind: event.kind.to_string(),
        action: event.action.to_string(),
        actor_id: event.actor_id.to_string(),
        attributes: pairs.collect(),
        scope: event.scope.to_string(),
        time_nano: event.time_nano,
    };
    assert_eq!(Some(actual), reference_parse(text));
    assert_eq!(Some(event.raw_values), reference_texts(text));
    for (key, value) in &event.attributes {
        assert_eq!(event.attribute(key), Some(value.as_ref()));
    }
    check_list_copies_are_equal(&event);
}

/// Asserts that copies of an event in a list are equal to it, at any position.
fn check_list_copies_are_equal(event: &Event<'_>) {
    assert!(event.is_same(event));
    let one: EventBatch = [event.clone()].into_iter().collect();
    let mut three = one.clone().append_to(one);
    three.push(event);
    assert_eq!(three.len(), 3);
    for (copy, _) in three.iter() {
        assert_eq!(&copy, event);
        assert_eq!(copy.identity(), event.identity());
    }
}

fn reference_parse(text: &str) -> Option<EventFields> {
    let event = members(text)?;
    let actor = members(event.get("Actor")?)?;
    let attributes = match actor.get("Attributes") {
        None | Some(&"null") => BTreeMap::new(),
        Some(attributes) => members(attributes)?,
    };
    let integer = |key: &str| match *event.get(key)? {
        "-0" => Some(0),
        digits => serde_json::from_str::<i64>(digits).ok(),
    };
    Some(EventFields {
        kind: string(event.get("Type")?)?,
        action: string(event.get("Action")?)?,
        actor_id: string(actor.get("ID")?)?,
        attributes: attributes.into_iter().map(|(key, json)| (key, string(json).unwrap_or(json.into()))).collect(),
        scope: event.get("scope").and_then(|scope| string(scope)).unwrap_or_default(),
        time_nano: integer("timeNano").or_else(|| integer("time")?.checked_mul(1_000_000_000))?,
    })
}

fn reference_texts(text: &str) -> Option<RawValues<'_>> {
    let event = members(text)?;
    let actor = members(event.get("Actor")?)?;
    Some(RawValues {
        status: event.get("status").copied(),
        id: event.get("id").copied(),
        from: event.get("from").copied(),
        kind: event.get("Type").copied(),
        action: event.get("Action").copied(),
        actor_id: actor.get("ID").copied(),
        attributes: actor.get("Attributes").copied(),
        time: event.get("time").copied(),
        time_nano: event.get("timeNano").copied(),
    })
}

/// Members of an object, with the text of their values. Of duplicate keys, the last one wins.
fn members(text: &str) -> Option<BTreeMap<String, &str>> {
    struct Members<'a>(BTreeMap<String, &'a str>);

    impl<'a> Deserialize<'a> for Members<'a> {
        fn deserialize<D: Deserializer<'a>>(json: D) -> Result<Self, D::Error> {
            struct Object;
            impl<'a> Visitor<'a> for Object {
                type Value = Members<'a>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                    let mut members = BTreeMap::new();
                    while let Some((key, value)) = map.next_entry::<Text, &RawValue>()? {
                        members.insert(key.0, value.get());
                    }
                    Ok(Members(members))
                }
            }
            json.deserialize_map(Object)
        }
    }

    serde_json::from_str::<Members<'_>>(text).ok().map(|members| members.0)
}

fn string(json: &str) -> Option<String> {
    serde_json::from_str::<Text>(json).ok().map(|text| text.0)
}

/// A string in which an unpaired surrogate is U+FFFD, as Go's parser reads it. serde_json rejects such a string as
/// text, but returns it as bytes.
struct Text(String);

impl<'a> Deserialize<'a> for Text {
    fn deserialize<D: Deserializer<'a>>(json: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
                let mut valid = Vec::with_capacity(bytes.len());
                let mut rest = bytes;
                while let Some((first, tail)) = rest.split_first() {
                    match (first, tail) {
                        (0xED, [0xA0..=0xBF, _, after @ ..]) => {
                            valid.extend_from_slice("\u{FFFD}".as_bytes());
                            rest = after;
                        }
                        _ => {
                            valid.push(*first);
                            rest = tail;
                        }
                    }
                }
                Ok(Text(String::from_utf8(valid).expect("all but surrogates is UTF-8")))
            }
        }
        json.deserialize_bytes(Bytes)
    }
}
