//! Checkpoints: entries of the chain that stand for its pruned part.

use rusqlite::{Connection, OptionalExtension};

use super::chain::Head;

/// Everything that was ever pruned, according to the newest checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of pruned events.
    pub events: u64,
    /// Last pruned sequence.
    pub last_seq: i64,
    /// Time of the last pruning, in nanoseconds since the epoch.
    pub created_nano: i64,
}

/// Returns the newest checkpoint; `None` if nothing was ever pruned.
pub(in crate::store) fn latest(db: &Connection) -> rusqlite::Result<Option<Checkpoint>> {
    db.prepare_cached("SELECT events, upto, sealed_nano FROM seal ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok(Checkpoint { events: row.get(0)?, last_seq: row.get(1)?, created_nano: row.get(2)? }))
        .optional()
}

/// Returns the head at which the pruned part of the chain ends; `None` if nothing was ever pruned.
pub(in crate::store) fn latest_pruned_head(db: &Connection) -> rusqlite::Result<Option<Head>> {
    db.prepare_cached("SELECT upto, hash FROM seal ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok(Head { seq: row.get(0)?, hash: row.get(1)? }))
        .optional()
}
