//! Bytes → events: framing, parsing, and what must be known to go on after a break.
//!
//! Knows bytes and events; knows neither HTTP nor SQL. A socket, a file and standard input all enter here.

pub mod backoff;
pub mod continuity;
mod framing;

pub use framing::{DEFAULT_LINE_LIMIT, Piece, Splitter};

use crate::event::{Event, NotAnEvent, trim};

/// How much of a rejected line is kept, in bytes.
pub const REJECTED_LIMIT: usize = 64 * 1024;

/// One thing that came down a stream.
#[derive(Debug, PartialEq, Eq)]
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
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::with_limit(DEFAULT_LINE_LIMIT)
    }
}

impl Decoder {
    /// A decoder that rejects lines longer than `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Decoder { splitter: Splitter::with_limit(limit) }
    }

    /// Takes the next bytes of the stream and calls `each` with whatever they complete.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Item)) {
        self.splitter.push(bytes, |piece| {
            if let Some(item) = item(piece) {
                each(item);
            }
        });
    }

    /// The stream has ended: calls `each` with what is left, if anything is. A last line without its end is an event
    /// if it is one as it stands. Afterwards the decoder is as new.
    pub fn finish(&mut self, mut each: impl FnMut(Item)) -> End {
        let mut end = End::Clean;
        self.splitter.finish(|piece| match item(piece) {
            None => {}
            Some(Item::Rejected(Rejected { bytes, reason: Reason::NotAnEvent(_) })) => {
                end = End::Cut;
                each(Item::Rejected(Rejected { bytes, reason: Reason::Cut }));
            }
            Some(item) => each(item),
        });
        end
    }

    /// How many bytes of an unfinished line are held.
    pub fn held(&self) -> usize {
        self.splitter.held()
    }
}

fn item(piece: Piece) -> Option<Item> {
    match piece {
        Piece::Line(line) if trim(line).is_empty() => None,
        Piece::Line(line) => Some(match Event::parse(line) {
            Ok(event) => Item::Event(event),
            Err(e) => Item::Rejected(Rejected { bytes: &line[..line.len().min(REJECTED_LIMIT)], reason: e.into() }),
        }),
        Piece::TooLong { head, length } => {
            let bytes = &head[..head.len().min(REJECTED_LIMIT)];
            Some(Item::Rejected(Rejected { bytes, reason: Reason::TooLong(length) }))
        }
    }
}
