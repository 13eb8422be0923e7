//! Decodes rows: restores the exact line of an event that [`super::encode`] stored.
//!
//! Reads only, and caches what many events share. After a transaction that failed, the caches must be cleared.

use std::ops::Range;
use std::rc::Rc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::blocks::parse_ids;
use super::exec_ids::ExecFlag;
use super::layout::{Actor, LineTemplate, VaryingAttributes, VaryingValue};
use crate::cache::GenerationalCache;
use crate::store::ids::{ActorId, KindId, LabelId, Nanos, Seq, SourceId, TemplateId};

/// Columns of the table `event`, in the order that [`EventRow::read`] expects.
pub(in crate::store) const EVENT_COLUMNS: &str =
    "seq, time_nano, late_nano, shape, actor, container, exec_duration, exec_id, exit_code, signal";

/// Sizes of the caches of event kinds and line templates, and of actors; an actor takes about 2 KB.
const KIND_CACHE_SIZE: usize = 4_096;
const ACTOR_CACHE_SIZE: usize = 2_048;

/// Size of the cache of labels; a label takes about 150 bytes.
const LABEL_CACHE_SIZE: usize = 8_192;

/// Size of the cache of exec IDs.
const EXEC_CACHE_SIZE: usize = 4_096;

/// Row of the table `event`.
#[derive(Clone, Debug)]
pub(in crate::store) struct EventRow {
    pub(in crate::store) seq: Seq,
    pub(in crate::store) time_nano: Nanos,
    late_nano: Option<i64>,
    pub(in crate::store) kind_id: KindId,
    pub(in crate::store) actor_id: ActorId,
    varying: VaryingAttributes<'static>,
}

impl EventRow {
    pub(in crate::store) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let mut varying = VaryingAttributes::default();
        for (index, value) in varying.0.iter_mut().enumerate() {
            *value = match row.get_ref(5 + index)? {
                ValueRef::Null => None,
                ValueRef::Integer(number) => Some(VaryingValue::Number(number)),
                ValueRef::Blob(bytes) => match bytes.try_into() {
                    Ok(digest) => Some(VaryingValue::Digest(digest)),
                    Err(_) => Some(VaryingValue::Text(String::from_utf8_lossy(bytes).into_owned().into())),
                },
                ValueRef::Text(text) => Some(VaryingValue::Text(String::from_utf8_lossy(text).into_owned().into())),
                ValueRef::Real(number) => Some(VaryingValue::Text(number.to_string().into())),
            };
        }
        Ok(EventRow {
            seq: row.get(0)?,
            time_nano: row.get(1)?,
            late_nano: row.get(2)?,
            kind_id: row.get(3)?,
            actor_id: row.get(4)?,
            varying,
        })
    }

    pub(in crate::store) fn exec_id(&self) -> Option<&VaryingValue<'static>> {
        self.varying.exec_id()
    }

    /// Returns true if the event has an exec ID.
    pub(in crate::store) fn has_exec_id(&self) -> bool {
        self.varying.exec_id().is_some()
    }
}

/// Event kind: a row of the table `shape`.
#[derive(Debug)]
struct EventKind {
    event_type: String,
    action: String,
    template: Option<Rc<LineTemplate>>,
    is_healthcheck: bool,
}

/// Time at which the events of some sequences were read together.
#[derive(Debug, Default)]
struct SharedArrival {
    seqs: Range<Seq>,
    received_nano: Nanos,
}

/// Actor with the row ID of its source.
#[derive(Clone, Debug)]
pub(in crate::store) struct StoredActor {
    pub(in crate::store) source: SourceId,
    pub(in crate::store) actor: Rc<Actor>,
}

/// Attribute of actors: a row of the table `label`.
#[derive(Debug)]
struct Label {
    key: String,
    value: String,
}

/// Restores the lines of events, with caches.
#[derive(Debug)]
pub(in crate::store) struct EventDecoder {
    kinds: GenerationalCache<KindId, Rc<EventKind>>,
    templates: GenerationalCache<TemplateId, Rc<LineTemplate>>,
    actors: GenerationalCache<ActorId, StoredActor>,
    labels: GenerationalCache<LabelId, Rc<Label>>,
    execs: GenerationalCache<Seq, [u8; 32]>,
    /// The shared time of arrival used last.
    arrival: SharedArrival,
}

impl EventDecoder {
    pub(in crate::store) fn new() -> Self {
        EventDecoder {
            kinds: GenerationalCache::new(KIND_CACHE_SIZE),
            templates: GenerationalCache::new(KIND_CACHE_SIZE),
            actors: GenerationalCache::new(ACTOR_CACHE_SIZE),
            labels: GenerationalCache::new(LABEL_CACHE_SIZE),
            execs: GenerationalCache::new(EXEC_CACHE_SIZE),
            arrival: SharedArrival::default(),
        }
    }

    /// Clears the caches, because they may not match the tables any more.
    pub(in crate::store) fn clear_caches(&mut self) {
        *self = EventDecoder::new();
    }

    /// Returns the row ID of the source of an event.
    pub(in crate::store) fn source(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<SourceId> {
        Ok(self.actor(db, row.actor_id)?.source)
    }

    /// Returns true if an event has the health-check flag.
    pub(in crate::store) fn is_healthcheck(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<bool> {
        Ok(self.kind(db, row.kind_id)?.is_healthcheck)
    }

    /// Returns the time of arrival of an event, in nanoseconds since the epoch.
    pub(in crate::store) fn received_nano(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<Nanos> {
        if let Some(late_nano) = row.late_nano {
            return Ok(Nanos(row.time_nano.0.wrapping_add(late_nano)));
        }
        if !self.arrival.seqs.contains(&row.seq) {
            let mut statement = db.prepare_cached(
                "SELECT first_seq, received_nano,
                    (SELECT ifnull(min(first_seq), ?2) FROM arrival WHERE first_seq > ?1)
                 FROM arrival WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1",
            )?;
            self.arrival = statement.query_row([row.seq, Seq::MAX], |found| {
                Ok(SharedArrival { seqs: found.get(0)?..found.get(2)?, received_nano: found.get(1)? })
            })?;
        }
        Ok(self.arrival.received_nano)
    }

    /// Writes the exact line of an event into `line`.
    pub(in crate::store) fn decode(
        &mut self,
        db: &Connection,
        row: &EventRow,
        line: &mut Vec<u8>,
    ) -> rusqlite::Result<()> {
        line.clear();
        let kind = self.kind(db, row.kind_id)?;
        match &kind.template {
            Some(template) => {
                let StoredActor { actor, .. } = self.actor(db, row.actor_id)?;
                let mut varying = row.varying.clone();
                match varying.exec_id_mut() {
                    Some(exec_id @ VaryingValue::Number(_)) => *exec_id = self.exec_id(db, exec_id, row.seq)?,
                    Some(VaryingValue::Digest(digest)) => self.execs.insert(row.seq, *digest),
                    _ => {}
                }
                template.render(&kind.event_type, &kind.action, &actor, &varying, row.time_nano.0, line);
            }
            None => {
                let mut verbatim = db.prepare_cached("SELECT raw FROM verbatim WHERE seq = ?1")?;
                verbatim.query_row([row.seq], |raw| {
                    line.extend_from_slice(raw.get_ref(0)?.as_bytes()?);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Returns the exec ID of the event that `reference` refers to. If that event was pruned in between, the exec ID is
    /// in the row of `referring_seq` itself.
    fn exec_id(
        &mut self,
        db: &Connection,
        reference: &VaryingValue<'_>,
        referring_seq: Seq,
    ) -> rusqlite::Result<VaryingValue<'static>> {
        let VaryingValue::Number(seq) = reference else { return Ok(VaryingValue::Text("".into())) };
        let seq = Seq(*seq);
        if let Some(digest) = self.execs.get(&seq) {
            return Ok(VaryingValue::Digest(*digest));
        }
        let mut found = db.prepare_cached("SELECT exec_id FROM event WHERE seq IN (?1, ?2) ORDER BY seq LIMIT 1")?;
        let digest = found.query_row([seq, referring_seq], |row| row.get(0))?;
        self.execs.insert(seq, digest);
        Ok(VaryingValue::Digest(digest))
    }

    fn kind(&mut self, db: &Connection, id: KindId) -> rusqlite::Result<Rc<EventKind>> {
        if let Some(kind) = self.kinds.get(&id) {
            return Ok(kind.clone());
        }
        let (event_type, action, template_id, exec): (_, _, Option<TemplateId>, ExecFlag) = db
            .prepare_cached("SELECT type, action, form, exec FROM shape WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let template = template_id.map(|id| self.template(db, id)).transpose()?;
        let kind = Rc::new(EventKind { event_type, action, template, is_healthcheck: exec == ExecFlag::Healthcheck });
        self.kinds.insert(id, kind.clone());
        Ok(kind)
    }

    fn template(&mut self, db: &Connection, id: TemplateId) -> rusqlite::Result<Rc<LineTemplate>> {
        if let Some(template) = self.templates.get(&id) {
            return Ok(template.clone());
        }
        let text: String =
            db.prepare_cached("SELECT text FROM form WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
        let template = Rc::new(LineTemplate::parse(&text));
        self.templates.insert(id, template.clone());
        Ok(template)
    }

    /// Returns an actor.
    pub(in crate::store) fn actor(&mut self, db: &Connection, id: ActorId) -> rusqlite::Result<StoredActor> {
        if let Some(actor) = self.actors.get(&id) {
            return Ok(actor.clone());
        }
        let (source, actor_id, name, labels): (SourceId, String, Option<String>, String) = db
            .prepare_cached("SELECT source, actor_id, name, labels FROM actor WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let mut label_pairs = Vec::with_capacity(16);
        for id in parse_ids(&labels) {
            label_pairs.push(self.label(db, id)?);
        }
        let mut attributes: Vec<(&str, &str)> = label_pairs.iter().map(|label| (&*label.key, &*label.value)).collect();
        attributes.extend(name.as_deref().map(|name| ("name", name)));
        attributes.sort_unstable();
        let actor = StoredActor { source, actor: Rc::new(Actor::new(&actor_id, attributes.into_iter())) };
        self.actors.insert(id, actor.clone());
        Ok(actor)
    }

    fn label(&mut self, db: &Connection, id: LabelId) -> rusqlite::Result<Rc<Label>> {
        if let Some(label) = self.labels.get(&id) {
            return Ok(label.clone());
        }
        let label = db
            .prepare_cached("SELECT key, value FROM label WHERE id = ?1")?
            .query_row([id], |row| Ok(Label { key: row.get(0)?, value: row.get(1)? }))?;
        let label = Rc::new(label);
        self.labels.insert(id, label.clone());
        Ok(label)
    }
}
