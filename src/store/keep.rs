//! How much is kept while events are being stored: between two commits the writer lets go of a little of the oldest, and
//! gives a little of the room back to the disk, so that nothing that comes waits long for it.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use super::file::with_suffix;
use super::prune::{self, Pruned};
use super::rows::Rows;
use super::sweep::{Owed, Sweep, empty_wal};

/// How much is kept; by default all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Events older than this go, and are not stored.
    pub age: Option<Duration>,
    /// The oldest events go while the file is larger, in bytes.
    pub bytes: Option<u64>,
}

impl Keep {
    /// The oldest instant that is kept at an instant, both in nanoseconds since the epoch.
    pub fn oldest(&self, now_nano: i64) -> i64 {
        let nanos = |age: Duration| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        self.age.map_or(i64::MIN, |age| now_nano.saturating_sub(nanos(age)))
    }
}

/// How often it is looked whether something is to go.
const LOOK: Duration = Duration::from_secs(5);

/// Between two steps, so that the disk and others get their turn.
const BETWEEN: Duration = Duration::from_millis(20);

/// How long one step should take, without its commit; so many events go in it.
const STEP: Duration = Duration::from_millis(10);
const FEWEST: u64 = 256;
const MOST: u64 = 8_192;

/// Where the size has been reached so much more goes, a part of it, lest every few events something goes.
const MARGIN: u64 = 64;

/// How many pages go back to the disk in one step. Free ones are left for what comes next, such a part of all.
const PAGES: u64 = 256;
const FREE: u64 = 64;

/// While a reader keeps the WAL from being begun anew, what a step writes makes it longer. From here on it is waited.
const WAL: u64 = 16 << 20;

/// After a step that failed.
const AGAIN: Duration = Duration::from_secs(2);

/// How often it is said what was let go of.
const SAID: Duration = Duration::from_secs(3600);

/// Lets go of what is not kept, step by step.
#[derive(Debug)]
pub(super) struct Keeper {
    keep: Keep,
    path: PathBuf,
    next: Instant,
    events: u64,
    /// The file is being made smaller.
    shrinking: bool,
    gone: u64,
    said: Option<Instant>,
    failing: bool,
    waiting: bool,
    /// It was said that nothing more can go, and the file is too large all the same.
    stuck: bool,
    /// What was done is not in the file yet.
    unsettled: bool,
    /// Texts that nobody uses are being let go of; some went that still stand in the WAL.
    sweep: Option<Sweep>,
    in_wal: bool,
}

/// What one step did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Events went.
    Pruned(Pruned),
    /// Texts were looked at, and some went.
    Swept,
    /// Room went back to the disk.
    GaveBack,
    /// There is nothing to do.
    Done,
}

impl Keeper {
    /// `None` if all is kept.
    pub(super) fn new(keep: Keep, path: PathBuf) -> Option<Keeper> {
        (keep != Keep::default()).then(|| Keeper {
            keep,
            path,
            next: Instant::now(),
            events: FEWEST,
            shrinking: false,
            gone: 0,
            said: None,
            failing: false,
            waiting: false,
            stuck: false,
            unsettled: false,
            sweep: None,
            in_wal: false,
        })
    }

    /// When the next step is to be made.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether a reader keeps the WAL from being begun anew: then what goes would only make the disk fuller.
    pub(super) fn must_wait(&mut self) -> bool {
        let long = with_suffix(&self.path, "-wal").metadata().is_ok_and(|wal| wal.len() > WAL + WAL / 4);
        if long && !self.waiting {
            tracing::info!("{}: a reader keeps its WAL in use; what is to go waits for that", self.path.display());
        }
        self.waiting = long;
        if long {
            self.next = Instant::now() + AGAIN;
        }
        long
    }

    /// One step, in a transaction of the caller.
    pub(super) fn step(&mut self, db: &Connection, rows: &mut Rows) -> rusqlite::Result<Step> {
        let (begun, now) = (Instant::now(), now_nano());
        if self.sweep.is_some() {
            return self.sweep_on(db, rows, now);
        }
        let (before, most) = match self.too_many(db)? {
            0 => (self.keep.oldest(now), self.events),
            // Not more of the record than must.
            _ if Owed::read(db)?.is_much() => return self.sweep_on(db, rows, now),
            events => (i64::MAX, events.min(self.events)),
        };
        if let Some(pruned) = prune::step(db, rows, before, most, now)? {
            let took = begun.elapsed().max(Duration::from_micros(1));
            let fitting = (most as f64 * STEP.as_secs_f64() / took.as_secs_f64()) as u64;
            self.events = fitting.clamp(self.events / 2, self.events * 2).clamp(FEWEST, MOST);
            prune::give_back(db, PAGES)?;
            return Ok(Step::Pruned(pruned));
        }
        if prune::free_pages(db)? > prune::pages(db)? / FREE {
            prune::give_back(db, PAGES)?;
            return Ok(Step::GaveBack);
        }
        if Owed::read(db)?.is_due(now) {
            return self.sweep_on(db, rows, now);
        }
        Ok(Step::Done)
    }

    fn sweep_on(&mut self, db: &Connection, rows: &mut Rows, now: i64) -> rusqlite::Result<Step> {
        let mut sweep = match self.sweep.take() {
            Some(sweep) => sweep,
            None => Sweep::begin(&Owed::read(db)?, rows.given()),
        };
        let done = sweep.step(db, rows.given(), now)?;
        if sweep.gone > 0 {
            rows.swept();
            self.in_wal = true;
        }
        if !done {
            self.sweep = Some(sweep);
        }
        Ok(Step::Swept)
    }

    fn too_many(&mut self, db: &Connection) -> rusqlite::Result<u64> {
        let Some(most) = self.keep.bytes else { return Ok(0) };
        let events = prune::too_many(db, if self.shrinking { most - most / MARGIN } else { most })?;
        self.shrinking = events > 0;
        Ok(events)
    }

    /// The step is on the disk.
    pub(super) fn done(&mut self, step: &Step) {
        self.failing = false;
        if let Step::Pruned(pruned) = step {
            self.gone += pruned.events;
        }
        let finished = *step == Step::Done;
        let stuck = finished && self.shrinking;
        if stuck && !self.stuck {
            let path = self.path.display();
            tracing::warn!("{path}: nothing more can go, and the file is larger than it may be");
        }
        self.stuck = stuck || self.stuck && self.shrinking;
        self.unsettled |= !finished;
        self.next = Instant::now() + if finished { LOOK } else { BETWEEN };
        if finished && self.gone > 0 && self.said.is_none_or(|said| said.elapsed() > SAID) {
            tracing::info!("{} events were let go of, the oldest", std::mem::take(&mut self.gone));
            self.said = Some(Instant::now());
        }
    }

    /// When nothing more is to go the file is made as small as it can be. Only moves pages from the WAL, and waits for
    /// nobody.
    pub(super) fn settle(&mut self, db: &Connection, step: &Step) -> rusqlite::Result<()> {
        if self.unsettled && *step == Step::Done {
            let (pages, moved): (i64, i64) =
                db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))?;
            self.unsettled = moved < pages;
        }
        if self.in_wal && *step == Step::Done {
            self.in_wal = !empty_wal(db)?;
        }
        Ok(())
    }

    /// The step was not made; why is said once.
    pub(super) fn failed(&mut self, why: &dyn std::error::Error) {
        self.sweep = None;
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!("{}; it is tried again", crate::error::chain(why));
        }
        self.next = Instant::now() + AGAIN;
    }
}

/// Now, in nanoseconds since the epoch.
pub(super) fn now_nano() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_that_only_grows_is_not_made_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.db");
        let keep = Keep { bytes: Some(1), ..Keep::default() };
        let mut keeper = Keeper::new(keep, path.clone()).unwrap();
        assert!(!keeper.must_wait());
        let wal = std::fs::File::create(with_suffix(&path, "-wal")).unwrap();
        wal.set_len(4 << 20).unwrap();
        assert!(!keeper.must_wait());
        wal.set_len(2 * WAL).unwrap();
        assert!(keeper.must_wait() && keeper.next() > Instant::now());
        wal.set_len(0).unwrap();
        assert!(!keeper.must_wait());
    }

    #[test]
    fn what_is_kept_is_counted_back_from_now() {
        assert_eq!(Keep::default().oldest(0), i64::MIN);
        let keep = |age| Keep { age: Some(age), bytes: None };
        assert_eq!(keep(Duration::from_secs(1)).oldest(5_000_000_000), 4_000_000_000);
        assert_eq!(keep(Duration::MAX).oldest(0), -i64::MAX);
    }
}
