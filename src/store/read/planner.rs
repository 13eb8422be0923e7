//! Plans a query: selects the rows to read.
//!
//! The planner first finds the event kinds and actors that can match, in small tables, and then the blocks and the
//! index to read their events. It may select too many rows, but never too few: the caller tests each event.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::store::format::blocks::{self, Block, parse_ids};
use crate::store::format::decode::{EVENT_COLUMNS, EventRow};
use crate::store::read::merge::MergedRows;
use crate::store::{Order, Snapshot};

/// Number of events up to which all are read, without a search for the event kinds and actors that can match.
const SMALL_SNAPSHOT_EVENTS: i64 = 500;

/// Maximum number of actors or event kinds that are looked up in an index. For more of them, all rows are read.
const MAX_INDEXED_IDS: usize = 64;

/// Query of the store. The default matches everything.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only events of this source: [`crate::store::SourceRow::id`].
    pub source: Option<i64>,
    /// Earliest instant, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Latest instant, inclusive.
    pub until: Option<i64>,
    /// Types to match; any if empty.
    pub types: Vec<String>,
    /// Actions to match.
    pub actions: Actions,
    /// Lists of prefixes. For each list, the actor's ID or its attribute `name` must begin with one of the prefixes.
    pub actors: Vec<Vec<String>>,
    /// Test that the actor must pass.
    pub actor_test: Option<ActorTest>,
    /// Excludes events of containers' own health checks.
    pub exclude_healthchecks: bool,
}

/// Actions to match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Actions {
    /// Any action.
    #[default]
    Any,
    /// One of these actions.
    Exact(Vec<String>),
    /// Any action that begins with one of these prefixes.
    Prefix(Vec<String>),
}

/// Test of an actor by its ID and its stable attributes. It must accept every actor of a matching event.
#[derive(Clone)]
pub struct ActorTest {
    /// Attributes that the test reads.
    pub keys: Vec<String>,
    /// The test itself: takes an actor's ID, and the values of the attributes in the order of `keys`.
    pub matches: Arc<ActorTestFn>,
}

/// Function that tests an actor's ID and attributes.
pub type ActorTestFn = dyn Fn(&str, &[Option<&str>]) -> bool + Send + Sync;

impl fmt::Debug for ActorTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorTest({:?})", self.keys)
    }
}

/// Access path to the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum AccessPath {
    /// Reads all rows of a block.
    Scan,
    /// Uses the index on actors.
    ByActor(Vec<i64>),
    /// Uses the index on event kinds.
    ByKind(Vec<i64>),
}

/// Rows to read, and the conditions that they must meet.
#[derive(Debug)]
pub(in crate::store) struct QueryPlan {
    pub(in crate::store) blocks: Vec<Block>,
    pub(in crate::store) access: AccessPath,
    kinds: Option<HashSet<i64>>,
    actors: Option<HashSet<i64>>,
    since: i64,
    until: i64,
    snapshot: Snapshot,
    exclude_healthchecks: bool,
    /// Number of blocks that cannot contain a matching row.
    skipped_blocks: usize,
}

impl QueryPlan {
    pub(in crate::store) fn build(db: &Connection, query: &Query, snapshot: Snapshot) -> rusqlite::Result<QueryPlan> {
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
            since: query.since.unwrap_or(i64::MIN),
            until: query.until.unwrap_or(i64::MAX),
            snapshot,
            exclude_healthchecks: query.exclude_healthchecks,
            skipped_blocks: 0,
            kinds: None,
            actors: None,
        };
        let fits_index = |ids: &[i64]| ids.len() <= MAX_INDEXED_IDS;
        plan.access = match (&kinds, &actors) {
            (_, Some(actors)) if fits_index(actors) => AccessPath::ByActor(actors.clone()),
            (Some((kinds, false)), _) if fits_index(kinds) => AccessPath::ByKind(kinds.clone()),
            _ => AccessPath::Scan,
        };
        plan.kinds = kinds.map(|(kinds, _)| kinds.into_iter().collect());
        plan.actors = actors.map(|actors| actors.into_iter().collect());
        plan.find_blocks(db)?;
        transaction.finish()?;
        Ok(plan)
    }

    /// Finds the blocks that can contain a matching row.
    fn find_blocks(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let blocks = blocks::load_after(db, self.snapshot.after)?;
        let total = blocks.len();
        let (first, last) = self.actor_seq_range(db)?;
        let may_match = |s: &Block| {
            s.last_seq > self.snapshot.after
                && s.first_seq <= self.snapshot.to
                && s.min_nano <= self.until
                && s.max_nano >= self.since
                && s.last_seq >= first
                && s.first_seq <= last
        };
        let mut candidates: Vec<Block> = blocks.into_iter().filter(may_match).collect();
        if let (AccessPath::Scan, Some(kinds)) = (&self.access, &self.kinds) {
            let mut block_matches: HashMap<i64, bool> = HashMap::new();
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

    /// Returns the first and the last sequence of the events of the matching actors.
    fn actor_seq_range(&self, db: &Connection) -> rusqlite::Result<(i64, i64)> {
        let Some(actors) = self.actors.as_ref().filter(|actors| actors.len() <= 5_000) else {
            return Ok((0, i64::MAX));
        };
        let (mut first, mut last) = (i64::MAX, 0);
        // Two statements: SQLite finds a minimum or a maximum at an end of the index, but not both in one statement.
        let mut min_seq = db.prepare_cached("SELECT ifnull(min(seq), ?2) FROM event WHERE actor = ?1")?;
        let mut max_seq = db.prepare_cached("SELECT ifnull(max(seq), 0) FROM event WHERE actor = ?1")?;
        for actor in actors {
            first = first.min(min_seq.query_row([*actor, i64::MAX], |row| row.get(0))?);
            last = last.max(max_seq.query_row([*actor], |row| row.get(0))?);
        }
        Ok((first, last))
    }

    /// Reads the matching rows of some consecutive blocks, in no particular order.
    pub(in crate::store) fn read(
        &self,
        db: &Connection,
        first_seq: i64,
        last_seq: i64,
        rows: &mut Vec<EventRow>,
    ) -> rusqlite::Result<()> {
        let first = first_seq.max(self.snapshot.after.saturating_add(1));
        let last = last_seq.min(self.snapshot.to);
        let mut read_where = |condition: &str, values: &[i64]| -> rusqlite::Result<()> {
            let mut statement = db.prepare_cached(&select_events_sql(condition))?;
            let mut found = statement.query(params_from_iter(values))?;
            while let Some(row) = found.next()? {
                let time: i64 = row.get(1)?;
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
            AccessPath::Scan => read_where("", &[first, last]),
            AccessPath::ByActor(actors) => {
                actors.iter().try_for_each(|actor| read_where(BY_ACTOR, &[first, last, *actor]))
            }
            AccessPath::ByKind(kinds) => {
                kinds.iter().try_for_each(|kind_id| read_where(BY_KIND, &[first, last, *kind_id]))
            }
        }
    }

    /// Describes the plan, one line for each step.
    pub(in crate::store) fn explain(&self, db: &Connection, order: Order) -> rusqlite::Result<Vec<String>> {
        let describe = |ids: &Option<HashSet<i64>>, name: &str| match ids {
            Some(ids) => format!("{name}: {} of the {name} can match", ids.len()),
            None => format!("{name}: all"),
        };
        let (condition, access) = match &self.access {
            AccessPath::Scan => ("", "all rows of each block".to_owned()),
            AccessPath::ByActor(actors) => (BY_ACTOR, format!("by index, {} actors", actors.len())),
            AccessPath::ByKind(kinds) => (BY_KIND, format!("by index, {} event kinds", kinds.len())),
        };
        let mut lines = vec![
            describe(&self.kinds, "event kinds"),
            describe(&self.actors, "actors"),
            format!("blocks: {} read, {} skipped", self.blocks.len(), self.skipped_blocks),
            format!(
                "order: {} run(s) merged by {}",
                MergedRows::new(self, order).run_count(),
                match order {
                    Order::Time => "time",
                    Order::TimeReversed => "time, newest first",
                    Order::Arrival => "arrival",
                }
            ),
            format!("rows: {access}"),
        ];
        if self.exclude_healthchecks {
            let known: i64 = db.query_row("SELECT count(*) FROM healthcheck", [], |row| row.get(0))?;
            lines.push(format!("health checks: excluded, by the stored commands of {known} containers"));
        }
        let mut explain_query = db.prepare(&format!("EXPLAIN QUERY PLAN {}", select_events_sql(condition)))?;
        let parameters = explain_query.parameter_count();
        let steps = explain_query.query_map(params_from_iter(vec![0; parameters]), |row| row.get::<_, String>(3))?;
        for step in steps {
            lines.push(format!("sqlite: {}", step?));
        }
        Ok(lines)
    }
}

const BY_ACTOR: &str = " AND actor = ?3";
const BY_KIND: &str = " AND shape = ?3 AND exec_id IS NULL";

fn select_events_sql(condition: &str) -> String {
    let index = match condition {
        BY_ACTOR => "INDEXED BY event_by_actor",
        BY_KIND => "INDEXED BY event_by_shape",
        _ => "NOT INDEXED",
    };
    format!("SELECT {EVENT_COLUMNS} FROM event {index} WHERE seq BETWEEN ?1 AND ?2{condition}")
}

/// Finds the event kinds that can match; `None` if all can. The flag is true if the index leaves out one of them.
fn find_kinds(db: &Connection, query: &Query) -> rusqlite::Result<Option<(Vec<i64>, bool)>> {
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
    let (mut kinds, mut has_unindexed) = (Vec::new(), false);
    while let Some(row) = rows.next()? {
        kinds.push(row.get(0)?);
        has_unindexed |= row.get::<_, bool>(1)?;
    }
    Ok(Some((kinds, has_unindexed)))
}

/// Finds the actors that can match; `None` if all can.
fn find_actors(db: &Connection, query: &Query) -> rusqlite::Result<Option<Vec<i64>>> {
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
                    if let Some((key_indexes, value)) = labels.get(&label) {
                        key_indexes.iter().for_each(|at| values[*at] = Some(value));
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

/// Finds the labels of some keys. The result has each label's value and the positions of its key in `keys`, where a key
/// may appear more than once.
fn find_labels(db: &Connection, keys: &[String]) -> rusqlite::Result<HashMap<i64, (Vec<usize>, String)>> {
    let mut labels: HashMap<i64, (Vec<usize>, String)> = HashMap::new();
    let mut statement = db.prepare_cached("SELECT id, value FROM label WHERE key = ?1")?;
    for (at, key) in keys.iter().enumerate() {
        let mut rows = statement.query([key])?;
        while let Some(row) = rows.next()? {
            let value = row.get(1)?;
            labels.entry(row.get(0)?).or_insert_with(|| (Vec::new(), value)).0.push(at);
        }
    }
    Ok(labels)
}

/// Maximum number of values or prefixes in one condition. SQLite limits the depth of an expression and the number of
/// parameters. With more values, the condition is left out and all rows are tested.
const MAX_CONDITION_VALUES: usize = 200;

/// Conditions that must all hold, and their values.
#[derive(Default)]
struct WhereClause {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl WhereClause {
    fn add(&mut self, condition: &str, value: impl Into<Value>) {
        let condition = format!("{condition} {}", self.bind(value));
        self.conditions.push(condition);
    }

    fn add_any_of(&mut self, column: &str, values: &[String]) {
        if values.len() > MAX_CONDITION_VALUES {
            return;
        }
        let list: Vec<String> = values.iter().map(|v| self.bind(v.clone())).collect();
        self.conditions.push(format!("{column} IN ({})", list.join(", ")));
    }

    /// Adds the condition that one of the columns begins with one of the prefixes, as ranges that an index can serve.
    fn add_any_prefix(&mut self, columns: &[&str], prefixes: &[String]) {
        if prefixes.iter().any(String::is_empty) {
            return; // Every text begins with the empty prefix.
        }
        if prefixes.len() > MAX_CONDITION_VALUES {
            return;
        }
        let mut ranges = Vec::new();
        for column in columns {
            for prefix in prefixes {
                let from = self.bind(prefix.clone());
                ranges.push(match prefix_upper_bound(prefix) {
                    Some(end) => format!("({column} >= {from} AND {column} < {})", self.bind(end)),
                    None => format!("{column} >= {from}"),
                });
            }
        }
        self.conditions.push(format!("({})", ranges.join(" OR ")));
    }

    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }
}

/// Returns the least text that sorts after every text beginning with `prefix`, bytewise; `None` if no text does.
fn prefix_upper_bound(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The order of UTF-8 bytes is the order of code points. No code point lies between U+D7FF and U+E000.
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            last => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_range_contains_exactly_the_matching_texts(prefix in "\\PC{1,4}|[a\u{D7FF}\u{10FFFF}]{1,3}", text in "\\PC{0,4}", tail in "\\PC{0,3}") {
            let within = |text: &str| {
                text >= prefix.as_str() && prefix_upper_bound(&prefix).is_none_or(|end| text < end.as_str())
            };
            prop_assert_eq!(within(&text), text.starts_with(&prefix));
            let text = format!("{prefix}{tail}");
            prop_assert!(within(&text));
        }
    }
}
