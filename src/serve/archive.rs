//! The history in a store, and what is being recorded into it.
//!
//! A subscriber reads history by itself, as fast as it takes it, and then joins the *tail*: the newest events, read once
//! for all subscribers. Both go by sequence, so the seam loses and doubles nothing; whoever falls behind the tail reads
//! the store again. Sequences are those of one file: when another one is at the path, all begins anew.

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

use super::Identity;
use crate::event::Event;
use crate::query::Selection;
use crate::store::{Judge, Order, Place, Reader, Snapshot, StoreError, Stored};

/// How often it is looked whether something was committed. An event is to be told within 100 ms of its being stored.
const GLANCE: Duration = Duration::from_millis(20);

/// How many bytes of the newest events are held.
const TAIL: usize = 8 << 20;

/// How many events a subscriber takes from the tail at a time: what it has taken is held until it is sent.
const TAKEN: usize = 64;

/// How long is waited after the store could not be read.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many read the store at once, each on a thread; whoever else wants to waits for its turn. One that takes nothing
/// is cut off and makes room.
const READINGS: usize = 64;

/// What is served of a store.
#[derive(Clone, Debug)]
pub struct Archive {
    shared: Arc<Shared>,
    readings: Arc<Semaphore>,
    _watch: Arc<Watch>,
}

/// A place in what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Counts the files that were at the path.
    file: u64,
    seq: i64,
}

/// What comes after a position.
pub(super) enum News {
    /// These events, and the position behind them.
    Held(Vec<Bytes>, Position),
    /// The tail does not reach back so far: it is to be read from the store.
    LetGo,
    /// There is another store now.
    OtherStore,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    selection: Selection,
    tail: Mutex<Tail>,
    /// The last position in the tail.
    newest: watch::Sender<Position>,
    untold_said: AtomicBool,
}

/// The newest events, by sequence.
#[derive(Debug)]
struct Tail {
    place: Place,
    source: Option<i64>,
    identity: Arc<Identity>,
    events: VecDeque<(i64, Bytes)>,
    bytes: usize,
    /// The last sequence that is not held any more: what comes after it is.
    let_go: i64,
}

/// The thread that looks for new events; it has ended, and closed the store, when this is dropped.
#[derive(Debug)]
struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Archive {
    /// Serves what is selected of a store, of one source or of all. Looks for new events until the last clone is
    /// dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, selection: Selection, source: Option<&str>) -> Result<Archive, StoreError> {
        let (reader, tail, now) = begin(path, source)?;
        let shared = Arc::new(Shared {
            path: path.into(),
            selection,
            tail: Mutex::new(tail),
            newest: watch::channel(Position { file: 0, seq: now }).0,
            untold_said: AtomicBool::new(false),
        });
        let (stop, stopped) = channel();
        let (watched, source) = (shared.clone(), source.map(str::to_owned));
        let thread = std::thread::Builder::new()
            .name("tail".into())
            .spawn(move || watched.watch(reader, source.as_deref(), &stopped))
            .map_err(|source| StoreError::Io { doing: "read", path: path.into(), source })?;
        let watch = Watch { stop: Some(stop), thread: Some(thread) };
        Ok(Archive { shared, readings: Arc::new(Semaphore::new(READINGS)), _watch: Arc::new(watch) })
    }

    /// Who the engine is whose history this is; of several, the one that was reached last.
    pub(super) fn identity(&self) -> Arc<Identity> {
        self.shared.tail().identity.clone()
    }

    /// The last position that is known now.
    pub(super) fn now(&self) -> Position {
        *self.shared.newest.borrow()
    }

    /// Waits until the store may be read.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        self.readings.clone().acquire_owned().await.expect("it is never closed")
    }

    /// Calls `each` with the events up to a position that are asked for, in the order of time. Blocks.
    pub(super) fn history(
        &self,
        to: Position,
        asked: &Selection,
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.shared.read(to.file, Snapshot { after: 0, to: to.seq }, Order::Time, asked, each)
    }

    /// The events after a position, as far as they have come.
    pub(super) fn after(&self, at: Position) -> News {
        let tail = self.shared.tail();
        let newest = self.now();
        if at.file != newest.file {
            return News::OtherStore;
        }
        if at.seq < tail.let_go {
            return News::LetGo;
        }
        let begin = tail.events.partition_point(|(seq, _)| *seq <= at.seq);
        let end = tail.events.len().min(begin + TAKEN);
        let events = tail.events.range(begin..end).map(|(_, event)| event.clone()).collect();
        let behind = match tail.events.get(end) {
            Some(_) => Position { seq: tail.events[end - 1].0, ..at },
            None => newest.max(at),
        };
        News::Held(events, behind)
    }

    /// Calls `each` with the events after a position that the tail holds no more, in order of arrival; gives the position
    /// behind them. Blocks.
    pub(super) fn missed(
        &self,
        at: Position,
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<Position, StoreError> {
        let to = self.shared.tail().let_go;
        self.shared.read(at.file, Snapshot { after: at.seq, to }, Order::Arrival, &Selection::default(), each)?;
        Ok(Position { seq: to, ..at })
    }

    /// Waits until something comes after a position.
    pub(super) async fn came(&self, at: Position) {
        let mut newest = self.shared.newest.subscribe();
        // This archive itself holds the sender, so it is never gone.
        let _ = newest.wait_for(|newest| *newest > at).await;
    }
}

/// Opens what is at the path: a reader, a tail that is still empty, and the last sequence.
fn begin(path: &Path, source: Option<&str>) -> Result<(Reader, Tail, i64), StoreError> {
    let cannot = |source| StoreError::Io { doing: "read", path: path.into(), source };
    let reader = Reader::open(path)?;
    let place = Place::of(path).map_err(cannot)?;
    let source = match source {
        None => None,
        Some(name) => {
            let row = reader.sources()?.into_iter().find(|row| row.name == name);
            Some(row.ok_or_else(|| cannot(io::Error::other(format!("it has no source '{name}'"))))?.id)
        }
    };
    let identity = identity(&reader, source)?;
    let now = reader.snapshot(0)?.to;
    Ok((reader, Tail { place, source, identity, events: VecDeque::new(), bytes: 0, let_go: now }, now))
}

/// Who the source is, or whichever was reached last.
fn identity(reader: &Reader, source: Option<i64>) -> Result<Arc<Identity>, StoreError> {
    let sources = reader.sources()?;
    Ok(Arc::new(Identity::of(sources.iter().filter(|row| source.is_none_or(|id| id == row.id)))))
}

impl Shared {
    /// Looks for new events until it is stopped.
    fn watch(&self, mut reader: Reader, source: Option<&str>, stopped: &Receiver<()>) {
        let mut seen = None;
        let mut failing = false;
        let mut wait = GLANCE;
        while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            wait = GLANCE;
            let looked = if self.tail().place.is_kept() {
                self.look(&reader, &mut seen, stopped)
            } else {
                begin(&self.path, source).map(|(other, tail, now)| {
                    tracing::info!("another store is at {}: it is served from now on", self.path.display());
                    (reader, seen) = (other, None);
                    let mut held = self.tail();
                    *held = tail;
                    let file = self.newest.borrow().file + 1;
                    self.newest.send_replace(Position { file, seq: now });
                })
            };
            match looked {
                Ok(()) => failing = false,
                Err(e) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("{}; it is tried again", crate::error::chain(&e));
                    }
                    wait = PATIENCE;
                }
            }
        }
    }

    /// Takes what was committed since the last look into the tail.
    fn look(&self, reader: &Reader, seen: &mut Option<i64>, stopped: &Receiver<()>) -> Result<(), StoreError> {
        let version = reader.data_version()?;
        if *seen == Some(version) {
            return Ok(());
        }
        let snapshot = reader.snapshot(self.newest.borrow().seq)?;
        let source = self.tail().source;
        let identity = identity(reader, source)?;
        self.tail().identity = identity;
        let passes = |event: &Event<'_>| self.selection.passes(event);
        let judge = if self.selection.is_everything() { Judge::All } else { Judge::Each(&passes) };
        let mut news = Vec::new();
        let looked =
            reader.events(&self.selection.ask(source), snapshot, Order::Arrival, judge, |stored: Stored<'_>| {
                news.push((stored.seq, Bytes::copy_from_slice(stored.raw)));
                if news.len() >= 1_000 {
                    self.append(news.drain(..), stored.seq);
                    if stopped.try_recv() == Err(TryRecvError::Disconnected) {
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })?;
        self.say_untold(reader);
        if looked.is_continue() {
            self.append(news.into_iter(), snapshot.to);
            *seen = Some(version);
        }
        Ok(())
    }

    fn append(&self, news: impl Iterator<Item = (i64, Bytes)>, newest: i64) {
        let mut tail = self.tail();
        for (seq, event) in news {
            tail.bytes += event.len();
            tail.events.push_back((seq, event));
        }
        while tail.bytes > TAIL {
            let Some((seq, event)) = tail.events.pop_front() else { break };
            tail.bytes -= event.len();
            tail.let_go = seq;
        }
        // Under the lock: whoever looks sees both.
        self.newest.send_modify(|position| position.seq = newest);
    }

    /// Says of which events it could not be told whether they are of health checks; once.
    fn say_untold(&self, reader: &Reader) {
        let untold = reader.untold();
        if !untold.is_none() && !self.untold_said.swap(true, Ordering::Relaxed) {
            tracing::warn!("{untold}");
        }
    }

    /// A reader of its own for each, so that none waits for another.
    fn read(
        &self,
        file: u64,
        snapshot: Snapshot,
        order: Order,
        asked: &Selection,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let reader = Reader::open(&self.path)?;
        let source = {
            let tail = self.tail();
            if file != self.newest.borrow().file || !tail.place.is_kept() {
                let source = io::Error::other("another file is there now");
                return Err(StoreError::Io { doing: "read", path: self.path.clone(), source });
            }
            tail.source
        };
        let mut ask = asked.ask(source);
        ask.since = ask.since.max(self.selection.since);
        ask.no_healthchecks |= self.selection.no_healthchecks;
        ask.until = [ask.until, self.selection.until].into_iter().flatten().min();
        let passes = |event: &Event<'_>| asked.passes(event) && self.selection.passes(event);
        let judge = match () {
            () if asked.is_everything() && self.selection.is_everything() => Judge::All,
            () if asked.looks_at_varying() || self.selection.looks_at_varying() => Judge::Each(&passes),
            () => Judge::Alike(&passes),
        };
        let _ = reader.events(&ask, snapshot, order, judge, |stored: Stored<'_>| each(stored.raw))?;
        self.say_untold(&reader);
        Ok(())
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("no holder of this lock panics")
    }
}
