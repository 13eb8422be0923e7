//! One event of an engine: its own exact bytes and the fields read from them.
//!
//! What counts as an event: a JSON object (RFC 8259) with string `Type` and `Action`, an object `Actor` with a string
//! `ID`, and an integer `timeNano` or `time`. Everything else is [`NotAnEvent`]. Of a key that stands twice the last
//! one counts, as in the engine's own parser. This module knows nothing of sockets, files or databases.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// An event, borrowed from the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event as the engine sent it: one JSON object, no white space around it.
    pub raw: &'a [u8],
    /// `Type`: `container`, `image`, `network`, …
    pub kind: Cow<'a, str>,
    /// `Action`, with whatever follows a colon: `start`, `exec_create: /bin/sh -c …`.
    pub action: Cow<'a, str>,
    /// `Actor.ID`; may be empty.
    pub actor_id: Cow<'a, str>,
    /// `Actor.Attributes`, sorted bytewise by key, each key once. A value that is no string counts as its JSON text.
    pub attributes: Attributes<'a>,
    /// `scope`: `local` or `swarm`; empty where the engine gave none.
    pub scope: Cow<'a, str>,
    /// The instant, in nanoseconds since the Unix epoch: `timeNano`, or else `time` × 10⁹.
    pub time_nano: i64,
}

/// Attributes of an actor: keys and values.
pub type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// What makes two events the same one: instant, type, action, actor ID and attributes, whatever their bytes.
///
/// (The source belongs to it too; identities of two sources are never compared.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The instant, in nanoseconds since the Unix epoch.
    pub time_nano: i64,
    /// The first 16 bytes of a SHA-256 over the other fields.
    pub digest: [u8; 16],
}

/// Why some bytes are no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// The line is not UTF-8; the offset of the first bad byte.
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// The line is not one JSON value.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// The line is JSON, but no object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A field that an event must have is absent.
    #[error("no {0}")]
    Missing(&'static str),
    /// A field has the wrong type; what it should be.
    #[error("{0} is not {1}")]
    WrongType(&'static str, &'static str),
}

impl<'a> Event<'a> {
    /// Reads an event from the bytes of one line, without the line's end.
    ///
    /// # Errors
    /// [`NotAnEvent`] says what is wrong with the first thing found wrong.
    pub fn parse(line: &'a [u8]) -> Result<Self, NotAnEvent> {
        let raw = trim(line);
        let text = std::str::from_utf8(raw).map_err(|e| NotAnEvent::NotUtf8(e.valid_up_to()))?;
        let [kind, action, actor, scope, time, time_nano] =
            fields(text, ["Type", "Action", "Actor", "scope", "time", "timeNano"], NotAnEvent::NotAnObject)?;
        let kind = string(kind, "Type")?;
        let action = string(action, "Action")?;
        let actor = actor.ok_or(NotAnEvent::Missing("Actor"))?;
        let [id, attributes] = fields(actor, ["ID", "Attributes"], NotAnEvent::WrongType("Actor", "an object"))?;
        let actor_id = string(id, "Actor.ID")?;
        let attributes = match attributes {
            None | Some("null") => Vec::new(),
            Some(object) => read_attributes(object)?,
        };
        let scope = scope.and_then(|s| serde_json::from_str::<Text>(s).ok()).map_or(Cow::Borrowed(""), |t| t.0);
        Ok(Event { raw, kind, action, actor_id, attributes, scope, time_nano: instant(time_nano, time)? })
    }

    /// The value of one attribute of the actor.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        let at = self.attributes.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        Some(&self.attributes[at].1)
    }

    /// What tells this event from every other of its source.
    pub fn identity(&self) -> Identity {
        let mut hash = Sha256::new();
        let mut field = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        field(&self.kind);
        field(&self.action);
        field(&self.actor_id);
        for (key, value) in &self.attributes {
            field(key);
            field(value);
        }
        let digest = hash.finalize();
        Identity { time_nano: self.time_nano, digest: digest[..16].try_into().expect("SHA-256 has 32 bytes") }
    }

    /// Whether two events of one source are the same event.
    pub fn is_same(&self, other: &Event) -> bool {
        self.time_nano == other.time_nano
            && self.kind == other.kind
            && self.action == other.action
            && self.actor_id == other.actor_id
            && self.attributes == other.attributes
    }
}

/// A line without the white space that JSON allows around a value.
pub fn trim(line: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let start = line.iter().position(|b| !blank(b)).unwrap_or(line.len());
    let end = line.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    &line[start..end]
}

/// The JSON texts of the named members of one object, in the order of `names`.
fn fields<'a, const N: usize>(
    json: &'a str,
    names: [&str; N],
    no_object: NotAnEvent,
) -> Result<[Option<&'a str>; N], NotAnEvent> {
    if !json.starts_with('{') {
        return Err(match serde_json::from_str::<&RawValue>(json) {
            Ok(_) => no_object,
            Err(e) => NotAnEvent::NotJson(e.to_string()),
        });
    }
    let mut found = [None; N];
    let mut de = serde_json::Deserializer::from_str(json);
    de.deserialize_map(Members(|key: &str, value: &'a str| {
        if let Some(at) = names.iter().position(|name| *name == key) {
            found[at] = Some(value);
        }
    }))
    .and_then(|()| de.end())
    .map_err(|e| NotAnEvent::NotJson(e.to_string()))?;
    Ok(found)
}

fn read_attributes(json: &str) -> Result<Attributes<'_>, NotAnEvent> {
    if !json.starts_with('{') {
        return Err(NotAnEvent::WrongType("Actor.Attributes", "an object"));
    }
    let pairs: Pairs = serde_json::from_str(json).map_err(|e| NotAnEvent::NotJson(e.to_string()))?;
    let mut pairs = pairs.0;
    let in_order = pairs.windows(2).all(|two| two[0].0 < two[1].0);
    if !in_order {
        // Stable, so that of equal keys the last in the text stays last; then it is the one kept.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.reverse();
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        pairs.reverse();
    }
    Ok(pairs)
}

fn string<'a>(json: Option<&'a str>, name: &'static str) -> Result<Cow<'a, str>, NotAnEvent> {
    let json = json.ok_or(NotAnEvent::Missing(name))?;
    serde_json::from_str::<Text>(json).map(|t| t.0).map_err(|_| NotAnEvent::WrongType(name, "a string"))
}

fn instant(time_nano: Option<&str>, time: Option<&str>) -> Result<i64, NotAnEvent> {
    if time_nano.is_none() && time.is_none() {
        return Err(NotAnEvent::Missing("timeNano or time"));
    }
    let integer = |json: Option<&str>| json.and_then(|digits| digits.parse::<i64>().ok());
    integer(time_nano)
        .or_else(|| integer(time)?.checked_mul(1_000_000_000))
        .ok_or(NotAnEvent::WrongType("timeNano or time", "an integer of nanoseconds in 64 bits"))
}

/// A JSON string. A `\ud800` that is no half of a pair reads as U+FFFD, as the engine's own parser reads it.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Text<'de>, E> {
                Ok(Text(String::from_utf8_lossy(bytes)))
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(lossy(bytes))))
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        de.deserialize_bytes(Bytes)
    }
}

/// Text that may hold lone surrogates, each encoded in three bytes: one U+FFFD each.
fn lossy(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(good) => {
                text.push_str(good);
                return text;
            }
            Err(e) => {
                let (good, bad) = rest.split_at(e.valid_up_to());
                text.push_str(&String::from_utf8_lossy(good));
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &bad[bad.len().min(3)..];
            }
        }
    }
}

/// Calls its function with every key of an object and the JSON text of the value.
struct Members<F>(F);

impl<'de, F: FnMut(&str, &'de str)> Visitor<'de> for Members<F> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<Text>()? {
            let value: &'de RawValue = map.next_value()?;
            (self.0)(&key.0, value.get());
        }
        Ok(())
    }
}

/// The members of an object, as they stand.
struct Pairs<'a>(Attributes<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'de>, M::Error> {
                let mut pairs = Vec::new();
                while let Some(key) = map.next_key::<Text>()? {
                    let value: &'de RawValue = map.next_value()?;
                    let json = value.get();
                    let value = match serde_json::from_str::<Text>(json) {
                        Ok(text) => text.0,
                        Err(_) => Cow::Borrowed(json),
                    };
                    pairs.push((key.0, value));
                }
                Ok(Pairs(pairs))
            }
        }
        de.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = r#"{"status":"start","id":"c1","from":"busybox","Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"image":"busybox","name":"web"}},"scope":"local","time":1795535604,"timeNano":1795535604802090542}"#;

    fn parse(text: &str) -> Result<Event<'_>, NotAnEvent> {
        Event::parse(text.as_bytes())
    }

    #[test]
    fn the_fields_of_an_event_are_read() {
        let event = parse(START).unwrap();
        assert_eq!(event.raw, START.as_bytes());
        assert_eq!((&*event.kind, &*event.action, &*event.actor_id), ("container", "start", "c1"));
        assert_eq!(event.attribute("name"), Some("web"));
        assert_eq!(event.attribute("nam"), None);
        assert_eq!(event.scope, "local");
        assert_eq!(event.time_nano, 1_795_535_604_802_090_542);
    }

    #[test]
    fn the_least_an_event_may_be() {
        for text in [
            r#"{"Type":"","Action":"","Actor":{"ID":""},"time":0}"#,
            r#"{"Type":"t","Action":"a","Actor":{"ID":"x","Attributes":null},"timeNano":1}"#,
            r#"  {"Type":"t","Action":"a","Actor":{"ID":"x","Attributes":{}},"time":1,"big":1e999}  "#,
            r#"{"Type":"t","Action":"a","Actor":{"ID":"\ud800"},"time":1.5,"timeNano":7,"x":[[[{}]]]}"#,
            r#"{"Type":"t","Action":"a","Actor":{"ID":"x"},"time":5,"timeNano":null}"#,
            r#"{"Type":1,"Action":"a","Actor":{"ID":"x"},"time":5,"\u0054ype":"t"}"#,
        ] {
            parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    }

    #[test]
    fn everything_else_is_no_event_and_says_why() {
        for (text, why) in [
            ("", "not JSON: EOF while parsing a value at line 1 column 0"),
            ("[]", "not a JSON object"),
            ("42", "not a JSON object"),
            ("{}", "no Type"),
            (r#"{"Type":1,"Action":"a","Actor":{"ID":"x"},"time":1}"#, "Type is not a string"),
            (r#"{"Type":"t","Actor":{"ID":"x"},"time":1}"#, "no Action"),
            (r#"{"Type":"t","Action":"a","time":1}"#, "no Actor"),
            (r#"{"Type":"t","Action":"a","Actor":"x","time":1}"#, "Actor is not an object"),
            (r#"{"Type":"t","Action":"a","Actor":{},"time":1}"#, "no Actor.ID"),
            (r#"{"Type":"t","Action":"a","Actor":{"ID":null},"time":1}"#, "Actor.ID is not a string"),
            (
                r#"{"Type":"t","Action":"a","Actor":{"ID":"x","Attributes":[]},"time":1}"#,
                "Actor.Attributes is not an object",
            ),
            (r#"{"Type":"t","Action":"a","Actor":{"ID":"x"}}"#, "no timeNano or time"),
            (
                r#"{"Type":"t","Action":"a","Actor":{"ID":"x"},"time":"1"}"#,
                "timeNano or time is not an integer of nanoseconds in 64 bits",
            ),
            (
                r#"{"Type":"t","Action":"a","Actor":{"ID":"x"},"time":9223372036854775807}"#,
                "timeNano or time is not an integer of nanoseconds in 64 bits",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), why, "{text}");
        }
        let valid = |tail: &str| format!(r#"{{"Type":"t","Action":"a","Actor":{{"ID":"x"}},"time":1{tail}"#);
        assert!(parse(&valid("}")).is_ok());
        for tail in ["", "}}", "},", r#","a":01}"#, ",}", "} {}", ",\"a\":\"\t\"}", r#","a":"\x"}"#, r#","a":NaN}"#] {
            assert!(matches!(parse(&valid(tail)), Err(NotAnEvent::NotJson(_))), "{tail}");
        }
        assert_eq!(Event::parse(b"{\"Type\":\"\xff\"}"), Err(NotAnEvent::NotUtf8(9)));
        let deep = "[".repeat(100_000);
        assert!(matches!(parse(&deep), Err(NotAnEvent::NotJson(_))));
        assert!(matches!(parse(&format!("{{\"a\":{deep}")), Err(NotAnEvent::NotJson(_))));
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        let event = parse(
            r#"{"Type":"a","Type":"b","Action":"a","Actor":{"ID":"x","Attributes":{"k":"2","a":"1","k":"3"}},"time":1}"#,
        )
        .unwrap();
        assert_eq!(event.kind, "b");
        assert_eq!(event.attributes, [("a".into(), "1".into()), ("k".into(), "3".into())]);
    }

    #[test]
    fn sameness_is_of_what_is_said_not_of_bytes() {
        let a = parse(START).unwrap();
        let other_bytes = r#"{"Action":"start","Actor":{"Attributes":{"name":"w\u0065b","image":"busybox"},"ID":"c1"},"Type":"container","timeNano":1795535604802090542}"#;
        let b = parse(other_bytes).unwrap();
        assert!(a.is_same(&b));
        assert_eq!(a.identity(), b.identity());
        for (from, to) in [("\"web\"", "\"wec\""), ("542}", "543}"), ("\"ID\":\"c1\"", "\"ID\":\"c2\"")] {
            let text = START.replace(from, to);
            let c = parse(&text).unwrap();
            assert!(!a.is_same(&c));
            assert_ne!(a.identity(), c.identity(), "{text}");
        }
    }
}
