//! Parses the target of a request: its path, and the API version in it. It follows an engine: Go's `net/http` and the
//! router that Docker uses.

use std::borrow::Cow;

use crate::engine::ApiVersion;

/// Meaning of `+` in percent-encoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlusMode {
    /// A plus sign, as in a path.
    Literal,
    /// A space, as in a query.
    Space,
}

/// Decodes `%XX`. Returns the error message of an engine for an invalid escape.
pub(super) fn percent_decode(text: &str, plus: PlusMode) -> Result<Cow<'_, str>, String> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match byte {
            b'+' if plus == PlusMode::Space => b' ',
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

/// Encodes a path for a `Location` header, as Go does.
pub(super) fn percent_encode(path: &str) -> String {
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

/// Removes empty segments, `.` and `..` from a path, for a redirect. Returns `None` if the path has none of them.
pub(super) fn clean_path(path: &str) -> Option<String> {
    let segments = || path.strip_prefix('/').unwrap_or(path).split('/');
    let last = segments().count() - 1;
    if !segments()
        .enumerate()
        .any(|(index, segment)| matches!(segment, "." | "..") || (segment.is_empty() && index < last))
    {
        return None;
    }
    let mut clean: Vec<&str> = Vec::new();
    for segment in segments() {
        match segment {
            "" | "." => {}
            ".." => drop(clean.pop()),
            step => clean.push(step),
        }
    }
    let trailing_slash = if path.ends_with('/') && !clean.is_empty() { "/" } else { "" };
    Some(format!("/{}{trailing_slash}", clean.join("/")))
}

/// Splits `/v1.41/events` into 1.41, its text, and `/events`. Missing numbers are 0, additional ones are ignored.
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
