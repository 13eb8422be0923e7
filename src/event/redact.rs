//! Removes secrets from an event before it is stored. Only matching text is replaced; all other bytes stay as the
//! engine sent them.
//!
//! Redaction applies to commands: the part after the colon in `Action`, and in `status`, which repeats it. It also
//! applies to the values of attributes, and to `from`, which repeats one. It does not apply to IDs and to the keys of
//! attributes, because they identify the object of the event.

use std::ops::Range;

use regex::Regex;

use super::Event;
use super::json::{Cursor, JsonError, JsonString};

/// Replacement for a removed text.
pub const REDACTED: &str = "[redacted]";

/// [`REDACTED`] as a JSON value.
const REDACTED_JSON: &str = "\"[redacted]\"";

/// Rules for what to remove from events.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    /// True if the commands of `exec_*` events are removed.
    exec: bool,
    patterns: Vec<Regex>,
}

/// A pattern that is not a valid regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid regular expression: {reason}")]
pub struct RedactionError {
    text: String,
    reason: String,
}

/// A range of an event's bytes, and its replacement.
type Edit = (Range<usize>, &'static str);

impl Redaction {
    /// Parses patterns; each is `exec` or a regular expression.
    ///
    /// # Errors
    /// [`RedactionError`] for the first pattern that is not a valid regular expression.
    pub fn new(patterns: &[String]) -> Result<Redaction, RedactionError> {
        let mut redaction = Redaction::default();
        for text in patterns {
            let error = |reason: &str| RedactionError { text: text.clone(), reason: reason.into() };
            match text.as_str() {
                "exec" => redaction.exec = true,
                "" => return Err(error("the pattern is empty")),
                _ => redaction.patterns.push(Regex::new(text).map_err(|e| {
                    // The message has several lines with a drawing; the last line contains the reason.
                    let message = e.to_string();
                    let last = message.lines().last().unwrap_or_default();
                    error(last.trim_start_matches("error: ").trim_end_matches('.'))
                })?),
            }
        }
        Ok(redaction)
    }

    /// Returns true without rules.
    pub fn is_empty(&self) -> bool {
        !self.exec && self.patterns.is_empty()
    }

    /// Returns the redacted event, which is a valid event again; `None` if nothing matches.
    pub fn apply(&self, event: &Event<'_>) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut edits = Vec::new();
        self.collect_edits(event.text, &mut edits).expect("a parsed event is valid JSON");
        if edits.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(event.text.len());
        let mut at = 0;
        for (range, replacement) in edits {
            text.push_str(&event.text[at..range.start]);
            text.push_str(replacement);
            at = range.end;
        }
        text.push_str(&event.text[at..]);
        Some(text)
    }

    /// Redacts a command as in its exec events.
    pub fn redact_command(&self, command: &str) -> String {
        let mut redacted = String::new();
        let mut at = 0;
        for part in self.match_exec_command(command) {
            redacted.push_str(&command[at..part.start]);
            redacted.push_str(REDACTED);
            at = part.end;
        }
        redacted + &command[at..]
    }

    /// Returns the ranges to remove from the command of an exec event.
    fn match_exec_command(&self, command: &str) -> Vec<Range<usize>> {
        match self.exec && !command.is_empty() {
            true => std::iter::once(0..command.len()).collect(),
            false => self.find_matches(command),
        }
    }

    /// Collects the edits of an event's text. Checks each member, also a duplicate that does not count.
    fn collect_edits(&self, text: &str, edits: &mut Vec<Edit>) -> Result<(), JsonError> {
        let base = text.as_ptr() as usize;
        Cursor::new(text).parse_object(|cursor, key| match () {
            () if key.is("Action") || key.is("status") => self.scan_command(cursor, base, edits),
            () if key.is("from") => self.scan_value(cursor, base, edits),
            () if key.is("Actor") && cursor.peek_token() == Some(b'{') => cursor.parse_object(|cursor, key| {
                if key.is("Attributes") && cursor.peek_token() == Some(b'{') {
                    return cursor.parse_object(|cursor, _| self.scan_value(cursor, base, edits));
                }
                cursor.skip_value().map(|_| ())
            }),
            () => cursor.skip_value().map(|_| ()),
        })
    }

    fn scan_command(&self, cursor: &mut Cursor<'_>, base: usize, edits: &mut Vec<Edit>) -> Result<(), JsonError> {
        if cursor.peek_token() != Some(b'"') {
            return cursor.skip_value().map(|_| ());
        }
        let (string, text) = cursor.with_source(Cursor::parse_string)?;
        let action = string.decode();
        let Some((kind, command)) = action.split_once(':') else { return Ok(()) };
        let command = command.strip_prefix(' ').unwrap_or(command);
        let start = action.len() - command.len();
        let ranges =
            if kind.starts_with("exec_") { self.match_exec_command(command) } else { self.find_matches(command) };
        let ranges: Vec<Range<usize>> = ranges.into_iter().map(|r| r.start + start..r.end + start).collect();
        push_edits(string, text.as_ptr() as usize - base + 1, &ranges, edits);
        Ok(())
    }

    fn scan_value(&self, cursor: &mut Cursor<'_>, base: usize, edits: &mut Vec<Edit>) -> Result<(), JsonError> {
        if cursor.peek_token() == Some(b'"') {
            let (string, text) = cursor.with_source(Cursor::parse_string)?;
            push_edits(string, text.as_ptr() as usize - base + 1, &self.find_matches(&string.decode()), edits);
            return Ok(());
        }
        // No engine sends such a value. If anything in it matches, the whole value is replaced.
        let text = cursor.skip_value()?;
        if self.is_match(text) || json_strings(text).any(|string| self.is_match(&string.decode())) {
            let start = text.as_ptr() as usize - base;
            edits.push((start..start + text.len(), REDACTED_JSON));
        }
        Ok(())
    }

    fn is_match(&self, text: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_match(text))
    }

    /// Returns the ranges of a text that match, in order. Overlapping ranges are merged.
    fn find_matches(&self, text: &str) -> Vec<Range<usize>> {
        let ranges = self.patterns.iter().flat_map(|pattern| pattern.find_iter(text));
        let mut ranges: Vec<_> = ranges.map(|matched| matched.range()).filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|later, earlier| {
            let overlap = later.start < earlier.end;
            if overlap {
                earlier.end = earlier.end.max(later.end);
            }
            overlap
        });
        ranges
    }
}

/// Adds edits for ranges of a decoded string. The text between its quotes begins at `start`.
fn push_edits(string: JsonString<'_>, start: usize, parts: &[Range<usize>], edits: &mut Vec<Edit>) {
    if parts.is_empty() {
        return;
    }
    // Offset in the event of each byte of the decoded string.
    let mut offsets = Vec::new();
    let mut offset = start;
    for raw_char in string.raw_chars() {
        offsets.extend(std::iter::repeat_n(offset, raw_char.decode().len()));
        offset += raw_char.raw().len();
    }
    offsets.push(offset);
    edits.extend(parts.iter().map(|part| (offsets[part.start]..offsets[part.end], REDACTED)));
}

/// Iterates over the strings in a JSON text.
fn json_strings(text: &str) -> impl Iterator<Item = JsonString<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = &rest[rest.find('"')?..];
        let (string, text) = Cursor::new(rest).with_source(Cursor::parse_string).ok()?;
        rest = &rest[text.len()..];
        Some(string)
    })
}

/// Returns true if an event contains the replacement text.
pub fn is_redacted(event: &Event<'_>) -> bool {
    event.text.contains(REDACTED)
}

/// Returns true if two events may have been the same before redaction: they have the same time, and their remaining
/// text is compatible. So an event is still recognized after the redaction rules have changed.
pub fn may_be_same(a: &Event<'_>, b: &Event<'_>) -> bool {
    a.time_nano == b.time_nano
        && a.kind == b.kind
        && a.actor_id == b.actor_id
        && may_be_equal(&a.action, &b.action)
        && a.attributes.len() == b.attributes.len()
        && a.attributes.iter().zip(&b.attributes).all(|(a, b)| a.0 == b.0 && may_be_equal(&a.1, &b.1))
}

/// Returns true if one original text fits both texts.
fn may_be_equal(a: &str, b: &str) -> bool {
    let redacted_span = |text: &str| Some((text.find(REDACTED)?, text.rfind(REDACTED)?));
    match (redacted_span(a), redacted_span(b)) {
        (None, None) => a == b,
        (Some(_), None) => may_redact_to(b, a),
        (None, Some(_)) => may_redact_to(a, b),
        // The text between the first and the last replacement may be what the other text lost.
        (Some((a_first, a_last)), Some((b_first, b_last))) => {
            let (a_head, b_head) = (&a[..a_first], &b[..b_first]);
            let (a_tail, b_tail) = (&a[a_last + REDACTED.len()..], &b[b_last + REDACTED.len()..]);
            (a_head.starts_with(b_head) || b_head.starts_with(a_head))
                && (a_tail.ends_with(b_tail) || b_tail.ends_with(a_tail))
        }
    }
}

/// Returns true if redaction may turn `text` into `redacted`.
fn may_redact_to(text: &str, redacted: &str) -> bool {
    let Some((head, rest)) = redacted.split_once(REDACTED) else { return text == redacted };
    let (middle, tail) = rest.rsplit_once(REDACTED).unwrap_or(("", rest));
    let Some(mut rest) = text.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail)) else { return false };
    middle.split(REDACTED).all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redaction(patterns: &[&str]) -> Redaction {
        Redaction::new(&patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn redacted(text: &str, patterns: &[&str]) -> String {
        let event = Event::parse(text.as_bytes()).unwrap();
        redaction(patterns).apply(&event).unwrap_or_else(|| text.into())
    }

    const EXEC: &str = r#"{"status":"exec_create: sh -c \u003cp\u0061ss\u003e\n","id":"c1","from":"reg/pass:1","Type":"container","Action":"exec_create: sh -c \u003cp\u0061ss\u003e\n","Actor":{"ID":"pass","Attributes":{"execID":"e1","image":"reg/pass:1","pass":"a\u0026pass\u0026b"}},"scope":"local","time":1,"timeNano":1000000000}"#;

    #[test]
    fn exec_redacts_only_the_command_of_exec_events() {
        let expected = EXEC.replace(r"sh -c \u003cp\u0061ss\u003e\n", REDACTED);
        assert_eq!(redacted(EXEC, &["exec"]), expected);
        for text in [
            r#"{"Type":"container","Action":"exec_die","Actor":{"ID":""},"time":1}"#,
            r#"{"Type":"container","Action":"exec_die:","Actor":{"ID":""},"time":1}"#,
            r#"{"Type":"container","Action":"health_status: healthy","Actor":{"ID":""},"time":1}"#,
            r#"{"Type":"container","Action":"exec","status":5,"Actor":{"ID":"","Attributes":null},"time":1}"#,
        ] {
            assert_eq!(redacted(text, &["exec"]), text);
        }
    }

    #[test]
    fn a_pattern_matches_decoded_text_whatever_its_escapes() {
        let expected = EXEC
            .replace(r"p\u0061ss", REDACTED)
            .replace("reg/pass:1", "reg/[redacted]:1")
            .replace(r"\u0026pass\u0026", r"\u0026[redacted]\u0026");
        assert_eq!(redacted(EXEC, &["pass"]), expected, "IDs and keys are not redacted");
        assert_eq!(redacted(EXEC, &["(?i)PA", "ass", "x*"]), expected, "overlapping matches are merged");
        assert_eq!(redacted(EXEC, &["nothing"]), EXEC);
        let anchored = EXEC.replace(r"exec_create: sh", "exec_create: [redacted]");
        assert_eq!(redacted(EXEC, &["^sh"]), anchored, "a command is matched as a separate text");
    }

    #[test]
    fn duplicate_keys_and_non_string_values_are_redacted() {
        let text = r#"{"Action":"exec_create: s3cret","Type":"container","Action":"exec_create: s3cret","Actor":{"ID":"","Attributes":{"a":"s3cret"},"Attributes":{"a":"s3cret","a":["s3\u0063ret"],"b":{"c":3},"d":77}},"time":1}"#;
        let actual = redacted(text, &["s3cret", "77"]);
        let expected = text.replace("s3cret", REDACTED).replace(r#"["s3\u0063ret"]"#, r#""[redacted]""#);
        assert_eq!(actual, expected.replace("77", r#""[redacted]""#));
        Event::parse(actual.as_bytes()).unwrap();
    }

    #[test]
    fn an_invalid_pattern_is_a_one_line_error() {
        for text in ["", "(", "[a-", r"\p{No}{", "a{99999}{99999}", "*"] {
            let error = Redaction::new(&[text.to_owned()]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{text}' is not a valid regular expression: ")), "{error}");
            assert!(!error.contains('\n') && error.len() > text.len() + 30, "{error}");
        }
    }

    #[test]
    fn redacted_texts_are_equal_if_one_original_fits_both() {
        for (a, b) in [
            ("x", "x"),
            ("run [redacted]", "run pass"),
            ("[redacted]", ""),
            ("a[redacted]c[redacted]e", "abcde"),
            ("a[redacted]c[redacted]e", "a[redacted]e"),
            ("run [redacted]", "[redacted] pass"),
            ("run -p [redacted]", "run [redacted]"),
        ] {
            assert!(may_be_equal(a, b) && may_be_equal(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("x", "y"),
            ("run [redacted]", "walk pass"),
            ("a[redacted]a", "a"),
            ("a[redacted]c[redacted]e", "acbde_"),
            ("a[redacted]d[redacted]c[redacted]e", "abcde"),
            ("run [redacted]", "walk [redacted]"),
            ("[redacted] a", "[redacted] b"),
        ] {
            assert!(!may_be_equal(a, b) && !may_be_equal(b, a), "{a} {b}");
        }
    }

    /// Encodes a text as a JSON string, with some unnecessary escapes.
    fn escaped_json(text: &str, escape: &[bool]) -> String {
        let mut json = String::from('"');
        for (at, c) in text.chars().enumerate() {
            if escape[at % escape.len()] {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| json += &format!("\\u{unit:04x}"));
            } else {
                let quoted = serde_json::to_string(&c).unwrap();
                json += &quoted[1..quoted.len() - 1];
            }
        }
        json + "\""
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        #[test]
        fn redaction_keeps_a_valid_event_and_all_other_bytes(
            command in "[a-c\u{0}-\u{9}\"\\\\<é🐳:]{0,12}",
            values in proptest::collection::vec("[a-c\u{0}-\u{9}\"\\\\&é🐳\u{2028}]{0,8}", 0..4),
            escape in proptest::collection::vec(any::<bool>(), 1..5),
            exec: bool,
            pattern in "[a-c]{1,2}|[a-c]\\+|🐳|\\\\x00[a-c]",
        ) {
            let kind = if exec { "exec_start" } else { "health_status" };
            let action = format!("{kind}: {command}");
            let attributes: Vec<String> =
                values.iter().enumerate().map(|(n, value)| format!("\"k{n}\": {}", escaped_json(value, &escape))).collect();
            let text = format!(
                r#"{{"status":{0},"Type":"container","Action" : {0},"Actor":{{"Attributes":{{{1}}},"ID":"abc"}},"time":1,"x":"abc"}}"#,
                escaped_json(&action, &escape), attributes.join(",")
            );
            let event = Event::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(&event.action, &action);
            let redacted = redaction(&["exec", &pattern]).apply(&event).unwrap_or_else(|| text.clone());
            let after = Event::parse(redacted.as_bytes()).unwrap();

            // The decoded fields are the original ones with the same matches replaced.
            let pattern = Regex::new(&pattern).unwrap();
            let redact = |text: &str| pattern.replace_all(text, REDACTED).into_owned();
            let command = if exec && !command.is_empty() { REDACTED.to_owned() } else { redact(&command) };
            prop_assert_eq!(&after.action, &format!("{kind}: {command}"));
            for (n, value) in values.iter().enumerate() {
                let value = redact(value);
                prop_assert_eq!(after.attribute(&format!("k{n}")), Some(value.as_str()));
            }
            prop_assert_eq!(after.raw_values.status, after.raw_values.action);
            prop_assert_eq!((&after.actor_id, after.time_nano), (&event.actor_id, event.time_nano));
            prop_assert!(may_be_same(&event, &after) && may_be_same(&after, &event));
            // The bytes that are not replaced stay as they were: they are a subsequence of the original bytes.
            let mut rest = text.as_str();
            for part in redacted.split(REDACTED) {
                let at = rest.find(part);
                prop_assert!(at.is_some(), "{} in {}", part, rest);
                rest = &rest[at.unwrap() + part.len()..];
            }
        }
    }
}
