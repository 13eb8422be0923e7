//! The history in a store, and what is being recorded into it.
//!
//! A subscriber reads history by itself, as fast as it takes it, and then joins the *tail*: the newest events, read once
//! for all subscribers. Both go by sequence, so the seam loses and doubles nothing; whoever falls behind the tail reads
//! the store again.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::watch;

use crate::event::Event;
use crate::query::Selection;
use crate::store::{Judge, Order, Reader, Snapshot, StoreError, Stored};

/// How often it is looked whether something was committed. An event is to be told within 100 ms of its being stored.
const GLANCE: Duration = Duration::from_millis(20);

/// How many bytes of the newest events are held.
const TAIL: usize = 8 << 20;

/// How long is waited after the store could not be read.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is served of a store.
#[derive(Clone, Debug)]
pub struct Archive {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    selection: Selection,
    source: Option<i64>,
    tail: Mutex<Tail>,
    /// The last sequence in the tail.
    newest: watch::Sender<i64>,
}

/// The newest events, by sequence.
#[derive(Debug, Default)]
struct Tail {
    events: VecDeque<(i64, Bytes)>,
    bytes: usize,
    /// The last sequence that is not held any more: what comes after it is.
    let_go: i64,
}

impl Archive {
    /// Serves what is selected of a store, of one source or of all. Looks for new events until the last clone is
    /// dropped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, selection: Selection, source: Option<i64>) -> Result<Archive, StoreError> {
        let reader = Reader::open(path)?;
        let now = reader.snapshot(0)?.to;
        let shared = Arc::new(Shared {
            path: path.into(),
            selection,
            source,
            tail: Mutex::new(Tail { let_go: now, ..Tail::default() }),
            newest: watch::channel(now).0,
        });
        let looking = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("tail".into())
            .spawn(move || {
                let mut seen = None;
                loop {
                    std::thread::sleep(GLANCE);
                    let Some(shared) = looking.upgrade() else { return };
                    if let Err(e) = shared.look(&reader, &mut seen) {
                        tracing::warn!("{}; it is tried again", crate::error::chain(&e));
                        std::thread::sleep(PATIENCE);
                    }
                }
            })
            .map_err(|source| StoreError::Io { doing: "read", path: path.into(), source })?;
        Ok(Archive { shared })
    }

    /// The last sequence that is known now.
    pub(super) fn now(&self) -> i64 {
        *self.shared.newest.borrow()
    }

    /// Calls `each` with the events up to and with the sequence `to` that are asked for, in the order of time. Blocks.
    pub(super) fn history(
        &self,
        to: i64,
        asked: &Selection,
        each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.shared.read(Snapshot { after: 0, to }, Order::Time, asked, each)
    }

    /// The events after a sequence, as far as they have come, and the last sequence of them; `None` if the tail does not
    /// reach back so far.
    pub(super) fn after(&self, seq: i64) -> Option<(Vec<Bytes>, i64)> {
        let tail = self.shared.tail();
        if seq < tail.let_go {
            return None;
        }
        let begin = tail.events.partition_point(|(at, _)| *at <= seq);
        let events: Vec<Bytes> = tail.events.range(begin..).map(|(_, event)| event.clone()).collect();
        let newest = *self.shared.newest.borrow();
        Some((events, newest.max(seq)))
    }

    /// Calls `each` with the events after a sequence that the tail holds no more, in order of arrival; gives the last
    /// sequence of them. Blocks.
    pub(super) fn missed(&self, seq: i64, each: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<i64, StoreError> {
        let to = self.shared.tail().let_go;
        self.shared.read(Snapshot { after: seq, to }, Order::Arrival, &Selection::default(), each)?;
        Ok(to)
    }

    /// Waits until something comes after a sequence.
    pub(super) async fn came(&self, seq: i64) {
        let mut newest = self.shared.newest.subscribe();
        // This archive itself holds the sender, so it is never gone.
        let _ = newest.wait_for(|newest| *newest > seq).await;
    }
}

impl Shared {
    /// Takes what was committed since the last look into the tail.
    fn look(&self, reader: &Reader, seen: &mut Option<i64>) -> Result<(), StoreError> {
        let version = reader.data_version()?;
        if *seen == Some(version) {
            return Ok(());
        }
        let snapshot = reader.snapshot(*self.newest.borrow())?;
        let passes = |event: &Event| self.passes(event);
        let judge = if self.selection.is_everything() { Judge::All } else { Judge::Each(&passes) };
        let mut news = Vec::new();
        let _ = reader.events::<()>(
            &self.selection.ask(self.source),
            snapshot,
            Order::Arrival,
            judge,
            |stored: Stored| {
                news.push((stored.seq, Bytes::copy_from_slice(stored.raw)));
                if news.len() >= 1_000 {
                    self.append(news.drain(..), stored.seq);
                }
                ControlFlow::Continue(())
            },
        )?;
        self.append(news.into_iter(), snapshot.to);
        *seen = Some(version);
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
        self.newest.send_replace(newest);
    }

    /// A reader of its own for each, so that none waits for another.
    fn read(
        &self,
        snapshot: Snapshot,
        order: Order,
        asked: &Selection,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let reader = Reader::open(&self.path)?;
        let mut ask = asked.ask(self.source);
        ask.since = ask.since.max(self.selection.since);
        ask.until = [ask.until, self.selection.until].into_iter().flatten().min();
        let passes = |event: &Event| asked.passes(event) && self.passes(event);
        let judge = match () {
            () if asked.is_everything() && self.selection.is_everything() => Judge::All,
            () if asked.looks_at_varying() || self.selection.looks_at_varying() => Judge::Each(&passes),
            () => Judge::Alike(&passes),
        };
        let _ = reader.events(&ask, snapshot, order, judge, |stored: Stored| each(stored.raw))?;
        Ok(())
    }

    fn passes(&self, event: &Event) -> bool {
        self.selection.passes(event)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("no holder of this lock panics")
    }
}
