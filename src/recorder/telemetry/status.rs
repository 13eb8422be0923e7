//! State of all hosts, collected from the connections and published in the lock file, where `status` reads it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::store::{HostState, Progress, Queue, RecorderLock, RecorderState};

/// Interval at which a changed number of waiting events is published.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// State of every host.
#[derive(Debug)]
pub(in crate::recorder) struct Status {
    hosts: Mutex<Vec<HostState>>,
    changed: Notify,
    /// True once an engine has been tried, whether it answered or not.
    attempted: AtomicBool,
}

impl Status {
    /// Creates the state of hosts that have not been tried yet.
    pub(in crate::recorder) fn new(hosts: impl Iterator<Item = String>) -> Self {
        let hosts = hosts.map(|host| HostState { host, engine_id: None, connected: false, trouble: None }).collect();
        Status { hosts: Mutex::new(hosts), changed: Notify::new(), attempted: AtomicBool::new(false) }
    }

    /// Sets the engine that answers at the host.
    pub(in crate::recorder) fn set_engine(&self, host: usize, engine_id: &str) {
        self.lock_hosts()[host].engine_id = Some(engine_id.into());
        self.changed.notify_one();
    }

    /// Marks the host's stream as open.
    pub(in crate::recorder) fn set_connected(&self, host: usize) {
        let state = &mut self.lock_hosts()[host];
        (state.connected, state.trouble) = (true, None);
        self.attempted.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Marks the host's stream as not open.
    pub(in crate::recorder) fn set_disconnected(&self, host: usize) {
        self.lock_hosts()[host].connected = false;
        self.attempted.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Sets the reason why the host's stream is not open.
    pub(in crate::recorder) fn set_error(&self, host: usize, error: &str) {
        self.lock_hosts()[host].trouble = Some(error.into());
        self.changed.notify_one();
    }

    /// Marks all streams as not open.
    pub(in crate::recorder) fn set_all_disconnected(&self) {
        self.lock_hosts().iter_mut().for_each(|host| host.connected = false);
    }

    /// Returns true if the host was ever reached.
    pub(in crate::recorder) fn was_reached(&self, host: usize) -> bool {
        self.lock_hosts()[host].engine_id.is_some()
    }

    /// Writes the state into the lock file when it changes. Never returns.
    pub(in crate::recorder) async fn publish(&self, lock: &Arc<Mutex<RecorderLock>>, queue: &Queue) {
        let mut published_state = None;
        loop {
            let Progress { events, failing, .. } = queue.progress();
            let state = RecorderState { pid: std::process::id(), buffered: events, failing, hosts: self.hosts() };
            if published_state.as_ref() != Some(&state) {
                published_state = Some(state.clone());
                let lock = lock.clone();
                // This has its own thread: a disk that hangs must not block the streams.
                let write_state = move || lock.lock().expect("no holder of this lock panics").publish(&state);
                let result = tokio::task::spawn_blocking(write_state).await.expect("writing does not panic");
                if let Err(e) = result {
                    tracing::debug!("cannot publish the state of the recorder: {e}");
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(REFRESH_INTERVAL) => {}
            }
        }
    }

    /// Returns true if an engine has been tried, whether it answered or not.
    pub(in crate::recorder) fn has_attempted(&self) -> bool {
        self.attempted.load(Ordering::Relaxed)
    }

    /// Returns true if `host` is one of the recorded hosts.
    pub(in crate::recorder) fn contains(&self, host: &str) -> bool {
        self.lock_hosts().iter().any(|state| state.host == host)
    }

    /// Returns the state of all hosts.
    pub(in crate::recorder) fn hosts(&self) -> Vec<HostState> {
        self.lock_hosts().clone()
    }

    fn lock_hosts(&self) -> MutexGuard<'_, Vec<HostState>> {
        self.hosts.lock().expect("no holder of this lock panics")
    }
}
