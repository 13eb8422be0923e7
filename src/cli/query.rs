//! `events query`: prints the selected events of a store; with `--follow` continues with new events.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};

use super::selection_args::{SelectionArgs, find_source, warn_unknown_healthchecks};
use super::{Failure, Shared};
use crate::clock::now_nano;
use crate::output::{self, FORMAT_NAMES, Format, PrintError, Record, Template, Terminal};
use crate::query::time::rfc3339;
use crate::query::{Limit, SelectedEvents, Selection};
use crate::store::{GapReason, GapRow, Order, Reader, Snapshot, StoredEvent};

/// Interval at which `--follow` checks for commits. An event must be printed within 100 ms of its arrival, and a check
/// takes a few microseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The options of `query`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    history: SelectionArgs,
    /// Print only the first N events
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "last", help_heading = "Output options")]
    limit: Option<u64>,
    /// Print only the newest N events, oldest first
    #[arg(long, value_name = "N", help_heading = "Output options")]
    last: Option<u64>,
    /// Print the newest events first
    #[arg(long, help_heading = "Output options", conflicts_with = "follow")]
    reverse: bool,
    /// Print only the number of events
    #[arg(long, help_heading = "Output options", conflicts_with = "follow")]
    count: bool,
    /// Keep printing new events, in order of arrival
    #[arg(long, help_heading = "Output options")]
    follow: bool,
    /// Output format: json, text, table, csv or a Go template
    ///
    /// json: each event as the engine sent it. text: as `docker events` prints it. table: columns that fit the
    /// terminal. csv: for spreadsheets. A Go template: as `docker events --format` prints it, such as
    /// '{{.Type}} {{.Actor.ID}}'.
    #[arg(long, value_name = "FORMAT", default_value = "json", value_parser = FormatParser, help_heading = "Output options")]
    #[arg(allow_hyphen_values = true, hide_possible_values = true)]
    format: String,
    /// Add the sequence number, source and arrival time of each event
    ///
    /// json: {"seq":…,"source":…,"received":…,"event":…}. csv: as columns. table: only sequence number and source.
    /// Not available for text and templates.
    #[arg(long, help_heading = "Output options")]
    envelope: bool,
    /// Print the search plan instead of the events
    #[arg(long, help_heading = "Output options", conflicts_with = "follow")]
    explain: bool,
}

/// Accepts any text, because it may be a template. Lists the named formats for shell completions.
#[derive(Clone)]
struct FormatParser;

impl TypedValueParser for FormatParser {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(FORMAT_NAMES.into_iter().map(PossibleValue::new)))
    }
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let (selection, format) = (args.selection()?, args.format()?);
    let reader = Reader::open(&shared.db_path()?)?;
    let source = args.history.source.as_deref().map(|name| find_source(&reader, name)).transpose()?;
    let gaps = reader.gaps()?;
    if let Some(line) = gap_warning(&gaps, &selection, source.as_ref().map(|s| s.1.as_str())) {
        tracing::warn!("{line}");
    }
    if let Some(line) = pruned_warning(&reader, &selection, source.as_ref().map(|s| s.0))? {
        tracing::warn!("{line}");
    }
    let selected = SelectedEvents::new(&reader, &selection, source.map(|s| s.0));
    let search = Search { reader: &reader, selection: &selection, selected };
    let snapshot = reader.snapshot(0)?;
    if args.explain {
        let order = if args.count { Order::Arrival } else { selection.order() };
        for line in search.selected.explain(order)? {
            print_line(format_args!("{line}"))?;
        }
        return Ok(());
    }
    if args.count {
        print_line(format_args!("{}", search.count(snapshot)?))?;
        warn_unknown_healthchecks(&reader, &mut false);
        return Ok(());
    }
    let out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let mut printer = Printer {
        names: HashMap::new(),
        should_load_names: args.envelope,
        remaining: if let Limit::First(limit) = selection.limit { limit } else { u64::MAX },
        out: output::Printer::new(format, args.envelope, out),
    };
    printer.load_names(&reader)?;
    match selection.limit {
        Limit::Last(limit) => search.print_last(snapshot, limit, &mut printer)?,
        Limit::All | Limit::First(_) => search.print(snapshot, selection.order(), &mut printer)?,
    }
    printer.out.flush()?;
    let mut warned = false;
    warn_unknown_healthchecks(&reader, &mut warned);
    if args.follow { search.follow(snapshot, &mut printer, warned) } else { Ok(()) }
}

impl Args {
    fn selection(&self) -> Result<Selection, Failure> {
        let mut selection = self.history.selection()?;
        selection.limit = match (self.limit, self.last) {
            (Some(limit), _) => Limit::First(limit),
            (None, Some(limit)) => Limit::Last(limit),
            (None, None) => Limit::All,
        };
        selection.reverse = self.reverse;
        Ok(selection)
    }

    fn format(&self) -> Result<Format, Failure> {
        let stdout = io::stdout();
        let terminal_width = || {
            let (width, _) = terminal_size::terminal_size_of(&stdout)?;
            let width = if width.0 == 0 { 80 } else { width.0.into() };
            Some(Terminal { width, colored: AutoStream::choice(&stdout) != ColorChoice::Never })
        };
        let format = match &*self.format {
            // An empty value is the default: scripts pass variables that may be empty.
            "" | "json" => Format::Json,
            "text" => Format::Text,
            "table" => Format::Table(terminal_width()),
            "csv" => Format::Csv,
            // The docker client would print the word itself for each event.
            name if !name.contains("{{") => {
                let hint = format!("use {}, or a template such as '{{{{.Actor.ID}}}}'", FORMAT_NAMES.join(", "));
                return Err(Failure::usage(format!("unknown format '{name}'")).hint(hint));
            }
            template => Format::Template(Template::parse(template)?),
        };
        if self.envelope && matches!(format, Format::Text | Format::Template(_)) {
            return Err(Failure::usage("--envelope cannot be combined with --format text or a template")
                .hint("use --format json, table or csv"));
        }
        Ok(format)
    }
}

/// Warning about the gaps that overlap the window. A `first-contact` gap counts only if the window was set to include
/// that time.
fn gap_warning(gaps: &[GapRow], selection: &Selection, source: Option<&str>) -> Option<String> {
    let overlapping: Vec<&GapRow> = gaps
        .iter()
        .filter(|gap| source.is_none_or(|name| name == gap.source))
        .filter(|gap| {
            let window_is_before = gap.to_nano.zip(selection.until).is_some_and(|(to, until)| until < to);
            gap.reason != GapReason::FirstContact.as_str() || selection.since.is_some() || window_is_before
        })
        .filter(|gap| gap.from_nano.zip(selection.until).is_none_or(|(from, until)| from <= until))
        .filter(|gap| gap.to_nano.zip(selection.since).is_none_or(|(to, since)| to > since))
        .collect();
    let newest = overlapping.last()?;
    let from = newest.from_nano.map_or_else(|| "the beginning".into(), rfc3339);
    let to = newest.to_nano.map_or_else(|| "now".into(), rfc3339);
    let count_text = match overlapping.len() {
        1 => "a gap".to_owned(),
        n => format!("{n} gaps, the newest"),
    };
    Some(format!(
        "this window overlaps {count_text} in the record of {}: from {from} to {to} ({}); `events gaps` shows all",
        newest.source, newest.reason
    ))
}

/// Warning about a window that was set to include a time from which events were pruned.
fn pruned_warning(reader: &Reader, selection: &Selection, source: Option<i64>) -> Result<Option<String>, Failure> {
    if reader.latest_checkpoint()?.is_none() {
        return Ok(None);
    }
    let rows = reader.sources()?.into_iter().filter(|row| source.is_none_or(|id| id == row.id));
    let Some(oldest_nano) = rows.filter_map(|row| row.first_nano).min() else {
        return Ok(Some("events were pruned, and none are left".into()));
    };
    let starts_before = selection.since.or(selection.until).is_some_and(|start| start < oldest_nano);
    Ok(starts_before.then(|| {
        format!(
            "this window begins in the pruned part of the record: the oldest event left is from {}",
            rfc3339(oldest_nano)
        )
    }))
}

struct Search<'a> {
    reader: &'a Reader,
    selection: &'a Selection,
    selected: SelectedEvents<'a>,
}

impl Search<'_> {
    fn count(&self, snapshot: Snapshot) -> Result<u64, Failure> {
        let limit = match self.selection.limit {
            Limit::All => u64::MAX,
            Limit::First(limit) | Limit::Last(limit) => limit,
        };
        let mut count = 0;
        let _ = self.selected.for_each(snapshot, Order::Arrival, |_| {
            count += 1;
            if count < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(count.min(limit))
    }

    fn print<W: Write>(&self, snapshot: Snapshot, order: Order, printer: &mut Printer<W>) -> Result<(), Failure> {
        if printer.remaining == 0 {
            return Ok(());
        }
        let flow = self.selected.for_each(snapshot, order, |stored| match printer.print(stored) {
            Ok(()) if printer.remaining > 0 => ControlFlow::Continue(()),
            result => ControlFlow::Break(result),
        })?;
        Ok(flow.break_value().unwrap_or(Ok(()))?)
    }

    /// Prints the newest events of the snapshot, oldest first.
    fn print_last<W: Write>(&self, snapshot: Snapshot, limit: u64, printer: &mut Printer<W>) -> Result<(), Failure> {
        if self.selection.reverse {
            printer.remaining = limit;
            return self.print(snapshot, Order::TimeReversed, printer);
        }
        let flow = self.selected.for_each_newest(snapshot, limit, |stored| match printer.print(stored) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        })?;
        Ok(flow.break_value().map_or(Ok(()), Err)?)
    }

    /// Prints the events that are committed after the snapshot, until the window ends or the limit is reached.
    fn follow<W: Write>(
        &self,
        mut snapshot: Snapshot,
        printer: &mut Printer<W>,
        mut warned: bool,
    ) -> Result<(), Failure> {
        let mut last_version = None;
        while printer.remaining > 0 {
            let is_past_end = self.selection.until.is_some_and(|until| now_nano() > until);
            let version = self.reader.data_version()?;
            if last_version != Some(version) {
                last_version = Some(version);
                snapshot = self.reader.snapshot(snapshot.to)?;
                printer.load_names(self.reader)?;
                self.print(snapshot, Order::Arrival, printer)?;
                printer.out.flush()?;
                warn_unknown_healthchecks(self.reader, &mut warned);
            }
            if is_past_end {
                break;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

struct Printer<W> {
    out: output::Printer<W>,
    /// Names of the sources by row ID; empty if they are not printed.
    names: HashMap<i64, String>,
    should_load_names: bool,
    /// Number of events that may still be printed.
    remaining: u64,
}

impl<W: Write> Printer<W> {
    fn load_names(&mut self, reader: &Reader) -> Result<(), Failure> {
        if self.should_load_names {
            self.names = reader.sources()?.into_iter().map(|source| (source.id, source.name)).collect();
        }
        Ok(())
    }

    fn print(&mut self, stored: StoredEvent<'_>) -> Result<(), PrintError> {
        let source = self.names.get(&stored.source).map_or("", String::as_str);
        let record = Record { raw: stored.raw, seq: stored.seq, source, received_nano: stored.received_nano };
        self.remaining -= 1;
        self.out.print(&record)
    }
}

fn print_line(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
