//! Deletes the oldest part of the store, in small steps that never hold up the writer for long.
//!
//! The chain can be verified from any entry whose hash is known. So pruning always deletes a beginning of the chain and
//! appends a *checkpoint*: an entry with the last deleted sequence and the hash there. Three kinds of entries outlive
//! the pruned part and are appended again: names of sources, gaps that reach further, and health check commands of
//! containers that still exist.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::deleted_events::DeletedEvents;
use super::pages::{VACUUM_STEP_PAGES, incremental_vacuum, used_bytes};
use crate::store::error::{StoreError, sqlite_error};
use crate::store::format::chain::{CheckpointFields, GapFields, Hash, Head};
use crate::store::format::checkpoint;
use crate::store::format::encode::EventEncoder;
use crate::store::format::entries::EntrySource;
use crate::store::format::max_ids::MaxIds;
use crate::store::format::migrate;
use crate::store::format::store::Store;
use crate::store::ids::{ActorId, Nanos, Seq, SourceId};

/// Maximum number of events deleted in one step, which takes a tenth of a second.
const STEP_EVENTS: u64 = 16_384;

/// Minimum number of events to delete from a file that is too large. A step ends at a stored link, and only every 64th
/// entry has one.
const MIN_STEP_EVENTS: u64 = 256;

/// Pruned beginning of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunedRange {
    /// Number of pruned events.
    pub events: u64,
    /// Last pruned sequence.
    pub last_seq: i64,
}

impl Store {
    /// Deletes the oldest events, up to the first one that is not older than `cutoff_nano`. While the file is larger
    /// than `max_bytes`, it deletes events of any age. One call is one step: call it until it returns `None`, when
    /// nothing is left to delete.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; in this case nothing was deleted.
    pub fn prune(
        &mut self,
        cutoff_nano: i64,
        max_bytes: u64,
        now_nano: i64,
    ) -> Result<Option<PrunedRange>, StoreError> {
        let pruned = self.prune_step(cutoff_nano, max_bytes, now_nano).map_err(sqlite_error("prune", self.path()))?;
        if pruned.is_some() {
            incremental_vacuum(self.connection(), VACUUM_STEP_PAGES).map_err(sqlite_error("prune", self.path()))?;
        }
        Ok(pruned)
    }

    fn prune_step(&mut self, cutoff_nano: i64, max_bytes: u64, now_nano: i64) -> rusqlite::Result<Option<PrunedRange>> {
        let db = self.connection_mut().transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut encoder = EventEncoder::new();
        encoder.begin(&db)?;
        let limits = match excess_events(&db, max_bytes)? {
            0 => PruneLimits { cutoff_nano: Nanos(cutoff_nano), max_events: STEP_EVENTS },
            events => PruneLimits { cutoff_nano: Nanos::MAX, max_events: events.min(STEP_EVENTS) },
        };
        let pruned = step(&db, &mut encoder, limits, Nanos(now_nano))?;
        db.commit()?;
        Ok(pruned)
    }

    /// Returns the number of events that the next steps would delete, and their last sequence.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn prunable(&self, cutoff_nano: i64) -> Result<Option<PrunedRange>, StoreError> {
        prunable_range(self.connection(), PruneLimits { cutoff_nano: Nanos(cutoff_nano), max_events: i64::MAX as u64 })
            .map_err(sqlite_error("read", self.path()))
    }

    /// Size of a store without entries, in bytes.
    ///
    /// # Errors
    /// [`StoreError::Migrate`].
    pub fn empty_store_bytes() -> Result<u64, StoreError> {
        let migrate_error =
            |source: rusqlite_migration::Error| StoreError::Migrate { path: ":memory:".into(), source: source.into() };
        let mut empty = Connection::open_in_memory().map_err(|e| migrate_error(e.into()))?;
        migrate::migrations().to_latest(&mut empty).map_err(migrate_error)?;
        used_bytes(&empty).map_err(|e| migrate_error(e.into()))
    }

    /// Size of the file without its free pages, in bytes.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        used_bytes(self.connection()).map_err(sqlite_error("read", self.path()))
    }
}

/// Estimates how many events must be deleted to bring the file below `max_bytes`, as events are of similar size. The
/// result is 0 or at least [`MIN_STEP_EVENTS`], so that a step can delete some.
pub(super) fn excess_events(db: &Connection, max_bytes: u64) -> rusqlite::Result<u64> {
    let used = used_bytes(db)?;
    if used <= max_bytes {
        return Ok(0);
    }
    let events: u64 =
        db.prepare_cached("SELECT ifnull(sum(events), 0) FROM source")?.query_row([], |row| row.get(0))?;
    let excess = u128::from(events) * u128::from(used - max_bytes) / u128::from(used);
    Ok((excess as u64).max(MIN_STEP_EVENTS))
}

/// Limits of one step of pruning.
#[derive(Clone, Copy, Debug)]
pub(super) struct PruneLimits {
    /// Only events before this instant are deleted.
    pub(super) cutoff_nano: Nanos,
    /// Maximum number of events.
    pub(super) max_events: u64,
}

/// Finds the longest beginning within the limits. It ends at a stored link, because the chain's hash is known there.
fn prunable_range(db: &Connection, limits: PruneLimits) -> rusqlite::Result<Option<PrunedRange>> {
    let PruneLimits { cutoff_nano, max_events } = limits;
    let mut blocks =
        db.prepare_cached("SELECT first_seq, last_seq, events, max_nano FROM stretch ORDER BY first_seq")?;
    let mut blocks = blocks.query([])?;
    let (mut end_seq, mut events) = (Seq(0), 0);
    while let Some(row) = blocks.next()? {
        let (first, last): (Seq, Seq) = (row.get(0)?, row.get(1)?);
        let (block_events, max_nano): (u64, Nanos) = (row.get(2)?, row.get(3)?);
        if max_nano >= cutoff_nano || events + block_events > max_events {
            // A part of this block may be deleted.
            let first_recent = db
                .prepare_cached("SELECT min(seq) FROM event WHERE seq BETWEEN ?1 AND ?2 AND time_nano >= ?3")?
                .query_row(params![first, last, cutoff_nano], |row| row.get::<_, Option<Seq>>(0))?;
            let remaining = i64::try_from(max_events - events).unwrap_or(i64::MAX);
            let first_over_limit = db
                .prepare_cached("SELECT seq FROM event WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT 1 OFFSET ?3")?
                .query_row(params![first, last, remaining], |row| row.get::<_, Seq>(0))
                .optional()?;
            end_seq = first_recent.into_iter().chain(first_over_limit).min().map_or(last, |seq| seq - 1);
            break;
        }
        (end_seq, events) = (last, events + block_events);
    }
    let last_seq: Option<Seq> =
        db.prepare_cached("SELECT max(seq) FROM link WHERE seq <= ?1")?.query_row([end_seq], |row| row.get(0))?;
    let Some(last_seq) = last_seq else { return Ok(None) };
    let events =
        db.prepare_cached("SELECT count(*) FROM event WHERE seq <= ?1")?.query_row([last_seq], |row| row.get(0))?;
    Ok((events > 0).then_some(PrunedRange { events, last_seq: last_seq.0 }))
}

/// Deletes the longest beginning within the limits, in the caller's transaction.
pub(super) fn step(
    db: &Connection,
    encoder: &mut EventEncoder,
    limits: PruneLimits,
    now_nano: Nanos,
) -> rusqlite::Result<Option<PrunedRange>> {
    let Some(pruned) = prunable_range(db, limits)? else { return Ok(None) };
    let last_seq = Seq(pruned.last_seq);
    let hash: Hash =
        db.prepare_cached("SELECT hash FROM link WHERE seq = ?1")?.query_row([last_seq], |row| row.get(0))?;
    append_checkpoint(db, encoder, Head { seq: pruned.last_seq, hash }, &pruned, now_nano)?;
    reappend_names_and_gaps(db, encoder, last_seq, limits.cutoff_nano)?;
    let healthchecks = retained_healthchecks(db, last_seq)?;
    let head_seq = Seq(encoder.chain.head().seq);
    encoder.exec_id_references.materialize(db, last_seq, head_seq)?;
    let deleted = DeletedEvents::up_to(db, last_seq)?;
    for table in ["event", "verbatim", "rejected", "gap", "naming", "healthcheck", "link"] {
        db.prepare_cached(&format!("DELETE FROM {table} WHERE seq <= ?1"))?.execute([last_seq])?;
    }
    for RetainedHealthcheck { source_id, chain_name, container, command } in healthchecks {
        let source = EntrySource { id: source_id, chain_name: &chain_name };
        encoder.chain.add_healthcheck(db, source, &container, &command)?;
    }
    // The arrival row of the first remaining event now begins with that event.
    db.prepare_cached(
        "UPDATE OR REPLACE arrival SET first_seq = ?1 + 1
         WHERE first_seq = (SELECT max(first_seq) FROM arrival WHERE first_seq <= ?1 + 1)",
    )?
    .execute([last_seq])?;
    db.prepare_cached("DELETE FROM arrival WHERE first_seq <= ?1")?.execute([last_seq])?;
    trim_blocks(db, last_seq)?;
    delete_unreferenced_actors(db, encoder.max_ids(), &deleted.actors)?;
    deleted.update_source_stats(db)?;
    encoder.chain.store(db)?;
    encoder.on_pruned();
    Ok(Some(pruned))
}

/// Appends the checkpoint to the chain.
fn append_checkpoint(
    db: &Connection,
    encoder: &mut EventEncoder,
    pruned_head: Head,
    pruned: &PrunedRange,
    now_nano: Nanos,
) -> rusqlite::Result<()> {
    let previous_events = checkpoint::latest(db)?.map_or(0, |checkpoint| checkpoint.events as i64);
    // The new checkpoint includes what earlier ones counted, and those in the pruned part must be deleted.
    db.prepare_cached("DELETE FROM seal WHERE seq <= ?1")?.execute([pruned_head.seq])?;
    let events = previous_events + pruned.events as i64;
    encoder.chain.add_checkpoint(db, CheckpointFields { pruned_head, events, created_nano: now_nano })
}

/// Appends names and gaps again that must outlive their entries: all names, and the gaps that reach further.
fn reappend_names_and_gaps(
    db: &Connection,
    encoder: &mut EventEncoder,
    last_seq: Seq,
    cutoff_nano: Nanos,
) -> rusqlite::Result<()> {
    let mut names = db.prepare_cached(
        "SELECT source.id, ifnull(engine_id, source.name), source.name FROM source
         WHERE (SELECT max(seq) FROM naming WHERE naming.source = source.id) <= ?1",
    )?;
    let mut names = names.query([last_seq])?;
    while let Some(row) = names.next()? {
        let (chain_name, name): (String, String) = (row.get(1)?, row.get(2)?);
        encoder.chain.add_naming(db, EntrySource { id: row.get(0)?, chain_name: &chain_name }, &name)?;
    }
    let mut gaps = db.prepare_cached(
        "SELECT gap.source, ifnull(engine_id, name), from_nano, to_nano, reason, detail
         FROM gap JOIN source ON source.id = gap.source
         WHERE gap.seq <= ?1 AND reason IS NOT NULL AND ifnull(to_nano, ?2) >= ?2
           AND gap.seq = (SELECT max(later.seq) FROM gap AS later
                          WHERE later.source = gap.source AND later.from_nano IS gap.from_nano)",
    )?;
    let mut gaps = gaps.query(params![last_seq, cutoff_nano])?;
    while let Some(row) = gaps.next()? {
        let chain_name: String = row.get(1)?;
        let (reason, detail): (Option<String>, Option<String>) = (row.get(4)?, row.get(5)?);
        let source = EntrySource { id: row.get(0)?, chain_name: &chain_name };
        let (from, to) = (row.get(2)?, row.get(3)?);
        encoder.chain.add_gap(
            db,
            source,
            GapFields { from, to, reason: reason.as_deref(), detail: detail.as_deref() },
        )?;
    }
    Ok(())
}

/// Health check command that outlives its entry.
struct RetainedHealthcheck {
    source_id: SourceId,
    chain_name: String,
    container: String,
    command: String,
}

/// Reads the health check commands of containers that still exist or have remaining events. They are appended again
/// once their old entries are deleted.
fn retained_healthchecks(db: &Connection, last_seq: Seq) -> rusqlite::Result<Vec<RetainedHealthcheck>> {
    let mut kept = db.prepare_cached(
        "SELECT source.id, ifnull(engine_id, name), h.container, h.command
         FROM healthcheck AS h JOIN source ON source.id = h.source
         WHERE h.seq <= ?1 AND (
             EXISTS (SELECT 1 FROM actor JOIN event ON event.actor = actor.id
                     WHERE actor.actor_id = h.container AND actor.source = h.source AND event.seq > ?1)
             OR EXISTS (SELECT 1 FROM snapshot WHERE snapshot.source = h.source AND instr(containers, h.container)))
         ORDER BY h.seq",
    )?;
    let retained = |row: &Row<'_>| {
        Ok(RetainedHealthcheck {
            source_id: row.get(0)?,
            chain_name: row.get(1)?,
            container: row.get(2)?,
            command: row.get(3)?,
        })
    };
    kept.query_map([last_seq], retained)?.collect()
}

/// Deletes actors without remaining events. Garbage collection deletes the texts that they shared with others.
fn delete_unreferenced_actors(db: &Connection, max_ids: MaxIds, actors: &[ActorId]) -> rusqlite::Result<()> {
    max_ids.store(db)?;
    let mut delete =
        db.prepare_cached("DELETE FROM actor WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM event WHERE actor = ?1)")?;
    for actor in actors {
        delete.execute([actor])?;
    }
    Ok(())
}

/// Deletes the pruned blocks and recomputes the one that was cut in the middle.
fn trim_blocks(db: &Connection, last_seq: Seq) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM stretch WHERE last_seq <= ?1")?.execute([last_seq])?;
    db.prepare_cached(
        "UPDATE stretch SET (first_seq, events, min_nano, max_nano) =
             (SELECT min(seq), count(*), min(time_nano), max(time_nano) FROM event
              WHERE seq BETWEEN ?1 + 1 AND stretch.last_seq)
         WHERE first_seq <= ?1 AND EXISTS (SELECT 1 FROM event WHERE seq BETWEEN ?1 + 1 AND stretch.last_seq)",
    )?
    .execute([last_seq])?;
    db.prepare_cached("DELETE FROM stretch WHERE first_seq <= ?1")?.execute([last_seq])?;
    Ok(())
}
