//! Reads the store: events in order, gaps, rejected lines.
//!
//! A [`Query`] narrows the search through the small tables, and the caller's predicate decides. A read transaction
//! covers one batch, which reads at most some thousand rows. So a reader that takes an hour does not delay a WAL
//! checkpoint. A sequence is given once and its event never changes, so the reader sees one moment nevertheless.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::event::Event;
use crate::store::file::open::{open_read_only, sources, sqlite_error};
use crate::store::file::open_files::OpenFile;
use crate::store::format::decode::{EventDecoder, EventRow};
use crate::store::maintain::prune;
use crate::store::maintain::verify::{self, Fault, VerifyReport};
use crate::store::read::healthchecks::{HealthcheckClassifier, UnknownHealthchecks, Verdict};
use crate::store::read::merge::MergedRows;
use crate::store::read::planner::{Query, QueryPlan};
use crate::store::{Checkpoint, GapRow, Head, RejectedRow, SourceRow, StoreError};

/// Maximum number of events in a batch, and the size in bytes at which a batch is complete.
const BATCH_EVENTS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// Maximum number of cached results of a predicate, by event kind and actor.
const MAX_CACHED_MATCHES: usize = 100_000;

/// Order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By time, then by arrival.
    Time,
    /// The reverse of [`Order::Time`].
    TimeReversed,
    /// By arrival.
    Arrival,
}

/// Range of sequences to read: after `after`, up to and including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Last sequence before the range.
    pub after: i64,
    /// Last sequence of the range.
    pub to: i64,
}

/// Predicate that decides which of the candidate events match.
#[derive(Clone, Copy)]
pub enum EventPredicate<'a> {
    /// Every event matches.
    All,
    /// The events that pass, where the result does not depend on attributes that vary between events of one actor. The
    /// predicate is called once for each event kind and actor.
    PerKindAndActor(&'a dyn Fn(&Event<'_>) -> bool),
    /// The events that pass. The predicate is called for each event.
    PerEvent(&'a dyn Fn(&Event<'_>) -> bool),
}

/// One state of a gap: its end, its reason (`None` if the gap was withdrawn), and the detail.
pub type GapRevision = (Option<i64>, Option<String>, Option<String>);

/// A stored event, borrowed from the reader.
#[derive(Clone, Copy, Debug)]
pub struct StoredEvent<'a> {
    /// Position in the order of arrival.
    pub seq: i64,
    /// [`SourceRow::id`].
    pub source: i64,
    /// Time of arrival, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// True if the event has the health-check flag.
    pub is_healthcheck: bool,
    /// The event's own bytes.
    pub raw: &'a [u8],
}

/// A store that is open for reading.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    _open_file: OpenFile,
    path: PathBuf,
    unknown_healthchecks: RefCell<UnknownHealthchecks>,
}

impl Reader {
    /// Opens a store for reading.
    ///
    /// # Errors
    /// The file does not exist or is not a store. No file is created.
    pub fn open(path: &Path) -> Result<Reader, StoreError> {
        let (connection, open_file) = open_read_only(path)?;
        Ok(Reader { connection, _open_file: open_file, path: path.into(), unknown_healthchecks: RefCell::default() })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::store) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns every source, in the order in which they were first reached.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`], as for every method here.
    pub fn sources(&self) -> Result<Vec<SourceRow>, StoreError> {
        sources(&self.connection).map_err(sqlite_error("read", &self.path))
    }

    /// Returns a number that changes when another connection has committed. The call is cheap enough for polling.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn data_version(&self) -> Result<i64, StoreError> {
        self.connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map_err(sqlite_error("read", &self.path))
    }

    /// Returns the range of the events that are stored now, after the sequence `after`.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn snapshot(&self, after: i64) -> Result<Snapshot, StoreError> {
        self.connection
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
        let db = &self.connection;
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
            let oldest_seq: i64 =
                db.prepare_cached("SELECT ifnull(min(seq), ?1) FROM event")?.query_row([i64::MAX], |row| row.get(0))?;
            batch.clear();
            while batch.rows.len() < batch_size && batch.lines.len() < BATCH_BYTES {
                let Some(row) = merged.next(db)? else { break };
                if row.seq >= oldest_seq {
                    filter.push_if_match(db, &mut decoder, &row, &mut batch)?;
                }
            }
            transaction.finish()?;
            if batch.rows.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            let mut unknown = std::mem::take(&mut batch.unknown_healthchecks);
            for stored in batch.events() {
                if let Some(container) = unknown.remove(&stored.seq) {
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
        let explain = || {
            let snapshot = Snapshot { after: 0, to: i64::MAX };
            QueryPlan::build(&self.connection, query, snapshot)?.explain(&self.connection, order)
        };
        explain().map_err(sqlite_error("read", &self.path))
    }

    /// Verifies the whole hash chain, as it is now, and calls `each` with every fault. The `expected_heads`, which were
    /// noted earlier, must be part of the chain.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the file cannot be read at all.
    pub fn verify(&self, expected_heads: &[Head], on_fault: impl FnMut(Fault)) -> Result<VerifyReport, StoreError> {
        verify::verify_chain(&self.connection, expected_heads, on_fault).map_err(sqlite_error("verify", &self.path))
    }

    /// Returns the newest checkpoint; `None` if nothing was ever pruned.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn latest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        prune::latest_checkpoint(&self.connection).map_err(sqlite_error("read", &self.path))
    }

    /// Returns every gap, in the order of detection.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn gaps(&self) -> Result<Vec<GapRow>, StoreError> {
        let read = || -> rusqlite::Result<Vec<GapRow>> {
            let mut statement = self
                .connection
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
        read().map_err(sqlite_error("read", &self.path))
    }

    /// Returns all states of an engine's gap that begins at an instant, in the order of storing: end, reason and
    /// detail. A state without a reason withdraws the gap.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn gap_history(&self, engine_id: &str, from_nano: Option<i64>) -> Result<Vec<GapRevision>, StoreError> {
        let read = || -> rusqlite::Result<Vec<GapRevision>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT to_nano, reason, detail FROM gap JOIN source ON source.id = gap.source
                 WHERE engine_id = ?1 AND from_nano IS ?2 ORDER BY seq",
            )?;
            let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_map(params![engine_id, from_nano], row)?.collect()
        };
        read().map_err(sqlite_error("read", &self.path))
    }

    /// Calls `each` with every health check command: the source, the container, and the command.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn healthchecks(&self, mut visit: impl FnMut(i64, String, String)) -> Result<(), StoreError> {
        let mut read = || -> rusqlite::Result<()> {
            let mut rows =
                self.connection.prepare_cached("SELECT source, container, command FROM healthcheck ORDER BY seq")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                visit(row.get(0)?, row.get(1)?, row.get(2)?);
            }
            Ok(())
        };
        read().map_err(sqlite_error("read", &self.path))
    }

    /// Returns the latest list of containers of an engine: its time in nanoseconds since the epoch, and the JSON array
    /// of [`Delivery::containers`](crate::store::Delivery::containers).
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn containers(&self, engine_id: &str) -> Result<Option<(i64, String)>, StoreError> {
        self.connection
            .prepare_cached(
                "SELECT taken_nano, containers FROM snapshot JOIN source ON source.id = snapshot.source
                 WHERE engine_id = ?1",
            )
            .and_then(|mut s| s.query_row([engine_id], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .map_err(sqlite_error("read", &self.path))
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
            let mut statement = self.connection.prepare_cached(
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
        read().map_err(sqlite_error("read", &self.path))
    }
}

/// Events that are passed to the caller together.
#[derive(Default)]
struct Batch {
    /// Sequence, source, time of arrival, health-check flag, and the end of the line in `lines`.
    rows: Vec<(i64, i64, i64, bool, usize)>,
    lines: Vec<u8>,
    /// Containers of the events that could not be classified although health checks are excluded, by sequence.
    unknown_healthchecks: HashMap<i64, (i64, String)>,
}

impl Batch {
    fn clear(&mut self) {
        self.rows.clear();
        self.lines.clear();
    }

    fn events(&self) -> impl Iterator<Item = StoredEvent<'_>> {
        let mut start = 0;
        self.rows.iter().map(move |(seq, source, received_nano, is_healthcheck, end)| {
            let raw = &self.lines[start..*end];
            start = *end;
            StoredEvent {
                seq: *seq,
                source: *source,
                received_nano: *received_nano,
                is_healthcheck: *is_healthcheck,
                raw,
            }
        })
    }
}

/// A predicate with its cached results.
struct EventFilter<'a> {
    predicate: EventPredicate<'a>,
    /// Results by event kind and actor, for [`EventPredicate::PerKindAndActor`].
    cached_matches: HashMap<(i64, i64), bool>,
    /// Classifies events if those of health checks are excluded.
    classifier: Option<HealthcheckClassifier>,
    line: Vec<u8>,
}

impl<'a> EventFilter<'a> {
    fn new(predicate: EventPredicate<'a>, exclude_healthchecks: bool) -> Self {
        let classifier = exclude_healthchecks.then(HealthcheckClassifier::default);
        EventFilter { predicate, cached_matches: HashMap::new(), classifier, line: Vec::new() }
    }

    /// Adds an event to the batch if it matches.
    fn push_if_match(
        &mut self,
        db: &Connection,
        decoder: &mut EventDecoder,
        row: &EventRow,
        batch: &mut Batch,
    ) -> rusqlite::Result<()> {
        let verdict = match &mut self.classifier {
            Some(classifier) => classifier.classify(db, row)?,
            None => Verdict::Other,
        };
        if verdict == Verdict::Healthcheck {
            return Ok(());
        }
        let key = (row.kind_id, row.actor);
        let cached = if let EventPredicate::PerKindAndActor(_) = self.predicate {
            self.cached_matches.get(&key).copied()
        } else {
            None
        };
        if cached == Some(false) {
            return Ok(());
        }
        decoder.decode(db, row, &mut self.line)?;
        let is_match = match self.predicate {
            EventPredicate::All => true,
            EventPredicate::PerEvent(matches) => line_matches(&self.line, row.seq, matches),
            EventPredicate::PerKindAndActor(_) if cached.is_some() => true,
            EventPredicate::PerKindAndActor(matches) => {
                if self.cached_matches.len() >= MAX_CACHED_MATCHES {
                    self.cached_matches.clear();
                }
                *self.cached_matches.entry(key).or_insert_with(|| line_matches(&self.line, row.seq, matches))
            }
        };
        if is_match {
            if let (Verdict::Unknown, Some(classifier)) = (verdict, &mut self.classifier) {
                batch.unknown_healthchecks.insert(row.seq, classifier.container_of(db, row.actor)?);
            }
            batch.lines.extend_from_slice(&self.line);
            let (source, received_nano) = (decoder.source(db, row)?, decoder.received_nano(db, row)?);
            batch.rows.push((row.seq, source, received_nano, decoder.is_healthcheck(db, row)?, batch.lines.len()));
        }
        Ok(())
    }
}

fn line_matches(line: &[u8], seq: i64, matches: &dyn Fn(&Event<'_>) -> bool) -> bool {
    match Event::parse(line) {
        Ok(event) => matches(&event),
        Err(e) => {
            tracing::error!("the stored line of event {seq} is not an event: {e}");
            false
        }
    }
}
