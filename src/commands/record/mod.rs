//! `events record`: reads the streams of engines and stores their events until it is stopped.
//!
//! One connection task for each host reads the engine's stream and pushes its events into a bounded queue. One writer
//! thread stores them. A connection never waits for the writer. When the file at the path disappears or changes, all of
//! them end. Recording then starts again with the file that is there. This module does not know where events come from
//! or how they are stored: connections and the store do.

pub(super) mod backlog;
mod backlog_check;
pub(super) mod clock_skew;
mod connection;
mod container_diff;
mod drop_counter;
mod engine_counter;
mod file_watch;
mod gap_report;
mod health;
mod healthcheck_gate;
mod liveness;
mod metrics;
mod session;
mod sources;
mod status;
mod systemd;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use connection::Connection;
use file_watch::OpenedStore;
use health::Health;
use sources::Sources;
use status::Status;
use systemd::Notifier;

use super::hosts::HostArgs;
use super::redact::RedactionArgs;
use super::retention_args::RetentionArgs;
use super::selection_args::FilterArgs;
use super::{Failure, Shared, now_nano, parse_size};
use crate::engine::{EngineError, Host, MetricsEndpoint};
use crate::error::chain;
use crate::event::Redaction;
use crate::query::{Selection, time};
use crate::serve::{self, Address};
use crate::store::{
    DEFAULT_MAX_REJECTED, Head, Limits, Queue, WriteStats, WriterOutcome, spawn_writer, unsafe_filesystem,
};
use crate::stream::DEFAULT_LINE_LIMIT;

/// Interval between log lines with the head of the hash chain.
const HEAD_LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// Time limit for the end of everything that was started to reach an engine.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    hosts: HostArgs,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten, next_help_heading = "Recording options")]
    redact: RedactionArgs,
    /// Stop at this time; `now` stores the backlog and stops
    ///
    /// Takes the same formats as `events query --until`. A negative duration is in the future: `--until=-1h`.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Recording options")]
    until: Option<String>,
    /// Interval of the backlog check, which finds events missing from the stream
    ///
    /// For example 30s; 0 disables the check.
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Recording options")]
    look_again: String,
    /// URL of dockerd's metrics, to detect dropped events; repeatable
    ///
    /// http://host:port, as set by `metrics-addr` in daemon.json. With several hosts, NAME=URL for the host of that name.
    #[arg(long, value_name = "URL", help_heading = "Recording options")]
    engine_metrics: Vec<String>,
    /// Memory limit for events that are read but not yet stored
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Recording options")]
    buffer: String,
    /// Maximum length of an event; longer lines are rejected
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Recording options")]
    max_event: String,
    /// Maximum number of rejected lines to store for each engine
    ///
    /// Further rejected lines are only counted.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_REJECTED, help_heading = "Recording options")]
    rejected_limit: u64,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Serve Prometheus metrics and health checks on this address
    ///
    /// tcp://127.0.0.1:9324 or unix:///path. The paths are /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS", help_heading = "Monitoring options")]
    metrics: Option<Address>,
    /// Allow other machines to read `--metrics`
    #[arg(long, requires = "metrics", help_heading = "Monitoring options")]
    allow_remote: bool,
}

/// Interval of the liveness probe. Two probes and their timeouts take less than a minute.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Configuration of a recording.
#[derive(Clone, Debug)]
pub struct Config {
    /// Hosts of the engines.
    pub hosts: Vec<Host>,
    /// Path of the store.
    pub path: PathBuf,
    /// Selection of the events to store.
    pub selection: Selection,
    /// Redaction of events before they are stored.
    pub redaction: Redaction,
    /// End of the recording.
    pub until: Until,
    /// Interval of the backlog check; `None` turns it off.
    pub backlog_check_interval: Option<Duration>,
    /// Interval of the liveness probe. The probe is off if the backlog check is at least as frequent.
    pub ping_interval: Duration,
    /// Metrics pages of the engines, by the index of their hosts.
    pub engine_metrics: BTreeMap<usize, MetricsEndpoint>,
    /// Limit for events that are read and not yet stored, in bytes.
    pub buffer: usize,
    /// Maximum length of an event, in bytes.
    pub max_event: usize,
    /// Maximum number of rejected lines for each engine, and retention.
    pub limits: Limits,
    /// Address of the metrics and health endpoints.
    pub metrics_address: Option<Address>,
    /// Connection to the service manager.
    pub notifier: Notifier,
}

/// End of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// No end: the recording ends when it is stopped.
    Stopped,
    /// The end of the backlog of every engine.
    BacklogRead,
    /// A time, in nanoseconds since the Unix epoch.
    Instant(i64),
}

impl Config {
    /// Creates the default configuration for recording hosts into a store.
    pub fn new(hosts: Vec<Host>, path: PathBuf) -> Config {
        Config {
            hosts,
            path,
            selection: Selection::default(),
            redaction: Redaction::default(),
            until: Until::Stopped,
            backlog_check_interval: Some(Duration::from_secs(10)),
            ping_interval: PING_INTERVAL,
            engine_metrics: BTreeMap::new(),
            buffer: 64 << 20,
            max_event: DEFAULT_LINE_LIMIT,
            limits: Limits { max_rejected: DEFAULT_MAX_REJECTED, ..Limits::default() },
            metrics_address: None,
            notifier: Notifier::default(),
        }
    }
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let config = args.config(shared.db_path()?)?;
    shared.create_default_dir()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start the async runtime: {e}")))?;
    runtime.block_on(async {
        let signal_error = |e| Failure::failed(format!("cannot listen for signals: {e}"));
        let mut sigterm = signal(SignalKind::terminate()).map_err(signal_error)?;
        let mut sigint = signal(SignalKind::interrupt()).map_err(signal_error)?;
        let stop = async move {
            tokio::select! {
                _ = sigterm.recv() => {}
                _ = sigint.recv() => {}
            }
        };
        record(config, stop).await.map(|_| ())
    })
}

impl Args {
    fn config(&self, path: PathBuf) -> Result<Config, Failure> {
        let until = match self.until.as_deref() {
            None => Until::Stopped,
            Some("now") => Until::BacklogRead,
            Some(text) => {
                let now = now_nano();
                let instant = time::parse_time(text, now)?;
                if instant <= now {
                    let hint = match time::parse_duration(text) {
                        Ok(_) => format!("use --until=-{text} for a time in the future, or `now` to"),
                        Err(_) => "use `now` to".into(),
                    };
                    return Err(Failure::usage(format!("--until {text} is in the past"))
                        .hint(format!("{hint} record the backlog and stop")));
                }
                Until::Instant(instant)
            }
        };
        let backlog_check_interval =
            Some(time::parse_duration(&self.look_again)?).filter(|interval| !interval.is_zero());
        let hosts = self.hosts.resolve()?;
        let engine_metrics = self.parse_engine_metrics(&hosts)?;
        if backlog_check_interval.is_none() && !engine_metrics.is_empty() {
            return Err(Failure::usage("--engine-metrics needs the backlog check, which --look-again 0 turns off")
                .hint("omit --look-again or --engine-metrics"));
        }
        Ok(Config {
            metrics_address: self.metrics_address()?,
            notifier: Notifier::from_env(|name| std::env::var(name).ok()),
            hosts,
            engine_metrics,
            path,
            selection: self.filters.selection()?,
            redaction: self.redact.redaction()?,
            until,
            backlog_check_interval,
            ping_interval: PING_INTERVAL,
            buffer: parse_size("--buffer", &self.buffer)?,
            max_event: parse_size("--max-event", &self.max_event)?,
            limits: Limits { max_rejected: self.rejected_limit, retention: self.retention.retention()? },
        })
    }

    fn metrics_address(&self) -> Result<Option<Address>, Failure> {
        match &self.metrics {
            Some(address) if !address.is_local() && !self.allow_remote => Err(Failure::usage(format!(
                "--metrics {address} can be reached from other machines without authentication"
            ))
            .hint("pass --allow-remote to allow it")),
            address => Ok(address.clone()),
        }
    }

    /// Assigns the metrics pages to the hosts, by index.
    fn parse_engine_metrics(&self, hosts: &[Host]) -> Result<BTreeMap<usize, MetricsEndpoint>, Failure> {
        let mut metrics = BTreeMap::new();
        for text in &self.engine_metrics {
            let page: MetricsEndpoint = text.parse()?;
            let host = match &page.name {
                Some(name) => hosts.iter().position(|host| host.name.as_ref() == Some(name)),
                None => (hosts.len() == 1).then_some(0),
            };
            let host = host.ok_or_else(|| match &page.name {
                Some(name) => Failure::usage(format!("--engine-metrics {text}: no host has the name {name}"))
                    .hint(format!("name the host with -H {name}=URL")),
                None => Failure::usage(format!(
                    "--engine-metrics {text}: with {} hosts, the URL needs the name of its host",
                    hosts.len()
                ))
                .hint(format!("write NAME={text}, and name the host with -H NAME=URL")),
            })?;
            if metrics.insert(host, page).is_some() {
                return Err(Failure::usage(format!("--engine-metrics {text}: the host already has a metrics URL")));
            }
        }
        Ok(metrics)
    }
}

/// Records until the configured end, or until `stop` completes. Then stores everything that was read.
///
/// # Errors
/// Fails if the store cannot be opened, has a recorder already, or could not store what was read. With an end, fails
/// also if a host was never reached.
pub async fn record(config: Config, stop: impl Future<Output = ()>) -> Result<WriteStats, Failure> {
    let config = Arc::new(config);
    let status = Arc::new(Status::new(config.hosts.iter().map(|host| host.url().to_owned())));
    let health = Arc::new(Health::new(&config, status.clone()));
    // Dropping this at the end of the function stops the tasks.
    let _telemetry = spawn_telemetry(&config, &health)?;
    let mut file = OpenedStore::open(&config.path)?;
    if let Some(filesystem) = unsafe_filesystem(&config.path) {
        let path = config.path.display();
        tracing::warn!("{path} is on {filesystem}: SQLite's locks and WAL are not safe on a network filesystem");
    }
    let mut shutdown = pin!(async {
        tokio::select! {
            () = stop => {}
            () = wait_until(config.until) => {}
        }
        config.notifier.notify_stopping();
    });
    let mut sources = Sources::default();
    let mut stored = WriteStats::default();
    let (write_error, mut host_errors) = loop {
        let queue = Arc::new(Queue::new(config.buffer).with_counters(health.counters.clone()));
        health.attach_queue(queue.clone(), &file.source_rows);
        sources = sources.for_new_store(std::mem::take(&mut file.source_rows), std::mem::take(&mut file.healthchecks));
        let shared_sources = Arc::new(sources);
        let recording = record_into(&config, file, queue, &shared_sources, &status, shutdown.as_mut()).await;
        stored += recording.outcome.stored;
        if !recording.file_moved {
            break (recording.outcome.error, recording.host_errors);
        }
        if let Some(write_error) = recording.outcome.error {
            tracing::error!("{}", chain(&write_error));
        }
        status.set_all_disconnected();
        health.detach_queue();
        file = tokio::select! {
            file = OpenedStore::reopen(&config.path) => file,
            () = shutdown.as_mut() => break (None, recording.host_errors),
        };
        sources = Arc::into_inner(shared_sources).expect("all connections have ended");
    };
    // Processes of a connection can outlive it.
    let close_hosts = async {
        for host in &config.hosts {
            host.wait_closed().await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, close_hosts).await;
    tracing::info!(
        "stopped: {} events stored, {} already in the store, {} lines rejected",
        stored.events,
        stored.duplicates,
        stored.rejected
    );
    if stored.expired > 0 {
        let reason = if config.limits.retention.max_age.is_none() { "pruned before" } else { "older than --retain" };
        tracing::info!("{} events were {reason} and were not stored", stored.expired);
    }
    if let Some(write_error) = write_error {
        return Err(write_error.into());
    }
    if let Some(last) = host_errors.pop() {
        host_errors.iter().for_each(|e| tracing::error!("{}", chain(e)));
        return Err(last.into());
    }
    if let Until::Instant(_) = config.until
        && let Some(host) = (0..config.hosts.len()).find(|host| !status.was_reached(*host))
    {
        return Err(Failure::failed(format!("the recorder never connected to {}", config.hosts[host]))
            .hint(format!("run `docker -H {} version` to find the reason", config.hosts[host])));
    }
    Ok(stored)
}

/// Starts the tasks that report the state of the recorder. They stop when the result is dropped.
fn spawn_telemetry(config: &Arc<Config>, health: &Arc<Health>) -> Result<JoinSet<()>, Failure> {
    let mut tasks = JoinSet::new();
    if let Some(address) = &config.metrics_address {
        let server = serve::serve_pages(address, metrics::pages(health.clone()))?;
        tracing::info!("serving /metrics, /healthz and /readyz on {}", server.address());
        tasks.spawn(server);
        let health_handle = health.clone();
        tasks.spawn(async move { health_handle.poll_store_size().await });
    }
    let (notifier, health) = (config.notifier.clone(), health.clone());
    tasks.spawn(async move { notifier.run(&health).await });
    Ok(tasks)
}

/// Result of recording into one file.
struct RecordingOutcome {
    /// True if the file has disappeared from its path, or was replaced.
    file_moved: bool,
    outcome: WriterOutcome,
    /// Errors of hosts whose backlog could not be stored.
    host_errors: Vec<EngineError>,
}

/// Records into one file, until `shutdown` completes or the file disappears from its path. Then everything that was
/// read is in the file.
async fn record_into(
    config: &Arc<Config>,
    OpenedStore { store, lock, head, .. }: OpenedStore,
    queue: Arc<Queue>,
    sources: &Arc<Sources>,
    status: &Arc<Status>,
    shutdown: Pin<&mut impl Future<Output = ()>>,
) -> RecordingOutcome {
    let files = [store.identity().clone(), lock.identity().clone()];
    let lock = Arc::new(Mutex::new(lock));
    let writer = spawn_writer(store, queue.clone(), config.limits);
    tracing::info!("recording {} into {}", host_names(&config.hosts), config.path.display());

    let (shutdown_sender, shutdown_receiver) = tokio::sync::watch::channel(false);
    let mut connections = JoinSet::new();
    for index in 0..config.hosts.len() {
        let connection = Connection {
            index,
            config: config.clone(),
            queue: queue.clone(),
            sources: sources.clone(),
            status: status.clone(),
            shutdown: shutdown_receiver.clone(),
        };
        connections.spawn(connection.run());
    }

    let mut host_errors = Vec::new();
    let file_moved = tokio::select! {
        () = join_all(&mut connections, &mut host_errors) => false,
        () = shutdown => false,
        () = file_watch::wait_until_moved(files) => true,
        () = status.publish(&lock, &queue) => false,
        () = log_head(head, &queue) => false,
    };
    // Each connection queues what it holds and ends. After that, the queue contains everything.
    let _ = shutdown_sender.send(true);
    join_all(&mut connections, &mut host_errors).await;
    queue.close();
    let outcome = tokio::task::spawn_blocking(|| writer.join().expect("the writer does not panic"))
        .await
        .expect("waiting for the writer does not panic");
    tracing::info!("head {}", queue.head().unwrap_or(head));
    RecordingOutcome { file_moved, outcome, host_errors }
}

/// Waits for all connections to end, and collects their errors.
async fn join_all(connections: &mut JoinSet<Result<(), EngineError>>, host_errors: &mut Vec<EngineError>) {
    while let Some(result) = connections.join_next().await {
        host_errors.extend(result.expect("a connection does not panic").err());
    }
}

/// Logs the head of the hash chain every hour. Somebody who can edit the store may not be able to edit the log.
async fn log_head(initial_head: Head, queue: &Queue) {
    loop {
        tokio::time::sleep(HEAD_LOG_INTERVAL).await;
        tracing::info!("head {}", queue.head().unwrap_or(initial_head));
    }
}

async fn wait_until(until: Until) {
    match until {
        Until::Stopped | Until::BacklogRead => std::future::pending().await,
        // The wait is in steps, because a timer does not notice if the system clock is set.
        Until::Instant(instant) => {
            while let Ok(remaining @ 1..) = u64::try_from(instant - now_nano()) {
                tokio::time::sleep(Duration::from_nanos(remaining).min(Duration::from_secs(1))).await;
            }
        }
    }
}

fn host_names(hosts: &[Host]) -> String {
    hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(", ")
}
