//! One recorder a file, and how it is doing.
//!
//! Beside the store lies `FILE.lock`, locked (flock) by the recorder while it lives: the system lets go of the lock
//! of a killed one. In it the recorder writes how it is doing, so that `status` need not ask the database, which may
//! be locked by somebody else just then.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::place::Place;

/// A reader holds the lock for a moment to see whether it is free; so long a recorder waits for that.
const PATIENCE: Duration = Duration::from_millis(300);

/// How the recorder is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecorderState {
    /// Its process.
    pub pid: u32,
    /// How many events it has read and not yet stored.
    pub buffered: usize,
    /// Whether the store could not be written when that was tried last.
    #[serde(default)]
    pub failing: bool,
    /// The hosts it records.
    pub hosts: Vec<HostState>,
}

/// How the recorder is doing with one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// The host as it was given.
    pub host: String,
    /// The engine last reached there.
    pub engine_id: Option<String>,
    /// Whether its stream is open now.
    pub connected: bool,
    /// Why not, if that is known.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// The right to record into a file, for as long as this value lives.
#[derive(Debug)]
pub struct RecorderLock {
    file: File,
    path: PathBuf,
    place: Place,
    /// Whether the lock's file was not there before.
    made: bool,
}

impl RecorderLock {
    /// Takes the right to record into the store at `path`.
    ///
    /// # Errors
    /// [`StoreError::Recorded`] with the process that has it.
    pub fn acquire(path: &Path) -> Result<RecorderLock, StoreError> {
        let lock = lock_path(path);
        let io = |source| StoreError::Io { doing: "lock", path: lock.clone(), source };
        let made = !lock.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(io)?;
        let since = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if since.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    let pid = read_state(&file).map(|state| state.pid);
                    return Err(StoreError::Recorded { path: path.into(), pid });
                }
                Err(TryLockError::Error(e)) => return Err(io(e)),
            }
        }
        let place = Place::of(&lock).map_err(io)?;
        let mut lock = RecorderLock { file, path: lock, place, made };
        lock.publish(&RecorderState { pid: std::process::id(), ..RecorderState::default() })?;
        Ok(lock)
    }

    /// Nothing was recorded after all: the lock's file goes, if it came with the lock.
    pub fn abandon(self) {
        if self.made {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Where the lock's file was when it was taken.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Says how the recorder is doing.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish(&mut self, state: &RecorderState) -> Result<(), StoreError> {
        let json = serde_json::to_vec(state).expect("a state has no key that is no string");
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&json))
            .and_then(|()| self.file.set_len(json.len() as u64))
            .map_err(|source| StoreError::Io { doing: "write", path: self.path.clone(), source })
    }
}

/// How the recorder of the store at `path` is doing; `None` if none runs.
pub fn recorder(path: &Path) -> Option<RecorderState> {
    let file = File::open(lock_path(path)).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    // Read while it is being written the state may be torn; then it is whole a moment later.
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

/// The lock belongs to the file, by whatever name it is called.
fn lock_path(path: &Path) -> PathBuf {
    let mut lock = path.canonicalize().unwrap_or_else(|_| path.into()).into_os_string();
    lock.push(".lock");
    lock.into()
}
