//! Parses JSON (RFC 8259) strictly, in one pass, and returns slices of the text instead of copies.
//!
//! Depth and numbers have no limit. The grammar allows a `\ud800` that is not half of a surrogate pair; it
//! decodes to U+FFFD, as in the engine's own parser. The input is valid UTF-8. The tests compare the parser with
//! serde_json.

use std::borrow::Cow;

/// Syntax error in a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {at}")]
pub struct JsonError {
    /// Offset of the error in bytes.
    pub at: usize,
    /// Description of the expected token.
    pub expected: &'static str,
}

/// Position in a JSON text.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    pos: usize,
}

/// A JSON string as a slice of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonString<'a> {
    /// Text between the quotes, not decoded.
    raw: &'a str,
    has_escapes: bool,
}

impl<'a> JsonString<'a> {
    /// Decodes the string.
    pub(super) fn decode(self) -> Cow<'a, str> {
        if self.has_escapes { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }

    /// Returns the text between the quotes, not decoded.
    pub(super) fn raw(self) -> &'a str {
        self.raw
    }

    /// Iterates over the characters, each with its escapes as in the text.
    pub(super) fn raw_chars(self) -> impl Iterator<Item = JsonString<'a>> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            let length = match rest.as_bytes() {
                [b'\\', b'u', ..] if starts_with_surrogate_pair(rest) => 12,
                [b'\\', b'u', ..] => 6,
                [b'\\', ..] => 2,
                _ => rest.chars().next()?.len_utf8(),
            };
            let (raw, tail) = rest.split_at(length);
            rest = tail;
            Some(JsonString { raw, has_escapes: raw.starts_with('\\') })
        })
    }

    /// Returns true if the decoded string equals `text`.
    pub(super) fn is(self, text: &str) -> bool {
        if self.has_escapes { unescape(self.raw) == text } else { self.raw == text }
    }
}

/// Number of leading bytes that are plain in a string: no quote, no backslash, no control character.
///
/// Eight bytes are checked together. A byte below 0x20, or equal to a quote or a backslash, sets its high bit.
fn plain_prefix_len(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    let bytes_below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGH_BITS;
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("the slice has eight bytes"));
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let found = bytes_below(word, 0x20) | bytes_below(quote, 1) | bytes_below(backslash, 1);
        if found != 0 {
            // The lowest set bit is exact; a borrow can only affect the bits above it.
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|byte| !matches!(byte, 0..0x20 | b'"' | b'\\')).count()
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Cursor { text, pos: 0 }
    }

    fn error<T>(&self, expected: &'static str) -> Result<T, JsonError> {
        Err(JsonError { at: self.pos, expected })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    /// Skips white space and returns the next byte without consuming it.
    pub(super) fn peek_token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.pos += 1;
        }
        self.peek()
    }

    fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), JsonError> {
        if self.peek_token() != Some(byte) {
            return self.error(name);
        }
        self.pos += 1;
        Ok(())
    }

    /// Checks that only white space follows.
    pub(super) fn expect_end(&mut self) -> Result<(), JsonError> {
        if self.peek_token().is_some() { self.error("the end") } else { Ok(()) }
    }

    /// Parses an object and calls `on_member` with each key; `on_member` must consume the value.
    pub(super) fn parse_object(
        &mut self,
        mut on_member: impl FnMut(&mut Self, JsonString<'a>) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.expect(b'{', "an object")?;
        if self.peek_token() == Some(b'}') {
            self.pos += 1;
            return Ok(());
        }
        loop {
            if self.peek_token() != Some(b'"') {
                return self.error("a key");
            }
            let key = self.parse_string()?;
            self.expect(b':', "a colon")?;
            self.peek_token();
            on_member(self, key)?;
            match self.peek_token() {
                Some(b',') => self.pos += 1,
                Some(b'}') => {
                    self.pos += 1;
                    return Ok(());
                }
                _ => return self.error("a comma or the end of the object"),
            }
        }
    }

    /// Parses a string.
    pub(super) fn parse_string(&mut self) -> Result<JsonString<'a>, JsonError> {
        self.expect(b'"', "a string")?;
        let bytes = self.text.as_bytes();
        let start = self.pos;
        let mut has_escapes = false;
        loop {
            self.pos += plain_prefix_len(&bytes[self.pos..]);
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.pos];
                    self.pos += 1;
                    return Ok(JsonString { raw, has_escapes });
                }
                Some(b'\\') => {
                    has_escapes = true;
                    self.pos += 1;
                    self.skip_escape()?;
                }
                Some(_) => return self.error("no control character"),
                None => return self.error("the end of the string"),
            }
        }
    }

    /// Skips an escape after its backslash.
    fn skip_escape(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.pos += 1,
            Some(b'u') => {
                for _ in 0..4 {
                    self.pos += 1;
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return self.error("a hexadecimal digit");
                    }
                }
                self.pos += 1;
            }
            _ => return self.error("an escape"),
        }
        Ok(())
    }

    /// Returns the result of `parse`, and the text that it consumed.
    pub(super) fn with_source<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, JsonError>,
    ) -> Result<(T, &'a str), JsonError> {
        self.peek_token();
        let start = self.pos;
        let value = parse(self)?;
        Ok((value, &self.text[start..self.pos]))
    }

    /// Skips a value of any type and returns its text.
    pub(super) fn skip_value(&mut self) -> Result<&'a str, JsonError> {
        self.peek_token();
        let start = self.pos;
        // Closing brackets of the open arrays and objects, innermost last.
        let mut closers: Vec<u8> = Vec::new();
        loop {
            let just_opened = match self.peek_token() {
                Some(b'"') => self.parse_string().map(|_| false)?,
                Some(b'{') => {
                    self.pos += 1;
                    closers.push(b'}');
                    true
                }
                Some(b'[') => {
                    self.pos += 1;
                    closers.push(b']');
                    true
                }
                Some(b'-' | b'0'..=b'9') => self.skip_number().map(|()| false)?,
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return self.error("a value"),
            };
            if !self.next_value(&mut closers, just_opened)? {
                return Ok(&self.text[start..self.pos]);
            }
        }
    }

    /// Advances to the next value in the open arrays and objects; returns false if none is open any more.
    fn next_value(&mut self, closers: &mut Vec<u8>, mut just_opened: bool) -> Result<bool, JsonError> {
        while let Some(&close) = closers.last() {
            let next = self.peek_token();
            if next == Some(close) {
                self.pos += 1;
                closers.pop();
                just_opened = false;
                continue;
            }
            if !just_opened {
                self.expect(b',', "a comma or the end")?;
            }
            if close == b'}' {
                if self.peek_token() != Some(b'"') {
                    return self.error("a key");
                }
                self.parse_string()?;
                self.expect(b':', "a colon")?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn literal(&mut self, literal: &'static str) -> Result<bool, JsonError> {
        let rest = &self.text[self.pos..];
        if !rest.starts_with(literal) {
            if literal.starts_with(rest) {
                self.pos += rest.len(); // The input is a prefix of the literal, so the error is at its end.
            }
            return self.error("a value");
        }
        self.pos += literal.len();
        Ok(false)
    }

    fn skip_number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        match self.peek() {
            Some(b'0') => self.pos += 1,
            _ => self.skip_digits()?,
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.pos += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.pos += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    fn skip_digits(&mut self) -> Result<(), JsonError> {
        let start = self.pos;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.pos += 1;
        }
        if self.pos == start { self.error("a digit") } else { Ok(()) }
    }
}

/// Decodes the text between the quotes of a string. Its escapes must be well-formed.
fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, tail)) = rest.split_once('\\') {
        text.push_str(plain);
        let (escape, tail) = tail.split_at(1);
        rest = tail;
        text.push(match escape {
            "b" => '\u{8}',
            "f" => '\u{c}',
            "n" => '\n',
            "r" => '\r',
            "t" => '\t',
            "u" => {
                let (unit, tail) = parse_code_unit(rest);
                rest = tail;
                match unit {
                    0xD800..=0xDBFF => match rest.strip_prefix("\\u").map(parse_code_unit) {
                        Some((low @ 0xDC00..=0xDFFF, tail)) => {
                            rest = tail;
                            let code = 0x10000 + ((u32::from(unit) - 0xD800) << 10) + (u32::from(low) - 0xDC00);
                            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                        }
                        _ => char::REPLACEMENT_CHARACTER,
                    },
                    unit => char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            _ => escape.chars().next().unwrap_or_default(),
        });
    }
    text.push_str(rest);
    text
}

/// Returns true if a text begins with the two escapes of a surrogate pair.
fn starts_with_surrogate_pair(text: &str) -> bool {
    let unit = |at: usize| text[at..].strip_prefix("\\u").map(|digits| parse_code_unit(digits).0);
    matches!((unit(0), unit(6)), (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)))
}

fn parse_code_unit(text: &str) -> (u16, &str) {
    let (digits, tail) = text.split_at(4);
    (u16::from_str_radix(digits, 16).unwrap_or_default(), tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_prefix_ends_at_quotes_backslashes_and_control_characters() {
        for byte in 0..=255u8 {
            let is_plain = byte >= 0x20 && byte != b'"' && byte != b'\\';
            for before in 0..20 {
                let mut bytes = vec![0xC3; before];
                bytes.push(byte);
                bytes.extend([b'x'; 20]);
                assert_eq!(
                    plain_prefix_len(&bytes),
                    if is_plain { bytes.len() } else { before },
                    "{byte:#x} at {before}"
                );
            }
        }
    }

    fn parse(text: &str) -> Result<(), JsonError> {
        let mut cursor = Cursor::new(text);
        cursor.skip_value()?;
        cursor.expect_end()
    }

    #[test]
    fn nesting_depth_is_unlimited() {
        let deep = 1_000_000;
        assert_eq!(parse(&format!("{}{}", "[".repeat(deep), "]".repeat(deep))), Ok(()));
        assert_eq!(parse(&"[".repeat(deep)), Err(JsonError { at: deep, expected: "a value" }));
        assert_eq!(parse(&"{\"a\":".repeat(deep)), Err(JsonError { at: 5 * deep, expected: "a value" }));
    }

    #[test]
    fn unpaired_surrogates_decode_to_the_replacement_character() {
        let decode = |text: &str| Cursor::new(text).parse_string().unwrap().decode().into_owned();
        assert_eq!(decode(r#""\ud83d\udc33""#), "🐳");
        assert_eq!(decode(r#""\ud83dx\udc33\ud83d\n\ud83d\ud83d\udc33""#), "\u{FFFD}x\u{FFFD}\u{FFFD}\n\u{FFFD}🐳");
        assert_eq!(decode(r#""\"\\\/\b\f\n\r\t\u0041\u0000""#), "\"\\/\u{8}\u{c}\n\r\tA\0");
    }

    /// Random sequences of JSON tokens, most of them valid tokens, so that the result is often almost JSON.
    fn almost_json() -> impl Strategy<Value = String> {
        let piece = proptest::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"a\"",
            "\"\\n\"",
            "\"\\u00e9\"",
            "\"\\x\"",
            "\"",
            "1",
            "-",
            "0",
            "01",
            "1.5",
            "1e9",
            "1E+9",
            "-0",
            ".",
            "true",
            "false",
            "null",
            "nul",
            " ",
            "\t",
            "\n",
            "\u{1}",
            "é",
        ]);
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn json_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            "\\PC{0,8}|[\u{0}-\u{20}\"\\\\]{0,4}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                proptest::collection::btree_map("\\PC{0,4}", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn the_parser_accepts_exactly_what_serde_json_accepts(text in almost_json()) {
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(parse(&text).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn serialized_json_parses_to_its_end(value in json_value(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert_eq!(parse(&text.unwrap()), Ok(()));
        }

        #[test]
        fn strings_decode_as_in_serde_json(text in "\\PC{0,12}|[\u{0}-\u{20}\"\\\\🐳é]{0,6}") {
            let json = serde_json::to_string(&text).unwrap();
            let quoted = Cursor::new(&json).parse_string().unwrap();
            prop_assert!(quoted.is(&text));
            prop_assert_eq!(quoted.decode(), text.clone());
            let one_by_one: Vec<_> = quoted.raw_chars().map(|written| written.decode().into_owned()).collect();
            prop_assert_eq!(one_by_one, text.chars().map(String::from).collect::<Vec<_>>());
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let escaped = format!("\"{escaped}\"");
            prop_assert_eq!(Cursor::new(&escaped).parse_string().unwrap().decode(), text);
        }
    }
}
