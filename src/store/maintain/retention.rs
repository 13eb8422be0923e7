//! Retention: enforces the limits by age and size while a recorder runs.
//!
//! Between two commits the writer deletes a few of the oldest events and returns some pages to the filesystem. A step
//! is short, so that new events never wait long. This module decides when to delete; it does not know how to prune or
//! collect garbage.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::gc::{GarbageCollection, GarbageStats};
use super::pages::{free_pages, incremental_vacuum, pages, truncate_wal};
use super::prune::{self, PruneLimits, PrunedRange};
use crate::store::error::{StoreError, sqlite_error};
use crate::store::file::open::with_suffix;
use crate::store::format::cached_store::CachedStore;
use crate::store::format::encode::EventEncoder;
use crate::store::ids::Nanos;

/// Limits of a store; by default there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Maximum age. Older events are deleted, and are not stored in the first place.
    pub max_age: Option<Duration>,
    /// Maximum size of the file in bytes. While the file is larger, the oldest events are deleted.
    pub max_bytes: Option<u64>,
}

impl Retention {
    /// Returns the time before which events are too old at `now_nano`; both are nanoseconds since the epoch.
    pub fn cutoff_nano(&self, now_nano: i64) -> i64 {
        let nanos = |age: Duration| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        self.max_age.map_or(i64::MIN, |age| now_nano.saturating_sub(nanos(age)))
    }
}

/// Time between two checks while there is nothing to delete.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Time between two steps, so that other work gets the disk and the lock.
const STEP_INTERVAL: Duration = Duration::from_millis(20);

/// Target duration of one step without its commit, and the limits of the number of events deleted in it.
const STEP_DURATION: Duration = Duration::from_millis(10);
const MIN_STEP_EVENTS: u64 = 256;
const MAX_STEP_EVENTS: u64 = 8_192;

/// Once the file is too large, deletion continues until it is one part in this many below the limit. Otherwise every
/// few new events would start another deletion.
const SHRINK_MARGIN_DIVISOR: u64 = 64;

/// Number of pages returned to the filesystem in one step. One page in [`FREE_PAGES_DIVISOR`] stays free for new
/// events.
const VACUUM_STEP_PAGES: u64 = 256;
const FREE_PAGES_DIVISOR: u64 = 64;

/// Size of the WAL in bytes beyond which, plus a quarter, retention waits. While a reader keeps SQLite from resetting
/// the WAL, each step makes it longer.
const MAX_WAL_BYTES: u64 = 16 << 20;

/// Delay after a failed step, and while retention waits for a reader.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Minimum time between two log lines about deleted events.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// Deletes what exceeds the limits, step by step.
#[derive(Debug)]
pub(in crate::store) struct Retainer {
    retention: Retention,
    path: PathBuf,
    next_step_at: Instant,
    step_events: u64,
    /// The file exceeded the size limit, and is being made smaller.
    shrinking: bool,
    /// The garbage collection in progress.
    gc: Option<GarbageCollection>,
    wal: WalDebt,
    log: RetentionLog,
}

/// Changes of earlier steps that are in the WAL and not in the file yet.
#[derive(Debug, Default)]
struct WalDebt {
    needs_checkpoint: bool,
    /// The WAL contains text that garbage collection has deleted.
    needs_truncate: bool,
}

/// Outcome of one step.
#[derive(Debug, PartialEq, Eq)]
enum StepOutcome {
    /// Events were deleted.
    Pruned(PrunedRange),
    /// A step of garbage collection ran.
    Collected,
    /// Pages were returned to the filesystem.
    Vacuumed,
    /// There was nothing to do.
    Idle,
}

impl Retainer {
    /// Creates a retainer; `None` without limits.
    pub(in crate::store) fn new(retention: Retention, path: PathBuf) -> Option<Retainer> {
        (retention != Retention::default()).then(|| Retainer {
            retention,
            path,
            next_step_at: Instant::now(),
            step_events: MIN_STEP_EVENTS,
            shrinking: false,
            gc: None,
            wal: WalDebt::default(),
            log: RetentionLog::default(),
        })
    }

    /// Returns the time of the next step.
    pub(in crate::store) fn next_step_at(&self) -> Instant {
        self.next_step_at
    }

    /// Deletes a little of what exceeds the limits, if it is time for that, in a transaction of its own. Returns the
    /// events that were pruned. A step that fails changes nothing; it is logged and retried later.
    pub(in crate::store) fn step(&mut self, store: &mut CachedStore) -> Option<PrunedRange> {
        if self.next_step_at > Instant::now() || self.is_blocked_by_reader() {
            return None;
        }
        let outcome = store.with_transaction(|transaction| self.delete_some(transaction.db, transaction.encoder));
        match outcome {
            Ok(outcome) => {
                self.schedule_next(&outcome);
                if outcome == StepOutcome::Idle
                    && let Err(e) = self.wal.settle(store.store().connection())
                {
                    self.retry_later(sqlite_error("write", &self.path.clone())(e));
                }
                match outcome {
                    StepOutcome::Pruned(pruned) => Some(pruned),
                    StepOutcome::Collected | StepOutcome::Vacuumed | StepOutcome::Idle => None,
                }
            }
            Err(e) => {
                self.retry_later(sqlite_error("prune", &self.path.clone())(e));
                None
            }
        }
    }

    /// Returns true if a reader keeps SQLite from resetting the WAL. Then deleting would only fill the disk.
    fn is_blocked_by_reader(&mut self) -> bool {
        let is_over_limit =
            with_suffix(&self.path, "-wal").metadata().is_ok_and(|wal| wal.len() > MAX_WAL_BYTES + MAX_WAL_BYTES / 4);
        self.log.on_blocked(is_over_limit, &self.path);
        if is_over_limit {
            self.next_step_at = Instant::now() + RETRY_DELAY;
        }
        is_over_limit
    }

    /// Deletes a little, in the caller's transaction.
    fn delete_some(&mut self, db: &Connection, encoder: &mut EventEncoder) -> rusqlite::Result<StepOutcome> {
        let (started, now) = (Instant::now(), Nanos::now());
        if self.gc.is_some() {
            return self.collect_garbage(db, encoder, now);
        }
        let (cutoff_nano, max_events) = match self.excess_events(db)? {
            0 => (Nanos(self.retention.cutoff_nano(now.0)), self.step_events),
            // Unused text must not push out events, so it is deleted first.
            _ if GarbageStats::read(db)?.exceeds_threshold() => return self.collect_garbage(db, encoder, now),
            events => (Nanos::MAX, events.min(self.step_events)),
        };
        if let Some(pruned) = prune::step(db, encoder, PruneLimits { cutoff_nano, max_events }, now)? {
            let elapsed = started.elapsed().max(Duration::from_micros(1));
            let target_events = (max_events as f64 * STEP_DURATION.as_secs_f64() / elapsed.as_secs_f64()) as u64;
            self.step_events =
                target_events.clamp(self.step_events / 2, self.step_events * 2).clamp(MIN_STEP_EVENTS, MAX_STEP_EVENTS);
            incremental_vacuum(db, VACUUM_STEP_PAGES)?;
            return Ok(StepOutcome::Pruned(pruned));
        }
        if free_pages(db)? > pages(db)? / FREE_PAGES_DIVISOR {
            incremental_vacuum(db, VACUUM_STEP_PAGES)?;
            return Ok(StepOutcome::Vacuumed);
        }
        if GarbageStats::read(db)?.is_due(now) {
            return self.collect_garbage(db, encoder, now);
        }
        Ok(StepOutcome::Idle)
    }

    fn collect_garbage(
        &mut self,
        db: &Connection,
        encoder: &mut EventEncoder,
        now: Nanos,
    ) -> rusqlite::Result<StepOutcome> {
        let mut gc = match self.gc.take() {
            Some(gc) => gc,
            None => GarbageCollection::begin(&GarbageStats::read(db)?, encoder.max_ids()),
        };
        let finished = gc.step(db, encoder.max_ids(), now)?;
        if gc.deleted_rows > 0 {
            encoder.on_garbage_collected();
            self.wal.needs_truncate = true;
        }
        if !finished {
            self.gc = Some(gc);
        }
        Ok(StepOutcome::Collected)
    }

    fn excess_events(&mut self, db: &Connection) -> rusqlite::Result<u64> {
        let Some(max_bytes) = self.retention.max_bytes else { return Ok(0) };
        let events = prune::excess_events(
            db,
            if self.shrinking { max_bytes - max_bytes / SHRINK_MARGIN_DIVISOR } else { max_bytes },
        )?;
        self.shrinking = events > 0;
        Ok(events)
    }

    /// Schedules the next step after one that was committed.
    fn schedule_next(&mut self, outcome: &StepOutcome) {
        let is_idle = *outcome == StepOutcome::Idle;
        self.log.on_step(outcome, self.shrinking, &self.path);
        self.wal.needs_checkpoint |= !is_idle;
        self.next_step_at = Instant::now() + if is_idle { CHECK_INTERVAL } else { STEP_INTERVAL };
    }

    /// Schedules a retry after a step that failed.
    fn retry_later(&mut self, error: StoreError) {
        self.gc = None;
        self.log.on_failure(&error);
        self.next_step_at = Instant::now() + RETRY_DELAY;
    }
}

impl WalDebt {
    /// Makes the file as small as it can be once there is nothing left to delete. Only copies pages from the WAL, and
    /// never waits for a reader.
    fn settle(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.needs_checkpoint {
            let (wal_pages, checkpointed): (i64, i64) =
                db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))?;
            self.needs_checkpoint = checkpointed < wal_pages;
        }
        if self.needs_truncate {
            self.needs_truncate = !truncate_wal(db)?;
        }
        Ok(())
    }
}

/// Logs each change of the state of retention once, however many steps it takes.
#[derive(Debug, Default)]
struct RetentionLog {
    /// Number of deleted events that were not logged yet.
    deleted_events: u64,
    last_logged: Option<Instant>,
    failing: bool,
    blocked_by_reader: bool,
    /// The file is too large, nothing more can be deleted, and a warning was logged.
    limit_unreachable: bool,
}

impl RetentionLog {
    fn on_blocked(&mut self, is_blocked: bool, path: &Path) {
        if is_blocked && !self.blocked_by_reader {
            tracing::info!("{}: retention is paused while a reader prevents the reset of the WAL", path.display());
        }
        self.blocked_by_reader = is_blocked;
    }

    fn on_step(&mut self, outcome: &StepOutcome, shrinking: bool, path: &Path) {
        self.failing = false;
        if let StepOutcome::Pruned(pruned) = outcome {
            self.deleted_events += pruned.events;
        }
        let is_idle = *outcome == StepOutcome::Idle;
        let stuck = is_idle && shrinking;
        if stuck && !self.limit_unreachable {
            tracing::warn!("{}: the file is larger than --max-size, and nothing more can be deleted", path.display());
        }
        self.limit_unreachable = stuck || self.limit_unreachable && shrinking;
        if is_idle
            && self.deleted_events > 0
            && self.last_logged.is_none_or(|logged_at| logged_at.elapsed() > LOG_INTERVAL)
        {
            tracing::info!("retention deleted {} of the oldest events", std::mem::take(&mut self.deleted_events));
            self.last_logged = Some(Instant::now());
        }
    }

    /// Logs an error once until a step succeeds.
    fn on_failure(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!("{}; retention retries every 2 s", crate::error::chain(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_waits_while_the_wal_is_over_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.db");
        let retention = Retention { max_bytes: Some(1), ..Retention::default() };
        let mut retainer = Retainer::new(retention, path.clone()).unwrap();
        assert!(!retainer.is_blocked_by_reader());
        let wal = std::fs::File::create(with_suffix(&path, "-wal")).unwrap();
        wal.set_len(4 << 20).unwrap();
        assert!(!retainer.is_blocked_by_reader());
        wal.set_len(2 * MAX_WAL_BYTES).unwrap();
        assert!(retainer.is_blocked_by_reader() && retainer.next_step_at() > Instant::now());
        wal.set_len(0).unwrap();
        assert!(!retainer.is_blocked_by_reader());
    }

    #[test]
    fn the_cutoff_is_counted_back_from_now() {
        assert_eq!(Retention::default().cutoff_nano(0), i64::MIN);
        let retention = |age| Retention { max_age: Some(age), max_bytes: None };
        assert_eq!(retention(Duration::from_secs(1)).cutoff_nano(5_000_000_000), 4_000_000_000);
        assert_eq!(retention(Duration::MAX).cutoff_nano(0), -i64::MAX);
    }
}
