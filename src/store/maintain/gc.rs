//! Deletes shared texts that no event uses any more: labels (`label`), event kinds (`shape`) and line templates
//! (`form`).
//!
//! Garbage collection marks and sweeps, in pieces of some milliseconds. Actors and events are only ever added at the
//! end, and IDs are never given twice. So what was marked stays marked. Before rows are deleted, only what was added
//! since must be marked, in the same transaction. This is correct whichever process writes at the same time.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::pages::{VACUUM_STEP_PAGES, free_pages, incremental_vacuum, truncate_wal};
use crate::store::error::{StoreError, sqlite_error};
use crate::store::format::blocks::parse_ids;
use crate::store::format::checkpoint;
use crate::store::format::max_ids::MaxIds;
use crate::store::format::store::Store;
use crate::store::ids::{ActorId, KindId, LabelId, Nanos, Seq, TemplateId};

/// Duration of a step, without its commit.
const STEP_DURATION: Duration = Duration::from_millis(10);

/// Number of rows that are marked, and number of rows that are swept, between two checks of the clock.
const MARK_BATCH_ROWS: i64 = 1_024;
const SWEEP_BATCH_ROWS: i64 = 64;

/// Garbage exceeds the threshold when the events pruned since the last collection are at least an eighth of the
/// remaining ones. They must also be at least `MIN_GARBAGE_EVENTS`, or as many as remain.
const GARBAGE_DIVISOR: u64 = 8;
const MIN_GARBAGE_EVENTS: u64 = 1_024;

/// Maximum number of rows in a table that is rewritten: a larger table would take too long in one step.
const MAX_REWRITE_ROWS: u32 = 10_000;

/// Number of attempts to truncate the WAL.
const WAL_TRUNCATE_ATTEMPTS: u32 = 100;

/// Maximum delay before garbage is collected: one day.
const MAX_GC_DELAY_NANO: u64 = 86_400_000_000_000;

/// Numbers that decide when garbage is collected.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct GarbageStats {
    /// Events pruned since the last garbage collection, and in total.
    pruned_since_gc: u64,
    pruned_total: i64,
    /// Number of remaining events.
    remaining_events: u64,
    last_gc_nano: Nanos,
}

impl GarbageStats {
    pub(in crate::store) fn read(db: &Connection) -> rusqlite::Result<GarbageStats> {
        let pruned_total = checkpoint::latest(db)?.map_or(0, |checkpoint| checkpoint.events as i64);
        let (pruned_at_last_gc, last_gc_nano): (i64, Nanos) = db
            .prepare_cached("SELECT events, swept_nano FROM swept")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
            .unwrap_or_default();
        let remaining_events =
            db.prepare_cached("SELECT ifnull(sum(events), 0) FROM source")?.query_row([], |row| row.get(0))?;
        Ok(GarbageStats {
            pruned_since_gc: pruned_total.saturating_sub(pruned_at_last_gc).max(0) as u64,
            pruned_total,
            remaining_events,
            last_gc_nano,
        })
    }

    /// Returns true if there can be garbage.
    pub(in crate::store) fn has_garbage(&self) -> bool {
        self.pruned_since_gc > 0
    }

    /// Returns true if so much was pruned that unused texts take space from events.
    pub(in crate::store) fn exceeds_threshold(&self) -> bool {
        self.has_garbage()
            && self.pruned_since_gc
                >= (self.remaining_events / GARBAGE_DIVISOR).max(MIN_GARBAGE_EVENTS.min(self.remaining_events))
    }

    /// Returns true if it is time to collect garbage.
    pub(in crate::store) fn is_due(&self, now_nano: Nanos) -> bool {
        self.exceeds_threshold()
            || self.has_garbage() && now_nano.0.saturating_sub(self.last_gc_nano.0).unsigned_abs() >= MAX_GC_DELAY_NANO
    }
}

/// A garbage collection in progress.
#[derive(Debug)]
pub(in crate::store) struct GarbageCollection {
    /// Number of events that had been pruned when it began.
    pruned_total: i64,
    /// Highest IDs when it began; rows added later are left alone.
    max_ids: MaxIds,
    /// Last actor and last sequence that were marked.
    marked_actor: ActorId,
    marked_seq: Seq,
    labels: IdSet<LabelId>,
    kinds: IdSet<KindId>,
    templates: IdSet<TemplateId>,
    phase: Phase,
    /// Number of deleted rows.
    pub(in crate::store) deleted_rows: u64,
}

/// Next phase. A phase that deletes rows contains the ID after which it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Mark,
    SweepKinds(KindId),
    SweepTemplates,
    SweepLabels(LabelId),
    Done,
}

impl GarbageCollection {
    pub(in crate::store) fn begin(stats: &GarbageStats, max_ids: MaxIds) -> GarbageCollection {
        GarbageCollection {
            pruned_total: stats.pruned_total,
            max_ids,
            marked_actor: ActorId(0),
            marked_seq: Seq(0),
            labels: IdSet::default(),
            kinds: IdSet::default(),
            templates: IdSet::default(),
            phase: Phase::Mark,
            deleted_rows: 0,
        }
    }

    /// Returns true if the next step only reads.
    fn is_read_only(&self) -> bool {
        self.phase == Phase::Mark
    }

    /// Runs one step in the caller's transaction and returns true if it was the last one. If the transaction fails,
    /// garbage collection must start again.
    pub(in crate::store) fn step(
        &mut self,
        db: &Connection,
        max_ids: MaxIds,
        now_nano: Nanos,
    ) -> rusqlite::Result<bool> {
        let started = Instant::now();
        if !self.is_read_only() {
            // Marks what was added since the last step; nothing more can be added before this transaction ends.
            while !self.mark(db)? {}
            max_ids.store(db)?;
        }
        loop {
            self.run_phase(db)?;
            match self.phase {
                Phase::Done => break,
                _ if started.elapsed() >= STEP_DURATION => return Ok(false),
                // This transaction may be one that only reads.
                Phase::SweepKinds(KindId(0)) => return Ok(false),
                _ => {}
            }
        }
        rewrite_small_tables(db)?;
        db.prepare_cached("UPDATE swept SET events = ?1, swept_nano = ?2")?
            .execute(params![self.pruned_total, now_nano])?;
        Ok(true)
    }

    fn run_phase(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.phase = match self.phase {
            Phase::Mark => match self.mark(db)? {
                true => Phase::SweepKinds(KindId(0)),
                false => Phase::Mark,
            },
            Phase::SweepKinds(after) => self.sweep_kinds(db, after)?.map_or(Phase::SweepTemplates, Phase::SweepKinds),
            Phase::SweepTemplates => {
                self.sweep_templates(db)?;
                Phase::SweepLabels(LabelId(0))
            }
            Phase::SweepLabels(after) => self.sweep_labels(db, after)?.map_or(Phase::Done, Phase::SweepLabels),
            Phase::Done => Phase::Done,
        };
        Ok(())
    }

    /// Marks the labels of the next actors and the event kinds of the next block. Returns true if none are left.
    fn mark(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        let mut marked = 0;
        let mut actors = db.prepare_cached("SELECT id, labels FROM actor WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let mut actors = actors.query(params![self.marked_actor, MARK_BATCH_ROWS])?;
        while let Some(row) = actors.next()? {
            self.marked_actor = row.get(0)?;
            parse_ids(row.get_ref(1)?.as_str()?).for_each(|label| self.labels.insert(label));
            marked += 1;
        }
        Ok(self.mark_block(db)? && marked < MARK_BATCH_ROWS)
    }

    /// Marks the event kinds of the next block. A complete block lists its kinds, so its events need not be read. The
    /// events of the first block are read, because a part of it may have been pruned.
    fn mark_block(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        let block: Option<(Seq, Seq, bool, Option<String>)> = db
            .prepare_cached(
                "SELECT first_seq, last_seq, first_seq = (SELECT min(first_seq) FROM stretch), shapes FROM stretch
                 WHERE first_seq >= ifnull((SELECT max(first_seq) FROM stretch WHERE first_seq <= ?1), ?1)
                   AND last_seq > ?1
                 ORDER BY first_seq LIMIT 1",
            )?
            .query_row([self.marked_seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((first, last, is_first, kinds_json)) = block else { return Ok(true) };
        match kinds_json {
            Some(kinds_json) if !is_first && first > self.marked_seq => {
                parse_ids(&kinds_json).for_each(|kind_id| self.kinds.insert(kind_id));
            }
            _ => {
                let mut events = db.prepare_cached("SELECT shape FROM event WHERE seq > ?1 AND seq <= ?2")?;
                let mut events = events.query([self.marked_seq, last])?;
                while let Some(row) = events.next()? {
                    self.kinds.insert(row.get(0)?);
                }
            }
        }
        self.marked_seq = last;
        Ok(false)
    }

    /// Deletes event kinds that no event has, and marks the line templates of the others. Returns the ID after which to
    /// continue.
    fn sweep_kinds(&mut self, db: &Connection, after: KindId) -> rusqlite::Result<Option<KindId>> {
        let mut found =
            db.prepare_cached("SELECT id, form FROM shape WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
        let mut found = found.query(params![after, self.max_ids.kind, SWEEP_BATCH_ROWS])?;
        let mut delete = db.prepare_cached(
            "DELETE FROM shape WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM event WHERE shape = ?1 AND exec_id IS NULL)",
        )?;
        let mut last = None;
        while let Some(row) = found.next()? {
            let (id, template_id): (KindId, Option<TemplateId>) = (row.get(0)?, row.get(1)?);
            last = Some(id);
            let deleted = if self.kinds.contains(id) { 0 } else { delete.execute([id])? };
            self.deleted_rows += deleted as u64;
            if deleted == 0 {
                template_id.into_iter().for_each(|template_id| self.templates.insert(template_id));
            }
        }
        Ok(last)
    }

    /// Deletes the line templates that no event kind has; there are at most a thousand templates.
    fn sweep_templates(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut newer = db.prepare_cached("SELECT DISTINCT form FROM shape WHERE id > ?1 AND form IS NOT NULL")?;
        let mut later = newer.query([self.max_ids.kind])?;
        while let Some(row) = later.next()? {
            self.templates.insert(row.get(0)?);
        }
        let templates: Vec<TemplateId> = db
            .prepare_cached("SELECT id FROM form WHERE id <= ?1")?
            .query_map([self.max_ids.template], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for template_id in templates.into_iter().filter(|template_id| !self.templates.contains(*template_id)) {
            self.deleted_rows += db.prepare_cached("DELETE FROM form WHERE id = ?1")?.execute([template_id])? as u64;
        }
        Ok(())
    }

    /// Deletes labels that no actor has. Returns the ID after which to continue.
    fn sweep_labels(&mut self, db: &Connection, after: LabelId) -> rusqlite::Result<Option<LabelId>> {
        let mut found = db.prepare_cached("SELECT id FROM label WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
        let mut found = found.query(params![after, self.max_ids.label, SWEEP_BATCH_ROWS])?;
        let mut delete = db.prepare_cached("DELETE FROM label WHERE id = ?1")?;
        let mut last = None;
        while let Some(row) = found.next()? {
            let id = row.get(0)?;
            last = Some(id);
            if !self.labels.contains(id) {
                self.deleted_rows += delete.execute([id])? as u64;
            }
        }
        Ok(last)
    }
}

/// Writes the small tables again, on pages that were emptied. Where SQLite splits or joins pages, a copy of a moved row
/// can stay behind, and no deletion finds it. Large tables are left alone, because that would delay other connections.
fn rewrite_small_tables(db: &Connection) -> rusqlite::Result<()> {
    for table in ["label", "shape", "actor"] {
        let exceeds_limit = format!("SELECT 1 FROM {table} LIMIT 1 OFFSET {MAX_REWRITE_ROWS}");
        if !db.prepare_cached(&exceeds_limit)?.exists([])? {
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

/// Set of IDs that mostly follow each other.
#[derive(Debug)]
struct IdSet<Id> {
    /// Bits of 64 consecutive IDs.
    bits: HashMap<i64, u64>,
    ids: PhantomData<Id>,
}

impl<Id> Default for IdSet<Id> {
    fn default() -> Self {
        IdSet { bits: HashMap::new(), ids: PhantomData }
    }
}

impl<Id: Into<i64>> IdSet<Id> {
    fn insert(&mut self, id: Id) {
        let id = id.into();
        *self.bits.entry(id >> 6).or_default() |= 1 << (id & 63);
    }

    fn contains(&self, id: Id) -> bool {
        let id = id.into();
        self.bits.get(&(id >> 6)).is_some_and(|bits| bits & 1 << (id & 63) != 0)
    }
}

impl Store {
    /// Returns true if so much was pruned since the last garbage collection that unused texts take space from events.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`], as for all of these methods.
    pub fn needs_garbage_collection(&self) -> Result<bool, StoreError> {
        GarbageStats::read(self.connection())
            .map(|stats| stats.exceeds_threshold())
            .map_err(sqlite_error("read", self.path()))
    }

    /// Deletes texts (labels, command lines) that no event uses any more, if events were pruned since the last
    /// collection. Calls `between_steps` between two steps.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; texts that were not deleted by then stay.
    pub fn collect_garbage(&mut self, now_nano: i64, between_steps: impl FnMut()) -> Result<(), StoreError> {
        self.collect_all_garbage(now_nano, between_steps).map_err(sqlite_error("prune", self.path()))
    }

    fn collect_all_garbage(&mut self, now_nano: i64, mut between_steps: impl FnMut()) -> rusqlite::Result<()> {
        let mut gc: Option<GarbageCollection> = None;
        loop {
            let is_read_only = gc.as_ref().is_none_or(GarbageCollection::is_read_only);
            let behavior = if is_read_only { TransactionBehavior::Deferred } else { TransactionBehavior::Immediate };
            let db = self.connection_mut().transaction_with_behavior(behavior)?;
            let max_ids = MaxIds::load(&db)?;
            let gc = match &mut gc {
                Some(gc) => gc,
                None => {
                    let stats = GarbageStats::read(&db)?;
                    if !stats.has_garbage() {
                        return Ok(());
                    }
                    gc.insert(GarbageCollection::begin(&stats, max_ids))
                }
            };
            let done = gc.step(&db, max_ids, Nanos(now_nano))?;
            db.commit()?;
            if done {
                break;
            }
            between_steps();
        }
        while free_pages(self.connection())? > 0 {
            incremental_vacuum(self.connection(), VACUUM_STEP_PAGES)?;
            between_steps();
        }
        for _ in 0..WAL_TRUNCATE_ATTEMPTS {
            if truncate_wal(self.connection())? {
                break;
            }
            between_steps();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_set_contains_exactly_the_inserted_ids() {
        let mut ids = IdSet::<i64>::default();
        let some = [0, 1, 63, 64, 65, 127, 1 << 40];
        some.iter().for_each(|id| ids.insert(*id));
        assert!((0..200).chain([(1 << 40) - 1, 1 << 40]).all(|id| ids.contains(id) == some.contains(&id)));
    }
}
