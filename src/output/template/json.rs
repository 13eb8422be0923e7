//! The function `json`: Go's encoding/json without escaping `<`, `>` and `&`.

use super::value::{MESSAGE_FIELDS, Value, characters};

/// Encodes a value as JSON.
pub(super) fn encode(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_value(value, &mut out);
    out
}

fn write_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::None | Value::Attributes(None) => out.extend_from_slice(b"null"),
        Value::Bool(truth) => out.extend_from_slice(truth.to_string().as_bytes()),
        Value::Int(_) | Value::Int64(_) | Value::Byte(_) => {
            out.extend_from_slice(value.as_int().unwrap_or_default().to_string().as_bytes());
        }
        Value::Float(number) => {
            let format = if *number != 0.0 && !(1e-6..1e21).contains(&number.abs()) { 'e' } else { 'f' };
            out.extend_from_slice(super::float::format_shortest(*number, format).replace("e-0", "e-").as_bytes());
        }
        Value::Str(text) => write_string(text, out),
        Value::List(list) => {
            for (index, text) in list.iter().enumerate() {
                out.push(if index == 0 { b'[' } else { b',' });
                write_string(text, out);
            }
            out.extend_from_slice(if list.is_empty() { b"[]" } else { b"]" });
        }
        Value::Attributes(Some(pairs)) => {
            out.push(b'{');
            for (index, (key, value)) in pairs.iter().enumerate() {
                write_key(index == 0, key, out);
                write_string(value.as_bytes(), out);
            }
            out.push(b'}');
        }
        Value::Actor(message) => {
            out.push(b'{');
            for (index, name) in super::value::ACTOR_FIELDS.into_iter().enumerate() {
                write_key(index == 0, name, out);
                write_value(&message.actor_field(name).unwrap_or(Value::None), out);
            }
            out.push(b'}');
        }
        Value::Message(message) => {
            out.push(b'{');
            let mut is_first = true;
            for (name, json) in MESSAGE_FIELDS {
                let value = message.field(name).unwrap_or(Value::None);
                // In Go, these fields have no `omitempty`, so they are written even if they are empty.
                if value.is_true() || matches!(name, "Type" | "Action" | "Actor") {
                    write_key(is_first, json, out);
                    write_value(&value, out);
                    is_first = false;
                }
            }
            out.push(b'}');
        }
    }
}

fn write_key(is_first: bool, name: &str, out: &mut Vec<u8>) {
    if !is_first {
        out.push(b',');
    }
    write_string(name.as_bytes(), out);
    out.push(b':');
}

fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for (bytes, c) in characters(text) {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{0}'..'\u{20}' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
            }
            char::REPLACEMENT_CHARACTER if bytes.len() == 1 => out.extend_from_slice(b"\\ufffd"),
            _ => out.extend_from_slice(bytes),
        }
    }
    out.push(b'"');
}
