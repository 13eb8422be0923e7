//! How the recorder is doing, gathered from its collectors for `status` to read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::store::{HostState, Progress, Queue, RecorderLock, RecorderState};

/// How soon a changed number of waiting events is told.
const GLANCE: Duration = Duration::from_millis(500);

/// The state of every host.
#[derive(Debug)]
pub(super) struct Board {
    hosts: Mutex<Vec<HostState>>,
    changed: Notify,
    /// An engine was asked, and came or did not.
    tried: AtomicBool,
}

impl Board {
    /// Hosts not reached yet.
    pub(super) fn new(hosts: impl Iterator<Item = String>) -> Self {
        let hosts = hosts.map(|host| HostState { host, engine_id: None, connected: false, trouble: None }).collect();
        Board { hosts: Mutex::new(hosts), changed: Notify::new(), tried: AtomicBool::new(false) }
    }

    /// This engine is at the host.
    pub(super) fn reached(&self, host: usize, engine_id: &str) {
        self.locked()[host].engine_id = Some(engine_id.into());
        self.changed.notify_one();
    }

    /// The host's stream is open.
    pub(super) fn connected(&self, host: usize) {
        let state = &mut self.locked()[host];
        (state.connected, state.trouble) = (true, None);
        self.tried.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// The host's stream is not open any more, or never was.
    pub(super) fn disconnected(&self, host: usize) {
        self.locked()[host].connected = false;
        self.tried.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Why the host's stream is not open.
    pub(super) fn troubled(&self, host: usize, why: &str) {
        self.locked()[host].trouble = Some(why.into());
        self.changed.notify_one();
    }

    /// No stream is open any more.
    pub(super) fn all_disconnected(&self) {
        self.locked().iter_mut().for_each(|host| host.connected = false);
    }

    /// Whether this host was ever reached.
    pub(super) fn was_reached(&self, host: usize) -> bool {
        self.locked()[host].engine_id.is_some()
    }

    /// Writes into the lock what has changed, for as long as it is polled.
    pub(super) async fn publish(&self, lock: &Arc<Mutex<RecorderLock>>, queue: &Queue) {
        let mut told = None;
        loop {
            let Progress { events, failing, .. } = queue.progress();
            let state = RecorderState { pid: std::process::id(), buffered: events, failing, hosts: self.hosts() };
            if told.as_ref() != Some(&state) {
                told = Some(state.clone());
                let lock = lock.clone();
                // A disk that does not answer should not keep the streams from being read.
                let publish = move || lock.lock().expect("no holder of this lock panics").publish(&state);
                let published = tokio::task::spawn_blocking(publish).await.expect("writing does not panic");
                if let Err(e) = published {
                    tracing::debug!("cannot say how the recorder is doing: {e}");
                }
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
    }

    /// Whether any engine was asked, be it there or not.
    pub(super) fn was_tried(&self) -> bool {
        self.tried.load(Ordering::Relaxed)
    }

    /// Whether this is one of the hosts.
    pub(super) fn knows(&self, host: &str) -> bool {
        self.locked().iter().any(|state| state.host == host)
    }

    /// All hosts as they are.
    pub(super) fn hosts(&self) -> Vec<HostState> {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Vec<HostState>> {
        self.hosts.lock().expect("no holder of this lock panics")
    }
}
