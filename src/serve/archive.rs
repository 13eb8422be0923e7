//! Serves the history in a store, and the events that are being recorded into it.
//!
//! A subscriber first reads history with its own reader, as fast as the client accepts the data. Then it joins the
//! *tail*: the newest events, read once for all subscribers. Both go by sequence, so nothing is lost or duplicated
//! where they meet. A subscriber that falls behind the tail reads the store again.
//!
//! Sequences belong to one file: if another store appears at the path, streams are cut and the new store is served.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::EngineIdentity;
use crate::query::{SelectedEvents, Selection};
use crate::store::{FileIdentity, Order, Reader, Snapshot, StoreError};

/// Interval between polls for new commits. An event must be sent within 100 ms after it is stored.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum size of the tail, in bytes.
const MAX_TAIL_BYTES: usize = 8 << 20;

/// Maximum number of events that a subscriber takes from the tail at a time. They stay in memory until they are sent.
const TAIL_BATCH_LEN: usize = 64;

/// Delay after a failed read of the store.
const READ_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Maximum number of concurrent reads of the store, each on a thread. Other subscribers wait for their turn. A client
/// that accepts no data is disconnected, which frees its permit.
const MAX_CONCURRENT_READS: usize = 64;

/// A store, served to any number of subscribers.
#[derive(Clone, Debug)]
pub struct Archive {
    shared: Arc<Shared>,
    read_permits: Arc<Semaphore>,
    _poller: Arc<Poller>,
}

/// A position in the stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Counts the stores that have been at the path.
    generation: u64,
    seq: i64,
}

/// Result of reading the tail after a position.
pub(super) enum TailRead {
    /// Events, and the position after them.
    Events(Vec<Bytes>, Position),
    /// The tail no longer contains the next events; the store does.
    Evicted,
    /// Another store is at the path.
    StoreReplaced,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    selection: Selection,
    tail: Mutex<Tail>,
    /// Last position in the tail.
    newest: watch::Sender<Position>,
    unknown_healthchecks_logged: AtomicBool,
}

/// The newest events, by sequence.
#[derive(Debug)]
struct Tail {
    file_identity: FileIdentity,
    source: Option<i64>,
    identity: Arc<EngineIdentity>,
    events: VecDeque<(i64, Bytes)>,
    bytes: usize,
    /// Last sequence that was evicted. The tail contains everything after it.
    last_evicted: i64,
}

/// The thread that polls for new events. Dropping this waits until the thread has closed the store and exited.
#[derive(Debug)]
struct Poller {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Archive {
    /// Serves a selection of a store, of one source or of all. Polls for new events until the last clone is dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, selection: Selection, source: Option<&str>) -> Result<Archive, StoreError> {
        let (reader, tail, last_seq) = open_store(path, source)?;
        let shared = Arc::new(Shared {
            path: path.into(),
            selection,
            tail: Mutex::new(tail),
            newest: watch::channel(Position { generation: 0, seq: last_seq }).0,
            unknown_healthchecks_logged: AtomicBool::new(false),
        });
        let (stop, stop_signal) = channel();
        let (worker, source) = (shared.clone(), source.map(str::to_owned));
        let thread = std::thread::Builder::new()
            .name("tail".into())
            .spawn(move || worker.poll_loop(reader, source.as_deref(), &stop_signal))
            .map_err(|source| StoreError::Io { operation: "read", path: path.into(), source })?;
        let poller = Poller { stop: Some(stop), thread: Some(thread) };
        Ok(Archive { shared, read_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)), _poller: Arc::new(poller) })
    }

    /// Identity of the recorded engine; if there are several, of the one that was reached last.
    pub(super) fn identity(&self) -> Arc<EngineIdentity> {
        self.shared.lock_tail().identity.clone()
    }

    /// Last known position.
    pub(super) fn newest_position(&self) -> Position {
        *self.shared.newest.borrow()
    }

    /// Waits for permission to read the store.
    pub(super) async fn acquire_read_permit(&self) -> OwnedSemaphorePermit {
        self.read_permits.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Calls `on_event` with the requested events up to a position, in order of time. Blocks the thread.
    pub(super) fn read_history(
        &self,
        to: Position,
        requested: &Selection,
        on_event: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.shared.read_store(to.generation, Snapshot { after: 0, to: to.seq }, Order::Time, requested, on_event)
    }

    /// Returns the events after a position that have arrived, up to [`TAIL_BATCH_LEN`].
    pub(super) fn read_tail(&self, position: Position) -> TailRead {
        let tail = self.shared.lock_tail();
        let newest = self.newest_position();
        if position.generation != newest.generation {
            return TailRead::StoreReplaced;
        }
        if position.seq < tail.last_evicted {
            return TailRead::Evicted;
        }
        let start = tail.events.partition_point(|(seq, _)| *seq <= position.seq);
        let end = tail.events.len().min(start + TAIL_BATCH_LEN);
        let events = tail.events.range(start..end).map(|(_, event)| event.clone()).collect();
        let end_position = match tail.events.get(end) {
            Some(_) => Position { seq: tail.events[end - 1].0, ..position },
            None => newest.max(position),
        };
        TailRead::Events(events, end_position)
    }

    /// Calls `on_event` with the events after a position that the tail has evicted, in order of arrival. Returns the
    /// position after them. Blocks the thread.
    pub(super) fn read_evicted(
        &self,
        position: Position,
        on_event: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<Position, StoreError> {
        let to = self.shared.lock_tail().last_evicted;
        self.shared.read_store(
            position.generation,
            Snapshot { after: position.seq, to },
            Order::Arrival,
            &Selection::default(),
            on_event,
        )?;
        Ok(Position { seq: to, ..position })
    }

    /// Waits until an event arrives after a position.
    pub(super) async fn wait_for_newer(&self, position: Position) {
        let mut newest = self.shared.newest.subscribe();
        // This archive holds the sender, so the channel stays open.
        let _ = newest.wait_for(|newest| *newest > position).await;
    }
}

/// Opens the store at the path. Returns a reader, an empty tail and the last sequence.
fn open_store(path: &Path, source: Option<&str>) -> Result<(Reader, Tail, i64), StoreError> {
    let read_error = |source| StoreError::Io { operation: "read", path: path.into(), source };
    let reader = Reader::open(path)?;
    let file_identity = FileIdentity::of(path).map_err(read_error)?;
    let source = match source {
        None => None,
        Some(name) => {
            let row = reader.sources()?.into_iter().find(|row| row.name == name);
            Some(row.ok_or_else(|| read_error(io::Error::other(format!("the store has no source '{name}'"))))?.id)
        }
    };
    let identity = engine_identity(&reader, source)?;
    let last_seq = reader.snapshot(0)?.to;
    Ok((
        reader,
        Tail { file_identity, source, identity, events: VecDeque::new(), bytes: 0, last_evicted: last_seq },
        last_seq,
    ))
}

/// Returns the identity of the source, or of the source that was reached last.
fn engine_identity(reader: &Reader, source: Option<i64>) -> Result<Arc<EngineIdentity>, StoreError> {
    let sources = reader.sources()?;
    Ok(Arc::new(EngineIdentity::from_sources(sources.iter().filter(|row| source.is_none_or(|id| id == row.id)))))
}

impl Shared {
    /// Polls for new events until it is stopped.
    fn poll_loop(&self, mut reader: Reader, source: Option<&str>, stop_signal: &Receiver<()>) {
        let mut seen_version = None;
        let mut failing = false;
        let mut wait = POLL_INTERVAL;
        while stop_signal.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            wait = POLL_INTERVAL;
            let result = if self.lock_tail().file_identity.is_current() {
                self.poll(&reader, &mut seen_version, stop_signal)
            } else {
                open_store(&self.path, source).map(|(new_reader, tail, last_seq)| {
                    tracing::info!("the store at {} was replaced: the server uses the new one", self.path.display());
                    (reader, seen_version) = (new_reader, None);
                    let mut current = self.lock_tail();
                    *current = tail;
                    let generation = self.newest.borrow().generation + 1;
                    self.newest.send_replace(Position { generation, seq: last_seq });
                })
            };
            match result {
                Ok(()) => failing = false,
                Err(e) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("{}; the server retries every second", crate::error::chain(&e));
                    }
                    wait = READ_RETRY_DELAY;
                }
            }
        }
    }

    /// Adds the events that were committed since the last poll to the tail.
    fn poll(
        &self,
        reader: &Reader,
        seen_version: &mut Option<i64>,
        stop_signal: &Receiver<()>,
    ) -> Result<(), StoreError> {
        let version = reader.data_version()?;
        if *seen_version == Some(version) {
            return Ok(());
        }
        let snapshot = reader.snapshot(self.newest.borrow().seq)?;
        let source = self.lock_tail().source;
        let identity = engine_identity(reader, source)?;
        self.lock_tail().identity = identity;
        let mut new_events = Vec::new();
        let selected = SelectedEvents::new(reader, &self.selection, source);
        let flow = selected.for_each(snapshot, Order::Arrival, |stored| {
            new_events.push((stored.seq, Bytes::copy_from_slice(stored.raw)));
            if new_events.len() >= 1_000 {
                self.append(new_events.drain(..), stored.seq);
                if stop_signal.try_recv() == Err(TryRecvError::Disconnected) {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        self.log_unknown_healthchecks(reader);
        if flow.is_continue() {
            self.append(new_events.into_iter(), snapshot.to);
            *seen_version = Some(version);
        }
        Ok(())
    }

    fn append(&self, new_events: impl Iterator<Item = (i64, Bytes)>, newest: i64) {
        let mut tail = self.lock_tail();
        for (seq, event) in new_events {
            tail.bytes += event.len();
            tail.events.push_back((seq, event));
        }
        while tail.bytes > MAX_TAIL_BYTES {
            let Some((seq, event)) = tail.events.pop_front() else { break };
            tail.bytes -= event.len();
            tail.last_evicted = seq;
        }
        // Under the lock, so that readers see both changes together.
        self.newest.send_modify(|position| position.seq = newest);
    }

    /// Logs once if some events cannot be classified as health checks or not.
    fn log_unknown_healthchecks(&self, reader: &Reader) {
        let unknown = reader.unknown_healthchecks();
        if !unknown.is_empty() && !self.unknown_healthchecks_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!("{unknown}");
        }
    }

    /// Reads the store with a new reader, so that no subscriber waits for another.
    fn read_store(
        &self,
        generation: u64,
        snapshot: Snapshot,
        order: Order,
        requested: &Selection,
        mut on_event: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let reader = Reader::open(&self.path)?;
        let source = {
            let tail = self.lock_tail();
            if generation != self.newest.borrow().generation || !tail.file_identity.is_current() {
                let source = io::Error::other("the file was replaced by another one");
                return Err(StoreError::Io { operation: "read", path: self.path.clone(), source });
            }
            tail.source
        };
        let selected = SelectedEvents::new(&reader, requested, source).within(&self.selection);
        let _ = selected.for_each(snapshot, order, |stored| on_event(stored.raw))?;
        self.log_unknown_healthchecks(&reader);
        Ok(())
    }

    fn lock_tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("no holder of this lock panics")
    }
}
