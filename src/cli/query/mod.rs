//! `events query`: prints the selected events of a store; with `--follow` continues with new events.

mod search;
mod warnings;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};

use self::search::{Printer, Search};
use self::warnings::{gap_warning, pruned_warning};
use super::args::{SelectionArgs, find_source, warn_unknown_healthchecks};
use super::{Failure, Shared};
use crate::output::{self, FORMAT_NAMES, Format, Template, Terminal};
use crate::query::{Limit, SelectedEvents, Selection};
use crate::store::{Order, Reader};

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

fn print_line(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
