//! `events record`: engines → streams → events → the store, for as long as it runs.
//!
//! One collector a host reads its engine's stream and hands what came to a bounded queue; one writer thread stores it.
//! A collector never waits for the writer. When the file is not at its path any more, all of that ends and begins anew
//! with what is there.

mod board;
pub(super) mod clock;
mod collector;
mod contact;
mod counter;
mod file;
mod healthchecks;
mod inquiry;
mod look;
mod meanwhile;
pub(super) mod memory;
mod metrics;
mod pulse;
mod service;
mod sources;
mod tally;
mod watched;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use board::Board;
use collector::Collector;
use file::Opened;
use service::Service;
use sources::Sources;
use watched::Watched;

use super::hosts::Hosts;
use super::kept::Kept;
use super::redact::Redact;
use super::select::Filters;
use super::{Failure, Shared, now_nano, size};
use crate::engine::{EngineError, Host, MetricsPage};
use crate::error::chain;
use crate::event::Redaction;
use crate::query::{Selection, time};
use crate::serve::{self, Address};
use crate::store::{Head, Limits, Outcome, Queue, REJECTED_ROWS, Written, spawn_writer, unsafe_disk};
use crate::stream::DEFAULT_LINE_LIMIT;

/// How often the end of the hash chain is logged.
const HEAD_SAID: Duration = Duration::from_secs(3600);

/// How long it may take at the end until nothing runs any more that was started to reach an engine.
const CLOSING: Duration = Duration::from_secs(5);

/// The flags of `record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    redact: Redact,
    /// Stop then; `now`: take what the engine remembers, and stop
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Recording")]
    until: Option<String>,
    /// How often to ask the engine again for what its stream may have left out; 0: never
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Recording")]
    look_again: String,
    /// Where an engine counts its events, to find what it drops: http://host:port, dockerd's metrics-addr, or NAME=URL
    /// for the host of that name; repeatable
    #[arg(long, value_name = "URL", help_heading = "Recording")]
    engine_metrics: Vec<String>,
    /// How much memory may hold what is read and not yet stored
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Recording")]
    buffer: String,
    /// The longest event taken; a longer line is rejected
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Recording")]
    max_event: String,
    /// How many lines that are no event are kept of each engine; more are only counted
    #[arg(long, value_name = "N", default_value_t = REJECTED_ROWS, help_heading = "Recording")]
    rejected_limit: u64,
    #[command(flatten)]
    kept: Kept,
    /// Show Prometheus how it is doing, at /metrics, and others at /healthz and /readyz: tcp://127.0.0.1:9324 or
    /// unix:///path
    #[arg(long, value_name = "ADDRESS", help_heading = "Being watched")]
    metrics: Option<Address>,
    /// Let other machines read --metrics
    #[arg(long, requires = "metrics", help_heading = "Being watched")]
    allow_remote: bool,
}

/// How often an engine is asked whether it is there: with the time it may take to answer, and twice, that is less than a
/// minute.
const PING: Duration = Duration::from_secs(15);

/// What to record, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The engines.
    pub hosts: Vec<Host>,
    /// The store.
    pub path: PathBuf,
    /// What to store of it.
    pub selection: Selection,
    /// What to take out of that before it is stored.
    pub redaction: Redaction,
    /// When to stop.
    pub until: Until,
    /// How often to ask for the memory again; `None`: never.
    pub look_again: Option<Duration>,
    /// How often to ask the engine whether it is there, unless it is asked for its memory as often.
    pub ping: Duration,
    /// Where the engines count their events, by the place of their hosts.
    pub metrics: BTreeMap<usize, MetricsPage>,
    /// How many bytes may wait for the store.
    pub buffer: usize,
    /// The longest event, in bytes.
    pub max_event: usize,
    /// How many lines that are no event are stored of each engine, and how much is kept.
    pub limits: Limits,
    /// Where to show how it is doing.
    pub shown_at: Option<Address>,
    /// Whom to tell how it is doing.
    pub service: Service,
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When told to.
    Stopped,
    /// When what the engines remember is taken.
    MemoryTaken,
    /// At this instant, in nanoseconds since the epoch.
    Instant(i64),
}

impl Plan {
    /// The usual way to record hosts into a store.
    pub fn new(hosts: Vec<Host>, path: PathBuf) -> Plan {
        Plan {
            hosts,
            path,
            selection: Selection::default(),
            redaction: Redaction::default(),
            until: Until::Stopped,
            look_again: Some(Duration::from_secs(10)),
            ping: PING,
            metrics: BTreeMap::new(),
            buffer: 64 << 20,
            max_event: DEFAULT_LINE_LIMIT,
            limits: Limits { rejected: REJECTED_ROWS, ..Limits::default() },
            shown_at: None,
            service: Service::default(),
        }
    }
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let plan = args.plan(shared.db()?)?;
    shared.make_own_directory()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    runtime.block_on(async {
        let no_signals = |e| Failure::failed(format!("cannot listen for signals: {e}"));
        let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let stop = async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        };
        record(plan, stop).await.map(|_| ())
    })
}

impl Args {
    fn plan(&self, path: PathBuf) -> Result<Plan, Failure> {
        let until = match self.until.as_deref() {
            None => Until::Stopped,
            Some("now") => Until::MemoryTaken,
            Some(text) => {
                let now = now_nano();
                let instant = time::parse_time(text, now)?;
                if instant <= now {
                    let hint = match time::parse_duration(text) {
                        Ok(_) => format!("a duration counts back from now: --until=-{text} is to come; now: take what"),
                        Err(_) => "now: take what".into(),
                    };
                    return Err(Failure::usage(format!("--until {text} is over already"))
                        .hint(format!("{hint} the engine remembers, and stop")));
                }
                Until::Instant(instant)
            }
        };
        let look_again = Some(time::parse_duration(&self.look_again)?).filter(|every| !every.is_zero());
        let hosts = self.hosts.find()?;
        let metrics = self.metrics(&hosts)?;
        if look_again.is_none() && !metrics.is_empty() {
            return Err(Failure::usage("--engine-metrics compares at each --look-again, which is 0")
                .hint("leave --look-again out, or --engine-metrics"));
        }
        Ok(Plan {
            shown_at: self.shown_at()?,
            service: Service::of(|name| std::env::var(name).ok()),
            hosts,
            metrics,
            path,
            selection: self.filters.selection()?,
            redaction: self.redact.redaction()?,
            until,
            look_again,
            ping: PING,
            buffer: size("--buffer", &self.buffer)?,
            max_event: size("--max-event", &self.max_event)?,
            limits: Limits { rejected: self.rejected_limit, keep: self.kept.keep()? },
        })
    }

    fn shown_at(&self) -> Result<Option<Address>, Failure> {
        match &self.metrics {
            Some(address) if !address.is_local() && !self.allow_remote => {
                Err(Failure::usage(format!("--metrics {address} can be reached from other machines, by anybody"))
                    .hint("--allow-remote if that is meant"))
            }
            address => Ok(address.clone()),
        }
    }

    /// Which host's engine counts where.
    fn metrics(&self, hosts: &[Host]) -> Result<BTreeMap<usize, MetricsPage>, Failure> {
        let mut metrics = BTreeMap::new();
        for text in &self.engine_metrics {
            let page: MetricsPage = text.parse()?;
            let host = match &page.name {
                Some(name) => hosts.iter().position(|host| host.name.as_ref() == Some(name)),
                None => (hosts.len() == 1).then_some(0),
            };
            let host = host.ok_or_else(|| match &page.name {
                Some(name) => Failure::usage(format!("--engine-metrics {text}: no host is called {name}"))
                    .hint(format!("name it: -H {name}=URL")),
                None => Failure::usage(format!("--engine-metrics {text}: of which of {} hosts?", hosts.len()))
                    .hint(format!("write NAME={text}, and -H NAME=URL")),
            })?;
            if metrics.insert(host, page).is_some() {
                return Err(Failure::usage(format!("--engine-metrics {text}: that host has one already")));
            }
        }
        Ok(metrics)
    }
}

/// Records until the plan ends or `stop` does; then everything that was read is stored.
///
/// # Errors
/// A store that cannot be opened, is being recorded into, or could not take what was read; with an end set, a host
/// that was never reached.
pub async fn record(plan: Plan, stop: impl Future<Output = ()>) -> Result<Written, Failure> {
    let plan = Arc::new(plan);
    let board = Arc::new(Board::new(plan.hosts.iter().map(|host| host.url().to_owned())));
    let watched = Arc::new(Watched::new(&plan, board.clone()));
    // They go when this function ends.
    let _attendants = attended(&plan, &watched)?;
    let mut file = Opened::at(&plan.path)?;
    if let Some(disk) = unsafe_disk(&plan.path) {
        let path = plan.path.display();
        tracing::warn!("{path} is on {disk}: SQLite's locks and WAL are not safe on a network filesystem");
    }
    let mut over = pin!(async {
        tokio::select! {
            () = stop => {}
            () = until(plan.until) => {}
        }
        plan.service.is_stopping();
    });
    let mut sources = Sources::default();
    let mut stored = Written::default();
    let (not_stored, mut failed) = loop {
        let queue = Arc::new(Queue::new(plan.buffer).counting(watched.counters.clone()));
        watched.records_into(queue.clone(), &file.rows);
        sources = sources.in_another(std::mem::take(&mut file.rows), std::mem::take(&mut file.healthchecks));
        let shared = Arc::new(sources);
        let ended = sitting(&plan, file, queue, &shared, &board, over.as_mut()).await;
        stored += ended.outcome.stored;
        if !ended.moved {
            break (ended.outcome.failed, ended.failed);
        }
        if let Some(not_stored) = ended.outcome.failed {
            tracing::error!("{}", chain(&not_stored));
        }
        board.all_disconnected();
        watched.records_nowhere();
        file = tokio::select! {
            file = Opened::again(&plan.path) => file,
            () = over.as_mut() => break (None, ended.failed),
        };
        sources = Arc::into_inner(shared).expect("all collectors have ended");
    };
    // What was started for a connection ends after it.
    let closed = async {
        for host in &plan.hosts {
            host.closed().await;
        }
    };
    let _ = tokio::time::timeout(CLOSING, closed).await;
    tracing::info!(
        "stopped: {} events stored, {} were there already, {} lines rejected",
        stored.events,
        stored.known,
        stored.rejected
    );
    if stored.old > 0 {
        let why = if plan.limits.keep.age.is_none() { "pruned earlier" } else { "older than what is kept" };
        tracing::info!("{} events were {why}, and left out", stored.old);
    }
    if let Some(not_stored) = not_stored {
        return Err(not_stored.into());
    }
    if let Some(last) = failed.pop() {
        failed.iter().for_each(|e| tracing::error!("{}", chain(e)));
        return Err(last.into());
    }
    if let Until::Instant(_) = plan.until
        && let Some(host) = (0..plan.hosts.len()).find(|host| !board.was_reached(*host))
    {
        return Err(Failure::failed(format!("{} was never reached", plan.hosts[host]))
            .hint(format!("`docker -H {} version` tells more", plan.hosts[host])));
    }
    Ok(stored)
}

/// Those who are told how it is doing, each for as long as this lives.
fn attended(plan: &Arc<Plan>, watched: &Arc<Watched>) -> Result<JoinSet<()>, Failure> {
    let mut attendants = JoinSet::new();
    if let Some(address) = &plan.shown_at {
        let shown = serve::show(address, metrics::pages(watched.clone()))?;
        tracing::info!("showing /metrics, /healthz and /readyz on {}", shown.at());
        attendants.spawn(shown);
        let measured = watched.clone();
        attendants.spawn(async move { measured.measure().await });
    }
    let (service, watched) = (plan.service.clone(), watched.clone());
    attendants.spawn(async move { service.attend(&watched).await });
    Ok(attendants)
}

/// How the recording into one file ended.
struct Ended {
    /// The file is not where it was.
    moved: bool,
    outcome: Outcome,
    /// Why some hosts could not be taken.
    failed: Vec<EngineError>,
}

/// Records into one file, until it is `over` or the file is not where it was; then everything that was read is in it.
async fn sitting(
    plan: &Arc<Plan>,
    Opened { store, lock, head, .. }: Opened,
    queue: Arc<Queue>,
    sources: &Arc<Sources>,
    board: &Arc<Board>,
    over: Pin<&mut impl Future<Output = ()>>,
) -> Ended {
    let places = [store.place().clone(), lock.place().clone()];
    let lock = Arc::new(Mutex::new(lock));
    let writer = spawn_writer(store, queue.clone(), plan.limits);
    tracing::info!("recording {} into {}", names(&plan.hosts), plan.path.display());

    let (stopping, stopped) = tokio::sync::watch::channel(false);
    let mut collectors = JoinSet::new();
    for index in 0..plan.hosts.len() {
        let collector = Collector {
            index,
            plan: plan.clone(),
            queue: queue.clone(),
            sources: sources.clone(),
            board: board.clone(),
            stopped: stopped.clone(),
        };
        collectors.spawn(collector.run());
    }

    let mut failed = Vec::new();
    let moved = tokio::select! {
        () = join_all(&mut collectors, &mut failed) => false,
        () = over => false,
        () = file::gone(places) => true,
        () = board.publish(&lock, &queue) => false,
        () = say_head(head, &queue) => false,
    };
    // Each collector hands over what it holds and ends; then the writer has all there is.
    let _ = stopping.send(true);
    join_all(&mut collectors, &mut failed).await;
    queue.close();
    let outcome = tokio::task::spawn_blocking(|| writer.join().expect("the writer does not panic"))
        .await
        .expect("waiting does not panic");
    tracing::info!("head {}", queue.head().unwrap_or(head));
    Ended { moved, outcome, failed }
}

/// Waits for all collectors to end, and gathers why some could not do what they should.
async fn join_all(collectors: &mut JoinSet<Result<(), EngineError>>, failed: &mut Vec<EngineError>) {
    while let Some(done) = collectors.join_next().await {
        failed.extend(done.expect("a collector does not panic").err());
    }
}

/// Logs the end of the hash chain every hour, so that it stands where whoever edits the store does not reach.
async fn say_head(opened: Head, queue: &Queue) {
    loop {
        tokio::time::sleep(HEAD_SAID).await;
        tracing::info!("head {}", queue.head().unwrap_or(opened));
    }
}

async fn until(until: Until) {
    match until {
        Until::Stopped | Until::MemoryTaken => std::future::pending().await,
        // In steps: the clock that is meant may be set meanwhile, and a timer does not see that.
        Until::Instant(instant) => {
            while let Ok(left @ 1..) = u64::try_from(instant - now_nano()) {
                tokio::time::sleep(Duration::from_nanos(left).min(Duration::from_secs(1))).await;
            }
        }
    }
}

fn names(hosts: &[Host]) -> String {
    hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(", ")
}
