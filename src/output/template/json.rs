//! What `json` prints: Go's encoding/json with `<`, `>` and `&` left as they are.

use super::value::{MESSAGE, Value, characters};

/// A value as JSON.
pub(super) fn of(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

fn write(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::None | Value::Attributes(None) => out.extend_from_slice(b"null"),
        Value::Bool(truth) => out.extend_from_slice(truth.to_string().as_bytes()),
        Value::Int(_) | Value::Int64(_) | Value::Byte(_) => {
            out.extend_from_slice(value.int().unwrap_or_default().to_string().as_bytes());
        }
        Value::Float(number) => {
            let form = if *number != 0.0 && !(1e-6..1e21).contains(&number.abs()) { 'e' } else { 'f' };
            out.extend_from_slice(super::float::shortest(*number, form).replace("e-0", "e-").as_bytes());
        }
        Value::Str(text) => quote(text, out),
        Value::List(list) => {
            for (at, text) in list.iter().enumerate() {
                out.push(if at == 0 { b'[' } else { b',' });
                quote(text, out);
            }
            out.extend_from_slice(if list.is_empty() { b"[]" } else { b"]" });
        }
        Value::Attributes(Some(pairs)) => {
            out.push(b'{');
            for (at, (key, value)) in pairs.iter().enumerate() {
                member(at == 0, key, out);
                quote(value.as_bytes(), out);
            }
            out.push(b'}');
        }
        Value::Actor(message) => {
            out.push(b'{');
            for (at, name) in super::value::ACTOR.into_iter().enumerate() {
                member(at == 0, name, out);
                write(&message.actor_field(name).unwrap_or(Value::None), out);
            }
            out.push(b'}');
        }
        Value::Message(message) => {
            out.push(b'{');
            let mut is_first = true;
            for (name, json) in MESSAGE {
                let value = message.field(name).unwrap_or(Value::None);
                // What was there from the beginning is written when it is empty, too.
                if value.is_true() || matches!(name, "Type" | "Action" | "Actor") {
                    member(is_first, json, out);
                    write(&value, out);
                    is_first = false;
                }
            }
            out.push(b'}');
        }
    }
}

fn member(is_first: bool, name: &str, out: &mut Vec<u8>) {
    if !is_first {
        out.push(b',');
    }
    quote(name.as_bytes(), out);
    out.push(b':');
}

fn quote(text: &[u8], out: &mut Vec<u8>) {
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
