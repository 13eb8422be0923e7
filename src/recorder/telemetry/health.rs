//! Health of the recorder as a whole: whether its writer makes progress, whether it is ready, and a summary line.
//!
//! All figures are in memory, so a request does not touch the database.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::super::config::Config;
use super::status::Status;
use crate::error::count_noun;
use crate::store::{Counters, GapReason, Progress, Queue, SourceRow, bytes_on_disk};

/// Interval between measurements of the store's size.
const SIZE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// State of a running recorder, for metrics, health endpoints and systemd.
#[derive(Debug)]
pub(in crate::recorder) struct Health {
    path: PathBuf,
    /// Limit for events that are read and not yet stored, in bytes.
    pub(in crate::recorder) buffer_limit: usize,
    pub(in crate::recorder) started_at: SystemTime,
    pub(in crate::recorder) status: Arc<Status>,
    pub(in crate::recorder) counters: Arc<Counters>,
    /// Queue of the open store.
    queue: Mutex<Option<Arc<Queue>>>,
    store_bytes: AtomicU64,
}

impl Health {
    pub(in crate::recorder) fn new(config: &Config, status: Arc<Status>) -> Health {
        Health {
            path: config.path.clone(),
            buffer_limit: config.buffer,
            started_at: SystemTime::now(),
            status,
            counters: Arc::default(),
            queue: Mutex::default(),
            store_bytes: AtomicU64::new(0),
        }
    }

    /// Attaches the queue of a store that was opened.
    pub(in crate::recorder) fn attach_queue(&self, queue: Arc<Queue>, rows: &[SourceRow]) {
        for row in rows.iter().filter(|row| row.host.as_ref().is_some_and(|host| self.status.contains(host))) {
            self.counters.add_source(row);
        }
        *self.queue.lock().expect("no holder of this lock panics") = Some(queue);
    }

    /// Detaches the queue. No store is open.
    pub(in crate::recorder) fn detach_queue(&self) {
        *self.queue.lock().expect("no holder of this lock panics") = None;
    }

    /// Returns the progress of the writer, if a store is open.
    pub(in crate::recorder) fn progress(&self) -> Option<Progress> {
        Some(self.queue.lock().expect("no holder of this lock panics").as_ref()?.progress())
    }

    /// Returns the size of the store at the last measurement, in bytes.
    pub(in crate::recorder) fn store_bytes(&self) -> u64 {
        self.store_bytes.load(Ordering::Relaxed)
    }

    /// Measures the size of the store periodically. Never returns.
    pub(in crate::recorder) async fn poll_store_size(&self) {
        loop {
            // This has its own thread: a disk that hangs must not block the streams.
            let path = self.path.clone();
            if let Ok(bytes) = tokio::task::spawn_blocking(move || bytes_on_disk(&path)).await {
                self.store_bytes.store(bytes, Ordering::Relaxed);
            }
            tokio::time::sleep(SIZE_POLL_INTERVAL).await;
        }
    }

    /// Checks that the writer makes progress: no single attempt to write has lasted longer than `timeout`.
    ///
    /// # Errors
    /// Returns the problem, as one line.
    pub(in crate::recorder) fn check_writer(&self, timeout: Duration) -> Result<(), String> {
        match self.progress().and_then(|progress| progress.busy_for) {
            Some(busy) if busy > timeout => {
                Err(format!("an attempt to write to {} has lasted {} s", self.path.display(), busy.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Checks that the store is open and can be written, and that an engine has been tried, whether it answered or not.
    ///
    /// # Errors
    /// Returns the problem, as one line.
    pub(in crate::recorder) fn check_ready(&self) -> Result<(), String> {
        let path = self.path.display();
        match self.progress() {
            None => Err(format!("{path} is not open")),
            Some(Progress { failing: true, .. }) => Err(format!("{path} cannot be written")),
            Some(_) if !self.status.has_attempted() => Err("no engine has been tried yet".into()),
            Some(_) => Ok(()),
        }
    }

    /// Returns a summary, as one line.
    pub(in crate::recorder) fn summary(&self) -> String {
        let hosts = self.status.hosts();
        let connected = hosts.iter().filter(|host| host.connected).count();
        let counters = self.counters.snapshot();
        let events: u64 = counters.values().map(|source| source.events()).sum();
        // No recorder could have stored the events before the first session, so that gap is not counted.
        let gaps =
            counters.values().flat_map(|source| &source.gaps).filter(|gap| *gap.0 != GapReason::FirstContact.as_str());
        let gaps: u64 = gaps.map(|(_, count)| count).sum();
        let waiting = match self.progress() {
            None => ", the store is not open".to_owned(),
            Some(Progress { failing: true, events, .. }) => format!(", {events} waiting: the store cannot be written"),
            Some(_) => String::new(),
        };
        let stored = format!("{} stored, {}", count_noun(events, "event"), count_noun(gaps, "gap"));
        format!("{connected} of {} connected, {stored}{waiting}", count_noun(hosts.len() as u64, "engine"))
    }
}
