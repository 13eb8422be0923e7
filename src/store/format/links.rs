//! Stored links of the hash chain: reads the head, and appends entries.
//!
//! Every 64th link is stored, and the last one. What an entry contains is the business of [`super::entries`].

use rusqlite::{Connection, OptionalExtension, params};

use super::chain::{self, Entry, EntryKind, GENESIS_HASH, Hash, Head};
use crate::store::ids::Seq;

/// Number of entries between stored chain links. The last link is stored too, so at most this many entries share one.
const LINK_INTERVAL: i64 = 64;

/// Returns the last stored link of the chain.
pub(in crate::store) fn head(connection: &Connection) -> rusqlite::Result<Head> {
    let last = connection
        .prepare_cached("SELECT seq, hash FROM link ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok(Head { seq: row.get(0)?, hash: row.get(1)? }))
        .optional()?;
    Ok(last.unwrap_or(Head { seq: 0, hash: GENESIS_HASH }))
}

/// Link that will be stored.
struct PendingLink {
    seq: Seq,
    hash: Hash,
}

/// End of the chain, at which a transaction appends entries.
pub(in crate::store) struct ChainEnd {
    /// Last sequence given, and the chain link there.
    seq: Seq,
    hash: Hash,
    /// Sequence of the last stored link, and the links that this transaction will store.
    last_stored_seq: Seq,
    pending: Vec<PendingLink>,
}

impl Default for ChainEnd {
    fn default() -> Self {
        ChainEnd { seq: Seq(0), hash: GENESIS_HASH, last_stored_seq: Seq(0), pending: Vec::new() }
    }
}

impl ChainEnd {
    /// Continues at the stored head.
    pub(in crate::store) fn load(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let head = head(db)?;
        (self.seq, self.hash) = (Seq(head.seq), head.hash);
        self.last_stored_seq = self.seq;
        self.pending.clear();
        Ok(())
    }

    /// Returns the head after the entries that were appended.
    pub(in crate::store) fn head(&self) -> Head {
        Head { seq: self.seq.0, hash: self.hash }
    }

    /// Returns the sequence that the next entry will have.
    pub(in crate::store) fn next_seq(&self) -> Seq {
        self.seq + 1
    }

    /// Appends an entry and returns its sequence.
    pub(in crate::store) fn append(&mut self, kind: EntryKind, source: &str, fields: &[&[u8]]) -> Seq {
        self.seq = self.next_seq();
        self.hash = chain::link(&self.hash, Entry { kind, seq: self.seq, source, fields });
        if self.seq.0 % LINK_INTERVAL == 0 {
            self.pending.push(PendingLink { seq: self.seq, hash: self.hash });
        }
        self.seq
    }

    /// Stores the links of the entries that were appended.
    pub(in crate::store) fn store(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.seq == self.last_stored_seq {
            return Ok(());
        }
        if self.pending.last().is_none_or(|last| last.seq < self.seq) {
            self.pending.push(PendingLink { seq: self.seq, hash: self.hash });
        }
        // The link of the previous head can go, unless it is one of those stored at every interval.
        if self.last_stored_seq.0 % LINK_INTERVAL != 0 {
            db.prepare_cached("DELETE FROM link WHERE seq = ?1")?.execute([self.last_stored_seq])?;
        }
        let mut insert = db.prepare_cached("INSERT INTO link (seq, hash) VALUES (?1, ?2)")?;
        for PendingLink { seq, hash } in self.pending.drain(..) {
            insert.execute(params![seq, hash])?;
        }
        self.last_stored_seq = self.seq;
        Ok(())
    }
}
