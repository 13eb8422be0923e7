//! Exec IDs: an exec ID is stored in one event, and later events of the exec refer to the sequence of that event.

use std::collections::BTreeSet;

use rusqlite::Connection;
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use super::layout::{VaryingAttributes, VaryingValue};
use crate::cache::GenerationalCache;
use crate::store::ids::Seq;

/// Number of cached exec IDs: those of commands that are running.
const CACHE_SIZE: usize = 4_096;

/// Maximum distance, in sequences, at which an event refers to an earlier event for its exec ID. Pruning searches this
/// far for references to what it deletes.
pub(in crate::store) const EXEC_ID_LOOKBACK: i64 = 100_000;

/// Value of `shape.exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum ExecFlag {
    /// The events have no exec ID.
    None = 0,
    /// The events have an exec ID.
    Plain = 1,
    /// The events have an exec ID and the health-check flag.
    Healthcheck = 2,
}

impl ToSql for ExecFlag {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok((*self as i64).into())
    }
}

impl FromSql for ExecFlag {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        // Any other number than those above means an exec ID, as it does in SQL.
        i64::column_result(value).map(|flag| match flag {
            0 => ExecFlag::None,
            2 => ExecFlag::Healthcheck,
            _ => ExecFlag::Plain,
        })
    }
}

/// Sequences of the events that contain the exec IDs used last.
pub(in crate::store) struct ExecIds {
    first_seqs: GenerationalCache<[u8; 32], Seq>,
}

impl Default for ExecIds {
    fn default() -> Self {
        ExecIds { first_seqs: GenerationalCache::new(CACHE_SIZE) }
    }
}

impl ExecIds {
    /// Clears the cache.
    pub(in crate::store) fn clear(&mut self) {
        self.first_seqs.clear();
    }

    /// Replaces an exec ID by the sequence of a recent event that contains it. Because a number in this column means a
    /// sequence, an exec ID that is a number is stored as text.
    pub(in crate::store) fn intern<'e>(
        &mut self,
        seq: Seq,
        mut varying: VaryingAttributes<'e>,
    ) -> VaryingAttributes<'e> {
        match varying.exec_id_mut() {
            Some(exec_id @ VaryingValue::Digest(_)) => {
                let VaryingValue::Digest(digest) = *exec_id else { return varying };
                match self.first_seqs.get(&digest) {
                    Some(first_seq) if seq - *first_seq < EXEC_ID_LOOKBACK => {
                        *exec_id = VaryingValue::Number(first_seq.0);
                    }
                    _ => self.first_seqs.insert(digest, seq),
                }
            }
            Some(exec_id @ VaryingValue::Number(_)) => {
                if let VaryingValue::Number(number) = *exec_id {
                    *exec_id = VaryingValue::Text(number.to_string().into());
                }
            }
            Some(VaryingValue::Text(_)) | None => {}
        }
        varying
    }
}

/// Reference from an event to the exec ID of an earlier event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    referenced_seq: Seq,
    referring_seq: Seq,
}

/// References from events to the exec ID of an earlier event, for the events after the pruned part that can have one.
/// Each reference is found once, however small the steps of pruning are.
#[derive(Debug, Default)]
pub(in crate::store) struct ExecIdReferences {
    /// Sequence up to which references were searched.
    scanned_seq: Seq,
    references: BTreeSet<Reference>,
}

impl ExecIdReferences {
    /// Writes exec IDs into the events that refer to them, if the events up to `last_seq`, which contain them, are
    /// about to be deleted. `head_seq` is the last sequence of the chain.
    pub(in crate::store) fn materialize(
        &mut self,
        db: &Connection,
        last_seq: Seq,
        head_seq: Seq,
    ) -> rusqlite::Result<()> {
        let (from, to) = (self.scanned_seq.max(last_seq) + 1, head_seq.min(last_seq + EXEC_ID_LOOKBACK));
        let mut refer = db.prepare_cached(
            "SELECT exec_id, seq FROM event WHERE seq BETWEEN ?1 AND ?2 AND typeof(exec_id) = 'integer'",
        )?;
        let mut refer = refer.query([from, to])?;
        while let Some(row) = refer.next()? {
            self.references.insert(Reference { referenced_seq: row.get(0)?, referring_seq: row.get(1)? });
        }
        self.scanned_seq = to.max(self.scanned_seq);
        let remaining = self.references.split_off(&Reference { referenced_seq: last_seq + 1, referring_seq: Seq(0) });
        let mut update = db.prepare_cached(
            "UPDATE event SET exec_id = (SELECT same.exec_id FROM event AS same WHERE same.seq = ?1)
             WHERE seq = ?2 AND exec_id = ?1",
        )?;
        for Reference { referenced_seq, referring_seq } in std::mem::replace(&mut self.references, remaining) {
            if referring_seq > last_seq {
                update.execute([referenced_seq, referring_seq])?;
            }
        }
        Ok(())
    }
}
