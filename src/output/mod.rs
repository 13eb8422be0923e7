//! How events are printed: their own bytes, those in an envelope, or the text that the docker client prints.

mod text;

use std::io::{self, Write};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::Event;
use crate::query::time::rfc3339;

/// The form of an event on a line of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The event's own bytes.
    #[default]
    Json,
    /// `{"seq":…,"source":…,"received":…,"event":{…}}`.
    Envelope,
    /// What `docker events` prints, in local time.
    Text,
}

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

impl Format {
    /// Prints one event and ends the line.
    ///
    /// # Errors
    /// Whatever the output says.
    pub fn print(self, record: &Record, out: &mut impl Write) -> io::Result<()> {
        match self {
            Format::Json => {
                out.write_all(record.raw)?;
                out.write_all(b"\n")
            }
            Format::Envelope => envelope(record, out),
            Format::Text => {
                let event = Event::parse(record.raw).map_err(io::Error::other)?;
                text::print(&event, &chrono::Local, out)
            }
        }
    }
}

fn envelope(record: &Record, out: &mut impl Write) -> io::Result<()> {
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
