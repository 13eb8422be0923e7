//! An engine for tests of other programs. It serves a recording, or the events that a test pushes, on its own socket.
//!
//! ```
//! use events::testing::Engine;
//!
//! let engine = Engine::start()?;
//! engine.push(r#"{"Type":"container","Action":"oom","Actor":{"ID":"c1"},"time":1}"#);
//! // Start the program under test with DOCKER_HOST set to this:
//! println!("{}", engine.docker_host());
//! # Ok::<(), events::testing::EngineError>(())
//! ```

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use crate::http::{Address, ListenError};
use crate::serve::{self, FaultKind, Faults, Feed, History};
use crate::stream::{ReadError, load_events};

/// An engine that runs until it is dropped.
#[derive(Debug)]
pub struct Engine {
    feed: Feed,
    address: Address,
    subscribers: watch::Receiver<usize>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    _temp_dir: TempDir,
}

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The recording cannot be read.
    #[error(transparent)]
    Fixture(#[from] ReadError),
    /// Its socket directory, runtime or thread cannot be created.
    #[error("cannot start the test engine")]
    Start(#[from] io::Error),
    /// The engine cannot listen on its socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Engine {
    /// Starts an engine without events.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn start() -> Result<Engine, EngineError> {
        Engine::start_with(Feed::default(), Faults::default())
    }

    /// Starts an engine with the events of a file: NDJSON or json-seq, also `.gz` or `.zst`.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn from_fixture(path: impl AsRef<Path>) -> Result<Engine, EngineError> {
        Engine::from_fixture_with_faults(path, Vec::new(), 0)
    }

    /// Starts an engine with the events of a file and streams that break. The random part depends only on the seed.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn from_fixture_with_faults(
        path: impl AsRef<Path>,
        faults: Vec<FaultKind>,
        seed: u64,
    ) -> Result<Engine, EngineError> {
        let feed = Feed::default();
        load_events(&[path])?.iter().for_each(|(_, raw)| feed.push(raw));
        Engine::start_with(feed, Faults::new(faults, seed))
    }

    fn start_with(feed: Feed, faults: Faults) -> Result<Engine, EngineError> {
        let temp_dir = tempfile::Builder::new().prefix("events-engine-").tempdir()?;
        let address = Address::Unix(temp_dir.path().join("docker.sock"));
        let engine = serve::Engine::new(History::Feed(feed.clone())).with_faults(faults);
        let subscribers = engine.subscribers();
        let engine = Arc::new(engine);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let server = {
            let _guard = runtime.enter();
            engine.listen(&address, None)?
        };
        let (stop, stop_signal) = oneshot::channel();
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = server => {}
                    _ = stop_signal => {}
                }
            });
        })?;
        Ok(Engine { feed, address, subscribers, running: Some((stop, thread)), _temp_dir: temp_dir })
    }

    /// Returns the value for `DOCKER_HOST`.
    pub fn docker_host(&self) -> String {
        self.address.to_string()
    }

    /// Adds an event and sends it to all subscribers, byte for byte.
    pub fn push(&self, event: impl AsRef<[u8]>) {
        self.feed.push(event.as_ref());
    }

    /// Waits for at least `minimum` subscribers. Returns true if they arrived within `timeout`. Blocks the thread, also
    /// within a runtime.
    pub fn wait_for_subscribers(&self, minimum: usize, timeout: Duration) -> bool {
        let mut subscribers = self.subscribers.clone();
        let wait = || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return false };
            let reached =
                async { tokio::time::timeout(timeout, subscribers.wait_for(|count| *count >= minimum)).await };
            matches!(runtime.block_on(reached), Ok(Ok(_)))
        };
        // A runtime cannot block on a thread of another runtime, such as that of an async test.
        std::thread::scope(|scope| scope.spawn(wait).join()).unwrap_or(false)
    }

    /// Waits up to 10 seconds for a subscriber. Returns true if one arrived.
    pub fn wait_for_subscriber(&self) -> bool {
        self.wait_for_subscribers(1, Duration::from_secs(10))
    }

    /// Stops the engine. Streams end as when a daemon stops.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down();
    }
}
