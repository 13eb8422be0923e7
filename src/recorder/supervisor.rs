//! Opens the store, records every host into it, and opens it again when the file at the path changes.
//!
//! One connection task for each host reads the engine's stream and pushes its events into a bounded queue. One writer
//! thread stores them. A connection never waits for the writer. When the file at the path disappears or changes, all of
//! them end, and recording starts again with the file that is there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::config::{Config, Until};
use super::connection::{self, Connection};
use super::error::RecorderError;
use super::file_watch::{self, OpenedStore};
use super::sources::Sources;
use super::telemetry::{Health, Status, metrics};
use crate::clock::now_nano;
use crate::engine::{EngineError, Host};
use crate::error::chain;
use crate::http;
use crate::store::{Head, Queue, WriteStats, WriterOutcome, spawn_writer, unsafe_filesystem};

/// Interval between log lines with the head of the hash chain.
const HEAD_LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// Time limit for the end of everything that was started to reach an engine.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A recorder of one or more engines into one store.
#[derive(Debug)]
pub struct Recorder {
    config: Arc<Config>,
    status: Arc<Status>,
    health: Arc<Health>,
    /// Cancelled when the recording ends: by the caller, or at the configured time.
    shutdown: CancellationToken,
}

/// Result of recording into one file.
struct FileOutcome {
    /// True if the file has disappeared from its path, or was replaced.
    file_moved: bool,
    writer: WriterOutcome,
    /// Errors of hosts whose backlog could not be stored.
    host_errors: Vec<EngineError>,
}

impl Recorder {
    /// Records until the configured end, or until `shutdown` is cancelled. Then stores everything that was read.
    ///
    /// # Errors
    /// Fails if the store cannot be opened, has a recorder already, or could not store what was read. With an end,
    /// fails also if a host was never reached.
    pub async fn run(config: Config, shutdown: CancellationToken) -> Result<WriteStats, RecorderError> {
        let config = Arc::new(config);
        let status = Arc::new(Status::new(config.hosts.iter().map(|host| host.url().to_owned())));
        let health = Arc::new(Health::new(&config, status.clone()));
        let recorder = Recorder { config, status, health, shutdown: shutdown.child_token() };
        // Dropping these at the end of the function stops the tasks.
        let _tasks = recorder.spawn_tasks()?;
        let mut stored = WriteStats::default();
        let last = recorder.record_files(&mut stored).await?;
        recorder.close_hosts().await;
        recorder.log_summary(&stored);
        recorder.check_end(last)?;
        Ok(stored)
    }

    /// Starts the tasks that report the state of the recorder, and the one that ends it at the configured time.
    fn spawn_tasks(&self) -> Result<JoinSet<()>, RecorderError> {
        let mut tasks = JoinSet::new();
        let telemetry = &self.config.telemetry;
        if let Some(address) = &telemetry.metrics_address {
            let server = http::serve_pages(address, metrics::pages(self.health.clone()))?;
            tracing::info!("serving /metrics, /healthz and /readyz on {}", server.address());
            tasks.spawn(server);
            let health = self.health.clone();
            tasks.spawn(async move { health.poll_store_size().await });
        }
        let (notifier, health) = (telemetry.notifier.clone(), self.health.clone());
        tasks.spawn(async move { notifier.run(&health).await });
        if let Until::Instant(instant) = self.config.until {
            let shutdown = self.shutdown.clone();
            tasks.spawn(async move {
                wait_until(instant).await;
                shutdown.cancel();
            });
        }
        Ok(tasks)
    }

    /// Records into the file at the path, and into each file that replaces it. Returns the outcome of the last one.
    async fn record_files(&self, stored: &mut WriteStats) -> Result<FileOutcome, RecorderError> {
        let path = &self.config.path;
        let mut file = OpenedStore::open(path)?;
        if let Some(filesystem) = unsafe_filesystem(path) {
            let path = path.display();
            tracing::warn!("{path} is on {filesystem}: SQLite's locks and WAL are not safe on a network filesystem");
        }
        let mut sources = Sources::default();
        loop {
            let queue = Arc::new(Queue::new(self.config.buffer).with_counters(self.health.counters.clone()));
            self.health.attach_queue(queue.clone(), &file.source_rows);
            sources =
                sources.for_new_store(std::mem::take(&mut file.source_rows), std::mem::take(&mut file.healthchecks));
            let shared_sources = Arc::new(sources);
            let mut outcome = self.record_into(file, queue, &shared_sources).await;
            *stored += outcome.writer.stored;
            if !outcome.file_moved {
                return Ok(outcome);
            }
            if let Some(write_error) = outcome.writer.error.take() {
                tracing::error!("{}", chain(&write_error));
            }
            self.status.set_all_disconnected();
            self.health.detach_queue();
            file = tokio::select! {
                file = OpenedStore::reopen(path) => file,
                () = self.shutdown.cancelled() => {
                    self.config.telemetry.notifier.notify_stopping();
                    return Ok(outcome);
                }
            };
            sources = Arc::into_inner(shared_sources).expect("all connections have ended");
        }
    }

    /// Records into one file, until the shutdown or until the file disappears from its path. Then everything that was
    /// read is in the file.
    async fn record_into(&self, file: OpenedStore, queue: Arc<Queue>, sources: &Arc<Sources>) -> FileOutcome {
        let OpenedStore { store, lock, head, .. } = file;
        let config = &self.config;
        let files = [store.identity().clone(), lock.identity().clone()];
        let lock = Arc::new(Mutex::new(lock));
        let writer = spawn_writer(store, queue.clone(), config.limits);
        tracing::info!("recording {} into {}", host_names(&config.hosts), config.path.display());

        let close = CancellationToken::new();
        let mut connections = JoinSet::new();
        let shared = connection::Shared {
            config: config.clone(),
            queue: queue.clone(),
            sources: sources.clone(),
            status: self.status.clone(),
            close: close.clone(),
        };
        for index in 0..config.hosts.len() {
            connections.spawn(Connection::new(index, shared.clone()).run());
        }
        drop(shared);

        let mut host_errors = Vec::new();
        let file_moved = tokio::select! {
            () = join_all(&mut connections, &mut host_errors) => false,
            () = self.shutdown.cancelled() => {
                config.telemetry.notifier.notify_stopping();
                false
            }
            () = file_watch::wait_until_moved(files) => true,
            () = self.status.publish(&lock, &queue) => false,
            () = log_heads(head, &queue) => false,
        };
        // Each connection queues what it holds and ends. After that, the queue contains everything.
        close.cancel();
        join_all(&mut connections, &mut host_errors).await;
        queue.close();
        let writer = tokio::task::spawn_blocking(|| writer.join().expect("the writer does not panic"))
            .await
            .expect("waiting for the writer does not panic");
        log_head(queue.head().unwrap_or(head));
        FileOutcome { file_moved, writer, host_errors }
    }

    /// Waits for the processes of the connections, which can outlive them.
    async fn close_hosts(&self) {
        let close_hosts = async {
            for host in &self.config.hosts {
                host.wait_closed().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close_hosts).await;
    }

    fn log_summary(&self, stored: &WriteStats) {
        tracing::info!(
            "stopped: {} events stored, {} already in the store, {} lines rejected",
            stored.events,
            stored.duplicates,
            stored.rejected
        );
        if stored.expired > 0 {
            let has_max_age = self.config.limits.retention.max_age.is_some();
            let reason = if has_max_age { "older than --retain" } else { "pruned before" };
            tracing::info!("{} events were {reason} and were not stored", stored.expired);
        }
    }

    /// Returns the error with which the recording ended, if there is one. Of several, the others are logged.
    fn check_end(&self, FileOutcome { writer, mut host_errors, .. }: FileOutcome) -> Result<(), RecorderError> {
        if let Some(write_error) = writer.error {
            return Err(write_error.into());
        }
        if let Some(last) = host_errors.pop() {
            host_errors.iter().for_each(|e| tracing::error!("{}", chain(e)));
            return Err(last.into());
        }
        if let Until::Instant(_) = self.config.until
            && let Some(host) = (0..self.config.hosts.len()).find(|host| !self.status.was_reached(*host))
        {
            return Err(RecorderError::NeverConnected { host: self.config.hosts[host].to_string() });
        }
        Ok(())
    }
}

/// Waits for all connections to end, and collects their errors.
async fn join_all(connections: &mut JoinSet<Result<(), EngineError>>, host_errors: &mut Vec<EngineError>) {
    while let Some(result) = connections.join_next().await {
        host_errors.extend(result.expect("a connection does not panic").err());
    }
}

/// Logs the head of the hash chain every hour. Somebody who can edit the store may not be able to edit the log.
async fn log_heads(initial_head: Head, queue: &Queue) {
    loop {
        tokio::time::sleep(HEAD_LOG_INTERVAL).await;
        log_head(queue.head().unwrap_or(initial_head));
    }
}

fn log_head(head: Head) {
    tracing::info!(seq = head.seq, "head {head}");
}

/// Waits until a time, in nanoseconds since the epoch.
async fn wait_until(instant: i64) {
    // The wait is in steps, because a timer does not notice if the system clock is set.
    while let Ok(remaining @ 1..) = u64::try_from(instant - now_nano()) {
        tokio::time::sleep(Duration::from_nanos(remaining).min(Duration::from_secs(1))).await;
    }
}

fn host_names(hosts: &[Host]) -> String {
    hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(", ")
}
