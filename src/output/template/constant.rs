//! Parses Go constants: strings, characters and numbers.

/// A number. `int` is set if the number is an integer that fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number {
    pub(super) int: Option<i64>,
    /// Set if the number is written as a floating-point number.
    pub(super) float: Option<f64>,
}

/// Returns the bytes of a string in double quotes, or `None` if the syntax is invalid.
pub(super) fn unquote(text: &str) -> Option<Vec<u8>> {
    let mut rest = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        match unescape(&mut rest, '"')? {
            Unescaped::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Unescaped::Byte(byte) => bytes.push(byte),
        }
    }
    Some(bytes)
}

enum Unescaped {
    Char(char),
    Byte(u8),
}

/// Removes the first character of a string, plain or escaped, and returns it.
fn unescape(rest: &mut &str, quote: char) -> Option<Unescaped> {
    let mut chars = rest.chars();
    let c = chars.next()?;
    if c != '\\' {
        *rest = chars.as_str();
        return (c != quote).then_some(Unescaped::Char(c));
    }
    let kind = chars.next()?;
    let tail = chars.as_str();
    let (digits, radix, skipped) = match kind {
        'x' => (2, 16, 0),
        'u' => (4, 16, 0),
        'U' => (8, 16, 0),
        '0'..='7' => (3, 8, 1),
        _ => {
            *rest = tail;
            return simple_escape(kind, quote).map(Unescaped::Char);
        }
    };
    let from = rest.len() - tail.len() - skipped;
    let code = rest.get(from..from + digits).filter(|code| code.chars().all(|c| c.is_digit(radix)))?;
    let number = u32::from_str_radix(code, radix).ok()?;
    *rest = &rest[from + digits..];
    match kind {
        'u' | 'U' => char::from_u32(number).map(Unescaped::Char),
        _ => u8::try_from(number).ok().map(Unescaped::Byte),
    }
}

/// Returns the character that a letter after a backslash stands for.
fn simple_escape(kind: char, quote: char) -> Option<char> {
    Some(match kind {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' => '\\',
        kind if kind == quote => quote,
        _ => return None,
    })
}

/// Parses a number, or a character in single quotes.
pub(super) fn parse_number(text: &str) -> Result<Number, String> {
    if let Some(inner) = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
        let mut rest = inner;
        let code = match unescape(&mut rest, '\'') {
            Some(Unescaped::Char(c)) => Some(u32::from(c)),
            Some(Unescaped::Byte(byte)) => Some(byte.into()),
            None => None,
        };
        let code = code.filter(|_| rest.is_empty()).ok_or_else(|| format!("malformed character constant: {text}"))?;
        return Ok(Number { int: Some(code.into()), float: None });
    }
    let illegal = || format!("illegal number syntax: {text:?}");
    let lower = text.replace('_', "").to_ascii_lowercase();
    let (sign, digits) = match lower.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", lower.strip_prefix('+').unwrap_or(&lower)),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) => {
            (8, &digits[1..])
        }
        _ => (10, digits),
    };
    if radix == 10 && digits.contains(['.', 'e']) {
        let float: f64 = digits.parse().ok().filter(|float: &f64| float.is_finite()).ok_or_else(illegal)?;
        let float = if sign.is_empty() { float } else { -float };
        let whole = float as i64;
        return Ok(Number { int: (whole as f64 == float).then_some(whole), float: Some(float) });
    }
    match i64::from_str_radix(&format!("{sign}{digits}"), radix) {
        Ok(int) => Ok(Number { int: Some(int), float: None }),
        // Go stores a larger number as an uint64, which no function accepts.
        Err(e) if !digits.is_empty() && *e.kind() != std::num::IntErrorKind::InvalidDigit => {
            Err(format!("integer overflow: {text:?}"))
        }
        Err(_) => Err(illegal()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_constants_are_unescaped() {
        let decode = |text: &str| unquote(text).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert_eq!(decode(r#""a\t\"\\\x41\101\u00e9\U0001F433é""#).as_deref(), Some("a\t\"\\AAé🐳é"));
        assert_eq!(unquote(r#""\xff""#), Some(vec![0xFF]));
        for invalid in [r#""\q""#, r#""\x4""#, r#""\400""#, r#""\ud800""#, r#""\'""#, r#""\xé""#] {
            assert_eq!(decode(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn number_constants_are_parsed() {
        let int = |text| parse_number(text).unwrap().int.unwrap();
        for (text, value) in
            [("1_000", 1000), ("0x1F", 31), ("0b11", 3), ("0o17", 15), ("017", 15), ("-5", -5), ("+5", 5)]
        {
            assert_eq!(int(text), value, "{text}");
        }
        assert_eq!((int("'a'"), int(r"'\n'"), int("'é'"), int("1e3")), (97, 10, 233, 1000));
        assert_eq!(parse_number("-1.5"), Ok(Number { int: None, float: Some(-1.5) }));
        for invalid in ["1e", "0x", "08", "-", "'ab'", "''", "1e999", "99999999999999999999", "1.2.3"] {
            assert!(parse_number(invalid).is_err(), "{invalid}");
        }
    }
}
