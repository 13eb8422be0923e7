//! How the recorder is doing, gathered from its collectors for `status` to read.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::store::{HostState, Queue, RecorderLock, RecorderState};

/// How soon a changed number of waiting events is told.
const GLANCE: Duration = Duration::from_millis(500);

/// The state of every host.
#[derive(Debug)]
pub struct Board {
    hosts: Mutex<Vec<HostState>>,
    changed: Notify,
}

impl Board {
    /// Hosts not reached yet.
    pub fn new(hosts: impl Iterator<Item = String>) -> Self {
        let hosts = hosts.map(|host| HostState { host, engine_id: None, connected: false }).collect();
        Board { hosts: Mutex::new(hosts), changed: Notify::new() }
    }

    /// This engine is at the host.
    pub fn reached(&self, host: usize, engine_id: &str) {
        self.hosts()[host].engine_id = Some(engine_id.into());
        self.changed.notify_one();
    }

    /// The host's stream is open.
    pub fn connected(&self, host: usize) {
        self.hosts()[host].connected = true;
        self.changed.notify_one();
    }

    /// The host's stream is not open any more.
    pub fn disconnected(&self, host: usize) {
        self.hosts()[host].connected = false;
        self.changed.notify_one();
    }

    /// No stream is open any more.
    pub fn all_disconnected(&self) {
        self.hosts().iter_mut().for_each(|host| host.connected = false);
    }

    /// Whether this host was ever reached.
    pub fn was_reached(&self, host: usize) -> bool {
        self.hosts()[host].engine_id.is_some()
    }

    /// Writes into the lock what has changed, for as long as it is polled.
    pub async fn publish(&self, lock: &mut RecorderLock, queue: &Queue) {
        let mut told = None;
        loop {
            let state =
                RecorderState { pid: std::process::id(), buffered: queue.buffered(), hosts: self.hosts().clone() };
            if told.as_ref() != Some(&state) {
                if let Err(e) = lock.publish(&state) {
                    tracing::debug!("cannot say how the recorder is doing: {e}");
                }
                told = Some(state);
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
    }

    fn hosts(&self) -> MutexGuard<'_, Vec<HostState>> {
        self.hosts.lock().expect("no holder of this lock panics")
    }
}
