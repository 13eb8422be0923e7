//! Plans a query: selects the rows to read.
//!
//! The planner first finds the event kinds and actors that can match, in small tables, and then the blocks and the
//! index to read their events. It may select too many rows, but never too few: the caller tests each event.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use rusqlite::{Connection, ToSql, params, params_from_iter};

use super::conditions::WhereClause;
use super::query::{Actions, Query, Snapshot};
use crate::store::format::blocks::{self, Block, parse_ids};
use crate::store::format::decode::{EVENT_COLUMNS, EventRow};
use crate::store::ids::{ActorId, KindId, LabelId, Nanos, Seq};

/// Number of events up to which all are read, without a search for the event kinds and actors that can match.
const SMALL_SNAPSHOT_EVENTS: i64 = 500;

/// Maximum number of actors or event kinds that are looked up in an index. For more of them, all rows are read.
const MAX_INDEXED_IDS: usize = 64;

/// Maximum number of actors whose first and last event are looked up.
const MAX_RANGED_ACTORS: usize = 5_000;

/// Access path to the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AccessPath {
    /// Reads all rows of a block.
    Scan,
    /// Uses the index on actors.
    ByActor(Vec<ActorId>),
    /// Uses the index on event kinds.
    ByKind(Vec<KindId>),
}

/// Rows to read, and the conditions that they must meet.
#[derive(Debug)]
pub(super) struct QueryPlan {
    pub(super) blocks: Vec<Block>,
    pub(super) access: AccessPath,
    pub(super) kinds: Option<HashSet<KindId>>,
    pub(super) actors: Option<HashSet<ActorId>>,
    since: Nanos,
    until: Nanos,
    snapshot: Snapshot,
    pub(super) exclude_healthchecks: bool,
    /// Number of blocks that cannot contain a matching row.
    pub(super) skipped_blocks: usize,
}

impl QueryPlan {
    pub(super) fn build(db: &Connection, query: &Query, snapshot: Snapshot) -> rusqlite::Result<QueryPlan> {
        // One transaction, so that all lookups see the same moment. It ends before the first event is read.
        let transaction = db.unchecked_transaction()?;
        // For a few events, as a follower requests them, testing each one is faster than finding the kinds and actors
        // that can match.
        let is_small = snapshot.to.saturating_sub(snapshot.after) <= SMALL_SNAPSHOT_EVENTS;
        let query = if is_small {
            &Query { types: Vec::new(), actions: Actions::Any, actors: Vec::new(), actor_test: None, ..query.clone() }
        } else {
            query
        };
        let kinds = find_kinds(db, query)?;
        let actors = find_actors(db, query)?;
        let mut plan = QueryPlan {
            blocks: Vec::new(),
            access: AccessPath::Scan,
            since: query.since.map_or(Nanos::MIN, Nanos),
            until: query.until.map_or(Nanos::MAX, Nanos),
            snapshot,
            exclude_healthchecks: query.exclude_healthchecks,
            skipped_blocks: 0,
            kinds: None,
            actors: None,
        };
        let fits_index = |ids: usize| ids <= MAX_INDEXED_IDS;
        plan.access = match (&kinds, &actors) {
            (_, Some(actors)) if fits_index(actors.len()) => AccessPath::ByActor(actors.clone()),
            (Some(kinds), _) if !kinds.has_unindexed && fits_index(kinds.ids.len()) => {
                AccessPath::ByKind(kinds.ids.clone())
            }
            _ => AccessPath::Scan,
        };
        plan.kinds = kinds.map(|kinds| kinds.ids.into_iter().collect());
        plan.actors = actors.map(|actors| actors.into_iter().collect());
        plan.find_blocks(db)?;
        transaction.finish()?;
        Ok(plan)
    }

    /// Finds the blocks that can contain a matching row.
    fn find_blocks(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let blocks = blocks::load_after(db, Seq(self.snapshot.after))?;
        let total = blocks.len();
        let actor_seqs = self.actor_seq_range(db)?;
        let may_match = |s: &Block| {
            s.last_seq.0 > self.snapshot.after
                && s.first_seq.0 <= self.snapshot.to
                && s.min_nano <= self.until
                && s.max_nano >= self.since
                && s.last_seq >= *actor_seqs.start()
                && s.first_seq <= *actor_seqs.end()
        };
        let mut candidates: Vec<Block> = blocks.into_iter().filter(may_match).collect();
        if let (AccessPath::Scan, Some(kinds)) = (&self.access, &self.kinds) {
            let mut block_matches: HashMap<Seq, bool> = HashMap::new();
            let mut statement = db.prepare_cached("SELECT first_seq, shapes FROM stretch WHERE shapes IS NOT NULL")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let json: String = row.get(1)?;
                block_matches.insert(row.get(0)?, parse_ids(&json).any(|kind_id| kinds.contains(&kind_id)));
            }
            candidates.retain(|s| block_matches.get(&s.first_seq).copied().unwrap_or(true));
        }
        self.skipped_blocks = total - candidates.len();
        self.blocks = candidates;
        Ok(())
    }

    /// Returns the range from the first to the last sequence of the events of the matching actors.
    fn actor_seq_range(&self, db: &Connection) -> rusqlite::Result<RangeInclusive<Seq>> {
        let Some(actors) = self.actors.as_ref().filter(|actors| actors.len() <= MAX_RANGED_ACTORS) else {
            return Ok(Seq(0)..=Seq::MAX);
        };
        let (mut first, mut last) = (Seq::MAX, Seq(0));
        // Two statements: SQLite finds a minimum or a maximum at an end of the index, but not both in one statement.
        let mut min_seq = db.prepare_cached("SELECT ifnull(min(seq), ?2) FROM event WHERE actor = ?1")?;
        let mut max_seq = db.prepare_cached("SELECT ifnull(max(seq), 0) FROM event WHERE actor = ?1")?;
        for actor in actors {
            first = first.min(min_seq.query_row(params![actor, Seq::MAX], |row| row.get(0))?);
            last = last.max(max_seq.query_row([*actor], |row| row.get(0))?);
        }
        Ok(first..=last)
    }

    /// Reads the matching rows of some consecutive blocks, in no particular order.
    pub(super) fn read(
        &self,
        db: &Connection,
        first_seq: Seq,
        last_seq: Seq,
        rows: &mut Vec<EventRow>,
    ) -> rusqlite::Result<()> {
        let first = first_seq.max(Seq(self.snapshot.after.saturating_add(1)));
        let last = last_seq.min(Seq(self.snapshot.to));
        let mut read_where = |condition: &str, values: &[&dyn ToSql]| -> rusqlite::Result<()> {
            let mut statement = db.prepare_cached(&select_events_sql(condition))?;
            let mut found = statement.query(values)?;
            while let Some(row) = found.next()? {
                let time: Nanos = row.get(1)?;
                let is_match = (self.since..=self.until).contains(&time)
                    && self.kinds.as_ref().is_none_or(|kinds| row.get(3).is_ok_and(|kind_id| kinds.contains(&kind_id)))
                    && self.actors.as_ref().is_none_or(|actors| row.get(4).is_ok_and(|actor| actors.contains(&actor)));
                if is_match {
                    rows.push(EventRow::read(row)?);
                }
            }
            Ok(())
        };
        match &self.access {
            AccessPath::Scan => read_where("", params![first, last]),
            AccessPath::ByActor(actors) => {
                actors.iter().try_for_each(|actor| read_where(BY_ACTOR, params![first, last, actor]))
            }
            AccessPath::ByKind(kinds) => {
                kinds.iter().try_for_each(|kind_id| read_where(BY_KIND, params![first, last, kind_id]))
            }
        }
    }
}

pub(super) const BY_ACTOR: &str = " AND actor = ?3";
pub(super) const BY_KIND: &str = " AND shape = ?3 AND exec_id IS NULL";

pub(super) fn select_events_sql(condition: &str) -> String {
    let index = match condition {
        BY_ACTOR => "INDEXED BY event_by_actor",
        BY_KIND => "INDEXED BY event_by_shape",
        _ => "NOT INDEXED",
    };
    format!("SELECT {EVENT_COLUMNS} FROM event {index} WHERE seq BETWEEN ?1 AND ?2{condition}")
}

/// Event kinds that can match.
struct MatchingKinds {
    ids: Vec<KindId>,
    /// True if the index leaves out one of them, because its events have an exec ID.
    has_unindexed: bool,
}

/// Finds the event kinds that can match; `None` if all can.
fn find_kinds(db: &Connection, query: &Query) -> rusqlite::Result<Option<MatchingKinds>> {
    let mut clauses = WhereClause::default();
    if !query.types.is_empty() {
        clauses.add_any_of("type", &query.types);
    }
    match &query.actions {
        Actions::Any => {}
        Actions::Exact(actions) => clauses.add_any_of("action", actions),
        Actions::Prefix(prefixes) => clauses.add_any_prefix(&["action"], prefixes),
    }
    if clauses.conditions.is_empty() {
        return Ok(None);
    }
    let mut statement =
        db.prepare_cached(&format!("SELECT id, exec FROM shape WHERE {}", clauses.conditions.join(" AND ")))?;
    let mut rows = statement.query(params_from_iter(&clauses.values))?;
    let mut kinds = MatchingKinds { ids: Vec::new(), has_unindexed: false };
    while let Some(row) = rows.next()? {
        kinds.ids.push(row.get(0)?);
        kinds.has_unindexed |= row.get::<_, bool>(1)?;
    }
    Ok(Some(kinds))
}

/// Finds the actors that can match; `None` if all can.
fn find_actors(db: &Connection, query: &Query) -> rusqlite::Result<Option<Vec<ActorId>>> {
    let mut clauses = WhereClause::default();
    if let Some(source) = query.source {
        clauses.add("source =", source);
    }
    for prefixes in &query.actors {
        clauses.add_any_prefix(&["actor_id", "name"], prefixes);
    }
    if clauses.conditions.is_empty() && query.actor_test.is_none() {
        return Ok(None);
    }
    let conditions = if clauses.conditions.is_empty() { "TRUE".to_owned() } else { clauses.conditions.join(" AND ") };
    let labels = match &query.actor_test {
        Some(test) => find_labels(db, &test.keys)?,
        None => HashMap::new(),
    };
    let mut statement =
        db.prepare_cached(&format!("SELECT id, actor_id, name, labels FROM actor WHERE {conditions}"))?;
    let mut rows = statement.query(params_from_iter(&clauses.values))?;
    let mut actors = Vec::new();
    while let Some(row) = rows.next()? {
        let is_match = match &query.actor_test {
            None => true,
            Some(test) => {
                let name = row.get_ref(2)?.as_str_or_null()?;
                let mut values: Vec<Option<&str>> =
                    test.keys.iter().map(|key| if key == "name" { name } else { None }).collect();
                for label in parse_ids(row.get_ref(3)?.as_str()?) {
                    if let Some(label) = labels.get(&label) {
                        label.key_indexes.iter().for_each(|at| values[*at] = Some(&label.value));
                    }
                }
                (test.matches)(row.get_ref(1)?.as_str()?, &values)
            }
        };
        if is_match {
            actors.push(row.get(0)?);
        }
    }
    Ok(Some(actors))
}

/// Label whose value a test reads.
struct TestedLabel {
    /// Positions of its key among the keys of the test, where a key may appear more than once.
    key_indexes: Vec<usize>,
    value: String,
}

/// Finds the labels of some keys, by row ID.
fn find_labels(db: &Connection, keys: &[String]) -> rusqlite::Result<HashMap<LabelId, TestedLabel>> {
    let mut labels: HashMap<LabelId, TestedLabel> = HashMap::new();
    let mut statement = db.prepare_cached("SELECT id, value FROM label WHERE key = ?1")?;
    for (at, key) in keys.iter().enumerate() {
        let mut rows = statement.query([key])?;
        while let Some(row) = rows.next()? {
            let value = row.get(1)?;
            let label = labels.entry(row.get(0)?).or_insert_with(|| TestedLabel { key_indexes: Vec::new(), value });
            label.key_indexes.push(at);
        }
    }
    Ok(labels)
}
