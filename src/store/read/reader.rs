//! A store that is open for reading: reads its events in order.
//!
//! A [`Query`] narrows the search through the small tables, and the caller's predicate decides. A read transaction
//! covers one batch, which reads at most some thousand rows. So a reader that takes an hour does not delay a WAL
//! checkpoint. A sequence is given once and its event never changes, so the reader sees one moment nevertheless.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::explain::explain;
use super::filter::{Batch, EventFilter, EventPredicate, StoredEvent};
use super::healthchecks::UnknownHealthchecks;
use super::merge::MergedRows;
use super::planner::QueryPlan;
use super::query::{Order, Query, Snapshot};
use crate::store::error::{StoreError, sqlite_error};
use crate::store::file::open::ReadableFile;
use crate::store::format::checkpoint::{self, Checkpoint};
use crate::store::format::decode::EventDecoder;
use crate::store::format::source::{self, SourceRow};
use crate::store::ids::Seq;

/// Maximum number of events in a batch, and the size in bytes at which a batch is complete.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// A store that is open for reading.
#[derive(Debug)]
pub struct Reader {
    file: ReadableFile,
    path: PathBuf,
    unknown_healthchecks: RefCell<UnknownHealthchecks>,
}

impl Reader {
    /// Opens a store for reading.
    ///
    /// # Errors
    /// The file does not exist or is not a store. No file is created.
    pub fn open(path: &Path) -> Result<Reader, StoreError> {
        let file = ReadableFile::open(path)?;
        Ok(Reader { file, path: path.into(), unknown_healthchecks: RefCell::default() })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::store) fn connection(&self) -> &Connection {
        &self.file.connection
    }

    /// Returns every source, in the order in which they were first reached.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`], as for every method here.
    pub fn sources(&self) -> Result<Vec<SourceRow>, StoreError> {
        source::all(self.connection()).map_err(sqlite_error("read", &self.path))
    }

    /// Returns a number that changes when another connection has committed. The call is cheap enough for polling.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn data_version(&self) -> Result<i64, StoreError> {
        self.connection()
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map_err(sqlite_error("read", &self.path))
    }

    /// Returns the range of the events that are stored now, after the sequence `after`.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn snapshot(&self, after: i64) -> Result<Snapshot, StoreError> {
        self.connection()
            .prepare_cached("SELECT ifnull(max(seq), 0) FROM event")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map(|to: i64| Snapshot { after, to: to.max(after) })
            .map_err(sqlite_error("read", &self.path))
    }

    /// Calls `each` with every event of `snapshot` that matches `query` and `predicate`, in `order`, until `each`
    /// breaks.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn events<B>(
        &self,
        query: &Query,
        snapshot: Snapshot,
        order: Order,
        predicate: EventPredicate<'_>,
        visit: impl FnMut(StoredEvent<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, StoreError> {
        self.read_events(query, snapshot, order, predicate, visit).map_err(sqlite_error("read", &self.path))
    }

    fn read_events<B>(
        &self,
        query: &Query,
        snapshot: Snapshot,
        order: Order,
        predicate: EventPredicate<'_>,
        mut visit: impl FnMut(StoredEvent<'_>) -> ControlFlow<B>,
    ) -> rusqlite::Result<ControlFlow<B>> {
        let db = self.connection();
        let plan = QueryPlan::build(db, query, snapshot)?;
        let mut merged = MergedRows::new(&plan, order);
        let mut decoder = EventDecoder::new();
        let mut filter = EventFilter::new(predicate, query.exclude_healthchecks);
        let mut batch = Batch::default();
        // The first batch is small, so that the first events appear immediately.
        let mut batch_size = 16;
        loop {
            // One read transaction for each batch. None is open while the caller uses the batch, which can take any
            // time.
            let transaction = db.unchecked_transaction()?;
            // Rows can wait from one batch to the next. If they were pruned in between, their actors no longer exist.
            let oldest_seq: Seq =
                db.prepare_cached("SELECT ifnull(min(seq), ?1) FROM event")?.query_row([Seq::MAX], |row| row.get(0))?;
            batch.clear();
            while batch.len() < batch_size && batch.bytes() < BATCH_BYTES {
                let Some(row) = merged.next(db)? else { break };
                if row.seq >= oldest_seq {
                    filter.push_if_match(db, &mut decoder, &row, &mut batch)?;
                }
            }
            transaction.finish()?;
            if batch.len() == 0 {
                return Ok(ControlFlow::Continue(()));
            }
            let mut unknown = std::mem::take(&mut batch.unknown_healthchecks);
            for stored in batch.events() {
                if let Some(container) = unknown.remove(&Seq(stored.seq)) {
                    self.unknown_healthchecks.borrow_mut().add(container);
                }
                if let ControlFlow::Break(value) = visit(stored) {
                    return Ok(ControlFlow::Break(value));
                }
            }
            batch_size = BATCH_EVENTS;
        }
    }

    /// Exec events that could not be classified, in all reads of this reader that exclude health checks.
    pub fn unknown_healthchecks(&self) -> UnknownHealthchecks {
        self.unknown_healthchecks.borrow().clone()
    }

    /// Describes how a query is executed, one line for each step.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn explain(&self, query: &Query, order: Order) -> Result<Vec<String>, StoreError> {
        let describe = || {
            let snapshot = Snapshot { after: 0, to: i64::MAX };
            explain(self.connection(), &QueryPlan::build(self.connection(), query, snapshot)?, order)
        };
        describe().map_err(sqlite_error("read", &self.path))
    }

    /// Returns the newest checkpoint; `None` if nothing was ever pruned.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn latest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        checkpoint::latest(self.connection()).map_err(sqlite_error("read", &self.path))
    }
}
