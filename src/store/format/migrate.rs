//! Schema migrations: the files in `migrations/`, with code for the steps that SQL alone cannot express.
//!
//! Each migration runs in one transaction. A migration that has landed is never changed.

use rusqlite::{Connection, Transaction};
use rusqlite_migration::{HookError, M, Migrations};
use sha2::{Digest, Sha256};

use crate::event::Event;
use crate::store::format::chain::EntryKind;
use crate::store::format::encode::{self, EventEncoder, InsertStatements};

/// Returns all migrations, in order.
pub(in crate::store) fn migrations() -> Migrations<'static> {
    Migrations::new(vec![
        M::up(include_str!("../../../migrations/0001_record.sql")),
        M::up_with_hook(include_str!("../../../migrations/0002_interned.sql"), |transaction: &Transaction<'_>| {
            migrate_v1_rows(transaction).map_err(|e| HookError::Hook(e.to_string()))
        }),
        M::up_with_hook(include_str!("../../../migrations/0003_evidence.sql"), |transaction: &Transaction<'_>| {
            chain_source_names(transaction).map_err(|e| HookError::Hook(e.to_string()))
        }),
        M::up(include_str!("../../../migrations/0004_healthchecks.sql")),
        M::up_with_hook(include_str!("../../../migrations/0005_texts.sql"), |transaction: &Transaction<'_>| {
            fill_actor_digests(transaction).map_err(|e| HookError::Hook(e.to_string()))
        }),
    ])
}

/// Adds the names of the sources to the hash chain.
fn chain_source_names(db: &Connection) -> rusqlite::Result<()> {
    let mut encoder = EventEncoder::for_legacy_schema();
    encoder.begin(db)?;
    let mut sources = db.prepare("SELECT id, ifnull(engine_id, name), name FROM source ORDER BY id")?;
    let mut sources = sources.query([])?;
    while let Some(row) = sources.next()? {
        let (source, chain_name, name): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        encoder.add_naming(db, (source, &chain_name), &name)?;
    }
    encoder.finish(db)
}

/// Moves the events, gaps and rejected lines of schema 1 into the tables of schema 2.
fn migrate_v1_rows(db: &Connection) -> rusqlite::Result<()> {
    let mut encoder = EventEncoder::for_legacy_schema();
    encoder.begin(db)?;
    {
        let mut old = db.prepare(
            "SELECT old_event.source, ifnull(source.engine_id, source.name), received_nano, raw
             FROM old_event JOIN source ON source.id = old_event.source ORDER BY seq",
        )?;
        let mut old = old.query([])?;
        let mut inserts = InsertStatements::prepare(db)?;
        while let Some(row) = old.next()? {
            let (source, name): (i64, String) = (row.get(0)?, row.get(1)?);
            let raw = row.get_ref(3)?.as_bytes()?;
            let event = Event::parse(raw).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
            encoder.add_event(
                (db, &mut inserts),
                (source, &name),
                (&event, &Sha256::digest(raw).into(), false),
                row.get(2)?,
                false,
            )?;
        }
    }
    {
        let mut old = db.prepare(
            "SELECT old_gap.source, ifnull(source.engine_id, source.name), from_nano, to_nano, reason, detail
             FROM old_gap JOIN source ON source.id = old_gap.source ORDER BY old_gap.id",
        )?;
        let mut old = old.query([])?;
        while let Some(row) = old.next()? {
            let (source, name): (i64, String) = (row.get(0)?, row.get(1)?);
            let (reason, detail): (String, Option<String>) = (row.get(4)?, row.get(5)?);
            encoder.add_gap(db, (source, &name), (row.get(2)?, row.get(3)?), Some(&reason), detail.as_deref())?;
        }
    }
    {
        let mut old = db.prepare(
            "SELECT old_rejected.source, ifnull(source.engine_id, source.name), received_nano, error, bytes
             FROM old_rejected JOIN source ON source.id = old_rejected.source ORDER BY old_rejected.id",
        )?;
        let mut insert =
            db.prepare("INSERT INTO rejected (seq, source, received_nano, error, bytes) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        let mut old = old.query([])?;
        while let Some(row) = old.next()? {
            let (source, name, received_nano): (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (error, bytes): (String, Vec<u8>) = (row.get(3)?, row.get(4)?);
            let seq = encoder.append_entry(
                EntryKind::Rejected,
                &name,
                &[&received_nano.to_le_bytes(), error.as_bytes(), &bytes],
            );
            insert.execute((seq, source, received_nano, error, bytes))?;
        }
    }
    encoder.finish(db)?;
    db.execute_batch("DROP TABLE old_event; DROP TABLE old_gap; DROP TABLE old_rejected;")
}

/// Computes the digests of the actors, by which the writer finds them.
fn fill_actor_digests(db: &Connection) -> rusqlite::Result<()> {
    let mut actors = db.prepare("SELECT id, source, name, labels FROM actor")?;
    let mut actors = actors.query([])?;
    let mut update = db.prepare("UPDATE actor SET digest = ?2 WHERE id = ?1")?;
    while let Some(row) = actors.next()? {
        let (name, labels) = (row.get_ref(2)?.as_str_or_null()?, row.get_ref(3)?.as_str()?);
        update.execute([row.get(0)?, encode::actor_digest(row.get(1)?, name, labels)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file::open::SCHEMA_VERSION;

    #[test]
    fn migrations_are_valid_and_reach_the_current_schema() {
        migrations().validate().unwrap();
        let mut db = Connection::open_in_memory().unwrap();
        migrations().to_latest(&mut db).unwrap();
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, SCHEMA_VERSION);
    }
}
