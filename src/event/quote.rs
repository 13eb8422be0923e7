//! Text as an engine writes it in JSON: Go's encoding/json, with its HTML escapes.

/// Whether a byte, or a character that begins with it, is written with an escape.
pub fn is_escaped(byte: u8) -> bool {
    // 0xE2 begins U+2028 and U+2029, and others that are not escaped.
    matches!(byte, 0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' | 0xE2)
}

/// Writes a string as an engine writes it in JSON, in quotes.
pub fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if !text.bytes().any(is_escaped) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for c in text.chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\u{0}'..'\u{20}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    out.push(b'"');
}
