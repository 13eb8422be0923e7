//! Schema migrations: the files in `migrations/`, with code for the steps that SQL alone cannot express.
//!
//! Each migration runs in one transaction. A migration that has landed is never changed.

use rusqlite::{Connection, Transaction};
use rusqlite_migration::{HookError, M, Migrations};
use sha2::{Digest, Sha256};

use super::chain::GapFields;
use super::encode::{EventEncoder, InsertStatements, NewEvent};
use super::entries::{EntrySource, RejectedLine};
use super::intern::actor_digest;
use crate::event::Event;

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
        let (chain_name, name): (String, String) = (row.get(1)?, row.get(2)?);
        encoder.chain.add_naming(db, EntrySource { id: row.get(0)?, chain_name: &chain_name }, &name)?;
    }
    encoder.finish(db)
}

/// Moves the events, gaps and rejected lines of schema 1 into the tables of schema 2.
fn migrate_v1_rows(db: &Connection) -> rusqlite::Result<()> {
    let mut encoder = EventEncoder::for_legacy_schema();
    encoder.begin(db)?;
    migrate_v1_events(db, &mut encoder)?;
    migrate_v1_gaps(db, &mut encoder)?;
    migrate_v1_rejected(db, &mut encoder)?;
    encoder.finish(db)?;
    db.execute_batch("DROP TABLE old_event; DROP TABLE old_gap; DROP TABLE old_rejected;")
}

fn migrate_v1_events(db: &Connection, encoder: &mut EventEncoder) -> rusqlite::Result<()> {
    let mut old = db.prepare(
        "SELECT old_event.source, ifnull(source.engine_id, source.name), received_nano, raw
         FROM old_event JOIN source ON source.id = old_event.source ORDER BY seq",
    )?;
    let mut old = old.query([])?;
    let mut inserts = InsertStatements::prepare(db)?;
    while let Some(row) = old.next()? {
        let chain_name: String = row.get(1)?;
        let raw = row.get_ref(3)?.as_bytes()?;
        let event = Event::parse(raw).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        let event = NewEvent {
            event: &event,
            digest: &Sha256::digest(raw).into(),
            is_healthcheck: false,
            received_nano: row.get(2)?,
            shares_arrival: false,
        };
        encoder.add_event(&mut inserts, EntrySource { id: row.get(0)?, chain_name: &chain_name }, event)?;
    }
    Ok(())
}

fn migrate_v1_gaps(db: &Connection, encoder: &mut EventEncoder) -> rusqlite::Result<()> {
    let mut old = db.prepare(
        "SELECT old_gap.source, ifnull(source.engine_id, source.name), from_nano, to_nano, reason, detail
         FROM old_gap JOIN source ON source.id = old_gap.source ORDER BY old_gap.id",
    )?;
    let mut old = old.query([])?;
    while let Some(row) = old.next()? {
        let (chain_name, reason, detail): (String, String, Option<String>) = (row.get(1)?, row.get(4)?, row.get(5)?);
        let source = EntrySource { id: row.get(0)?, chain_name: &chain_name };
        let (from, to) = (row.get(2)?, row.get(3)?);
        let gap = GapFields { from, to, reason: Some(&reason), detail: detail.as_deref() };
        encoder.chain.add_gap(db, source, gap)?;
    }
    Ok(())
}

fn migrate_v1_rejected(db: &Connection, encoder: &mut EventEncoder) -> rusqlite::Result<()> {
    let mut old = db.prepare(
        "SELECT old_rejected.source, ifnull(source.engine_id, source.name), received_nano, error, bytes
         FROM old_rejected JOIN source ON source.id = old_rejected.source ORDER BY old_rejected.id",
    )?;
    let mut old = old.query([])?;
    while let Some(row) = old.next()? {
        let (chain_name, error, bytes): (String, String, Vec<u8>) = (row.get(1)?, row.get(3)?, row.get(4)?);
        let source = EntrySource { id: row.get(0)?, chain_name: &chain_name };
        let line = RejectedLine { received_nano: row.get(2)?, error: &error, bytes: &bytes };
        encoder.chain.add_rejected(db, source, line)?;
    }
    Ok(())
}

/// Computes the digests of the actors, by which the writer finds them.
fn fill_actor_digests(db: &Connection) -> rusqlite::Result<()> {
    let mut actors = db.prepare("SELECT id, source, name, labels FROM actor")?;
    let mut actors = actors.query([])?;
    let mut update = db.prepare("UPDATE actor SET digest = ?2 WHERE id = ?1")?;
    while let Some(row) = actors.next()? {
        let (name, labels) = (row.get_ref(2)?.as_str_or_null()?, row.get_ref(3)?.as_str()?);
        update.execute([row.get(0)?, actor_digest(row.get(1)?, name, labels)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file::header::SCHEMA_VERSION;

    #[test]
    fn migrations_are_valid_and_reach_the_current_schema() {
        migrations().validate().unwrap();
        let mut db = Connection::open_in_memory().unwrap();
        migrations().to_latest(&mut db).unwrap();
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, SCHEMA_VERSION);
    }
}
