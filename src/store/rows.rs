//! One event → its rows: takes it apart, finds or makes what repeats, and proves that the bytes come out again.
//!
//! Used by the writer and by the migration that moves older events here. What it remembers between commits is a
//! cache: the tables answer what it does not hold. Everything happens inside the caller's transaction; after one that
//! failed, [`forget`](Rows::forget) must be called.

use std::borrow::Cow;
use std::rc::Rc;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, ToSql, params};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::chain::{self, BEGINNING, Entry, Hash, Head, Kind, MARK};
use super::file::head;
use super::layout::{Actor, Form, Value, Varying, form_of, varies};
use super::prune::References;
use super::recent::Recent;
use super::stretch::Stretches;
use crate::event::Event;

/// How many forms there may be; an event of another form is stored as it is. Engines have a handful: more is a
/// stranger whose lines differ in what should repeat.
const FORMS: i64 = 1_000;

/// How many actors are remembered, at most twice so many: some 2 KB each.
const ACTORS: usize = 2_048;

/// How many shapes and labels are remembered.
const SHAPES: usize = 4_096;
const LABELS: usize = 16_384;

/// How many exec IDs are remembered: those of commands that run.
const EXECS: usize = 4_096;

/// How far back an exec ID is looked up, in sequences: so far a pruning has to look for what refers to what it takes.
pub(super) const EXEC_REACH: i64 = 100_000;

/// `shape.exec` where events have an exec ID, and where they are marked as those of a health check, besides.
const EXEC: i64 = 1;
pub(super) const EXEC_OF_HEALTHCHECK: i64 = 2;

/// From so many events on, that were read together, when they were is stored once.
pub(super) const TOGETHER: usize = 16;

/// Every so many entries the chain's link is stored, and at its end: so few share one.
const LINKED: i64 = 64;

/// The statements that every event needs, prepared once a transaction.
pub(super) struct Inserts<'db> {
    event: CachedStatement<'db>,
    verbatim: CachedStatement<'db>,
}

impl<'db> Inserts<'db> {
    pub(super) fn prepare(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(Inserts {
            event: db.prepare_cached(
                "INSERT INTO event (seq, time_nano, late_nano, shape, actor, exec_id, exit_code, exec_duration, signal, container)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?,
            verbatim: db.prepare_cached("INSERT INTO verbatim (seq, raw) VALUES (?1, ?2)")?,
        })
    }
}

pub(super) struct Rows {
    forms: Recent<u128, Option<(i64, Rc<Form>)>>,
    shapes: Recent<u128, i64>,
    labels: Recent<u128, i64>,
    actors: Recent<u128, (i64, Rc<Actor>)>,
    /// By exec ID, the event that has it.
    execs: Recent<[u8; 32], i64>,
    pub(super) stretches: Stretches,
    pub(super) references: References,
    /// Whether the tables are of a schema before the fifth: while events are moved from an older one.
    older: bool,
    given: Given,
    /// The last sequence given, and the chain's hash after it.
    seq: i64,
    hash: Hash,
    /// The sequence of the last link that is stored; and those to be stored with this transaction.
    stored_link: i64,
    links: Vec<(i64, Hash)>,
    loaded: bool,
    form: String,
    key: Vec<u8>,
    line: Vec<u8>,
}

impl Rows {
    pub(super) fn new() -> Self {
        Rows {
            forms: Recent::new(FORMS as usize),
            shapes: Recent::new(SHAPES),
            labels: Recent::new(LABELS),
            actors: Recent::new(ACTORS),
            execs: Recent::new(EXECS),
            stretches: Stretches::default(),
            references: References::default(),
            older: false,
            given: Given::default(),
            seq: 0,
            hash: BEGINNING,
            stored_link: 0,
            links: Vec::new(),
            loaded: false,
            form: String::new(),
            key: Vec::new(),
            line: Vec::new(),
        }
    }

    /// For tables of a schema before the fifth.
    pub(super) fn of_older_schema() -> Self {
        Rows { older: true, ..Rows::new() }
    }

    /// What was remembered may not be true any more: a transaction failed.
    pub(super) fn forget(&mut self) {
        self.forms.clear();
        self.shapes.clear();
        self.labels.clear();
        self.actors.clear();
        self.execs.clear();
        self.references = References::default();
        self.loaded = false;
    }

    /// Another connection has written: what goes on has gone on, and actors may have been pruned.
    pub(super) fn others_wrote(&mut self) {
        self.forget();
    }

    /// A beginning was pruned in this transaction: actors went with it, and events that exec IDs stood in.
    pub(super) fn pruned(&mut self) {
        self.actors.clear();
        self.execs.clear();
        self.loaded = false;
    }

    /// Texts that nobody uses were let go of in this transaction.
    pub(super) fn swept(&mut self) {
        self.forms.clear();
        self.shapes.clear();
        self.labels.clear();
    }

    /// The highest IDs ever given.
    pub(super) fn given(&self) -> Given {
        self.given
    }

    /// Goes on where the tables end; to be called first in every transaction.
    pub(super) fn begin(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.loaded {
            return Ok(());
        }
        Head { seq: self.seq, hash: self.hash } = head(db)?;
        self.stored_link = self.seq;
        self.links.clear();
        self.stretches = Stretches::load(db)?;
        self.given = if self.older { Given::load_older(db)? } else { Given::load(db)? };
        self.loaded = true;
        Ok(())
    }

    /// Stores what the transaction has added to the chain and the stretches; to be called last in it.
    pub(super) fn finish(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.stretches.store(db)?;
        self.finish_chain(db)
    }

    /// The same for the chain alone.
    pub(super) fn finish_chain(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if self.seq == self.stored_link {
            return Ok(());
        }
        if self.links.last().is_none_or(|(seq, _)| *seq < self.seq) {
            self.links.push((self.seq, self.hash));
        }
        // The link of a head that is behind us is needed no more, unless it is one of those that stay.
        if self.stored_link % LINKED != 0 {
            db.prepare_cached("DELETE FROM link WHERE seq = ?1")?.execute([self.stored_link])?;
        }
        let mut insert = db.prepare_cached("INSERT INTO link (seq, hash) VALUES (?1, ?2)")?;
        for (seq, hash) in self.links.drain(..) {
            insert.execute(params![seq, hash])?;
        }
        self.stored_link = self.seq;
        Ok(())
    }

    /// The end of the chain.
    pub(super) fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    /// The next sequence, for an entry of the chain.
    pub(super) fn chained(&mut self, kind: Kind, source: &str, fields: &[&[u8]]) -> i64 {
        self.seq += 1;
        self.hash = chain::link(&self.hash, Entry { kind, seq: self.seq, source, fields });
        if self.seq % LINKED == 0 {
            self.links.push((self.seq, self.hash));
        }
        self.seq
    }

    /// The events added next were read together.
    pub(super) fn together(&mut self, db: &Connection, received_nano: i64) -> rusqlite::Result<()> {
        db.prepare_cached("INSERT OR REPLACE INTO arrival (first_seq, received_nano) VALUES (?1, ?2)")?
            .execute([self.seq + 1, received_nano])?;
        Ok(())
    }

    /// Stores an event of a source: its row, and the name that the chain knows it by. When it was read is stored with
    /// it, unless that was said for many [`together`](Self::together). A mark says that it is of a health check. Gives the
    /// event's shape.
    pub(super) fn add(
        &mut self,
        (db, inserts): (&Connection, &mut Inserts<'_>),
        source: (i64, &str),
        (event, digest, marked): (&Event<'_>, &[u8; 32], bool),
        received_nano: i64,
        together: bool,
    ) -> rusqlite::Result<i64> {
        form_of(event, &mut self.form);
        let (actor_row, actor) = self.actor(db, source.0, event)?;
        let varying = Varying::of(event);
        let form = self.form(db)?.filter(|(_, form)| {
            self.line.clear();
            form.fill(&event.kind, &event.action, &actor, &varying, event.time_nano, &mut self.line);
            self.line == event.raw()
        });
        let (exec, fields) = match (varying.exec_id(), marked) {
            (None, _) => (0, 2),
            (Some(_), false) => (EXEC, 2),
            (Some(_), true) => (EXEC_OF_HEALTHCHECK, 3),
        };
        let shape = self.shape(db, form.map(|(row, _)| row), exec, event)?;
        let received = received_nano.to_le_bytes();
        let seq = self.chained(Kind::Event, source.1, &[&received[..], digest, MARK][..fields]);
        let late_nano = (!together).then(|| received_nano.wrapping_sub(event.time_nano));
        let [container, exec_duration, exec_id, exit_code, signal] = &self.refer(seq, varying).0;
        inserts.event.execute(params![
            seq,
            event.time_nano,
            late_nano,
            shape.0,
            actor_row,
            exec_id,
            exit_code,
            exec_duration,
            signal,
            container,
        ])?;
        if !shape.1 {
            inserts.verbatim.execute(params![seq, event.text])?;
        }
        self.stretches.add(seq, event.time_nano, shape.0);
        Ok(shape.0)
    }

    /// An exec ID that an event had lately is that event's sequence; a number would mean one, so it is text.
    fn refer<'e>(&mut self, seq: i64, mut varying: Varying<'e>) -> Varying<'e> {
        match varying.exec_id_mut() {
            Some(exec_id @ Value::Digest(_)) => {
                let Value::Digest(digest) = *exec_id else { return varying };
                match self.execs.get(&digest) {
                    Some(same) if seq - *same < EXEC_REACH => *exec_id = Value::Number(*same),
                    _ => self.execs.insert(digest, seq),
                }
            }
            Some(exec_id @ Value::Number(_)) => {
                if let Value::Number(number) = *exec_id {
                    *exec_id = Value::Text(number.to_string().into());
                }
            }
            Some(Value::Text(_)) | None => {}
        }
        varying
    }

    /// Stores what became known of a gap; without a reason that there is none.
    pub(super) fn add_gap(
        &mut self,
        db: &Connection,
        source: (i64, &str),
        (from, to): (Option<i64>, Option<i64>),
        reason: Option<&str>,
        detail: Option<&str>,
    ) -> rusqlite::Result<()> {
        // An empty text and none look the same in the chain, so one of them is never stored.
        let detail = detail.filter(|detail| !detail.is_empty());
        let fields = chain::gap_fields((from, to), reason, detail);
        let fields: [&[u8]; 4] = std::array::from_fn(|at| &fields[at][..]);
        let seq = self.chained(Kind::Gap, source.1, &fields);
        db.prepare_cached(
            "INSERT INTO gap (seq, source, from_nano, to_nano, reason, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![seq, source.0, from, to, reason, detail])?;
        Ok(())
    }

    /// The chain up to a place is pruned.
    pub(super) fn add_seal(&mut self, db: &Connection, upto: Head, events: i64, now_nano: i64) -> rusqlite::Result<()> {
        let fields = chain::seal_fields(upto, events, now_nano);
        let fields: [&[u8]; 4] = std::array::from_fn(|at| &fields[at][..]);
        let seq = self.chained(Kind::Seal, "", &fields);
        db.prepare_cached("INSERT INTO seal (seq, upto, hash, events, sealed_nano) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![seq, upto.seq, upto.hash, events, now_nano])?;
        Ok(())
    }

    /// A source is called so from now on.
    pub(super) fn add_naming(&mut self, db: &Connection, source: (i64, &str), name: &str) -> rusqlite::Result<()> {
        let seq = self.chained(Kind::Naming, source.1, &[name.as_bytes()]);
        db.prepare_cached("INSERT INTO naming (seq, source, name) VALUES (?1, ?2, ?3)")?
            .execute(params![seq, source.0, name])?;
        Ok(())
    }

    /// With this command a container of a source checks its health; an empty one says that it does not.
    pub(super) fn add_healthcheck(
        &mut self,
        db: &Connection,
        source: (i64, &str),
        container: &str,
        command: &str,
    ) -> rusqlite::Result<()> {
        let seq = self.chained(Kind::Healthcheck, source.1, &[container.as_bytes(), command.as_bytes()]);
        db.prepare_cached("INSERT INTO healthcheck (seq, source, container, command) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![seq, source.0, container, command])?;
        Ok(())
    }

    /// The form in `self.form`; `None` if there are too many.
    fn form(&mut self, db: &Connection) -> rusqlite::Result<Option<(i64, Rc<Form>)>> {
        let hash = xxh3_128(self.form.as_bytes());
        if let Some(known) = self.forms.get(&hash) {
            return Ok(known.clone());
        }
        let found: Option<i64> = db
            .prepare_cached("SELECT id FROM form WHERE text = ?1")?
            .query_row([&self.form], |row| row.get(0))
            .optional()?;
        let row = match found {
            Some(row) => Some(row),
            None => {
                let made = db
                    .prepare_cached("INSERT INTO form (id, text) SELECT ?1, ?2 WHERE (SELECT count(*) FROM form) < ?3")?
                    .execute(params![self.given.form + 1, self.form, FORMS])?;
                (made > 0).then(|| next(&mut self.given.form))
            }
        };
        let form = row.map(|row| (row, Rc::new(Form::read(&self.form))));
        self.forms.insert(hash, form.clone());
        Ok(form)
    }

    /// The shape of an event, and whether it has a form.
    fn shape(
        &mut self,
        db: &Connection,
        form: Option<i64>,
        exec: i64,
        event: &Event<'_>,
    ) -> rusqlite::Result<(i64, bool)> {
        let hash = self.hash_of([form.unwrap_or(0), exec], [&event.kind, &event.scope, &event.action].into_iter());
        if let Some(row) = self.shapes.get(&hash) {
            return Ok((*row, form.is_some()));
        }
        let found: Option<i64> = db
            .prepare_cached(
                "SELECT id FROM shape WHERE action = ?1 AND type = ?2 AND scope = ?3 AND exec = ?4 AND form IS ?5",
            )?
            .query_row(params![event.action, event.kind, event.scope, exec, form], |row| row.get(0))
            .optional()?;
        let row = match found {
            Some(row) => row,
            None => {
                let row = next(&mut self.given.shape);
                db.prepare_cached(
                    "INSERT INTO shape (id, type, action, scope, exec, form) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![row, event.kind, event.action, event.scope, exec, form])?;
                row
            }
        };
        self.shapes.insert(hash, row);
        Ok((row, form.is_some()))
    }

    /// The actor of an event with the attributes that stay.
    fn actor(&mut self, db: &Connection, source: i64, event: &Event<'_>) -> rusqlite::Result<(i64, Rc<Actor>)> {
        let stay = || event.attributes.iter().filter(|(key, _)| !varies(key));
        self.key.clear();
        let hash = if write_staying(event, &mut self.key) {
            self.key.extend_from_slice(&source.to_le_bytes());
            self.key.extend_from_slice(event.actor_id.as_bytes());
            xxh3_128(&self.key)
        } else {
            let texts = stay().flat_map(|(key, value)| [key, value]);
            self.hash_of([source, 0], std::iter::once(&event.actor_id).chain(texts))
        };
        if let Some((row, actor)) = self.actors.get(&hash) {
            return Ok((*row, actor.clone()));
        }
        let mut labels = Vec::new();
        for (key, value) in stay().filter(|(key, _)| key != "name") {
            labels.push(self.label(db, key, value)?.to_string());
        }
        let labels = format!("[{}]", labels.join(","));
        let name = event.attribute("name");
        let digest = digest(source, name, &labels);
        let values = params![event.actor_id, source, name, labels, digest];
        let found: Option<i64> = db
            .prepare_cached(if self.older { FIND_OLDER_ACTOR } else { FIND_ACTOR })?
            .query_row(&values[..if self.older { 4 } else { 5 }], |row| row.get(0))
            .optional()?;
        let row = match found {
            Some(row) => row,
            None => {
                let row = next(&mut self.given.actor);
                let values = params![row, source, event.actor_id, name, labels, digest];
                db.prepare_cached(if self.older { ADD_OLDER_ACTOR } else { ADD_ACTOR })?
                    .execute(&values[..if self.older { 5 } else { 6 }])?;
                row
            }
        };
        let actor = Rc::new(Actor::new(&event.actor_id, stay().map(|(key, value)| (key.as_ref(), value.as_ref()))));
        self.actors.insert(hash, (row, actor.clone()));
        Ok((row, actor))
    }

    /// One hash of numbers and texts; with 128 bits no two are ever the same.
    fn hash_of(&mut self, numbers: [i64; 2], texts: impl Iterator<Item = impl AsRef<str>>) -> u128 {
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
        let hash = self.hash_of([0, 0], [key, value].into_iter());
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
                let row = next(&mut self.given.label);
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
const ADD_ACTOR: &str =
    "INSERT INTO actor (id, source, actor_id, name, labels, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const FIND_OLDER_ACTOR: &str =
    "SELECT id FROM actor WHERE actor_id = ?1 AND source = ?2 AND name IS ?3 AND labels = ?4";
const ADD_OLDER_ACTOR: &str = "INSERT INTO actor (id, source, actor_id, name, labels) VALUES (?1, ?2, ?3, ?4, ?5)";

/// What tells the actors of one ID apart, as `actor.digest` holds it: two bytes, which leave a few of a hundred thousand
/// to choose from. More would show in the size of the file.
pub(super) fn digest(source: i64, name: Option<&str>, labels: &str) -> i64 {
    let source = source.to_le_bytes();
    let text = [&source[..], name.unwrap_or("\0").as_bytes(), b"\0", labels.as_bytes()].concat();
    (xxh3_64(&text) as i64) >> 48
}

/// The highest ID that was ever given in each of the tables of texts: rows go, and an ID that was given is not given
/// again, so that what others remember of it stays true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) actor: i64,
    pub(super) label: i64,
    pub(super) shape: i64,
    pub(super) form: i64,
}

impl Given {
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Given> {
        let there = Given::load_older(db)?;
        let gone = db
            .prepare_cached("SELECT actor, label, shape, form FROM swept")?
            .query_row([], Given::read)
            .optional()?
            .unwrap_or_default();
        Ok(Given {
            actor: there.actor.max(gone.actor),
            label: there.label.max(gone.label),
            shape: there.shape.max(gone.shape),
            form: there.form.max(gone.form),
        })
    }

    /// Where no row was ever let go of.
    fn load_older(db: &Connection) -> rusqlite::Result<Given> {
        let highest =
            ["actor", "label", "shape", "form"].map(|table| format!("ifnull((SELECT max(id) FROM {table}), 0)"));
        db.prepare_cached(&format!("SELECT {}", highest.join(", ")))?.query_row([], Given::read)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Given> {
        Ok(Given { actor: row.get(0)?, label: row.get(1)?, shape: row.get(2)?, form: row.get(3)? })
    }

    /// To be called where rows of these tables go.
    pub(super) fn store(self, db: &Connection) -> rusqlite::Result<()> {
        let Given { actor, label, shape, form } = self;
        db.prepare_cached(
            "INSERT INTO swept VALUES (1, ?1, ?2, ?3, ?4, 0, 0)
             ON CONFLICT (id) DO UPDATE SET actor = ?1, label = ?2, shape = ?3, form = ?4",
        )?
        .execute(params![actor, label, shape, form])?;
        Ok(())
    }
}

/// The next ID after the highest.
fn next(given: &mut i64) -> i64 {
    *given += 1;
    *given
}

/// Writes the attributes that stay as they are written in the event, and a zero, which nothing there is: what tells an
/// actor apart, without taking each of them in hand. Whether that can be done.
fn write_staying(event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    let Some(text) = event.texts.attributes else { return false };
    let mut at = 0;
    for (key, value) in event.attributes.iter().filter(|(key, _)| varies(key)) {
        let (Cow::Borrowed(key), Cow::Borrowed(value)) = (key, value) else { return false };
        let within = |part: &str| (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        let (start, end) = (within(key).wrapping_sub(1), within(value).wrapping_add(value.len() + 1));
        // What is written with escapes stands elsewhere.
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

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Digest(bytes) => ValueRef::Blob(bytes),
            Value::Number(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}
