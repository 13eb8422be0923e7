//! Formats values as Go's fmt does: `%v` and the other verbs, with their flags.

use super::float::{format_shortest, format_with_precision};
use super::value::{ACTOR_FIELDS, MESSAGE_FIELDS, Value, characters};

/// Maximum width and precision. Go's maximum is little more.
const MAX_WIDTH: i64 = 1_000_000;

/// Maximum length of a formatted text, in bytes: four times the longest event.
pub(super) const MAX_OUTPUT_LEN: usize = 64 << 20;

/// A verb and its flags.
#[derive(Clone, Copy, Debug, Default)]
struct Verb {
    letter: char,
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Prints a value as `{{.}}` does.
pub(super) fn print_value(value: &Value<'_>, out: &mut Vec<u8>) {
    print_with_verb(value, Verb { letter: 'v', ..Verb::default() }, out);
}

/// Formats values as Go's `Sprint`: a space between two values if neither is text.
pub(super) fn sprint(values: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let is_text = |value: &Value<'_>| matches!(value, Value::Str(_));
    for (index, value) in values.iter().enumerate() {
        if index > 0 && !is_text(value) && !is_text(&values[index - 1]) {
            out.push(b' ');
        }
        print_value(value, &mut out);
        check_length(&out)?;
    }
    Ok(out)
}

fn check_length(out: &[u8]) -> Result<(), String> {
    if out.len() > MAX_OUTPUT_LEN { Err(format!("the result exceeds {MAX_OUTPUT_LEN} bytes")) } else { Ok(()) }
}

/// Formats values as Go's `Sprintln`: spaces between all values, and a line feed at the end.
pub(super) fn println(values: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        print_value(value, &mut out);
        check_length(&out)?;
    }
    out.push(b'\n');
    Ok(out)
}

/// Formats values as Go's `Sprintf`: each verb is replaced by a value.
pub(super) fn sprintf(format: &[u8], values: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut printf =
        Printf { format, position: 0, values, next: 0, is_reordered: false, is_bad_index: false, out: Vec::new() };
    while printf.position < format.len() {
        let literal_len = memchr::memchr(b'%', &format[printf.position..]).unwrap_or(format.len() - printf.position);
        printf.out.extend_from_slice(&format[printf.position..printf.position + literal_len]);
        printf.position += literal_len + 1;
        if printf.position <= format.len() {
            printf.verb();
        }
        check_length(&printf.out)?;
    }
    if !printf.is_reordered && printf.next < values.len() {
        printf.report_extra_args();
    }
    Ok(printf.out)
}

struct Printf<'p, 'e> {
    format: &'p [u8],
    position: usize,
    values: &'p [Value<'e>],
    next: usize,
    /// True once an index in brackets has selected the next value.
    is_reordered: bool,
    /// True if that index is invalid or out of range.
    is_bad_index: bool,
    out: Vec<u8>,
}

impl Printf<'_, '_> {
    fn peek(&self) -> Option<u8> {
        self.format.get(self.position).copied()
    }

    /// Parses the verb after a `%` and prints its value.
    fn verb(&mut self) {
        self.is_bad_index = false;
        let mut verb = self.flags();
        self.arg_number();
        match self.int_from_arg() {
            Some(Some(width)) => {
                verb.minus |= width < 0;
                verb.width = Some(width.unsigned_abs() as usize);
            }
            Some(None) => self.out.extend_from_slice(b"%!(BADWIDTH)"),
            None => verb.width = self.number(),
        }
        if self.peek() == Some(b'.') {
            self.position += 1;
            self.arg_number();
            match self.int_from_arg() {
                Some(Some(precision @ 0..)) => verb.precision = Some(precision.unsigned_abs() as usize),
                Some(_) => self.out.extend_from_slice(b"%!(BADPREC)"),
                None => verb.precision = Some(self.number().unwrap_or(0)),
            }
        }
        self.arg_number();
        let Some((bytes, letter)) = characters(&self.format[self.position..]).next() else {
            return self.out.extend_from_slice(b"%!(NOVERB)");
        };
        self.position += bytes.len();
        verb.letter = letter;
        match self.values.get(self.next) {
            _ if letter == '%' => self.out.push(b'%'),
            _ if self.is_bad_index => self.out.extend_from_slice(format!("%!{letter}(BADINDEX)").as_bytes()),
            None => self.out.extend_from_slice(format!("%!{letter}(MISSING)").as_bytes()),
            Some(value) => {
                self.next += 1;
                print_with_verb(value, verb, &mut self.out);
            }
        }
    }

    fn flags(&mut self) -> Verb {
        let mut verb = Verb::default();
        while let Some(flag) = self.peek() {
            match flag {
                b'+' => verb.plus = true,
                b'-' => verb.minus = true,
                b'#' => verb.sharp = true,
                b' ' => verb.space = true,
                b'0' => verb.zero = true,
                _ => break,
            }
            self.position += 1;
        }
        verb
    }

    /// Parses digits, if there are any. After a number over the maximum, the rest of the format is skipped.
    fn number(&mut self) -> Option<usize> {
        let from = self.position;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.position += 1;
        }
        let digits = std::str::from_utf8(&self.format[from..self.position]).ok().filter(|digits| !digits.is_empty())?;
        let number = digits.parse().ok().filter(|number| *number <= MAX_WIDTH as usize);
        if number.is_none() {
            self.position = self.format.len();
        }
        number
    }

    /// Parses an index such as `[2]`, which selects the next value.
    fn arg_number(&mut self) {
        if self.peek() != Some(b'[') {
            return;
        }
        self.is_reordered = true;
        let rest = &self.format[self.position..];
        let Some(end) = memchr::memchr(b']', rest) else {
            self.position += 1;
            self.is_bad_index = true;
            return;
        };
        self.position += end + 1;
        let number = std::str::from_utf8(&rest[1..end]).ok().and_then(|digits| digits.parse::<usize>().ok());
        match number.filter(|number| (1..=self.values.len()).contains(number)) {
            Some(number) => self.next = number - 1,
            None => self.is_bad_index = true,
        }
    }

    /// Parses `*`, which takes the next value as the width. Returns `Some(None)` if that value is not a valid width.
    fn int_from_arg(&mut self) -> Option<Option<i64>> {
        if self.peek() != Some(b'*') {
            return None;
        }
        self.position += 1;
        let value = self.values.get(self.next);
        self.next += usize::from(value.is_some());
        let width = value.and_then(|value| if let Value::Int(width) = value { Some(*width) } else { None });
        Some(width.filter(|width| width.abs() <= MAX_WIDTH))
    }

    fn report_extra_args(&mut self) {
        self.out.extend_from_slice(b"%!(EXTRA ");
        for (index, value) in self.values[self.next..].iter().enumerate() {
            if index > 0 {
                self.out.extend_from_slice(b", ");
            }
            self.out.extend_from_slice(value.type_name().as_bytes());
            if !matches!(value, Value::None) {
                self.out.push(b'=');
                print_value(value, &mut self.out);
            }
        }
        self.out.push(b')');
    }
}

/// Prints a value with a verb.
fn print_with_verb(value: &Value<'_>, verb: Verb, out: &mut Vec<u8>) {
    match (value, verb.letter) {
        (_, 'T') => pad(value.type_name().as_bytes(), verb, out),
        (Value::None, 'v') => pad(b"<nil>", verb, out),
        (Value::Bool(truth), 'v' | 't') => pad(truth.to_string().as_bytes(), verb, out),
        (Value::Int(number) | Value::Int64(number), _) => integer(value, *number, verb, out),
        (Value::Byte(byte), _) => integer(value, (*byte).into(), verb, out),
        (Value::Float(number), 'v' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G') => float(*number, verb, out),
        (Value::Str(text), 'v' | 's' | 'q' | 'x' | 'X') => string(text, verb, out),
        (Value::List(_) | Value::Attributes(_) | Value::Actor(_) | Value::Message(_), _) => composite(value, verb, out),
        _ => bad_verb(value, verb, out),
    }
}

/// Prints Go's error for a verb that does not apply to a value.
fn bad_verb(value: &Value<'_>, verb: Verb, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("%!{}({}", verb.letter, value.type_name()).as_bytes());
    if !matches!(value, Value::None) {
        out.push(b'=');
        print_with_verb(value, Verb { letter: 'v', sharp: false, plus: false, ..verb }, out);
    }
    out.push(b')');
}

/// Pads a text to the width of the verb.
fn pad(text: &[u8], verb: Verb, out: &mut Vec<u8>) {
    let missing = verb.width.unwrap_or(0).saturating_sub(characters(text).count());
    let fill = if verb.zero && !verb.minus { b'0' } else { b' ' };
    if !verb.minus {
        out.resize(out.len() + missing, fill);
    }
    out.extend_from_slice(text);
    if verb.minus {
        out.resize(out.len() + missing, b' ');
    }
}

fn sign(is_negative: bool, verb: Verb) -> &'static str {
    match verb {
        _ if is_negative => "-",
        Verb { plus: true, .. } => "+",
        Verb { space: true, .. } => " ",
        _ => "",
    }
}

fn integer(value: &Value<'_>, number: i64, verb: Verb, out: &mut Vec<u8>) {
    let magnitude = number.unsigned_abs();
    let (prefix, digits) = match verb.letter {
        'v' if verb.sharp && matches!(value, Value::Byte(_)) => ("0x", format!("{magnitude:x}")),
        'v' | 'd' => ("", magnitude.to_string()),
        'b' => (if verb.sharp { "0b" } else { "" }, format!("{magnitude:b}")),
        'o' => (if verb.sharp { "0" } else { "" }, format!("{magnitude:o}")),
        'O' => ("0o", format!("{magnitude:o}")),
        'x' => (if verb.sharp { "0x" } else { "" }, format!("{magnitude:x}")),
        'X' => (if verb.sharp { "0X" } else { "" }, format!("{magnitude:X}")),
        'c' | 'q' | 'U' => return character(number, verb, out),
        _ => return bad_verb(value, verb, out),
    };
    let sign = sign(number < 0, if verb.letter == 'v' { Verb { plus: false, ..verb } } else { verb });
    let mut min_digits = verb.precision.unwrap_or(0);
    if verb.precision == Some(0) && number == 0 {
        return pad(b"", Verb { zero: false, ..verb }, out);
    }
    if verb.zero && !verb.minus && verb.precision.is_none() {
        min_digits = verb.width.unwrap_or(0).saturating_sub(sign.len());
    }
    let zeros = "0".repeat(min_digits.saturating_sub(digits.len()));
    pad(format!("{sign}{prefix}{zeros}{digits}").as_bytes(), Verb { zero: false, ..verb }, out);
}

/// Formats an integer as the character with this code point.
fn character(number: i64, verb: Verb, out: &mut Vec<u8>) {
    let c = u32::try_from(number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    let text = match verb.letter {
        'c' => c.to_string(),
        'q' => {
            let mut quoted = String::from("'");
            escape(c.encode_utf8(&mut [0; 4]).as_bytes(), c, '\'', verb.plus, &mut quoted);
            quoted + "'"
        }
        _ if verb.sharp && is_printable(c) => format!("U+{number:04X} '{c}'"),
        _ => format!("U+{number:04X}"),
    };
    pad(text.as_bytes(), Verb { zero: false, ..verb }, out);
}

fn float(number: f64, verb: Verb, out: &mut Vec<u8>) {
    let format = match verb.letter {
        'v' => 'g',
        letter => letter.to_ascii_lowercase(),
    };
    let digits = verb.precision.or(if matches!(format, 'e' | 'f') { Some(6) } else { None });
    let text =
        digits.map_or_else(|| format_shortest(number, format), |digits| format_with_precision(number, format, digits));
    let text = if matches!(verb.letter, 'E' | 'G') { text.to_uppercase() } else { text };
    let (is_negative, magnitude) = text.strip_prefix('-').map_or((false, &text[..]), |magnitude| (true, magnitude));
    let sign = sign(is_negative, verb);
    let min_digits = if verb.zero && !verb.minus { verb.width.unwrap_or(0).saturating_sub(sign.len()) } else { 0 };
    let zeros = "0".repeat(min_digits.saturating_sub(magnitude.len()));
    pad(format!("{sign}{zeros}{magnitude}").as_bytes(), Verb { zero: false, ..verb }, out);
}

fn string(text: &[u8], verb: Verb, out: &mut Vec<u8>) {
    let is_hex = matches!(verb.letter, 'x' | 'X');
    let max = verb.precision.unwrap_or(usize::MAX);
    let length = match is_hex {
        true => max.min(text.len()),
        false => characters(text).take(max).map(|(bytes, _)| bytes.len()).sum(),
    };
    let text = &text[..length];
    match verb.letter {
        'q' => pad(quote(text, verb).as_bytes(), verb, out),
        'v' if verb.sharp => pad(quote(text, Verb { sharp: false, ..verb }).as_bytes(), verb, out),
        _ if is_hex => pad(hex(text, verb).as_bytes(), verb, out),
        _ => pad(text, verb, out),
    }
}

fn hex(text: &[u8], verb: Verb) -> String {
    let (prefix, is_upper) = (if verb.letter == 'x' { "0x" } else { "0X" }, verb.letter == 'X');
    let mut hex = String::new();
    for (index, byte) in text.iter().enumerate() {
        if verb.space && index > 0 {
            hex.push(' ');
        }
        if verb.sharp && (verb.space || index == 0) {
            hex.push_str(prefix);
        }
        let digits = crate::error::hex(&[*byte]);
        hex.push_str(&if is_upper { digits.to_uppercase() } else { digits });
    }
    hex
}

/// Formats a text as a Go constant; with `#` in backquotes, if the text allows it.
fn quote(text: &[u8], verb: Verb) -> String {
    let can_backquote = |(bytes, c): (&[u8], char)| {
        let is_plain = c == '\t' || !(c.is_control() || c == '`' || c == '\u{FEFF}');
        is_plain && (c != char::REPLACEMENT_CHARACTER || bytes.len() > 1)
    };
    if verb.sharp && characters(text).all(can_backquote) {
        return format!("`{}`", String::from_utf8_lossy(text));
    }
    let mut quoted = String::from("\"");
    for (bytes, c) in characters(text) {
        escape(bytes, c, '"', verb.plus, &mut quoted);
    }
    quoted + "\""
}

/// Appends a character, escaped as in a Go constant.
fn escape(bytes: &[u8], c: char, quote: char, ascii_only: bool, out: &mut String) {
    match c {
        char::REPLACEMENT_CHARACTER if bytes.len() == 1 => out.push_str(&format!("\\x{:02x}", bytes[0])),
        c if c == quote || c == '\\' => out.extend(['\\', c]),
        c if is_printable(c) && (c.is_ascii() || !ascii_only) => out.push(c),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        '\0'..' ' | '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
        '\0'..='\u{FFFF}' => out.push_str(&format!("\\u{:04x}", c as u32)),
        c => out.push_str(&format!("\\U{:08x}", c as u32)),
    }
}

/// Returns true if Go prints a character without escaping: not if it is invisible, or a space other than ASCII's.
pub(super) fn is_printable(c: char) -> bool {
    match c {
        ' ' => true,
        c if c.is_control() || c.is_whitespace() => false,
        // Direction marks and similar format characters, private use, and noncharacters.
        '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' => false,
        '\u{E000}'..='\u{F8FF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{F0000}'.. => false,
        c => c as u32 & 0xFFFE != 0xFFFE,
    }
}

/// Prints a list, map or struct, each element with the same verb.
fn composite(value: &Value<'_>, verb: Verb, out: &mut Vec<u8>) {
    let is_go_syntax = verb.letter == 'v' && verb.sharp;
    let with_names = is_go_syntax || (verb.letter == 'v' && verb.plus);
    let separator = if is_go_syntax { &b", "[..] } else { b" " };
    if is_go_syntax {
        out.extend_from_slice(value.type_name().trim_start_matches('*').as_bytes());
    }
    let print_text = |text: &str, out: &mut Vec<u8>| print_element(text.as_bytes(), verb, out);
    match value {
        Value::List(list) => {
            out.push(if is_go_syntax { b'{' } else { b'[' });
            for (index, text) in list.iter().enumerate() {
                out.extend_from_slice(if index > 0 { separator } else { b"" });
                print_element(text, verb, out);
            }
            out.push(if is_go_syntax { b'}' } else { b']' });
        }
        Value::Attributes(None) if is_go_syntax => out.extend_from_slice(b"(nil)"),
        Value::Attributes(pairs) => {
            out.extend_from_slice(if is_go_syntax { b"{" } else { b"map[" });
            for (index, (key, value)) in pairs.iter().copied().flatten().enumerate() {
                out.extend_from_slice(if index > 0 { separator } else { b"" });
                print_text(key, out);
                out.push(b':');
                print_text(value, out);
            }
            out.push(if is_go_syntax { b'}' } else { b']' });
        }
        Value::Actor(message) => {
            let fields = ACTOR_FIELDS.map(|name| (name, message.actor_field(name)));
            print_struct(fields.into_iter(), with_names, separator, verb, out);
        }
        Value::Message(message) => {
            let fields = MESSAGE_FIELDS.map(|(name, _)| (name, message.field(name)));
            print_struct(fields.into_iter(), with_names, separator, verb, out);
        }
        value => print_value(value, out),
    }
}

/// Prints a text element of a list or map.
fn print_element(text: &[u8], verb: Verb, out: &mut Vec<u8>) {
    print_with_verb(&Value::Str(text.into()), verb, out);
}

fn print_struct<'n, 'e>(
    fields: impl Iterator<Item = (&'n str, Option<Value<'e>>)>,
    with_names: bool,
    separator: &[u8],
    verb: Verb,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    for (index, (name, value)) in fields.enumerate() {
        out.extend_from_slice(if index > 0 { separator } else { b"" });
        if with_names {
            out.extend_from_slice(format!("{name}:").as_bytes());
        }
        print_with_verb(&value.unwrap_or(Value::None), verb, out);
    }
    out.push(b'}');
}
