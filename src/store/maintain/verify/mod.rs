//! Verifies the hash chain from its beginning, entry by entry: what a query prints must be what was stored.
//!
//! A link covers the bytes of an entry, its sequence, its source and the previous link. Other data is outside the chain
//! and only helps to find events. But a query does not show an event that its kind, its actor, its block or an index
//! hides. So each of these must match the event's own bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::{Display, Formatter};

use rusqlite::{Connection, Row, Rows};
use sha2::{Digest, Sha256};

use crate::event::Event;
use crate::store::error::{StoreError, sqlite_error};
use crate::store::format::blocks::{self, Block, parse_ids};
use crate::store::format::chain::{
    self, CheckpointFields, Entry, EntryKind, GENESIS_HASH, GapFields, HEALTHCHECK_MARKER, Hash, Head,
};
use crate::store::format::checkpoint;
use crate::store::format::decode::{EVENT_COLUMNS, EventDecoder, EventRow};
use crate::store::format::exec_ids::ExecFlag;
use crate::store::format::layout::{Actor, LineTemplate, is_varying};
use crate::store::format::links;
use crate::store::format::migrate;
use crate::store::format::source::{self, SourceRow};
use crate::store::read::reader::Reader;

/// Number of sequences read in one transaction, so that the writer can continue.
const STEP_ENTRIES: i64 = 4_096;

/// A difference between the store and what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Corruption that SQLite itself finds: a damaged page, or an index that lacks a row.
    Corrupt(String),
    /// A table, index, view or trigger of the schema was changed, removed or added.
    Schema(String),
    /// A row that does not match the entries it belongs to.
    Row {
        /// Table of the row.
        table: &'static str,
        /// Key of the row.
        row: i64,
        /// Problem with the row.
        problem: String,
    },
    /// Entries that are missing.
    Missing {
        /// First sequence.
        first: i64,
        /// Last sequence.
        last: i64,
    },
    /// A range of entries in which at least one was changed.
    Changed {
        /// First sequence.
        first: i64,
        /// Last sequence.
        last: i64,
    },
    /// An expected head is in the pruned part and can no longer be verified.
    Pruned {
        /// The expected head.
        expected: Head,
        /// Last pruned sequence.
        last_seq: i64,
    },
    /// An expected head is not part of the chain.
    HeadMismatch {
        /// The expected head.
        expected: Head,
        /// The chain's link at that sequence, if the chain reaches it.
        found: Option<Hash>,
    },
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Corrupt(what) => write!(f, "the file is damaged: {what}"),
            Fault::Schema(what) => write!(f, "{what}"),
            Fault::Row { table, row, problem } => write!(f, "{table} {row}: {problem}"),
            Fault::Missing { first, last } if first == last => write!(f, "sequence {first} is missing"),
            Fault::Missing { first, last } => write!(f, "sequences {first} to {last} are missing"),
            Fault::Changed { first, last } if first == last => write!(f, "sequence {first} was changed"),
            Fault::Changed { first, last } => write!(f, "one of the sequences {first} to {last} was changed"),
            Fault::Pruned { expected, last_seq } => {
                write!(f, "the head {expected} cannot be verified: everything up to sequence {last_seq} was pruned")
            }
            Fault::HeadMismatch { expected, found: None } => {
                write!(f, "the chain does not reach the head {expected}: the end of the chain was removed")
            }
            Fault::HeadMismatch { expected, found: Some(found) } => {
                write!(
                    f,
                    "the head {expected} is not part of the chain: the head at that sequence is {}",
                    Head { seq: expected.seq, hash: *found }
                )
            }
        }
    }
}

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
    /// Verifies the whole hash chain, as it is now, and calls `each` with every fault. The `expected_heads`, which were
    /// noted earlier, must be part of the chain.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the file cannot be read at all.
    pub fn verify(&self, expected_heads: &[Head], on_fault: impl FnMut(Fault)) -> Result<VerifyReport, StoreError> {
        verify_chain(self.connection(), expected_heads, on_fault).map_err(sqlite_error("verify", self.path()))
    }
}

/// Verifies the whole chain, as it is at the start, and calls `on_fault` with every fault. The `expected_heads`, which
/// were noted earlier, must be part of the chain. If pruning deletes entries before they are verified, verification
/// starts again at the new checkpoint.
fn verify_chain(
    db: &Connection,
    expected_heads: &[Head],
    on_fault: impl FnMut(Fault),
) -> rusqlite::Result<VerifyReport> {
    Verifier::new(db, expected_heads, on_fault).run()
}

/// State of a verification.
struct Verifier<'a, F> {
    db: &'a Connection,
    on_fault: F,
    faults: u64,
    entries: u64,
    decoder: EventDecoder,
    line: Vec<u8>,
    sources: BTreeMap<i64, Source>,
    expected_heads: BTreeMap<i64, Vec<Hash>>,
    /// End of the chain when verification started.
    head: Head,
    /// Head at which the chain begins; the entries up to it were pruned.
    checkpoint: Head,
    /// Last verified sequence, and the chain's hash there.
    seq: i64,
    hash: Hash,
    /// Sequence of the last stored link, and true if a fault was reported since.
    last_link_seq: i64,
    fault_reported: bool,
    suspect: Option<SuspectLink>,
    blocks: VecDeque<Block>,
    block_progress: BlockProgress,
    /// Event kinds and actors that already matched an event.
    kinds: HashMap<i64, StoredKind>,
    actors: HashSet<i64>,
}

/// A link that does not match. The next link shows whether the entries before it were changed, or the link itself.
struct SuspectLink {
    first: i64,
    last: i64,
    /// The chain computed from the entries, continued past the link.
    hash: Hash,
}

/// A source as recorded in its row, and as computed from its entries.
struct Source {
    recorded: SourceRow,
    computed: SourceStats,
}

/// Values in the row of a source that its entries determine.
#[derive(Debug, Default, PartialEq, Eq)]
struct SourceStats {
    name: Option<String>,
    events: u64,
    rejected: u64,
    first_nano: Option<i64>,
    last_nano: Option<i64>,
}

/// Row of an event kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredKind {
    event_type: String,
    action: String,
    scope: String,
    has_exec_id: bool,
    /// True if its events have the health-check flag.
    is_healthcheck: bool,
    /// True if the line is rendered from kind and actor, with a placeholder for every value. A correct line then proves
    /// both.
    is_complete: bool,
}

/// Verified part of a block.
#[derive(Debug, Default)]
struct BlockProgress {
    block: Option<Block>,
    events: i64,
    kinds: BTreeSet<i64>,
}

impl<'a, F: FnMut(Fault)> Verifier<'a, F> {
    fn new(db: &'a Connection, expected_heads: &[Head], on_fault: F) -> Self {
        let mut verifier = Verifier {
            db,
            on_fault,
            faults: 0,
            entries: 0,
            decoder: EventDecoder::new(),
            line: Vec::new(),
            sources: BTreeMap::new(),
            expected_heads: BTreeMap::new(),
            head: Head { seq: 0, hash: GENESIS_HASH },
            checkpoint: Head { seq: 0, hash: GENESIS_HASH },
            seq: 0,
            hash: GENESIS_HASH,
            last_link_seq: 0,
            fault_reported: false,
            suspect: None,
            blocks: VecDeque::new(),
            block_progress: BlockProgress::default(),
            kinds: HashMap::new(),
            actors: HashSet::new(),
        };
        for head in expected_heads {
            verifier.expected_heads.entry(head.seq).or_default().push(head.hash);
        }
        verifier
    }

    /// Begins at the newest checkpoint. The caller's transaction makes all tables that grow show the same moment.
    fn begin(&mut self) -> rusqlite::Result<()> {
        self.head = links::head(self.db)?;
        self.checkpoint = self.latest_checkpoint()?.unwrap_or(self.checkpoint);
        (self.seq, self.last_link_seq, self.hash) = (self.checkpoint.seq, self.checkpoint.seq, self.checkpoint.hash);
        (self.entries, self.fault_reported, self.suspect) = (0, false, None);
        self.blocks = blocks::load_after(self.db, 0)?.into();
        self.block_progress = BlockProgress::default();
        match readable(source::all(self.db))? {
            Some(sources) => {
                self.sources = sources
                    .into_iter()
                    .map(|recorded| (recorded.id, Source { recorded, computed: SourceStats::default() }))
                    .collect();
            }
            None => self.report_fault(Fault::Schema("the table source cannot be read".into())),
        }
        self.check_expected_heads(self.seq);
        Ok(())
    }

    fn latest_checkpoint(&self) -> rusqlite::Result<Option<Head>> {
        Ok(readable(checkpoint::latest_pruned_head(self.db))?.flatten())
    }

    fn report_fault(&mut self, fault: Fault) {
        self.faults += 1;
        (self.on_fault)(fault);
    }

    /// Reports a fault of the current entry; the next link is then not reported too.
    fn report_entry_fault(&mut self, fault: Fault) {
        self.fault_reported = true;
        self.report_fault(fault);
    }

    fn report_row_fault(&mut self, table: &'static str, row: i64, problem: impl Into<String>) {
        self.report_entry_fault(Fault::Row { table, row, problem: problem.into() });
    }

    fn run(mut self) -> rusqlite::Result<VerifyReport> {
        self.check_schema()?;
        self.check_integrity()?;
        let transaction = self.db.unchecked_transaction()?;
        self.begin()?;
        self.check_outside_entries()?;
        transaction.finish()?;
        while self.seq < self.head.seq {
            let transaction = self.db.unchecked_transaction()?;
            if self.latest_checkpoint()?.is_some_and(|checkpoint| checkpoint.seq > self.seq) {
                self.begin()?;
            }
            self.verify_up_to((self.seq + STEP_ENTRIES).min(self.head.seq))?;
            transaction.finish()?;
        }
        self.resolve_suspect();
        self.finish_block();
        for block in std::mem::take(&mut self.blocks) {
            self.report_fault(Fault::Row {
                table: "stretch",
                row: block.first_seq,
                problem: "the block has no events".into(),
            });
        }
        for (seq, hashes) in std::mem::take(&mut self.expected_heads) {
            for hash in hashes {
                if seq < self.checkpoint.seq {
                    self.report_fault(Fault::Pruned { expected: Head { seq, hash }, last_seq: self.checkpoint.seq });
                    continue;
                }
                self.report_fault(Fault::HeadMismatch { expected: Head { seq, hash }, found: None });
            }
        }
        self.check_sources();
        Ok(VerifyReport { head: self.head, entries: self.entries, faults: self.faults })
    }

    /// Checks that the schema is as the migrations create it. Other programs may add objects, but no triggers.
    fn check_schema(&mut self) -> rusqlite::Result<()> {
        type Objects = BTreeMap<(String, String), (String, Option<String>)>;
        let objects = |db: &Connection| -> rusqlite::Result<Objects> {
            db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")?
                .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?))))?
                .collect()
        };
        let mut fresh = Connection::open_in_memory()?;
        migrate::migrations().to_latest(&mut fresh).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        let (ours, mut found) = (objects(&fresh)?, objects(self.db)?);
        for ((kind, name), expected) in ours {
            match found.remove(&(kind.clone(), name.clone())) {
                None => self.report_fault(Fault::Schema(format!("the {kind} {name} is missing"))),
                Some(other) if other != expected => {
                    self.report_fault(Fault::Schema(format!("the {kind} {name} was changed")));
                }
                Some(_) => {}
            }
        }
        for ((kind, name), (table, _)) in found.into_iter().filter(|((kind, _), _)| kind == "trigger") {
            self.report_fault(Fault::Schema(format!("the {kind} {name} on {table} was added")));
        }
        Ok(())
    }

    /// Runs SQLite's own check: of the pages, and that each index has every row.
    fn check_integrity(&mut self) -> rusqlite::Result<()> {
        let mut check = self.db.prepare("PRAGMA integrity_check(100)")?;
        let mut rows = check.query([])?;
        while let Some(row) = rows.next()? {
            let problem: String = row.get(0)?;
            if problem != "ok" {
                self.report_fault(Fault::Corrupt(problem));
            }
        }
        Ok(())
    }

    /// Finds entries outside the chain: before its beginning or after its end.
    fn check_outside_entries(&mut self) -> rusqlite::Result<()> {
        for (table, _) in TABLES {
            let mut outside =
                self.db.prepare(&format!("SELECT seq FROM {table} WHERE seq <= ?1 OR seq > ?2 LIMIT 100"))?;
            let outside = outside
                .query_map([self.checkpoint.seq, self.head.seq], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<i64>>>()?;
            for seq in outside {
                self.report_fault(Fault::Row {
                    table,
                    row: seq,
                    problem: "the row is not in the chain: it was inserted".into(),
                });
            }
        }
        Ok(())
    }

    /// Verifies up to and including the sequence `to`.
    fn verify_up_to(&mut self, to: i64) -> rusqlite::Result<()> {
        let range = [self.seq + 1, to];
        let mut links: BTreeMap<i64, Option<Hash>> = BTreeMap::new();
        {
            let mut stored = self.db.prepare_cached("SELECT seq, hash FROM link WHERE seq BETWEEN ?1 AND ?2")?;
            let mut stored = stored.query(range)?;
            while let Some(row) = stored.next()? {
                links.insert(row.get(0)?, row.get(1).ok());
            }
        }
        let mut others: BTreeMap<i64, Vec<(&'static str, EntryKind)>> = BTreeMap::new();
        for (table, kind) in TABLES.into_iter().filter(|(_, kind)| *kind != EntryKind::Event) {
            let mut seqs = self.db.prepare_cached(&format!("SELECT seq FROM {table} WHERE seq BETWEEN ?1 AND ?2"))?;
            let mut seqs = seqs.query(range)?;
            while let Some(row) = seqs.next()? {
                others.entry(row.get(0)?).or_default().push((table, kind));
            }
        }
        let db = self.db;
        let mut events =
            db.prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM event WHERE seq BETWEEN ?1 AND ?2"))?;
        let mut events = events.query(range)?;
        let mut event = next_event(&mut events)?;
        let mut missing: Option<i64> = None;
        for seq in range[0]..=to {
            let has_event = event.as_ref().is_some_and(|(at, _)| *at == seq);
            let other = others.remove(&seq);
            if !has_event && other.is_none() {
                missing.get_or_insert(seq);
            } else if let Some(first) = missing.take() {
                self.report_entry_fault(Fault::Missing { first, last: seq - 1 });
            }
            if has_event {
                let row = event.take().and_then(|(_, row)| row);
                self.check_event(seq, row)?;
                event = next_event(&mut events)?;
            }
            for (index, (table, kind)) in other.into_iter().flatten().enumerate() {
                if has_event || index > 0 {
                    self.report_row_fault(table, seq, "the sequence is already used: the row was inserted");
                } else {
                    self.check_other_entry(seq, table, kind)?;
                }
            }
            self.seq = seq;
            if let Some(link) = links.remove(&seq) {
                if let Some(first) = missing.take() {
                    self.report_entry_fault(Fault::Missing { first, last: seq });
                }
                self.check_link(seq, link);
            }
            self.check_expected_heads(seq);
        }
        if let Some(first) = missing {
            self.report_entry_fault(Fault::Missing { first, last: to });
        }
        Ok(())
    }

    /// Verifies an event: appends its bytes to the chain and checks whatever helps to find it.
    fn check_event(&mut self, seq: i64, row: Option<EventRow>) -> rusqlite::Result<()> {
        let Some(row) = row else {
            self.report_row_fault("event", seq, "the row cannot be read");
            return Ok(());
        };
        self.check_block(&row);
        let mut line = std::mem::take(&mut self.line);
        let read = (|| {
            self.decoder.decode(self.db, &row, &mut line)?;
            Ok((self.decoder.source(self.db, &row)?, self.decoder.received_nano(self.db, &row)?))
        })();
        match readable(read)? {
            Some((source, received_nano)) => {
                let digest: Hash = Sha256::digest(&line).into();
                let is_healthcheck = match self.kinds.get(&row.kind_id) {
                    Some(kind) => kind.is_healthcheck,
                    None => readable(StoredKind::read(self.db, row.kind_id))?.is_some_and(|kind| kind.is_healthcheck),
                };
                let (received_bytes, field_count) = (received_nano.to_le_bytes(), if is_healthcheck { 3 } else { 2 });
                self.append_entry(
                    EntryKind::Event,
                    seq,
                    source,
                    &[&received_bytes[..], &digest, HEALTHCHECK_MARKER][..field_count],
                );
                if let Some(Source { computed: found, .. }) = self.sources.get_mut(&source) {
                    found.events += 1;
                    found.first_nano = Some(found.first_nano.map_or(row.time_nano, |first| first.min(row.time_nano)));
                    found.last_nano = Some(found.last_nano.map_or(row.time_nano, |last| last.max(row.time_nano)));
                }
                if let Some(mismatch) =
                    readable(self.find_mismatch(&row, &line))?.unwrap_or(Some("the row refers to missing rows".into()))
                {
                    self.report_row_fault("event", seq, mismatch);
                }
            }
            None => self.report_row_fault("event", seq, "the row refers to missing rows"),
        }
        self.line = line;
        Ok(())
    }

    /// Returns the first value that helps to find an event but does not match the event's bytes.
    fn find_mismatch(&mut self, row: &EventRow, line: &[u8]) -> rusqlite::Result<Option<String>> {
        let (kind, kind_checked) = match self.kinds.remove(&row.kind_id) {
            Some(kind) => (kind, true),
            None => (StoredKind::read(self.db, row.kind_id)?, false),
        };
        let actor_checked = self.actors.contains(&row.actor);
        let (is_complete, has_exec_id) = (kind.is_complete, kind.has_exec_id);
        let mut mismatch = (has_exec_id != row.has_exec_id()).then_some("exec");
        if !(is_complete && kind_checked && actor_checked) {
            let Ok(event) = Event::parse(line) else { return Ok(Some("the line is not an event".into())) };
            let matches = (kind.event_type == event.kind, kind.action == event.action, kind.scope == event.scope);
            mismatch = mismatch.or(match matches {
                (false, ..) => Some("type"),
                (_, false, _) => Some("action"),
                (.., false) => Some("scope"),
                _ => None,
            });
            let stable = event.attributes.iter().filter(|(key, _)| !is_varying(key));
            let actor = Actor::new(&event.actor_id, stable.map(|(key, value)| (&**key, &**value)));
            if *self.decoder.actor(self.db, row.actor)?.actor != actor {
                mismatch = mismatch.or(Some("actor"));
            }
            if row.time_nano != event.time_nano {
                mismatch = mismatch.or(Some("time_nano"));
            }
        }
        self.kinds.insert(row.kind_id, kind);
        if mismatch.is_none() {
            self.actors.insert(row.actor);
        }
        Ok(mismatch.map(|column| format!("the stored {column} does not match the bytes of the event")))
    }

    /// Checks that an event is in a block, and that its time is within the block's range.
    fn check_block(&mut self, row: &EventRow) {
        while self.block_progress.block.as_ref().is_none_or(|block| block.last_seq < row.seq) {
            self.finish_block();
            match self.blocks.pop_front() {
                Some(block) => self.block_progress.block = Some(block),
                None => break,
            }
        }
        let Some(block) = self.block_progress.block.as_ref().filter(|block| block.first_seq <= row.seq) else {
            return self.report_row_fault("event", row.seq, "no block contains the event");
        };
        let first = block.first_seq;
        if !(block.min_nano..=block.max_nano).contains(&row.time_nano) {
            self.report_row_fault(
                "stretch",
                first,
                format!("the time of event {} is outside the range of the block", row.seq),
            );
        }
        self.block_progress.events += 1;
        self.block_progress.kinds.insert(row.kind_id);
    }

    fn finish_block(&mut self) {
        let BlockProgress { block: Some(block), events, kinds } = std::mem::take(&mut self.block_progress) else {
            return;
        };
        let row = block.first_seq;
        if events != block.events {
            self.report_row_fault(
                "stretch",
                row,
                format!("the row counts {} events, but the block has {events}", block.events),
            );
        }
        let kinds_json: rusqlite::Result<Option<String>> =
            self.db.query_row("SELECT shapes FROM stretch WHERE first_seq = ?1", [row], |row| row.get(0));
        if let Ok(Some(kinds_json)) = kinds_json
            && !kinds.is_subset(&parse_ids(&kinds_json).collect())
        {
            self.report_row_fault("stretch", row, "the row does not list all event kinds of the block");
        }
    }

    /// Verifies an entry that is not an event: a gap, a rejected line, a name, a checkpoint, a health check.
    fn check_other_entry(&mut self, seq: i64, table: &'static str, kind: EntryKind) -> rusqlite::Result<()> {
        let db = self.db;
        let columns = match kind {
            EntryKind::Event => return Ok(()),
            EntryKind::Gap => "source, from_nano, to_nano, reason, detail",
            EntryKind::Rejected => "source, received_nano, error, bytes",
            EntryKind::SourceName => "source, name",
            EntryKind::Checkpoint => "0, upto, hash, events, sealed_nano",
            EntryKind::Healthcheck => "source, container, command",
        };
        let entry = |row: &Row<'_>| -> rusqlite::Result<(i64, Vec<Vec<u8>>)> {
            let text = |at: usize| row.get::<_, Option<String>>(at);
            let fields = match kind {
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
            };
            Ok((row.get(0)?, fields))
        };
        let read = db
            .prepare_cached(&format!("SELECT {columns} FROM {table} WHERE seq = ?1"))
            .and_then(|mut statement| statement.query_row([seq], entry));
        let Some((source, fields)) = readable(read)? else {
            self.report_row_fault(table, seq, "the row cannot be read");
            return Ok(());
        };
        if kind == EntryKind::Gap {
            // In the chain an empty text equals no text, so the writer never stores an empty one.
            let empty = db
                .prepare_cached("SELECT 1 FROM gap WHERE seq = ?1 AND (reason = '' OR detail = '')")?
                .exists([seq])?;
            if empty {
                self.report_row_fault(table, seq, "the row was changed");
            }
        }
        if let Some(Source { computed: found, .. }) = self.sources.get_mut(&source) {
            match kind {
                EntryKind::SourceName => found.name = Some(String::from_utf8_lossy(&fields[0]).into_owned()),
                EntryKind::Rejected => found.rejected += 1,
                EntryKind::Event | EntryKind::Gap | EntryKind::Checkpoint | EntryKind::Healthcheck => {}
            }
        }
        let fields: Vec<&[u8]> = fields.iter().map(|field| &field[..]).collect();
        self.append_entry(kind, seq, source, &fields);
        Ok(())
    }

    /// Appends an entry to the recomputed chain.
    fn append_entry(&mut self, kind: EntryKind, seq: i64, source: i64, fields: &[&[u8]]) {
        let name = self.sources.get(&source).map_or("", |source| source.recorded.chain_name());
        let entry = Entry { kind, seq, source: name, fields };
        self.hash = chain::link(&self.hash, entry);
        if let Some(suspect) = &mut self.suspect {
            suspect.hash = chain::link(&suspect.hash, entry);
        }
        self.entries += 1;
    }

    /// Compares a stored link with the recomputed chain.
    fn check_link(&mut self, seq: i64, stored: Option<Hash>) {
        let first = self.last_link_seq + 1;
        self.last_link_seq = seq;
        let fault_reported = std::mem::take(&mut self.fault_reported);
        let Some(stored) = stored else {
            return self.report_fault(Fault::Row { table: "link", row: seq, problem: "the link is not a hash".into() });
        };
        let computed = std::mem::replace(&mut self.hash, stored);
        if let Some(suspect) = self.suspect.take() {
            if computed != stored && suspect.hash == stored {
                return self.report_fault(Fault::Row {
                    table: "link",
                    row: suspect.last,
                    problem: "the link was changed".into(),
                });
            }
            self.report_fault(Fault::Changed { first: suspect.first, last: suspect.last });
        }
        if computed != stored && !fault_reported {
            self.suspect = Some(SuspectLink { first, last: seq, hash: computed });
        }
    }

    fn resolve_suspect(&mut self) {
        if let Some(SuspectLink { first, last, .. }) = self.suspect.take() {
            self.report_fault(Fault::Changed { first, last });
        }
    }

    /// Compares the expected heads of a sequence with the chain.
    fn check_expected_heads(&mut self, seq: i64) {
        let actual = self.hash;
        for hash in self.expected_heads.remove(&seq).into_iter().flatten().filter(|expected| *expected != actual) {
            let found = Some(actual);
            self.report_fault(Fault::HeadMismatch { expected: Head { seq, hash }, found });
        }
    }

    /// Checks that the rows of the sources match their entries.
    fn check_sources(&mut self) {
        for (id, Source { recorded, computed }) in std::mem::take(&mut self.sources) {
            // Beyond a limit, rejected lines are counted but not stored.
            let rejected = recorded.rejected.min(computed.rejected);
            let SourceRow { name, events, first_nano, last_nano, .. } = recorded;
            let recorded = SourceStats { name: Some(name), events, rejected, first_nano, last_nano };
            if recorded.name != computed.name {
                let computed_name = computed.name.unwrap_or_default();
                self.report_row_fault(
                    "source",
                    id,
                    format!(
                        "the name is '{}', but the last stored name is '{computed_name}'",
                        recorded.name.unwrap_or_default()
                    ),
                );
            } else if recorded != computed {
                self.report_row_fault("source", id, "the counts or times do not match the events and rejected lines");
            }
        }
    }
}

impl StoredKind {
    fn read(db: &Connection, kind_id: i64) -> rusqlite::Result<StoredKind> {
        let mut statement = db.prepare_cached(
            "SELECT type, action, scope, exec, form.text FROM shape LEFT JOIN form ON form.id = shape.form WHERE shape.id = ?1",
        )?;
        statement.query_row([kind_id], |row| {
            let template: Option<String> = row.get(4)?;
            Ok(StoredKind {
                event_type: row.get(0)?,
                action: row.get(1)?,
                scope: row.get(2)?,
                has_exec_id: row.get::<_, ExecFlag>(3)? != ExecFlag::None,
                is_healthcheck: row.get::<_, ExecFlag>(3)? == ExecFlag::Healthcheck,
                is_complete: template.is_some_and(|template| LineTemplate::parse(&template).is_complete()),
            })
        })
    }
}

/// Tables of the entries of the chain.
const TABLES: [(&str, EntryKind); 6] = [
    ("event", EntryKind::Event),
    ("gap", EntryKind::Gap),
    ("rejected", EntryKind::Rejected),
    ("naming", EntryKind::SourceName),
    ("seal", EntryKind::Checkpoint),
    ("healthcheck", EntryKind::Healthcheck),
];

/// Returns the next event's sequence, and its row if the row can be read.
fn next_event(rows: &mut Rows<'_>) -> rusqlite::Result<Option<(i64, Option<EventRow>)>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some((row.get(0)?, readable(EventRow::read(row))?)))
}

/// Returns `None` for a value that cannot be read because it was changed. An error of SQLite concerns the file and is
/// returned.
fn readable<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match read {
        Err(e @ rusqlite::Error::SqliteFailure(..)) => Err(e),
        other => Ok(other.ok()),
    }
}
