//! The one writer: takes deliveries from the queue and commits them in groups.
//!
//! A delivery is never split between two commits, so what must appear together (a gap and the first events after it)
//! goes into one. A commit is on the disk before it counts (`synchronous=FULL`). A commit that fails is tried again
//! until it succeeds: meanwhile the deliveries wait in memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::chain::Kind;
use super::counters::{Commit, Part};
use super::file::sqlite;
use super::keep::{self, Keep, Keeper, Step};
use super::lines::{COLUMNS, EventRow, Lines};
use super::prune;
use super::recent::Recent;
use super::rows::{Inserts, Rows, TOGETHER};
use super::{Queue, Reason, Store, StoreError};
use crate::error::chain;
use crate::event::{Event, Events, Identity, REDACTED, is_redacted, may_be_same};

/// How many events one commit takes at most, unless one delivery alone has more.
const GROUP: usize = 10_000;

/// Small commits begin no sooner after one another, lest a busy stream wears out the disk. What comes alone is committed
/// at once.
const BETWEEN: Duration = Duration::from_millis(25);

/// How long a writer that is closing or attended tries.
const LAST_TRY: Duration = Duration::from_secs(30);

/// Names a source; the same engine is the same source wherever it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey {
    /// The engine's own ID; `None` for imports, which are told apart by name.
    pub engine_id: Option<String>,
    /// What to call it: an engine's own name, or one that a user gave. If another source has it, it is told apart by
    /// the beginning of the ID, and an import by `-imported`.
    pub name: String,
    /// Whether to call it so from now on even if it has a name already.
    pub renamed: bool,
    /// Where it is reached now; `None` where that is not known, and what is known stays.
    pub host: Option<String>,
}

/// What one reading brought from one source.
#[derive(Debug)]
pub struct Delivery {
    /// Where it came from.
    pub source: Arc<SourceKey>,
    /// When it was read, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// When each of the events was read, in their order, where that was not at one instant.
    pub each_received_nano: Vec<i64>,
    /// Events that were told before: they are stored if they are not, unless they were let go of.
    pub again: Events,
    /// Events behind those; the ones that are stored already are dropped.
    pub events: Events,
    /// How many of them the stream had left out.
    pub healed: u64,
    /// What was no event.
    pub rejected: Vec<Rejection>,
    /// The last event seen, stored or not, if that has changed.
    pub last_seen: Option<Identity>,
    /// What has become known of a gap; stored before the events.
    pub gap: Option<GapChange>,
    /// Whether the source was reached anew.
    pub contacted: bool,
    /// How far the source's clock is ahead of ours, if it was asked, in nanoseconds.
    pub skew_nano: Option<i64>,
    /// What the source says of itself on `/version`, as JSON, if it was asked.
    pub version: Option<String>,
    /// The containers the source has now, as a JSON array, if it was asked.
    pub containers: Option<String>,
    /// Containers that were seen, each with the command that checks its health, as exec events repeat it; empty: none.
    pub healthchecks: Vec<(String, String)>,
    /// How many events of health checks were left out.
    pub left_out: u64,
}

impl Delivery {
    /// One that says nothing yet.
    pub fn new(source: Arc<SourceKey>, received_nano: i64) -> Self {
        Delivery {
            source,
            received_nano,
            each_received_nano: Vec::new(),
            again: Events::default(),
            events: Events::default(),
            healed: 0,
            rejected: Vec::new(),
            last_seen: None,
            gap: None,
            contacted: false,
            skew_nano: None,
            version: None,
            containers: None,
            healthchecks: Vec::new(),
            left_out: 0,
        }
    }

    /// What it costs to keep, in bytes.
    pub fn bytes(&self) -> usize {
        let rejected: usize = self.rejected.iter().map(|r| r.bytes.len() + r.error.len() + 48).sum();
        let noted: usize = self.healthchecks.iter().map(|(id, command)| id.len() + command.len() + 48).sum();
        let containers = self.containers.as_ref().map_or(0, String::len);
        let events = self.again.size() + self.events.size() + self.each_received_nano.len() * size_of::<i64>();
        size_of::<Self>() + events + rejected + noted + containers
    }

    /// How many events there are in it.
    pub fn len(&self) -> usize {
        self.again.len() + self.events.len()
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
            && self.healed == 0
            && self.rejected.is_empty()
            && self.last_seen.is_none()
            && self.gap.is_none()
            && self.skew_nano.is_none()
            && self.version.is_none()
            && self.containers.is_none()
            && self.healthchecks.is_empty()
            && self.left_out == 0
    }
}

/// Bytes that are no event.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// The bytes, cut to what is kept.
    pub bytes: Box<[u8]>,
    /// What is wrong with them.
    pub error: String,
}

impl Rejection {
    /// The same without its bytes, where they may hold what must not be stored.
    #[must_use]
    pub fn redacted(self) -> Rejection {
        Rejection { bytes: REDACTED.as_bytes().into(), ..self }
    }
}

/// A gap begins behind the last instant seen, so that instant (or its absence) names it: what is found out later
/// about the blindness behind the same instant changes the same gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GapChange {
    /// The record is blind from this instant on; to when, if it is known.
    Blind {
        /// The last instant seen.
        from: Option<i64>,
        /// The end of it; `None` while it lasts.
        to: Option<i64>,
        /// Why.
        reason: Reason,
        /// More, for a person.
        detail: Option<String>,
    },
    /// It has turned out that nothing was missed behind this instant.
    Withdrawn {
        /// The last instant seen.
        from: Option<i64>,
    },
}

/// What was made of deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Events stored.
    pub events: u64,
    /// Events dropped because they were there already.
    pub known: u64,
    /// Events dropped because they are older than what is kept.
    pub old: u64,
    /// Rejected lines stored.
    pub rejected: u64,
}

impl std::ops::AddAssign for Stored {
    fn add_assign(&mut self, more: Stored) {
        self.events += more.events;
        self.known += more.known;
        self.old += more.old;
        self.rejected += more.rejected;
    }
}

/// How a writer ended.
#[derive(Debug)]
pub struct Outcome {
    /// All it stored.
    pub stored: Stored,
    /// What it could not store, if anything.
    pub failed: Option<WriteFailed>,
}

/// The writer was to end and could not store what it still had.
#[derive(Debug, thiserror::Error)]
#[error("{events} events could not be stored")]
pub struct WriteFailed {
    /// How many.
    pub events: usize,
    /// Why.
    pub source: StoreError,
}

/// How many rejected lines of a source are kept unless told otherwise.
pub const REJECTED_ROWS: u64 = 10_000;

/// How much is stored and kept; by default all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many rejected lines of a source; more are only counted.
    pub rejected: u64,
    /// How much stays.
    pub keep: Keep,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { rejected: u64::MAX, keep: Keep::default() }
    }
}

/// Starts the thread that stores what comes down the queue, until the queue is closed and empty; and lets go of what is
/// not kept.
pub fn spawn_writer(store: Store, queue: Arc<Queue>, limits: Limits) -> JoinHandle<Outcome> {
    std::thread::Builder::new()
        .name("writer".into())
        .spawn(move || run(Writer::new(store, limits), &queue))
        .expect("the system starts a thread")
}

fn run(mut writer: Writer, queue: &Queue) -> Outcome {
    let outcome = write(&mut writer, queue);
    writer.store.close();
    outcome
}

fn write(writer: &mut Writer, queue: &Queue) -> Outcome {
    let mut total = Stored::default();
    let mut next = Instant::now();
    while let Some(deliveries) = queue.take(GROUP, next, writer.keeper.as_ref().map(Keeper::next)) {
        if deliveries.is_empty() {
            writer.let_go(queue);
            continue;
        }
        next = Instant::now() + BETWEEN;
        let stored = match writer.store(&deliveries, queue) {
            Ok(stored) => stored,
            Err(e) => match persist(writer, &deliveries, queue, e) {
                Ok(stored) => stored,
                Err(source) => {
                    queue.close();
                    let failed = Some(WriteFailed { events: queue.buffered(), source });
                    return Outcome { stored: total, failed };
                }
            },
        };
        total += stored;
        queue.stored(&deliveries, writer.rows.head());
        writer.let_go(queue);
    }
    Outcome { stored: total, failed: None }
}

/// Tries again until it works or, when the queue is closing or attended, until there is no time left.
fn persist(
    writer: &mut Writer,
    deliveries: &[Delivery],
    queue: &Queue,
    mut error: StoreError,
) -> Result<Stored, StoreError> {
    let path = writer.store.path().display().to_string();
    tracing::error!("{}; what is read waits in memory and is tried again", chain(&error));
    let mut wait = Duration::from_millis(50);
    let mut closing: Option<Instant> = None;
    loop {
        if queue.gives_up() && closing.get_or_insert_with(Instant::now).elapsed() > LAST_TRY {
            return Err(error);
        }
        queue.trying_again();
        std::thread::sleep(wait);
        wait = (wait * 2).min(Duration::from_secs(1));
        match writer.store(deliveries, queue) {
            Ok(stored) => {
                tracing::info!("{path} can be written again; nothing was lost");
                return Ok(stored);
            }
            Err(e) => error = e,
        }
    }
}

/// How many instants are remembered at which events of a source are stored.
const INSTANTS: usize = 64;

/// What the writer knows of a source between commits.
#[derive(Debug)]
struct Source {
    id: i64,
    /// What the hash chain calls it: the engine's own ID, or the name of an import.
    chain_name: String,
    /// What the store calls it.
    name: String,
    /// As it was called and where it was reached when it was last looked at.
    key: Arc<SourceKey>,
    /// No event later than this is stored: a later one is new without looking.
    newest: i64,
    /// Where something was pruned: what is older than this and was told before was let go of.
    let_go: Option<i64>,
    /// How many rejected lines are kept of it.
    rejected: u64,
    /// What is stored at an instant, for those looked at last.
    at: Recent<i64, AtInstant>,
}

/// The events of a source that are stored at one instant.
#[derive(Debug, Default)]
struct AtInstant {
    digests: HashSet<[u8; 16]>,
    /// Whether something was taken out of any of them.
    redacted: bool,
}

impl AtInstant {
    fn add(&mut self, digest: [u8; 16], redacted: bool) {
        self.digests.insert(digest);
        self.redacted |= redacted;
    }
}

struct Writer {
    store: Store,
    /// By what makes a source the same one: whether it is an engine, and its ID or its name.
    sources: HashMap<(bool, String), Source>,
    rows: Rows,
    lines: Lines,
    limits: Limits,
    /// Lets go of what is not kept.
    keeper: Option<Keeper>,
    /// Changes when another connection has written: then what is remembered of where things end no longer holds.
    data_version: i64,
}

impl Writer {
    fn new(store: Store, limits: Limits) -> Self {
        Writer {
            keeper: Keeper::new(limits.keep, store.path().into()),
            store,
            sources: HashMap::new(),
            rows: Rows::new(),
            lines: Lines::new(),
            limits,
            data_version: -1,
        }
    }

    /// One commit.
    fn store(&mut self, deliveries: &[Delivery], queue: &Queue) -> Result<Stored, StoreError> {
        let mut commit = queue.counters().map(|_| Commit::default());
        let stored = self.transact(|writing| writing.all(deliveries, commit.as_mut()));
        let stored = stored.map_err(sqlite("write", self.store.path()))?;
        if let Some((counters, commit)) = queue.counters().zip(commit) {
            counters.add(commit);
        }
        Ok(stored)
    }

    /// A little of what is not kept goes, if it is time for that. What waits to be stored does not wait for long.
    fn let_go(&mut self, queue: &Queue) {
        let Some(mut keeper) = self.keeper.take() else { return };
        if keeper.next() <= Instant::now() && !queue.is_closed() && !keeper.must_wait() {
            match self.transact(|writing| keeper.step(writing.db, writing.rows)) {
                Ok(step) => {
                    if let Step::Pruned(_) = step {
                        self.sources.clear();
                    }
                    keeper.done(&step);
                    if let Err(e) = keeper.settle(&self.store.connection, &step) {
                        keeper.failed(&sqlite("write", self.store.path())(e));
                    }
                }
                Err(e) => keeper.failed(&sqlite("prune", self.store.path())(e)),
            }
        }
        self.keeper = Some(keeper);
    }

    /// One transaction; after one that fails nothing is remembered.
    fn transact<T>(&mut self, work: impl FnOnce(&mut Writing<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let result = self.try_transact(work);
        if result.is_err() {
            self.sources.clear();
            self.rows.forget();
            self.lines.forget();
        }
        result
    }

    fn try_transact<T>(&mut self, work: impl FnOnce(&mut Writing<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let Writer { store, sources, rows, lines, limits, data_version, .. } = self;
        let transaction = store.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version = transaction.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if version != *data_version {
            sources.clear();
            rows.others_wrote();
            lines.forget();
            *data_version = version;
        }
        rows.begin(&transaction)?;
        let done = work(&mut Writing { db: &transaction, sources, rows, lines, limits })?;
        transaction.commit()?;
        Ok(done)
    }
}

/// A transaction of the writer.
struct Writing<'a> {
    db: &'a Connection,
    sources: &'a mut HashMap<(bool, String), Source>,
    rows: &'a mut Rows,
    lines: &'a mut Lines,
    limits: &'a Limits,
}

impl Writing<'_> {
    fn all(&mut self, deliveries: &[Delivery], mut commit: Option<&mut Commit>) -> rusqlite::Result<Stored> {
        let Writing { db, sources, rows, lines, limits } = self;
        let db = *db;
        let oldest_kept = limits.keep.oldest(keep::now_nano());
        let mut inserts = Inserts::prepare(db)?;
        let mut stored = Stored::default();
        for delivery in deliveries {
            let key = &delivery.source;
            let same = (key.engine_id.is_some(), key.engine_id.as_ref().unwrap_or(&key.name).clone());
            let known = sources.remove(&same).filter(|known| known.key == *key);
            let source = known.map_or_else(|| find_or_add(db, rows, key), Ok)?;
            let source = sources.entry(same).or_insert(source);
            let counted = commit.as_mut().map(|commit| commit.of(source.id, &source.name, key.engine_id.as_deref()));
            let mut adding = Adding {
                db,
                inserts: &mut inserts,
                rows,
                lines,
                source,
                delivery,
                oldest_kept,
                rejected_limit: limits.rejected,
                counted,
            };
            adding.gap()?;
            adding.all(&mut stored)?;
        }
        drop(inserts);
        rows.finish(db)?;
        Ok(stored)
    }
}

fn find_or_add(db: &Connection, rows: &mut Rows, key: &Arc<SourceKey>) -> rusqlite::Result<Source> {
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let found: Option<(i64, String, Option<i64>, Option<i64>)> = match &key.engine_id {
        Some(engine) => db
            .prepare_cached("SELECT id, name, first_nano, last_nano FROM source WHERE engine_id = ?1")?
            .query_row([engine], row)
            .optional()?,
        None => db
            .prepare_cached(
                "SELECT id, name, first_nano, last_nano FROM source WHERE engine_id IS NULL AND name IN (?1, ?2)
                 ORDER BY name",
            )?
            .query_row([&key.name, &imported(&key.name)], row)
            .optional()?,
    };
    let chain_name = |name: &str| key.engine_id.as_deref().unwrap_or(name).to_owned();
    let (id, name, oldest, newest) =
        match found {
            Some((id, mut name, oldest, newest)) => {
                if let Some(host) = &key.host {
                    db.prepare_cached("UPDATE source SET host = ?2 WHERE id = ?1 AND host IS NOT ?2")?
                        .execute(params![id, host])?;
                }
                if key.renamed {
                    name = free_name(db, key, id)?;
                    let renamed = db
                        .prepare_cached("UPDATE source SET name = ?2 WHERE id = ?1 AND name <> ?2")?
                        .execute(params![id, name])?;
                    if renamed > 0 {
                        rows.add_naming(db, (id, &chain_name(&name)), &name)?;
                    }
                }
                (id, name, oldest, newest)
            }
            None => {
                let name = free_name(db, key, 0)?;
                db.prepare_cached("INSERT INTO source (engine_id, name, host) VALUES (?1, ?2, ?3)")?
                    .execute(params![key.engine_id, name, key.host])?;
                let id = db.last_insert_rowid();
                rows.add_naming(db, (id, &chain_name(&name)), &name)?;
                (id, name, None, None)
            }
        };
    Ok(Source {
        id,
        chain_name: chain_name(&name),
        key: key.clone(),
        newest: newest.unwrap_or(i64::MIN),
        let_go: prune::sealed(db)?.map(|_| oldest.unwrap_or(i64::MAX)),
        rejected: db
            .prepare_cached("SELECT count(*) FROM rejected WHERE source = ?1")?
            .query_row([id], |row| row.get(0))?,
        at: Recent::new(INSTANTS),
        name,
    })
}

/// The name of a source: its own, or one with the beginning of its ID if another source than `id` has that.
fn free_name(db: &Connection, key: &SourceKey, id: i64) -> rusqlite::Result<String> {
    let base = if key.name.is_empty() { "engine" } else { &key.name };
    let mut taken = db.prepare_cached("SELECT 1 FROM source WHERE name = ?1 AND id <> ?2")?;
    let Some(engine_id) = &key.engine_id else {
        return Ok(if taken.exists(params![base, id])? { imported(base) } else { base.to_owned() });
    };
    let digits: String = engine_id.chars().filter(char::is_ascii_alphanumeric).collect();
    let candidates = [base.to_owned(), format!("{base}-{digits:.8}"), format!("{base}-{digits}")];
    for name in candidates {
        if !taken.exists(params![name, id])? {
            return Ok(name);
        }
    }
    Ok(format!("{base}-{engine_id}"))
}

/// What an import is called whose name an engine has.
fn imported(name: &str) -> String {
    format!("{name}-imported")
}

/// One delivery on its way into the tables.
struct Adding<'a, 'db> {
    db: &'db Connection,
    inserts: &'a mut Inserts<'db>,
    rows: &'a mut Rows,
    lines: &'a mut Lines,
    source: &'a mut Source,
    delivery: &'a Delivery,
    oldest_kept: i64,
    rejected_limit: u64,
    counted: Option<&'a mut Part>,
}

impl Adding<'_, '_> {
    fn all(&mut self, stored: &mut Stored) -> rusqlite::Result<()> {
        let (mut added, mut first, known) = (0u64, i64::MAX, stored.known);
        let Delivery { received_nano, each_received_nano, .. } = self.delivery;
        let together = each_received_nano.is_empty() && self.delivery.len() >= TOGETHER;
        if together {
            self.rows.together(self.db, *received_nano)?;
        }
        let mut each_received = each_received_nano.iter();
        let lists = [(&self.delivery.again, true), (&self.delivery.events, false)].into_iter();
        let all = lists.flat_map(|(list, again)| list.iter().zip(list.marks()).map(move |event| (event, again)));
        for (((event, digest), marked), again) in all {
            let received = *each_received.next().unwrap_or(received_nano);
            let let_go = again && self.source.let_go.is_some_and(|oldest| event.time_nano < oldest);
            if let_go || event.time_nano < self.oldest_kept {
                stored.old += 1;
                continue;
            }
            if event.time_nano <= self.source.newest && !self.is_new(&event)? {
                stored.known += 1;
                continue;
            }
            let shape = self.rows.add(
                (self.db, self.inserts),
                (self.source.id, &self.source.chain_name),
                (&event, digest, marked),
                received,
                together,
            )?;
            if let Some(counted) = &mut self.counted {
                counted.stores(shape, &event);
            }
            added += 1;
            first = first.min(event.time_nano);
            self.source.newest = self.source.newest.max(event.time_nano);
        }
        for rejection in &self.delivery.rejected {
            self.reject(rejection)?;
        }
        let rejected = self.delivery.rejected.len() as u64;
        if added > 0 || rejected > 0 {
            self.db
                .prepare_cached(
                    "UPDATE source SET events = events + ?2, rejected = rejected + ?3,
                        first_nano = iif(?2 > 0, min(ifnull(first_nano, ?4), ?4), first_nano),
                        last_nano = iif(?2 > 0, max(ifnull(last_nano, ?5), ?5), last_nano)
                     WHERE id = ?1",
                )?
                .execute(params![self.source.id, added, rejected, first, self.source.newest])?;
        }
        if self.delivery.contacted {
            self.db
                .prepare_cached("UPDATE source SET contacted_nano = ?2 WHERE id = ?1")?
                .execute(params![self.source.id, self.delivery.received_nano])?;
        }
        if let Some(skew) = self.delivery.skew_nano {
            self.db
                .prepare_cached("UPDATE source SET skew_nano = ?2 WHERE id = ?1")?
                .execute(params![self.source.id, skew])?;
        }
        if let Some(version) = &self.delivery.version {
            self.db
                .prepare_cached("UPDATE source SET version = ?2 WHERE id = ?1 AND version IS NOT ?2")?
                .execute(params![self.source.id, version])?;
        }
        if let Some(containers) = &self.delivery.containers {
            self.db
                .prepare_cached("INSERT OR REPLACE INTO snapshot (source, taken_nano, containers) VALUES (?1, ?2, ?3)")?
                .execute(params![self.source.id, self.delivery.received_nano, containers])?;
        }
        for (container, command) in &self.delivery.healthchecks {
            self.healthcheck(container, command)?;
        }
        if self.delivery.left_out > 0 {
            self.db
                .prepare_cached("UPDATE source SET healthchecks_left_out = healthchecks_left_out + ?2 WHERE id = ?1")?
                .execute(params![self.source.id, self.delivery.left_out])?;
        }
        if let Some(seen) = self.delivery.last_seen {
            self.db
                .prepare_cached("UPDATE source SET seen_nano = ?2, seen_digest = ?3 WHERE id = ?1")?
                .execute(params![self.source.id, seen.time_nano, seen.digest])?;
        }
        stored.events += added;
        stored.rejected += rejected;
        if let Some(counted) = &mut self.counted {
            counted.known += stored.known - known;
            counted.healed += self.delivery.healed;
            counted.left_out += self.delivery.left_out;
            counted.rejected += rejected;
        }
        Ok(())
    }

    /// How a container checks its health, which never changes; nothing is stored that is known already.
    fn healthcheck(&mut self, container: &str, command: &str) -> rusqlite::Result<()> {
        let known = self
            .db
            .prepare_cached("SELECT 1 FROM healthcheck WHERE source = ?1 AND container = ?2 AND command = ?3")?
            .exists(params![self.source.id, container, command])?;
        if known {
            return Ok(());
        }
        self.rows.add_healthcheck(self.db, (self.source.id, &self.source.chain_name), container, command)
    }

    /// Whether no event of this source like this one is stored; it then counts as stored.
    fn is_new(&mut self, event: &Event<'_>) -> rusqlite::Result<bool> {
        if self.source.at.get(&event.time_nano).is_none() {
            let mut at = AtInstant::default();
            self.each_at(event.time_nano, |stored| at.add(stored.identity().digest, is_redacted(stored)))?;
            self.source.at.insert(event.time_nano, at);
        }
        let at = self.source.at.get_mut(&event.time_nano).expect("it is there or was put there");
        let (alone, digest, redacted) = (at.digests.is_empty(), event.identity().digest, is_redacted(event));
        if at.digests.contains(&digest) {
            return Ok(false);
        }
        if !alone && (at.redacted || redacted) {
            // Something may have been taken out of one of them that was not taken out of the other.
            let mut known = false;
            self.each_at(event.time_nano, |stored| known |= may_be_same(stored, event))?;
            if known {
                return Ok(false);
            }
        }
        let at = self.source.at.get_mut(&event.time_nano).expect("it was there");
        at.add(digest, redacted);
        Ok(true)
    }

    /// Calls `each` with what is stored of this source at an instant.
    fn each_at(&mut self, time_nano: i64, mut each: impl FnMut(&Event<'_>)) -> rusqlite::Result<()> {
        let mut line = Vec::new();
        for seq in self.rows.stretches.at_instant(self.db, time_nano)? {
            let row = self
                .db
                .prepare_cached(&format!("SELECT {COLUMNS} FROM event WHERE seq = ?1"))?
                .query_row([seq], EventRow::read)?;
            if self.lines.source(self.db, &row)? == self.source.id {
                self.lines.put_together(self.db, &row, &mut line)?;
                if let Ok(stored) = Event::parse(&line) {
                    each(&stored);
                }
            }
        }
        Ok(())
    }

    fn reject(&mut self, rejection: &Rejection) -> rusqlite::Result<()> {
        if self.source.rejected >= self.rejected_limit {
            return Ok(());
        }
        self.source.rejected += 1;
        let received = self.delivery.received_nano;
        let fields = [&received.to_le_bytes()[..], rejection.error.as_bytes(), &rejection.bytes];
        let seq = self.rows.chained(Kind::Rejected, &self.source.chain_name, &fields);
        self.db
            .prepare_cached(
                "INSERT INTO rejected (seq, source, received_nano, error, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![seq, self.source.id, received, rejection.error, rejection.bytes])?;
        if self.source.rejected == self.rejected_limit {
            let name = &self.delivery.source.name;
            tracing::warn!(
                "{} rejected lines of {name} are kept; from now on they are only counted",
                self.rejected_limit
            );
        }
        Ok(())
    }

    /// What became known of a gap; nothing is stored that is known already.
    fn gap(&mut self) -> rusqlite::Result<()> {
        let Some(change) = &self.delivery.gap else { return Ok(()) };
        let (from, to, reason, detail) = match change {
            GapChange::Withdrawn { from } => (from, &None, None, None),
            GapChange::Blind { from, to, reason, detail } => (from, to, Some(reason.as_str()), detail.as_deref()),
        };
        let known: Option<(Option<i64>, Option<String>, Option<String>)> = self
            .db
            .prepare_cached(
                "SELECT to_nano, reason, detail FROM gap WHERE source = ?1 AND from_nano IS ?2 ORDER BY seq DESC LIMIT 1",
            )?
            .query_row(params![self.source.id, from], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let known = known.unwrap_or_default();
        if (&known.0, known.1.as_deref(), known.2.as_deref()) == (to, reason, detail) {
            return Ok(());
        }
        if let (GapChange::Blind { reason, .. }, Some(counted)) = (change, &mut self.counted)
            && known.1.as_deref() != Some(reason.as_str())
        {
            counted.blind(*reason);
        }
        self.rows.add_gap(self.db, (self.source.id, &self.source.chain_name), (*from, *to), reason, detail)
    }
}
