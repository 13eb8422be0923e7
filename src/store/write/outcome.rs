//! The outcome of a writer: the entries that it stored, and the reason of its end.

use crate::store::error::StoreError;

/// Result of storing deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Events stored.
    pub events: u64,
    /// Events dropped because they are already stored.
    pub duplicates: u64,
    /// Events dropped because they were pruned before or are older than what is kept.
    pub expired: u64,
    /// Rejected lines stored.
    pub rejected: u64,
}

impl std::ops::AddAssign for WriteStats {
    fn add_assign(&mut self, other: WriteStats) {
        self.events += other.events;
        self.duplicates += other.duplicates;
        self.expired += other.expired;
        self.rejected += other.rejected;
    }
}

/// Final result of a writer.
#[derive(Debug)]
pub struct WriterOutcome {
    /// Everything that the writer stored.
    pub stored: WriteStats,
    /// Error, if the writer could not store the rest.
    pub error: Option<WriteError>,
}

/// The writer stopped before it could store everything.
#[derive(Debug, thiserror::Error)]
#[error("cannot store {events} events")]
pub struct WriteError {
    /// Number of events that are not stored.
    pub events: usize,
    /// Error of the last attempt.
    pub source: StoreError,
}
