//! An engine for tests: made of a recording or of what the test says, on a socket of its own.
//!
//! ```
//! use events::testing::Engine;
//!
//! let engine = Engine::start()?;
//! engine.push(r#"{"Type":"container","Action":"oom","Actor":{"ID":"c1"},"time":1}"#);
//! // The program under test is started with DOCKER_HOST set to this, and then:
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

use crate::serve::{self, Address, FaultKind, Faults, Feed, History, ListenError};
use crate::stream::{ReadError, fixtures};

/// An engine that runs until it is dropped.
#[derive(Debug)]
pub struct Engine {
    feed: Feed,
    address: Address,
    subscribers: watch::Receiver<usize>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    _folder: TempDir,
}

/// An engine that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The recording cannot be read.
    #[error(transparent)]
    Fixture(#[from] ReadError),
    /// There is no place for its socket, or no thread for it.
    #[error("cannot start an engine")]
    Start(#[from] io::Error),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Engine {
    /// An engine to which nothing has happened yet.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn start() -> Result<Engine, EngineError> {
        Engine::begin(Feed::default(), Faults::default())
    }

    /// An engine that remembers a recording: NDJSON or json-seq, also as `.gz` or `.zst`.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn from_fixture(path: impl AsRef<Path>) -> Result<Engine, EngineError> {
        Engine::from_fixture_with_faults(path, Vec::new(), 0)
    }

    /// The same with streams that break; what is random in that comes from the seed alone.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn from_fixture_with_faults(
        path: impl AsRef<Path>,
        faults: Vec<FaultKind>,
        seed: u64,
    ) -> Result<Engine, EngineError> {
        let feed = Feed::default();
        fixtures(&[path])?.iter().for_each(|(_, raw)| feed.push(raw));
        Engine::begin(feed, Faults::new(faults, seed))
    }

    fn begin(feed: Feed, faults: Faults) -> Result<Engine, EngineError> {
        let folder = tempfile::Builder::new().prefix("events-engine-").tempdir()?;
        let address = Address::Unix(folder.path().join("docker.sock"));
        let engine = serve::Engine::new(History::Feed(feed.clone())).with_faults(faults);
        let subscribers = engine.subscribers();
        let engine = Arc::new(engine);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listening = {
            let _within = runtime.enter();
            engine.listen(&address, None)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = listening => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Engine { feed, address, subscribers, running: Some((stop, thread)), _folder: folder })
    }

    /// What to set `DOCKER_HOST` to.
    pub fn docker_host(&self) -> String {
        self.address.to_string()
    }

    /// Something happens: it is remembered, and told to whoever listens. The bytes are sent as they are.
    pub fn push(&self, event: impl AsRef<[u8]>) {
        self.feed.push(event.as_ref());
    }

    /// Waits until so many subscribers listen; whether they came in time. Blocks its thread, within a runtime too.
    pub fn wait_for_subscribers(&self, number: usize, patience: Duration) -> bool {
        let mut subscribers = self.subscribers.clone();
        let wait = || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return false };
            let came = async { tokio::time::timeout(patience, subscribers.wait_for(|count| *count >= number)).await };
            matches!(runtime.block_on(came), Ok(Ok(_)))
        };
        // A runtime of one's own cannot be waited for on a thread of another, as that of an async test.
        std::thread::scope(|scope| scope.spawn(wait).join()).unwrap_or(false)
    }

    /// Waits until somebody listens; whether one came within 10 seconds.
    pub fn wait_for_subscriber(&self) -> bool {
        self.wait_for_subscribers(1, Duration::from_secs(10))
    }

    /// It stops: streams end as those of a daemon that is gone.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}
