//! One event of an engine: its own exact bytes and the fields read from them.
//!
//! What counts as an event: a JSON object (RFC 8259) with string `Type` and `Action`, an object `Actor` with a string
//! `ID`, and an integer `timeNano` or `time`. Everything else is [`NotAnEvent`]. Of a key that stands twice the last
//! one counts, as in the engine's own parser. This module knows nothing of sockets, files or databases.

mod exec;
mod json;
mod list;
mod quote;
mod redact;

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use exec::{EXEC_DIE, Exec, exec_command};
pub use json::Malformed;
use json::{Cursor, Quoted};
pub use list::Events;
pub use quote::{is_escaped, quote};
pub use redact::{REDACTED, Redaction, RedactionError, is_redacted, may_be_same};

/// An event, borrowed from the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event as the engine sent it: one JSON object, no white space around it.
    pub text: &'a str,
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
    /// Where the values stand in [`text`](Self::text).
    pub texts: Texts<'a>,
}

/// The JSON texts of the values of an event, as they stand in its bytes; of a key that stands twice the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field has the name of its JSON key")]
pub struct Texts<'a> {
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

impl<'a> Texts<'a> {
    fn all(&self) -> [Option<&'a str>; 9] {
        let Texts { status, id, from, kind, action, actor_id, attributes, time, time_nano } = *self;
        [status, id, from, kind, action, actor_id, attributes, time, time_nano]
    }

    fn from_all(all: [Option<&'a str>; 9]) -> Self {
        let [status, id, from, kind, action, actor_id, attributes, time, time_nano] = all;
        Texts { status, id, from, kind, action, actor_id, attributes, time, time_nano }
    }
}

/// The bytes of an event with another instant in the place of its own, and everything else as it is.
pub fn retimed(event: &Event<'_>, time_nano: i64) -> String {
    let mut places: Vec<(&str, i64)> = Vec::new();
    places.extend(event.texts.time.map(|text| (text, time_nano.div_euclid(1_000_000_000))));
    places.extend(event.texts.time_nano.map(|text| (text, time_nano)));
    places.sort_by_key(|(text, _)| text.as_ptr());
    let mut out = String::with_capacity(event.text.len() + 20);
    let mut at = 0;
    for (text, value) in places {
        let start = text.as_ptr() as usize - event.text.as_ptr() as usize;
        out.push_str(&event.text[at..start]);
        out.push_str(&value.to_string());
        at = start + text.len();
    }
    out.push_str(&event.text[at..]);
    out
}

/// Attributes of an actor: keys and values.
pub type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Tells an event from others of its source at a fraction of the cost of its [`Identity`]: its instant, and a hash of
/// type, action and actor ID. Two that differ in attributes alone bear the same mark; no engine sends such at one
/// nanosecond, and where that matters the identity is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The instant, in nanoseconds since the epoch.
    pub time_nano: i64,
    /// The hash.
    pub hash: u64,
}

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
    NotJson(#[from] Malformed),
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
        Found::read(text)?.event(text)
    }

    /// The event's own bytes.
    pub fn raw(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// The value of one attribute of the actor.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        let at = self.attributes.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        Some(&self.attributes[at].1)
    }

    /// `status`: the action again, on events of containers and images. Engines from API 1.52 on leave it out, and clients
    /// that ask at a lower version are told it; here it is told in either case.
    pub fn status(&self) -> Cow<'_, str> {
        let lean = if self.is_lean() { &self.action } else { "" };
        self.texts.status.map_or(Cow::Borrowed(lean), decoded)
    }

    /// `id`: the actor's ID again, in the same way.
    pub fn id(&self) -> Cow<'_, str> {
        let lean = if self.is_lean() { &self.actor_id } else { "" };
        self.texts.id.map_or(Cow::Borrowed(lean), decoded)
    }

    /// `from`: the image of a container, in the same way.
    pub fn from(&self) -> Cow<'_, str> {
        let of_container = self.is_lean() && self.kind == "container";
        let lean = self.attribute("image").filter(|_| of_container).unwrap_or_default();
        self.texts.from.map_or(Cow::Borrowed(lean), decoded)
    }

    /// Whether it comes without what engines below API 1.52 say twice.
    pub fn is_lean(&self) -> bool {
        self.texts.status.is_none() && matches!(&*self.kind, "container" | "image")
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

    /// A mark of it, cheap enough for every event of a stream.
    pub fn mark(&self) -> Mark {
        let hash = [&self.kind, &self.action, &self.actor_id]
            .iter()
            .fold(0, |seed, text| xxh3_64_with_seed(text.as_bytes(), seed));
        Mark { time_nano: self.time_nano, hash }
    }

    /// Whether two events of one source are the same event.
    pub fn is_same(&self, other: &Event<'_>) -> bool {
        self.time_nano == other.time_nano
            && self.kind == other.kind
            && self.action == other.action
            && self.actor_id == other.actor_id
            && self.attributes == other.attributes
    }
}

/// What a JSON text says, if it is a string.
fn decoded(text: &str) -> Cow<'_, str> {
    if text.starts_with('"') { Cursor::new(text).string().map(Quoted::decode).unwrap_or_default() } else { "".into() }
}

/// A line without the white space that JSON allows around a value.
pub fn trim(line: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let start = line.iter().position(|b| !blank(b)).unwrap_or(line.len());
    let end = line.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    &line[start..end]
}

/// What stands in the text of an event, not yet judged. Of a key that stands twice, the last.
#[derive(Default)]
struct Found<'a> {
    kind: Option<Field<'a>>,
    action: Option<Field<'a>>,
    scope: Option<Field<'a>>,
    /// Whether the last `Actor` was an object; `None` if there was none.
    actor: Option<bool>,
    actor_id: Option<Field<'a>>,
    /// `None` for null, `Some(None)` for what is no object.
    attributes: Option<Option<Attributes<'a>>>,
    texts: Texts<'a>,
}

/// A value that should be a string; `None` if it is something else.
type Field<'a> = Option<Cow<'a, str>>;

impl<'a> Found<'a> {
    fn read(text: &'a str) -> Result<Self, NotAnEvent> {
        let mut cursor = Cursor::new(text);
        if cursor.next() != Some(b'{') {
            cursor.value().and_then(|_| cursor.end())?;
            return Err(NotAnEvent::NotAnObject);
        }
        let mut found = Found::default();
        cursor.object(|cursor, key| found.member(cursor, key))?;
        cursor.end()?;
        Ok(found)
    }

    fn member(&mut self, cursor: &mut Cursor<'a>, key: Quoted<'a>) -> Result<(), Malformed> {
        let texts = &mut self.texts;
        match () {
            () if key.is("Type") => (self.kind, texts.kind) = read_string(cursor)?,
            () if key.is("Action") => (self.action, texts.action) = read_string(cursor)?,
            () if key.is("Actor") => self.read_actor(cursor)?,
            () if key.is("scope") => self.scope = read_string(cursor)?.0,
            () if key.is("time") => texts.time = Some(cursor.value()?),
            () if key.is("timeNano") => texts.time_nano = Some(cursor.value()?),
            () if key.is("status") => texts.status = Some(cursor.value()?),
            () if key.is("id") => texts.id = Some(cursor.value()?),
            () if key.is("from") => texts.from = Some(cursor.value()?),
            () => _ = cursor.value()?,
        }
        Ok(())
    }

    fn read_actor(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        (self.actor_id, self.texts.actor_id) = (None, None);
        (self.attributes, self.texts.attributes) = (None, None);
        if cursor.next() != Some(b'{') {
            self.actor = Some(false);
            cursor.value()?;
            return Ok(());
        }
        self.actor = Some(true);
        cursor.object(|cursor, key| {
            match () {
                () if key.is("ID") => (self.actor_id, self.texts.actor_id) = read_string(cursor)?,
                () if key.is("Attributes") => (self.attributes, self.texts.attributes) = read_attributes(cursor)?,
                () => _ = cursor.value()?,
            }
            Ok(())
        })
    }

    fn event(self, text: &'a str) -> Result<Event<'a>, NotAnEvent> {
        let kind = string(self.kind, "Type")?;
        let action = string(self.action, "Action")?;
        match self.actor {
            None => return Err(NotAnEvent::Missing("Actor")),
            Some(false) => return Err(NotAnEvent::WrongType("Actor", "an object")),
            Some(true) => {}
        }
        let actor_id = string(self.actor_id, "Actor.ID")?;
        let attributes = match self.attributes {
            None => Vec::new(),
            Some(None) => return Err(NotAnEvent::WrongType("Actor.Attributes", "an object")),
            Some(Some(pairs)) => in_order(pairs),
        };
        let scope = self.scope.flatten().unwrap_or_default();
        let time_nano = instant(self.texts.time_nano, self.texts.time)?;
        Ok(Event { text, kind, action, actor_id, attributes, scope, time_nano, texts: self.texts })
    }
}

/// A value that should be a string, and its text.
fn read_string<'a>(cursor: &mut Cursor<'a>) -> Result<(Option<Field<'a>>, Option<&'a str>), Malformed> {
    if cursor.next() == Some(b'"') {
        let (string, text) = cursor.measured(Cursor::string)?;
        return Ok((Some(Some(string.decode())), Some(text)));
    }
    let text = cursor.value()?;
    Ok((Some(None), Some(text)))
}

/// The pairs as they stand, `None` for null, `Some(None)` for what is no object; and the text.
#[allow(clippy::type_complexity, reason = "a private return type, used once")]
fn read_attributes<'a>(
    cursor: &mut Cursor<'a>,
) -> Result<(Option<Option<Attributes<'a>>>, Option<&'a str>), Malformed> {
    match cursor.next() {
        Some(b'{') => {}
        other => {
            let text = cursor.value()?;
            return Ok((if other == Some(b'n') { None } else { Some(None) }, Some(text)));
        }
    }
    let (pairs, text) = cursor.measured(|cursor| {
        let mut pairs = Vec::with_capacity(8);
        cursor.object(|cursor, key| {
            let value = match cursor.next() {
                Some(b'"') => cursor.string()?.decode(),
                _ => Cow::Borrowed(cursor.value()?),
            };
            pairs.push((key.decode(), value));
            Ok(())
        })?;
        Ok(pairs)
    })?;
    Ok((Some(Some(pairs)), Some(text)))
}

/// Sorts attributes by key, and keeps of equal keys the last.
fn in_order(mut pairs: Attributes<'_>) -> Attributes<'_> {
    if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
        // Stable, so that of equal keys the last in the text stays last; then it is the one kept.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.reverse();
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        pairs.reverse();
    }
    pairs
}

fn string<'a>(field: Option<Field<'a>>, name: &'static str) -> Result<Cow<'a, str>, NotAnEvent> {
    field.ok_or(NotAnEvent::Missing(name))?.ok_or(NotAnEvent::WrongType(name, "a string"))
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
        assert_eq!(event.text, START);
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
