//! Prints values as Go's fmt does: `%v` and the other verbs, with their flags.

use super::float::{precise, shortest};
use super::value::{ACTOR, MESSAGE, Value, characters};

/// The largest width and precision; Go takes little more.
const WIDEST: i64 = 1_000_000;

/// The longest text that is made, in bytes; four of the longest event.
pub(super) const LONGEST: usize = 64 << 20;

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

/// A value, as `{{.}}` prints it.
pub(super) fn print(value: &Value<'_>, out: &mut Vec<u8>) {
    put(value, Verb { letter: 'v', ..Verb::default() }, out);
}

/// With spaces between two that are no texts.
pub(super) fn sprint(values: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let is_text = |value: &Value<'_>| matches!(value, Value::Str(_));
    for (at, value) in values.iter().enumerate() {
        if at > 0 && !is_text(value) && !is_text(&values[at - 1]) {
            out.push(b' ');
        }
        print(value, &mut out);
        bounded(&out)?;
    }
    Ok(out)
}

fn bounded(out: &[u8]) -> Result<(), String> {
    if out.len() > LONGEST { Err(format!("it makes more than {LONGEST} bytes")) } else { Ok(()) }
}

/// With spaces between all of them, and the end of a line.
pub(super) fn println(values: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        print(value, &mut out);
        bounded(&out)?;
    }
    out.push(b'\n');
    Ok(out)
}

/// With the values in the places of the verbs.
pub(super) fn sprintf(format: &[u8], values: &[Value<'_>]) -> Result<Vec<u8>, String> {
    let mut printf = Printf { format, at: 0, values, next: 0, is_reordered: false, is_bad: false, out: Vec::new() };
    while printf.at < format.len() {
        let plain = memchr::memchr(b'%', &format[printf.at..]).unwrap_or(format.len() - printf.at);
        printf.out.extend_from_slice(&format[printf.at..printf.at + plain]);
        printf.at += plain + 1;
        if printf.at <= format.len() {
            printf.verb();
        }
        bounded(&printf.out)?;
    }
    if !printf.is_reordered && printf.next < values.len() {
        printf.extra();
    }
    Ok(printf.out)
}

struct Printf<'p, 'e> {
    format: &'p [u8],
    at: usize,
    values: &'p [Value<'e>],
    next: usize,
    /// A number in brackets said which value is next.
    is_reordered: bool,
    /// That number was none, or that of no value.
    is_bad: bool,
    out: Vec<u8>,
}

impl Printf<'_, '_> {
    fn peek(&self) -> Option<u8> {
        self.format.get(self.at).copied()
    }

    /// Reads what follows a `%`, and prints it.
    fn verb(&mut self) {
        self.is_bad = false;
        let mut verb = self.flags();
        self.index();
        match self.star() {
            Some(Some(width)) => {
                verb.minus |= width < 0;
                verb.width = Some(width.unsigned_abs() as usize);
            }
            Some(None) => self.out.extend_from_slice(b"%!(BADWIDTH)"),
            None => verb.width = self.number(),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.index();
            match self.star() {
                Some(Some(precision @ 0..)) => verb.precision = Some(precision.unsigned_abs() as usize),
                Some(_) => self.out.extend_from_slice(b"%!(BADPREC)"),
                None => verb.precision = Some(self.number().unwrap_or(0)),
            }
        }
        self.index();
        let Some((bytes, letter)) = characters(&self.format[self.at..]).next() else {
            return self.out.extend_from_slice(b"%!(NOVERB)");
        };
        self.at += bytes.len();
        verb.letter = letter;
        match self.values.get(self.next) {
            _ if letter == '%' => self.out.push(b'%'),
            _ if self.is_bad => self.out.extend_from_slice(format!("%!{letter}(BADINDEX)").as_bytes()),
            None => self.out.extend_from_slice(format!("%!{letter}(MISSING)").as_bytes()),
            Some(value) => {
                self.next += 1;
                put(value, verb, &mut self.out);
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
            self.at += 1;
        }
        verb
    }

    /// Digits, if there are any. What follows too many of them is not read any more.
    fn number(&mut self) -> Option<usize> {
        let from = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = std::str::from_utf8(&self.format[from..self.at]).ok().filter(|digits| !digits.is_empty())?;
        let number = digits.parse().ok().filter(|number| *number <= WIDEST as usize);
        if number.is_none() {
            self.at = self.format.len();
        }
        number
    }

    /// `[2]`: which value is next.
    fn index(&mut self) {
        if self.peek() != Some(b'[') {
            return;
        }
        self.is_reordered = true;
        let rest = &self.format[self.at..];
        let Some(end) = memchr::memchr(b']', rest) else {
            self.at += 1;
            self.is_bad = true;
            return;
        };
        self.at += end + 1;
        let number = std::str::from_utf8(&rest[1..end]).ok().and_then(|digits| digits.parse::<usize>().ok());
        match number.filter(|number| (1..=self.values.len()).contains(number)) {
            Some(number) => self.next = number - 1,
            None => self.is_bad = true,
        }
    }

    /// `*`: the next value is the width; `Some(None)` if it cannot be.
    fn star(&mut self) -> Option<Option<i64>> {
        if self.peek() != Some(b'*') {
            return None;
        }
        self.at += 1;
        let value = self.values.get(self.next);
        self.next += usize::from(value.is_some());
        let width = value.and_then(|value| if let Value::Int(width) = value { Some(*width) } else { None });
        Some(width.filter(|width| width.abs() <= WIDEST))
    }

    fn extra(&mut self) {
        self.out.extend_from_slice(b"%!(EXTRA ");
        for (at, value) in self.values[self.next..].iter().enumerate() {
            if at > 0 {
                self.out.extend_from_slice(b", ");
            }
            self.out.extend_from_slice(value.type_name().as_bytes());
            if !matches!(value, Value::None) {
                self.out.push(b'=');
                print(value, &mut self.out);
            }
        }
        self.out.push(b')');
    }
}

/// Prints a value with a verb.
fn put(value: &Value<'_>, verb: Verb, out: &mut Vec<u8>) {
    match (value, verb.letter) {
        (_, 'T') => pad(value.type_name().as_bytes(), verb, out),
        (Value::None, 'v') => pad(b"<nil>", verb, out),
        (Value::Bool(truth), 'v' | 't') => pad(truth.to_string().as_bytes(), verb, out),
        (Value::Int(number) | Value::Int64(number), _) => integer(value, *number, verb, out),
        (Value::Byte(byte), _) => integer(value, (*byte).into(), verb, out),
        (Value::Float(number), 'v' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G') => float(*number, verb, out),
        (Value::Str(text), 'v' | 's' | 'q' | 'x' | 'X') => string(text, verb, out),
        (Value::List(_) | Value::Attributes(_) | Value::Actor(_) | Value::Message(_), _) => composite(value, verb, out),
        _ => bad(value, verb, out),
    }
}

/// A verb that a value does not have.
fn bad(value: &Value<'_>, verb: Verb, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("%!{}({}", verb.letter, value.type_name()).as_bytes());
    if !matches!(value, Value::None) {
        out.push(b'=');
        put(value, Verb { letter: 'v', sharp: false, plus: false, ..verb }, out);
    }
    out.push(b')');
}

/// Something in its width.
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
    let size = number.unsigned_abs();
    let (prefix, digits) = match verb.letter {
        'v' if verb.sharp && matches!(value, Value::Byte(_)) => ("0x", format!("{size:x}")),
        'v' | 'd' => ("", size.to_string()),
        'b' => (if verb.sharp { "0b" } else { "" }, format!("{size:b}")),
        'o' => (if verb.sharp { "0" } else { "" }, format!("{size:o}")),
        'O' => ("0o", format!("{size:o}")),
        'x' => (if verb.sharp { "0x" } else { "" }, format!("{size:x}")),
        'X' => (if verb.sharp { "0X" } else { "" }, format!("{size:X}")),
        'c' | 'q' | 'U' => return character(number, verb, out),
        _ => return bad(value, verb, out),
    };
    let sign = sign(number < 0, if verb.letter == 'v' { Verb { plus: false, ..verb } } else { verb });
    let mut least = verb.precision.unwrap_or(0);
    if verb.precision == Some(0) && number == 0 {
        return pad(b"", Verb { zero: false, ..verb }, out);
    }
    if verb.zero && !verb.minus && verb.precision.is_none() {
        least = verb.width.unwrap_or(0).saturating_sub(sign.len());
    }
    let zeros = "0".repeat(least.saturating_sub(digits.len()));
    pad(format!("{sign}{prefix}{zeros}{digits}").as_bytes(), Verb { zero: false, ..verb }, out);
}

/// An integer as the character it stands for.
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
    let form = match verb.letter {
        'v' => 'g',
        letter => letter.to_ascii_lowercase(),
    };
    let digits = verb.precision.or(if matches!(form, 'e' | 'f') { Some(6) } else { None });
    let text = digits.map_or_else(|| shortest(number, form), |digits| precise(number, form, digits));
    let text = if matches!(verb.letter, 'E' | 'G') { text.to_uppercase() } else { text };
    let (is_negative, size) = text.strip_prefix('-').map_or((false, &text[..]), |size| (true, size));
    let sign = sign(is_negative, verb);
    let least = if verb.zero && !verb.minus { verb.width.unwrap_or(0).saturating_sub(sign.len()) } else { 0 };
    let zeros = "0".repeat(least.saturating_sub(size.len()));
    pad(format!("{sign}{zeros}{size}").as_bytes(), Verb { zero: false, ..verb }, out);
}

fn string(text: &[u8], verb: Verb, out: &mut Vec<u8>) {
    let is_hex = matches!(verb.letter, 'x' | 'X');
    let most = verb.precision.unwrap_or(usize::MAX);
    let cut = match is_hex {
        true => most.min(text.len()),
        false => characters(text).take(most).map(|(bytes, _)| bytes.len()).sum(),
    };
    let text = &text[..cut];
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
    for (at, byte) in text.iter().enumerate() {
        if verb.space && at > 0 {
            hex.push(' ');
        }
        if verb.sharp && (verb.space || at == 0) {
            hex.push_str(prefix);
        }
        hex.push_str(&if is_upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
    }
    hex
}

/// A text as a Go constant; with `#` in backquotes, if it can stand there.
fn quote(text: &[u8], verb: Verb) -> String {
    let raw = |(bytes, c): (&[u8], char)| {
        let is_plain = c == '\t' || !(c.is_control() || c == '`' || c == '\u{FEFF}');
        is_plain && (c != char::REPLACEMENT_CHARACTER || bytes.len() > 1)
    };
    if verb.sharp && characters(text).all(raw) {
        return format!("`{}`", String::from_utf8_lossy(text));
    }
    let mut quoted = String::from("\"");
    for (bytes, c) in characters(text) {
        escape(bytes, c, '"', verb.plus, &mut quoted);
    }
    quoted + "\""
}

/// A character as it stands in a Go constant.
fn escape(bytes: &[u8], c: char, quote: char, is_ascii: bool, out: &mut String) {
    match c {
        char::REPLACEMENT_CHARACTER if bytes.len() == 1 => out.push_str(&format!("\\x{:02x}", bytes[0])),
        c if c == quote || c == '\\' => out.extend(['\\', c]),
        c if is_printable(c) && (c.is_ascii() || !is_ascii) => out.push(c),
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

/// Whether Go prints a character as it is: nothing invisible, and no space but the ASCII one.
pub(super) fn is_printable(c: char) -> bool {
    match c {
        ' ' => true,
        c if c.is_control() || c.is_whitespace() => false,
        // Marks of direction and the like, private use, and what is no character.
        '\u{AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' => false,
        '\u{E000}'..='\u{F8FF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{F0000}'.. => false,
        c => c as u32 & 0xFFFE != 0xFFFE,
    }
}

/// A list, a map, a structure: each part with the same verb.
fn composite(value: &Value<'_>, verb: Verb, out: &mut Vec<u8>) {
    let is_go = verb.letter == 'v' && verb.sharp;
    let names = is_go || (verb.letter == 'v' && verb.plus);
    let separator = if is_go { &b", "[..] } else { b" " };
    if is_go {
        out.extend_from_slice(value.type_name().trim_start_matches('*').as_bytes());
    }
    let text = |text: &str, out: &mut Vec<u8>| part(text.as_bytes(), verb, out);
    match value {
        Value::List(list) => {
            out.push(if is_go { b'{' } else { b'[' });
            for (at, text) in list.iter().enumerate() {
                out.extend_from_slice(if at > 0 { separator } else { b"" });
                part(text, verb, out);
            }
            out.push(if is_go { b'}' } else { b']' });
        }
        Value::Attributes(None) if is_go => out.extend_from_slice(b"(nil)"),
        Value::Attributes(pairs) => {
            out.extend_from_slice(if is_go { b"{" } else { b"map[" });
            for (at, (key, value)) in pairs.iter().copied().flatten().enumerate() {
                out.extend_from_slice(if at > 0 { separator } else { b"" });
                text(key, out);
                out.push(b':');
                text(value, out);
            }
            out.push(if is_go { b'}' } else { b']' });
        }
        Value::Actor(message) => {
            let fields = ACTOR.map(|name| (name, message.actor_field(name)));
            structure(fields.into_iter(), names, separator, verb, out);
        }
        Value::Message(message) => {
            let fields = MESSAGE.map(|(name, _)| (name, message.field(name)));
            structure(fields.into_iter(), names, separator, verb, out);
        }
        value => print(value, out),
    }
}

/// A text that is part of something.
fn part(text: &[u8], verb: Verb, out: &mut Vec<u8>) {
    put(&Value::Str(text.into()), verb, out);
}

fn structure<'n, 'e>(
    fields: impl Iterator<Item = (&'n str, Option<Value<'e>>)>,
    names: bool,
    separator: &[u8],
    verb: Verb,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    for (at, (name, value)) in fields.enumerate() {
        out.extend_from_slice(if at > 0 { separator } else { b"" });
        if names {
            out.extend_from_slice(format!("{name}:").as_bytes());
        }
        put(&value.unwrap_or(Value::None), verb, out);
    }
    out.push(b'}');
}
