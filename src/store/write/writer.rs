//! The only writer of events: takes deliveries from the queue and commits them in groups.
//!
//! A delivery is never split between two commits, so a gap and the first events after it are in one. A commit counts
//! once it is on the disk (`synchronous=FULL`). The writer retries a failed commit until it succeeds; until then,
//! deliveries wait in memory.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::counters::CommitCounters;
use super::delivery::Delivery;
use super::delivery_writer::DeliveryWriter;
use super::outcome::{WriteError, WriteStats, WriterOutcome};
use super::queue::Queue;
use super::sources::Sources;
use crate::error::chain;
use crate::store::error::{StoreError, sqlite_error};
use crate::store::format::cached_store::{CachedStore, WriteTransaction};
use crate::store::format::encode::InsertStatements;
use crate::store::format::store::Store;
use crate::store::ids::Nanos;
use crate::store::maintain::retention::{Retainer, Retention};

/// Maximum number of events in one commit, unless a single delivery has more.
const MAX_COMMIT_EVENTS: usize = 10_000;

/// Minimum time between the starts of small commits, so that a busy stream does not wear out the disk. A delivery that
/// arrives after a pause is committed immediately.
const MIN_COMMIT_INTERVAL: Duration = Duration::from_millis(25);

/// Time for which the writer retries a commit when the queue is closed or interactive.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

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
        let stored = match writer.commit(&deliveries, queue) {
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
        queue.mark_stored(&deliveries, writer.store.head());
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
    let path = writer.store.store().path().display().to_string();
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
        match writer.commit(deliveries, queue) {
            Ok(stored) => {
                tracing::info!("{path} can be written again; nothing was lost");
                return Ok(stored);
            }
            Err(e) => error = e,
        }
    }
}

struct Writer {
    store: CachedStore,
    sources: Sources,
    limits: Limits,
    /// Deletes what exceeds the retention limits.
    retainer: Option<Retainer>,
}

impl Writer {
    fn new(store: Store, limits: Limits) -> Self {
        let retainer = Retainer::new(limits.retention, store.path().into());
        Writer { store: CachedStore::new(store), sources: Sources::default(), limits, retainer }
    }

    /// Stores deliveries in one commit.
    fn commit(&mut self, deliveries: &[Delivery], queue: &Queue) -> Result<WriteStats, StoreError> {
        let Writer { store, sources, limits, .. } = self;
        let mut counters = queue.counters().map(|_| CommitCounters::default());
        let stored = store.with_transaction(|transaction| {
            sources.begin(transaction.cache_epoch);
            store_deliveries(transaction, sources, deliveries, limits, counters.as_mut())
        });
        let stored = stored.map_err(sqlite_error("write", store.store().path()))?;
        if let Some((total, commit)) = queue.counters().zip(counters) {
            total.add(commit);
        }
        Ok(stored)
    }

    /// Deletes a little of what exceeds the retention limits, if it is time for that. Pending deliveries do not wait
    /// long.
    fn apply_retention(&mut self, queue: &Queue) {
        if queue.is_closed() {
            return;
        }
        if let Some(retainer) = &mut self.retainer
            && retainer.step(&mut self.store).is_some()
        {
            self.sources.clear();
        }
    }
}

fn store_deliveries(
    transaction: &mut WriteTransaction<'_>,
    sources: &mut Sources,
    deliveries: &[Delivery],
    limits: &Limits,
    mut counters: Option<&mut CommitCounters>,
) -> rusqlite::Result<WriteStats> {
    let WriteTransaction { db, encoder, decoder, .. } = transaction;
    let cutoff_nano = Nanos(limits.retention.cutoff_nano(Nanos::now().0));
    let mut inserts = InsertStatements::prepare(db)?;
    let mut stored = WriteStats::default();
    for delivery in deliveries {
        let source = sources.find_or_add(db, encoder, &delivery.source)?;
        let engine_id = delivery.source.engine_id.as_deref();
        let delta = counters.as_mut().map(|counters| counters.source(source.id, &source.name, engine_id));
        let delivery_writer = DeliveryWriter {
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
        stored += delivery_writer.store()?;
    }
    drop(inserts);
    encoder.finish(db)?;
    Ok(stored)
}
