//! Reads the store: events in order, gaps, what was rejected.
//!
//! SQL narrows, the caller decides: [`Ask`] says what an index can tell, and what comes back may hold more than the
//! caller wants, but never less.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::file::{open_to_read, sources, sqlite};
use super::{GapRow, RejectedRow, SourceRow, StoreError};

/// What to look for. The default asks for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Of this source alone: [`SourceRow::id`].
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

/// In which order to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By instant, then by arrival.
    Time,
    /// The same, backwards.
    TimeReversed,
    /// By arrival.
    Arrival,
}

/// Which rows are there: those that came after `after`, up to and with `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last sequence not to read.
    pub after: i64,
    /// The last sequence to read.
    pub to: i64,
}

/// One event as it is stored; borrowed from the row being read.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Its place in the order of arrival, from 1.
    pub seq: i64,
    /// [`SourceRow::id`].
    pub source: i64,
    /// When it was read, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// The event's own bytes.
    pub raw: &'a [u8],
}

/// A store open for reading.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens a store for reading.
    ///
    /// # Errors
    /// A file that is not there or is not ours is named; none is made.
    pub fn open(path: &Path) -> Result<Reader, StoreError> {
        Ok(Reader { connection: open_to_read(path)?, path: path.into() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every source, in the order they were first reached.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`], as for every method here.
    pub fn sources(&self) -> Result<Vec<SourceRow>, StoreError> {
        sources(&self.connection).map_err(sqlite("read", &self.path))
    }

    /// A number that changes when another connection has committed something. Cheap enough to ask often.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn data_version(&self) -> Result<i64, StoreError> {
        self.connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map_err(sqlite("read", &self.path))
    }

    /// What is there now, after the sequence `after`.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn snapshot(&self, after: i64) -> Result<Snapshot, StoreError> {
        self.connection
            .prepare_cached("SELECT ifnull(max(seq), 0) FROM event")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map(|to| Snapshot { after, to })
            .map_err(sqlite("read", &self.path))
    }

    /// Calls `each` with every event of `snapshot` that may answer `ask`, in `order`, until it breaks.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn events<B>(
        &self,
        ask: &Ask,
        snapshot: Snapshot,
        order: Order,
        mut each: impl FnMut(Stored) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, StoreError> {
        let (sql, values) = statement(ask, snapshot, order);
        let mut read = || -> rusqlite::Result<ControlFlow<B>> {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params_from_iter(&values))?;
            while let Some(row) = rows.next()? {
                let stored = Stored {
                    seq: row.get(0)?,
                    source: row.get(1)?,
                    received_nano: row.get(2)?,
                    raw: row.get_ref(3)?.as_bytes()?,
                };
                if let ControlFlow::Break(value) = each(stored) {
                    return Ok(ControlFlow::Break(value));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        read().map_err(sqlite("read", &self.path))
    }

    /// How SQLite goes about an ask, a line a step.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn explain(&self, ask: &Ask, order: Order) -> Result<Vec<String>, StoreError> {
        let (sql, values) = statement(ask, Snapshot { after: 0, to: i64::MAX }, order);
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            statement.query_map(params_from_iter(&values), |row| row.get(3))?.collect()
        };
        read().map_err(sqlite("read", &self.path))
    }

    /// Every gap, in the order they were found.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn gaps(&self) -> Result<Vec<GapRow>, StoreError> {
        let read = || -> rusqlite::Result<Vec<GapRow>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT source.name, from_nano, to_nano, reason, detail
                 FROM gap JOIN source ON source.id = gap.source ORDER BY gap.id",
            )?;
            let row = |row: &Row| {
                Ok(GapRow {
                    source: row.get(0)?,
                    from_nano: row.get(1)?,
                    to_nano: row.get(2)?,
                    reason: row.get(3)?,
                    detail: row.get(4)?,
                })
            };
            statement.query_map([], row)?.collect()
        };
        read().map_err(sqlite("read", &self.path))
    }

    /// Calls `each` with everything that was no event, in the order it came, until it breaks.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn rejected<B>(
        &self,
        mut each: impl FnMut(RejectedRow) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, StoreError> {
        let mut read = || -> rusqlite::Result<ControlFlow<B>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT source.name, received_nano, error, bytes
                 FROM rejected JOIN source ON source.id = rejected.source ORDER BY rejected.id",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let row = RejectedRow {
                    source: row.get(0)?,
                    received_nano: row.get(1)?,
                    error: row.get(2)?,
                    bytes: row.get(3)?,
                };
                if let ControlFlow::Break(value) = each(row) {
                    return Ok(ControlFlow::Break(value));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        read().map_err(sqlite("read", &self.path))
    }
}

/// The statement for an ask, and the values it names by number.
fn statement(ask: &Ask, snapshot: Snapshot, order: Order) -> (String, Vec<Value>) {
    let mut clauses = Clauses::default();
    if snapshot.after > 0 || order == Order::Arrival {
        clauses.add("seq >", snapshot.after);
    }
    // The unary plus keeps the planner from taking this for a way to find the rows.
    clauses.add("+seq <=", snapshot.to);
    if let Some(source) = ask.source {
        clauses.add("source =", source);
    }
    if let Some(since) = ask.since {
        clauses.add("time_nano >=", since);
    }
    if let Some(until) = ask.until {
        clauses.add("time_nano <=", until);
    }
    match &ask.actions {
        Actions::Any => {}
        Actions::Exactly(actions) => clauses.any_of("action", actions),
        Actions::BeginningWith(prefixes) => clauses.any_beginning(&["action"], prefixes),
    }
    if !ask.types.is_empty() {
        // An action or an actor says more than a type does: its index is the one to take.
        let alone = ask.actions == Actions::Any && ask.actors.is_empty();
        clauses.any_of(if alone { "type" } else { "+type" }, &ask.types);
    }
    for prefixes in &ask.actors {
        clauses.any_beginning(&["actor_id", "name"], prefixes);
    }
    let order = match order {
        Order::Time => "time_nano, seq",
        Order::TimeReversed => "time_nano DESC, seq DESC",
        Order::Arrival => "seq",
    };
    let sql = format!(
        "SELECT seq, source, received_nano, raw FROM event WHERE {} ORDER BY {order}",
        clauses.conditions.join(" AND ")
    );
    (sql, clauses.values)
}

/// How many prefixes narrow a query at most.
const RANGES: usize = 200;

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
        let list: Vec<String> = values.iter().map(|v| self.value(v.clone())).collect();
        self.conditions.push(format!("{column} IN ({})", list.join(", ")));
    }

    /// One of the columns begins with one of the prefixes, as ranges that an index can serve.
    fn any_beginning(&mut self, columns: &[&str], prefixes: &[String]) {
        if prefixes.iter().any(String::is_empty) {
            return; // Everything begins with nothing.
        }
        if prefixes.len() > RANGES {
            return; // SQLite takes no expression so deep; all rows are then judged.
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
            let text = format!("{}{}", prefix, tail);
            prop_assert!(within(&text));
        }
    }
}
