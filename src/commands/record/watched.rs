//! How the recorder is doing as a whole, for those who watch it: whether it is well, whether it records, and in one line.
//! Asking costs no database.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::Plan;
use super::board::Board;
use crate::commands::status::bytes_on_disk;
use crate::error::number;
use crate::store::{Counters, Progress, Queue, Reason, SourceRow};

/// How often it is looked how large the store is.
const MEASURE: Duration = Duration::from_secs(1);

/// All that can be seen of a recorder at work.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    /// How many bytes may wait for the store.
    pub(super) budget: usize,
    pub(super) started: SystemTime,
    pub(super) board: Arc<Board>,
    pub(super) counters: Arc<Counters>,
    /// What leads to the store that is open.
    queue: Mutex<Option<Arc<Queue>>>,
    bytes: AtomicU64,
}

impl Watched {
    pub(super) fn new(plan: &Plan, board: Arc<Board>) -> Watched {
        Watched {
            path: plan.path.clone(),
            budget: plan.buffer,
            started: SystemTime::now(),
            board,
            counters: Arc::default(),
            queue: Mutex::default(),
            bytes: AtomicU64::new(0),
        }
    }

    /// A store is open; this leads to it.
    pub(super) fn records_into(&self, queue: Arc<Queue>, rows: &[SourceRow]) {
        for row in rows.iter().filter(|row| row.host.as_ref().is_some_and(|host| self.board.knows(host))) {
            self.counters.begin(row);
        }
        *self.queue.lock().expect("no holder of this lock panics") = Some(queue);
    }

    /// No store is open.
    pub(super) fn records_nowhere(&self) {
        *self.queue.lock().expect("no holder of this lock panics") = None;
    }

    /// How the writer is doing, where there is one.
    pub(super) fn progress(&self) -> Option<Progress> {
        Some(self.queue.lock().expect("no holder of this lock panics").as_ref()?.progress())
    }

    /// The size of the store when it was last looked.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Looks how large the store is, for as long as it is polled.
    pub(super) async fn measure(&self) {
        loop {
            // A disk that does not answer should not keep the streams from being read.
            let path = self.path.clone();
            if let Ok(bytes) = tokio::task::spawn_blocking(move || bytes_on_disk(&path)).await {
                self.bytes.store(bytes, Ordering::Relaxed);
            }
            tokio::time::sleep(MEASURE).await;
        }
    }

    /// Whether the writer moves: what it does at once takes no longer than this.
    ///
    /// # Errors
    /// What is wrong, in a line.
    pub(super) fn moves(&self, patience: Duration) -> Result<(), String> {
        match self.progress().and_then(|progress| progress.busy) {
            Some(busy) if busy > patience => {
                Err(format!("nothing has come of writing to {} for {} s", self.path.display(), busy.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the store is open and can be written, and an engine was tried, be it there or not.
    ///
    /// # Errors
    /// What is wrong, in a line.
    pub(super) fn is_ready(&self) -> Result<(), String> {
        let path = self.path.display();
        match self.progress() {
            None => Err(format!("{path} is not open")),
            Some(Progress { failing: true, .. }) => Err(format!("{path} cannot be written just now")),
            Some(_) if !self.board.was_tried() => Err("no engine was tried yet".into()),
            Some(_) => Ok(()),
        }
    }

    /// How it stands, in a line.
    pub(super) fn line(&self) -> String {
        let hosts = self.board.hosts();
        let connected = hosts.iter().filter(|host| host.connected).count();
        let all = self.counters.read();
        let events: u64 = all.values().map(|source| source.events()).sum();
        // What was before the first contact is none that anybody could have helped.
        let gaps = all.values().flat_map(|source| &source.gaps).filter(|gap| *gap.0 != Reason::FirstContact.as_str());
        let gaps: u64 = gaps.map(|(_, number)| number).sum();
        let waiting = match self.progress() {
            None => ", the store is not open".to_owned(),
            Some(Progress { failing: true, events, .. }) => format!(", {events} waiting: the store cannot be written"),
            Some(_) => String::new(),
        };
        let stored = format!("{} stored, {}", number(events, "event"), number(gaps, "gap"));
        format!("{connected} of {} connected, {stored}{waiting}", number(hosts.len() as u64, "engine"))
    }
}
