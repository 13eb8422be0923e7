//! What a template works with: an event as the docker client's `events.Message`, its parts, and what functions give.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::event::{Attributes, Event};

/// A value. Texts are bytes, as in Go: `truncate` may cut within a character.
#[derive(Clone, Debug)]
pub(super) enum Value<'e> {
    /// An attribute that is not there, and `nil`.
    None,
    Bool(bool),
    /// Go's int.
    Int(i64),
    /// Its int64: the times of an event.
    Int64(i64),
    /// Its uint8: what indexing a text gives.
    Byte(u8),
    Float(f64),
    Str(Cow<'e, [u8]>),
    List(Vec<Vec<u8>>),
    /// `None` is Go's nil map.
    Attributes(Option<&'e Attributes<'e>>),
    Actor(&'e Message<'e>),
    Message(&'e Message<'e>),
}

/// An event as the docker client knows it.
#[derive(Debug)]
pub(super) struct Message<'e> {
    pub(super) event: &'e Event<'e>,
    /// The empty one that a template is tried on.
    pub(super) is_trial: bool,
}

/// The fields of Go's `events.Message`, in its order, and their names in JSON.
pub(super) const MESSAGE: [(&str, &str); 9] = [
    ("Status", "status"),
    ("ID", "id"),
    ("From", "from"),
    ("Type", "Type"),
    ("Action", "Action"),
    ("Actor", "Actor"),
    ("Scope", "scope"),
    ("Time", "time"),
    ("TimeNano", "timeNano"),
];

/// The fields of `events.Actor`.
pub(super) const ACTOR: [&str; 2] = ["ID", "Attributes"];

impl<'e> Message<'e> {
    pub(super) fn field(&'e self, name: &str) -> Option<Value<'e>> {
        let event = self.event;
        let integer = |json: Option<&str>| json.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Some(match name {
            "Status" => Value::text(event.status()),
            "ID" => Value::text(event.id()),
            "From" => Value::text(event.from()),
            "Type" => Value::text(Cow::Borrowed(&*event.kind)),
            "Action" => Value::text(Cow::Borrowed(&*event.action)),
            "Actor" => Value::Actor(self),
            "Scope" => Value::text(Cow::Borrowed(&*event.scope)),
            "Time" => Value::Int64(integer(event.texts.time)),
            "TimeNano" => Value::Int64(integer(event.texts.time_nano)),
            _ => return None,
        })
    }

    pub(super) fn actor_field(&'e self, name: &str) -> Option<Value<'e>> {
        match name {
            "ID" => Some(Value::text(Cow::Borrowed(&*self.event.actor_id))),
            "Attributes" => {
                let there = self.event.texts.attributes.is_some_and(|text| text.starts_with('{'));
                Some(Value::Attributes(there.then_some(&self.event.attributes)))
            }
            _ => None,
        }
    }
}

/// What Go compares alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basic {
    Bool,
    Int,
    Float,
    Str,
}

impl<'e> Value<'e> {
    pub(super) fn text(text: Cow<'e, str>) -> Self {
        Value::Str(match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }

    /// A text of its own.
    pub(super) fn owned(text: impl Into<Vec<u8>>) -> Self {
        Value::Str(Cow::Owned(text.into()))
    }

    /// About how many bytes it holds itself.
    pub(super) fn weight(&self) -> usize {
        match self {
            Value::Str(Cow::Owned(text)) => text.len(),
            Value::List(list) => list.iter().map(|text| text.len() + size_of::<Vec<u8>>()).sum(),
            _ => 0,
        }
    }

    /// Go's name of its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::None => "<nil>",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Int64(_) => "int64",
            Value::Byte(_) => "uint8",
            Value::Float(_) => "float64",
            Value::Str(_) => "string",
            Value::List(_) => "[]string",
            Value::Attributes(_) => "map[string]string",
            Value::Actor(_) => "events.Actor",
            Value::Message(message) if message.is_trial => "*events.Message",
            Value::Message(_) => "events.Message",
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::None => false,
            Value::Bool(truth) => *truth,
            Value::Int(number) | Value::Int64(number) => *number != 0,
            Value::Byte(byte) => *byte != 0,
            Value::Float(number) => *number != 0.0,
            Value::Str(text) => !text.is_empty(),
            Value::List(list) => !list.is_empty(),
            Value::Attributes(pairs) => pairs.is_some_and(|pairs| !pairs.is_empty()),
            Value::Actor(_) | Value::Message(_) => true,
        }
    }

    /// Its value as an integer, if it is one.
    pub(super) fn int(&self) -> Option<i64> {
        match self {
            Value::Int(number) | Value::Int64(number) => Some(*number),
            Value::Byte(byte) => Some((*byte).into()),
            _ => None,
        }
    }

    fn basic(&self) -> Option<Basic> {
        match self {
            Value::Bool(_) => Some(Basic::Bool),
            Value::Int(_) | Value::Int64(_) | Value::Byte(_) => Some(Basic::Int),
            Value::Float(_) => Some(Basic::Float),
            Value::Str(_) => Some(Basic::Str),
            _ => None,
        }
    }

    /// Whether `eq` takes them for the same.
    pub(super) fn is_equal(&self, other: &Value<'_>) -> Result<bool, String> {
        match (self, other) {
            (Value::None, Value::None) => Ok(true),
            // A map is compared with nil alone.
            (Value::Attributes(pairs), Value::None) | (Value::None, Value::Attributes(pairs)) => Ok(pairs.is_none()),
            (Value::None, _) | (_, Value::None) => Ok(false),
            _ if self.basic().is_none() && other.basic().is_none() => {
                Err(format!("non-comparable types {}, {}", self.type_name(), other.type_name()))
            }
            _ if self.basic() != other.basic() => Err("incompatible types for comparison".into()),
            _ => Ok(self.order(other)?.is_some_and(Ordering::is_eq)),
        }
    }

    /// Which is less, as `lt` has it; `None` where a number is none.
    pub(super) fn order(&self, other: &Value<'_>) -> Result<Option<Ordering>, String> {
        let (one, two) = self.basic().zip(other.basic()).ok_or("invalid type for comparison")?;
        if one != two {
            return Err("incompatible types for comparison".into());
        }
        Ok(match (self, other) {
            (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
            (Value::Float(one), Value::Float(other)) => one.partial_cmp(other),
            (Value::Str(one), Value::Str(other)) => Some(one.cmp(other)),
            _ => Some(self.int().cmp(&other.int())),
        })
    }
}

/// The value of an attribute, by its name.
pub(super) fn attribute<'e>(pairs: Option<&'e Attributes<'e>>, name: &[u8]) -> Option<Value<'e>> {
    let pairs = pairs?;
    let at = pairs.binary_search_by(|(key, _)| key.as_bytes().cmp(name)).ok()?;
    Some(Value::text(Cow::Borrowed(&*pairs[at].1)))
}

/// The characters of a text as Go reads them: each byte that belongs to none is U+FFFD.
pub(super) fn characters(text: &[u8]) -> impl Iterator<Item = (&[u8], char)> {
    text.utf8_chunks().flat_map(|chunk| {
        let valid = chunk.valid();
        let good = valid.char_indices().map(move |(at, c)| (&valid.as_bytes()[at..at + c.len_utf8()], c));
        good.chain(chunk.invalid().chunks(1).map(|byte| (byte, char::REPLACEMENT_CHARACTER)))
    })
}
