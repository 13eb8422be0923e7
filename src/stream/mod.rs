//! Bytes → events: framing, parsing, and what must be known to go on after a break.
//!
//! Knows bytes and events; knows neither HTTP nor SQL. A socket, a file and standard input all enter here.

pub mod backoff;
pub mod continuity;
mod framing;
mod input;
pub mod multiplexed;

pub use framing::{DEFAULT_LINE_LIMIT, Piece, Splitter};
pub use input::{Input, ReadError, fixtures};

use crate::event::{Event, NotAnEvent, trim};

/// How much of a rejected line is kept, in bytes.
pub const REJECTED_LIMIT: usize = 64 * 1024;

/// One thing that came down a stream.
#[derive(Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly every item is an event, and items are short-lived")]
pub enum Item<'a> {
    /// An event.
    Event(Event<'a>),
    /// Bytes that are no event.
    Rejected(Rejected<'a>),
}

/// Bytes that came down a stream and are no event.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected<'a> {
    /// The line, cut at [`REJECTED_LIMIT`].
    pub bytes: &'a [u8],
    /// What is wrong with it.
    pub reason: Reason,
    /// Which line of the stream it stands in, from 1.
    pub line: u64,
}

/// Why a line was rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The line was read whole and is no event.
    #[error(transparent)]
    NotAnEvent(#[from] NotAnEvent),
    /// The line is longer than the bound set; its length in bytes.
    #[error("a line of {0} bytes is over the bound set")]
    TooLong(u64),
    /// The stream ended in the middle of a line that is no event as it stands.
    #[error("the stream ended inside an event")]
    Cut,
}

/// How a stream stood when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Between two events, or right behind one.
    Clean,
    /// Inside an event.
    Cut,
}

/// Takes bytes cut at any boundary, gives events: JSON lines and json-seq (RFC 7464), told apart by nothing but the
/// bytes themselves. Blank lines are nothing.
#[derive(Debug)]
pub struct Decoder {
    splitter: Splitter,
    /// How many lines have ended.
    lines: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::with_limit(DEFAULT_LINE_LIMIT)
    }
}

impl Decoder {
    /// A decoder that rejects lines longer than `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Decoder { splitter: Splitter::with_limit(limit), lines: 0 }
    }

    /// Takes the next bytes of the stream and calls `each` with whatever they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Item<'_>)) {
        let Decoder { splitter, lines } = self;
        splitter.push(bytes, |piece| {
            *lines += 1;
            read(piece, *lines, false, &mut each);
        });
    }

    /// The stream has ended: calls `each` with what is left, if anything is. A last line without its end is an event
    /// if it is one as it stands. Afterwards the decoder is as new.
    pub fn finish(&mut self, mut each: impl FnMut(Item<'_>)) -> End {
        let mut end = End::Clean;
        let line = std::mem::take(&mut self.lines) + 1;
        self.splitter.finish(|piece| {
            read(piece, line, true, &mut |item| {
                if let Item::Rejected(Rejected { reason: Reason::Cut, .. }) = item {
                    end = End::Cut;
                }
                each(item);
            });
        });
        end
    }

    /// How many bytes of an unfinished line are held.
    pub fn held(&self) -> usize {
        self.splitter.held()
    }
}

/// The record separator that json-seq puts before an event; it may not stand raw inside JSON.
const SEPARATOR: u8 = 0x1E;

/// Reads the line of a number; `last` if the stream has ended in it.
fn read(piece: Piece<'_>, number: u64, last: bool, each: &mut dyn FnMut(Item<'_>)) {
    let line = match piece {
        Piece::Line(line) => line,
        Piece::TooLong { head, length } => return each(reject(head, number, Reason::TooLong(length))),
    };
    let line = trim(line.strip_prefix(&[SEPARATOR]).unwrap_or(line));
    if line.is_empty() {
        return;
    }
    match Event::parse(line) {
        Ok(event) => each(Item::Event(event)),
        Err(e) => read_records(line, number, e, last, each),
    }
}

/// A line that is no event: the records in it if one of them is, or else all of it as it stands.
fn read_records(line: &[u8], number: u64, error: NotAnEvent, last: bool, each: &mut dyn FnMut(Item<'_>)) {
    let records = || line.split(|byte| *byte == SEPARATOR).map(trim).filter(|record| !record.is_empty());
    if !records().any(|record| Event::parse(record).is_ok()) {
        return each(reject(line, number, reason(line, error, last)));
    }
    let mut records = records().peekable();
    while let Some(record) = records.next() {
        match Event::parse(record) {
            Ok(event) => each(Item::Event(event)),
            Err(e) => each(reject(record, number, reason(record, e, last && records.peek().is_none()))),
        }
    }
}

/// Why a record is no event; the last of a stream may be the beginning of one.
fn reason(record: &[u8], error: NotAnEvent, last: bool) -> Reason {
    if last && is_begun(record, &error) { Reason::Cut } else { error.into() }
}

/// Whether nothing is wrong with a record but that it ends too early: be it inside a character.
fn is_begun(record: &[u8], error: &NotAnEvent) -> bool {
    match *error {
        NotAnEvent::NotJson(e) => e.at >= record.len(),
        NotAnEvent::NotUtf8(at) => {
            let within_character = std::str::from_utf8(&record[at..]).is_err_and(|e| e.error_len().is_none());
            // Another character in its place: whether one may stand there.
            let text = String::from_utf8_lossy(record);
            within_character && Event::parse(text.as_bytes()).is_err_and(|e| is_begun(text.as_bytes(), &e))
        }
        _ => false,
    }
}

fn reject(bytes: &[u8], line: u64, reason: Reason) -> Item<'_> {
    Item::Rejected(Rejected { bytes: &bytes[..bytes.len().min(REJECTED_LIMIT)], reason, line })
}
