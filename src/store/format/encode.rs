//! Encodes events: splits an event into rows, finds or inserts shared texts, and checks that the rows decode to the
//! same bytes.
//!
//! The writer uses this module, and so does the migration that moves older events here. The caches persist between
//! commits; if an entry is not cached, the tables decide. Everything happens inside the caller's transaction. After a
//! failed transaction, [`clear_caches`](EventEncoder::clear_caches) must be called.

use std::borrow::Cow;
use std::rc::Rc;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, ToSql, params};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::cache::GenerationalCache;
use crate::event::Event;
use crate::store::file::open::head;
use crate::store::format::blocks::BlockIndex;
use crate::store::format::chain::{self, Entry, EntryKind, GENESIS_HASH, HEALTHCHECK_MARKER, Hash, Head};
use crate::store::format::layout::{
    Actor, LineTemplate, VaryingAttributes, VaryingValue, extract_template, is_varying,
};
use crate::store::maintain::prune::ExecIdReferences;

/// Maximum number of line templates; an event with a further one is stored as its line. Engines need a handful. A
/// source that needs more is not an engine: its lines differ where those of an engine repeat.
const MAX_TEMPLATES: i64 = 1_000;

/// Minimum number of recently used actors in the cache, which keeps at most twice as many: about 2 KB each.
const ACTOR_CACHE_SIZE: usize = 2_048;

/// Number of cached event kinds and labels.
const KIND_CACHE_SIZE: usize = 4_096;
const LABEL_CACHE_SIZE: usize = 16_384;

/// Number of cached exec IDs: those of commands that are running.
const EXEC_CACHE_SIZE: usize = 4_096;

/// Maximum distance, in sequences, at which an event refers to an earlier event for its exec ID. Pruning searches this
/// far for references to what it deletes.
pub(in crate::store) const EXEC_ID_LOOKBACK: i64 = 100_000;

/// Values of `shape.exec`: events with an exec ID, and such events with the health-check flag.
const PLAIN_EXEC: i64 = 1;
pub(in crate::store) const HEALTHCHECK_EXEC: i64 = 2;

/// Minimum number of events read together for which the time of arrival is stored once.
pub(in crate::store) const SHARED_ARRIVAL_MIN_EVENTS: usize = 16;

/// Number of entries between stored chain links. The last link is stored too, so at most this many entries share one.
const LINK_INTERVAL: i64 = 64;

/// Statements that every event needs, prepared once for each transaction.
pub(in crate::store) struct InsertStatements<'db> {
    event: CachedStatement<'db>,
    verbatim: CachedStatement<'db>,
}

impl<'db> InsertStatements<'db> {
    pub(in crate::store) fn prepare(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(InsertStatements {
            event: db.prepare_cached(
                "INSERT INTO event (seq, time_nano, late_nano, shape, actor, exec_id, exit_code, exec_duration, signal, container)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?,
            verbatim: db.prepare_cached("INSERT INTO verbatim (seq, raw) VALUES (?1, ?2)")?,
        })
    }
}

pub(in crate::store) struct EventEncoder {
    templates: GenerationalCache<u128, Option<(i64, Rc<LineTemplate>)>>,
    kinds: GenerationalCache<u128, i64>,
    labels: GenerationalCache<u128, i64>,
    actors: GenerationalCache<u128, (i64, Rc<Actor>)>,
    /// Sequence of the event that contains an exec ID.
    execs: GenerationalCache<[u8; 32], i64>,
    pub(in crate::store) blocks: BlockIndex,
    pub(in crate::store) exec_id_references: ExecIdReferences,
    /// True if the tables are of a schema before version 5, while events are moved from an older schema.
    legacy_schema: bool,
    max_ids: MaxIds,
    /// Last sequence given, and the chain link there.
    seq: i64,
    hash: Hash,
    /// Sequence of the last stored link, and the links that this transaction will store.
    last_stored_link: i64,
    pending_links: Vec<(i64, Hash)>,
    loaded: bool,
    template: String,
    key: Vec<u8>,
    line: Vec<u8>,
}

impl EventEncoder {
    pub(in crate::store) fn new() -> Self {
        EventEncoder {
            templates: GenerationalCache::new(MAX_TEMPLATES as usize),
            kinds: GenerationalCache::new(KIND_CACHE_SIZE),
            labels: GenerationalCache::new(LABEL_CACHE_SIZE),
            actors: GenerationalCache::new(ACTOR_CACHE_SIZE),
            execs: GenerationalCache::new(EXEC_CACHE_SIZE),
            blocks: BlockIndex::default(),
            exec_id_references: ExecIdReferences::default(),
            legacy_schema: false,
            max_ids: MaxIds::default(),
            seq: 0,
            hash: GENESIS_HASH,
            last_stored_link: 0,
            pending_links: Vec::new(),
            loaded: false,
            template: String::new(),
            key: Vec::new(),
            line: Vec::new(),
        }
    }

    /// Creates an encoder for tables of a schema before version 5.
    pub(in crate::store) fn for_legacy_schema() -> Self {
        EventEncoder { legacy_schema: true, ..EventEncoder::new() }
    }

    /// Clears the caches after a failed transaction, because they may contain rows that were rolled back.
    pub(in crate::store) fn clear_caches(&mut self) {
        self.templates.clear();
        self.kinds.clear();
        self.labels.clear();
        self.actors.clear();
        self.execs.clear();
        self.exec_id_references = ExecIdReferences::default();
        self.loaded = false;
    }

    /// Clears the caches after a commit of another connection. The chain is longer then, and actors may have been
    /// pruned.
    pub(in crate::store) fn on_external_commit(&mut self) {
        self.clear_caches();
    }

    /// Clears the caches of what was pruned in this transaction: actors, and events that contain exec IDs.
    pub(in crate::store) fn on_pruned(&mut self) {
        self.actors.clear();
        self.execs.clear();
        self.loaded = false;
    }

    /// Clears the caches of shared texts, because this transaction deleted some of them as garbage.
    pub(in crate::store) fn on_garbage_collected(&mut self) {
        self.templates.clear();
        self.kinds.clear();
        self.labels.clear();
    }

    /// Highest IDs ever given.
    pub(in crate::store) fn max_ids(&self) -> MaxIds {
        self.max_ids
    }

    /// Continues where the tables end; must be called first in every transaction.
    pub(in crate::store) fn begin(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.loaded {
            return Ok(());
        }
        Head { seq: self.seq, hash: self.hash } = head(db)?;
        self.last_stored_link = self.seq;
        self.pending_links.clear();
        self.blocks = BlockIndex::load(db)?;
        self.max_ids = if self.legacy_schema { MaxIds::load_legacy(db)? } else { MaxIds::load(db)? };
        self.loaded = true;
        Ok(())
    }

    /// Stores what the transaction added to the chain and to the blocks; must be called last in it.
    pub(in crate::store) fn finish(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.blocks.store(db)?;
        self.finish_chain(db)
    }

    /// Stores what the transaction added to the chain.
    pub(in crate::store) fn finish_chain(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.seq == self.last_stored_link {
            return Ok(());
        }
        if self.pending_links.last().is_none_or(|(seq, _)| *seq < self.seq) {
            self.pending_links.push((self.seq, self.hash));
        }
        // The link of the previous head can go, unless it is one of those stored at every interval.
        if self.last_stored_link % LINK_INTERVAL != 0 {
            db.prepare_cached("DELETE FROM link WHERE seq = ?1")?.execute([self.last_stored_link])?;
        }
        let mut insert = db.prepare_cached("INSERT INTO link (seq, hash) VALUES (?1, ?2)")?;
        for (seq, hash) in self.pending_links.drain(..) {
            insert.execute(params![seq, hash])?;
        }
        self.last_stored_link = self.seq;
        Ok(())
    }

    /// End of the chain.
    pub(in crate::store) fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    /// Appends an entry to the chain and returns its sequence.
    pub(in crate::store) fn append_entry(&mut self, kind: EntryKind, source: &str, fields: &[&[u8]]) -> i64 {
        self.seq += 1;
        self.hash = chain::link(&self.hash, Entry { kind, seq: self.seq, source, fields });
        if self.seq % LINK_INTERVAL == 0 {
            self.pending_links.push((self.seq, self.hash));
        }
        self.seq
    }

    /// Stores one time of arrival for the events added next, which were read together.
    pub(in crate::store) fn share_arrival(&mut self, db: &Connection, received_nano: i64) -> rusqlite::Result<()> {
        db.prepare_cached("INSERT OR REPLACE INTO arrival (first_seq, received_nano) VALUES (?1, ?2)")?
            .execute([self.seq + 1, received_nano])?;
        Ok(())
    }

    /// Stores an event and returns its event kind. The source is given by its row and its name in the chain. The time
    /// of arrival is stored with the event, unless [`share_arrival`](Self::share_arrival) stored it for many.
    /// `is_healthcheck` sets the health-check flag.
    pub(in crate::store) fn add_event(
        &mut self,
        (db, inserts): (&Connection, &mut InsertStatements<'_>),
        source: (i64, &str),
        (event, digest, is_healthcheck): (&Event<'_>, &[u8; 32], bool),
        received_nano: i64,
        shares_arrival: bool,
    ) -> rusqlite::Result<i64> {
        extract_template(event, &mut self.template);
        let (actor_row, actor) = self.actor(db, source.0, event)?;
        let varying = VaryingAttributes::from_event(event);
        let template = self.template(db)?.filter(|(_, template)| {
            self.line.clear();
            template.render(&event.kind, &event.action, &actor, &varying, event.time_nano, &mut self.line);
            self.line == event.raw()
        });
        let (exec_flag, field_count) = match (varying.exec_id(), is_healthcheck) {
            (None, _) => (0, 2),
            (Some(_), false) => (PLAIN_EXEC, 2),
            (Some(_), true) => (HEALTHCHECK_EXEC, 3),
        };
        let kind = self.kind(db, template.map(|(row, _)| row), exec_flag, event)?;
        let received_bytes = received_nano.to_le_bytes();
        let seq = self.append_entry(
            EntryKind::Event,
            source.1,
            &[&received_bytes[..], digest, HEALTHCHECK_MARKER][..field_count],
        );
        let late_nano = (!shares_arrival).then(|| received_nano.wrapping_sub(event.time_nano));
        let [container, exec_duration, exec_id, exit_code, signal] = &self.intern_exec_id(seq, varying).0;
        inserts.event.execute(params![
            seq,
            event.time_nano,
            late_nano,
            kind.0,
            actor_row,
            exec_id,
            exit_code,
            exec_duration,
            signal,
            container,
        ])?;
        if !kind.1 {
            inserts.verbatim.execute(params![seq, event.text])?;
        }
        self.blocks.add(seq, event.time_nano, kind.0);
        Ok(kind.0)
    }

    /// Replaces an exec ID by the sequence of a recent event that contains it. Because a number in this column means a
    /// sequence, an exec ID that is a number is stored as text.
    fn intern_exec_id<'e>(&mut self, seq: i64, mut varying: VaryingAttributes<'e>) -> VaryingAttributes<'e> {
        match varying.exec_id_mut() {
            Some(exec_id @ VaryingValue::Digest(_)) => {
                let VaryingValue::Digest(digest) = *exec_id else { return varying };
                match self.execs.get(&digest) {
                    Some(first_seq) if seq - *first_seq < EXEC_ID_LOOKBACK => {
                        *exec_id = VaryingValue::Number(*first_seq);
                    }
                    _ => self.execs.insert(digest, seq),
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

    /// Appends a state of a gap; without a reason, it withdraws the gap.
    pub(in crate::store) fn add_gap(
        &mut self,
        db: &Connection,
        source: (i64, &str),
        (from, to): (Option<i64>, Option<i64>),
        reason: Option<&str>,
        detail: Option<&str>,
    ) -> rusqlite::Result<()> {
        // An empty text and no text look the same in the chain, so an empty one is never stored.
        let detail = detail.filter(|detail| !detail.is_empty());
        let fields = chain::gap_fields((from, to), reason, detail);
        let fields: [&[u8]; 4] = std::array::from_fn(|at| &fields[at][..]);
        let seq = self.append_entry(EntryKind::Gap, source.1, &fields);
        db.prepare_cached(
            "INSERT INTO gap (seq, source, from_nano, to_nano, reason, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![seq, source.0, from, to, reason, detail])?;
        Ok(())
    }

    /// Appends a checkpoint: the chain up to `pruned_head` is pruned.
    pub(in crate::store) fn add_checkpoint(
        &mut self,
        db: &Connection,
        pruned_head: Head,
        events: i64,
        now_nano: i64,
    ) -> rusqlite::Result<()> {
        let fields = chain::checkpoint_fields(pruned_head, events, now_nano);
        let fields: [&[u8]; 4] = std::array::from_fn(|at| &fields[at][..]);
        let seq = self.append_entry(EntryKind::Checkpoint, "", &fields);
        db.prepare_cached("INSERT INTO seal (seq, upto, hash, events, sealed_nano) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![seq, pruned_head.seq, pruned_head.hash, events, now_nano])?;
        Ok(())
    }

    /// Appends the name that a source has from now on.
    pub(in crate::store) fn add_naming(
        &mut self,
        db: &Connection,
        source: (i64, &str),
        name: &str,
    ) -> rusqlite::Result<()> {
        let seq = self.append_entry(EntryKind::SourceName, source.1, &[name.as_bytes()]);
        db.prepare_cached("INSERT INTO naming (seq, source, name) VALUES (?1, ?2, ?3)")?
            .execute(params![seq, source.0, name])?;
        Ok(())
    }

    /// Appends the health check command of a container; an empty one means that the container has no health check.
    pub(in crate::store) fn add_healthcheck(
        &mut self,
        db: &Connection,
        source: (i64, &str),
        container: &str,
        command: &str,
    ) -> rusqlite::Result<()> {
        let seq = self.append_entry(EntryKind::Healthcheck, source.1, &[container.as_bytes(), command.as_bytes()]);
        db.prepare_cached("INSERT INTO healthcheck (seq, source, container, command) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![seq, source.0, container, command])?;
        Ok(())
    }

    /// Returns the line template in `self.template`; `None` if there are too many of them.
    fn template(&mut self, db: &Connection) -> rusqlite::Result<Option<(i64, Rc<LineTemplate>)>> {
        let hash = xxh3_128(self.template.as_bytes());
        if let Some(cached) = self.templates.get(&hash) {
            return Ok(cached.clone());
        }
        let found: Option<i64> = db
            .prepare_cached("SELECT id FROM form WHERE text = ?1")?
            .query_row([&self.template], |row| row.get(0))
            .optional()?;
        let row = match found {
            Some(row) => Some(row),
            None => {
                let inserted = db
                    .prepare_cached("INSERT INTO form (id, text) SELECT ?1, ?2 WHERE (SELECT count(*) FROM form) < ?3")?
                    .execute(params![self.max_ids.template + 1, self.template, MAX_TEMPLATES])?;
                (inserted > 0).then(|| next_id(&mut self.max_ids.template))
            }
        };
        let template = row.map(|row| (row, Rc::new(LineTemplate::parse(&self.template))));
        self.templates.insert(hash, template.clone());
        Ok(template)
    }

    /// Returns the kind of an event, and true if the kind has a line template.
    fn kind(
        &mut self,
        db: &Connection,
        template_id: Option<i64>,
        exec_flag: i64,
        event: &Event<'_>,
    ) -> rusqlite::Result<(i64, bool)> {
        let hash = self
            .hash_key([template_id.unwrap_or(0), exec_flag], [&event.kind, &event.scope, &event.action].into_iter());
        if let Some(row) = self.kinds.get(&hash) {
            return Ok((*row, template_id.is_some()));
        }
        let found: Option<i64> = db
            .prepare_cached(
                "SELECT id FROM shape WHERE action = ?1 AND type = ?2 AND scope = ?3 AND exec = ?4 AND form IS ?5",
            )?
            .query_row(params![event.action, event.kind, event.scope, exec_flag, template_id], |row| row.get(0))
            .optional()?;
        let row = match found {
            Some(row) => row,
            None => {
                let row = next_id(&mut self.max_ids.kind);
                db.prepare_cached(
                    "INSERT INTO shape (id, type, action, scope, exec, form) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    row,
                    event.kind,
                    event.action,
                    event.scope,
                    exec_flag,
                    template_id
                ])?;
                row
            }
        };
        self.kinds.insert(hash, row);
        Ok((row, template_id.is_some()))
    }

    /// Returns the actor of an event, with its stable attributes.
    fn actor(&mut self, db: &Connection, source: i64, event: &Event<'_>) -> rusqlite::Result<(i64, Rc<Actor>)> {
        let stable_attributes = || event.attributes.iter().filter(|(key, _)| !is_varying(key));
        self.key.clear();
        let hash = if write_stable_attributes(event, &mut self.key) {
            self.key.extend_from_slice(&source.to_le_bytes());
            self.key.extend_from_slice(event.actor_id.as_bytes());
            xxh3_128(&self.key)
        } else {
            let texts = stable_attributes().flat_map(|(key, value)| [key, value]);
            self.hash_key([source, 0], std::iter::once(&event.actor_id).chain(texts))
        };
        if let Some((row, actor)) = self.actors.get(&hash) {
            return Ok((*row, actor.clone()));
        }
        let mut labels = Vec::new();
        for (key, value) in stable_attributes().filter(|(key, _)| key != "name") {
            labels.push(self.label(db, key, value)?.to_string());
        }
        let labels = format!("[{}]", labels.join(","));
        let name = event.attribute("name");
        let digest = actor_digest(source, name, &labels);
        let values = params![event.actor_id, source, name, labels, digest];
        let found: Option<i64> = db
            .prepare_cached(if self.legacy_schema { FIND_LEGACY_ACTOR } else { FIND_ACTOR })?
            .query_row(&values[..if self.legacy_schema { 4 } else { 5 }], |row| row.get(0))
            .optional()?;
        let row = match found {
            Some(row) => row,
            None => {
                let row = next_id(&mut self.max_ids.actor);
                let values = params![row, source, event.actor_id, name, labels, digest];
                db.prepare_cached(if self.legacy_schema { INSERT_LEGACY_ACTOR } else { INSERT_ACTOR })?
                    .execute(&values[..if self.legacy_schema { 5 } else { 6 }])?;
                row
            }
        };
        let actor = Rc::new(Actor::new(
            &event.actor_id,
            stable_attributes().map(|(key, value)| (key.as_ref(), value.as_ref())),
        ));
        self.actors.insert(hash, (row, actor.clone()));
        Ok((row, actor))
    }

    /// Hashes numbers and texts. With 128 bits, collisions do not occur.
    fn hash_key(&mut self, numbers: [i64; 2], texts: impl Iterator<Item = impl AsRef<str>>) -> u128 {
        self.key.clear();
        numbers.iter().for_each(|number| self.key.extend_from_slice(&number.to_le_bytes()));
        for text in texts {
            let text = text.as_ref();
            self.key.extend_from_slice(&(text.len() as u64).to_le_bytes());
            self.key.extend_from_slice(text.as_bytes());
        }
        xxh3_128(&self.key)
    }

    fn label(&mut self, db: &Connection, key: &str, value: &str) -> rusqlite::Result<i64> {
        let hash = self.hash_key([0, 0], [key, value].into_iter());
        if let Some(row) = self.labels.get(&hash) {
            return Ok(*row);
        }
        let found: Option<i64> = db
            .prepare_cached("SELECT id FROM label WHERE key = ?1 AND value = ?2")?
            .query_row([key, value], |row| row.get(0))
            .optional()?;
        let row = match found {
            Some(row) => row,
            None => {
                let row = next_id(&mut self.max_ids.label);
                db.prepare_cached("INSERT INTO label (id, key, value) VALUES (?1, ?2, ?3)")?
                    .execute(params![row, key, value])?;
                row
            }
        };
        self.labels.insert(hash, row);
        Ok(row)
    }
}

const FIND_ACTOR: &str =
    "SELECT id FROM actor WHERE actor_id = ?1 AND digest = ?5 AND source = ?2 AND name IS ?3 AND labels = ?4";
const INSERT_ACTOR: &str =
    "INSERT INTO actor (id, source, actor_id, name, labels, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const FIND_LEGACY_ACTOR: &str =
    "SELECT id FROM actor WHERE actor_id = ?1 AND source = ?2 AND name IS ?3 AND labels = ?4";
const INSERT_LEGACY_ACTOR: &str = "INSERT INTO actor (id, source, actor_id, name, labels) VALUES (?1, ?2, ?3, ?4, ?5)";

/// Digest that distinguishes the actors of one ID, as stored in `actor.digest`. It has two bytes, which leave a few
/// candidates of a hundred thousand. More bytes would be noticeable in the size of the file.
pub(in crate::store) fn actor_digest(source: i64, name: Option<&str>, labels: &str) -> i64 {
    let source = source.to_le_bytes();
    let text = [&source[..], name.unwrap_or("\0").as_bytes(), b"\0", labels.as_bytes()].concat();
    (xxh3_64(&text) as i64) >> 48
}

/// Highest ID ever given in each table of shared texts. Rows are deleted, but an ID is never given again, so cached
/// rows stay valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct MaxIds {
    pub(in crate::store) actor: i64,
    pub(in crate::store) label: i64,
    pub(in crate::store) kind: i64,
    pub(in crate::store) template: i64,
}

impl MaxIds {
    pub(in crate::store) fn load(db: &Connection) -> rusqlite::Result<MaxIds> {
        let current = MaxIds::load_legacy(db)?;
        let deleted = db
            .prepare_cached("SELECT actor, label, shape, form FROM swept")?
            .query_row([], MaxIds::read)
            .optional()?
            .unwrap_or_default();
        Ok(MaxIds {
            actor: current.actor.max(deleted.actor),
            label: current.label.max(deleted.label),
            kind: current.kind.max(deleted.kind),
            template: current.template.max(deleted.template),
        })
    }

    /// Reads the highest IDs of a schema in which rows were never deleted.
    fn load_legacy(db: &Connection) -> rusqlite::Result<MaxIds> {
        let highest =
            ["actor", "label", "shape", "form"].map(|table| format!("ifnull((SELECT max(id) FROM {table}), 0)"));
        db.prepare_cached(&format!("SELECT {}", highest.join(", ")))?.query_row([], MaxIds::read)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<MaxIds> {
        Ok(MaxIds { actor: row.get(0)?, label: row.get(1)?, kind: row.get(2)?, template: row.get(3)? })
    }

    /// Stores the highest IDs; must be called where rows of these tables are deleted.
    pub(in crate::store) fn store(self, db: &Connection) -> rusqlite::Result<()> {
        let MaxIds { actor, label, kind, template } = self;
        db.prepare_cached(
            "INSERT INTO swept VALUES (1, ?1, ?2, ?3, ?4, 0, 0)
             ON CONFLICT (id) DO UPDATE SET actor = ?1, label = ?2, shape = ?3, form = ?4",
        )?
        .execute(params![actor, label, kind, template])?;
        Ok(())
    }
}

/// Returns the next ID.
fn next_id(max_id: &mut i64) -> i64 {
    *max_id += 1;
    *max_id
}

/// Writes the stable attributes as they are in the event, and a zero byte, which no attribute contains. The result
/// identifies an actor without a loop over its attributes. Returns false if the event must be compared attribute by
/// attribute.
fn write_stable_attributes(event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    let Some(text) = event.raw_values.attributes else { return false };
    let mut at = 0;
    for (key, value) in event.attributes.iter().filter(|(key, _)| is_varying(key)) {
        let (Cow::Borrowed(key), Cow::Borrowed(value)) = (key, value) else { return false };
        let offset_of = |part: &str| (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        let (start, end) = (offset_of(key).wrapping_sub(1), offset_of(value).wrapping_add(value.len() + 1));
        // A value that was written with escapes is in another buffer.
        if value.is_empty() || start < at || end <= start || end > text.len() {
            return false;
        }
        out.extend_from_slice(&text.as_bytes()[at..start]);
        at = end;
        match text.as_bytes().get(at) {
            Some(b',') => at += 1,
            _ => drop(out.pop_if(|last| *last == b',')),
        }
    }
    out.extend_from_slice(&text.as_bytes()[at..]);
    out.push(0);
    true
}

impl ToSql for VaryingValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            VaryingValue::Digest(bytes) => ValueRef::Blob(bytes),
            VaryingValue::Number(number) => ValueRef::Integer(*number),
            VaryingValue::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}
