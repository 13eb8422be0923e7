//! Lets go of the oldest part of the record, in small steps that never hold up the writer for long.
//!
//! The chain can be proven from any place whose hash is known; so what goes is always a beginning of it, and a *seal*
//! takes its place: an entry of the chain that says up to where, and which hash was there. What must outlive what goes
//! (names of sources, gaps that reach beyond it, how containers check their health that are still there) is entered
//! again behind the seal.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::chain::{Hash, Head};
use super::file::sqlite;
use super::rows::{EXEC_REACH, Rows};
use super::stretch::{self, Stretch};
use super::{Store, StoreError};

/// How many stretches go in one step: some ten thousand events, a tenth of a second.
const STRETCHES: usize = 4;

/// How many pages that were freed go back to the disk in one step.
const PAGES: u32 = 1_000;

/// What was pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// How many events.
    pub events: u64,
    /// The last sequence of them.
    pub upto: i64,
}

impl Store {
    /// Lets go of the oldest events, if all of those are older than an instant; `None` if there is nothing to let go of.
    /// One step of many: to be called again until then.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; then nothing was let go of.
    pub fn prune(&mut self, before_nano: i64, now_nano: i64) -> Result<Option<Pruned>, StoreError> {
        let pruned = step(&mut self.connection, before_nano, now_nano).map_err(sqlite("prune", self.path()))?;
        if pruned.is_some() {
            self.give_back().map_err(sqlite("prune", self.path()))?;
        }
        Ok(pruned)
    }

    /// How many events the next steps would let go of, and the last sequence of them.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn prunable(&self, before_nano: i64) -> Result<Option<Pruned>, StoreError> {
        let look = || {
            let stretches = stretch::all(&self.connection, 0)?;
            let old = stretches.iter().take_while(|stretch| stretch.max_nano < before_nano);
            reach(&self.connection, &old.cloned().collect::<Vec<_>>())
        };
        look().map_err(sqlite("read", self.path()))
    }

    /// How many bytes the file would have without the pages that are free.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let pragma = |name| self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u64>(0));
        let used = || Ok((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?);
        used().map_err(sqlite("read", self.path()))
    }

    /// Gives pages that were freed back to the disk.
    fn give_back(&self) -> rusqlite::Result<()> {
        let mut vacuum = self.connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        Ok(())
    }
}

/// Up to where stretches can go: the chain's hash is known where a link stands.
fn reach(db: &Connection, old: &[Stretch]) -> rusqlite::Result<Option<Pruned>> {
    let (Some(first), Some(last)) = (old.first(), old.last()) else { return Ok(None) };
    let upto: Option<i64> = db
        .prepare_cached("SELECT max(seq) FROM link WHERE seq BETWEEN ?1 AND ?2")?
        .query_row([first.first_seq, last.last_seq], |row| row.get(0))?;
    let Some(upto) = upto else { return Ok(None) };
    let events = db
        .prepare_cached("SELECT count(*) FROM event WHERE seq BETWEEN ?1 AND ?2")?
        .query_row([first.first_seq, upto], |row| row.get(0))?;
    Ok((events > 0).then_some(Pruned { events, upto }))
}

fn step(connection: &mut Connection, before_nano: i64, now_nano: i64) -> rusqlite::Result<Option<Pruned>> {
    let db = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let stretches = stretch::all(&db, 0)?;
    let old: Vec<Stretch> =
        stretches.into_iter().take(STRETCHES).take_while(|stretch| stretch.max_nano < before_nano).collect();
    let Some(pruned) = reach(&db, &old)? else { return Ok(None) };
    let upto = pruned.upto;
    let Some(hash): Option<Hash> =
        db.prepare_cached("SELECT hash FROM link WHERE seq = ?1")?.query_row([upto], |row| row.get(0)).optional()?
    else {
        return Ok(None);
    };
    let mut rows = Rows::new();
    rows.begin(&db)?;
    seal(&db, &mut rows, Head { seq: upto, hash }, &pruned, now_nano)?;
    enter_again(&db, &mut rows, upto, before_nano)?;
    let healthchecks = healthchecks_to_keep(&db, upto)?;
    keep_exec_ids(&db, upto)?;
    let counted = count(&db, upto)?;
    for table in ["event", "verbatim", "rejected", "gap", "naming", "healthcheck", "link"] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE seq <= ?1"))?.execute([upto])?;
    }
    for (source, chain_name, container, command) in healthchecks {
        rows.add_healthcheck(&db, (source, &chain_name), &container, &command)?;
    }
    // The arrival that the first event left belongs to begins with it from now on.
    db.prepare_cached(
        "UPDATE OR REPLACE arrival SET first_seq = ?1 + 1
         WHERE first_seq = (SELECT max(first_seq) FROM arrival WHERE first_seq <= ?1 + 1)",
    )?
    .execute([upto])?;
    db.prepare_cached("DELETE FROM arrival WHERE first_seq <= ?1")?.execute([upto])?;
    cut_stretches(&db, upto)?;
    forget_actors(&db, &counted.actors)?;
    recount(&db, &counted)?;
    // What was loaded before the stretches were cut is not stored over them.
    rows.finish_chain(&db)?;
    db.commit()?;
    Ok(Some(pruned))
}

/// Enters the seal into the chain.
fn seal(db: &Connection, rows: &mut Rows, upto: Head, pruned: &Pruned, now_nano: i64) -> rusqlite::Result<()> {
    let before: i64 = db
        .prepare_cached("SELECT events FROM seal ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    // Seals before it say nothing more, and those that are pruned with it must go.
    db.prepare_cached("DELETE FROM seal WHERE seq <= ?1")?.execute([upto.seq])?;
    rows.add_seal(db, upto, before + pruned.events as i64, now_nano)
}

/// Names and gaps that must outlive their entries are entered again: names always, gaps if they reach so far.
fn enter_again(db: &Connection, rows: &mut Rows, upto: i64, before_nano: i64) -> rusqlite::Result<()> {
    let mut names = db.prepare_cached(
        "SELECT source.id, ifnull(engine_id, source.name), source.name FROM source
         WHERE (SELECT max(seq) FROM naming WHERE naming.source = source.id) <= ?1",
    )?;
    let mut names = names.query([upto])?;
    while let Some(row) = names.next()? {
        let (source, chain_name, name): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        rows.add_naming(db, (source, &chain_name), &name)?;
    }
    let mut gaps = db.prepare_cached(
        "SELECT gap.source, ifnull(engine_id, name), from_nano, to_nano, reason, detail
         FROM gap JOIN source ON source.id = gap.source
         WHERE gap.seq <= ?1 AND reason IS NOT NULL AND ifnull(to_nano, ?2) >= ?2
           AND gap.seq = (SELECT max(later.seq) FROM gap AS later
                          WHERE later.source = gap.source AND later.from_nano IS gap.from_nano)",
    )?;
    let mut gaps = gaps.query([upto, before_nano])?;
    while let Some(row) = gaps.next()? {
        let (source, chain_name): (i64, String) = (row.get(0)?, row.get(1)?);
        let (reason, detail): (Option<String>, Option<String>) = (row.get(4)?, row.get(5)?);
        rows.add_gap(db, (source, &chain_name), (row.get(2)?, row.get(3)?), reason.as_deref(), detail.as_deref())?;
    }
    Ok(())
}

/// How containers check their health that are still there or have events left: entered again once those that stood there
/// before are gone.
fn healthchecks_to_keep(db: &Connection, upto: i64) -> rusqlite::Result<Vec<(i64, String, String, String)>> {
    let mut kept = db.prepare_cached(
        "SELECT source.id, ifnull(engine_id, name), h.container, h.command
         FROM healthcheck AS h JOIN source ON source.id = h.source
         WHERE h.seq <= ?1 AND (
             EXISTS (SELECT 1 FROM actor JOIN event ON event.actor = actor.id
                     WHERE actor.actor_id = h.container AND actor.source = h.source AND event.seq > ?1)
             OR EXISTS (SELECT 1 FROM snapshot WHERE snapshot.source = h.source AND instr(containers, h.container)))
         ORDER BY h.seq",
    )?;
    kept.query_map([upto], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?.collect()
}

/// An exec ID that is named by an event that goes is written out where it is referred to.
fn keep_exec_ids(db: &Connection, upto: i64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE event SET exec_id = (SELECT same.exec_id FROM event AS same WHERE same.seq = event.exec_id)
         WHERE seq BETWEEN ?1 + 1 AND ?2 AND typeof(exec_id) = 'integer' AND exec_id <= ?1",
    )?
    .execute([upto, upto + EXEC_REACH])?;
    Ok(())
}

/// What goes: how many events of each source, and of which actors.
struct Counted {
    sources: Vec<(i64, i64)>,
    actors: Vec<i64>,
}

fn count(db: &Connection, upto: i64) -> rusqlite::Result<Counted> {
    let mut actors = db.prepare_cached("SELECT actor, count(*) FROM event WHERE seq <= ?1 GROUP BY actor")?;
    let actors = actors.query_map([upto], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let actors = actors.collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
    let mut source = db.prepare_cached("SELECT source FROM actor WHERE id = ?1")?;
    let mut sources = std::collections::BTreeMap::new();
    for (actor, events) in &actors {
        *sources.entry(source.query_row([actor], |row| row.get(0))?).or_insert(0) += events;
    }
    let actors = actors.into_iter().map(|(actor, _)| actor).collect();
    Ok(Counted { sources: sources.into_iter().collect(), actors })
}

/// Actors of whom no event is left go too, but for the newest: an ID once given is never given again, so what others
/// remember of it stays true. The labels stay: they are few, and shared.
fn forget_actors(db: &Connection, actors: &[i64]) -> rusqlite::Result<()> {
    let mut forget = db.prepare_cached(
        "DELETE FROM actor WHERE id = ?1 AND id < (SELECT max(id) FROM actor)
             AND NOT EXISTS (SELECT 1 FROM event WHERE actor = ?1)",
    )?;
    for actor in actors {
        forget.execute([actor])?;
    }
    Ok(())
}

/// The stretch that is cut in the middle is measured again.
fn cut_stretches(db: &Connection, upto: i64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM stretch WHERE last_seq <= ?1")?.execute([upto])?;
    db.prepare_cached(
        "UPDATE stretch SET (first_seq, events, min_nano, max_nano) =
             (SELECT min(seq), count(*), min(time_nano), max(time_nano) FROM event
              WHERE seq BETWEEN ?1 + 1 AND stretch.last_seq)
         WHERE first_seq <= ?1 AND EXISTS (SELECT 1 FROM event WHERE seq BETWEEN ?1 + 1 AND stretch.last_seq)",
    )?
    .execute([upto])?;
    db.prepare_cached("DELETE FROM stretch WHERE first_seq <= ?1")?.execute([upto])?;
    Ok(())
}

/// What the sources' rows say of their events is made true again.
fn recount(db: &Connection, counted: &Counted) -> rusqlite::Result<()> {
    let stretches = stretch::all(db, 0)?;
    for (source, gone) in &counted.sources {
        let first = farthest(db, *source, "min", stretches.iter().map(|stretch| (stretch.min_nano, stretch)))?;
        let last = farthest(db, *source, "max", stretches.iter().map(|stretch| (-stretch.max_nano, stretch)))?;
        db.prepare_cached("UPDATE source SET events = events - ?2, first_nano = ?3, last_nano = ?4 WHERE id = ?1")?
            .execute(params![source, gone, first, last])?;
    }
    Ok(())
}

/// The oldest (`min`) or newest (`max`) instant of a source: looked for in the stretches that reach farthest, as long as
/// one that reaches farther may come.
fn farthest<'s>(
    db: &Connection,
    source: i64,
    which: &str,
    stretches: impl Iterator<Item = (i64, &'s Stretch)>,
) -> rusqlite::Result<Option<i64>> {
    let mut stretches: Vec<_> = stretches.collect();
    stretches.sort_unstable_by_key(|(reach, _)| *reach);
    let mut found: Option<i64> = None;
    let sign = if which == "min" { 1 } else { -1 };
    for (reach, stretch) in stretches {
        if found.is_some_and(|found| found * sign <= reach) {
            break;
        }
        let here: Option<i64> = db
            .prepare_cached(&format!(
                "SELECT {which}(time_nano) FROM event JOIN actor ON actor.id = event.actor
                 WHERE seq BETWEEN ?1 AND ?2 AND actor.source = ?3"
            ))?
            .query_row([stretch.first_seq, stretch.last_seq, source], |row| row.get(0))?;
        found = match (found, here) {
            (Some(found), Some(here)) => Some(if found * sign <= here * sign { found } else { here }),
            (found, here) => found.or(here),
        };
    }
    Ok(found)
}
