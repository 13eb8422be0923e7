//! Reads the store: events in order, gaps, what was rejected.
//!
//! The small tables narrow, the caller decides: [`Ask`] says what shapes and actors can tell, and the caller judges
//! what is left. No read transaction lasts longer than one step of some thousand rows, so a reader that takes an hour
//! keeps no checkpoint waiting; and since a sequence once given never changes, what it sees is one moment all the same.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::file::{open_to_read, sources, sqlite};
use super::healthcheck::{Healthchecks, Untold, Verdict};
use super::held::Held;
use super::lines::{EventRow, Lines};
use super::order::Ordered;
use super::plan::{Ask, Plan};
use super::verify::{self, Fault, Verified};
use super::{GapRow, Head, RejectedRow, Sealed, SourceRow, StoreError, prune};
use crate::event::Event;

/// How many events are given out together, and from how many bytes on no more.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// How many judgements of a shape on an actor are remembered.
const JUDGEMENTS: usize = 100_000;

/// In which order to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By instant, then by arrival.
    Time,
    /// The same, backwards.
    TimeReversed,
    /// By arrival.
    Arrival,
}

/// Which rows are there: those that came after `after`, up to and with `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last sequence not to read.
    pub after: i64,
    /// The last sequence to read.
    pub to: i64,
}

/// Which of the events that may answer do.
#[derive(Clone, Copy)]
pub enum Judge<'a> {
    /// All.
    All,
    /// Those that pass, whatever attributes vary from event to event of one actor: asked once for each kind of event
    /// of each actor.
    Alike(&'a dyn Fn(&Event<'_>) -> bool),
    /// Those that pass: asked each time.
    Each(&'a dyn Fn(&Event<'_>) -> bool),
}

/// What became known of a gap: its end, why it is one (`None`: it is not), and the detail.
pub type GapKnown = (Option<i64>, Option<String>, Option<String>);

/// One event as it is stored; borrowed from the reader.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Its place in the order of arrival.
    pub seq: i64,
    /// [`SourceRow::id`].
    pub source: i64,
    /// When it was read, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// Whether it was marked as that of a health check.
    pub marked: bool,
    /// The event's own bytes.
    pub raw: &'a [u8],
}

/// A store open for reading.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    _held: Held,
    path: PathBuf,
    untold: RefCell<Untold>,
}

impl Reader {
    /// Opens a store for reading.
    ///
    /// # Errors
    /// A file that is not there or is not ours is named; none is made.
    pub fn open(path: &Path) -> Result<Reader, StoreError> {
        let (connection, held) = open_to_read(path)?;
        Ok(Reader { connection, _held: held, path: path.into(), untold: RefCell::default() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Every source, in the order they were first reached.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`], as for every method here.
    pub fn sources(&self) -> Result<Vec<SourceRow>, StoreError> {
        sources(&self.connection).map_err(sqlite("read", &self.path))
    }

    /// A number that changes when another connection has committed something. Cheap enough to ask often.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn data_version(&self) -> Result<i64, StoreError> {
        self.connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map_err(sqlite("read", &self.path))
    }

    /// What is there now, after the sequence `after`.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn snapshot(&self, after: i64) -> Result<Snapshot, StoreError> {
        self.connection
            .prepare_cached("SELECT ifnull(max(seq), 0) FROM event")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map(|to: i64| Snapshot { after, to: to.max(after) })
            .map_err(sqlite("read", &self.path))
    }

    /// Calls `each` with every event of `snapshot` that may answer `ask` and that the judge lets through, in `order`,
    /// until it breaks.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn events<B>(
        &self,
        ask: &Ask,
        snapshot: Snapshot,
        order: Order,
        judge: Judge<'_>,
        each: impl FnMut(Stored<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, StoreError> {
        self.read_events(ask, snapshot, order, judge, each).map_err(sqlite("read", &self.path))
    }

    fn read_events<B>(
        &self,
        ask: &Ask,
        snapshot: Snapshot,
        order: Order,
        judge: Judge<'_>,
        mut each: impl FnMut(Stored<'_>) -> ControlFlow<B>,
    ) -> rusqlite::Result<ControlFlow<B>> {
        let db = &self.connection;
        let plan = Plan::make(db, ask, snapshot)?;
        let mut ordered = Ordered::new(&plan, order);
        let mut lines = Lines::new();
        let mut judged = Judged::new(judge, ask.no_healthchecks);
        let mut batch = Batch::default();
        // The first ones are given out at once.
        let mut most = 16;
        loop {
            // One read transaction a batch, and none while it is given out, which may take as long as it likes.
            let moment = db.unchecked_transaction()?;
            // Rows wait from one batch to the next, and what was pruned in between has no actor any more.
            let oldest: i64 =
                db.prepare_cached("SELECT ifnull(min(seq), ?1) FROM event")?.query_row([i64::MAX], |row| row.get(0))?;
            batch.clear();
            while batch.rows.len() < most && batch.lines.len() < BATCH_BYTES {
                let Some(row) = ordered.next(db)? else { break };
                if row.seq >= oldest {
                    judged.take(db, &mut lines, &row, &mut batch)?;
                }
            }
            moment.finish()?;
            if batch.rows.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            let mut untold = std::mem::take(&mut batch.untold);
            for stored in batch.stored() {
                if let Some(container) = untold.remove(&stored.seq) {
                    self.untold.borrow_mut().add(container);
                }
                if let ControlFlow::Break(value) = each(stored) {
                    return Ok(ControlFlow::Break(value));
                }
            }
            most = BATCH;
        }
    }

    /// Of the events given out by all readings that were to have none of health checks: those of which it could not be
    /// told.
    pub fn untold(&self) -> Untold {
        self.untold.borrow().clone()
    }

    /// How an ask is gone about, a line a step.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn explain(&self, ask: &Ask, order: Order) -> Result<Vec<String>, StoreError> {
        let explain = || {
            let snapshot = Snapshot { after: 0, to: i64::MAX };
            Plan::make(&self.connection, ask, snapshot)?.explain(&self.connection, order)
        };
        explain().map_err(sqlite("read", &self.path))
    }

    /// Walks the whole hash chain, as it stands now, and calls `each` with what is not as it was stored. The heads that
    /// were noted earlier must be part of it.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] where the file cannot be read at all.
    pub fn verify(&self, noted: &[Head], each: impl FnMut(Fault)) -> Result<Verified, StoreError> {
        verify::walk(&self.connection, noted, each).map_err(sqlite("verify", &self.path))
    }

    /// All that was ever pruned; `None` if nothing was.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn pruned(&self) -> Result<Option<Sealed>, StoreError> {
        prune::sealed(&self.connection).map_err(sqlite("read", &self.path))
    }

    /// Every gap, in the order they were found.
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
        read().map_err(sqlite("read", &self.path))
    }

    /// All that became known of the gap of an engine that begins at an instant, in that order: its end, the reason, and
    /// the detail. Where there is no reason it was withdrawn.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn gap_history(&self, engine_id: &str, from_nano: Option<i64>) -> Result<Vec<GapKnown>, StoreError> {
        let read = || -> rusqlite::Result<Vec<GapKnown>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT to_nano, reason, detail FROM gap JOIN source ON source.id = gap.source
                 WHERE engine_id = ?1 AND from_nano IS ?2 ORDER BY seq",
            )?;
            let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_map(params![engine_id, from_nano], row)?.collect()
        };
        read().map_err(sqlite("read", &self.path))
    }

    /// Calls `each` with what was noted of the health checks of containers: the source, the container, and the command.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn healthchecks(&self, mut each: impl FnMut(i64, String, String)) -> Result<(), StoreError> {
        let mut read = || -> rusqlite::Result<()> {
            let mut noted =
                self.connection.prepare_cached("SELECT source, container, command FROM healthcheck ORDER BY seq")?;
            let mut noted = noted.query([])?;
            while let Some(row) = noted.next()? {
                each(row.get(0)?, row.get(1)?, row.get(2)?);
            }
            Ok(())
        };
        read().map_err(sqlite("read", &self.path))
    }

    /// The containers an engine had when it was last asked: when that was, in nanoseconds since the epoch, and the JSON
    /// array that [`Delivery::containers`](super::Delivery::containers) gave.
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
            .map_err(sqlite("read", &self.path))
    }

    /// Calls `each` with everything that was no event, in the order it came, until it breaks.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn rejected<B>(
        &self,
        mut each: impl FnMut(RejectedRow) -> ControlFlow<B>,
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
                if let ControlFlow::Break(value) = each(row) {
                    return Ok(ControlFlow::Break(value));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        read().map_err(sqlite("read", &self.path))
    }
}

/// Events that are given out together.
#[derive(Default)]
struct Batch {
    /// Sequence, source, when it was read, whether it is marked, and where its line ends.
    rows: Vec<(i64, i64, i64, bool, usize)>,
    lines: Vec<u8>,
    /// Those, by sequence, of which it cannot be told whether they are of health checks, though that was asked: their
    /// containers.
    untold: HashMap<i64, (i64, String)>,
}

impl Batch {
    fn clear(&mut self) {
        self.rows.clear();
        self.lines.clear();
    }

    fn stored(&self) -> impl Iterator<Item = Stored<'_>> {
        let mut start = 0;
        self.rows.iter().map(move |(seq, source, received_nano, marked, end)| {
            let raw = &self.lines[start..*end];
            start = *end;
            Stored { seq: *seq, source: *source, received_nano: *received_nano, marked: *marked, raw }
        })
    }
}

/// The judge, and what it said.
struct Judged<'a> {
    judge: Judge<'a>,
    /// Of the events of a shape on an actor, where they are alike.
    known: HashMap<(i64, i64), bool>,
    /// Where those of health checks are not let through.
    healthchecks: Option<Healthchecks>,
    line: Vec<u8>,
}

impl<'a> Judged<'a> {
    fn new(judge: Judge<'a>, no_healthchecks: bool) -> Self {
        let healthchecks = no_healthchecks.then(Healthchecks::default);
        Judged { judge, known: HashMap::new(), healthchecks, line: Vec::new() }
    }

    /// Puts an event into the batch, if it passes.
    fn take(&mut self, db: &Connection, lines: &mut Lines, row: &EventRow, batch: &mut Batch) -> rusqlite::Result<()> {
        let healthcheck = match &mut self.healthchecks {
            Some(healthchecks) => healthchecks.judge(db, row)?,
            None => Verdict::Other,
        };
        if healthcheck == Verdict::HealthCheck {
            return Ok(());
        }
        let key = (row.shape, row.actor);
        let known = if let Judge::Alike(_) = self.judge { self.known.get(&key).copied() } else { None };
        if known == Some(false) {
            return Ok(());
        }
        lines.put_together(db, row, &mut self.line)?;
        let passes = match self.judge {
            Judge::All => true,
            Judge::Each(passes) => judge_line(&self.line, row.seq, passes),
            Judge::Alike(_) if known.is_some() => true,
            Judge::Alike(passes) => {
                if self.known.len() >= JUDGEMENTS {
                    self.known.clear();
                }
                *self.known.entry(key).or_insert_with(|| judge_line(&self.line, row.seq, passes))
            }
        };
        if passes {
            if let (Verdict::Untold, Some(healthchecks)) = (healthcheck, &mut self.healthchecks) {
                batch.untold.insert(row.seq, healthchecks.container_of(db, row.actor)?);
            }
            batch.lines.extend_from_slice(&self.line);
            let (source, received_nano) = (lines.source(db, row)?, lines.received_nano(db, row)?);
            batch.rows.push((row.seq, source, received_nano, lines.marked(db, row)?, batch.lines.len()));
        }
        Ok(())
    }
}

fn judge_line(line: &[u8], seq: i64, passes: &dyn Fn(&Event<'_>) -> bool) -> bool {
    match Event::parse(line) {
        Ok(event) => passes(&event),
        Err(e) => {
            tracing::error!("what is stored as event {seq} is none: {e}");
            false
        }
    }
}
