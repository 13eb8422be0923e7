//! Sources: rows of the table `source`.

use rusqlite::Connection;

use crate::event::Identity;

/// A source of events: an engine, or a name under which files were imported.
///
/// It has one field for each column of its row, so that a caller reads everything about a source at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRow {
    /// Row ID.
    pub id: i64,
    /// ID of the engine; `None` for imports.
    pub engine_id: Option<String>,
    /// Name that users see and pass.
    pub name: String,
    /// Host at which the engine was reached last; `None` for imports.
    pub host: Option<String>,
    /// Number of events stored.
    pub events: u64,
    /// Number of rejected lines stored.
    pub rejected: u64,
    /// Time of the earliest event stored, in nanoseconds since the epoch.
    pub first_nano: Option<i64>,
    /// Time of the latest event stored, in nanoseconds since the epoch.
    pub last_nano: Option<i64>,
    /// Last event seen, stored or not.
    pub last_seen: Option<Identity>,
    /// Time at which the engine was reached last, in nanoseconds since the epoch.
    pub connected_nano: Option<i64>,
    /// Nanoseconds that the engine's clock was ahead of the recorder's when the engine was reached last.
    pub skew_nano: Option<i64>,
    /// Answer of the engine to `/version`, as JSON.
    pub version: Option<String>,
    /// Number of health check events that were not stored.
    pub excluded_healthchecks: u64,
}

impl SourceRow {
    /// Returns the name of the source in the hash chain: the ID of the engine, or the name of an import.
    pub(in crate::store) fn chain_name(&self) -> &str {
        self.engine_id.as_deref().unwrap_or(&self.name)
    }
}

/// Returns all sources in the store, in the order in which they were first reached.
pub(in crate::store) fn all(connection: &Connection) -> rusqlite::Result<Vec<SourceRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, engine_id, name, host, events, rejected, first_nano, last_nano, seen_nano, seen_digest, contacted_nano,
            skew_nano, version, healthchecks_left_out
         FROM source ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        let seen: (Option<i64>, Option<[u8; 16]>) = (row.get(8)?, row.get(9)?);
        Ok(SourceRow {
            id: row.get(0)?,
            engine_id: row.get(1)?,
            name: row.get(2)?,
            host: row.get(3)?,
            events: row.get(4)?,
            rejected: row.get(5)?,
            first_nano: row.get(6)?,
            last_nano: row.get(7)?,
            connected_nano: row.get(10)?,
            skew_nano: row.get(11)?,
            version: row.get(12)?,
            excluded_healthchecks: row.get(13)?,
            last_seen: seen.0.zip(seen.1).map(|(time_nano, digest)| Identity { time_nano, digest }),
        })
    })?;
    rows.collect()
}
