//! What a request names: its path, and the version of the API in it, read as an engine reads them (Go's `net/http` and
//! the router that Docker uses).

use std::borrow::Cow;

use crate::engine::ApiVersion;

/// What `+` means in a text that is percent-encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plus {
    /// Itself, as in a path.
    Plus,
    /// A space, as in a query.
    Space,
}

/// Decodes `%XX`. What is no such escape is refused in an engine's words.
pub(super) fn decoded(text: &str, plus: Plus) -> Result<Cow<'_, str>, String> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match byte {
            b'+' if plus == Plus::Space => b' ',
            b'%' => {
                let digit = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    let escape = String::from_utf8_lossy(&tail[..tail.len().min(2)]).into_owned();
                    return Err(format!("invalid URL escape {:?}", format!("%{escape}")));
                };
                rest = &tail[2..];
                (high << 4 | low) as u8
            }
            byte => byte,
        });
    }
    Ok(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Encodes a path for a `Location`, as Go does.
pub(super) fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            text.push(byte.into());
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The path without empty steps, `.` and `..`, if it has any: a client is sent there.
pub(super) fn cleaned(path: &str) -> Option<String> {
    let steps = || path.strip_prefix('/').unwrap_or(path).split('/');
    let last = steps().count() - 1;
    if !steps().enumerate().any(|(at, step)| matches!(step, "." | "..") || (step.is_empty() && at < last)) {
        return None;
    }
    let mut clean: Vec<&str> = Vec::new();
    for step in steps() {
        match step {
            "" | "." => {}
            ".." => drop(clean.pop()),
            step => clean.push(step),
        }
    }
    let end = if path.ends_with('/') && !clean.is_empty() { "/" } else { "" };
    Some(format!("/{}{end}", clean.join("/")))
}

/// `/v1.41/events` → 1.41, as it is written too, and `/events`. Numbers that are missing are 0, others are passed over.
pub(super) fn split_version(path: &str) -> (Option<(ApiVersion, &str)>, &str) {
    let split = || {
        let (text, rest) = path.strip_prefix("/v")?.split_once('/')?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return None;
        }
        let mut numbers =
            text.split('.').map(|number| if number.is_empty() { 0 } else { number.parse().unwrap_or(u32::MAX) });
        let version = ApiVersion(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Some((Some((version, text)), &path[path.len() - rest.len() - 1..]))
    };
    split().unwrap_or((None, path))
}
