//! The store that receives the events of the exercise: that of a running recorder, or a temporary one.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::exercise::CONTAINER_TIMEOUT;
use crate::cli::Failure;
use crate::engine::Host;
use crate::event::Event;
use crate::query::{Filter, SelectedEvents, Selection};
use crate::recorder::{Config, Recorder};
use crate::store::{self, Order, Reader, StoreError};

/// Store with a recorder: that of a running recorder, or a temporary one.
pub(super) enum RecordedStore {
    Existing(PathBuf),
    Temporary(PathBuf, CancellationToken, tokio::task::JoinHandle<()>, tempfile::TempDir),
}

impl RecordedStore {
    /// Finds a running recorder of this host, or starts one with a temporary store. Does not change the store at `db`.
    pub(super) async fn find_or_start(host: &Host, db: &Path) -> Result<RecordedStore, Failure> {
        let recorder = store::recorder_state(db);
        if recorder.is_some_and(|state| state.hosts.iter().any(|known| known.connected && known.host == host.url())) {
            return Ok(RecordedStore::Existing(db.into()));
        }
        let dir = tempfile::Builder::new()
            .prefix("events-doctor-")
            .tempdir()
            .map_err(|e| Failure::failed(format!("cannot create a temporary directory: {e}")))?;
        let path = dir.path().join("events.db");
        let config = Config::new(vec![host.clone()], path.clone());
        let shutdown = CancellationToken::new();
        let recorder = Recorder::run(config, shutdown.clone());
        let task = tokio::spawn(async move {
            if let Err(e) = recorder.await {
                Failure::from(e).report(crate::cli::LogFormat::Text);
            }
        });
        let deadline = Instant::now() + CONTAINER_TIMEOUT;
        while !store::recorder_state(&path).is_some_and(|state| state.hosts.iter().any(|host| host.connected)) {
            if Instant::now() > deadline || task.is_finished() {
                return Err(Failure::failed("the temporary recorder cannot connect to the engine"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(RecordedStore::Temporary(path, shutdown, task, dir))
    }

    pub(super) fn description(&self) -> String {
        match self {
            RecordedStore::Existing(path) => format!("a running recorder stores its events in {}", path.display()),
            RecordedStore::Temporary(..) => "started a recorder with a temporary store".into(),
        }
    }

    /// Waits until the events of a container are stored, and returns their actions.
    pub(super) async fn wait_for_events(&self, id: &str) -> Result<Vec<String>, Failure> {
        let (RecordedStore::Existing(path) | RecordedStore::Temporary(path, ..)) = self;
        let required = ["create", "start", "die"];
        let deadline = Instant::now() + CONTAINER_TIMEOUT;
        loop {
            let actions = stored_actions(path, id)?;
            if required.iter().all(|expected| actions.iter().any(|action| action == expected)) {
                return Ok(required.map(String::from).into());
            }
            if Instant::now() > deadline {
                let message = format!(
                    "expected the events create, start and die in the store, found only [{}]",
                    actions.join(", ")
                );
                return Err(Failure::failed(message).hint("check whether the recorder runs with --filter"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn stop(self) {
        if let RecordedStore::Temporary(_, shutdown, task, _dir) = self {
            shutdown.cancel();
            let _ = task.await;
        }
    }
}

/// Actions of the stored events of a container, in order of time.
fn stored_actions(path: &Path, id: &str) -> Result<Vec<String>, StoreError> {
    let mut filter = Filter::default();
    filter.add(&format!("container={id}")).expect("container is a filter key");
    let selection = Selection { filter, ..Selection::default() };
    let reader = Reader::open(path)?;
    let mut actions = Vec::new();
    let selected = SelectedEvents::new(&reader, &selection, None);
    let _ = selected.for_each::<()>(reader.snapshot(0)?, Order::Time, |stored| {
        actions.extend(Event::parse(stored.raw).map(|event| event.action.to_string()));
        ControlFlow::Continue(())
    })?;
    Ok(actions)
}
