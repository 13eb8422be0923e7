//! Lets go of texts that no event uses any more: what actors had (`label`), what was said (`shape`), how lines look
//! (`form`).
//!
//! They are marked and swept, in pieces of some milliseconds. Actors and events are only ever added behind those that are
//! there, and IDs are never given twice: so all that was looked at stays looked at, and before something is taken away
//! only what came since needs to be, in the same transaction. That holds whoever else writes meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};

use super::file::{BUSY, sqlite};
use super::rows::Given;
use super::stretch::ids;
use super::{Store, StoreError, prune};

/// How long a step takes, without its commit.
const STEP: Duration = Duration::from_millis(10);

/// How many rows are looked at between two looks at the clock, and of those that may go how many.
const LOOKED_AT: i64 = 1_024;
const TAKEN: i64 = 64;

/// It is worth the while when what was pruned since is such a part of what is left, and so many or all of it.
const PART: u64 = 8;
const MANY: u64 = 1_024;

/// Tables of more rows than these are not put anew: they would take too long at once.
const PUT_ANEW: u32 = 10_000;

/// How often it is tried to empty the WAL.
const WAL_EMPTIED: u32 = 100;

/// What is to go is gone after a day at most.
const DAY: u64 = 86_400_000_000_000;

/// What has been pruned since the texts were swept last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    /// How many events, and how many were ever.
    events: u64,
    ever: i64,
    /// How many events there are.
    left: u64,
    swept_nano: i64,
}

impl Owed {
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Owed> {
        let ever = prune::sealed(db)?.map_or(0, |sealed| sealed.events as i64);
        let (then, swept_nano): (i64, i64) = db
            .prepare_cached("SELECT events, swept_nano FROM swept")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
            .unwrap_or_default();
        let left = db.prepare_cached("SELECT ifnull(sum(events), 0) FROM source")?.query_row([], |row| row.get(0))?;
        Ok(Owed { events: ever.saturating_sub(then).max(0) as u64, ever, left, swept_nano })
    }

    /// Whether there can be something to sweep.
    pub(super) fn is_any(&self) -> bool {
        self.events > 0
    }

    /// Whether so much was pruned that its texts take room from events.
    pub(super) fn is_much(&self) -> bool {
        self.is_any() && self.events >= (self.left / PART).max(MANY.min(self.left))
    }

    /// Whether it is time to sweep.
    pub(super) fn is_due(&self, now_nano: i64) -> bool {
        self.is_much() || self.is_any() && now_nano.saturating_sub(self.swept_nano).unsigned_abs() >= DAY
    }
}

/// A sweep under way.
#[derive(Debug)]
pub(super) struct Sweep {
    /// How many events had been pruned when it began.
    pruned: i64,
    /// What was given out later is left alone.
    upto: Given,
    /// Up to this actor and this sequence all is marked.
    actor: i64,
    seq: i64,
    labels: Ids,
    shapes: Ids,
    forms: Ids,
    phase: Phase,
    /// How many rows went.
    pub(super) gone: u64,
}

/// What is done next; where rows are taken away, behind which ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Mark,
    Shapes(i64),
    Forms,
    Labels(i64),
    Done,
}

impl Sweep {
    pub(super) fn begin(owed: &Owed, given: Given) -> Sweep {
        Sweep {
            pruned: owed.ever,
            upto: given,
            actor: 0,
            seq: 0,
            labels: Ids::default(),
            shapes: Ids::default(),
            forms: Ids::default(),
            phase: Phase::Mark,
            gone: 0,
        }
    }

    /// Whether the next step only reads.
    fn only_reads(&self) -> bool {
        self.phase == Phase::Mark
    }

    /// One step, in the caller's transaction; whether it was the last. Should the transaction fail, the sweep is begun
    /// anew.
    pub(super) fn step(&mut self, db: &Connection, given: Given, now_nano: i64) -> rusqlite::Result<bool> {
        let begun = Instant::now();
        if !self.only_reads() {
            // What came since it was marked; no more can come before this transaction ends.
            while !self.mark(db)? {}
            given.store(db)?;
        }
        loop {
            self.piece(db)?;
            match self.phase {
                Phase::Done => break,
                _ if begun.elapsed() >= STEP => return Ok(false),
                // This transaction may be one that does not write.
                Phase::Shapes(0) => return Ok(false),
                _ => {}
            }
        }
        put_anew(db)?;
        db.prepare_cached("UPDATE swept SET events = ?1, swept_nano = ?2")?.execute([self.pruned, now_nano])?;
        Ok(true)
    }

    fn piece(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.phase = match self.phase {
            Phase::Mark => match self.mark(db)? {
                true => Phase::Shapes(0),
                false => Phase::Mark,
            },
            Phase::Shapes(after) => self.take_shapes(db, after)?.map_or(Phase::Forms, Phase::Shapes),
            Phase::Forms => {
                self.take_forms(db)?;
                Phase::Labels(0)
            }
            Phase::Labels(after) => self.take_labels(db, after)?.map_or(Phase::Done, Phase::Labels),
            Phase::Done => Phase::Done,
        };
        Ok(())
    }

    /// Marks the labels of some actors and the shapes of some events behind those that were looked at; whether there are
    /// no more.
    fn mark(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        let mut some = 0;
        let mut actors = db.prepare_cached("SELECT id, labels FROM actor WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let mut actors = actors.query([self.actor, LOOKED_AT])?;
        while let Some(row) = actors.next()? {
            self.actor = row.get(0)?;
            ids(row.get_ref(1)?.as_str()?).for_each(|label| self.labels.insert(label));
            some += 1;
        }
        Ok(self.mark_stretch(db)? && some < LOOKED_AT)
    }

    /// Marks the shapes of the next stretch. What a whole one says is in it need not be looked for, but of the first one
    /// a part may have been pruned.
    fn mark_stretch(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        let stretch: Option<(i64, i64, bool, Option<String>)> = db
            .prepare_cached(
                "SELECT first_seq, last_seq, first_seq = (SELECT min(first_seq) FROM stretch), shapes FROM stretch
                 WHERE first_seq >= ifnull((SELECT max(first_seq) FROM stretch WHERE first_seq <= ?1), ?1)
                   AND last_seq > ?1
                 ORDER BY first_seq LIMIT 1",
            )?
            .query_row([self.seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((first, last, is_first, shapes)) = stretch else { return Ok(true) };
        match shapes {
            Some(shapes) if !is_first && first > self.seq => ids(&shapes).for_each(|shape| self.shapes.insert(shape)),
            _ => {
                let mut events = db.prepare_cached("SELECT shape FROM event WHERE seq > ?1 AND seq <= ?2")?;
                let mut events = events.query([self.seq, last])?;
                while let Some(row) = events.next()? {
                    self.shapes.insert(row.get(0)?);
                }
            }
        }
        self.seq = last;
        Ok(false)
    }

    /// Takes shapes that no event has, and marks the forms of the others; behind which to go on.
    fn take_shapes(&mut self, db: &Connection, after: i64) -> rusqlite::Result<Option<i64>> {
        let mut found =
            db.prepare_cached("SELECT id, form FROM shape WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
        let mut found = found.query([after, self.upto.shape, TAKEN])?;
        let mut take = db.prepare_cached(
            "DELETE FROM shape WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM event WHERE shape = ?1 AND exec_id IS NULL)",
        )?;
        let mut last = None;
        while let Some(row) = found.next()? {
            let (id, form): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
            last = Some(id);
            let taken = if self.shapes.contains(id) { 0 } else { take.execute([id])? };
            self.gone += taken as u64;
            if taken == 0 {
                form.into_iter().for_each(|form| self.forms.insert(form));
            }
        }
        Ok(last)
    }

    /// Takes the forms that no shape has; there are a thousand at most.
    fn take_forms(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut later = db.prepare_cached("SELECT DISTINCT form FROM shape WHERE id > ?1 AND form IS NOT NULL")?;
        let mut later = later.query([self.upto.shape])?;
        while let Some(row) = later.next()? {
            self.forms.insert(row.get(0)?);
        }
        let forms: Vec<i64> = db
            .prepare_cached("SELECT id FROM form WHERE id <= ?1")?
            .query_map([self.upto.form], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for form in forms.into_iter().filter(|form| !self.forms.contains(*form)) {
            self.gone += db.prepare_cached("DELETE FROM form WHERE id = ?1")?.execute([form])? as u64;
        }
        Ok(())
    }

    /// Takes labels that no actor has; behind which to go on.
    fn take_labels(&mut self, db: &Connection, after: i64) -> rusqlite::Result<Option<i64>> {
        let mut found = db.prepare_cached("SELECT id FROM label WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
        let mut found = found.query([after, self.upto.label, TAKEN])?;
        let mut take = db.prepare_cached("DELETE FROM label WHERE id = ?1")?;
        let mut last = None;
        while let Some(row) = found.next()? {
            let id = row.get(0)?;
            last = Some(id);
            if !self.labels.contains(id) {
                self.gone += take.execute([id])? as u64;
            }
        }
        Ok(last)
    }
}

/// Where SQLite splits or joins pages a copy of what moved on may stay behind, which no deletion finds: so what is left of
/// the texts is put anew on pages that were emptied, as far as that holds up nobody.
fn put_anew(db: &Connection) -> rusqlite::Result<()> {
    for table in ["label", "shape", "actor"] {
        let many = format!("SELECT 1 FROM {table} LIMIT 1 OFFSET {PUT_ANEW}");
        if !db.prepare_cached(&many)?.exists([])? {
            db.execute_batch(&format!(
                "CREATE TEMP TABLE left_over AS SELECT * FROM main.{table};
                 DELETE FROM main.{table};
                 INSERT INTO main.{table} SELECT * FROM left_over ORDER BY id;
                 DROP TABLE temp.left_over"
            ))?;
        }
    }
    Ok(())
}

/// A set of IDs, most of which follow each other.
#[derive(Debug, Default)]
struct Ids(HashMap<i64, u64>);

impl Ids {
    fn insert(&mut self, id: i64) {
        *self.0.entry(id >> 6).or_default() |= 1 << (id & 63);
    }

    fn contains(&self, id: i64) -> bool {
        self.0.get(&(id >> 6)).is_some_and(|bits| bits & 1 << (id & 63) != 0)
    }
}

/// What went still stands in the WAL until that is written again: it is emptied, if nobody reads it just now.
pub(super) fn empty_wal(db: &Connection) -> rusqlite::Result<bool> {
    // Whoever waits here for a reader keeps the writer waiting.
    db.busy_timeout(Duration::ZERO)?;
    let busy = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    db.busy_timeout(BUSY)?;
    match busy {
        Ok(busy) => Ok(!busy),
        Err(e) if matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

impl Store {
    /// Whether so much was pruned since the texts were swept last that these take room from events.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`], as for all of these.
    pub fn has_many_unused_texts(&self) -> Result<bool, StoreError> {
        Owed::read(&self.connection).map(|owed| owed.is_much()).map_err(sqlite("read", self.path()))
    }

    /// Lets go of texts (labels, command lines) that no event has any more, if something was pruned since that was done
    /// last. `between` is called between two of its steps.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; what has not gone by then stays.
    pub fn sweep(&mut self, now_nano: i64, between: impl FnMut()) -> Result<(), StoreError> {
        self.sweep_all(now_nano, between).map_err(sqlite("prune", self.path()))
    }

    fn sweep_all(&mut self, now_nano: i64, mut between: impl FnMut()) -> rusqlite::Result<()> {
        let mut sweep: Option<Sweep> = None;
        loop {
            let reads = sweep.as_ref().is_none_or(Sweep::only_reads);
            let behavior = if reads { TransactionBehavior::Deferred } else { TransactionBehavior::Immediate };
            let db = self.connection.transaction_with_behavior(behavior)?;
            let given = Given::load(&db)?;
            let sweep = match &mut sweep {
                Some(sweep) => sweep,
                None => {
                    let owed = Owed::read(&db)?;
                    if !owed.is_any() {
                        return Ok(());
                    }
                    sweep.insert(Sweep::begin(&owed, given))
                }
            };
            let done = sweep.step(&db, given, now_nano)?;
            db.commit()?;
            if done {
                break;
            }
            between();
        }
        while prune::free_pages(&self.connection)? > 0 {
            prune::give_back(&self.connection, prune::PAGES)?;
            between();
        }
        for _ in 0..WAL_EMPTIED {
            if empty_wal(&self.connection)? {
                break;
            }
            between();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_in_the_set_once_it_was_put_there() {
        let mut ids = Ids::default();
        let some = [0, 1, 63, 64, 65, 127, 1 << 40];
        some.iter().for_each(|id| ids.insert(*id));
        assert!((0..200).chain([(1 << 40) - 1, 1 << 40]).all(|id| ids.contains(id) == some.contains(&id)));
    }
}
