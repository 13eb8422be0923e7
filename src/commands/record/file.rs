//! The file that is recorded into: locked and opened, watched, and opened anew when something else is at its path.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::error::chain;
use crate::store::{Head, Place, RecorderLock, SourceRow, Store, StoreError};

/// How often it is looked whether the file is where it was, or can be opened again.
const WATCH: Duration = Duration::from_secs(1);

/// A store that is ours to record into, and what it knows.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) lock: RecorderLock,
    pub(super) rows: Vec<SourceRow>,
    /// How containers check their health: engine, container, command.
    pub(super) healthchecks: Vec<(String, String, String)>,
    /// The end of its hash chain.
    pub(super) head: Head,
}

impl Opened {
    /// Opens the store at `path`; makes it if there is none.
    pub(super) fn at(path: &Path) -> Result<Opened, StoreError> {
        Store::prepare(path)?;
        let lock = RecorderLock::acquire(path)?;
        let open = |store: Store| Ok((store.sources()?, store.healthchecks()?, store.head()?, store));
        match Store::open_or_create(path).and_then(open) {
            Ok((rows, healthchecks, head, store)) => Ok(Opened { store, lock, rows, healthchecks, head }),
            Err(e) => {
                lock.abandon();
                Err(e)
            }
        }
    }

    /// The same, tried until it works. What keeps it from that is said once.
    pub(super) async fn again(path: &Path) -> Opened {
        let mut said = String::new();
        loop {
            match Opened::at(path) {
                Ok(opened) => return opened,
                Err(e) => {
                    let hint = e.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                    let line = chain(&e) + &hint;
                    if said != line {
                        tracing::error!("{line}; nothing is recorded until that works, and it is tried again");
                        said = line;
                    }
                }
            }
            sleep(WATCH).await;
        }
    }
}

/// Waits until one of the files, the store and its lock, is not where it was; and says so.
pub(super) async fn gone(places: [Place; 2]) {
    loop {
        sleep(WATCH).await;
        let places = places.clone();
        // A disk that does not answer should not keep the streams from being read.
        let gone = tokio::task::spawn_blocking(|| places.into_iter().find(|place| !place.is_kept())).await;
        if let Some(place) = gone.expect("looking does not panic") {
            let what = if place.is_empty() { "moved or deleted" } else { "replaced" };
            let path = place.path().display();
            tracing::warn!("{path} was {what}; what was read is in the file that was there, and recording begins anew");
            return;
        }
    }
}
