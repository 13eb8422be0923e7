//! Walks the hash chain from its beginning and proves, entry by entry, that what is printed is what was stored.
//!
//! A link covers the bytes of an entry, its place, its source and the link before it. Beside the chain stands what only
//! serves to find events again: a query would not show an event that its shape, its actor, its stretch or an index
//! denies, so each of these must agree with the event's own bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::{Display, Formatter};

use rusqlite::{Connection, OptionalExtension, Row, Rows};
use sha2::{Digest, Sha256};

use super::chain::{self, BEGINNING, Entry, Hash, Head, Kind, MARK};
use super::file;
use super::layout::{Actor, Form, varies};
use super::lines::{COLUMNS, EventRow, Lines};
use super::rows::EXEC_OF_HEALTHCHECK;
use super::stretch::{self, Stretch, ids};
use super::{SourceRow, migrate};
use crate::event::Event;

/// So many sequences are read in one transaction, so that the writer can go on.
const STEP: i64 = 4_096;

/// Something that is not as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What SQLite itself finds wrong with the file: a damaged page, an index that leaves out a row.
    Damaged(String),
    /// A table, index, view or trigger of ours is not as the program made it, is missing, or was added.
    Schema(String),
    /// A row of a table that does not agree with the entries it belongs to.
    Row {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: i64,
        /// What is wrong with it.
        what: String,
    },
    /// Entries that are not there any more.
    Missing {
        /// The first sequence.
        first: i64,
        /// The last one.
        last: i64,
    },
    /// Among these entries at least one is not as it was stored.
    Changed {
        /// The first sequence of them.
        first: i64,
        /// The last one.
        last: i64,
    },
    /// A head that was noted lies in what was pruned: it can be proven no more.
    Pruned {
        /// The head that was noted.
        noted: Head,
        /// The last sequence that was pruned.
        upto: i64,
    },
    /// A head that was noted is not part of the chain.
    NotTheHead {
        /// The head that was noted.
        noted: Head,
        /// The chain's hash there, if it reaches so far.
        found: Option<Hash>,
    },
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Damaged(what) => write!(f, "the file is damaged: {what}"),
            Fault::Schema(what) => write!(f, "{what}"),
            Fault::Row { table, row, what } => write!(f, "{table} {row}: {what}"),
            Fault::Missing { first, last } if first == last => write!(f, "sequence {first} is missing"),
            Fault::Missing { first, last } => write!(f, "sequences {first} to {last} are missing"),
            Fault::Changed { first, last } if first == last => write!(f, "sequence {first} was changed"),
            Fault::Changed { first, last } => write!(f, "one of the sequences {first} to {last} was changed"),
            Fault::Pruned { noted, upto } => {
                write!(f, "the head {noted} cannot be proven: everything up to sequence {upto} was pruned")
            }
            Fault::NotTheHead { noted, found: None } => {
                write!(f, "the chain does not reach the head {noted}: its end was cut off")
            }
            Fault::NotTheHead { noted, found: Some(found) } => {
                write!(
                    f,
                    "the head {noted} is not part of the chain: there it is {}",
                    Head { seq: noted.seq, hash: *found }
                )
            }
        }
    }
}

/// What was found by a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The end of the chain.
    pub head: Head,
    /// How many entries there are: events, gaps, rejected lines, names, health checks.
    pub entries: u64,
    /// How many faults were found.
    pub faults: u64,
}

/// Walks the whole chain, as it stands when the walk begins, and calls `each` with what does not hold. The heads that
/// were noted earlier must be part of it. Where a pruning beside it takes away what is yet to be walked, the walk begins
/// again at the seal that took its place.
pub(super) fn walk(db: &Connection, noted: &[Head], each: impl FnMut(Fault)) -> rusqlite::Result<Verified> {
    Walk::new(db, noted, each).run()
}

/// The walk along the chain.
struct Walk<'a, F> {
    db: &'a Connection,
    each: F,
    faults: u64,
    entries: u64,
    lines: Lines,
    line: Vec<u8>,
    sources: BTreeMap<i64, Source>,
    noted: BTreeMap<i64, Vec<Hash>>,
    /// Up to where the chain goes, and how it ends.
    head: Head,
    /// Where it begins: what stood before was pruned.
    sealed: Head,
    /// The last sequence walked, and the hash there.
    seq: i64,
    hash: Hash,
    /// The sequence of the last link that is stored, and whether a fault was named since.
    linked: i64,
    named: bool,
    doubt: Option<Doubt>,
    stretches: VecDeque<Stretch>,
    span: Span,
    /// Shapes and actors that agree with an event already.
    shapes: HashMap<i64, Said>,
    actors: HashSet<i64>,
}

/// A link that did not hold. The next one tells whether the entries before it were changed, or the link itself.
struct Doubt {
    first: i64,
    last: i64,
    /// The chain as it comes out of the entries, past the link.
    hash: Hash,
}

/// A source as its row tells of it, and what was found of it.
struct Source {
    told: SourceRow,
    found: Told,
}

/// What a source's row repeats of its entries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    name: Option<String>,
    events: u64,
    rejected: u64,
    first_nano: Option<i64>,
    last_nano: Option<i64>,
}

/// What a shape says of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    kind: String,
    action: String,
    scope: String,
    exec: bool,
    /// Whether its events are marked as those of health checks.
    marked: bool,
    /// Whether the line is put together of shape and actor, with a hole for all of it: then what comes out right
    /// proves both.
    whole: bool,
}

/// What is walked of a stretch.
#[derive(Debug, Default)]
struct Span {
    stretch: Option<Stretch>,
    events: i64,
    shapes: BTreeSet<i64>,
}

impl<'a, F: FnMut(Fault)> Walk<'a, F> {
    fn new(db: &'a Connection, noted: &[Head], each: F) -> Self {
        let mut walk = Walk {
            db,
            each,
            faults: 0,
            entries: 0,
            lines: Lines::new(),
            line: Vec::new(),
            sources: BTreeMap::new(),
            noted: BTreeMap::new(),
            head: Head { seq: 0, hash: BEGINNING },
            sealed: Head { seq: 0, hash: BEGINNING },
            seq: 0,
            hash: BEGINNING,
            linked: 0,
            named: false,
            doubt: None,
            stretches: VecDeque::new(),
            span: Span::default(),
            shapes: HashMap::new(),
            actors: HashSet::new(),
        };
        for head in noted {
            walk.noted.entry(head.seq).or_default().push(head.hash);
        }
        walk
    }

    /// Begins at the newest seal: the caller's transaction is the moment in which what grows is read.
    fn begin(&mut self) -> rusqlite::Result<()> {
        self.head = file::head(self.db)?;
        self.sealed = self.newest_seal()?.unwrap_or(self.sealed);
        (self.seq, self.linked, self.hash) = (self.sealed.seq, self.sealed.seq, self.sealed.hash);
        (self.entries, self.named, self.doubt) = (0, false, None);
        self.stretches = stretch::all(self.db, 0)?.into();
        self.span = Span::default();
        match odd(file::sources(self.db))? {
            Some(sources) => {
                self.sources =
                    sources.into_iter().map(|told| (told.id, Source { told, found: Told::default() })).collect();
            }
            None => self.fault(Fault::Schema("the table source cannot be read".into())),
        }
        self.reached(self.seq);
        Ok(())
    }

    fn newest_seal(&self) -> rusqlite::Result<Option<Head>> {
        let seal = self
            .db
            .prepare_cached("SELECT upto, hash FROM seal ORDER BY seq DESC LIMIT 1")?
            .query_row([], |row| Ok(Head { seq: row.get(0)?, hash: row.get(1)? }));
        Ok(odd(seal.optional())?.flatten())
    }

    fn fault(&mut self, fault: Fault) {
        self.faults += 1;
        (self.each)(fault);
    }

    /// A fault at the entry that is walked: the link after it need not be named too.
    fn fault_here(&mut self, fault: Fault) {
        self.named = true;
        self.fault(fault);
    }

    fn row(&mut self, table: &'static str, row: i64, what: impl Into<String>) {
        self.fault_here(Fault::Row { table, row, what: what.into() });
    }

    fn run(mut self) -> rusqlite::Result<Verified> {
        self.schema()?;
        self.integrity()?;
        let moment = self.db.unchecked_transaction()?;
        self.begin()?;
        self.outside()?;
        moment.finish()?;
        while self.seq < self.head.seq {
            let moment = self.db.unchecked_transaction()?;
            if self.newest_seal()?.is_some_and(|seal| seal.seq > self.seq) {
                self.begin()?;
            }
            self.step((self.seq + STEP).min(self.head.seq))?;
            moment.finish()?;
        }
        self.settle_doubt();
        self.end_of_stretch();
        for stretch in std::mem::take(&mut self.stretches) {
            self.fault(Fault::Row { table: "stretch", row: stretch.first_seq, what: "it holds no events".into() });
        }
        for (seq, hashes) in std::mem::take(&mut self.noted) {
            for hash in hashes {
                if seq < self.sealed.seq {
                    self.fault(Fault::Pruned { noted: Head { seq, hash }, upto: self.sealed.seq });
                    continue;
                }
                self.fault(Fault::NotTheHead { noted: Head { seq, hash }, found: None });
            }
        }
        self.sources_are_told_right();
        Ok(Verified { head: self.head, entries: self.entries, faults: self.faults })
    }

    /// Ours must be as the migrations make it. What others add of their own is theirs, but for what acts on our tables.
    fn schema(&mut self) -> rusqlite::Result<()> {
        type Objects = BTreeMap<(String, String), (String, Option<String>)>;
        let objects = |db: &Connection| -> rusqlite::Result<Objects> {
            db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")?
                .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?))))?
                .collect()
        };
        let mut fresh = Connection::open_in_memory()?;
        migrate::migrations().to_latest(&mut fresh).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        let (ours, mut found) = (objects(&fresh)?, objects(self.db)?);
        for ((kind, name), made) in ours {
            match found.remove(&(kind.clone(), name.clone())) {
                None => self.fault(Fault::Schema(format!("the {kind} {name} is missing"))),
                Some(other) if other != made => self.fault(Fault::Schema(format!("the {kind} {name} was changed"))),
                Some(_) => {}
            }
        }
        for ((kind, name), (table, _)) in found.into_iter().filter(|((kind, _), _)| kind == "trigger") {
            self.fault(Fault::Schema(format!("the {kind} {name} on {table} was added")));
        }
        Ok(())
    }

    /// What SQLite checks: the pages, and that each index has every row.
    fn integrity(&mut self) -> rusqlite::Result<()> {
        let mut check = self.db.prepare("PRAGMA integrity_check(100)")?;
        let mut rows = check.query([])?;
        while let Some(row) = rows.next()? {
            let what: String = row.get(0)?;
            if what != "ok" {
                self.fault(Fault::Damaged(what));
            }
        }
        Ok(())
    }

    /// Entries that stand outside of the chain: before its beginning or behind its end.
    fn outside(&mut self) -> rusqlite::Result<()> {
        for (table, _) in TABLES {
            let mut outside =
                self.db.prepare(&format!("SELECT seq FROM {table} WHERE seq <= ?1 OR seq > ?2 LIMIT 100"))?;
            let outside = outside
                .query_map([self.sealed.seq, self.head.seq], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<i64>>>()?;
            for seq in outside {
                self.fault(Fault::Row { table, row: seq, what: "it is not in the chain: it was put in".into() });
            }
        }
        Ok(())
    }

    /// Walks up to and with the sequence `to`.
    fn step(&mut self, to: i64) -> rusqlite::Result<()> {
        let range = [self.seq + 1, to];
        let mut links: BTreeMap<i64, Option<Hash>> = BTreeMap::new();
        {
            let mut stored = self.db.prepare_cached("SELECT seq, hash FROM link WHERE seq BETWEEN ?1 AND ?2")?;
            let mut stored = stored.query(range)?;
            while let Some(row) = stored.next()? {
                links.insert(row.get(0)?, row.get(1).ok());
            }
        }
        let mut others: BTreeMap<i64, Vec<(&'static str, Kind)>> = BTreeMap::new();
        for (table, kind) in TABLES.into_iter().filter(|(_, kind)| *kind != Kind::Event) {
            let mut seqs = self.db.prepare_cached(&format!("SELECT seq FROM {table} WHERE seq BETWEEN ?1 AND ?2"))?;
            let mut seqs = seqs.query(range)?;
            while let Some(row) = seqs.next()? {
                others.entry(row.get(0)?).or_default().push((table, kind));
            }
        }
        let db = self.db;
        let mut events = db.prepare_cached(&format!("SELECT {COLUMNS} FROM event WHERE seq BETWEEN ?1 AND ?2"))?;
        let mut events = events.query(range)?;
        let mut event = next_event(&mut events)?;
        let mut missing: Option<i64> = None;
        for seq in range[0]..=to {
            let here = event.as_ref().is_some_and(|(at, _)| *at == seq);
            let other = others.remove(&seq);
            if !here && other.is_none() {
                missing.get_or_insert(seq);
            } else if let Some(first) = missing.take() {
                self.fault_here(Fault::Missing { first, last: seq - 1 });
            }
            if here {
                let row = event.take().and_then(|(_, row)| row);
                self.event(seq, row)?;
                event = next_event(&mut events)?;
            }
            for (at, (table, kind)) in other.into_iter().flatten().enumerate() {
                if here || at > 0 {
                    self.row(table, seq, "the sequence stands twice: it was put in");
                } else {
                    self.other(seq, table, kind)?;
                }
            }
            self.seq = seq;
            if let Some(link) = links.remove(&seq) {
                if let Some(first) = missing.take() {
                    self.fault_here(Fault::Missing { first, last: seq });
                }
                self.link(seq, link);
            }
            self.reached(seq);
        }
        if let Some(first) = missing {
            self.fault_here(Fault::Missing { first, last: to });
        }
        Ok(())
    }

    /// An event: its bytes go into the chain, and what serves to find it must agree with them.
    fn event(&mut self, seq: i64, row: Option<EventRow>) -> rusqlite::Result<()> {
        let Some(row) = row else {
            self.row("event", seq, "it cannot be read");
            return Ok(());
        };
        self.within_stretch(&row);
        let mut line = std::mem::take(&mut self.line);
        let read = (|| {
            self.lines.put_together(self.db, &row, &mut line)?;
            Ok((self.lines.source(self.db, &row)?, self.lines.received_nano(self.db, &row)?))
        })();
        match odd(read)? {
            Some((source, received_nano)) => {
                let digest: Hash = Sha256::digest(&line).into();
                let marked = match self.shapes.get(&row.shape) {
                    Some(said) => said.marked,
                    None => odd(Said::read(self.db, row.shape))?.is_some_and(|said| said.marked),
                };
                let (received, fields) = (received_nano.to_le_bytes(), if marked { 3 } else { 2 });
                self.chained(Kind::Event, seq, source, &[&received[..], &digest, MARK][..fields]);
                if let Some(Source { found, .. }) = self.sources.get_mut(&source) {
                    found.events += 1;
                    found.first_nano = Some(found.first_nano.map_or(row.time_nano, |first| first.min(row.time_nano)));
                    found.last_nano = Some(found.last_nano.map_or(row.time_nano, |last| last.max(row.time_nano)));
                }
                if let Some(what) =
                    odd(self.disagrees(&row, &line))?.unwrap_or(Some("it refers to rows that are not there".into()))
                {
                    self.row("event", seq, what);
                }
            }
            None => self.row("event", seq, "it refers to rows that are not there"),
        }
        self.line = line;
        Ok(())
    }

    /// What of that which serves to find an event does not agree with its bytes.
    fn disagrees(&mut self, row: &EventRow, line: &[u8]) -> rusqlite::Result<Option<String>> {
        let (said, known) = match self.shapes.remove(&row.shape) {
            Some(said) => (said, true),
            None => (Said::read(self.db, row.shape)?, false),
        };
        let known_actor = self.actors.contains(&row.actor);
        let (whole, exec) = (said.whole, said.exec);
        let mut wrong = (exec != row.has_exec_id()).then_some("exec");
        if !(whole && known && known_actor) {
            let Ok(event) = Event::parse(line) else { return Ok(Some("it is no event".into())) };
            let said_of = (said.kind == event.kind, said.action == event.action, said.scope == event.scope);
            wrong = wrong.or(match said_of {
                (false, ..) => Some("type"),
                (_, false, _) => Some("action"),
                (.., false) => Some("scope"),
                _ => None,
            });
            let stay = event.attributes.iter().filter(|(key, _)| !varies(key));
            let actor = Actor::new(&event.actor_id, stay.map(|(key, value)| (&**key, &**value)));
            if *self.lines.actor(self.db, row.actor)?.1 != actor {
                wrong = wrong.or(Some("actor"));
            }
            if row.time_nano != event.time_nano {
                wrong = wrong.or(Some("time_nano"));
            }
        }
        self.shapes.insert(row.shape, said);
        if wrong.is_none() {
            self.actors.insert(row.actor);
        }
        Ok(wrong.map(|column| format!("its {column} does not agree with its own bytes")))
    }

    /// The stretch that an event is in must span it.
    fn within_stretch(&mut self, row: &EventRow) {
        while self.span.stretch.as_ref().is_none_or(|stretch| stretch.last_seq < row.seq) {
            self.end_of_stretch();
            match self.stretches.pop_front() {
                Some(stretch) => self.span.stretch = Some(stretch),
                None => break,
            }
        }
        let Some(stretch) = self.span.stretch.as_ref().filter(|stretch| stretch.first_seq <= row.seq) else {
            return self.row("event", row.seq, "no stretch holds it");
        };
        let first = stretch.first_seq;
        if !(stretch.min_nano..=stretch.max_nano).contains(&row.time_nano) {
            self.row("stretch", first, format!("it does not span the instant of event {}", row.seq));
        }
        self.span.events += 1;
        self.span.shapes.insert(row.shape);
    }

    fn end_of_stretch(&mut self) {
        let Span { stretch: Some(stretch), events, shapes } = std::mem::take(&mut self.span) else { return };
        let row = stretch.first_seq;
        if events != stretch.events {
            self.row(
                "stretch",
                row,
                format!("it says that it holds {} events, and there are {events}", stretch.events),
            );
        }
        let told: rusqlite::Result<Option<String>> =
            self.db.query_row("SELECT shapes FROM stretch WHERE first_seq = ?1", [row], |row| row.get(0));
        if let Ok(Some(told)) = told
            && !shapes.is_subset(&ids(&told).collect())
        {
            self.row("stretch", row, "it does not tell of all shapes in it");
        }
    }

    /// What is no event: a gap, a rejected line, a name, a health check.
    fn other(&mut self, seq: i64, table: &'static str, kind: Kind) -> rusqlite::Result<()> {
        let db = self.db;
        let columns = match kind {
            Kind::Event => return Ok(()),
            Kind::Gap => "source, from_nano, to_nano, reason, detail",
            Kind::Rejected => "source, received_nano, error, bytes",
            Kind::Naming => "source, name",
            Kind::Seal => "0, upto, hash, events, sealed_nano",
            Kind::Healthcheck => "source, container, command",
        };
        let entry = |row: &Row<'_>| -> rusqlite::Result<(i64, Vec<Vec<u8>>)> {
            let text = |at: usize| row.get::<_, Option<String>>(at);
            let fields = match kind {
                Kind::Event => Vec::new(),
                Kind::Gap => {
                    let fields =
                        chain::gap_fields((row.get(1)?, row.get(2)?), text(3)?.as_deref(), text(4)?.as_deref());
                    fields.into()
                }
                Kind::Rejected => {
                    let received: i64 = row.get(1)?;
                    vec![received.to_le_bytes().into(), row.get::<_, String>(2)?.into(), row.get(3)?]
                }
                Kind::Naming => vec![row.get::<_, String>(1)?.into()],
                Kind::Healthcheck => vec![row.get::<_, String>(1)?.into(), row.get::<_, String>(2)?.into()],
                Kind::Seal => {
                    let upto = Head { seq: row.get(1)?, hash: row.get(2)? };
                    chain::seal_fields(upto, row.get(3)?, row.get(4)?).into()
                }
            };
            Ok((row.get(0)?, fields))
        };
        let read = db
            .prepare_cached(&format!("SELECT {columns} FROM {table} WHERE seq = ?1"))
            .and_then(|mut statement| statement.query_row([seq], entry));
        let Some((source, fields)) = odd(read)? else {
            self.row(table, seq, "it cannot be read");
            return Ok(());
        };
        if kind == Kind::Gap {
            // In the chain an empty text is the same as none, so the program stores none.
            let empty = db
                .prepare_cached("SELECT 1 FROM gap WHERE seq = ?1 AND (reason = '' OR detail = '')")?
                .exists([seq])?;
            if empty {
                self.row(table, seq, "it was changed");
            }
        }
        if let Some(Source { found, .. }) = self.sources.get_mut(&source) {
            match kind {
                Kind::Naming => found.name = Some(String::from_utf8_lossy(&fields[0]).into_owned()),
                Kind::Rejected => found.rejected += 1,
                Kind::Event | Kind::Gap | Kind::Seal | Kind::Healthcheck => {}
            }
        }
        let fields: Vec<&[u8]> = fields.iter().map(|field| &field[..]).collect();
        self.chained(kind, seq, source, &fields);
        Ok(())
    }

    /// Appends an entry to the chain that is recomputed.
    fn chained(&mut self, kind: Kind, seq: i64, source: i64, fields: &[&[u8]]) {
        let name = self.sources.get(&source).map_or("", |source| source.told.chain_name());
        let entry = Entry { kind, seq, source: name, fields };
        self.hash = chain::link(&self.hash, entry);
        if let Some(doubt) = &mut self.doubt {
            doubt.hash = chain::link(&doubt.hash, entry);
        }
        self.entries += 1;
    }

    /// A link that is stored: does it hold?
    fn link(&mut self, seq: i64, stored: Option<Hash>) {
        let first = self.linked + 1;
        self.linked = seq;
        let named = std::mem::take(&mut self.named);
        let Some(stored) = stored else {
            return self.fault(Fault::Row { table: "link", row: seq, what: "it is no hash".into() });
        };
        let computed = std::mem::replace(&mut self.hash, stored);
        if let Some(doubt) = self.doubt.take() {
            if computed != stored && doubt.hash == stored {
                return self.fault(Fault::Row { table: "link", row: doubt.last, what: "it was changed".into() });
            }
            self.fault(Fault::Changed { first: doubt.first, last: doubt.last });
        }
        if computed != stored && !named {
            self.doubt = Some(Doubt { first, last: seq, hash: computed });
        }
    }

    fn settle_doubt(&mut self) {
        if let Some(Doubt { first, last, .. }) = self.doubt.take() {
            self.fault(Fault::Changed { first, last });
        }
    }

    /// A place in the chain is reached: heads that were noted there must be its own.
    fn reached(&mut self, seq: i64) {
        let here = self.hash;
        for hash in self.noted.remove(&seq).into_iter().flatten().filter(|noted| *noted != here) {
            let found = Some(here);
            self.fault(Fault::NotTheHead { noted: Head { seq, hash }, found });
        }
    }

    /// What a source's row repeats must be so.
    fn sources_are_told_right(&mut self) {
        for (id, Source { told, found }) in std::mem::take(&mut self.sources) {
            // Past a limit rejected lines are only counted.
            let rejected = told.rejected.min(found.rejected);
            let SourceRow { name, events, first_nano, last_nano, .. } = told;
            let told = Told { name: Some(name), events, rejected, first_nano, last_nano };
            if told.name != found.name {
                let was = found.name.unwrap_or_default();
                self.row(
                    "source",
                    id,
                    format!("it is called '{}', and was named '{was}'", told.name.unwrap_or_default()),
                );
            } else if told != found {
                self.row("source", id, "it does not tell of its events and rejected lines as they are");
            }
        }
    }
}

impl Said {
    fn read(db: &Connection, shape: i64) -> rusqlite::Result<Said> {
        let mut statement = db.prepare_cached(
            "SELECT type, action, scope, exec, form.text FROM shape LEFT JOIN form ON form.id = shape.form WHERE shape.id = ?1",
        )?;
        statement.query_row([shape], |row| {
            let form: Option<String> = row.get(4)?;
            Ok(Said {
                kind: row.get(0)?,
                action: row.get(1)?,
                scope: row.get(2)?,
                exec: row.get(3)?,
                marked: row.get::<_, i64>(3)? == EXEC_OF_HEALTHCHECK,
                whole: form.is_some_and(|form| Form::read(&form).is_whole()),
            })
        })
    }
}

/// Everything that is in the chain.
const TABLES: [(&str, Kind); 6] = [
    ("event", Kind::Event),
    ("gap", Kind::Gap),
    ("rejected", Kind::Rejected),
    ("naming", Kind::Naming),
    ("seal", Kind::Seal),
    ("healthcheck", Kind::Healthcheck),
];

/// The next event's sequence, and its row if it can be read.
fn next_event(rows: &mut Rows<'_>) -> rusqlite::Result<Option<(i64, Option<EventRow>)>> {
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some((row.get(0)?, odd(EventRow::read(row))?)))
}

/// A value that cannot be read because it is not what was stored there; any other error is one of the file.
fn odd<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match read {
        Err(e @ rusqlite::Error::SqliteFailure(..)) => Err(e),
        other => Ok(other.ok()),
    }
}
