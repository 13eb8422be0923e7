//! Encodes events: splits an event into rows, finds or inserts shared texts, and checks that the rows decode to the
//! same bytes.
//!
//! The writer uses this module, and so does the migration that moves older events here. Everything happens inside the
//! caller's transaction. After a failed transaction, [`clear_caches`](EventEncoder::clear_caches) must be called.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ToSql, params};

use super::blocks::BlockIndex;
use super::chain::{EntryKind, HEALTHCHECK_MARKER};
use super::entries::EntrySource;
use super::exec_ids::{ExecFlag, ExecIdReferences, ExecIds};
use super::intern::Interner;
use super::layout::{VaryingAttributes, VaryingValue, extract_template};
use super::links::ChainEnd;
use super::max_ids::MaxIds;
use crate::event::Event;
use crate::store::ids::{KindId, Nanos};

/// Minimum number of events read together for which the time of arrival is stored once.
pub(in crate::store) const SHARED_ARRIVAL_MIN_EVENTS: usize = 16;

/// Statements that every event needs, prepared once for each transaction.
pub(in crate::store) struct InsertStatements<'db> {
    db: &'db Connection,
    event: CachedStatement<'db>,
    verbatim: CachedStatement<'db>,
}

impl<'db> InsertStatements<'db> {
    pub(in crate::store) fn prepare(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(InsertStatements {
            db,
            event: db.prepare_cached(
                "INSERT INTO event (seq, time_nano, late_nano, shape, actor, exec_id, exit_code, exec_duration, signal, container)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?,
            verbatim: db.prepare_cached("INSERT INTO verbatim (seq, raw) VALUES (?1, ?2)")?,
        })
    }
}

/// Event to store.
pub(in crate::store) struct NewEvent<'a, 'e> {
    pub(in crate::store) event: &'a Event<'e>,
    /// SHA-256 of the event's bytes.
    pub(in crate::store) digest: &'a [u8; 32],
    /// Sets the health-check flag.
    pub(in crate::store) is_healthcheck: bool,
    /// Time of arrival.
    pub(in crate::store) received_nano: Nanos,
    /// True if [`EventEncoder::share_arrival`] stored the time of arrival for many events. Otherwise it is stored with
    /// the event.
    pub(in crate::store) shares_arrival: bool,
}

/// Encodes events and appends entries to the chain, with caches.
pub(in crate::store) struct EventEncoder {
    /// End of the chain, for entries that are not events.
    pub(in crate::store) chain: ChainEnd,
    pub(in crate::store) blocks: BlockIndex,
    pub(in crate::store) exec_id_references: ExecIdReferences,
    interner: Interner,
    exec_ids: ExecIds,
    /// True if chain, blocks and IDs continue where the tables end.
    loaded: bool,
    template: String,
    line: Vec<u8>,
}

impl EventEncoder {
    pub(in crate::store) fn new() -> Self {
        EventEncoder::with_interner(Interner::new(false))
    }

    /// Creates an encoder for tables of a schema before version 5.
    pub(in crate::store) fn for_legacy_schema() -> Self {
        EventEncoder::with_interner(Interner::new(true))
    }

    fn with_interner(interner: Interner) -> Self {
        EventEncoder {
            chain: ChainEnd::default(),
            blocks: BlockIndex::default(),
            exec_id_references: ExecIdReferences::default(),
            interner,
            exec_ids: ExecIds::default(),
            loaded: false,
            template: String::new(),
            line: Vec::new(),
        }
    }

    /// Clears the caches after a failed transaction, because they may contain rows that were rolled back. Also clears
    /// them after a commit of another connection: the chain is longer then, and actors may have been pruned.
    pub(in crate::store) fn clear_caches(&mut self) {
        self.interner.clear_texts();
        self.interner.clear_actors();
        self.exec_ids.clear();
        self.exec_id_references = ExecIdReferences::default();
        self.loaded = false;
    }

    /// Clears the caches of what was pruned in this transaction: actors, and events that contain exec IDs.
    pub(in crate::store) fn on_pruned(&mut self) {
        self.interner.clear_actors();
        self.exec_ids.clear();
        self.loaded = false;
    }

    /// Clears the caches of shared texts, because this transaction deleted some of them as garbage.
    pub(in crate::store) fn on_garbage_collected(&mut self) {
        self.interner.clear_texts();
    }

    /// Highest IDs ever given.
    pub(in crate::store) fn max_ids(&self) -> MaxIds {
        self.interner.max_ids()
    }

    /// Continues where the tables end; must be called first in every transaction.
    pub(in crate::store) fn begin(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.loaded {
            return Ok(());
        }
        self.chain.load(db)?;
        self.blocks = BlockIndex::load(db)?;
        self.interner.load(db)?;
        self.loaded = true;
        Ok(())
    }

    /// Stores what the transaction added to the chain and to the blocks; must be called last in it.
    pub(in crate::store) fn finish(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.blocks.store(db)?;
        self.chain.store(db)
    }

    /// Stores one time of arrival for the events added next, which were read together.
    pub(in crate::store) fn share_arrival(&mut self, db: &Connection, received_nano: Nanos) -> rusqlite::Result<()> {
        db.prepare_cached("INSERT OR REPLACE INTO arrival (first_seq, received_nano) VALUES (?1, ?2)")?
            .execute(params![self.chain.next_seq(), received_nano])?;
        Ok(())
    }

    /// Stores an event and returns its event kind.
    pub(in crate::store) fn add_event(
        &mut self,
        inserts: &mut InsertStatements<'_>,
        source: EntrySource<'_>,
        new: NewEvent<'_, '_>,
    ) -> rusqlite::Result<KindId> {
        let NewEvent { event, digest, is_healthcheck, received_nano, shares_arrival } = new;
        extract_template(event, &mut self.template);
        let actor = self.interner.actor(inserts.db, source.id, event)?;
        let varying = VaryingAttributes::from_event(event);
        let template = self.interner.template(inserts.db, &self.template)?.filter(|found| {
            self.line.clear();
            let (kind, action, time_nano) = (&event.kind, &event.action, event.time_nano);
            found.template.render(kind, action, &actor.actor, &varying, time_nano, &mut self.line);
            self.line == event.raw()
        });
        let exec = match (varying.exec_id(), is_healthcheck) {
            (None, _) => ExecFlag::None,
            (Some(_), false) => ExecFlag::Plain,
            (Some(_), true) => ExecFlag::Healthcheck,
        };
        let kind_id = self.interner.kind(inserts.db, template.as_ref().map(|found| found.id), exec, event)?;
        let fields = [&received_nano.0.to_le_bytes()[..], digest, HEALTHCHECK_MARKER];
        let fields = if exec == ExecFlag::Healthcheck { &fields[..] } else { &fields[..2] };
        let seq = self.chain.append(EntryKind::Event, source.chain_name, fields);
        let late_nano = (!shares_arrival).then(|| received_nano.0.wrapping_sub(event.time_nano));
        let [container, exec_duration, exec_id, exit_code, signal] = &self.exec_ids.intern(seq, varying).0;
        inserts.event.execute(params![
            seq,
            event.time_nano,
            late_nano,
            kind_id,
            actor.id,
            exec_id,
            exit_code,
            exec_duration,
            signal,
            container,
        ])?;
        if template.is_none() {
            inserts.verbatim.execute(params![seq, event.text])?;
        }
        self.blocks.add(seq, Nanos(event.time_nano), kind_id);
        Ok(kind_id)
    }
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
