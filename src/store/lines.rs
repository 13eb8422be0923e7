//! Rows → the event's own bytes: puts together what [`super::rows`] took apart.

use std::rc::Rc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::layout::{Actor, Form, Value, Varying};
use super::recent::Recent;
use super::rows::EXEC_OF_HEALTHCHECK;
use super::stretch::ids;

/// The columns of an event's row, in the order that [`EventRow::read`] wants.
pub(super) const COLUMNS: &str =
    "seq, time_nano, late_nano, shape, actor, container, exec_duration, exec_id, exit_code, signal";

/// How many shapes, forms and actors are remembered; an actor is some 2 KB.
const SHAPES: usize = 4_096;
const ACTORS: usize = 2_048;

/// How many labels are remembered: some 150 bytes each.
const LABELS: usize = 8_192;

/// How many exec IDs are remembered.
const EXECS: usize = 4_096;

/// One event as it stands in its row.
#[derive(Clone, Debug)]
pub(super) struct EventRow {
    pub(super) seq: i64,
    pub(super) time_nano: i64,
    late_nano: Option<i64>,
    pub(super) shape: i64,
    pub(super) actor: i64,
    varying: Varying<'static>,
}

impl EventRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let mut varying = Varying::default();
        for (at, value) in varying.0.iter_mut().enumerate() {
            *value = match row.get_ref(5 + at)? {
                ValueRef::Null => None,
                ValueRef::Integer(number) => Some(Value::Number(number)),
                ValueRef::Blob(bytes) => match bytes.try_into() {
                    Ok(digest) => Some(Value::Digest(digest)),
                    Err(_) => Some(Value::Text(String::from_utf8_lossy(bytes).into_owned().into())),
                },
                ValueRef::Text(text) => Some(Value::Text(String::from_utf8_lossy(text).into_owned().into())),
                ValueRef::Real(number) => Some(Value::Text(number.to_string().into())),
            };
        }
        Ok(EventRow {
            seq: row.get(0)?,
            time_nano: row.get(1)?,
            late_nano: row.get(2)?,
            shape: row.get(3)?,
            actor: row.get(4)?,
            varying,
        })
    }
}

impl EventRow {
    pub(super) fn exec_id(&self) -> Option<&Value<'static>> {
        self.varying.exec_id()
    }

    /// Whether it has an `exec_id`.
    pub(super) fn has_exec_id(&self) -> bool {
        self.varying.exec_id().is_some()
    }
}

/// What is said: a row of `shape`.
#[derive(Debug)]
struct Shape {
    kind: String,
    action: String,
    form: Option<Rc<Form>>,
    marked: bool,
}

/// Puts lines together.
#[derive(Debug)]
pub(super) struct Lines {
    shapes: Recent<i64, Rc<Shape>>,
    forms: Recent<i64, Rc<Form>>,
    actors: Recent<i64, (i64, Rc<Actor>)>,
    labels: Recent<i64, Rc<(String, String)>>,
    execs: Recent<i64, [u8; 32]>,
    /// When events were read that were read together: from one sequence to before another.
    arrival: (i64, i64, i64),
}

impl Lines {
    pub(super) fn new() -> Self {
        Lines {
            shapes: Recent::new(SHAPES),
            forms: Recent::new(SHAPES),
            actors: Recent::new(ACTORS),
            labels: Recent::new(LABELS),
            execs: Recent::new(EXECS),
            arrival: (0, 0, 0),
        }
    }

    /// What is remembered may not be true any more.
    pub(super) fn forget(&mut self) {
        *self = Lines::new();
    }

    /// The row of the source of an event.
    pub(super) fn source(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<i64> {
        Ok(self.actor(db, row.actor)?.0)
    }

    /// Whether an event was marked as that of a health check.
    pub(super) fn marked(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<bool> {
        Ok(self.shape(db, row.shape)?.marked)
    }

    /// When an event was read, in nanoseconds since the epoch.
    pub(super) fn received_nano(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<i64> {
        if let Some(late_nano) = row.late_nano {
            return Ok(row.time_nano.wrapping_add(late_nano));
        }
        if !(self.arrival.0..self.arrival.1).contains(&row.seq) {
            let mut around = db.prepare_cached(
                "SELECT first_seq, received_nano,
                    (SELECT ifnull(min(first_seq), ?2) FROM arrival WHERE first_seq > ?1)
                 FROM arrival WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1",
            )?;
            self.arrival =
                around.query_row([row.seq, i64::MAX], |found| Ok((found.get(0)?, found.get(2)?, found.get(1)?)))?;
        }
        Ok(self.arrival.2)
    }

    /// Writes the event's own bytes into `line`.
    pub(super) fn put_together(&mut self, db: &Connection, row: &EventRow, line: &mut Vec<u8>) -> rusqlite::Result<()> {
        line.clear();
        let shape = self.shape(db, row.shape)?;
        match &shape.form {
            Some(form) => {
                let (_, actor) = self.actor(db, row.actor)?;
                let mut varying = row.varying.clone();
                match varying.exec_id_mut() {
                    Some(exec_id @ Value::Number(_)) => *exec_id = self.exec_id(db, exec_id, row.seq)?,
                    Some(Value::Digest(digest)) => self.execs.insert(row.seq, *digest),
                    _ => {}
                }
                form.fill(&shape.kind, &shape.action, &actor, &varying, row.time_nano, line);
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

    /// The exec ID of the event that is named in place of it; once that is pruned it stands with the row of `seq` itself.
    fn exec_id(&mut self, db: &Connection, same: &Value<'_>, of: i64) -> rusqlite::Result<Value<'static>> {
        let Value::Number(seq) = same else { return Ok(Value::Text("".into())) };
        if let Some(digest) = self.execs.get(seq) {
            return Ok(Value::Digest(*digest));
        }
        let mut found = db.prepare_cached("SELECT exec_id FROM event WHERE seq IN (?1, ?2) ORDER BY seq LIMIT 1")?;
        let digest = found.query_row([*seq, of], |row| row.get(0))?;
        self.execs.insert(*seq, digest);
        Ok(Value::Digest(digest))
    }

    fn shape(&mut self, db: &Connection, id: i64) -> rusqlite::Result<Rc<Shape>> {
        if let Some(shape) = self.shapes.get(&id) {
            return Ok(shape.clone());
        }
        let (kind, action, form, exec): (_, _, Option<i64>, i64) = db
            .prepare_cached("SELECT type, action, form, exec FROM shape WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let form = form.map(|form| self.form(db, form)).transpose()?;
        let shape = Rc::new(Shape { kind, action, form, marked: exec == EXEC_OF_HEALTHCHECK });
        self.shapes.insert(id, shape.clone());
        Ok(shape)
    }

    fn form(&mut self, db: &Connection, id: i64) -> rusqlite::Result<Rc<Form>> {
        if let Some(form) = self.forms.get(&id) {
            return Ok(form.clone());
        }
        let text: String =
            db.prepare_cached("SELECT text FROM form WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
        let form = Rc::new(Form::read(&text));
        self.forms.insert(id, form.clone());
        Ok(form)
    }

    /// The source of an actor, and the actor.
    pub(super) fn actor(&mut self, db: &Connection, id: i64) -> rusqlite::Result<(i64, Rc<Actor>)> {
        if let Some(actor) = self.actors.get(&id) {
            return Ok(actor.clone());
        }
        let (source, actor_id, name, labels): (i64, String, Option<String>, String) = db
            .prepare_cached("SELECT source, actor_id, name, labels FROM actor WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let mut labels_of = Vec::with_capacity(16);
        for id in ids(&labels) {
            labels_of.push(self.label(db, id)?);
        }
        let mut attributes: Vec<(&str, &str)> = labels_of.iter().map(|label| (&*label.0, &*label.1)).collect();
        attributes.extend(name.as_deref().map(|name| ("name", name)));
        attributes.sort_unstable();
        let actor = (source, Rc::new(Actor::new(&actor_id, attributes.into_iter())));
        self.actors.insert(id, actor.clone());
        Ok(actor)
    }

    fn label(&mut self, db: &Connection, id: i64) -> rusqlite::Result<Rc<(String, String)>> {
        if let Some(label) = self.labels.get(&id) {
            return Ok(label.clone());
        }
        let label: (String, String) = db
            .prepare_cached("SELECT key, value FROM label WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let label = Rc::new(label);
        self.labels.insert(id, label.clone());
        Ok(label)
    }
}
