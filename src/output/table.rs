//! Prints a table for people. The first rows determine the widths of the columns, and on a terminal each line fits.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use chrono::{DateTime, TimeZone};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Record, Terminal, text};
use crate::event::Event;

/// Number of rows that determine the widths of the columns.
const SAMPLE_ROWS: usize = 200;

/// Number of spaces between two columns.
const COLUMN_GAP: usize = 2;

/// Width of the attributes on a terminal for which other columns shrink.
const MIN_ATTRIBUTES_WIDTH: usize = 20;

/// A table, with its buffered rows until the widths are known.
#[derive(Debug)]
pub(super) struct Table {
    /// Width of the terminal, if there is one.
    terminal_width: Option<usize>,
    colored: bool,
    envelope: bool,
    buffered_rows: Vec<Row>,
    columns: Option<Vec<Column>>,
}

/// The cells of a line and its style.
#[derive(Debug)]
struct Row {
    cells: Vec<String>,
    style: Style,
}

/// A visible column.
#[derive(Clone, Copy, Debug)]
struct Column {
    /// Index of its cell in a row.
    cell_index: usize,
    width: usize,
    /// True for the column that always has the color of its row.
    is_action: bool,
}

/// Columns: name, minimum width, and maximum width to reserve.
const ENVELOPE_COLUMNS: [(&str, usize, usize); 2] = [("SEQ", 3, 20), ("SOURCE", 6, 16)];
const EVENT_COLUMNS: [(&str, usize, usize); 6] =
    [("TIME", 4, 35), ("TYPE", 9, 9), ("ACTION", 8, 24), ("ID", 12, 71), ("NAME", 8, 32), ("ATTRIBUTES", 10, 0)];

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const DIM: Style = Style::new().dimmed();
const HEADER: Style = Style::new().bold();

impl Table {
    pub(super) fn new(terminal: Option<Terminal>, envelope: bool) -> Table {
        let colored = terminal.is_some_and(|terminal| terminal.colored);
        let terminal_width = terminal.map(|terminal| terminal.width);
        Table { terminal_width, colored, envelope, buffered_rows: Vec::new(), columns: None }
    }

    /// Prints an event, or buffers it until the widths are known.
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
            Some(columns) => write_row(columns, &row, self.terminal_width.is_some(), out),
            None => {
                self.buffered_rows.push(row);
                if self.buffered_rows.len() < SAMPLE_ROWS { Ok(()) } else { self.flush(out) }
            }
        }
    }

    /// Computes the widths and prints the buffered rows.
    pub(super) fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.columns.is_some() {
            return Ok(());
        }
        let columns = self.compute_columns();
        let names = self.column_specs().map(|(name, ..)| name.to_owned()).collect();
        let header = Row { cells: names, style: if self.colored { HEADER } else { Style::new() } };
        for row in std::iter::once(header).chain(std::mem::take(&mut self.buffered_rows)) {
            write_row(&columns, &row, self.terminal_width.is_some(), out)?;
        }
        self.columns = Some(columns);
        Ok(())
    }

    fn column_specs(&self) -> impl Iterator<Item = (&'static str, usize, usize)> + use<> {
        let envelope = if self.envelope { &ENVELOPE_COLUMNS[..] } else { &[] };
        envelope.iter().chain(&EVENT_COLUMNS).copied()
    }

    /// Computes the widths that the rows need. On a narrow terminal, actions and names shrink until the attributes have
    /// their minimum width. If that is not enough, the rightmost columns shrink or disappear.
    fn compute_columns(&self) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for (cell_index, (name, min_width, max_width)) in self.column_specs().enumerate() {
            // On a terminal a digest is shortened to the minimum width, and a name in its place is truncated.
            let max_width = if name == "ID" && self.terminal_width.is_some() { min_width } else { max_width };
            let needed = self.buffered_rows.iter().map(|row| display_width(&row.cells[cell_index])).max().unwrap_or(0);
            let width = needed.clamp(min_width, max_width.max(min_width));
            columns.push(Column { cell_index, width, is_action: name == "ACTION" });
        }
        let Some(terminal_width) = self.terminal_width else { return columns };
        let attributes = columns.len() - 1;
        let total_width =
            |columns: &[Column]| columns.iter().map(|column| column.width + COLUMN_GAP).sum::<usize>() - COLUMN_GAP;
        columns[attributes].width = MIN_ATTRIBUTES_WIDTH;
        let (name, action) = (attributes - 1, attributes - 3);
        for (index, min_width) in [(action, 16), (name, 16), (action, 11), (name, 12)] {
            let excess = total_width(&columns).saturating_sub(terminal_width);
            let column = &mut columns[index];
            column.width = column.width.saturating_sub(excess).max(column.width.min(min_width));
        }
        columns[attributes].width = 0;
        let remaining = terminal_width.saturating_sub(total_width(&columns));
        columns[attributes].width = remaining;
        let mut available = terminal_width;
        columns.retain_mut(|column| {
            column.width = column.width.min(available);
            available = available.saturating_sub(column.width + COLUMN_GAP);
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
            row.push(escape_control_chars(record.source).into_owned());
        }
        let time = DateTime::from_timestamp_nanos(event.time_nano).with_timezone(zone);
        row.push(match self.terminal_width {
            Some(..100) => time.format("%m-%dT%H:%M:%S").to_string(),
            Some(..140) => time.format("%Y-%m-%dT%H:%M:%S").to_string(),
            Some(_) => time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string(),
            None => text::format_time(event.time_nano, zone).to_string(),
        });
        row.push(escape_control_chars(&event.kind).into_owned());
        // A narrow terminal has no room for `health_status: ` before what matters.
        let status =
            self.terminal_width.filter(|width| *width < 120).and_then(|_| event.action.strip_prefix("health_status: "));
        row.push(escape_control_chars(status.unwrap_or(&event.action)).into_owned());
        let shorten: fn(&str) -> &str = if self.terminal_width.is_some() { short_id } else { |id| id };
        row.push(escape_control_chars(shorten(&event.actor_id)).into_owned());
        row.push(escape_control_chars(event.attribute("name").unwrap_or_default()).into_owned());
        row.push(format_attributes(event, shorten));
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

/// Returns the first twelve digits of an ID, as the docker client prints it. A name is unchanged.
fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    let is_digest = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if is_digest { &digits[..12] } else { id }
}

/// Formats the attributes, the most important first. The name is left out, because it has its own column.
fn format_attributes(event: &Event<'_>, shorten: fn(&str) -> &str) -> String {
    const LEADING_KEYS: [&str; 5] = ["exitCode", "signal", "execDuration", "image", "container"];
    let leading = LEADING_KEYS.iter().filter_map(|key| Some((*key, event.attribute(key)?)));
    let others = event.attributes.iter().map(|(key, value)| (&**key, &**value));
    let others = others.filter(|(key, _)| *key != "name" && !LEADING_KEYS.contains(key));
    let mut text = String::new();
    for (key, value) in leading.chain(others) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&escape_control_chars(key));
        text.push('=');
        text.push_str(&escape_control_chars(shorten(value)));
    }
    text
}

/// Escapes characters that would affect a terminal: control characters and direction marks.
fn escape_control_chars(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| {
        c.is_control() || matches!(c, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

fn display_width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// Truncates a text to a width and marks the cut with `…`. An attribute that just fits is not cut.
fn truncate(text: &str, max_width: usize) -> Cow<'_, str> {
    if display_width(text) <= max_width {
        return Cow::Borrowed(text);
    }
    let mut total = 0;
    let fits = |(_, c): &(usize, char)| {
        total += c.width().unwrap_or(0);
        total < max_width
    };
    let end = text.char_indices().take_while(fits).last().map_or(0, |(index, c)| index + c.len_utf8());
    let whole = text[end..].find(", ").map_or("", |comma| &text[..end + comma]);
    if display_width(whole) == max_width { Cow::Borrowed(whole) } else { Cow::Owned(format!("{}…", &text[..end])) }
}

fn write_row(columns: &[Column], row: &Row, should_truncate: bool, out: &mut impl Write) -> io::Result<()> {
    let mut line = String::new();
    let mut padding = 0;
    for column in columns {
        let cell = &row.cells[column.cell_index];
        line.extend(std::iter::repeat_n(' ', padding));
        let cell = if should_truncate { truncate(cell, column.width) } else { Cow::Borrowed(&**cell) };
        let is_colored = column.is_action || row.style == DIM || row.style == HEADER;
        let style = if is_colored && !cell.is_empty() { row.style } else { Style::new() };
        let _ = write!(line, "{style}{cell}{style:#}");
        padding = column.width.saturating_sub(display_width(&cell)) + COLUMN_GAP;
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
    fn nothing_is_truncated_without_a_terminal() {
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
    fn lines_fit_the_terminal() {
        let events = [
            event("die", ID, r#""exitCode":"137","image":"busybox","name":"web""#),
            event(
                "exec_create: /bin/sh -c 日本語日本語",
                "vol-data-with-a-long-name",
                r#""name":"ein-langer-nåme-🐳🐳🐳""#,
            ),
            event("start", ID, ""),
        ];
        for terminal_width in 1..300 {
            for envelope in [false, true] {
                for line in table(Some(terminal_width), envelope, &events) {
                    assert!(line.width() <= terminal_width, "{terminal_width}: {line}");
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
        assert_eq!(colors[8], ["[2", "[0"].repeat(5), "all columns of an exec event are dim: {colored:?}");
        assert!(colored[6].contains("  \x1b[31munhealthy\x1b[0m  "), "{}", colored[6]);
        let stripped: Vec<String> = colored.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(stripped, table(Some(80), false, &events), "colors do not change the layout");
        assert!(stripped[1].ends_with("  web       image=shop/web:1.5"), "{}", stripped[1]);
    }

    #[test]
    fn an_attribute_that_just_fits_is_not_cut() {
        assert_eq!(truncate("image=web:1.5, l=1", 13), "image=web:1.5");
        assert_eq!(truncate("image=web:1.5, l=1", 14), "image=web:1.5…");
        assert_eq!(truncate("image=web:1.5, l=1", 12), "image=web:1…");
        assert_eq!(truncate("image=web:1.5, l=1", 18), "image=web:1.5, l=1");
    }

    #[test]
    fn control_characters_are_escaped() {
        let odd = event("a\\u001b[31m", ID, r#""name":"w\n\u0007\u009b1m\u202etxt","k\u0000":"\r""#);
        let lines = table(Some(200), false, &[odd]);
        assert!(lines[1].contains(r"a\u{1b}[31m"), "{}", lines[1]);
        assert!(lines[1].ends_with(r"w\n\u{7}\u{9b}1m\u{202e}txt  k\u{0}=\r"), "{}", lines[1]);
    }

    #[test]
    fn names_are_not_shortened() {
        assert_eq!(short_id(ID), "cbde801334c3");
        assert_eq!(short_id(&format!("sha256:{ID}")), "cbde801334c3");
        assert_eq!(short_id("vol-data"), "vol-data");
    }
}
