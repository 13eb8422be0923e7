//! Takes secrets out of an event before it is stored: only the text that is to go is replaced, every other byte of the
//! event stays as the engine sent it.
//!
//! Looked at are commands (what follows the colon of `Action`, and of `status`, which repeats it), the values of
//! attributes, and `from`, which repeats one. Not IDs and not the keys of attributes: they say whom the event is of.

use std::ops::Range;

use regex::Regex;

use super::Event;
use super::json::{Cursor, Malformed, Quoted};

/// What stands in place of a text that was taken out.
pub const REDACTED: &str = "[redacted]";

/// The same as a JSON value.
const REDACTED_VALUE: &str = "\"[redacted]\"";

/// What is to be taken out of events.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    /// The commands of `exec_*` events.
    exec: bool,
    patterns: Vec<Regex>,
}

/// Words that do not say what to take out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no regular expression: {why}")]
pub struct RedactionError {
    text: String,
    why: String,
}

/// A part of an event's bytes, and what is to stand there.
type Cut = (Range<usize>, &'static str);

impl Redaction {
    /// What these words say: `exec`, or a regular expression each.
    ///
    /// # Errors
    /// The first that is no regular expression.
    pub fn new(words: &[String]) -> Result<Redaction, RedactionError> {
        let mut redaction = Redaction::default();
        for text in words {
            let error = |why: &str| RedactionError { text: text.clone(), why: why.into() };
            match text.as_str() {
                "exec" => redaction.exec = true,
                "" => return Err(error("it is empty")),
                _ => redaction.patterns.push(Regex::new(text).map_err(|e| {
                    // The message is a drawing of several lines; the last says it.
                    let drawn = e.to_string();
                    let last = drawn.lines().last().unwrap_or_default();
                    error(last.trim_start_matches("error: ").trim_end_matches('.'))
                })?),
            }
        }
        Ok(redaction)
    }

    /// Whether nothing is to be taken out.
    pub fn is_none(&self) -> bool {
        !self.exec && self.patterns.is_empty()
    }

    /// The event without what is to be taken out, an event again; `None` if nothing is.
    pub fn apply(&self, event: &Event<'_>) -> Option<String> {
        if self.is_none() {
            return None;
        }
        let mut cuts = Vec::new();
        self.cuts(event.text, &mut cuts).expect("an event is JSON");
        if cuts.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(event.text.len());
        let mut at = 0;
        for (range, instead) in cuts {
            text.push_str(&event.text[at..range.start]);
            text.push_str(instead);
            at = range.end;
        }
        text.push_str(&event.text[at..]);
        Some(text)
    }

    /// A command as it is left in the exec events that repeat it.
    pub fn command(&self, command: &str) -> String {
        let mut left = String::new();
        let mut at = 0;
        for part in self.in_exec(command) {
            left.push_str(&command[at..part.start]);
            left.push_str(REDACTED);
            at = part.end;
        }
        left + &command[at..]
    }

    /// What is to be taken out of the command of an exec event.
    fn in_exec(&self, command: &str) -> Vec<Range<usize>> {
        match self.exec && !command.is_empty() {
            true => std::iter::once(0..command.len()).collect(),
            false => self.found(command),
        }
    }

    /// Every member is looked at, also one that stands twice and does not count.
    fn cuts(&self, text: &str, cuts: &mut Vec<Cut>) -> Result<(), Malformed> {
        let base = text.as_ptr() as usize;
        Cursor::new(text).object(|cursor, key| match () {
            () if key.is("Action") || key.is("status") => self.in_command(cursor, base, cuts),
            () if key.is("from") => self.in_value(cursor, base, cuts),
            () if key.is("Actor") && cursor.next() == Some(b'{') => cursor.object(|cursor, key| {
                if key.is("Attributes") && cursor.next() == Some(b'{') {
                    return cursor.object(|cursor, _| self.in_value(cursor, base, cuts));
                }
                cursor.value().map(|_| ())
            }),
            () => cursor.value().map(|_| ()),
        })
    }

    fn in_command(&self, cursor: &mut Cursor<'_>, base: usize, cuts: &mut Vec<Cut>) -> Result<(), Malformed> {
        if cursor.next() != Some(b'"') {
            return cursor.value().map(|_| ());
        }
        let (string, text) = cursor.measured(Cursor::string)?;
        let action = string.decode();
        let Some((kind, command)) = action.split_once(':') else { return Ok(()) };
        let command = command.strip_prefix(' ').unwrap_or(command);
        let start = action.len() - command.len();
        let found = if kind.starts_with("exec_") { self.in_exec(command) } else { self.found(command) };
        let found: Vec<Range<usize>> = found.into_iter().map(|r| r.start + start..r.end + start).collect();
        cut(string, text.as_ptr() as usize - base + 1, &found, cuts);
        Ok(())
    }

    fn in_value(&self, cursor: &mut Cursor<'_>, base: usize, cuts: &mut Vec<Cut>) -> Result<(), Malformed> {
        if cursor.next() == Some(b'"') {
            let (string, text) = cursor.measured(Cursor::string)?;
            cut(string, text.as_ptr() as usize - base + 1, &self.found(&string.decode()), cuts);
            return Ok(());
        }
        // No engine sends such a value; if anything is found in it, all of it goes.
        let text = cursor.value()?;
        if self.matches(text) || strings(text).any(|string| self.matches(&string.decode())) {
            let start = text.as_ptr() as usize - base;
            cuts.push((start..start + text.len(), REDACTED_VALUE));
        }
        Ok(())
    }

    fn matches(&self, text: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_match(text))
    }

    /// What the expressions find in a text; in order, and where they overlap as one.
    fn found(&self, text: &str) -> Vec<Range<usize>> {
        let all = self.patterns.iter().flat_map(|pattern| pattern.find_iter(text));
        let mut all: Vec<_> = all.map(|found| found.range()).filter(|range| !range.is_empty()).collect();
        all.sort_by_key(|range| range.start);
        all.dedup_by(|later, kept| {
            let overlap = later.start < kept.end;
            if overlap {
                kept.end = kept.end.max(later.end);
            }
            overlap
        });
        all
    }
}

/// Marks parts of what a string says for replacement. Its inside begins at `start`.
fn cut(string: Quoted<'_>, start: usize, parts: &[Range<usize>], cuts: &mut Vec<Cut>) {
    if parts.is_empty() {
        return;
    }
    // Where in its text each byte of what it says is written.
    let mut places = Vec::new();
    let mut at = start;
    for written in string.written() {
        places.extend(std::iter::repeat_n(at, written.decode().len()));
        at += written.text().len();
    }
    places.push(at);
    cuts.extend(parts.iter().map(|part| (places[part.start]..places[part.end], REDACTED)));
}

/// The strings within a JSON text.
fn strings(text: &str) -> impl Iterator<Item = Quoted<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = &rest[rest.find('"')?..];
        let (string, text) = Cursor::new(rest).measured(Cursor::string).ok()?;
        rest = &rest[text.len()..];
        Some(string)
    })
}

/// Whether something was taken out of an event.
pub fn is_redacted(event: &Event<'_>) -> bool {
    event.text.contains(REDACTED)
}

/// Whether two events of one instant may have been the same one before something was taken out of either: whatever is
/// left of them is the same. So an event is known again when what is to be taken out has changed.
pub fn may_be_same(a: &Event<'_>, b: &Event<'_>) -> bool {
    a.time_nano == b.time_nano
        && a.kind == b.kind
        && a.actor_id == b.actor_id
        && alike(&a.action, &b.action)
        && a.attributes.len() == b.attributes.len()
        && a.attributes.iter().zip(&b.attributes).all(|(a, b)| a.0 == b.0 && alike(&a.1, &b.1))
}

/// Whether there is a text that both may have been.
fn alike(a: &str, b: &str) -> bool {
    let ends = |text: &str| Some((text.find(REDACTED)?, text.rfind(REDACTED)?));
    match (ends(a), ends(b)) {
        (None, None) => a == b,
        (Some(_), None) => fits(b, a),
        (None, Some(_)) => fits(a, b),
        // What lies between may have been what the other has lost.
        (Some((a_first, a_last)), Some((b_first, b_last))) => {
            let (a_head, b_head) = (&a[..a_first], &b[..b_first]);
            let (a_tail, b_tail) = (&a[a_last + REDACTED.len()..], &b[b_last + REDACTED.len()..]);
            (a_head.starts_with(b_head) || b_head.starts_with(a_head))
                && (a_tail.ends_with(b_tail) || b_tail.ends_with(a_tail))
        }
    }
}

/// Whether a text may have been what another became when something was taken out.
fn fits(text: &str, redacted: &str) -> bool {
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

    fn redaction(words: &[&str]) -> Redaction {
        Redaction::new(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn redacted(text: &str, words: &[&str]) -> String {
        let event = Event::parse(text.as_bytes()).unwrap();
        redaction(words).apply(&event).unwrap_or_else(|| text.into())
    }

    const EXEC: &str = r#"{"status":"exec_create: sh -c \u003cp\u0061ss\u003e\n","id":"c1","from":"reg/pass:1","Type":"container","Action":"exec_create: sh -c \u003cp\u0061ss\u003e\n","Actor":{"ID":"pass","Attributes":{"execID":"e1","image":"reg/pass:1","pass":"a\u0026pass\u0026b"}},"scope":"local","time":1,"timeNano":1000000000}"#;

    #[test]
    fn the_command_of_an_exec_goes_and_nothing_else() {
        let gone = EXEC.replace(r"sh -c \u003cp\u0061ss\u003e\n", REDACTED);
        assert_eq!(redacted(EXEC, &["exec"]), gone);
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
    fn an_expression_finds_what_is_said_however_it_is_written() {
        let gone = EXEC
            .replace(r"p\u0061ss", REDACTED)
            .replace("reg/pass:1", "reg/[redacted]:1")
            .replace(r"\u0026pass\u0026", r"\u0026[redacted]\u0026");
        assert_eq!(redacted(EXEC, &["pass"]), gone, "neither the ID nor a key");
        assert_eq!(redacted(EXEC, &["(?i)PA", "ass", "x*"]), gone, "what overlaps goes as one");
        assert_eq!(redacted(EXEC, &["nothing"]), EXEC);
        let anchored = EXEC.replace(r"exec_create: sh", "exec_create: [redacted]");
        assert_eq!(redacted(EXEC, &["^sh"]), anchored, "a command is a text of its own");
    }

    #[test]
    fn nothing_hides_behind_a_key_that_stands_twice_or_a_value_that_is_no_string() {
        let text = r#"{"Action":"exec_create: s3cret","Type":"container","Action":"exec_create: s3cret","Actor":{"ID":"","Attributes":{"a":"s3cret"},"Attributes":{"a":"s3cret","a":["s3\u0063ret"],"b":{"c":3},"d":77}},"time":1}"#;
        let gone = redacted(text, &["s3cret", "77"]);
        let expected = text.replace("s3cret", REDACTED).replace(r#"["s3\u0063ret"]"#, r#""[redacted]""#);
        assert_eq!(gone, expected.replace("77", r#""[redacted]""#));
        Event::parse(gone.as_bytes()).unwrap();
    }

    #[test]
    fn what_is_no_expression_says_so_in_one_line() {
        for text in ["", "(", "[a-", r"\p{No}{", "a{99999}{99999}", "*"] {
            let error = Redaction::new(&[text.to_owned()]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{text}' is no regular expression: ")), "{error}");
            assert!(!error.contains('\n') && error.len() > text.len() + 30, "{error}");
        }
    }

    #[test]
    fn what_may_have_been_one_text() {
        for (a, b) in [
            ("x", "x"),
            ("run [redacted]", "run pass"),
            ("[redacted]", ""),
            ("a[redacted]c[redacted]e", "abcde"),
            ("a[redacted]c[redacted]e", "a[redacted]e"),
            ("run [redacted]", "[redacted] pass"),
            ("run -p [redacted]", "run [redacted]"),
        ] {
            assert!(alike(a, b) && alike(b, a), "{a} {b}");
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
            assert!(!alike(a, b) && !alike(b, a), "{a} {b}");
        }
    }

    /// A text as a JSON string, some of its characters as escapes that need none.
    fn written(text: &str, escape: &[bool]) -> String {
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
        fn what_is_redacted_is_an_event_and_all_else_is_as_it_was(
            command in "[a-c\u{0}-\u{9}\"\\\\<é🐳:]{0,12}",
            values in proptest::collection::vec("[a-c\u{0}-\u{9}\"\\\\&é🐳\u{2028}]{0,8}", 0..4),
            escape in proptest::collection::vec(any::<bool>(), 1..5),
            exec: bool,
            pattern in "[a-c]{1,2}|[a-c]\\+|🐳|\\\\x00[a-c]",
        ) {
            let kind = if exec { "exec_start" } else { "health_status" };
            let action = format!("{kind}: {command}");
            let attributes: Vec<String> =
                values.iter().enumerate().map(|(n, value)| format!("\"k{n}\": {}", written(value, &escape))).collect();
            let text = format!(
                r#"{{"status":{0},"Type":"container","Action" : {0},"Actor":{{"Attributes":{{{1}}},"ID":"abc"}},"time":1,"x":"abc"}}"#,
                written(&action, &escape), attributes.join(",")
            );
            let event = Event::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(&event.action, &action);
            let gone = redaction(&["exec", &pattern]).apply(&event).unwrap_or_else(|| text.clone());
            let after = Event::parse(gone.as_bytes()).unwrap();

            // What it says now is what it said, with the same parts replaced.
            let pattern = Regex::new(&pattern).unwrap();
            let said = |text: &str| pattern.replace_all(text, REDACTED).into_owned();
            let command = if exec && !command.is_empty() { REDACTED.to_owned() } else { said(&command) };
            prop_assert_eq!(&after.action, &format!("{kind}: {command}"));
            for (n, value) in values.iter().enumerate() {
                let value = said(value);
                prop_assert_eq!(after.attribute(&format!("k{n}")), Some(value.as_str()));
            }
            prop_assert_eq!(after.texts.status, after.texts.action);
            prop_assert_eq!((&after.actor_id, after.time_nano), (&event.actor_id, event.time_nano));
            prop_assert!(may_be_same(&event, &after) && may_be_same(&after, &event));
            // What was not replaced is written as it was: the rest of the bytes is a subsequence of those before.
            let mut rest = text.as_str();
            for part in gone.split(REDACTED) {
                let at = rest.find(part);
                prop_assert!(at.is_some(), "{} in {}", part, rest);
                rest = &rest[at.unwrap() + part.len()..];
            }
        }
    }
}
