//! Takes an event apart into what repeats and what varies, and puts it together again, byte for byte.
//!
//! An engine says the same things again and again. What repeats is kept once: the *form* (the line with holes), the
//! *actor* (its ID and the attributes that stay), and the few attributes that vary stand with the event. Whether the
//! bytes that come out are those that went in is not argued but tried, each time: see [`super::rows`]. Knows no SQL.

use std::borrow::Cow;

use crate::event::{Event, is_escaped, quote};

/// The attributes that vary from event to event of one actor; in the order of their keys.
pub const VARYING: [&str; 5] = ["container", "execDuration", "execID", "exitCode", "signal"];

/// The place of `execID` in [`VARYING`].
const EXEC_ID: usize = 2;

/// Whether an attribute varies from event to event of one actor, for all the store knows.
pub fn varies(attribute: &str) -> bool {
    matches!(attribute, "container" | "execDuration" | "execID" | "exitCode" | "signal")
}

/// A place in a form, filled from elsewhere. Written as one control character, which JSON never holds raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Hole {
    Kind = 1,
    Action = 2,
    ActorId = 3,
    Image = 4,
    Attributes = 5,
    Seconds = 6,
    Nanos = 7,
}

const HOLES: [Hole; 7] =
    [Hole::Kind, Hole::Action, Hole::ActorId, Hole::Image, Hole::Attributes, Hole::Seconds, Hole::Nanos];

/// Writes the form of an event: its line, with holes for what is kept elsewhere.
pub fn form_of(event: &Event<'_>, form: &mut String) {
    let raw = event.text;
    let texts = &event.texts;
    let mut places: Vec<(usize, usize, Hole)> = Vec::with_capacity(9);
    let mut cut = |text: Option<&str>, hole: Hole| {
        if let Some(text) = text {
            let start = text.as_ptr() as usize - raw.as_ptr() as usize;
            places.push((start, start + text.len(), hole));
        }
    };
    cut(texts.kind, Hole::Kind);
    cut(texts.action, Hole::Action);
    cut(texts.status.filter(|status| Some(*status) == texts.action), Hole::Action);
    cut(texts.actor_id, Hole::ActorId);
    cut(texts.id.filter(|id| Some(*id) == texts.actor_id), Hole::ActorId);
    cut(texts.from.filter(|from| event.attribute("image").is_some_and(|image| is_quoted(from, image))), Hole::Image);
    cut(texts.attributes.filter(|text| text.starts_with('{')), Hole::Attributes);
    let mut digits = Digits::default();
    cut(texts.time_nano.filter(|text| *text == digits.of(event.time_nano)), Hole::Nanos);
    cut(texts.time.filter(|text| *text == digits.of(event.time_nano.div_euclid(1_000_000_000))), Hole::Seconds);
    places.sort_unstable_by_key(|place| place.0);
    form.clear();
    let mut at = 0;
    for (start, end, hole) in places {
        form.push_str(&raw[at..start]);
        form.push(hole as u8 as char);
        at = end;
    }
    form.push_str(&raw[at..]);
}

/// Whether a JSON text is this string as an engine writes it.
fn is_quoted(json: &str, text: &str) -> bool {
    let inner = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner == Some(text) && !text.bytes().any(is_escaped) || {
        let mut quoted = Vec::new();
        quote(text, &mut quoted);
        quoted == json.as_bytes()
    }
}

/// A form, ready to be filled.
#[derive(Clone, Debug)]
pub struct Form {
    /// What stands before each hole, and the hole.
    pieces: Vec<(Box<str>, Hole)>,
    tail: Box<str>,
}

impl Form {
    /// Reads a form as [`form_of`] writes it.
    pub fn read(text: &str) -> Form {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        for c in text.chars() {
            match HOLES.iter().find(|hole| **hole as u8 as char == c) {
                Some(hole) => pieces.push((std::mem::take(&mut literal).into(), *hole)),
                None => literal.push(c),
            }
        }
        Form { pieces, tail: literal.into() }
    }

    /// Whether all that is kept elsewhere has a hole: then a line that comes out right proves that what is kept is.
    pub fn is_whole(&self) -> bool {
        [Hole::Kind, Hole::Action, Hole::ActorId, Hole::Attributes, Hole::Nanos]
            .iter()
            .all(|hole| self.pieces.iter().any(|(_, other)| other == hole))
    }

    /// Puts an event together, at the end of `out`.
    pub fn fill(&self, kind: &str, action: &str, actor: &Actor, varying: &Varying<'_>, time: i64, out: &mut Vec<u8>) {
        for (literal, hole) in &self.pieces {
            out.extend_from_slice(literal.as_bytes());
            match hole {
                Hole::Kind => quote(kind, out),
                Hole::Action => quote(action, out),
                Hole::ActorId => out.extend_from_slice(&actor.quoted_id),
                Hole::Image => out.extend_from_slice(&actor.quoted_image),
                Hole::Attributes => actor.write_attributes(varying, out),
                Hole::Seconds => number(time.div_euclid(1_000_000_000), out),
                Hole::Nanos => number(time, out),
            }
        }
        out.extend_from_slice(self.tail.as_bytes());
    }
}

/// An actor, with the attributes that stay, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    quoted_id: Box<[u8]>,
    quoted_image: Box<[u8]>,
    /// The attributes that stay as they are written, in the order of their keys, each with a comma behind it.
    pairs: Box<[u8]>,
    /// Where in `pairs` each of [`VARYING`] comes.
    places: [usize; VARYING.len()],
}

impl Actor {
    /// An actor of this ID; the attributes sorted by key.
    pub fn new<'a>(id: &str, attributes: impl Iterator<Item = (&'a str, &'a str)>) -> Actor {
        let mut pairs = Vec::with_capacity(1024);
        let mut places = [None; VARYING.len()];
        let mut image = "";
        for (key, value) in attributes {
            for (place, varying) in places.iter_mut().zip(VARYING) {
                if varying < key {
                    place.get_or_insert(pairs.len());
                }
            }
            if key == "image" {
                image = value;
            }
            quote(key, &mut pairs);
            pairs.push(b':');
            quote(value, &mut pairs);
            pairs.push(b',');
        }
        let quoted = |text: &str| {
            let mut quoted = Vec::with_capacity(text.len() + 2);
            quote(text, &mut quoted);
            quoted.into_boxed_slice()
        };
        let places = places.map(|place| place.unwrap_or(pairs.len()));
        Actor { quoted_id: quoted(id), quoted_image: quoted(image), pairs: pairs.into(), places }
    }

    fn write_attributes(&self, varying: &Varying<'_>, out: &mut Vec<u8>) {
        out.push(b'{');
        let begin = out.len();
        let mut at = 0;
        for ((key, value), place) in VARYING.iter().zip(&varying.0).zip(self.places) {
            if let Some(value) = value {
                out.extend_from_slice(&self.pairs[at..place]);
                at = place;
                out.push(b'"');
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(b"\":");
                value.write(out);
                out.push(b',');
            }
        }
        out.extend_from_slice(&self.pairs[at..]);
        if out.len() > begin {
            out.pop(); // The last comma.
        }
        out.push(b'}');
    }
}

/// The values of [`VARYING`], where an event has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Varying<'a>(pub(super) [Option<Value<'a>>; VARYING.len()]);

/// A value, in the smallest form that gives it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// 64 hexadecimal digits in lower case.
    Digest([u8; 32]),
    /// A decimal number as it is usually written.
    Number(i64),
    /// Anything else.
    Text(Cow<'a, str>),
}

impl<'a> Varying<'a> {
    /// Those of an event.
    pub fn of(event: &'a Event<'_>) -> Self {
        let mut varying = Varying::default();
        for (key, value) in &event.attributes {
            // By their first letters alone most are none of these.
            if let b"co" | b"ex" | b"si" = key.as_bytes().get(..2).unwrap_or_default()
                && let Some(at) = VARYING.iter().position(|name| name == key)
            {
                varying.0[at] = Some(Value::of(value));
            }
        }
        varying
    }

    /// The `execID`.
    pub fn exec_id(&self) -> Option<&Value<'a>> {
        self.0[EXEC_ID].as_ref()
    }

    /// The `execID`, to be changed.
    pub fn exec_id_mut(&mut self) -> &mut Option<Value<'a>> {
        &mut self.0[EXEC_ID]
    }
}

impl<'a> Value<'a> {
    fn of(text: &'a str) -> Self {
        if let Some(digest) = digest(text) {
            return Value::Digest(digest);
        }
        match text.parse() {
            Ok(number) if Digits::default().of(number) == text => Value::Number(number),
            _ => Value::Text(text.into()),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Text(text) => quote(text, out),
            Value::Number(value) => {
                out.push(b'"');
                number(*value, out);
                out.push(b'"');
            }
            Value::Digest(bytes) => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push(b'"');
                out.extend(bytes.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]));
                out.push(b'"');
            }
        }
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Room for a number in decimal.
#[derive(Default)]
struct Digits([u8; 20]);

impl Digits {
    fn of(&mut self, value: i64) -> &str {
        let mut at = self.0.len();
        let mut rest = value.unsigned_abs();
        loop {
            at -= 1;
            self.0[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            at -= 1;
            self.0[at] = b'-';
        }
        std::str::from_utf8(&self.0[at..]).expect("digits are ASCII")
    }
}

fn number(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(Digits::default().of(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a line apart and puts it together.
    fn round_trip(line: &str) -> String {
        let event = Event::parse(line.as_bytes()).unwrap();
        let mut form = String::new();
        form_of(&event, &mut form);
        let stay = event.attributes.iter().filter(|(key, _)| !varies(key));
        let actor = Actor::new(&event.actor_id, stay.map(|(key, value)| (key.as_ref(), value.as_ref())));
        let mut out = Vec::new();
        Form::read(&form).fill(&event.kind, &event.action, &actor, &Varying::of(&event), event.time_nano, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_event_that_engines_sent_comes_out_as_it_went_in_without_help() {
        for name in ["docker-20.10.24", "docker-26.1.5", "docker-28.5.2", "docker-29.7.2"] {
            let path = format!("{}/fixtures/{name}.ndjson", env!("CARGO_MANIFEST_DIR"));
            for line in std::fs::read_to_string(path).unwrap().lines() {
                assert_eq!(round_trip(line), line, "{name}");
            }
        }
    }

    #[test]
    fn forms_are_few() {
        let path = format!("{}/fixtures/docker-28.5.2.ndjson", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut forms = std::collections::BTreeSet::new();
        for line in text.lines() {
            let mut form = String::new();
            form_of(&Event::parse(line.as_bytes()).unwrap(), &mut form);
            forms.insert(form);
        }
        assert!(forms.len() < 8, "{forms:#?}");
    }

    #[test]
    fn values_come_back_as_they_were() {
        let digits = "00ff".repeat(16);
        for text in [
            "",
            "0",
            "7",
            "-1",
            "007",
            "+7",
            "-0",
            "9223372036854775807",
            "9223372036854775808",
            "é<&>\"\\\u{2028}\u{1}",
            &digits,
            &digits.to_uppercase(),
        ] {
            let mut out = Vec::new();
            Value::of(text).write(&mut out);
            let read: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, text);
        }
        assert_eq!(Value::of(&digits), Value::Digest([[0, 0xff]; 16].concat().try_into().unwrap()));
    }
}
