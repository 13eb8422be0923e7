//! Sources that the writer writes: finds the row of a source or adds it, and keeps its state between commits.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::dedupe::StoredInstants;
use super::delivery::SourceKey;
use crate::store::format::checkpoint;
use crate::store::format::encode::EventEncoder;
use crate::store::format::entries::EntrySource;
use crate::store::ids::{Nanos, SourceId};

/// State of a source that the writer keeps between commits.
#[derive(Debug)]
pub(super) struct SourceState {
    pub(super) id: SourceId,
    /// Name in the hash chain: the engine's own ID, or the name of an import.
    chain_name: String,
    /// Name in the store.
    pub(super) name: String,
    /// Key at the time when the source was last looked up.
    key: Arc<SourceKey>,
    /// Time of the newest stored event; a later event is new without a lookup.
    pub(super) newest_nano: Nanos,
    /// Time of the oldest stored event if events were pruned; a replayed event before it was pruned.
    pub(super) pruned_before_nano: Option<Nanos>,
    /// Number of rejected lines that are stored.
    pub(super) rejected: u64,
    /// Stored events of the instants that were looked up last.
    pub(super) instants: StoredInstants,
}

impl SourceState {
    /// Returns the source as entries of the chain name it.
    pub(super) fn entry_source(&self) -> EntrySource<'_> {
        EntrySource { id: self.id, chain_name: &self.chain_name }
    }
}

/// Identity of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SourceIdentity {
    /// ID of the engine.
    Engine(String),
    /// Name of the import.
    Import(String),
}

/// States of the sources written last.
#[derive(Debug, Default)]
pub(super) struct Sources {
    states: HashMap<SourceIdentity, SourceState>,
    /// [`WriteTransaction::cache_epoch`](crate::store::format::cached_store::WriteTransaction::cache_epoch) at which
    /// the states were valid.
    cache_epoch: u64,
}

impl Sources {
    /// Clears the states.
    pub(super) fn clear(&mut self) {
        self.states.clear();
    }

    /// Clears the states if they may differ from the tables.
    pub(super) fn begin(&mut self, cache_epoch: u64) {
        if self.cache_epoch != cache_epoch {
            self.states.clear();
            self.cache_epoch = cache_epoch;
        }
    }

    /// Returns the state of a source, after it was found or added.
    pub(super) fn find_or_add(
        &mut self,
        db: &Connection,
        encoder: &mut EventEncoder,
        key: &Arc<SourceKey>,
    ) -> rusqlite::Result<&mut SourceState> {
        let identity = match &key.engine_id {
            Some(engine_id) => SourceIdentity::Engine(engine_id.clone()),
            None => SourceIdentity::Import(key.name.clone()),
        };
        let cached = self.states.remove(&identity).filter(|known| known.key == *key);
        let state = cached.map_or_else(|| find_or_add(db, encoder, key), Ok)?;
        Ok(self.states.entry(identity).or_insert(state))
    }
}

/// Row of a source, as far as the writer needs it.
struct FoundSource {
    id: SourceId,
    name: String,
    first_nano: Option<Nanos>,
    last_nano: Option<Nanos>,
}

fn find_or_add(db: &Connection, encoder: &mut EventEncoder, key: &Arc<SourceKey>) -> rusqlite::Result<SourceState> {
    let source = match find(db, key)? {
        Some(found) => update(db, encoder, key, found)?,
        None => add(db, encoder, key)?,
    };
    Ok(SourceState {
        id: source.id,
        chain_name: chain_name(key, &source.name).to_owned(),
        key: key.clone(),
        newest_nano: source.last_nano.unwrap_or(Nanos::MIN),
        pruned_before_nano: checkpoint::latest(db)?.map(|_| source.first_nano.unwrap_or(Nanos::MAX)),
        rejected: db
            .prepare_cached("SELECT count(*) FROM rejected WHERE source = ?1")?
            .query_row([source.id], |row| row.get(0))?,
        instants: StoredInstants::default(),
        name: source.name,
    })
}

fn find(db: &Connection, key: &SourceKey) -> rusqlite::Result<Option<FoundSource>> {
    let found = |row: &Row<'_>| {
        Ok(FoundSource { id: row.get(0)?, name: row.get(1)?, first_nano: row.get(2)?, last_nano: row.get(3)? })
    };
    match &key.engine_id {
        Some(engine) => db
            .prepare_cached("SELECT id, name, first_nano, last_nano FROM source WHERE engine_id = ?1")?
            .query_row([engine], found)
            .optional(),
        None => db
            .prepare_cached(
                "SELECT id, name, first_nano, last_nano FROM source WHERE engine_id IS NULL AND name IN (?1, ?2)
                 ORDER BY name",
            )?
            .query_row([&key.name, &import_name(&key.name)], found)
            .optional(),
    }
}

/// Stores the host and the name of a source, if they changed.
fn update(
    db: &Connection,
    encoder: &mut EventEncoder,
    key: &SourceKey,
    mut source: FoundSource,
) -> rusqlite::Result<FoundSource> {
    if let Some(host) = &key.host {
        db.prepare_cached("UPDATE source SET host = ?2 WHERE id = ?1 AND host IS NOT ?2")?
            .execute(params![source.id, host])?;
    }
    if key.overrides_name {
        source.name = unique_name(db, key, source.id)?;
        let renamed = db
            .prepare_cached("UPDATE source SET name = ?2 WHERE id = ?1 AND name <> ?2")?
            .execute(params![source.id, source.name])?;
        if renamed > 0 {
            add_naming(db, encoder, key, &source)?;
        }
    }
    Ok(source)
}

fn add(db: &Connection, encoder: &mut EventEncoder, key: &SourceKey) -> rusqlite::Result<FoundSource> {
    let name = unique_name(db, key, SourceId(0))?;
    db.prepare_cached("INSERT INTO source (engine_id, name, host) VALUES (?1, ?2, ?3)")?.execute(params![
        key.engine_id,
        name,
        key.host
    ])?;
    let source = FoundSource { id: SourceId(db.last_insert_rowid()), name, first_nano: None, last_nano: None };
    add_naming(db, encoder, key, &source)?;
    Ok(source)
}

fn add_naming(
    db: &Connection,
    encoder: &mut EventEncoder,
    key: &SourceKey,
    source: &FoundSource,
) -> rusqlite::Result<()> {
    let entry_source = EntrySource { id: source.id, chain_name: chain_name(key, &source.name) };
    encoder.chain.add_naming(db, entry_source, &source.name)
}

/// Returns the name of a source in the chain: the ID of the engine, or the name of an import.
fn chain_name<'a>(key: &'a SourceKey, name: &'a str) -> &'a str {
    key.engine_id.as_deref().unwrap_or(name)
}

/// Returns the name for a source: its own, or one with the beginning of its ID if a source other than `id` has that.
fn unique_name(db: &Connection, key: &SourceKey, id: SourceId) -> rusqlite::Result<String> {
    let base = if key.name.is_empty() { "engine" } else { &key.name };
    let mut same_name = db.prepare_cached("SELECT 1 FROM source WHERE name = ?1 AND id <> ?2")?;
    let Some(engine_id) = &key.engine_id else {
        return Ok(if same_name.exists(params![base, id])? { import_name(base) } else { base.to_owned() });
    };
    let digits: String = engine_id.chars().filter(char::is_ascii_alphanumeric).collect();
    let candidates = [base.to_owned(), format!("{base}-{digits:.8}"), format!("{base}-{digits}")];
    for name in candidates {
        if !same_name.exists(params![name, id])? {
            return Ok(name);
        }
    }
    Ok(format!("{base}-{engine_id}"))
}

/// Name of an import if an engine already has the import's own name.
fn import_name(name: &str) -> String {
    format!("{name}-imported")
}
