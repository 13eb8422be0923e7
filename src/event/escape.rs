//! Encodes strings in JSON exactly as an engine does: Go's encoding/json, with its HTML escapes.

/// Returns true if a byte, or a character that begins with it, may need an escape.
pub fn needs_escape(byte: u8) -> bool {
    // 0xE2 begins U+2028 and U+2029, and also characters that need no escape.
    matches!(byte, 0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' | 0xE2)
}

/// Appends a string in quotes, encoded as an engine encodes it in JSON.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if !text.bytes().any(needs_escape) {
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
