//! From what is asked to which rows are read: the shapes and the actors are found first, in small tables, and then
//! their events.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::lines::{COLUMNS, EventRow};
use super::order::Ordered;
use super::stretch::{self, Stretch, ids};
use super::{Order, Snapshot};

/// So few events are read without asking which of them can answer.
const FEW: i64 = 500;

/// So many actors are looked up by index; the events of more are found by reading all.
const BY_INDEX: usize = 64;

/// What to look for. The default asks for everything.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Of this source alone: [`super::SourceRow::id`].
    pub source: Option<i64>,
    /// No earlier than this instant, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// No later than this instant.
    pub until: Option<i64>,
    /// Of one of these types; empty: of any.
    pub types: Vec<String>,
    /// With one of these actions.
    pub actions: Actions,
    /// Actors whose ID or attribute `name` begins with one of these, for each of the lists.
    pub actors: Vec<Vec<String>>,
    /// Actors whose attributes pass a test.
    pub test: Option<ActorTest>,
    /// But no events of containers' own health checks.
    pub no_healthchecks: bool,
}

/// Which actions to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Actions {
    /// Any.
    #[default]
    Any,
    /// One of these.
    Exactly(Vec<String>),
    /// Any that begins with one of these.
    BeginningWith(Vec<String>),
}

/// A test of an actor by its ID and the attributes that stay; it must let through every actor of a wanted event.
#[derive(Clone)]
pub struct ActorTest {
    /// The attributes that the test looks at.
    pub keys: Vec<String>,
    /// The test itself: an actor's ID, and the value of an attribute by its place in `keys`.
    pub passes: Arc<ActorPasses>,
}

/// A test of an actor's ID and attributes.
pub type ActorPasses = dyn Fn(&str, &[Option<&str>]) -> bool + Send + Sync;

impl fmt::Debug for ActorTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorTest({:?})", self.keys)
    }
}

/// How the rows are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// All rows of a stretch are read.
    Scan,
    /// By the index on actors.
    Actors(Vec<i64>),
    /// By the index on shapes.
    Shapes(Vec<i64>),
}

/// Which rows are read, and which of them are wanted.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) stretches: Vec<Stretch>,
    pub(super) access: Access,
    shapes: Option<HashSet<i64>>,
    actors: Option<HashSet<i64>>,
    since: i64,
    until: i64,
    snapshot: Snapshot,
    no_healthchecks: bool,
    /// Stretches that no wanted row is in.
    passed_over: usize,
}

impl Plan {
    pub(super) fn make(db: &Connection, ask: &Ask, snapshot: Snapshot) -> rusqlite::Result<Plan> {
        // One moment for all of it; ended before the first event is read.
        let moment = db.unchecked_transaction()?;
        // Of a few events, as a follower asks for, each is judged sooner than it is found out which can answer.
        let few = snapshot.to.saturating_sub(snapshot.after) <= FEW;
        let ask = if few {
            &Ask { types: Vec::new(), actions: Actions::Any, actors: Vec::new(), test: None, ..ask.clone() }
        } else {
            ask
        };
        let shapes = find_shapes(db, ask)?;
        let actors = find_actors(db, ask)?;
        let mut plan = Plan {
            stretches: Vec::new(),
            access: Access::Scan,
            since: ask.since.unwrap_or(i64::MIN),
            until: ask.until.unwrap_or(i64::MAX),
            snapshot,
            no_healthchecks: ask.no_healthchecks,
            passed_over: 0,
            shapes: None,
            actors: None,
        };
        let by_index = |ids: &[i64]| ids.len() <= BY_INDEX;
        plan.access = match (&shapes, &actors) {
            (_, Some(actors)) if by_index(actors) => Access::Actors(actors.clone()),
            (Some((shapes, false)), _) if by_index(shapes) => Access::Shapes(shapes.clone()),
            _ => Access::Scan,
        };
        plan.shapes = shapes.map(|(shapes, _)| shapes.into_iter().collect());
        plan.actors = actors.map(|actors| actors.into_iter().collect());
        plan.find_stretches(db)?;
        moment.finish()?;
        Ok(plan)
    }

    /// The stretches that a wanted row can be in.
    fn find_stretches(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let all = stretch::all(db, self.snapshot.after)?;
        let number = all.len();
        let (first, last) = self.extent(db)?;
        let within = |s: &Stretch| {
            s.last_seq > self.snapshot.after
                && s.first_seq <= self.snapshot.to
                && s.min_nano <= self.until
                && s.max_nano >= self.since
                && s.last_seq >= first
                && s.first_seq <= last
        };
        let mut wanted: Vec<Stretch> = all.into_iter().filter(within).collect();
        if let (Access::Scan, Some(shapes)) = (&self.access, &self.shapes) {
            let mut told: HashMap<i64, bool> = HashMap::new();
            let mut statement = db.prepare_cached("SELECT first_seq, shapes FROM stretch WHERE shapes IS NOT NULL")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let json: String = row.get(1)?;
                told.insert(row.get(0)?, ids(&json).any(|shape| shapes.contains(&shape)));
            }
            wanted.retain(|s| told.get(&s.first_seq).copied().unwrap_or(true));
        }
        self.passed_over = number - wanted.len();
        self.stretches = wanted;
        Ok(())
    }

    /// Between which sequences the events of the wanted actors lie.
    fn extent(&self, db: &Connection) -> rusqlite::Result<(i64, i64)> {
        let Some(actors) = self.actors.as_ref().filter(|actors| actors.len() <= 5_000) else {
            return Ok((0, i64::MAX));
        };
        let (mut first, mut last) = (i64::MAX, 0);
        // Two statements: together they would not be answered by the ends of the index.
        let mut least = db.prepare_cached("SELECT ifnull(min(seq), ?2) FROM event WHERE actor = ?1")?;
        let mut most = db.prepare_cached("SELECT ifnull(max(seq), 0) FROM event WHERE actor = ?1")?;
        for actor in actors {
            first = first.min(least.query_row([*actor, i64::MAX], |row| row.get(0))?);
            last = last.max(most.query_row([*actor], |row| row.get(0))?);
        }
        Ok((first, last))
    }

    /// The wanted rows of some stretches that follow each other, in no order.
    pub(super) fn read(
        &self,
        db: &Connection,
        first_seq: i64,
        last_seq: i64,
        rows: &mut Vec<EventRow>,
    ) -> rusqlite::Result<()> {
        let first = first_seq.max(self.snapshot.after.saturating_add(1));
        let last = last_seq.min(self.snapshot.to);
        let mut run = |condition: &str, values: &[i64]| -> rusqlite::Result<()> {
            let mut statement = db.prepare_cached(&statement(condition))?;
            let mut found = statement.query(params_from_iter(values))?;
            while let Some(row) = found.next()? {
                let time: i64 = row.get(1)?;
                let wanted = (self.since..=self.until).contains(&time)
                    && self.shapes.as_ref().is_none_or(|shapes| row.get(3).is_ok_and(|shape| shapes.contains(&shape)))
                    && self.actors.as_ref().is_none_or(|actors| row.get(4).is_ok_and(|actor| actors.contains(&actor)));
                if wanted {
                    rows.push(EventRow::read(row)?);
                }
            }
            Ok(())
        };
        match &self.access {
            Access::Scan => run("", &[first, last]),
            Access::Actors(actors) => actors.iter().try_for_each(|actor| run(BY_ACTOR, &[first, last, *actor])),
            Access::Shapes(shapes) => shapes.iter().try_for_each(|shape| run(BY_SHAPE, &[first, last, *shape])),
        }
    }

    /// What is done, a line a step.
    pub(super) fn explain(&self, db: &Connection, order: Order) -> rusqlite::Result<Vec<String>> {
        let number = |ids: &Option<HashSet<i64>>, name: &str| match ids {
            Some(ids) => format!("{name}: {} of the {name} can answer", ids.len()),
            None => format!("{name}: all"),
        };
        let (condition, access) = match &self.access {
            Access::Scan => ("", "all rows of each stretch".to_owned()),
            Access::Actors(actors) => (BY_ACTOR, format!("by the index of {} actors", actors.len())),
            Access::Shapes(shapes) => (BY_SHAPE, format!("by the index of {} shapes", shapes.len())),
        };
        let mut lines = vec![
            number(&self.shapes, "shapes"),
            number(&self.actors, "actors"),
            format!("stretches: {} are read, {} passed over", self.stretches.len(), self.passed_over),
            format!(
                "order: {} run(s) merged by {}",
                Ordered::new(self, order).runs(),
                match order {
                    Order::Time => "time",
                    Order::TimeReversed => "time, newest first",
                    Order::Arrival => "arrival",
                }
            ),
            format!("rows: {access}"),
        ];
        if self.no_healthchecks {
            let known: i64 = db.query_row("SELECT count(*) FROM healthcheck", [], |row| row.get(0))?;
            lines.push(format!("health checks: left out, as {known} containers tell of theirs"));
        }
        let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {}", statement(condition)))?;
        let parameters = plan.parameter_count();
        let steps = plan.query_map(params_from_iter(vec![0; parameters]), |row| row.get::<_, String>(3))?;
        for step in steps {
            lines.push(format!("sqlite: {}", step?));
        }
        Ok(lines)
    }
}

const BY_ACTOR: &str = " AND actor = ?3";
const BY_SHAPE: &str = " AND shape = ?3 AND exec_id IS NULL";

fn statement(condition: &str) -> String {
    let index = match condition {
        BY_ACTOR => "INDEXED BY event_by_actor",
        BY_SHAPE => "INDEXED BY event_by_shape",
        _ => "NOT INDEXED",
    };
    format!("SELECT {COLUMNS} FROM event {index} WHERE seq BETWEEN ?1 AND ?2{condition}")
}

/// The shapes that can answer, and whether any of them is one that the index leaves out; `None` if all can.
fn find_shapes(db: &Connection, ask: &Ask) -> rusqlite::Result<Option<(Vec<i64>, bool)>> {
    let mut clauses = Clauses::default();
    if !ask.types.is_empty() {
        clauses.any_of("type", &ask.types);
    }
    match &ask.actions {
        Actions::Any => {}
        Actions::Exactly(actions) => clauses.any_of("action", actions),
        Actions::BeginningWith(prefixes) => clauses.any_beginning(&["action"], prefixes),
    }
    if clauses.conditions.is_empty() {
        return Ok(None);
    }
    let mut statement =
        db.prepare_cached(&format!("SELECT id, exec FROM shape WHERE {}", clauses.conditions.join(" AND ")))?;
    let mut rows = statement.query(params_from_iter(&clauses.values))?;
    let (mut shapes, mut left_out) = (Vec::new(), false);
    while let Some(row) = rows.next()? {
        shapes.push(row.get(0)?);
        left_out |= row.get::<_, bool>(1)?;
    }
    Ok(Some((shapes, left_out)))
}

/// The actors that can answer; `None` if all can.
fn find_actors(db: &Connection, ask: &Ask) -> rusqlite::Result<Option<Vec<i64>>> {
    let mut clauses = Clauses::default();
    if let Some(source) = ask.source {
        clauses.add("source =", source);
    }
    for prefixes in &ask.actors {
        clauses.any_beginning(&["actor_id", "name"], prefixes);
    }
    if clauses.conditions.is_empty() && ask.test.is_none() {
        return Ok(None);
    }
    let conditions = if clauses.conditions.is_empty() { "TRUE".to_owned() } else { clauses.conditions.join(" AND ") };
    let labels = match &ask.test {
        Some(test) => find_labels(db, &test.keys)?,
        None => HashMap::new(),
    };
    let mut statement =
        db.prepare_cached(&format!("SELECT id, actor_id, name, labels FROM actor WHERE {conditions}"))?;
    let mut rows = statement.query(params_from_iter(&clauses.values))?;
    let mut actors = Vec::new();
    while let Some(row) = rows.next()? {
        let passes = match &ask.test {
            None => true,
            Some(test) => {
                let name = row.get_ref(2)?.as_str_or_null()?;
                let mut values: Vec<Option<&str>> =
                    test.keys.iter().map(|key| if key == "name" { name } else { None }).collect();
                for label in ids(row.get_ref(3)?.as_str()?) {
                    if let Some((places, value)) = labels.get(&label) {
                        places.iter().for_each(|at| values[*at] = Some(value));
                    }
                }
                (test.passes)(row.get_ref(1)?.as_str()?, &values)
            }
        };
        if passes {
            actors.push(row.get(0)?);
        }
    }
    Ok(Some(actors))
}

/// The labels of these keys: the places of the key, which may be asked for more than once, and the value.
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

/// How many values or prefixes of one key narrow a query at most: SQLite takes no expression so deep, and not so many
/// parameters. All rows are then judged.
const VALUES: usize = 200;

/// Conditions that must all hold, and the values in them.
#[derive(Default)]
struct Clauses {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl Clauses {
    fn add(&mut self, condition: &str, value: impl Into<Value>) {
        let condition = format!("{condition} {}", self.value(value));
        self.conditions.push(condition);
    }

    fn any_of(&mut self, column: &str, values: &[String]) {
        if values.len() > VALUES {
            return;
        }
        let list: Vec<String> = values.iter().map(|v| self.value(v.clone())).collect();
        self.conditions.push(format!("{column} IN ({})", list.join(", ")));
    }

    /// One of the columns begins with one of the prefixes, as ranges that an index can serve.
    fn any_beginning(&mut self, columns: &[&str], prefixes: &[String]) {
        if prefixes.iter().any(String::is_empty) {
            return; // Everything begins with nothing.
        }
        if prefixes.len() > VALUES {
            return;
        }
        let mut ranges = Vec::new();
        for column in columns {
            for prefix in prefixes {
                let from = self.value(prefix.clone());
                ranges.push(match after_all_beginning_with(prefix) {
                    Some(end) => format!("({column} >= {from} AND {column} < {})", self.value(end)),
                    None => format!("{column} >= {from}"),
                });
            }
        }
        self.conditions.push(format!("({})", ranges.join(" OR ")));
    }

    fn value(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }
}

/// The least text that comes after every text beginning with `prefix`, bytewise; `None` if there is none.
fn after_all_beginning_with(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The order of UTF-8 bytes is the order of code points; between U+D7FF and U+E000 there are none.
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
        fn a_range_holds_exactly_the_texts_that_begin_with_the_prefix(prefix in "\\PC{1,4}|[a\u{D7FF}\u{10FFFF}]{1,3}", text in "\\PC{0,4}", tail in "\\PC{0,3}") {
            let within = |text: &str| {
                text >= prefix.as_str() && after_all_beginning_with(&prefix).is_none_or(|end| text < end.as_str())
            };
            prop_assert_eq!(within(&text), text.starts_with(&prefix));
            let text = format!("{prefix}{tail}");
            prop_assert!(within(&text));
        }
    }
}
