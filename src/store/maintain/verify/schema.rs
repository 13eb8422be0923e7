//! Checks the schema, and runs SQLite's own check of the file.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::fault::{Fault, FaultLog};
use crate::store::format::migrate;

/// Objects of a schema by type and name, each with its table and its SQL.
type Objects = BTreeMap<(String, String), (String, Option<String>)>;

/// Checks that the schema is as the migrations create it. Other programs may add objects, but no triggers.
pub(super) fn check_schema(db: &Connection, faults: &mut FaultLog<'_>) -> rusqlite::Result<()> {
    let objects = |db: &Connection| -> rusqlite::Result<Objects> {
        db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")?
            .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?))))?
            .collect()
    };
    let mut fresh = Connection::open_in_memory()?;
    migrate::migrations().to_latest(&mut fresh).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    let (ours, mut found) = (objects(&fresh)?, objects(db)?);
    for ((kind, name), expected) in ours {
        match found.remove(&(kind.clone(), name.clone())) {
            None => faults.report(Fault::Schema(format!("the {kind} {name} is missing"))),
            Some(other) if other != expected => {
                faults.report(Fault::Schema(format!("the {kind} {name} was changed")));
            }
            Some(_) => {}
        }
    }
    for ((kind, name), (table, _)) in found.into_iter().filter(|((kind, _), _)| kind == "trigger") {
        faults.report(Fault::Schema(format!("the {kind} {name} on {table} was added")));
    }
    Ok(())
}

/// Runs SQLite's own check: of the pages, and that each index has every row.
pub(super) fn check_integrity(db: &Connection, faults: &mut FaultLog<'_>) -> rusqlite::Result<()> {
    let mut check = db.prepare("PRAGMA integrity_check(100)")?;
    let mut rows = check.query([])?;
    while let Some(row) = rows.next()? {
        let problem: String = row.get(0)?;
        if problem != "ok" {
            faults.report(Fault::Corrupt(problem));
        }
    }
    Ok(())
}
