//! Reads the entries that are not events, as the chain covers them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rusqlite::{Connection, Row};

use super::fault::{Fault, FaultLog, readable};
use crate::store::format::chain::{CheckpointFields, EntryKind, GapFields, Head};
use crate::store::ids::{Seq, SourceId};

/// Tables of the entries of the chain.
const TABLES: [(&str, EntryKind); 6] = [
    ("event", EntryKind::Event),
    ("gap", EntryKind::Gap),
    ("rejected", EntryKind::Rejected),
    ("naming", EntryKind::SourceName),
    ("seal", EntryKind::Checkpoint),
    ("healthcheck", EntryKind::Healthcheck),
];

/// Entry that is not an event, by its row.
#[derive(Clone, Copy, Debug)]
pub(super) struct OtherEntry {
    pub(super) table: &'static str,
    pub(super) kind: EntryKind,
}

/// Content of an entry.
pub(super) struct EntryContent {
    /// Row ID of the source; 0 for an entry without one.
    pub(super) source_id: SourceId,
    pub(super) fields: Vec<Vec<u8>>,
}

/// Reports entries outside the chain: before its beginning or after its end.
pub(super) fn check_outside(
    db: &Connection,
    checkpoint: Head,
    head: Head,
    faults: &mut FaultLog<'_>,
) -> rusqlite::Result<()> {
    for (table, _) in TABLES {
        let mut outside = db.prepare(&format!("SELECT seq FROM {table} WHERE seq <= ?1 OR seq > ?2 LIMIT 100"))?;
        let outside =
            outside.query_map([checkpoint.seq, head.seq], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
        for seq in outside {
            let problem = "the row is not in the chain: it was inserted".into();
            faults.report(Fault::Row { table, row: seq, problem });
        }
    }
    Ok(())
}

/// Finds the entries of some sequences that are not events. More than one entry can have a sequence, if one was
/// inserted.
pub(super) fn find_others(
    db: &Connection,
    seqs: &RangeInclusive<Seq>,
) -> rusqlite::Result<BTreeMap<Seq, Vec<OtherEntry>>> {
    let mut others: BTreeMap<Seq, Vec<OtherEntry>> = BTreeMap::new();
    for (table, kind) in TABLES.into_iter().filter(|(_, kind)| *kind != EntryKind::Event) {
        let mut found = db.prepare_cached(&format!("SELECT seq FROM {table} WHERE seq BETWEEN ?1 AND ?2"))?;
        let mut found = found.query([seqs.start(), seqs.end()])?;
        while let Some(row) = found.next()? {
            others.entry(row.get(0)?).or_default().push(OtherEntry { table, kind });
        }
    }
    Ok(others)
}

/// Reads the content of an entry; `None` if it cannot be read.
pub(super) fn read_content(db: &Connection, seq: Seq, entry: OtherEntry) -> rusqlite::Result<Option<EntryContent>> {
    let OtherEntry { table, kind } = entry;
    let columns = match kind {
        EntryKind::Event => "0",
        EntryKind::Gap => "source, from_nano, to_nano, reason, detail",
        EntryKind::Rejected => "source, received_nano, error, bytes",
        EntryKind::SourceName => "source, name",
        EntryKind::Checkpoint => "0, upto, hash, events, sealed_nano",
        EntryKind::Healthcheck => "source, container, command",
    };
    let content = |row: &Row<'_>| Ok(EntryContent { source_id: row.get(0)?, fields: read_fields(kind, row)? });
    let read = db
        .prepare_cached(&format!("SELECT {columns} FROM {table} WHERE seq = ?1"))
        .and_then(|mut statement| statement.query_row([seq], content));
    readable(read)
}

fn read_fields(kind: EntryKind, row: &Row<'_>) -> rusqlite::Result<Vec<Vec<u8>>> {
    let text = |at: usize| row.get::<_, Option<String>>(at);
    Ok(match kind {
        EntryKind::Event => Vec::new(),
        EntryKind::Gap => {
            let (from, to, reason, detail) = (row.get(1)?, row.get(2)?, text(3)?, text(4)?);
            GapFields { from, to, reason: reason.as_deref(), detail: detail.as_deref() }.encode().into()
        }
        EntryKind::Rejected => {
            let received: i64 = row.get(1)?;
            vec![received.to_le_bytes().into(), row.get::<_, String>(2)?.into(), row.get(3)?]
        }
        EntryKind::SourceName => vec![row.get::<_, String>(1)?.into()],
        EntryKind::Healthcheck => vec![row.get::<_, String>(1)?.into(), row.get::<_, String>(2)?.into()],
        EntryKind::Checkpoint => {
            let pruned_head = Head { seq: row.get(1)?, hash: row.get(2)? };
            CheckpointFields { pruned_head, events: row.get(3)?, created_nano: row.get(4)? }.encode().into()
        }
    })
}

/// Returns true if a gap has an empty text. In the chain an empty text equals no text, so the writer never stores one.
pub(super) fn gap_has_empty_text(db: &Connection, seq: Seq) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM gap WHERE seq = ?1 AND (reason = '' OR detail = '')")?.exists([seq])
}
