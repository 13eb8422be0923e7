//! The only writer of events: takes deliveries from the queue and commits them in groups.
//!
//! A delivery is never split between two commits, so a gap and the first events after it are in one. A commit counts
//! once it is on the disk (`synchronous=FULL`). The writer retries a failed commit until it succeeds; until then,
//! deliveries wait in memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::counters::{CommitCounters, SourceDelta};
use super::delivery::{Delivery, GapChange, Rejection, SourceKey};
use super::queue::Queue;
use crate::cache::GenerationalCache;
use crate::error::chain;
use crate::event::{Event, is_redacted, may_be_same};
use crate::store::error::{StoreError, sqlite_error};
use crate::store::format::chain::GapFields;
use crate::store::format::checkpoint;
use crate::store::format::decode::{EVENT_COLUMNS, EventDecoder, EventRow};
use crate::store::format::encode::{EventEncoder, InsertStatements, NewEvent, SHARED_ARRIVAL_MIN_EVENTS};
use crate::store::format::entries::{EntrySource, RejectedLine};
use crate::store::format::store::Store;
use crate::store::maintain::retention::{self, Retainer, Retention, StepOutcome};

/// Maximum number of events in one commit, unless a single delivery has more.
const MAX_COMMIT_EVENTS: usize = 10_000;

/// Minimum time between the starts of small commits, so that a busy stream does not wear out the disk. A delivery that
/// arrives after a pause is committed immediately.
const MIN_COMMIT_INTERVAL: Duration = Duration::from_millis(25);

/// Time for which the writer retries a commit when the queue is closed or interactive.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Result of storing deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Events stored.
    pub events: u64,
    /// Events dropped because they are already stored.
    pub duplicates: u64,
    /// Events dropped because they were pruned before or are older than what is kept.
    pub expired: u64,
    /// Rejected lines stored.
    pub rejected: u64,
}

impl std::ops::AddAssign for WriteStats {
    fn add_assign(&mut self, other: WriteStats) {
        self.events += other.events;
        self.duplicates += other.duplicates;
        self.expired += other.expired;
        self.rejected += other.rejected;
    }
}

/// Final result of a writer.
#[derive(Debug)]
pub struct WriterOutcome {
    /// Everything that the writer stored.
    pub stored: WriteStats,
    /// Error, if the writer could not store the rest.
    pub error: Option<WriteError>,
}

/// The writer stopped before it could store everything.
#[derive(Debug, thiserror::Error)]
#[error("cannot store {events} events")]
pub struct WriteError {
    /// Number of events that are not stored.
    pub events: usize,
    /// Error of the last attempt.
    pub source: StoreError,
}

/// Default number of rejected lines that are stored for each source.
pub const DEFAULT_MAX_REJECTED: u64 = 10_000;

/// Limits of what is stored and kept; unlimited by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of rejected lines stored for each source; more are only counted.
    pub max_rejected: u64,
    /// Retention of events.
    pub retention: Retention,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_rejected: u64::MAX, retention: Retention::default() }
    }
}

/// Starts the writer thread. It stores the deliveries of the queue until the queue is closed and empty, and deletes
/// what exceeds the retention limits.
pub fn spawn_writer(store: Store, queue: Arc<Queue>, limits: Limits) -> JoinHandle<WriterOutcome> {
    std::thread::Builder::new()
        .name("writer".into())
        .spawn(move || run_writer(Writer::new(store, limits), &queue))
        .expect("the system can start a thread")
}

fn run_writer(mut writer: Writer, queue: &Queue) -> WriterOutcome {
    let outcome = write_loop(&mut writer, queue);
    writer.store.close();
    outcome
}

fn write_loop(writer: &mut Writer, queue: &Queue) -> WriterOutcome {
    let mut total = WriteStats::default();
    let mut next_commit_at = Instant::now();
    while let Some(deliveries) =
        queue.take_batch(MAX_COMMIT_EVENTS, next_commit_at, writer.retainer.as_ref().map(Retainer::next_step_at))
    {
        if deliveries.is_empty() {
            writer.apply_retention(queue);
            continue;
        }
        next_commit_at = Instant::now() + MIN_COMMIT_INTERVAL;
        let stored = match writer.store(&deliveries, queue) {
            Ok(stored) => stored,
            Err(e) => match retry_until_stored(writer, &deliveries, queue, e) {
                Ok(stored) => stored,
                Err(source) => {
                    queue.close();
                    let failed = Some(WriteError { events: queue.pending_events(), source });
                    return WriterOutcome { stored: total, error: failed };
                }
            },
        };
        total += stored;
        queue.mark_stored(&deliveries, writer.encoder.chain.head());
        writer.apply_retention(queue);
    }
    WriterOutcome { stored: total, error: None }
}

/// Retries until the commit succeeds. If the queue is closed or interactive, the writer gives up after
/// [`RETRY_TIMEOUT`].
fn retry_until_stored(
    writer: &mut Writer,
    deliveries: &[Delivery],
    queue: &Queue,
    mut error: StoreError,
) -> Result<WriteStats, StoreError> {
    let path = writer.store.path().display().to_string();
    tracing::error!("{}; the writer retries, and unstored data waits in memory", chain(&error));
    let mut delay = Duration::from_millis(50);
    let mut closing_since: Option<Instant> = None;
    loop {
        if queue.has_retry_deadline() && closing_since.get_or_insert_with(Instant::now).elapsed() > RETRY_TIMEOUT {
            return Err(error);
        }
        queue.status().mark_retrying();
        std::thread::sleep(delay);
        delay = (delay * 2).min(Duration::from_secs(1));
        match writer.store(deliveries, queue) {
            Ok(stored) => {
                tracing::info!("{path} can be written again; nothing was lost");
                return Ok(stored);
            }
            Err(e) => error = e,
        }
    }
}

/// Number of instants for which the stored events of a source are cached.
const INSTANT_CACHE_SIZE: usize = 64;

/// State of a source that the writer keeps between commits.
#[derive(Debug)]
struct SourceState {
    id: i64,
    /// Name in the hash chain: the engine's own ID, or the name of an import.
    chain_name: String,
    /// Name in the store.
    name: String,
    /// Key at the time when the source was last looked up.
    key: Arc<SourceKey>,
    /// Time of the newest stored event; a later event is new without a lookup.
    newest_nano: i64,
    /// Time of the oldest stored event if events were pruned; a replayed event before it was pruned.
    pruned_before_nano: Option<i64>,
    /// Number of rejected lines that are stored.
    rejected: u64,
    /// Stored events of the instants that were looked up last.
    events_at: GenerationalCache<i64, InstantEvents>,
}

impl SourceState {
    fn entry_source(&self) -> EntrySource<'_> {
        EntrySource { id: self.id, chain_name: &self.chain_name }
    }
}

/// Stored events of a source at one instant.
#[derive(Debug, Default)]
struct InstantEvents {
    digests: HashSet<[u8; 16]>,
    /// True if a part of one of them was redacted.
    has_redacted: bool,
}

impl InstantEvents {
    fn add(&mut self, digest: [u8; 16], redacted: bool) {
        self.digests.insert(digest);
        self.has_redacted |= redacted;
    }
}

struct Writer {
    store: Store,
    /// Sources by what identifies them: true for an engine, and its ID or its name.
    sources: HashMap<(bool, String), SourceState>,
    encoder: EventEncoder,
    decoder: EventDecoder,
    limits: Limits,
    /// Deletes what exceeds the retention limits.
    retainer: Option<Retainer>,
    /// `PRAGMA data_version`, which changes when another connection has written. The caches are then no longer valid.
    data_version: i64,
}

impl Writer {
    fn new(store: Store, limits: Limits) -> Self {
        Writer {
            retainer: Retainer::new(limits.retention, store.path().into()),
            store,
            sources: HashMap::new(),
            encoder: EventEncoder::new(),
            decoder: EventDecoder::new(),
            limits,
            data_version: -1,
        }
    }

    /// Stores deliveries in one commit.
    fn store(&mut self, deliveries: &[Delivery], queue: &Queue) -> Result<WriteStats, StoreError> {
        let mut commit = queue.counters().map(|_| CommitCounters::default());
        let stored = self.with_transaction(|transaction| transaction.store_deliveries(deliveries, commit.as_mut()));
        let stored = stored.map_err(sqlite_error("write", self.store.path()))?;
        if let Some((counters, commit)) = queue.counters().zip(commit) {
            counters.add(commit);
        }
        Ok(stored)
    }

    /// Deletes a little of what exceeds the retention limits, if it is time for that. Pending deliveries do not wait
    /// long.
    fn apply_retention(&mut self, queue: &Queue) {
        let Some(mut retainer) = self.retainer.take() else { return };
        if retainer.next_step_at() <= Instant::now() && !queue.is_closed() && !retainer.should_wait() {
            match self.with_transaction(|transaction| retainer.step(transaction.db, transaction.encoder)) {
                Ok(outcome) => {
                    if let StepOutcome::Pruned(_) = outcome {
                        self.sources.clear();
                    }
                    retainer.record_step(&outcome);
                    if let Err(e) = retainer.checkpoint_wal(self.store.connection(), &outcome) {
                        retainer.record_failure(&sqlite_error("write", self.store.path())(e));
                    }
                }
                Err(e) => retainer.record_failure(&sqlite_error("prune", self.store.path())(e)),
            }
        }
        self.retainer = Some(retainer);
    }

    /// Runs one transaction. If it fails, all caches are cleared.
    fn with_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let result = self.try_transaction(work);
        if result.is_err() {
            self.sources.clear();
            self.encoder.clear_caches();
            self.decoder.clear_caches();
        }
        result
    }

    fn try_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let Writer { store, sources, encoder, decoder, limits, data_version, .. } = self;
        let transaction = store.connection_mut().transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version = transaction.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if version != *data_version {
            sources.clear();
            encoder.clear_caches();
            decoder.clear_caches();
            *data_version = version;
        }
        encoder.begin(&transaction)?;
        let done = work(&mut WriteTransaction { db: &transaction, sources, encoder, decoder, limits })?;
        transaction.commit()?;
        Ok(done)
    }
}

/// A transaction of the writer.
struct WriteTransaction<'a> {
    db: &'a Connection,
    sources: &'a mut HashMap<(bool, String), SourceState>,
    encoder: &'a mut EventEncoder,
    decoder: &'a mut EventDecoder,
    limits: &'a Limits,
}

impl WriteTransaction<'_> {
    fn store_deliveries(
        &mut self,
        deliveries: &[Delivery],
        mut commit: Option<&mut CommitCounters>,
    ) -> rusqlite::Result<WriteStats> {
        let WriteTransaction { db, sources, encoder, decoder, limits } = self;
        let db = *db;
        let cutoff_nano = limits.retention.cutoff_nano(retention::now_nano());
        let mut inserts = InsertStatements::prepare(db)?;
        let mut stored = WriteStats::default();
        for delivery in deliveries {
            let key = &delivery.source;
            let identity = (key.engine_id.is_some(), key.engine_id.as_ref().unwrap_or(&key.name).clone());
            let cached = sources.remove(&identity).filter(|known| known.key == *key);
            let source = cached.map_or_else(|| find_or_add_source(db, encoder, key), Ok)?;
            let source = sources.entry(identity).or_insert(source);
            let delta = commit.as_mut().map(|commit| commit.source(source.id, &source.name, key.engine_id.as_deref()));
            let mut delivery_writer = DeliveryWriter {
                db,
                inserts: &mut inserts,
                encoder,
                decoder,
                source,
                delivery,
                cutoff_nano,
                max_rejected: limits.max_rejected,
                delta,
            };
            delivery_writer.store_gap()?;
            delivery_writer.store_all(&mut stored)?;
        }
        drop(inserts);
        encoder.finish(db)?;
        Ok(stored)
    }
}

fn find_or_add_source(
    db: &Connection,
    encoder: &mut EventEncoder,
    key: &Arc<SourceKey>,
) -> rusqlite::Result<SourceState> {
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
            .query_row([&key.name, &import_name(&key.name)], row)
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
                if key.overrides_name {
                    name = unique_name(db, key, id)?;
                    let renamed = db
                        .prepare_cached("UPDATE source SET name = ?2 WHERE id = ?1 AND name <> ?2")?
                        .execute(params![id, name])?;
                    if renamed > 0 {
                        encoder.chain.add_naming(db, EntrySource { id, chain_name: &chain_name(&name) }, &name)?;
                    }
                }
                (id, name, oldest, newest)
            }
            None => {
                let name = unique_name(db, key, 0)?;
                db.prepare_cached("INSERT INTO source (engine_id, name, host) VALUES (?1, ?2, ?3)")?
                    .execute(params![key.engine_id, name, key.host])?;
                let id = db.last_insert_rowid();
                encoder.chain.add_naming(db, EntrySource { id, chain_name: &chain_name(&name) }, &name)?;
                (id, name, None, None)
            }
        };
    Ok(SourceState {
        id,
        chain_name: chain_name(&name),
        key: key.clone(),
        newest_nano: newest.unwrap_or(i64::MIN),
        pruned_before_nano: checkpoint::latest(db)?.map(|_| oldest.unwrap_or(i64::MAX)),
        rejected: db
            .prepare_cached("SELECT count(*) FROM rejected WHERE source = ?1")?
            .query_row([id], |row| row.get(0))?,
        events_at: GenerationalCache::new(INSTANT_CACHE_SIZE),
        name,
    })
}

/// Returns the name for a source: its own, or one with the beginning of its ID if a source other than `id` has that.
fn unique_name(db: &Connection, key: &SourceKey, id: i64) -> rusqlite::Result<String> {
    let base = if key.name.is_empty() { "engine" } else { &key.name };
    let mut same_name = db.prepare_cached("SELECT 1 FROM source WHERE name = ?1 AND id <> ?2")?;
    let Some(engine_id) = &key.engine_id else {
        return Ok(if same_name.exists(params![base, id])? { import_name(base) } else { base.to_owned() });
    };
    let digits: String = engine_id.chars().filter(char::is_ascii_alphanumeric).collect();
    let candidates = [base.to_owned(), format!("{base}-{digits:.8}"), format!("{base}-{digits}")];
    for name in candidates {
        if !same_name.exists(params![name, id])? {
            return Ok(name);
        }
    }
    Ok(format!("{base}-{engine_id}"))
}

/// Name of an import if an engine already has the import's own name.
fn import_name(name: &str) -> String {
    format!("{name}-imported")
}

/// Stores one delivery.
struct DeliveryWriter<'a, 'db> {
    db: &'db Connection,
    inserts: &'a mut InsertStatements<'db>,
    encoder: &'a mut EventEncoder,
    decoder: &'a mut EventDecoder,
    source: &'a mut SourceState,
    delivery: &'a Delivery,
    cutoff_nano: i64,
    max_rejected: u64,
    delta: Option<&'a mut SourceDelta>,
}

impl DeliveryWriter<'_, '_> {
    fn store_all(&mut self, stored: &mut WriteStats) -> rusqlite::Result<()> {
        let (mut added, mut first_nano, duplicates_before) = (0u64, i64::MAX, stored.duplicates);
        let Delivery { received_nano, event_received_nanos, .. } = self.delivery;
        let shares_arrival = event_received_nanos.is_empty() && self.delivery.len() >= SHARED_ARRIVAL_MIN_EVENTS;
        if shares_arrival {
            self.encoder.share_arrival(self.db, *received_nano)?;
        }
        let mut received_nanos = event_received_nanos.iter();
        let lists = [(&self.delivery.replayed, true), (&self.delivery.events, false)].into_iter();
        let events = lists.flat_map(|(list, is_replayed)| {
            list.iter().zip(list.healthcheck_flags()).map(move |event| (event, is_replayed))
        });
        for (((event, digest), is_healthcheck), is_replayed) in events {
            let received = *received_nanos.next().unwrap_or(received_nano);
            let was_pruned =
                is_replayed && self.source.pruned_before_nano.is_some_and(|oldest| event.time_nano < oldest);
            if was_pruned || event.time_nano < self.cutoff_nano {
                stored.expired += 1;
                continue;
            }
            if event.time_nano <= self.source.newest_nano && !self.is_new(&event)? {
                stored.duplicates += 1;
                continue;
            }
            let new = NewEvent { event: &event, digest, is_healthcheck, received_nano: received, shares_arrival };
            let kind_id = self.encoder.add_event(self.inserts, self.source.entry_source(), new)?;
            if let Some(delta) = &mut self.delta {
                delta.count_event(kind_id, &event);
            }
            added += 1;
            first_nano = first_nano.min(event.time_nano);
            self.source.newest_nano = self.source.newest_nano.max(event.time_nano);
        }
        for rejection in &self.delivery.rejected {
            self.store_rejection(rejection)?;
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
                .execute(params![self.source.id, added, rejected, first_nano, self.source.newest_nano])?;
        }
        if self.delivery.connected {
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
            self.store_healthcheck(container, command)?;
        }
        if self.delivery.excluded_healthchecks > 0 {
            self.db
                .prepare_cached("UPDATE source SET healthchecks_left_out = healthchecks_left_out + ?2 WHERE id = ?1")?
                .execute(params![self.source.id, self.delivery.excluded_healthchecks])?;
        }
        if let Some(seen) = self.delivery.last_seen {
            self.db
                .prepare_cached("UPDATE source SET seen_nano = ?2, seen_digest = ?3 WHERE id = ?1")?
                .execute(params![self.source.id, seen.time_nano, seen.digest])?;
        }
        stored.events += added;
        stored.rejected += rejected;
        if let Some(delta) = &mut self.delta {
            delta.duplicates += stored.duplicates - duplicates_before;
            delta.recovered += self.delivery.recovered;
            delta.excluded_healthchecks += self.delivery.excluded_healthchecks;
            delta.rejected += rejected;
        }
        Ok(())
    }

    /// Stores the health check command of a container, unless it is stored already. The command of a container never
    /// changes.
    fn store_healthcheck(&mut self, container: &str, command: &str) -> rusqlite::Result<()> {
        let known = self
            .db
            .prepare_cached("SELECT 1 FROM healthcheck WHERE source = ?1 AND container = ?2 AND command = ?3")?
            .exists(params![self.source.id, container, command])?;
        if known {
            return Ok(());
        }
        self.encoder.chain.add_healthcheck(self.db, self.source.entry_source(), container, command)
    }

    /// Returns true if no event like this one is stored for this source; the event then counts as stored.
    fn is_new(&mut self, event: &Event<'_>) -> rusqlite::Result<bool> {
        if self.source.events_at.get(&event.time_nano).is_none() {
            let mut instant = InstantEvents::default();
            self.for_each_at(event.time_nano, |stored| instant.add(stored.identity().digest, is_redacted(stored)))?;
            self.source.events_at.insert(event.time_nano, instant);
        }
        let instant = self.source.events_at.get_mut(&event.time_nano).expect("the instant was inserted above");
        let (is_first, digest, redacted) = (instant.digests.is_empty(), event.identity().digest, is_redacted(event));
        if instant.digests.contains(&digest) {
            return Ok(false);
        }
        if !is_first && (instant.has_redacted || redacted) {
            // A part of one event may have been redacted that was not redacted in the other.
            let mut is_duplicate = false;
            self.for_each_at(event.time_nano, |stored| is_duplicate |= may_be_same(stored, event))?;
            if is_duplicate {
                return Ok(false);
            }
        }
        let instant = self.source.events_at.get_mut(&event.time_nano).expect("the instant is still in the cache");
        instant.add(digest, redacted);
        Ok(true)
    }

    /// Calls `each` with the stored events of this source at an instant.
    fn for_each_at(&mut self, time_nano: i64, mut visit: impl FnMut(&Event<'_>)) -> rusqlite::Result<()> {
        let mut line = Vec::new();
        for seq in self.encoder.blocks.seqs_at(self.db, time_nano)? {
            let row = self
                .db
                .prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM event WHERE seq = ?1"))?
                .query_row([seq], EventRow::read)?;
            if self.decoder.source(self.db, &row)? == self.source.id {
                self.decoder.decode(self.db, &row, &mut line)?;
                if let Ok(stored) = Event::parse(&line) {
                    visit(&stored);
                }
            }
        }
        Ok(())
    }

    fn store_rejection(&mut self, rejection: &Rejection) -> rusqlite::Result<()> {
        if self.source.rejected >= self.max_rejected {
            return Ok(());
        }
        self.source.rejected += 1;
        let received_nano = self.delivery.received_nano;
        let line = RejectedLine { received_nano, error: &rejection.error, bytes: &rejection.bytes };
        self.encoder.chain.add_rejected(self.db, self.source.entry_source(), line)?;
        if self.source.rejected == self.max_rejected {
            let name = &self.delivery.source.name;
            tracing::warn!("{} rejected lines of {name} are stored; more are only counted", self.max_rejected);
        }
        Ok(())
    }

    /// Stores a change of a gap, unless the gap is already stored in this state.
    fn store_gap(&mut self) -> rusqlite::Result<()> {
        let Some(change) = &self.delivery.gap else { return Ok(()) };
        let (from, to, reason, detail) = match change {
            GapChange::Withdrawn { from } => (from, &None, None, None),
            GapChange::Reported { from, to, reason, detail } => (from, to, Some(reason.as_str()), detail.as_deref()),
        };
        let latest: Option<(Option<i64>, Option<String>, Option<String>)> = self
            .db
            .prepare_cached(
                "SELECT to_nano, reason, detail FROM gap WHERE source = ?1 AND from_nano IS ?2 ORDER BY seq DESC LIMIT 1",
            )?
            .query_row(params![self.source.id, from], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let latest = latest.unwrap_or_default();
        if (&latest.0, latest.1.as_deref(), latest.2.as_deref()) == (to, reason, detail) {
            return Ok(());
        }
        if let (GapChange::Reported { reason, .. }, Some(delta)) = (change, &mut self.delta)
            && latest.1.as_deref() != Some(reason.as_str())
        {
            delta.count_gap(*reason);
        }
        let gap = GapFields { from: *from, to: *to, reason, detail };
        self.encoder.chain.add_gap(self.db, self.source.entry_source(), gap)
    }
}
