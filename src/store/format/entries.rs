//! Entries that are not events: gaps, rejected lines, names of sources, checkpoints, health check commands.
//!
//! Each function stores the row of an entry and appends the entry to the chain, in the caller's transaction.

use rusqlite::{Connection, params};

use super::chain::{CheckpointFields, EntryKind, GapFields};
use super::links::ChainEnd;
use crate::store::ids::{Nanos, SourceId};

/// Source of an entry: its row, and its name in the chain.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct EntrySource<'a> {
    pub(in crate::store) id: SourceId,
    /// ID of the engine, or name of an import.
    pub(in crate::store) chain_name: &'a str,
}

/// Rejected line as it is stored.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct RejectedLine<'a> {
    pub(in crate::store) received_nano: Nanos,
    pub(in crate::store) error: &'a str,
    pub(in crate::store) bytes: &'a [u8],
}

impl ChainEnd {
    /// Appends a state of a gap; without a reason, it withdraws the gap.
    pub(in crate::store) fn add_gap(
        &mut self,
        db: &Connection,
        source: EntrySource<'_>,
        gap: GapFields<'_>,
    ) -> rusqlite::Result<()> {
        // An empty text and no text look the same in the chain, so an empty one is never stored.
        let gap = GapFields { detail: gap.detail.filter(|detail| !detail.is_empty()), ..gap };
        let fields = gap.encode();
        let fields: [&[u8]; 4] = std::array::from_fn(|at| &fields[at][..]);
        let seq = self.append(EntryKind::Gap, source.chain_name, &fields);
        let GapFields { from, to, reason, detail } = gap;
        db.prepare_cached(
            "INSERT INTO gap (seq, source, from_nano, to_nano, reason, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![seq, source.id, from, to, reason, detail])?;
        Ok(())
    }

    /// Appends a rejected line.
    pub(in crate::store) fn add_rejected(
        &mut self,
        db: &Connection,
        source: EntrySource<'_>,
        line: RejectedLine<'_>,
    ) -> rusqlite::Result<()> {
        let RejectedLine { received_nano, error, bytes } = line;
        let fields = [&received_nano.0.to_le_bytes()[..], error.as_bytes(), bytes];
        let seq = self.append(EntryKind::Rejected, source.chain_name, &fields);
        db.prepare_cached(
            "INSERT INTO rejected (seq, source, received_nano, error, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![seq, source.id, received_nano, error, bytes])?;
        Ok(())
    }

    /// Appends a checkpoint: the chain up to its head is pruned.
    pub(in crate::store) fn add_checkpoint(
        &mut self,
        db: &Connection,
        checkpoint: CheckpointFields,
    ) -> rusqlite::Result<()> {
        let fields = checkpoint.encode();
        let fields: [&[u8]; 4] = std::array::from_fn(|at| &fields[at][..]);
        let seq = self.append(EntryKind::Checkpoint, "", &fields);
        let CheckpointFields { pruned_head, events, created_nano } = checkpoint;
        db.prepare_cached("INSERT INTO seal (seq, upto, hash, events, sealed_nano) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![seq, pruned_head.seq, pruned_head.hash, events, created_nano])?;
        Ok(())
    }

    /// Appends the name that a source has from now on.
    pub(in crate::store) fn add_naming(
        &mut self,
        db: &Connection,
        source: EntrySource<'_>,
        name: &str,
    ) -> rusqlite::Result<()> {
        let seq = self.append(EntryKind::SourceName, source.chain_name, &[name.as_bytes()]);
        db.prepare_cached("INSERT INTO naming (seq, source, name) VALUES (?1, ?2, ?3)")?
            .execute(params![seq, source.id, name])?;
        Ok(())
    }

    /// Appends the health check command of a container; an empty one means that the container has no health check.
    pub(in crate::store) fn add_healthcheck(
        &mut self,
        db: &Connection,
        source: EntrySource<'_>,
        container: &str,
        command: &str,
    ) -> rusqlite::Result<()> {
        let fields = [container.as_bytes(), command.as_bytes()];
        let seq = self.append(EntryKind::Healthcheck, source.chain_name, &fields);
        db.prepare_cached("INSERT INTO healthcheck (seq, source, container, command) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![seq, source.id, container, command])?;
        Ok(())
    }
}
