//! Reads JSON (RFC 8259) strictly and once, giving where things stand instead of copies.
//!
//! No limit on depth and none on numbers; a `\ud800` that is no half of a pair is allowed by the grammar and reads as
//! U+FFFD, as the engine's own parser reads it. The text is UTF-8 already. Compared with serde_json in the tests.

use std::borrow::Cow;

/// What is wrong with a text, and where: what was expected at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {at}")]
pub struct Malformed {
    /// The offset in bytes.
    pub at: usize,
    /// What should stand there.
    pub expected: &'static str,
}

/// A place in a JSON text.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// A string as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted<'a> {
    /// What stands between the quotes.
    inner: &'a str,
    escaped: bool,
}

impl<'a> Quoted<'a> {
    /// What it says.
    pub(super) fn decode(self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.inner)) } else { Cow::Borrowed(self.inner) }
    }

    /// What stands between the quotes.
    pub(super) fn text(self) -> &'a str {
        self.inner
    }

    /// The characters of it, one by one, as they are written.
    pub(super) fn written(self) -> impl Iterator<Item = Quoted<'a>> {
        let mut rest = self.inner;
        std::iter::from_fn(move || {
            let length = match rest.as_bytes() {
                [b'\\', b'u', ..] if is_pair(rest) => 12,
                [b'\\', b'u', ..] => 6,
                [b'\\', ..] => 2,
                _ => rest.chars().next()?.len_utf8(),
            };
            let (inner, tail) = rest.split_at(length);
            rest = tail;
            Some(Quoted { inner, escaped: inner.starts_with('\\') })
        })
    }

    /// Whether it says this.
    pub(super) fn is(self, text: &str) -> bool {
        if self.escaped { unescape(self.inner) == text } else { self.inner == text }
    }
}

/// How many of the bytes at the beginning are plain within a string: no quote, no backslash, no control character.
/// Eight are looked at together: a byte below 0x20, or equal to one of the two, makes its high bit stand out.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGH;
    let mut at = 0;
    while let Some(eight) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let found = below(word, 0x20) | below(quote, 1) | below(backslash, 1);
        if found != 0 {
            // The lowest is exact, whatever a borrow does to those above it.
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|byte| !matches!(byte, 0..0x20 | b'"' | b'\\')).count()
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Cursor { text, at: 0 }
    }

    fn malformed<T>(&self, expected: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, expected })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte behind white space, not taken.
    pub(super) fn next(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
        self.peek()
    }

    fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), Malformed> {
        if self.next() != Some(byte) {
            return self.malformed(name);
        }
        self.at += 1;
        Ok(())
    }

    /// Nothing more may come.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        if self.next().is_some() { self.malformed("the end") } else { Ok(()) }
    }

    /// Calls `each` with every key of the object that begins here; `each` takes the value.
    pub(super) fn object(
        &mut self,
        mut each: impl FnMut(&mut Self, Quoted<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(b'{', "an object")?;
        if self.next() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.next() != Some(b'"') {
                return self.malformed("a key");
            }
            let key = self.string()?;
            self.expect(b':', "a colon")?;
            self.next();
            each(self, key)?;
            match self.next() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.malformed("a comma or the end of the object"),
            }
        }
    }

    /// The string that begins here.
    pub(super) fn string(&mut self) -> Result<Quoted<'a>, Malformed> {
        self.expect(b'"', "a string")?;
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain(&bytes[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    let inner = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Quoted { inner, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                Some(_) => return self.malformed("no control character"),
                None => return self.malformed("the end of the string"),
            }
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                for _ in 0..4 {
                    self.at += 1;
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return self.malformed("a hexadecimal digit");
                    }
                }
                self.at += 1;
            }
            _ => return self.malformed("an escape"),
        }
        Ok(())
    }

    /// What `read` reads from here on, and its text.
    pub(super) fn measured<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<(T, &'a str), Malformed> {
        self.next();
        let start = self.at;
        let value = read(self)?;
        Ok((value, &self.text[start..self.at]))
    }

    /// The text of the value that begins here, whatever it is.
    pub(super) fn value(&mut self) -> Result<&'a str, Malformed> {
        self.next();
        let start = self.at;
        // What closes the arrays and objects that are open.
        let mut open: Vec<u8> = Vec::new();
        loop {
            let opened = match self.next() {
                Some(b'"') => self.string().map(|_| false)?,
                Some(b'{') => {
                    self.at += 1;
                    open.push(b'}');
                    true
                }
                Some(b'[') => {
                    self.at += 1;
                    open.push(b']');
                    true
                }
                Some(b'-' | b'0'..=b'9') => self.number().map(|()| false)?,
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return self.malformed("a value"),
            };
            if !self.between_values(&mut open, opened)? {
                return Ok(&self.text[start..self.at]);
            }
        }
    }

    /// Goes on to the next value within what is open; `false` if nothing is any more.
    fn between_values(&mut self, open: &mut Vec<u8>, mut just_opened: bool) -> Result<bool, Malformed> {
        while let Some(&close) = open.last() {
            let next = self.next();
            if next == Some(close) {
                self.at += 1;
                open.pop();
                just_opened = false;
                continue;
            }
            if !just_opened {
                self.expect(b',', "a comma or the end")?;
            }
            if close == b'}' {
                if self.next() != Some(b'"') {
                    return self.malformed("a key");
                }
                self.string()?;
                self.expect(b':', "a colon")?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn word(&mut self, word: &'static str) -> Result<bool, Malformed> {
        let rest = &self.text[self.at..];
        if !rest.starts_with(word) {
            if word.starts_with(rest) {
                self.at += rest.len(); // Right as far as it goes.
            }
            return self.malformed("a value");
        }
        self.at += word.len();
        Ok(false)
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { self.malformed("a digit") } else { Ok(()) }
    }
}

/// What the inside of a string says; its escapes are known to be well-formed.
fn unescape(inner: &str) -> String {
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, tail)) = rest.split_once('\\') {
        text.push_str(plain);
        let (kind, tail) = tail.split_at(1);
        rest = tail;
        text.push(match kind {
            "b" => '\u{8}',
            "f" => '\u{c}',
            "n" => '\n',
            "r" => '\r',
            "t" => '\t',
            "u" => {
                let (unit, tail) = code_unit(rest);
                rest = tail;
                match unit {
                    0xD800..=0xDBFF => match rest.strip_prefix("\\u").map(code_unit) {
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
            _ => kind.chars().next().unwrap_or_default(),
        });
    }
    text.push_str(rest);
    text
}

/// Whether a text begins with the two escapes of one character.
fn is_pair(text: &str) -> bool {
    let unit = |at: usize| text[at..].strip_prefix("\\u").map(|digits| code_unit(digits).0);
    matches!((unit(0), unit(6)), (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)))
}

fn code_unit(text: &str) -> (u16, &str) {
    let (digits, tail) = text.split_at(4);
    (u16::from_str_radix(digits, 16).unwrap_or_default(), tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_bytes_are_told_from_others_wherever_they_stand() {
        for byte in 0..=255u8 {
            let is_plain = byte >= 0x20 && byte != b'"' && byte != b'\\';
            for before in 0..20 {
                let mut bytes = vec![0xC3; before];
                bytes.push(byte);
                bytes.extend([b'x'; 20]);
                assert_eq!(plain(&bytes), if is_plain { bytes.len() } else { before }, "{byte:#x} at {before}");
            }
        }
    }

    fn reads(text: &str) -> Result<(), Malformed> {
        let mut cursor = Cursor::new(text);
        cursor.value()?;
        cursor.end()
    }

    #[test]
    fn no_depth_is_too_deep() {
        let deep = 1_000_000;
        assert_eq!(reads(&format!("{}{}", "[".repeat(deep), "]".repeat(deep))), Ok(()));
        assert_eq!(reads(&"[".repeat(deep)), Err(Malformed { at: deep, expected: "a value" }));
        assert_eq!(reads(&"{\"a\":".repeat(deep)), Err(Malformed { at: 5 * deep, expected: "a value" }));
    }

    #[test]
    fn surrogates_that_are_no_pair_read_as_the_engine_reads_them() {
        let decoded = |text: &str| Cursor::new(text).string().unwrap().decode().into_owned();
        assert_eq!(decoded(r#""\ud83d\udc33""#), "🐳");
        assert_eq!(decoded(r#""\ud83dx\udc33\ud83d\n\ud83d\ud83d\udc33""#), "\u{FFFD}x\u{FFFD}\u{FFFD}\n\u{FFFD}🐳");
        assert_eq!(decoded(r#""\"\\\/\b\f\n\r\t\u0041\u0000""#), "\"\\/\u{8}\u{c}\n\r\tA\0");
    }

    /// JSON, or almost: pieces that are valid alone, put together at random.
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

    fn json() -> impl Strategy<Value = serde_json::Value> {
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
        fn what_serde_json_reads_is_read_and_nothing_else(text in almost_json()) {
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(reads(&text).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn all_json_is_read_to_its_end(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert_eq!(reads(&text.unwrap()), Ok(()));
        }

        #[test]
        fn strings_say_what_serde_json_reads(text in "\\PC{0,12}|[\u{0}-\u{20}\"\\\\🐳é]{0,6}") {
            let json = serde_json::to_string(&text).unwrap();
            let quoted = Cursor::new(&json).string().unwrap();
            prop_assert!(quoted.is(&text));
            prop_assert_eq!(quoted.decode(), text.clone());
            let one_by_one: Vec<_> = quoted.written().map(|written| written.decode().into_owned()).collect();
            prop_assert_eq!(one_by_one, text.chars().map(String::from).collect::<Vec<_>>());
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let escaped = format!("\"{escaped}\"");
            prop_assert_eq!(Cursor::new(&escaped).string().unwrap().decode(), text);
        }
    }
}
