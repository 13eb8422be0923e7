//! Verifies the hash chain from its beginning, entry by entry: what a query prints must be what was stored.
//!
//! A link covers the bytes of an entry, its sequence, its source and the previous link. Other data is outside the chain
//! and only helps to find events. But a query does not show an event that its kind, its actor, its block or an index
//! hides. So each of these must match the event's own bytes.

mod agreement;
mod blocks;
mod chain;
mod entries;
mod fault;
mod schema;
mod sources;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rusqlite::{Connection, Rows};
use sha2::{Digest, Sha256};

pub use self::fault::Fault;

use self::agreement::EventAgreement;
use self::blocks::BlockCheck;
use self::chain::ChainCheck;
use self::entries::OtherEntry;
use self::fault::{FaultLog, readable};
use self::sources::SourceCheck;
use crate::store::error::{StoreError, sqlite_error};
use crate::store::format::chain::{Entry, EntryKind, GENESIS_HASH, HEALTHCHECK_MARKER, Hash, Head};
use crate::store::format::checkpoint;
use crate::store::format::decode::{EVENT_COLUMNS, EventDecoder, EventRow};
use crate::store::format::links;
use crate::store::ids::{Nanos, Seq, SourceId};
use crate::store::read::reader::Reader;

/// Number of sequences read in one transaction, so that the writer can continue.
const STEP_ENTRIES: i64 = 4_096;

/// Result of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// End of the chain.
    pub head: Head,
    /// Number of entries: events, gaps, rejected lines, names, health checks.
    pub entries: u64,
    /// Number of faults.
    pub faults: u64,
}

impl Reader {
    /// Verifies the whole hash chain, as it is now, and calls `on_fault` with every fault. The `expected_heads`, which
    /// were noted earlier, must be part of the chain. If pruning deletes entries before they are verified, verification
    /// starts again at the new checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the file cannot be read at all.
    pub fn verify(&self, expected_heads: &[Head], mut on_fault: impl FnMut(Fault)) -> Result<VerifyReport, StoreError> {
        let verifier = Verifier::new(self.connection(), expected_heads, FaultLog::new(&mut on_fault));
        verifier.run().map_err(sqlite_error("verify", self.path()))
    }
}

/// State of a verification.
struct Verifier<'a> {
    db: &'a Connection,
    faults: FaultLog<'a>,
    /// End of the chain when verification started.
    head: Head,
    /// Head at which the chain begins; the entries up to it were pruned.
    checkpoint: Head,
    /// Last verified sequence.
    seq: Seq,
    chain: ChainCheck,
    blocks: BlockCheck,
    sources: SourceCheck,
    agreement: EventAgreement,
    decoder: EventDecoder,
    line: Vec<u8>,
}

impl<'a> Verifier<'a> {
    fn new(db: &'a Connection, expected_heads: &[Head], faults: FaultLog<'a>) -> Self {
        Verifier {
            db,
            faults,
            head: Head { seq: 0, hash: GENESIS_HASH },
            checkpoint: Head { seq: 0, hash: GENESIS_HASH },
            seq: Seq(0),
            chain: ChainCheck::new(expected_heads),
            blocks: BlockCheck::default(),
            sources: SourceCheck::default(),
            agreement: EventAgreement::default(),
            decoder: EventDecoder::new(),
            line: Vec::new(),
        }
    }

    fn run(mut self) -> rusqlite::Result<VerifyReport> {
        schema::check_schema(self.db, &mut self.faults)?;
        schema::check_integrity(self.db, &mut self.faults)?;
        let transaction = self.db.unchecked_transaction()?;
        self.begin()?;
        entries::check_outside(self.db, self.checkpoint, self.head, &mut self.faults)?;
        transaction.finish()?;
        while self.seq.0 < self.head.seq {
            let transaction = self.db.unchecked_transaction()?;
            if self.latest_checkpoint()?.is_some_and(|checkpoint| checkpoint.seq > self.seq.0) {
                self.begin()?;
            }
            self.verify_range(self.seq + 1..=(self.seq + STEP_ENTRIES).min(Seq(self.head.seq)))?;
            transaction.finish()?;
        }
        self.chain.resolve_suspect(&mut self.faults);
        self.blocks.finish(self.db, &mut self.faults);
        self.chain.report_unreached_heads(self.checkpoint, &mut self.faults);
        self.sources.finish(&mut self.faults);
        Ok(VerifyReport { head: self.head, entries: self.chain.entries(), faults: self.faults.count() })
    }

    /// Begins at the newest checkpoint. The caller's transaction makes all tables that grow show the same moment.
    fn begin(&mut self) -> rusqlite::Result<()> {
        self.head = links::head(self.db)?;
        self.checkpoint = self.latest_checkpoint()?.unwrap_or(self.checkpoint);
        self.seq = Seq(self.checkpoint.seq);
        self.chain.begin(self.checkpoint);
        self.faults.take_entry_reported();
        self.blocks = BlockCheck::load(self.db)?;
        self.sources.load(self.db, &mut self.faults)?;
        self.chain.check_expected_heads(self.seq, &mut self.faults);
        Ok(())
    }

    fn latest_checkpoint(&self) -> rusqlite::Result<Option<Head>> {
        Ok(readable(checkpoint::latest_pruned_head(self.db))?.flatten())
    }

    /// Verifies some sequences, of which the first follows the last verified one.
    fn verify_range(&mut self, seqs: RangeInclusive<Seq>) -> rusqlite::Result<()> {
        let mut links = stored_links(self.db, &seqs)?;
        let mut others = entries::find_others(self.db, &seqs)?;
        let db = self.db;
        let mut events =
            db.prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM event WHERE seq BETWEEN ?1 AND ?2"))?;
        let mut events = events.query([seqs.start(), seqs.end()])?;
        let mut event = next_event(&mut events)?;
        let mut missing: Option<Seq> = None;
        for seq in (seqs.start().0..=seqs.end().0).map(Seq) {
            let has_event = event.as_ref().is_some_and(|event| event.seq == seq);
            let other = others.remove(&seq);
            if !has_event && other.is_none() {
                missing.get_or_insert(seq);
            } else if let Some(first) = missing.take() {
                self.faults.report_entry(Fault::Missing { first: first.0, last: seq.0 - 1 });
            }
            if has_event {
                let row = event.take().and_then(|event| event.row);
                self.check_event(seq, row)?;
                event = next_event(&mut events)?;
            }
            for (index, entry) in other.into_iter().flatten().enumerate() {
                if has_event || index > 0 {
                    let problem = "the sequence is already used: the row was inserted";
                    self.faults.report_row(entry.table, seq.0, problem);
                } else {
                    self.check_other_entry(seq, entry)?;
                }
            }
            self.seq = seq;
            if let Some(link) = links.remove(&seq) {
                if let Some(first) = missing.take() {
                    self.faults.report_entry(Fault::Missing { first: first.0, last: seq.0 });
                }
                self.chain.check_link(seq, link, &mut self.faults);
            }
            self.chain.check_expected_heads(seq, &mut self.faults);
        }
        if let Some(first) = missing {
            self.faults.report_entry(Fault::Missing { first: first.0, last: seqs.end().0 });
        }
        Ok(())
    }

    /// Verifies an event: appends its bytes to the chain and checks whatever helps to find it.
    fn check_event(&mut self, seq: Seq, row: Option<EventRow>) -> rusqlite::Result<()> {
        let Some(row) = row else {
            self.faults.report_row("event", seq.0, "the row cannot be read");
            return Ok(());
        };
        self.blocks.check_event(self.db, &row, &mut self.faults);
        let mut line = std::mem::take(&mut self.line);
        match readable(self.decode(&row, &mut line))? {
            Some(origin) => self.check_decoded(&row, origin, &line)?,
            None => self.faults.report_row("event", seq.0, MISSING_ROWS),
        }
        self.line = line;
        Ok(())
    }

    fn decode(&mut self, row: &EventRow, line: &mut Vec<u8>) -> rusqlite::Result<Origin> {
        self.decoder.decode(self.db, row, line)?;
        Ok(Origin {
            source_id: self.decoder.source(self.db, row)?,
            received_nano: self.decoder.received_nano(self.db, row)?,
        })
    }

    fn check_decoded(&mut self, row: &EventRow, origin: Origin, line: &[u8]) -> rusqlite::Result<()> {
        let digest: Hash = Sha256::digest(line).into();
        let fields = [&origin.received_nano.0.to_le_bytes()[..], &digest, HEALTHCHECK_MARKER];
        let is_healthcheck = self.agreement.is_healthcheck(self.db, row.kind_id)?;
        let fields = if is_healthcheck { &fields[..] } else { &fields[..2] };
        let source = self.sources.chain_name(origin.source_id);
        self.chain.append(Entry { kind: EntryKind::Event, seq: row.seq, source, fields });
        self.sources.count_event(origin.source_id, row.time_nano);
        let mismatch = readable(self.agreement.find_mismatch(self.db, &mut self.decoder, row, line))?;
        if let Some(mismatch) = mismatch.unwrap_or(Some(MISSING_ROWS.into())) {
            self.faults.report_row("event", row.seq.0, mismatch);
        }
        Ok(())
    }

    /// Verifies an entry that is not an event: a gap, a rejected line, a name, a checkpoint, a health check.
    fn check_other_entry(&mut self, seq: Seq, entry: OtherEntry) -> rusqlite::Result<()> {
        let OtherEntry { table, kind } = entry;
        let Some(content) = entries::read_content(self.db, seq, entry)? else {
            self.faults.report_row(table, seq.0, "the row cannot be read");
            return Ok(());
        };
        if kind == EntryKind::Gap && entries::gap_has_empty_text(self.db, seq)? {
            self.faults.report_row(table, seq.0, "the row was changed");
        }
        self.sources.count_entry(content.source_id, kind, &content.fields);
        let fields: Vec<&[u8]> = content.fields.iter().map(|field| &field[..]).collect();
        let source = self.sources.chain_name(content.source_id);
        self.chain.append(Entry { kind, seq, source, fields: &fields });
        Ok(())
    }
}

const MISSING_ROWS: &str = "the row refers to missing rows";

/// Source of an event, and its time of arrival.
struct Origin {
    source_id: SourceId,
    received_nano: Nanos,
}

/// Sequence of an event, and its row if the row can be read.
struct FoundEvent {
    seq: Seq,
    row: Option<EventRow>,
}

fn next_event(rows: &mut Rows<'_>) -> rusqlite::Result<Option<FoundEvent>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(FoundEvent { seq: row.get(0)?, row: readable(EventRow::read(row))? }))
}

/// Returns the stored links of some sequences; `None` where a link is not a hash.
fn stored_links(db: &Connection, seqs: &RangeInclusive<Seq>) -> rusqlite::Result<BTreeMap<Seq, Option<Hash>>> {
    let mut stored = db.prepare_cached("SELECT seq, hash FROM link WHERE seq BETWEEN ?1 AND ?2")?;
    let mut stored = stored.query([seqs.start(), seqs.end()])?;
    let mut links = BTreeMap::new();
    while let Some(row) = stored.next()? {
        links.insert(row.get(0)?, row.get(1).ok());
    }
    Ok(links)
}
