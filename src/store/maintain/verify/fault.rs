//! Faults that a verification finds.

use std::fmt::{Display, Formatter};

use crate::store::format::chain::{Hash, Head};

/// A difference between the store and what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Corruption that SQLite itself finds: a damaged page, or an index that lacks a row.
    Corrupt(String),
    /// A table, index, view or trigger of the schema was changed, removed or added.
    Schema(String),
    /// A row that does not match the entries it belongs to.
    Row {
        /// Table of the row.
        table: &'static str,
        /// Key of the row.
        row: i64,
        /// Problem with the row.
        problem: String,
    },
    /// Entries that are missing.
    Missing {
        /// First sequence.
        first: i64,
        /// Last sequence.
        last: i64,
    },
    /// A range of entries in which at least one was changed.
    Changed {
        /// First sequence.
        first: i64,
        /// Last sequence.
        last: i64,
    },
    /// An expected head is in the pruned part and can no longer be verified.
    Pruned {
        /// The expected head.
        expected: Head,
        /// Last pruned sequence.
        last_seq: i64,
    },
    /// An expected head is not part of the chain.
    HeadMismatch {
        /// The expected head.
        expected: Head,
        /// The chain's link at that sequence, if the chain reaches it.
        found: Option<Hash>,
    },
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Corrupt(what) => write!(f, "the file is damaged: {what}"),
            Fault::Schema(what) => write!(f, "{what}"),
            Fault::Row { table, row, problem } => write!(f, "{table} {row}: {problem}"),
            Fault::Missing { first, last } if first == last => write!(f, "sequence {first} is missing"),
            Fault::Missing { first, last } => write!(f, "sequences {first} to {last} are missing"),
            Fault::Changed { first, last } if first == last => write!(f, "sequence {first} was changed"),
            Fault::Changed { first, last } => write!(f, "one of the sequences {first} to {last} was changed"),
            Fault::Pruned { expected, last_seq } => {
                write!(f, "the head {expected} cannot be verified: everything up to sequence {last_seq} was pruned")
            }
            Fault::HeadMismatch { expected, found: None } => {
                write!(f, "the chain does not reach the head {expected}: the end of the chain was removed")
            }
            Fault::HeadMismatch { expected, found: Some(found) } => {
                write!(
                    f,
                    "the head {expected} is not part of the chain: the head at that sequence is {}",
                    Head { seq: expected.seq, hash: *found }
                )
            }
        }
    }
}

/// Passes faults on, and counts them.
pub(super) struct FaultLog<'a> {
    on_fault: &'a mut dyn FnMut(Fault),
    count: u64,
    /// True if a fault of an entry was reported since the last stored link.
    entry_reported: bool,
}

impl<'a> FaultLog<'a> {
    pub(super) fn new(on_fault: &'a mut dyn FnMut(Fault)) -> Self {
        FaultLog { on_fault, count: 0, entry_reported: false }
    }

    /// Number of faults.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn report(&mut self, fault: Fault) {
        self.count += 1;
        (self.on_fault)(fault);
    }

    /// Reports a fault of the current entry; the next link is then not reported too.
    pub(super) fn report_entry(&mut self, fault: Fault) {
        self.entry_reported = true;
        self.report(fault);
    }

    /// Reports a row of the current entry.
    pub(super) fn report_row(&mut self, table: &'static str, row: i64, problem: impl Into<String>) {
        self.report_entry(Fault::Row { table, row, problem: problem.into() });
    }

    /// Returns true if a fault of an entry was reported since the last call.
    pub(super) fn take_entry_reported(&mut self) -> bool {
        std::mem::take(&mut self.entry_reported)
    }
}

/// Returns `None` for a value that cannot be read because it was changed. An error of SQLite concerns the file and is
/// returned.
pub(super) fn readable<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match read {
        Err(e @ rusqlite::Error::SqliteFailure(..)) => Err(e),
        other => Ok(other.ok()),
    }
}
