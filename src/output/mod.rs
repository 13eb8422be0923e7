//! Prints events: as sent, in an envelope, as the docker client does, as a table, as CSV, or with a Go template.
//!
//! This module does not read stores; callers pass each event as a [`Record`]. Memory does not grow with their number.

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

/// An output format. Some formats can include an envelope: sequence, source and time of arrival.
#[derive(Debug)]
pub enum Format {
    /// The bytes of the event, one event per line; with an envelope `{"seq":…,"source":…,"received":…,"event":{…}}`.
    Json,
    /// The output of `docker events`, in local time; without envelope.
    Text,
    /// Columns for people, in local time; the envelope adds columns. On a terminal, lines fit its width; otherwise
    /// nothing is truncated.
    Table(Option<Terminal>),
    /// RFC 4180 with the columns of the store's view `events`; the envelope adds columns.
    Csv,
    /// The output of `docker events --format`; without envelope.
    Template(Template),
}

/// The terminal that a table is printed on.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Width in columns.
    pub width: usize,
    /// Colors the table.
    pub colored: bool,
}

/// Names of the formats other than templates.
pub const FORMAT_NAMES: [&str; 4] = ["json", "text", "table", "csv"];

/// An event and its metadata from the store.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Bytes of the event.
    pub raw: &'a [u8],
    /// Sequence number: its position in the order of arrival.
    pub seq: i64,
    /// Name of its source.
    pub source: &'a str,
    /// Time of arrival, in nanoseconds since the epoch.
    pub received_nano: i64,
}

/// An event could not be printed.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// Writing to the output failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The template failed on this event. Its output up to the failure is printed.
    #[error("cannot print event {seq}")]
    Template {
        /// Sequence number of the event.
        seq: i64,
        /// Error of the template.
        source: TemplateError,
    },
}

/// Prints events one by one.
#[derive(Debug)]
pub struct Printer<W> {
    state: FormatState,
    envelope: bool,
    out: W,
}

/// A format with its state between events.
#[derive(Debug)]
enum FormatState {
    Json,
    Text,
    Table(Table),
    Csv(csv::Rows),
    Template(Template, Vec<u8>),
}

impl<W: Write> Printer<W> {
    /// Returns a printer for a format. The envelope has no effect on formats without one.
    pub fn new(format: Format, envelope: bool, out: W) -> Self {
        let state = match format {
            Format::Json => FormatState::Json,
            Format::Text => FormatState::Text,
            Format::Table(terminal) => FormatState::Table(Table::new(terminal, envelope)),
            Format::Csv => FormatState::Csv(csv::Rows::new(envelope)),
            Format::Template(template) => FormatState::Template(template, Vec::new()),
        };
        Printer { state, envelope, out }
    }

    /// Prints one event. A table may buffer the first ones until [`flush`](Self::flush).
    ///
    /// # Errors
    /// The output or the template fails.
    pub fn print(&mut self, record: &Record<'_>) -> Result<(), PrintError> {
        let out = &mut self.out;
        match &mut self.state {
            FormatState::Json if self.envelope => write_envelope(record, out)?,
            FormatState::Json => {
                out.write_all(record.raw)?;
                out.write_all(b"\n")?;
            }
            FormatState::Text => text::write_line(&parse_event(record)?, &chrono::Local, out)?,
            FormatState::Table(table) => table.print(record, &parse_event(record)?, &chrono::Local, out)?,
            FormatState::Csv(rows) => rows.write_event(record, &parse_event(record)?, out)?,
            FormatState::Template(template, line) => {
                line.clear();
                let result = template.apply(&parse_event(record)?, line);
                line.push(b'\n');
                out.write_all(line)?;
                result.map_err(|source| PrintError::Template { seq: record.seq, source })?;
            }
        }
        Ok(())
    }

    /// Prints buffered rows. Call it before waiting for more events, and at the end.
    ///
    /// # Errors
    /// The output fails.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.state {
            FormatState::Table(table) => table.flush(&mut self.out)?,
            FormatState::Csv(rows) => rows.write_header(&mut self.out)?,
            _ => {}
        }
        self.out.flush()
    }
}

fn parse_event<'a>(record: &Record<'a>) -> io::Result<Event<'a>> {
    Event::parse(record.raw).map_err(io::Error::other)
}

fn write_envelope(record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
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
