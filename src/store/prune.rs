//! Lets go of the oldest part of the record, in small steps that never hold up the writer for long.
//!
//! The chain can be proven from any place whose hash is known; so what goes is always a beginning of it, and a *seal*
//! takes its place: an entry of the chain that says up to where, and which hash was there. What must outlive what goes
//! (names of sources, gaps that reach beyond it, how containers check their health that are still there) is entered
//! again behind the seal.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::chain::{Hash, Head};
use super::file::sqlite;
use super::rows::{EXEC_REACH, Given, Rows};
use super::{Store, StoreError, migrate};

/// How many events go in one step: a tenth of a second.
const EVENTS: u64 = 16_384;

/// Where the file is too large at least so many go: links of the chain stand at every 64th entry.
const LEAST: u64 = 256;

/// How many pages that were freed go back to the disk in one step.
pub(super) const PAGES: u64 = 1_000;

/// In so many stretches the farthest instant of a source is looked for, before all its events are asked.
const LOOKED_INTO: usize = 8;

/// What was pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// How many events.
    pub events: u64,
    /// The last sequence of them.
    pub upto: i64,
}

/// All that was ever pruned, as the last seal tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// How many events.
    pub events: u64,
    /// The last sequence of them.
    pub upto: i64,
    /// When that was, in nanoseconds since the epoch.
    pub sealed_nano: i64,
}

impl Store {
    /// Lets go of the oldest events, as far as all of those are older than an instant, or while the file is larger than so
    /// many bytes; `None` if there is nothing to let go of. One step of many: to be called again until then.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; then nothing was let go of.
    pub fn prune(&mut self, before_nano: i64, bytes: u64, now_nano: i64) -> Result<Option<Pruned>, StoreError> {
        let pruned = self.prune_step(before_nano, bytes, now_nano).map_err(sqlite("prune", self.path()))?;
        if pruned.is_some() {
            give_back(&self.connection, PAGES).map_err(sqlite("prune", self.path()))?;
        }
        Ok(pruned)
    }

    fn prune_step(&mut self, before_nano: i64, bytes: u64, now_nano: i64) -> rusqlite::Result<Option<Pruned>> {
        let db = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut rows = Rows::new();
        rows.begin(&db)?;
        let pruned = match too_many(&db, bytes)? {
            0 => step(&db, &mut rows, before_nano, EVENTS, now_nano)?,
            events => step(&db, &mut rows, i64::MAX, events.min(EVENTS), now_nano)?,
        };
        db.commit()?;
        Ok(pruned)
    }

    /// How many events the next steps would let go of, and the last sequence of them.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn prunable(&self, before_nano: i64) -> Result<Option<Pruned>, StoreError> {
        reach(&self.connection, before_nano, i64::MAX as u64).map_err(sqlite("read", self.path()))
    }

    /// How many bytes a store has in which nothing is.
    ///
    /// # Errors
    /// [`StoreError::Migrate`].
    pub fn least_bytes() -> Result<u64, StoreError> {
        let failed =
            |source: rusqlite_migration::Error| StoreError::Migrate { path: ":memory:".into(), source: source.into() };
        let mut empty = Connection::open_in_memory().map_err(|e| failed(e.into()))?;
        migrate::migrations().to_latest(&mut empty).map_err(failed)?;
        used_bytes(&empty).map_err(|e| failed(e.into()))
    }

    /// How many bytes the file would have without the pages that are free.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        used_bytes(&self.connection).map_err(sqlite("read", self.path()))
    }
}

/// How many bytes the file would have without the pages that are free.
pub(super) fn used_bytes(db: &Connection) -> rusqlite::Result<u64> {
    Ok((pages(db)? - free_pages(db)?) * number(db, "page_size")?)
}

/// How many events too many there are in a file that should have no more than so many bytes: about, for they are much
/// alike; but if any, so many that some can go.
pub(super) fn too_many(db: &Connection, bytes: u64) -> rusqlite::Result<u64> {
    let used = used_bytes(db)?;
    if used <= bytes {
        return Ok(0);
    }
    let events: u64 =
        db.prepare_cached("SELECT ifnull(sum(events), 0) FROM source")?.query_row([], |row| row.get(0))?;
    let over = u128::from(events) * u128::from(used - bytes) / u128::from(used);
    Ok((over as u64).max(LEAST))
}

/// How many pages there are.
pub(super) fn pages(db: &Connection) -> rusqlite::Result<u64> {
    number(db, "page_count")
}

/// How many pages are free.
pub(super) fn free_pages(db: &Connection) -> rusqlite::Result<u64> {
    number(db, "freelist_count")
}

fn number(db: &Connection, pragma: &str) -> rusqlite::Result<u64> {
    db.prepare_cached(&format!("PRAGMA {pragma}"))?.query_row([], |row| row.get(0))
}

/// Gives some of the pages that were freed back to the disk.
pub(super) fn give_back(db: &Connection, pages: u64) -> rusqlite::Result<()> {
    let mut vacuum = db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    Ok(())
}

/// All that was ever pruned.
pub(super) fn sealed(db: &Connection) -> rusqlite::Result<Option<Sealed>> {
    db.prepare_cached("SELECT events, upto, sealed_nano FROM seal ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok(Sealed { events: row.get(0)?, upto: row.get(1)?, sealed_nano: row.get(2)? }))
        .optional()
}

/// How far a beginning reaches whose events are all older than an instant, `most` of them at most: up to a link, for
/// there the chain's hash is known.
fn reach(db: &Connection, before_nano: i64, most: u64) -> rusqlite::Result<Option<Pruned>> {
    let mut stretches =
        db.prepare_cached("SELECT first_seq, last_seq, events, max_nano FROM stretch ORDER BY first_seq")?;
    let mut stretches = stretches.query([])?;
    let (mut reach, mut events) = (0, 0);
    while let Some(row) = stretches.next()? {
        let (first, last): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (within, max_nano): (u64, i64) = (row.get(2)?, row.get(3)?);
        if max_nano >= before_nano || events + within > most {
            // Of this one a part may go.
            let young = db
                .prepare_cached("SELECT min(seq) FROM event WHERE seq BETWEEN ?1 AND ?2 AND time_nano >= ?3")?
                .query_row([first, last, before_nano], |row| row.get::<_, Option<i64>>(0))?;
            let most = i64::try_from(most - events).unwrap_or(i64::MAX);
            let full = db
                .prepare_cached("SELECT seq FROM event WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT 1 OFFSET ?3")?
                .query_row([first, last, most], |row| row.get::<_, i64>(0))
                .optional()?;
            reach = young.into_iter().chain(full).min().map_or(last, |not| not - 1);
            break;
        }
        (reach, events) = (last, events + within);
    }
    let upto: Option<i64> =
        db.prepare_cached("SELECT max(seq) FROM link WHERE seq <= ?1")?.query_row([reach], |row| row.get(0))?;
    let Some(upto) = upto else { return Ok(None) };
    let events =
        db.prepare_cached("SELECT count(*) FROM event WHERE seq <= ?1")?.query_row([upto], |row| row.get(0))?;
    Ok((events > 0).then_some(Pruned { events, upto }))
}

/// Lets go of a beginning whose events are all older than an instant, `most` of them at most, within the caller's
/// transaction.
pub(super) fn step(
    db: &Connection,
    rows: &mut Rows,
    before_nano: i64,
    most: u64,
    now_nano: i64,
) -> rusqlite::Result<Option<Pruned>> {
    let Some(pruned) = reach(db, before_nano, most)? else { return Ok(None) };
    let upto = pruned.upto;
    let hash: Hash = db.prepare_cached("SELECT hash FROM link WHERE seq = ?1")?.query_row([upto], |row| row.get(0))?;
    seal(db, rows, Head { seq: upto, hash }, &pruned, now_nano)?;
    enter_again(db, rows, upto, before_nano)?;
    let healthchecks = healthchecks_to_keep(db, upto)?;
    keep_exec_ids(db, rows, upto)?;
    let gone = Gone::upto(db, upto)?;
    for table in ["event", "verbatim", "rejected", "gap", "naming", "healthcheck", "link"] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE seq <= ?1"))?.execute([upto])?;
    }
    for (source, chain_name, container, command) in healthchecks {
        rows.add_healthcheck(db, (source, &chain_name), &container, &command)?;
    }
    // The arrival that the first event left belongs to begins with it from now on.
    db.prepare_cached(
        "UPDATE OR REPLACE arrival SET first_seq = ?1 + 1
         WHERE first_seq = (SELECT max(first_seq) FROM arrival WHERE first_seq <= ?1 + 1)",
    )?
    .execute([upto])?;
    db.prepare_cached("DELETE FROM arrival WHERE first_seq <= ?1")?.execute([upto])?;
    cut_stretches(db, upto)?;
    forget_actors(db, rows.given(), &gone.actors)?;
    recount(db, &gone)?;
    rows.finish_chain(db)?;
    rows.pruned();
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

/// Which events refer to the exec ID of an event before them, as far behind what goes as that may be: each is found once,
/// however small the steps are.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Up to this sequence they are found.
    looked: i64,
    /// The event referred to, and the one that refers.
    found: BTreeSet<(i64, i64)>,
}

/// An exec ID that is named by an event that goes is written out where it is referred to.
fn keep_exec_ids(db: &Connection, rows: &mut Rows, upto: i64) -> rusqlite::Result<()> {
    let head = rows.head().seq;
    let References { looked, found } = &mut rows.references;
    let (from, to) = ((*looked).max(upto) + 1, head.min(upto + EXEC_REACH));
    let mut refer = db
        .prepare_cached("SELECT exec_id, seq FROM event WHERE seq BETWEEN ?1 AND ?2 AND typeof(exec_id) = 'integer'")?;
    let mut refer = refer.query([from, to])?;
    while let Some(row) = refer.next()? {
        found.insert((row.get(0)?, row.get(1)?));
    }
    *looked = to.max(*looked);
    let stay = found.split_off(&(upto + 1, 0));
    let mut write_out = db.prepare_cached(
        "UPDATE event SET exec_id = (SELECT same.exec_id FROM event AS same WHERE same.seq = ?1)
         WHERE seq = ?2 AND exec_id = ?1",
    )?;
    for (same, seq) in std::mem::replace(found, stay).into_iter().filter(|(_, seq)| *seq > upto) {
        write_out.execute([same, seq])?;
    }
    Ok(())
}

/// What goes.
struct Gone {
    sources: BTreeMap<i64, GoneOf>,
    actors: Vec<i64>,
}

/// What goes of a source: how many events, and what they span.
struct GoneOf {
    events: u64,
    min_nano: i64,
    max_nano: i64,
}

impl Gone {
    fn upto(db: &Connection, upto: i64) -> rusqlite::Result<Gone> {
        let mut gone = Gone { sources: BTreeMap::new(), actors: Vec::new() };
        let mut source = db.prepare_cached("SELECT source FROM actor WHERE id = ?1")?;
        // The index on actors, in whose order they would come, is as long as the record.
        let mut actors = db.prepare_cached(
            "SELECT actor, count(*), min(time_nano), max(time_nano) FROM event NOT INDEXED WHERE seq <= ?1 GROUP BY actor",
        )?;
        let mut actors = actors.query([upto])?;
        while let Some(row) = actors.next()? {
            let actor = row.get(0)?;
            gone.actors.push(actor);
            let more = GoneOf { events: row.get(1)?, min_nano: row.get(2)?, max_nano: row.get(3)? };
            gone.sources
                .entry(source.query_row([actor], |row| row.get(0))?)
                .and_modify(|gone| {
                    gone.events += more.events;
                    gone.min_nano = gone.min_nano.min(more.min_nano);
                    gone.max_nano = gone.max_nano.max(more.max_nano);
                })
                .or_insert(more);
        }
        Ok(gone)
    }
}

/// Actors of whom no event is left go too. What they shared with others goes when it is swept.
fn forget_actors(db: &Connection, given: Given, actors: &[i64]) -> rusqlite::Result<()> {
    given.store(db)?;
    let mut forget =
        db.prepare_cached("DELETE FROM actor WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM event WHERE actor = ?1)")?;
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
fn recount(db: &Connection, gone: &Gone) -> rusqlite::Result<()> {
    for (source, gone) in &gone.sources {
        let (events, first, last): (u64, i64, i64) = db
            .prepare_cached("SELECT events, first_nano, last_nano FROM source WHERE id = ?1")?
            .query_row([source], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let events = events.saturating_sub(gone.events);
        let (first, last) = match events {
            0 => (None, None),
            _ => (
                if gone.min_nano > first { Some(first) } else { farthest(db, *source, Side::Oldest)? },
                if gone.max_nano < last { Some(last) } else { farthest(db, *source, Side::Newest)? },
            ),
        };
        db.prepare_cached("UPDATE source SET events = ?2, first_nano = ?3, last_nano = ?4 WHERE id = ?1")?
            .execute(params![source, events, first, last])?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Oldest,
    Newest,
}

/// The oldest or newest instant of a source that has events: looked for in the stretches that reach farthest, as long as
/// one that reaches farther may come; where it has nothing in the first of them, all its events are asked.
fn farthest(db: &Connection, source: i64, side: Side) -> rusqlite::Result<Option<i64>> {
    let (which, reach, order) = match side {
        Side::Oldest => ("min", "min_nano", "ASC"),
        Side::Newest => ("max", "max_nano", "DESC"),
    };
    let sign = if side == Side::Oldest { 1 } else { -1 };
    let stretches: Vec<(i64, i64, i64)> = db
        .prepare_cached(&format!("SELECT first_seq, last_seq, {reach} FROM stretch ORDER BY {reach} {order} LIMIT ?1"))?
        .query_map([LOOKED_INTO + 1], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut found: Option<i64> = None;
    for (first_seq, last_seq, reach) in stretches.iter().take(LOOKED_INTO) {
        if found.is_some_and(|found| found * sign <= reach * sign) {
            return Ok(found);
        }
        let here: Option<i64> = db
            .prepare_cached(&format!(
                "SELECT {which}(time_nano) FROM event JOIN actor ON actor.id = event.actor
                 WHERE seq BETWEEN ?1 AND ?2 AND actor.source = ?3"
            ))?
            .query_row([*first_seq, *last_seq, source], |row| row.get(0))?;
        found = found.into_iter().chain(here).min_by_key(|instant| instant * sign);
    }
    match stretches.get(LOOKED_INTO) {
        Some((.., reach)) if found.is_none_or(|found| found * sign > reach * sign) => db
            .prepare_cached(&format!(
                "SELECT {which}(time_nano) FROM event WHERE actor IN (SELECT id FROM actor WHERE source = ?1)"
            ))?
            .query_row([source], |row| row.get(0)),
        _ => Ok(found),
    }
}
