//! Locks and opens the store file, watches it, and opens the path again when the file there changes.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::error::chain;
use crate::store::{FileIdentity, Head, RecorderLock, SourceRow, Store, StoreError};

/// Interval between checks of the file, and between attempts to open it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A store that this recorder has locked, and what it contains about sources.
pub(super) struct OpenedStore {
    pub(super) store: Store,
    pub(super) lock: RecorderLock,
    pub(super) source_rows: Vec<SourceRow>,
    /// Health check commands: engine, container, command.
    pub(super) healthchecks: Vec<(String, String, String)>,
    /// Head of the hash chain.
    pub(super) head: Head,
}

impl OpenedStore {
    /// Opens the store at `path`, or creates it.
    pub(super) fn open(path: &Path) -> Result<OpenedStore, StoreError> {
        Store::prepare(path)?;
        let lock = RecorderLock::acquire(path)?;
        let load = |store: Store| Ok((store.sources()?, store.healthchecks()?, store.head()?, store));
        match Store::open_or_create(path).and_then(load) {
            Ok((source_rows, healthchecks, head, store)) => {
                Ok(OpenedStore { store, lock, source_rows, healthchecks, head })
            }
            Err(e) => {
                lock.abandon();
                Err(e)
            }
        }
    }

    /// Opens the store, and retries until it succeeds. Logs an error when it differs from the previous one.
    pub(super) async fn reopen(path: &Path) -> OpenedStore {
        let mut last_error = String::new();
        loop {
            match OpenedStore::open(path) {
                Ok(opened) => return opened,
                Err(e) => {
                    let hint = e.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                    let message = chain(&e) + &hint;
                    if last_error != message {
                        tracing::error!(
                            "{message}; the recorder stores nothing until it can open the file, and retries every second"
                        );
                        last_error = message;
                    }
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Waits until the store or its lock file has disappeared from its path or was replaced, and logs it.
pub(super) async fn wait_until_moved(files: [FileIdentity; 2]) {
    loop {
        sleep(POLL_INTERVAL).await;
        let files = files.clone();
        // This has its own thread: a disk that hangs must not block the streams.
        let moved = tokio::task::spawn_blocking(|| files.into_iter().find(|file| !file.is_current())).await;
        if let Some(file) = moved.expect("the check does not panic") {
            let change = if file.is_missing() { "moved or deleted" } else { "replaced" };
            let path = file.path().display();
            tracing::warn!(
                "{path} was {change}; events read so far are in the old file, and the recorder opens the path again"
            );
            return;
        }
    }
}
