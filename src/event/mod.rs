//! Parses one event of an engine: its exact bytes and the fields in them.
//!
//! An event is a JSON object (RFC 8259). Its `Type` and `Action` are strings, its `Actor` is an object with a string
//! `ID`, and its `timeNano` or `time` is an integer. Everything else is a [`ParseError`]. If a key occurs twice, the
//! last one counts, as in the engine's own parser. This module has no access to sockets, files or databases.

mod batch;
mod escape;
mod exec;
mod json;
mod redact;

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use batch::EventBatch;
pub use escape::{needs_escape, write_json_string};
pub use exec::{EXEC_DIE, ExecEvent, exec_command};
pub use json::JsonError;
use json::{Cursor, JsonString};
pub use redact::{REDACTED, Redaction, RedactionError, is_redacted, may_be_same};

/// An event, borrowed from the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event as the engine sent it: one JSON object without surrounding white space.
    pub text: &'a str,
    /// `Type`: `container`, `image`, `network`, …
    pub kind: Cow<'a, str>,
    /// `Action`, including the part after a colon: `start`, `exec_create: /bin/sh -c …`.
    pub action: Cow<'a, str>,
    /// `Actor.ID`; may be empty.
    pub actor_id: Cow<'a, str>,
    /// `Actor.Attributes`, sorted bytewise by key, each key once. A value that is not a string is kept as JSON text.
    pub attributes: Attributes<'a>,
    /// `scope`: `local` or `swarm`; empty if the event has none.
    pub scope: Cow<'a, str>,
    /// Time in nanoseconds since the Unix epoch: `timeNano`, or else `time` × 10⁹.
    pub time_nano: i64,
    /// JSON texts of the values, as slices of [`text`](Self::text).
    pub raw_values: RawValues<'a>,
}

/// JSON texts of the values of an event, as slices of its bytes. If a key occurs twice, the last one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field has the name of its JSON key")]
pub struct RawValues<'a> {
    pub status: Option<&'a str>,
    pub id: Option<&'a str>,
    pub from: Option<&'a str>,
    pub kind: Option<&'a str>,
    pub action: Option<&'a str>,
    pub actor_id: Option<&'a str>,
    pub attributes: Option<&'a str>,
    pub time: Option<&'a str>,
    pub time_nano: Option<&'a str>,
}

impl<'a> RawValues<'a> {
    fn to_array(self) -> [Option<&'a str>; 9] {
        let RawValues { status, id, from, kind, action, actor_id, attributes, time, time_nano } = self;
        [status, id, from, kind, action, actor_id, attributes, time, time_nano]
    }

    fn from_array(values: [Option<&'a str>; 9]) -> Self {
        let [status, id, from, kind, action, actor_id, attributes, time, time_nano] = values;
        RawValues { status, id, from, kind, action, actor_id, attributes, time, time_nano }
    }
}

/// Returns the bytes of an event with another time, and everything else unchanged.
pub fn with_time(event: &Event<'_>, time_nano: i64) -> String {
    let mut replacements: Vec<(&str, i64)> = Vec::new();
    replacements.extend(event.raw_values.time.map(|text| (text, time_nano.div_euclid(1_000_000_000))));
    replacements.extend(event.raw_values.time_nano.map(|text| (text, time_nano)));
    replacements.sort_by_key(|(text, _)| text.as_ptr());
    let mut out = String::with_capacity(event.text.len() + 20);
    let mut copied = 0;
    for (text, value) in replacements {
        let start = text.as_ptr() as usize - event.text.as_ptr() as usize;
        out.push_str(&event.text[copied..start]);
        out.push_str(&value.to_string());
        copied = start + text.len();
    }
    out.push_str(&event.text[copied..]);
    out
}

/// Attributes of an actor, as pairs of key and value.
pub type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// A cheaper identity for every event of a stream: its time, and a hash of type, action and actor ID.
///
/// It costs a fraction of an [`Identity`]. Two events that differ only in attributes have the same fingerprint; no
/// engine sends two such events with the same nanosecond. Code for which this matters compares identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Time in nanoseconds since the Unix epoch.
    pub time_nano: i64,
    /// Hash of type, action and actor ID.
    pub hash: u64,
}

/// Identity of an event: time, type, action, actor ID and attributes, whatever its bytes.
///
/// Identities are only compared within one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Time in nanoseconds since the Unix epoch.
    pub time_nano: i64,
    /// First 16 bytes of a SHA-256 over the other fields.
    pub digest: [u8; 16],
}

/// Reason why a line is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The line is not UTF-8; contains the offset of the first invalid byte.
    #[error("not UTF-8 at byte {0}")]
    InvalidUtf8(usize),
    /// The line is not one JSON value.
    #[error("not JSON: {0}")]
    InvalidJson(#[from] JsonError),
    /// The line is JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A required field is missing.
    #[error("no {0}")]
    MissingField(&'static str),
    /// A field has the wrong type; contains the field and the expected type.
    #[error("{0} is not {1}")]
    WrongType(&'static str, &'static str),
}

impl<'a> Event<'a> {
    /// Parses the bytes of one line, without its line end.
    ///
    /// # Errors
    /// [`ParseError`] for the first problem found.
    pub fn parse(line: &'a [u8]) -> Result<Self, ParseError> {
        let raw = trim(line);
        let text = std::str::from_utf8(raw).map_err(|e| ParseError::InvalidUtf8(e.valid_up_to()))?;
        RawEvent::parse(text)?.into_event(text)
    }

    /// Bytes of the event as the engine sent it.
    pub fn raw(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// Value of an attribute of the actor.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        let index = self.attributes.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        Some(&self.attributes[index].1)
    }

    /// `status`: repeats the action on events of containers and images.
    ///
    /// Engines from API 1.52 on omit it, and send it only to clients that request a lower version. This method returns
    /// it in either case.
    pub fn status(&self) -> Cow<'_, str> {
        let fallback = if self.lacks_legacy_fields() { &self.action } else { "" };
        self.raw_values.status.map_or(Cow::Borrowed(fallback), decode_string)
    }

    /// `id`: repeats the actor ID; returned also if omitted, as for [`status`](Self::status).
    pub fn id(&self) -> Cow<'_, str> {
        let fallback = if self.lacks_legacy_fields() { &self.actor_id } else { "" };
        self.raw_values.id.map_or(Cow::Borrowed(fallback), decode_string)
    }

    /// `from`: repeats the image of a container; returned also if omitted, as for [`status`](Self::status).
    pub fn from(&self) -> Cow<'_, str> {
        let is_container = self.lacks_legacy_fields() && self.kind == "container";
        let fallback = self.attribute("image").filter(|_| is_container).unwrap_or_default();
        self.raw_values.from.map_or(Cow::Borrowed(fallback), decode_string)
    }

    /// Returns true if the event lacks the repeated fields that engines below API 1.52 send.
    pub fn lacks_legacy_fields(&self) -> bool {
        self.raw_values.status.is_none() && matches!(&*self.kind, "container" | "image")
    }

    /// Computes the identity, which distinguishes the event from all others of its source.
    pub fn identity(&self) -> Identity {
        let mut hash = Sha256::new();
        let mut add_field = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add_field(&self.kind);
        add_field(&self.action);
        add_field(&self.actor_id);
        for (key, value) in &self.attributes {
            add_field(key);
            add_field(value);
        }
        let digest = hash.finalize();
        Identity { time_nano: self.time_nano, digest: digest[..16].try_into().expect("a SHA-256 digest has 32 bytes") }
    }

    /// Computes the fingerprint, which is cheap enough for every event of a stream.
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = [&self.kind, &self.action, &self.actor_id]
            .iter()
            .fold(0, |seed, text| xxh3_64_with_seed(text.as_bytes(), seed));
        Fingerprint { time_nano: self.time_nano, hash }
    }

    /// Returns true if two events of one source are the same event.
    pub fn is_same(&self, other: &Event<'_>) -> bool {
        self.time_nano == other.time_nano
            && self.kind == other.kind
            && self.action == other.action
            && self.actor_id == other.actor_id
            && self.attributes == other.attributes
    }
}

/// Decodes a JSON text if it is a string; otherwise returns an empty string.
fn decode_string(text: &str) -> Cow<'_, str> {
    if text.starts_with('"') {
        Cursor::new(text).parse_string().map(JsonString::decode).unwrap_or_default()
    } else {
        "".into()
    }
}

/// Removes the white space that JSON allows around a value.
pub fn trim(line: &[u8]) -> &[u8] {
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let start = line.iter().position(|b| !is_blank(b)).unwrap_or(line.len());
    let end = line.iter().rposition(|b| !is_blank(b)).map_or(start, |last| last + 1);
    &line[start..end]
}

/// Fields in the text of an event, not yet validated. If a key occurs twice, the last one counts.
#[derive(Default)]
struct RawEvent<'a> {
    kind: Option<StringField<'a>>,
    action: Option<StringField<'a>>,
    scope: Option<StringField<'a>>,
    /// True if the last `Actor` is an object; `None` without an `Actor`.
    actor: Option<bool>,
    actor_id: Option<StringField<'a>>,
    /// `None` for null, `Some(None)` for a value that is not an object.
    attributes: Option<Option<Attributes<'a>>>,
    raw_values: RawValues<'a>,
}

/// A field that should be a string; `None` if it has another type.
type StringField<'a> = Option<Cow<'a, str>>;

impl<'a> RawEvent<'a> {
    fn parse(text: &'a str) -> Result<Self, ParseError> {
        let mut cursor = Cursor::new(text);
        if cursor.peek_token() != Some(b'{') {
            cursor.skip_value().and_then(|_| cursor.expect_end())?;
            return Err(ParseError::NotAnObject);
        }
        let mut raw = RawEvent::default();
        cursor.parse_object(|cursor, key| raw.read_member(cursor, key))?;
        cursor.expect_end()?;
        Ok(raw)
    }

    fn read_member(&mut self, cursor: &mut Cursor<'a>, key: JsonString<'a>) -> Result<(), JsonError> {
        let raw_values = &mut self.raw_values;
        match () {
            () if key.is("Type") => (self.kind, raw_values.kind) = read_string(cursor)?,
            () if key.is("Action") => (self.action, raw_values.action) = read_string(cursor)?,
            () if key.is("Actor") => self.read_actor(cursor)?,
            () if key.is("scope") => self.scope = read_string(cursor)?.0,
            () if key.is("time") => raw_values.time = Some(cursor.skip_value()?),
            () if key.is("timeNano") => raw_values.time_nano = Some(cursor.skip_value()?),
            () if key.is("status") => raw_values.status = Some(cursor.skip_value()?),
            () if key.is("id") => raw_values.id = Some(cursor.skip_value()?),
            () if key.is("from") => raw_values.from = Some(cursor.skip_value()?),
            () => _ = cursor.skip_value()?,
        }
        Ok(())
    }

    fn read_actor(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        (self.actor_id, self.raw_values.actor_id) = (None, None);
        (self.attributes, self.raw_values.attributes) = (None, None);
        if cursor.peek_token() != Some(b'{') {
            self.actor = Some(false);
            cursor.skip_value()?;
            return Ok(());
        }
        self.actor = Some(true);
        cursor.parse_object(|cursor, key| {
            match () {
                () if key.is("ID") => (self.actor_id, self.raw_values.actor_id) = read_string(cursor)?,
                () if key.is("Attributes") => (self.attributes, self.raw_values.attributes) = read_attributes(cursor)?,
                () => _ = cursor.skip_value()?,
            }
            Ok(())
        })
    }

    fn into_event(self, text: &'a str) -> Result<Event<'a>, ParseError> {
        let kind = require_string(self.kind, "Type")?;
        let action = require_string(self.action, "Action")?;
        match self.actor {
            None => return Err(ParseError::MissingField("Actor")),
            Some(false) => return Err(ParseError::WrongType("Actor", "an object")),
            Some(true) => {}
        }
        let actor_id = require_string(self.actor_id, "Actor.ID")?;
        let attributes = match self.attributes {
            None => Vec::new(),
            Some(None) => return Err(ParseError::WrongType("Actor.Attributes", "an object")),
            Some(Some(pairs)) => sorted_by_key(pairs),
        };
        let scope = self.scope.flatten().unwrap_or_default();
        let time_nano = parse_time(self.raw_values.time_nano, self.raw_values.time)?;
        Ok(Event { text, kind, action, actor_id, attributes, scope, time_nano, raw_values: self.raw_values })
    }
}

/// Parses a value that should be a string, and returns it with its JSON text.
fn read_string<'a>(cursor: &mut Cursor<'a>) -> Result<(Option<StringField<'a>>, Option<&'a str>), JsonError> {
    if cursor.peek_token() == Some(b'"') {
        let (string, text) = cursor.with_source(Cursor::parse_string)?;
        return Ok((Some(Some(string.decode())), Some(text)));
    }
    let text = cursor.skip_value()?;
    Ok((Some(None), Some(text)))
}

/// Parses attributes into pairs in their original order, and returns them with their JSON text.
///
/// The pairs are `None` for null, and `Some(None)` for a value that is not an object.
#[allow(clippy::type_complexity, reason = "a private return type, used once")]
fn read_attributes<'a>(
    cursor: &mut Cursor<'a>,
) -> Result<(Option<Option<Attributes<'a>>>, Option<&'a str>), JsonError> {
    match cursor.peek_token() {
        Some(b'{') => {}
        other => {
            let text = cursor.skip_value()?;
            return Ok((if other == Some(b'n') { None } else { Some(None) }, Some(text)));
        }
    }
    let (pairs, text) = cursor.with_source(|cursor| {
        let mut pairs = Vec::with_capacity(8);
        cursor.parse_object(|cursor, key| {
            let value = match cursor.peek_token() {
                Some(b'"') => cursor.parse_string()?.decode(),
                _ => Cow::Borrowed(cursor.skip_value()?),
            };
            pairs.push((key.decode(), value));
            Ok(())
        })?;
        Ok(pairs)
    })?;
    Ok((Some(Some(pairs)), Some(text)))
}

/// Sorts attributes by key; of equal keys, keeps the last.
fn sorted_by_key(mut pairs: Attributes<'_>) -> Attributes<'_> {
    if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
        // The sort is stable, so the last of equal keys stays last, and is the one kept after the reversal.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.reverse();
        pairs.dedup_by(|duplicate, kept| duplicate.0 == kept.0);
        pairs.reverse();
    }
    pairs
}

fn require_string<'a>(field: Option<StringField<'a>>, name: &'static str) -> Result<Cow<'a, str>, ParseError> {
    field.ok_or(ParseError::MissingField(name))?.ok_or(ParseError::WrongType(name, "a string"))
}

fn parse_time(time_nano: Option<&str>, time: Option<&str>) -> Result<i64, ParseError> {
    if time_nano.is_none() && time.is_none() {
        return Err(ParseError::MissingField("timeNano or time"));
    }
    let parse_integer = |json: Option<&str>| json.and_then(|digits| digits.parse::<i64>().ok());
    parse_integer(time_nano)
        .or_else(|| parse_integer(time)?.checked_mul(1_000_000_000))
        .ok_or(ParseError::WrongType("timeNano or time", "an integer of nanoseconds in 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = r#"{"status":"start","id":"c1","from":"busybox","Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"image":"busybox","name":"web"}},"scope":"local","time":1795535604,"timeNano":1795535604802090542}"#;

    fn parse(text: &str) -> Result<Event<'_>, ParseError> {
        Event::parse(text.as_bytes())
    }

    #[test]
    fn event_fields_are_parsed() {
        let event = parse(START).unwrap();
        assert_eq!(event.text, START);
        assert_eq!((&*event.kind, &*event.action, &*event.actor_id), ("container", "start", "c1"));
        assert_eq!(event.attribute("name"), Some("web"));
        assert_eq!(event.attribute("nam"), None);
        assert_eq!(event.scope, "local");
        assert_eq!(event.time_nano, 1_795_535_604_802_090_542);
    }

    #[test]
    fn minimal_events_are_accepted() {
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
    fn invalid_events_are_rejected_with_a_reason() {
        for (text, expected) in [
            ("", "not JSON: expected a value at byte 0"),
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
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        let valid = |tail: &str| format!(r#"{{"Type":"t","Action":"a","Actor":{{"ID":"x"}},"time":1{tail}"#);
        assert!(parse(&valid("}")).is_ok());
        for tail in ["", "}}", "},", r#","a":01}"#, ",}", "} {}", ",\"a\":\"\t\"}", r#","a":"\x"}"#, r#","a":NaN}"#] {
            assert!(matches!(parse(&valid(tail)), Err(ParseError::InvalidJson(_))), "{tail}");
        }
        assert_eq!(Event::parse(b"{\"Type\":\"\xff\"}"), Err(ParseError::InvalidUtf8(9)));
        let deep = "[".repeat(100_000);
        assert!(matches!(parse(&deep), Err(ParseError::InvalidJson(_))));
        assert!(matches!(parse(&format!("{{\"a\":{deep}")), Err(ParseError::InvalidJson(_))));
    }

    #[test]
    fn the_last_of_duplicate_keys_wins() {
        let event = parse(
            r#"{"Type":"a","Type":"b","Action":"a","Actor":{"ID":"x","Attributes":{"k":"2","a":"1","k":"3"}},"time":1}"#,
        )
        .unwrap();
        assert_eq!(event.kind, "b");
        assert_eq!(event.attributes, [("a".into(), "1".into()), ("k".into(), "3".into())]);
    }

    #[test]
    fn events_are_compared_by_content_not_bytes() {
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
