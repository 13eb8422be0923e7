//! How events are printed: their own bytes, those in an envelope, the text that the docker client prints, a table, CSV,
//! or what a Go template makes of them.

mod csv;
mod table;
mod template;
mod text;

use std::io::{self, Write};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::Event;
use crate::query::time::rfc3339;
use table::Table;
pub use template::{Template, TemplateError};

/// The form of events. With an envelope (sequence, source, time of arrival) come those that have a place for it.
#[derive(Debug)]
pub enum Format {
    /// The event's own bytes, one a line; in an envelope `{"seq":…,"source":…,"received":…,"event":{…}}`.
    Json,
    /// What `docker events` prints, in local time; has no envelope.
    Text,
    /// Columns for people, in local time; the envelope is columns more. On a terminal no line is longer than it is wide;
    /// otherwise nothing is cut.
    Table(Option<Terminal>),
    /// RFC 4180, the columns of the store's view `events`; the envelope is columns more.
    Csv,
    /// What `docker events --format` prints; has no envelope.
    Template(Template),
}

/// The terminal that a table is printed on.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Width in columns.
    pub width: usize,
    /// Whether to color the table.
    pub colored: bool,
}

/// The names of the formats that are no template.
pub const FORMATS: [&str; 4] = ["json", "text", "table", "csv"];

/// An event, and what the store knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The event's own bytes.
    pub raw: &'a [u8],
    /// Its place in the order of arrival.
    pub seq: i64,
    /// The name of its source.
    pub source: &'a str,
    /// When it was read, in nanoseconds since the epoch.
    pub received_nano: i64,
}

/// Why an event was not printed.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// The output says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The template can do nothing with this event; what it printed before that stands there.
    #[error("event {seq} cannot be printed")]
    Template {
        /// Its place in the order of arrival.
        seq: i64,
        /// Why not.
        source: TemplateError,
    },
}

/// Prints events, one after the other.
#[derive(Debug)]
pub struct Printer<W> {
    form: Form,
    envelope: bool,
    out: W,
}

/// A format, and what is kept from event to event.
#[derive(Debug)]
enum Form {
    Json,
    Text,
    Table(Table),
    /// Whether the names of the columns are still to be printed.
    Csv(bool),
    Template(Template, Vec<u8>),
}

impl<W: Write> Printer<W> {
    /// Prints in this form, with an envelope if it has one.
    pub fn new(format: Format, envelope: bool, out: W) -> Self {
        let form = match format {
            Format::Json => Form::Json,
            Format::Text => Form::Text,
            Format::Table(terminal) => Form::Table(Table::new(terminal, envelope)),
            Format::Csv => Form::Csv(true),
            Format::Template(template) => Form::Template(template, Vec::new()),
        };
        Printer { form, envelope, out }
    }

    /// Prints one event. A table may hold some of the first ones back until [`flush`](Self::flush).
    ///
    /// # Errors
    /// Whatever the output says; what a template cannot do.
    pub fn print(&mut self, record: &Record<'_>) -> Result<(), PrintError> {
        let out = &mut self.out;
        match &mut self.form {
            Form::Json if self.envelope => envelope(record, out)?,
            Form::Json => {
                out.write_all(record.raw)?;
                out.write_all(b"\n")?;
            }
            Form::Text => text::print(&parsed(record)?, &chrono::Local, out)?,
            Form::Table(table) => table.print(record, &parsed(record)?, &chrono::Local, out)?,
            Form::Csv(is_first) => {
                if std::mem::take(is_first) {
                    csv::header(self.envelope, out)?;
                }
                csv::print(record, &parsed(record)?, self.envelope, out)?;
            }
            Form::Template(template, line) => {
                line.clear();
                let done = template.apply(&parsed(record)?, line);
                line.push(b'\n');
                out.write_all(line)?;
                done.map_err(|source| PrintError::Template { seq: record.seq, source })?;
            }
        }
        Ok(())
    }

    /// Gives out what was held back: before waiting for more, and at the end.
    ///
    /// # Errors
    /// Whatever the output says.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.form {
            Form::Table(table) => table.flush(&mut self.out)?,
            Form::Csv(is_first) if *is_first => {
                *is_first = false;
                csv::header(self.envelope, &mut self.out)?;
            }
            _ => {}
        }
        self.out.flush()
    }
}

fn parsed<'a>(record: &Record<'a>) -> io::Result<Event<'a>> {
    Event::parse(record.raw).map_err(io::Error::other)
}

fn envelope(record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Envelope<'a> {
        seq: i64,
        source: &'a str,
        received: String,
        event: &'a RawValue,
    }
    let event: &RawValue = serde_json::from_slice(record.raw)?;
    let received = rfc3339(record.received_nano);
    serde_json::to_writer(&mut *out, &Envelope { seq: record.seq, source: record.source, received, event })?;
    out.write_all(b"\n")
}
