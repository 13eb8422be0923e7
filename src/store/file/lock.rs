//! The recorder's lock: at most one recorder for each store, and its published state.
//!
//! A recorder locks `FILE.lock`, beside the store, with `flock` for as long as it runs. If it is killed, the system
//! releases the lock. The recorder writes its state into that file, so that `status` does not need the database, which
//! another program may have locked.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::identity::FileIdentity;
use crate::store::error::StoreError;

/// Time that a recorder waits for the lock. A reader takes the lock for a moment to check if it is free.
const LOCK_TIMEOUT: Duration = Duration::from_millis(300);

/// State of a recorder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecorderState {
    /// Process ID of the recorder.
    pub pid: u32,
    /// Number of events that were read and are not yet stored.
    pub buffered: usize,
    /// True if the last attempt to write the store failed.
    #[serde(default)]
    pub failing: bool,
    /// Hosts that the recorder records.
    pub hosts: Vec<HostState>,
}

/// State of one host of a recorder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Host as the user gave it.
    pub host: String,
    /// ID of the engine reached last at this host.
    pub engine_id: Option<String>,
    /// True if the event stream is open.
    pub connected: bool,
    /// Reason why the stream is not open, if known.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// Lock that makes this process the recorder of a store. Dropping it releases the lock.
#[derive(Debug)]
pub struct RecorderLock {
    file: File,
    path: PathBuf,
    identity: FileIdentity,
    /// True if the lock file did not exist before.
    created: bool,
}

impl RecorderLock {
    /// Acquires the lock of the store at `path`.
    ///
    /// # Errors
    /// [`StoreError::AlreadyRecording`], with the process ID of the recorder that holds the lock.
    pub fn acquire(path: &Path) -> Result<RecorderLock, StoreError> {
        let lock = lock_path(path);
        let io = |source| StoreError::Io { operation: "lock", path: lock.clone(), source };
        let created = !lock.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(io)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    let pid = read_state(&file).map(|state| state.pid);
                    return Err(StoreError::AlreadyRecording { path: path.into(), pid });
                }
                Err(TryLockError::Error(e)) => return Err(io(e)),
            }
        }
        let identity = FileIdentity::of(&lock).map_err(io)?;
        let mut lock = RecorderLock { file, path: lock, identity, created };
        lock.publish(&RecorderState { pid: std::process::id(), ..RecorderState::default() })?;
        Ok(lock)
    }

    /// Releases the lock because recording did not start. Removes the lock file if this lock created it.
    pub fn abandon(self) {
        if self.created {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Returns the identity of the lock file at the time it was locked.
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// Writes the state of the recorder into the lock file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish(&mut self, state: &RecorderState) -> Result<(), StoreError> {
        let json = serde_json::to_vec(state).expect("all keys of the state are strings");
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&json))
            .and_then(|()| self.file.set_len(json.len() as u64))
            .map_err(|source| StoreError::Io { operation: "write", path: self.path.clone(), source })
    }
}

/// Returns the state of the recorder of the store at `path`; `None` if none is running.
pub fn recorder_state(path: &Path) -> Option<RecorderState> {
    let file = File::open(lock_path(path)).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    // A read during a write may return an incomplete state. The state is complete a moment later.
    for _ in 0..20 {
        if let Some(state) = read_state(&file) {
            return Some(state);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

fn read_state(mut file: &File) -> Option<RecorderState> {
    let mut json = Vec::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut json)).ok()?;
    serde_json::from_slice(&json).ok()
}

/// Returns the path of the lock file. It belongs to the canonical path, so that all names of a store share one lock.
fn lock_path(path: &Path) -> PathBuf {
    let mut lock = path.canonicalize().unwrap_or_else(|_| path.into()).into_os_string();
    lock.push(".lock");
    lock.into()
}
