//! `events query`: filters history and prints it; with `--follow` goes on live.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};

use super::select::{History, find_source, say_untold};
use super::{Failure, Shared, now_nano};
use crate::event::Event;
use crate::output::{self, FORMATS, Format, PrintError, Record, Template, Terminal};
use crate::query::time::rfc3339;
use crate::query::{Cut, Selection};
use crate::store::{GapRow, Order, Reader, Reason, Snapshot, Stored};

/// How often a follower looks whether something was committed. An event is to be printed within 100 ms of its
/// arrival, and the look costs a few microseconds.
const GLANCE: Duration = Duration::from_millis(20);

/// The flags of `query`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    history: History,
    /// Print the first N and stop
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "last", help_heading = "Output")]
    limit: Option<u64>,
    /// Print the newest N, oldest first
    #[arg(long, value_name = "N", help_heading = "Output")]
    last: Option<u64>,
    /// Newest first
    #[arg(long, help_heading = "Output", conflicts_with = "follow")]
    reverse: bool,
    /// Print only how many there are
    #[arg(long, help_heading = "Output", conflicts_with = "follow")]
    count: bool,
    /// Go on with what is recorded from now on, in the order it arrives
    #[arg(long, help_heading = "Output")]
    follow: bool,
    /// json: each event as the engine sent it; text: as `docker events` prints it; table: columns, as wide as the
    /// terminal; csv: for spreadsheets; or a Go template as `docker events --format` takes it: '{{.Actor.ID}}'
    #[arg(long, value_name = "FORMAT", default_value = "json", value_parser = FormatWords, help_heading = "Output")]
    #[arg(allow_hyphen_values = true, hide_possible_values = true)]
    format: String,
    /// With sequence, source and time of arrival: {"seq":…,"source":…,"received":…,"event":…}, or columns of CSV;
    /// of a table the first two
    #[arg(long, help_heading = "Output")]
    envelope: bool,
    /// Print how the store is searched, in place of what is found
    #[arg(long, help_heading = "Output", conflicts_with = "follow")]
    explain: bool,
}

/// Takes any word, as a template may be; a shell completes the others.
#[derive(Clone)]
struct FormatWords;

impl TypedValueParser for FormatWords {
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
        Some(Box::new(FORMATS.into_iter().map(PossibleValue::new)))
    }
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let (selection, format) = (args.selection()?, args.format()?);
    let reader = Reader::open(&shared.db()?)?;
    let source = args.history.source.as_deref().map(|name| find_source(&reader, name)).transpose()?;
    let gaps = reader.gaps()?;
    if let Some(line) = blind(&gaps, &selection, source.as_ref().map(|s| s.1.as_str())) {
        tracing::warn!("{line}");
    }
    if let Some(line) = pruned(&reader, &selection, source.as_ref().map(|s| s.0))? {
        tracing::warn!("{line}");
    }
    let query = Query { reader: &reader, selection: &selection, source: source.map(|s| s.0) };
    let snapshot = reader.snapshot(0)?;
    if args.explain {
        let order = if args.count { Order::Arrival } else { selection.order() };
        for line in reader.explain(&selection.ask(query.source), order)? {
            println(format_args!("{line}"))?;
        }
        return Ok(());
    }
    if args.count {
        println(format_args!("{}", query.count(snapshot)?))?;
        say_untold(&reader, &mut false);
        return Ok(());
    }
    let out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let mut printer = Printer {
        names: HashMap::new(),
        named: args.envelope,
        left: if let Cut::First(most) = selection.cut { most } else { u64::MAX },
        out: output::Printer::new(format, args.envelope, out),
    };
    printer.learn(&reader)?;
    match selection.cut {
        Cut::Last(most) => query.print_last(snapshot, most, &mut printer)?,
        Cut::All | Cut::First(_) => query.print(snapshot, selection.order(), &mut printer)?,
    }
    printer.out.flush()?;
    let mut said = false;
    say_untold(&reader, &mut said);
    if args.follow { query.follow(snapshot, &mut printer, said) } else { Ok(()) }
}

impl Args {
    fn selection(&self) -> Result<Selection, Failure> {
        let mut selection = self.history.selection()?;
        selection.cut = match (self.limit, self.last) {
            (Some(most), _) => Cut::First(most),
            (None, Some(most)) => Cut::Last(most),
            (None, None) => Cut::All,
        };
        selection.reverse = self.reverse;
        Ok(selection)
    }

    fn format(&self) -> Result<Format, Failure> {
        let stdout = io::stdout();
        let terminal = || {
            let (width, _) = terminal_size::terminal_size_of(&stdout)?;
            let width = if width.0 == 0 { 80 } else { width.0.into() };
            Some(Terminal { width, colored: AutoStream::choice(&stdout) != ColorChoice::Never })
        };
        let format = match &*self.format {
            // An empty one is none: scripts fill in variables.
            "" | "json" => Format::Json,
            "text" => Format::Text,
            "table" => Format::Table(terminal()),
            "csv" => Format::Csv,
            // The docker client would print such a word for each event.
            word if !word.contains("{{") => {
                let hint = format!("it is {}, or a template as '{{{{.Actor.ID}}}}'", FORMATS.join(", "));
                return Err(Failure::usage(format!("the format '{word}' is not known")).hint(hint));
            }
            template => Format::Template(Template::parse(template)?),
        };
        if self.envelope && matches!(format, Format::Text | Format::Template(_)) {
            return Err(Failure::usage("--envelope has no place in what the docker client prints")
                .hint("it goes with --format json, table and csv"));
        }
        Ok(format)
    }
}

/// What to tell of the gaps that the window touches. That nothing is known from before the first contact is told only
/// to whom asks for that time by name.
fn blind(gaps: &[GapRow], selection: &Selection, source: Option<&str>) -> Option<String> {
    let touched: Vec<&GapRow> = gaps
        .iter()
        .filter(|gap| source.is_none_or(|name| name == gap.source))
        .filter(|gap| {
            let all_before = gap.to_nano.zip(selection.until).is_some_and(|(to, until)| until < to);
            gap.reason != Reason::FirstContact.as_str() || selection.since.is_some() || all_before
        })
        .filter(|gap| gap.from_nano.zip(selection.until).is_none_or(|(from, until)| from <= until))
        .filter(|gap| gap.to_nano.zip(selection.since).is_none_or(|(to, since)| to > since))
        .collect();
    let newest = touched.last()?;
    let from = newest.from_nano.map_or_else(|| "the beginning".into(), rfc3339);
    let to = newest.to_nano.map_or_else(|| "now".into(), rfc3339);
    let number = match touched.len() {
        1 => "a gap".to_owned(),
        n => format!("{n} gaps, the newest"),
    };
    Some(format!(
        "this window touches {number} in the record of {}: from {from} to {to} ({}); `events gaps` shows all",
        newest.source, newest.reason
    ))
}

/// What to tell to whom asks by name for a time of which events were pruned.
fn pruned(reader: &Reader, selection: &Selection, source: Option<i64>) -> Result<Option<String>, Failure> {
    if reader.pruned()?.is_none() {
        return Ok(None);
    }
    let of_it = reader.sources()?.into_iter().filter(|row| source.is_none_or(|id| id == row.id));
    let Some(left) = of_it.filter_map(|row| row.first_nano).min() else {
        return Ok(Some("events were pruned, and none are left".into()));
    };
    let before = selection.since.or(selection.until).is_some_and(|begin| begin < left);
    Ok(before.then(|| format!("this window begins in what was pruned: the oldest event left is of {}", rfc3339(left))))
}

struct Query<'a> {
    reader: &'a Reader,
    selection: &'a Selection,
    source: Option<i64>,
}

impl Query<'_> {
    /// Calls `each` with every selected event of the snapshot, until it breaks.
    fn select(
        &self,
        snapshot: Snapshot,
        order: Order,
        each: impl FnMut(Stored<'_>) -> ControlFlow<Result<(), PrintError>>,
    ) -> Result<(), Failure> {
        let passes = |event: &Event<'_>| self.selection.passes(event);
        let judge = self.selection.judge(&passes);
        match self.reader.events(&self.selection.ask(self.source), snapshot, order, judge, each)? {
            ControlFlow::Break(done) => Ok(done?),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn count(&self, snapshot: Snapshot) -> Result<u64, Failure> {
        let most = match self.selection.cut {
            Cut::All => u64::MAX,
            Cut::First(most) | Cut::Last(most) => most,
        };
        let mut count = 0;
        self.select(snapshot, Order::Arrival, |_| {
            count += 1;
            if count < most { ControlFlow::Continue(()) } else { ControlFlow::Break(Ok(())) }
        })?;
        Ok(count.min(most))
    }

    fn print<W: Write>(&self, snapshot: Snapshot, order: Order, to: &mut Printer<W>) -> Result<(), Failure> {
        if to.left == 0 {
            return Ok(());
        }
        self.select(snapshot, order, |stored| match to.print(stored) {
            Ok(()) if to.left > 0 => ControlFlow::Continue(()),
            done => ControlFlow::Break(done),
        })
    }

    /// The newest are found from the end; printed oldest first they have to be kept until all are found.
    fn print_last<W: Write>(&self, snapshot: Snapshot, most: u64, to: &mut Printer<W>) -> Result<(), Failure> {
        if self.selection.reverse {
            to.left = most;
            return self.print(snapshot, Order::TimeReversed, to);
        }
        let mut newest: Vec<(i64, i64, i64, bool, Vec<u8>)> = Vec::new();
        if most > 0 {
            self.select(snapshot, Order::TimeReversed, |stored| {
                newest.push((stored.seq, stored.source, stored.received_nano, stored.marked, stored.raw.to_vec()));
                if (newest.len() as u64) < most { ControlFlow::Continue(()) } else { ControlFlow::Break(Ok(())) }
            })?;
        }
        for (seq, source, received_nano, marked, raw) in newest.iter().rev() {
            to.print(Stored { seq: *seq, source: *source, received_nano: *received_nano, marked: *marked, raw })?;
        }
        Ok(())
    }

    /// Prints what is committed after the snapshot, until the window ends or enough is printed.
    fn follow<W: Write>(&self, mut snapshot: Snapshot, to: &mut Printer<W>, mut said: bool) -> Result<(), Failure> {
        let mut seen = None;
        while to.left > 0 {
            let over = self.selection.until.is_some_and(|until| now_nano() > until);
            let version = self.reader.data_version()?;
            if seen != Some(version) {
                seen = Some(version);
                snapshot = self.reader.snapshot(snapshot.to)?;
                to.learn(self.reader)?;
                self.print(snapshot, Order::Arrival, to)?;
                to.out.flush()?;
                say_untold(self.reader, &mut said);
            }
            if over {
                break;
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }
}

struct Printer<W> {
    out: output::Printer<W>,
    /// The names of the sources, by row; where they are printed.
    names: HashMap<i64, String>,
    named: bool,
    /// How many may still be printed.
    left: u64,
}

impl<W: Write> Printer<W> {
    fn learn(&mut self, reader: &Reader) -> Result<(), Failure> {
        if self.named {
            self.names = reader.sources()?.into_iter().map(|source| (source.id, source.name)).collect();
        }
        Ok(())
    }

    fn print(&mut self, stored: Stored<'_>) -> Result<(), PrintError> {
        let source = self.names.get(&stored.source).map_or("", String::as_str);
        let record = Record { raw: stored.raw, seq: stored.seq, source, received_nano: stored.received_nano };
        self.left -= 1;
        self.out.print(&record)
    }
}

fn println(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
