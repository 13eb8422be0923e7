//! A table for people: columns as wide as the first rows need, and on a terminal no line longer than it.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, TimeZone};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Record, Terminal, text};
use crate::event::Event;

/// How many rows are looked at before the widths of the columns are settled.
const LOOKED_AT: usize = 200;

/// What stands between two columns.
const BETWEEN: usize = 2;

/// The least width that the attributes are shown in, in columns of the terminal.
const WORTHWHILE: usize = 20;

/// The table, and what is kept of it: the rows that were not printed yet, and the widths.
#[derive(Debug)]
pub(super) struct Table {
    /// The terminal's columns, where there is one.
    terminal: Option<usize>,
    colored: bool,
    envelope: bool,
    waiting: Vec<Row>,
    columns: Option<Vec<Column>>,
}

/// The cells of a line, and its color.
#[derive(Debug)]
struct Row {
    cells: Vec<String>,
    style: Style,
}

/// A column that is shown.
#[derive(Clone, Copy, Debug)]
struct Column {
    /// Its place among the cells of a row.
    cell: usize,
    width: usize,
    /// Whether its cells have the color of their row, whatever that is.
    is_action: bool,
}

/// The columns: name, least width, and the most that is reserved where rows need more.
const ENVELOPE: [(&str, usize, usize); 2] = [("SEQ", 3, 20), ("SOURCE", 6, 16)];
const COLUMNS: [(&str, usize, usize); 6] =
    [("TIME", 4, 35), ("TYPE", 9, 9), ("ACTION", 8, 24), ("ID", 12, 71), ("NAME", 8, 32), ("ATTRIBUTES", 10, 0)];

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const DIM: Style = Style::new().dimmed();
const HEADER: Style = Style::new().bold();

impl Table {
    pub(super) fn new(terminal: Option<Terminal>, envelope: bool) -> Table {
        let colored = terminal.is_some_and(|terminal| terminal.colored);
        let terminal = terminal.map(|terminal| terminal.width);
        Table { terminal, colored, envelope, waiting: Vec::new(), columns: None }
    }

    /// Prints an event, once the widths are settled.
    pub(super) fn print<Z: TimeZone>(
        &mut self,
        record: &Record<'_>,
        event: &Event<'_>,
        zone: &Z,
        out: &mut impl Write,
    ) -> io::Result<()>
    where
        Z::Offset: Display,
    {
        let row = self.row(record, event, zone);
        match &self.columns {
            Some(columns) => line(columns, &row, self.terminal.is_some(), out),
            None => {
                self.waiting.push(row);
                if self.waiting.len() < LOOKED_AT { Ok(()) } else { self.flush(out) }
            }
        }
    }

    /// Settles the widths, and prints what waited for it.
    pub(super) fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.columns.is_some() {
            return Ok(());
        }
        let columns = self.settle();
        let names = self.names().map(|(name, ..)| name.to_owned()).collect();
        let header = Row { cells: names, style: if self.colored { HEADER } else { Style::new() } };
        for row in std::iter::once(header).chain(std::mem::take(&mut self.waiting)) {
            line(&columns, &row, self.terminal.is_some(), out)?;
        }
        self.columns = Some(columns);
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = (&'static str, usize, usize)> + use<> {
        let envelope = if self.envelope { &ENVELOPE[..] } else { &[] };
        envelope.iter().chain(&COLUMNS).copied()
    }

    /// The widths that the rows need. What a terminal has no room for is taken from actions and names, as long as the
    /// attributes have little; where it is too narrow even so, from the right.
    fn settle(&self) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for (cell, (name, least, most)) in self.names().enumerate() {
            // On a terminal a digest is short, and a name in its place is shown as its beginning.
            let most = if name == "ID" && self.terminal.is_some() { least } else { most };
            let needed = self.waiting.iter().map(|row| width(&row.cells[cell])).max().unwrap_or(0);
            let width = needed.clamp(least, most.max(least));
            columns.push(Column { cell, width, is_action: name == "ACTION" });
        }
        let Some(terminal) = self.terminal else { return columns };
        let attributes = columns.len() - 1;
        let used = |columns: &[Column]| columns.iter().map(|column| column.width + BETWEEN).sum::<usize>() - BETWEEN;
        columns[attributes].width = WORTHWHILE;
        let (name, action) = (attributes - 1, attributes - 3);
        for (cell, least) in [(action, 16), (name, 16), (action, 11), (name, 12)] {
            let too_much = used(&columns).saturating_sub(terminal);
            let column = &mut columns[cell];
            column.width = column.width.saturating_sub(too_much).max(column.width.min(least));
        }
        columns[attributes].width = 0;
        let left = terminal.saturating_sub(used(&columns));
        columns[attributes].width = left;
        let mut room = terminal;
        columns.retain_mut(|column| {
            column.width = column.width.min(room);
            room = room.saturating_sub(column.width + BETWEEN);
            column.width > 0
        });
        columns
    }

    fn row<Z: TimeZone>(&self, record: &Record<'_>, event: &Event<'_>, zone: &Z) -> Row
    where
        Z::Offset: Display,
    {
        let mut row = Vec::with_capacity(8);
        if self.envelope {
            row.push(record.seq.to_string());
            row.push(visible(record.source).into_owned());
        }
        let time = DateTime::from_timestamp_nanos(event.time_nano).with_timezone(zone);
        row.push(match self.terminal {
            Some(..100) => time.format("%m-%dT%H:%M:%S").to_string(),
            Some(..140) => time.format("%Y-%m-%dT%H:%M:%S").to_string(),
            Some(_) => time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string(),
            None => text::time(event.time_nano, zone).to_string(),
        });
        row.push(visible(&event.kind).into_owned());
        // A narrow terminal has no room for `health_status: ` before what matters.
        let status =
            self.terminal.filter(|width| *width < 120).and_then(|_| event.action.strip_prefix("health_status: "));
        row.push(visible(status.unwrap_or(&event.action)).into_owned());
        let shown: fn(&str) -> &str = if self.terminal.is_some() { short } else { |id| id };
        row.push(visible(shown(&event.actor_id)).into_owned());
        row.push(visible(event.attribute("name").unwrap_or_default()).into_owned());
        row.push(attributes(event, shown));
        Row { cells: row, style: if self.colored { style(event) } else { Style::new() } }
    }
}

/// The color of an event: red if something failed, green if it works, dim if it only accompanies another event.
fn style(event: &Event<'_>) -> Style {
    match (&*event.kind, &*event.action) {
        ("container", "start" | "health_status: healthy") => GOOD,
        ("container", "oom" | "health_status: unhealthy") => BAD,
        // 143 is SIGTERM, which `docker stop` sends.
        ("container", "die") if !matches!(event.attribute("exitCode"), None | Some("0" | "143")) => BAD,
        ("container", action) if action.starts_with("exec_") => DIM,
        ("network" | "volume", _) => DIM,
        _ => Style::new(),
    }
}

/// The first twelve digits of an ID, as the docker client shows it; a name is no ID.
fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    let is_digest = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if is_digest { &digits[..12] } else { id }
}

/// What happened comes first; the name has a column of its own.
fn attributes(event: &Event<'_>, shown: fn(&str) -> &str) -> String {
    const FIRST: [&str; 5] = ["exitCode", "signal", "execDuration", "image", "container"];
    let first = FIRST.iter().filter_map(|key| Some((*key, event.attribute(key)?)));
    let others = event.attributes.iter().map(|(key, value)| (&**key, &**value));
    let others = others.filter(|(key, _)| *key != "name" && !FIRST.contains(key));
    let mut text = String::new();
    for (key, value) in first.chain(others) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&visible(key));
        text.push('=');
        text.push_str(&visible(shown(value)));
    }
    text
}

/// With escapes in the place of what would do something to a terminal: control characters, marks of direction.
fn visible(text: &str) -> Cow<'_, str> {
    let acts = |c: char| {
        c.is_control() || matches!(c, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if acts(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// A text cut to a width, with `…` where something is missing. An attribute that just fits stays whole.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if width(text) <= most {
        return Cow::Borrowed(text);
    }
    let mut taken = 0;
    let fits = |(_, c): &(usize, char)| {
        taken += c.width().unwrap_or(0);
        taken < most
    };
    let end = text.char_indices().take_while(fits).last().map_or(0, |(at, c)| at + c.len_utf8());
    let whole = text[end..].find(", ").map_or("", |comma| &text[..end + comma]);
    if width(whole) == most { Cow::Borrowed(whole) } else { Cow::Owned(format!("{}…", &text[..end])) }
}

fn line(columns: &[Column], row: &Row, cuts: bool, out: &mut impl Write) -> io::Result<()> {
    let mut line = String::new();
    let mut missing = 0;
    for column in columns {
        let cell = &row.cells[column.cell];
        line.extend(std::iter::repeat_n(' ', missing));
        let cell = if cuts { cut(cell, column.width) } else { Cow::Borrowed(&**cell) };
        let is_colored = column.is_action || row.style == DIM || row.style == HEADER;
        let style = if is_colored && !cell.is_empty() { row.style } else { Style::new() };
        let _ = write!(line, "{style}{cell}{style:#}");
        missing = column.width.saturating_sub(width(&cell)) + BETWEEN;
    }
    out.write_all(line.trim_end_matches(' ').as_bytes())?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "cbde801334c306359d3046e48676fb10f7eea4c00a4a4286ba3f6613789877ab";

    fn event(action: &str, id: &str, attributes: &str) -> String {
        format!(
            r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{attributes}}}}},"timeNano":1795535605311574272}}"#
        )
    }

    fn table(width: Option<usize>, envelope: bool, events: &[String]) -> Vec<String> {
        table_on(width.map(|width| Terminal { width, colored: false }), envelope, events)
    }

    fn table_on(terminal: Option<Terminal>, envelope: bool, events: &[String]) -> Vec<String> {
        let (mut out, mut table) = (Vec::new(), Table::new(terminal, envelope));
        for (seq, json) in (1..).zip(events) {
            let record = Record { raw: json.as_bytes(), seq, source: "vm", received_nano: 0 };
            table.print(&record, &Event::parse(json.as_bytes()).unwrap(), &chrono::Utc, &mut out).unwrap();
        }
        table.flush(&mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn nothing_is_cut_where_there_is_no_terminal() {
        let long = "x".repeat(300);
        let lines = table(None, true, &[event("die", ID, &format!(r#""exitCode":"1","l":"{long}","name":"web""#))]);
        assert_eq!(
            lines,
            [
                format!("SEQ  SOURCE  TIME{:26}  TYPE       ACTION    ID{:62}  NAME      ATTRIBUTES", "", ""),
                format!(
                    "1    vm      2026-11-24T15:53:25.311574272Z  container  die       {ID}  web       exitCode=1, l={long}"
                ),
            ]
        );
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        let events = [
            event("die", ID, r#""exitCode":"137","image":"busybox","name":"web""#),
            event(
                "exec_create: /bin/sh -c 日本語日本語",
                "vol-data-with-a-long-name",
                r#""name":"ein-langer-nåme-🐳🐳🐳""#,
            ),
            event("start", ID, ""),
        ];
        for terminal in 1..300 {
            for envelope in [false, true] {
                for line in table(Some(terminal), envelope, &events) {
                    assert!(line.width() <= terminal, "{terminal}: {line}");
                }
            }
        }
        assert_eq!(
            table(Some(100), false, &events),
            [
                "TIME                 TYPE       ACTION          ID            NAME              ATTRIBUTES",
                "2026-11-24T15:53:25  container  die             cbde801334c3  web               exitCode=137, image…",
                "2026-11-24T15:53:25  container  exec_create: …  vol-data-wi…  ein-langer-nåme…",
                "2026-11-24T15:53:25  container  start           cbde801334c3",
            ]
        );
        assert_eq!(
            table(Some(150), true, &events)[1..3],
            [
                "1    vm      2026-11-24T15:53:25.311  container  die                       cbde801334c3  web                     exitCode=137, image=busybox",
                "2    vm      2026-11-24T15:53:25.311  container  exec_create: /bin/sh -c…  vol-data-wi…  ein-langer-nåme-🐳🐳🐳",
            ]
        );
    }

    #[test]
    fn a_failure_is_red_and_a_start_is_green() {
        let events = [
            event("start", ID, r#""image":"shop/web:1.5","name":"web""#),
            event("die", ID, r#""exitCode":"137","name":"web""#),
            event("die", ID, r#""exitCode":"0","name":"web""#),
            event("die", ID, r#""exitCode":"143","name":"web""#),
            event("oom", ID, ""),
            event("health_status: unhealthy", ID, r#""name":"web""#),
            event("health_status: healthy", ID, r#""name":"web""#),
            event("exec_die", ID, r#""exitCode":"1""#),
        ];
        let colored = table_on(Some(Terminal { width: 80, colored: true }), false, &events);
        let colors: Vec<Vec<&str>> = colored
            .iter()
            .map(|line| {
                line.split('\x1b').skip(1).filter_map(|rest| rest.split_once('m')).map(|(code, _)| code).collect()
            })
            .collect();
        let (good, bad, plain) = (["[32", "[0"], ["[31", "[0"], []);
        assert_eq!(colors[1..8], [&good[..], &bad, &plain, &plain, &bad, &bad, &good]);
        assert_eq!(colors[8], ["[2", "[0"].repeat(5), "an exec event is dim as a whole: {colored:?}");
        assert!(colored[6].contains("  \x1b[31munhealthy\x1b[0m  "), "{}", colored[6]);
        let stripped: Vec<String> = colored.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(stripped, table(Some(80), false, &events), "colors take no room");
        assert!(stripped[1].ends_with("  web       image=shop/web:1.5"), "{}", stripped[1]);
    }

    #[test]
    fn an_attribute_that_just_fits_is_not_cut() {
        assert_eq!(cut("image=web:1.5, l=1", 13), "image=web:1.5");
        assert_eq!(cut("image=web:1.5, l=1", 14), "image=web:1.5…");
        assert_eq!(cut("image=web:1.5, l=1", 12), "image=web:1…");
        assert_eq!(cut("image=web:1.5, l=1", 18), "image=web:1.5, l=1");
    }

    #[test]
    fn nothing_reaches_a_terminal_that_acts_on_it() {
        let odd = event("a\\u001b[31m", ID, r#""name":"w\n\u0007\u009b1m\u202etxt","k\u0000":"\r""#);
        let lines = table(Some(200), false, &[odd]);
        assert!(lines[1].contains(r"a\u{1b}[31m"), "{}", lines[1]);
        assert!(lines[1].ends_with(r"w\n\u{7}\u{9b}1m\u{202e}txt  k\u{0}=\r"), "{}", lines[1]);
    }

    #[test]
    fn a_name_is_no_id() {
        assert_eq!(short(ID), "cbde801334c3");
        assert_eq!(short(&format!("sha256:{ID}")), "cbde801334c3");
        assert_eq!(short("vol-data"), "vol-data");
    }
}
