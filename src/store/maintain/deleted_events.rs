//! Events that a step of pruning deletes, and what their deletion changes in the rows of their sources.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use crate::store::ids::{ActorId, Nanos, Seq, SourceId};

/// Number of blocks that are searched for the oldest or newest instant of a source, before all its events are.
const MAX_SEARCHED_BLOCKS: usize = 8;

/// Events that are deleted in a step.
pub(super) struct DeletedEvents {
    by_source: BTreeMap<SourceId, SourceDeletion>,
    /// Actors of the events; some of them have remaining events.
    pub(super) actors: Vec<ActorId>,
}

/// Deleted events of one source: their number and their time range.
struct SourceDeletion {
    events: u64,
    min_nano: Nanos,
    max_nano: Nanos,
}

impl DeletedEvents {
    pub(super) fn up_to(db: &Connection, upto: Seq) -> rusqlite::Result<DeletedEvents> {
        let mut deleted = DeletedEvents { by_source: BTreeMap::new(), actors: Vec::new() };
        let mut source = db.prepare_cached("SELECT source FROM actor WHERE id = ?1")?;
        // Reading in the order of actors would read the index on actors from end to end, and it covers the whole store.
        let mut actors = db.prepare_cached(
            "SELECT actor, count(*), min(time_nano), max(time_nano) FROM event NOT INDEXED WHERE seq <= ?1 GROUP BY actor",
        )?;
        let mut actors = actors.query([upto])?;
        while let Some(row) = actors.next()? {
            let actor = row.get(0)?;
            deleted.actors.push(actor);
            let deletion = SourceDeletion { events: row.get(1)?, min_nano: row.get(2)?, max_nano: row.get(3)? };
            deleted
                .by_source
                .entry(source.query_row([actor], |row| row.get(0))?)
                .and_modify(|total| {
                    total.events += deletion.events;
                    total.min_nano = total.min_nano.min(deletion.min_nano);
                    total.max_nano = total.max_nano.max(deletion.max_nano);
                })
                .or_insert(deletion);
        }
        Ok(deleted)
    }

    /// Updates the counts and times of events in the rows of the sources.
    pub(super) fn update_source_stats(&self, db: &Connection) -> rusqlite::Result<()> {
        for (source, deletion) in &self.by_source {
            let (events, first, last): (u64, Nanos, Nanos) = db
                .prepare_cached("SELECT events, first_nano, last_nano FROM source WHERE id = ?1")?
                .query_row([source], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let events = events.saturating_sub(deletion.events);
            let (first, last) = match events {
                0 => (None, None),
                _ => (
                    if deletion.min_nano > first {
                        Some(first)
                    } else {
                        extreme_instant(db, *source, Extreme::Oldest)?
                    },
                    if deletion.max_nano < last { Some(last) } else { extreme_instant(db, *source, Extreme::Newest)? },
                ),
            };
            db.prepare_cached("UPDATE source SET events = ?2, first_nano = ?3, last_nano = ?4 WHERE id = ?1")?
                .execute(params![source, events, first, last])?;
        }
        Ok(())
    }
}

/// Block, with its oldest or newest instant.
struct BlockReach {
    first_seq: Seq,
    last_seq: Seq,
    reach: Nanos,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extreme {
    Oldest,
    Newest,
}

/// Returns the oldest or newest instant of a source that has events. It searches the blocks that reach farthest, until
/// no other block can reach farther. If [`MAX_SEARCHED_BLOCKS`] blocks do not decide it, it searches all events of the
/// source.
fn extreme_instant(db: &Connection, source: SourceId, side: Extreme) -> rusqlite::Result<Option<Nanos>> {
    let (which, reach, order) = match side {
        Extreme::Oldest => ("min", "min_nano", "ASC"),
        Extreme::Newest => ("max", "max_nano", "DESC"),
    };
    let key = |instant: Nanos| if side == Extreme::Oldest { instant.0 } else { -instant.0 };
    let blocks: Vec<BlockReach> = db
        .prepare_cached(&format!("SELECT first_seq, last_seq, {reach} FROM stretch ORDER BY {reach} {order} LIMIT ?1"))?
        .query_map([MAX_SEARCHED_BLOCKS + 1], |row| {
            Ok(BlockReach { first_seq: row.get(0)?, last_seq: row.get(1)?, reach: row.get(2)? })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut found: Option<Nanos> = None;
    for BlockReach { first_seq, last_seq, reach } in blocks.iter().take(MAX_SEARCHED_BLOCKS) {
        if found.is_some_and(|found| key(found) <= key(*reach)) {
            return Ok(found);
        }
        let block_extreme: Option<Nanos> = db
            .prepare_cached(&format!(
                "SELECT {which}(time_nano) FROM event JOIN actor ON actor.id = event.actor
                 WHERE seq BETWEEN ?1 AND ?2 AND actor.source = ?3"
            ))?
            .query_row(params![first_seq, last_seq, source], |row| row.get(0))?;
        found = found.into_iter().chain(block_extreme).min_by_key(|instant| key(*instant));
    }
    match blocks.get(MAX_SEARCHED_BLOCKS) {
        Some(next) if found.is_none_or(|found| key(found) > key(next.reach)) => db
            .prepare_cached(&format!(
                "SELECT {which}(time_nano) FROM event WHERE actor IN (SELECT id FROM actor WHERE source = ?1)"
            ))?
            .query_row([source], |row| row.get(0)),
        _ => Ok(found),
    }
}
