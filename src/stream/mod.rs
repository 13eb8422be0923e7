//! Decodes byte streams into events, and decides how to continue after an interruption.
//!
//! Handles bytes and events, and has no access to HTTP or SQL. Sockets, files and standard input all use this decoder.

mod framing;
mod input;
pub mod multiplexed;

pub use framing::{DEFAULT_LINE_LIMIT, LineSplitter, RawLine};
pub use input::{Input, ReadError, load_events};

use crate::event::{Event, ParseError, trim};

/// Number of bytes that are kept of a rejected line.
pub const REJECTED_LIMIT: usize = 64 * 1024;

/// One decoded item of a stream.
#[derive(Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly every item is an event, and items are short-lived")]
pub enum Item<'a> {
    /// An event.
    Event(Event<'a>),
    /// A line that is not an event.
    Rejected(Rejected<'a>),
}

/// A line of a stream that is not an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected<'a> {
    /// The line, truncated to [`REJECTED_LIMIT`] bytes.
    pub bytes: &'a [u8],
    /// Reason for the rejection.
    pub reason: RejectReason,
    /// Line number in the stream, from 1.
    pub line_number: u64,
}

/// Reason why a line was rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// The line is complete and is not an event.
    #[error(transparent)]
    InvalidEvent(#[from] ParseError),
    /// The line exceeds the limit; contains its length in bytes.
    #[error("line of {0} bytes exceeds the limit")]
    TooLong(u64),
    /// The stream ended inside an event.
    #[error("the stream ended inside an event")]
    Truncated,
}

/// State of a stream at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The stream ended between two events, or directly after one.
    Clean,
    /// The stream ended inside an event.
    Truncated,
}

/// Decodes JSON lines and json-seq (RFC 7464) into events. The format is recognized from the bytes.
///
/// Chunks may end at any byte. Blank lines are skipped.
#[derive(Debug)]
pub struct Decoder {
    splitter: LineSplitter,
    /// Number of completed lines.
    line_count: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::with_limit(DEFAULT_LINE_LIMIT)
    }
}

impl Decoder {
    /// Creates a decoder that rejects lines longer than `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Decoder { splitter: LineSplitter::with_limit(limit), line_count: 0 }
    }

    /// Adds the next bytes of the stream, and calls `on_item` with each item that they complete.
    pub fn push(&mut self, bytes: &[u8], mut on_item: impl FnMut(Item<'_>)) {
        let Decoder { splitter, line_count: lines } = self;
        splitter.push(bytes, |piece| {
            *lines += 1;
            decode_line(piece, *lines, false, &mut on_item);
        });
    }

    /// Ends the stream, and calls `on_item` with the rest if there is any. A last line without a line end is accepted
    /// if it is a valid event. Afterwards the decoder can be used for another stream.
    pub fn finish(&mut self, mut on_item: impl FnMut(Item<'_>)) -> StreamEnd {
        let mut end = StreamEnd::Clean;
        let line_number = std::mem::take(&mut self.line_count) + 1;
        self.splitter.finish(|piece| {
            decode_line(piece, line_number, true, &mut |item| {
                if let Item::Rejected(Rejected { reason: RejectReason::Truncated, .. }) = item {
                    end = StreamEnd::Truncated;
                }
                on_item(item);
            });
        });
        end
    }

    /// Number of buffered bytes of an unfinished line.
    pub fn buffered_len(&self) -> usize {
        self.splitter.buffered_len()
    }
}

/// The record separator before an event in json-seq. JSON does not allow it unescaped.
const RECORD_SEPARATOR: u8 = 0x1E;

/// Decodes one line. `at_end` is true if the stream ended without a line end.
fn decode_line(piece: RawLine<'_>, line_number: u64, at_end: bool, on_item: &mut dyn FnMut(Item<'_>)) {
    let line = match piece {
        RawLine::Complete(line) => line,
        RawLine::TooLong { head, length } => return on_item(reject(head, line_number, RejectReason::TooLong(length))),
    };
    let line = trim(line.strip_prefix(&[RECORD_SEPARATOR]).unwrap_or(line));
    if line.is_empty() {
        return;
    }
    match Event::parse(line) {
        Ok(event) => on_item(Item::Event(event)),
        Err(e) => decode_records(line, line_number, e, at_end, on_item),
    }
}

/// Decodes a line that is not an event. If one of its records is an event, handles each record; else rejects the line.
fn decode_records(line: &[u8], line_number: u64, error: ParseError, at_end: bool, on_item: &mut dyn FnMut(Item<'_>)) {
    let records = || line.split(|byte| *byte == RECORD_SEPARATOR).map(trim).filter(|record| !record.is_empty());
    if !records().any(|record| Event::parse(record).is_ok()) {
        return on_item(reject(line, line_number, reject_reason(line, error, at_end)));
    }
    let mut records = records().peekable();
    while let Some(record) = records.next() {
        match Event::parse(record) {
            Ok(event) => on_item(Item::Event(event)),
            Err(e) => {
                on_item(reject(record, line_number, reject_reason(record, e, at_end && records.peek().is_none())));
            }
        }
    }
}

/// Returns the reason to reject a record. The last record of a stream may be a truncated event.
fn reject_reason(record: &[u8], error: ParseError, at_end: bool) -> RejectReason {
    if at_end && is_truncated(record, &error) { RejectReason::Truncated } else { error.into() }
}

/// Returns true if the only error of a record is that it ends too early, possibly inside a character.
fn is_truncated(record: &[u8], error: &ParseError) -> bool {
    match *error {
        ParseError::InvalidJson(e) => e.at >= record.len(),
        ParseError::InvalidUtf8(at) => {
            let inside_character = std::str::from_utf8(&record[at..]).is_err_and(|e| e.error_len().is_none());
            // Check with a replacement character in its place whether a character is allowed there.
            let text = String::from_utf8_lossy(record);
            inside_character && Event::parse(text.as_bytes()).is_err_and(|e| is_truncated(text.as_bytes(), &e))
        }
        _ => false,
    }
}

fn reject(bytes: &[u8], line_number: u64, reason: RejectReason) -> Item<'_> {
    Item::Rejected(Rejected { bytes: &bytes[..bytes.len().min(REJECTED_LIMIT)], reason, line_number })
}
