//! Values of templates: an event as the docker client's `events.Message`, its parts, and results of functions.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::event::{Attributes, Event};

/// A value. As in Go, text is bytes, because `truncate` may cut within a character.
#[derive(Clone, Debug)]
pub(super) enum Value<'e> {
    /// `nil`, or a missing attribute.
    None,
    Bool(bool),
    /// Go's int.
    Int(i64),
    /// Go's int64: the times of an event.
    Int64(i64),
    /// Go's uint8: the result of indexing a text.
    Byte(u8),
    Float(f64),
    Str(Cow<'e, [u8]>),
    List(Vec<Vec<u8>>),
    /// `None` is Go's nil map.
    Attributes(Option<&'e Attributes<'e>>),
    Actor(&'e Message<'e>),
    Message(&'e Message<'e>),
}

/// An event as the docker client's `events.Message`.
#[derive(Debug)]
pub(super) struct Message<'e> {
    pub(super) event: &'e Event<'e>,
    /// True for the empty event that a template is tried on.
    pub(super) is_trial: bool,
}

/// Fields of Go's `events.Message`, in its order, with their JSON names.
pub(super) const MESSAGE_FIELDS: [(&str, &str); 9] = [
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

/// Fields of Go's `events.Actor`.
pub(super) const ACTOR_FIELDS: [&str; 2] = ["ID", "Attributes"];

impl<'e> Message<'e> {
    pub(super) fn field(&'e self, name: &str) -> Option<Value<'e>> {
        let event = self.event;
        let parse_integer = |json: Option<&str>| json.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        Some(match name {
            "Status" => Value::text(event.status()),
            "ID" => Value::text(event.id()),
            "From" => Value::text(event.from()),
            "Type" => Value::text(Cow::Borrowed(&*event.kind)),
            "Action" => Value::text(Cow::Borrowed(&*event.action)),
            "Actor" => Value::Actor(self),
            "Scope" => Value::text(Cow::Borrowed(&*event.scope)),
            "Time" => Value::Int64(parse_integer(event.raw_values.time)),
            "TimeNano" => Value::Int64(parse_integer(event.raw_values.time_nano)),
            _ => return None,
        })
    }

    pub(super) fn actor_field(&'e self, name: &str) -> Option<Value<'e>> {
        match name {
            "ID" => Some(Value::text(Cow::Borrowed(&*self.event.actor_id))),
            "Attributes" => {
                let is_object = self.event.raw_values.attributes.is_some_and(|text| text.starts_with('{'));
                Some(Value::Attributes(is_object.then_some(&self.event.attributes)))
            }
            _ => None,
        }
    }
}

/// Kinds of values that Go can compare. Values of different kinds are incompatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BasicKind {
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

    /// Returns an owned text.
    pub(super) fn owned_text(text: impl Into<Vec<u8>>) -> Self {
        Value::Str(Cow::Owned(text.into()))
    }

    /// Approximate number of heap bytes that the value owns.
    pub(super) fn heap_size(&self) -> usize {
        match self {
            Value::Str(Cow::Owned(text)) => text.len(),
            Value::List(list) => list.iter().map(|text| text.len() + size_of::<Vec<u8>>()).sum(),
            _ => 0,
        }
    }

    /// Go's name of the type.
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

    /// Returns the integer, if the value is one.
    pub(super) fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) | Value::Int64(number) => Some(*number),
            Value::Byte(byte) => Some((*byte).into()),
            _ => None,
        }
    }

    fn basic_kind(&self) -> Option<BasicKind> {
        match self {
            Value::Bool(_) => Some(BasicKind::Bool),
            Value::Int(_) | Value::Int64(_) | Value::Byte(_) => Some(BasicKind::Int),
            Value::Float(_) => Some(BasicKind::Float),
            Value::Str(_) => Some(BasicKind::Str),
            _ => None,
        }
    }

    /// Compares two values as Go's `eq` does.
    pub(super) fn is_equal(&self, other: &Value<'_>) -> Result<bool, String> {
        match (self, other) {
            (Value::None, Value::None) => Ok(true),
            // A map can only be compared with nil.
            (Value::Attributes(pairs), Value::None) | (Value::None, Value::Attributes(pairs)) => Ok(pairs.is_none()),
            (Value::None, _) | (_, Value::None) => Ok(false),
            _ if self.basic_kind().is_none() && other.basic_kind().is_none() => {
                Err(format!("non-comparable types {}, {}", self.type_name(), other.type_name()))
            }
            _ if self.basic_kind() != other.basic_kind() => Err("incompatible types for comparison".into()),
            _ => Ok(self.compare(other)?.is_some_and(Ordering::is_eq)),
        }
    }

    /// Orders two values as Go's `lt` does. Returns `None` if one of them is NaN.
    pub(super) fn compare(&self, other: &Value<'_>) -> Result<Option<Ordering>, String> {
        let (one, two) = self.basic_kind().zip(other.basic_kind()).ok_or("invalid type for comparison")?;
        if one != two {
            return Err("incompatible types for comparison".into());
        }
        Ok(match (self, other) {
            (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
            (Value::Float(one), Value::Float(other)) => one.partial_cmp(other),
            (Value::Str(one), Value::Str(other)) => Some(one.cmp(other)),
            _ => Some(self.as_int().cmp(&other.as_int())),
        })
    }
}

/// Returns the value of an attribute.
pub(super) fn attribute<'e>(pairs: Option<&'e Attributes<'e>>, name: &[u8]) -> Option<Value<'e>> {
    let pairs = pairs?;
    let index = pairs.binary_search_by(|(key, _)| key.as_bytes().cmp(name)).ok()?;
    Some(Value::text(Cow::Borrowed(&*pairs[index].1)))
}

/// Returns the characters of a text as Go decodes them: each invalid byte is U+FFFD.
pub(super) fn characters(text: &[u8]) -> impl Iterator<Item = (&[u8], char)> {
    text.utf8_chunks().flat_map(|chunk| {
        let valid = chunk.valid();
        let valid_chars =
            valid.char_indices().map(move |(index, c)| (&valid.as_bytes()[index..index + c.len_utf8()], c));
        valid_chars.chain(chunk.invalid().chunks(1).map(|byte| (byte, char::REPLACEMENT_CHARACTER)))
    })
}
