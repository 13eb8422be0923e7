//! Splits an event into parts that repeat and parts that vary, and restores its line byte for byte.
//!
//! An engine sends the same texts again and again, so repeated parts are stored once: the *line template* (the line
//! with placeholders) and the *actor* (its ID and its stable attributes). The few attributes that vary are stored with
//! the event. Each time, [`super::encode`] checks that the parts restore the same bytes. This module does not know SQL.

use std::borrow::Cow;

use crate::event::{Event, needs_escape, write_json_string};

/// Keys of the attributes that vary between the events of one actor, sorted.
pub const VARYING_KEYS: [&str; 5] = ["container", "execDuration", "execID", "exitCode", "signal"];

/// Index of `execID` in [`VARYING_KEYS`].
const EXEC_ID_INDEX: usize = 2;

/// Returns true if the store treats an attribute as varying between the events of one actor.
pub fn is_varying(attribute: &str) -> bool {
    matches!(attribute, "container" | "execDuration" | "execID" | "exitCode" | "signal")
}

/// Placeholder in a line template. Written as one control character, which JSON never contains unescaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Placeholder {
    Kind = 1,
    Action = 2,
    ActorId = 3,
    Image = 4,
    Attributes = 5,
    Seconds = 6,
    Nanos = 7,
}

const PLACEHOLDERS: [Placeholder; 7] = [
    Placeholder::Kind,
    Placeholder::Action,
    Placeholder::ActorId,
    Placeholder::Image,
    Placeholder::Attributes,
    Placeholder::Seconds,
    Placeholder::Nanos,
];

/// Writes the line template of an event into `template`: its line, with placeholders for values stored elsewhere.
pub fn extract_template(event: &Event<'_>, template: &mut String) {
    let raw = event.text;
    let texts = &event.raw_values;
    let mut placeholders: Vec<(usize, usize, Placeholder)> = Vec::with_capacity(9);
    let mut substitute = |text: Option<&str>, placeholder: Placeholder| {
        if let Some(text) = text {
            let start = text.as_ptr() as usize - raw.as_ptr() as usize;
            placeholders.push((start, start + text.len(), placeholder));
        }
    };
    substitute(texts.kind, Placeholder::Kind);
    substitute(texts.action, Placeholder::Action);
    substitute(texts.status.filter(|status| Some(*status) == texts.action), Placeholder::Action);
    substitute(texts.actor_id, Placeholder::ActorId);
    substitute(texts.id.filter(|id| Some(*id) == texts.actor_id), Placeholder::ActorId);
    substitute(
        texts.from.filter(|from| event.attribute("image").is_some_and(|image| is_json_encoding_of(from, image))),
        Placeholder::Image,
    );
    substitute(texts.attributes.filter(|text| text.starts_with('{')), Placeholder::Attributes);
    let mut digits = DecimalBuffer::default();
    substitute(texts.time_nano.filter(|text| *text == digits.format(event.time_nano)), Placeholder::Nanos);
    substitute(
        texts.time.filter(|text| *text == digits.format(event.time_nano.div_euclid(1_000_000_000))),
        Placeholder::Seconds,
    );
    placeholders.sort_unstable_by_key(|placeholder| placeholder.0);
    template.clear();
    let mut at = 0;
    for (start, end, placeholder) in placeholders {
        template.push_str(&raw[at..start]);
        template.push(placeholder as u8 as char);
        at = end;
    }
    template.push_str(&raw[at..]);
}

/// Returns true if `json` is the string `text` as an engine encodes it.
fn is_json_encoding_of(json: &str, text: &str) -> bool {
    let inner = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner == Some(text) && !text.bytes().any(needs_escape) || {
        let mut quoted = Vec::new();
        write_json_string(text, &mut quoted);
        quoted == json.as_bytes()
    }
}

/// Line template, parsed and ready for rendering.
#[derive(Clone, Debug)]
pub struct LineTemplate {
    /// Each placeholder, with the text before it.
    segments: Vec<(Box<str>, Placeholder)>,
    tail: Box<str>,
}

impl LineTemplate {
    /// Parses a line template as [`extract_template`] writes it.
    pub fn parse(text: &str) -> LineTemplate {
        let mut segments = Vec::new();
        let mut literal = String::new();
        for c in text.chars() {
            match PLACEHOLDERS.iter().find(|placeholder| **placeholder as u8 as char == c) {
                Some(placeholder) => segments.push((std::mem::take(&mut literal).into(), *placeholder)),
                None => literal.push(c),
            }
        }
        LineTemplate { segments, tail: literal.into() }
    }

    /// Returns true if every value stored elsewhere has a placeholder. Then a correctly restored line proves that the
    /// stored values are correct.
    pub fn is_complete(&self) -> bool {
        [Placeholder::Kind, Placeholder::Action, Placeholder::ActorId, Placeholder::Attributes, Placeholder::Nanos]
            .iter()
            .all(|placeholder| self.segments.iter().any(|(_, other)| other == placeholder))
    }

    /// Appends the restored line of an event to `out`.
    pub fn render(
        &self,
        event_type: &str,
        action: &str,
        actor: &Actor,
        varying: &VaryingAttributes<'_>,
        time_nano: i64,
        out: &mut Vec<u8>,
    ) {
        for (literal, placeholder) in &self.segments {
            out.extend_from_slice(literal.as_bytes());
            match placeholder {
                Placeholder::Kind => write_json_string(event_type, out),
                Placeholder::Action => write_json_string(action, out),
                Placeholder::ActorId => out.extend_from_slice(&actor.quoted_id),
                Placeholder::Image => out.extend_from_slice(&actor.quoted_image),
                Placeholder::Attributes => actor.write_attributes(varying, out),
                Placeholder::Seconds => write_decimal(time_nano.div_euclid(1_000_000_000), out),
                Placeholder::Nanos => write_decimal(time_nano, out),
            }
        }
        out.extend_from_slice(self.tail.as_bytes());
    }
}

/// Actor with its stable attributes, encoded as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    quoted_id: Box<[u8]>,
    quoted_image: Box<[u8]>,
    /// The stable attributes as JSON, sorted by key, each followed by a comma.
    attributes_json: Box<[u8]>,
    /// Offset in `attributes_json` at which each of [`VARYING_KEYS`] belongs.
    varying_offsets: [usize; VARYING_KEYS.len()],
}

impl Actor {
    /// Creates an actor from its ID and its stable attributes, which must be sorted by key.
    pub fn new<'a>(id: &str, attributes: impl Iterator<Item = (&'a str, &'a str)>) -> Actor {
        let mut attributes_json = Vec::with_capacity(1024);
        let mut offsets = [None; VARYING_KEYS.len()];
        let mut image = "";
        for (key, value) in attributes {
            for (offset, varying) in offsets.iter_mut().zip(VARYING_KEYS) {
                if varying < key {
                    offset.get_or_insert(attributes_json.len());
                }
            }
            if key == "image" {
                image = value;
            }
            write_json_string(key, &mut attributes_json);
            attributes_json.push(b':');
            write_json_string(value, &mut attributes_json);
            attributes_json.push(b',');
        }
        let quoted = |text: &str| {
            let mut quoted = Vec::with_capacity(text.len() + 2);
            write_json_string(text, &mut quoted);
            quoted.into_boxed_slice()
        };
        let offsets = offsets.map(|offset| offset.unwrap_or(attributes_json.len()));
        Actor {
            quoted_id: quoted(id),
            quoted_image: quoted(image),
            attributes_json: attributes_json.into(),
            varying_offsets: offsets,
        }
    }

    fn write_attributes(&self, varying: &VaryingAttributes<'_>, out: &mut Vec<u8>) {
        out.push(b'{');
        let start = out.len();
        let mut at = 0;
        for ((key, value), offset) in VARYING_KEYS.iter().zip(&varying.0).zip(self.varying_offsets) {
            if let Some(value) = value {
                out.extend_from_slice(&self.attributes_json[at..offset]);
                at = offset;
                out.push(b'"');
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(b"\":");
                value.write(out);
                out.push(b',');
            }
        }
        out.extend_from_slice(&self.attributes_json[at..]);
        if out.len() > start {
            out.pop(); // The comma after the last attribute.
        }
        out.push(b'}');
    }
}

/// Values of [`VARYING_KEYS`] in one event; `None` where the event lacks the attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaryingAttributes<'a>(pub(in crate::store) [Option<VaryingValue<'a>>; VARYING_KEYS.len()]);

/// Value of a varying attribute, in the smallest form that restores its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaryingValue<'a> {
    /// 64 lower-case hexadecimal digits.
    Digest([u8; 32]),
    /// Decimal number without leading zeros or a plus sign.
    Number(i64),
    /// Anything else.
    Text(Cow<'a, str>),
}

impl<'a> VaryingAttributes<'a> {
    /// Returns the varying attributes of an event.
    pub fn from_event(event: &'a Event<'_>) -> Self {
        let mut varying = VaryingAttributes::default();
        for (key, value) in &event.attributes {
            // The first two letters rule out most attributes.
            if let b"co" | b"ex" | b"si" = key.as_bytes().get(..2).unwrap_or_default()
                && let Some(index) = VARYING_KEYS.iter().position(|name| name == key)
            {
                varying.0[index] = Some(VaryingValue::parse(value));
            }
        }
        varying
    }

    /// Returns the `execID`.
    pub fn exec_id(&self) -> Option<&VaryingValue<'a>> {
        self.0[EXEC_ID_INDEX].as_ref()
    }

    /// Returns the `execID` for changing it.
    pub fn exec_id_mut(&mut self) -> &mut Option<VaryingValue<'a>> {
        &mut self.0[EXEC_ID_INDEX]
    }
}

impl<'a> VaryingValue<'a> {
    fn parse(text: &'a str) -> Self {
        if let Some(digest) = parse_digest(text) {
            return VaryingValue::Digest(digest);
        }
        match text.parse() {
            Ok(number) if DecimalBuffer::default().format(number) == text => VaryingValue::Number(number),
            _ => VaryingValue::Text(text.into()),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            VaryingValue::Text(text) => write_json_string(text, out),
            VaryingValue::Number(value) => {
                out.push(b'"');
                write_decimal(*value, out);
                out.push(b'"');
            }
            VaryingValue::Digest(bytes) => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.push(b'"');
                out.extend(bytes.iter().flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]));
                out.push(b'"');
            }
        }
    }
}

fn parse_digest(text: &str) -> Option<[u8; 32]> {
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

/// Buffer for the decimal digits of an `i64`.
#[derive(Default)]
struct DecimalBuffer([u8; 20]);

impl DecimalBuffer {
    fn format(&mut self, value: i64) -> &str {
        let mut at = self.0.len();
        let mut remaining = value.unsigned_abs();
        loop {
            at -= 1;
            self.0[at] = b'0' + (remaining % 10) as u8;
            remaining /= 10;
            if remaining == 0 {
                break;
            }
        }
        if value < 0 {
            at -= 1;
            self.0[at] = b'-';
        }
        std::str::from_utf8(&self.0[at..]).expect("decimal digits are ASCII")
    }
}

fn write_decimal(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(DecimalBuffer::default().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes and restores a line.
    fn round_trip(line: &str) -> String {
        let event = Event::parse(line.as_bytes()).unwrap();
        let mut template = String::new();
        extract_template(&event, &mut template);
        let stable = event.attributes.iter().filter(|(key, _)| !is_varying(key));
        let actor = Actor::new(&event.actor_id, stable.map(|(key, value)| (key.as_ref(), value.as_ref())));
        let mut out = Vec::new();
        LineTemplate::parse(&template).render(
            &event.kind,
            &event.action,
            &actor,
            &VaryingAttributes::from_event(&event),
            event.time_nano,
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn events_of_every_engine_version_round_trip_byte_for_byte() {
        for name in ["docker-20.10.24", "docker-26.1.5", "docker-28.5.2", "docker-29.7.2"] {
            let path = format!("{}/fixtures/{name}.ndjson", env!("CARGO_MANIFEST_DIR"));
            for line in std::fs::read_to_string(path).unwrap().lines() {
                assert_eq!(round_trip(line), line, "{name}");
            }
        }
    }

    #[test]
    fn a_recording_yields_few_line_templates() {
        let path = format!("{}/fixtures/docker-28.5.2.ndjson", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut templates = std::collections::BTreeSet::new();
        for line in text.lines() {
            let mut template = String::new();
            extract_template(&Event::parse(line.as_bytes()).unwrap(), &mut template);
            templates.insert(template);
        }
        assert!(templates.len() < 8, "{templates:#?}");
    }

    #[test]
    fn varying_values_round_trip() {
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
            VaryingValue::parse(text).write(&mut out);
            let read: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, text);
        }
        assert_eq!(VaryingValue::parse(&digits), VaryingValue::Digest([[0, 0xff]; 16].concat().try_into().unwrap()));
    }
}
