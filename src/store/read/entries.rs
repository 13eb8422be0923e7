//! Reads the entries that are not events: gaps, rejected lines, health check commands; and lists of containers.

use std::ops::ControlFlow;

use rusqlite::{OptionalExtension, Row, params};

use super::reader::Reader;
use crate::store::error::{StoreError, sqlite_error};

/// Period in which events are missing or may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRow {
    /// Name of the source.
    pub source: String,
    /// Start of the gap, in nanoseconds since the epoch; `None` if no event was seen before it.
    pub from_nano: Option<i64>,
    /// End of the gap, in nanoseconds since the epoch; `None` while it lasts.
    pub to_nano: Option<i64>,
    /// Reason: [`GapReason::as_str`](crate::store::GapReason::as_str), or a name that a newer version wrote.
    pub reason: String,
    /// More information for people.
    pub detail: Option<String>,
}

/// Rejected line: bytes of a stream or file that are not an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Name of the source.
    pub source: String,
    /// Time of arrival, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// Reason why the bytes were rejected.
    pub error: String,
    /// The bytes, cut at 64 KiB.
    pub bytes: Vec<u8>,
}

/// One state of a gap: its end, its reason (`None` if the gap was withdrawn), and the detail.
pub type GapRevision = (Option<i64>, Option<String>, Option<String>);

impl Reader {
    /// Returns every gap, in the order of detection.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn gaps(&self) -> Result<Vec<GapRow>, StoreError> {
        let read = || -> rusqlite::Result<Vec<GapRow>> {
            let mut statement = self
                .connection()
                .prepare_cached("SELECT source, from_nano, to_nano, reason, detail FROM gaps ORDER BY seq")?;
            let row = |row: &Row<'_>| {
                Ok(GapRow {
                    source: row.get(0)?,
                    from_nano: row.get(1)?,
                    to_nano: row.get(2)?,
                    reason: row.get(3)?,
                    detail: row.get(4)?,
                })
            };
            statement.query_map([], row)?.collect()
        };
        read().map_err(sqlite_error("read", self.path()))
    }

    /// Returns all states of an engine's gap that begins at an instant, in the order of storing: end, reason and
    /// detail. A state without a reason withdraws the gap.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn gap_history(&self, engine_id: &str, from_nano: Option<i64>) -> Result<Vec<GapRevision>, StoreError> {
        let read = || -> rusqlite::Result<Vec<GapRevision>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT to_nano, reason, detail FROM gap JOIN source ON source.id = gap.source
                 WHERE engine_id = ?1 AND from_nano IS ?2 ORDER BY seq",
            )?;
            let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_map(params![engine_id, from_nano], row)?.collect()
        };
        read().map_err(sqlite_error("read", self.path()))
    }

    /// Calls `each` with every health check command: the source, the container, and the command.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn healthchecks(&self, mut visit: impl FnMut(i64, String, String)) -> Result<(), StoreError> {
        let mut read = || -> rusqlite::Result<()> {
            let mut rows =
                self.connection().prepare_cached("SELECT source, container, command FROM healthcheck ORDER BY seq")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                visit(row.get(0)?, row.get(1)?, row.get(2)?);
            }
            Ok(())
        };
        read().map_err(sqlite_error("read", self.path()))
    }

    /// Returns the latest list of containers of an engine: its time in nanoseconds since the epoch, and the JSON array
    /// of [`Delivery::containers`](crate::store::Delivery::containers).
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn containers(&self, engine_id: &str) -> Result<Option<(i64, String)>, StoreError> {
        self.connection()
            .prepare_cached(
                "SELECT taken_nano, containers FROM snapshot JOIN source ON source.id = snapshot.source
                 WHERE engine_id = ?1",
            )
            .and_then(|mut s| s.query_row([engine_id], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .map_err(sqlite_error("read", self.path()))
    }

    /// Calls `each` with every rejected line, in the order of arrival, until `each` breaks.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn rejected<B>(
        &self,
        mut visit: impl FnMut(RejectedRow) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, StoreError> {
        let mut read = || -> rusqlite::Result<ControlFlow<B>> {
            let mut statement = self.connection().prepare_cached(
                "SELECT source.name, received_nano, error, bytes
                 FROM rejected JOIN source ON source.id = rejected.source ORDER BY seq",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let row = RejectedRow {
                    source: row.get(0)?,
                    received_nano: row.get(1)?,
                    error: row.get(2)?,
                    bytes: row.get(3)?,
                };
                if let ControlFlow::Break(value) = visit(row) {
                    return Ok(ControlFlow::Break(value));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        read().map_err(sqlite_error("read", self.path()))
    }
}
