//! Records one host: connects, runs a session, and reconnects when it ends.
//!
//! This module decides when to connect, and logs why it cannot. The session decides what is stored.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::backoff::Backoff;
use super::clock_skew::{self, Skew};
use super::config::{Config, Until};
use super::driver::{self, Driven, Driver};
use super::session::{EngineCounter, EngineState, PreviousSession, Session, SessionEnd, SessionStart};
use super::sources::{LastEngine, Sources};
use super::telemetry::Status;
use crate::clock::now_nano;
use crate::engine::{ByteStream, Client, EngineError, EngineInfo, Host};
use crate::error::chain;
use crate::store::{Delivery, Full, GapChange, GapReason, Queue, SourceKey};

/// Minimum age of a stream without new events for the next attempt to be immediate.
const MIN_STABLE_DURATION: Duration = Duration::from_secs(5);

/// Number of consecutive sessions without an outcome after which the engine counts as unreachable.
const MAX_SESSIONS_WITHOUT_OUTCOME: u32 = 3;

/// Time limit for reaching an engine with `--until now`.
const BACKLOG_ONLY_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval between attempts to record an engine that is recorded through another host.
const LEASE_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Minimum interval between warnings that the store does not keep up.
const OVERFLOW_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// State that the connections of all hosts share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) queue: Arc<Queue>,
    pub(super) sources: Arc<Sources>,
    pub(super) status: Arc<Status>,
    /// Cancelled when the connections must end.
    pub(super) close: CancellationToken,
}

/// Task that records one host. Its flags make each warning appear once.
#[derive(Debug)]
pub(super) struct Connection {
    index: usize,
    shared: Shared,
    /// True if the log reports the engine as unreachable.
    unreachable: bool,
    lease_conflict_logged: bool,
    engine_logged: bool,
    last_overflow_warning: Option<Instant>,
    /// True if the last session ended because the queue was full.
    overflowed: bool,
    /// Number of consecutive sessions that ended without an outcome.
    sessions_without_outcome: u32,
    /// Counter of the engine, if it has a metrics page; a session owns it while it lasts.
    engine_counter: Option<EngineCounter>,
}

/// End of an attempt to record.
enum AttemptEnd {
    Session(SessionEnd),
    /// Another host reaches the same engine, and its connection records it.
    RecordedElsewhere,
    /// The connection was closed.
    Closed,
}

/// An engine that answers and can be recorded.
struct Reached {
    client: Client,
    info: EngineInfo,
    skew: Option<Skew>,
    /// Stream of the engine; `None` if only the backlog is read.
    stream: Option<ByteStream>,
}

impl Connection {
    /// Creates the connection to the host with this index.
    pub(super) fn new(index: usize, shared: Shared) -> Connection {
        let engine_counter = shared.config.engine_metrics.contains_key(&index).then(EngineCounter::default);
        Connection {
            index,
            shared,
            unreachable: false,
            lease_conflict_logged: false,
            engine_logged: false,
            last_overflow_warning: None,
            overflowed: false,
            sessions_without_outcome: 0,
            engine_counter,
        }
    }

    /// Records until the connection is closed. With `--until now`, records until the backlog is stored.
    ///
    /// # Errors
    /// Fails only with `--until now`, if the backlog cannot be read.
    pub(super) async fn run(mut self) -> Result<(), EngineError> {
        let mut backoff = Backoff::default();
        let started = Instant::now();
        let backlog_only = self.is_backlog_only();
        loop {
            if !self.sleep(backoff.next_delay()).await {
                return Ok(());
            }
            let (end, is_stable) = self.attempt().await;
            self.shared.status.set_disconnected(self.index);
            self.overflowed = matches!(end, Ok(AttemptEnd::Session(SessionEnd::Overflowed)));
            if self.overflowed || is_stable {
                backoff.reset();
            }
            match end {
                Ok(AttemptEnd::Session(SessionEnd::Completed) | AttemptEnd::Closed) => return Ok(()),
                Ok(AttemptEnd::RecordedElsewhere) if backlog_only => return Ok(()),
                Ok(AttemptEnd::Session(SessionEnd::Overflowed)) => {}
                Ok(AttemptEnd::RecordedElsewhere) => {
                    if !self.sleep(LEASE_RETRY_DELAY).await {
                        return Ok(());
                    }
                }
                Err(e @ EngineError::Unterminated { .. }) if backlog_only => return Err(e),
                Err(e) if backlog_only && started.elapsed() > BACKLOG_ONLY_CONNECT_TIMEOUT => return Err(e),
                Ok(AttemptEnd::Session(SessionEnd::StreamEnded)) => {
                    self.report_lost_stream(&format!("{} closes its stream immediately", self.host()));
                }
                Err(e @ EngineError::Interrupted { .. }) => self.report_lost_stream(&chain(&e)),
                Err(e) => self.report_unreachable(&chain(&e), e.hint()),
            }
        }
    }

    fn host(&self) -> &Host {
        &self.shared.config.hosts[self.index]
    }

    fn is_backlog_only(&self) -> bool {
        self.shared.config.until == Until::BacklogRead
    }

    /// Sleeps. Returns false if the connection was closed.
    async fn sleep(&self, duration: Duration) -> bool {
        self.shared.close.run_until_cancelled(tokio::time::sleep(duration)).await.is_some()
    }

    /// Logs the end of a stream. This is normal unless no session reaches an outcome.
    fn report_lost_stream(&mut self, text: &str) {
        if self.sessions_without_outcome >= MAX_SESSIONS_WITHOUT_OUTCOME {
            self.report_unreachable(text, None);
        } else {
            tracing::debug!("{text}");
        }
    }

    /// Logs once that the engine is unreachable. Opens a gap from the last event seen until more is known.
    fn report_unreachable(&mut self, text: &str, hint: Option<String>) {
        self.shared.status.set_error(self.index, text);
        if std::mem::replace(&mut self.unreachable, true) {
            tracing::debug!("{text}");
            return;
        }
        if self.is_backlog_only() {
            // The reason is printed at the end, as the error of the recorder.
            tracing::warn!(
                "{} does not answer; the recorder retries for {} s",
                self.host(),
                BACKLOG_ONLY_CONNECT_TIMEOUT.as_secs()
            );
        } else {
            let hint = hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            let host = self.host().url();
            tracing::warn!(host, "{text}{hint}; the recorder retries until it succeeds");
        }
        if let Some(engine) = self.shared.sources.last_engine_at(self.host().url()) {
            let from = engine.last_seen.map(|seen| seen.time_nano);
            let detail = Some(text.to_owned());
            let gap = GapChange::Reported { from, to: None, reason: GapReason::Disconnected, detail };
            self.push_gap(engine.id, gap);
        }
    }

    /// Reports that another engine now answers at this host, so that the events of the previous one are missed.
    fn report_engine_change(&mut self, previous: LastEngine, info: &EngineInfo) {
        let host = self.host();
        tracing::warn!(
            host = host.url(),
            engine = info.id,
            "{host} now reaches another engine: {}, previously {}",
            info.id,
            previous.id
        );
        if let Some(seen) = previous.last_seen {
            let gap = GapChange::Reported {
                from: Some(seen.time_nano),
                to: Some(now_nano()),
                reason: GapReason::EngineRestart,
                detail: Some(format!("{host} now reaches the engine {}", info.id)),
            };
            self.push_gap(previous.id, gap);
        }
        self.engine_counter.iter_mut().for_each(EngineCounter::reset);
    }

    fn source_key(&self, info: &EngineInfo) -> Arc<SourceKey> {
        let host = self.host();
        let configured_name = host.name.clone();
        Arc::new(SourceKey {
            engine_id: Some(info.id.clone()),
            overrides_name: configured_name.is_some(),
            name: configured_name.unwrap_or_else(|| info.name.clone()),
            host: Some(host.url().to_owned()),
        })
    }

    /// Queues a change of a gap. A full queue drops the change; the next session finds the gap again.
    fn push_gap(&self, engine_id: String, gap: GapChange) {
        let source = self.source_key(&EngineInfo { id: engine_id, ..EngineInfo::default() });
        let _ = self.shared.queue.push(Delivery { gap: Some(gap), ..Delivery::new(source, now_nano()) });
    }

    /// Connects, and runs one session. Returns its end, and true if the next attempt may be immediate.
    async fn attempt(&mut self) -> (Result<AttemptEnd, EngineError>, bool) {
        let close = self.shared.close.clone();
        let Some(reached) = close.run_until_cancelled(self.reach_engine()).await else {
            return (Ok(AttemptEnd::Closed), false);
        };
        let (client, info, skew) = match reached {
            Ok(reached) => reached,
            Err(e) => return (Err(e), false),
        };
        let last_engine = self.shared.sources.last_engine_at(self.host().url());
        let mut engine = match self.shared.sources.acquire(&info.id, self.host().url()) {
            Ok(engine) => engine,
            Err(other_host) => {
                self.report_lease_conflict(&info, &other_host);
                return (Ok(AttemptEnd::RecordedElsewhere), false);
            }
        };
        self.lease_conflict_logged = false;
        if let Some(previous) = last_engine.filter(|last| last.id != info.id) {
            self.report_engine_change(previous, &info);
        }
        if close.run_until_cancelled(self.queue_undelivered(&mut engine)).await.is_none() {
            self.shared.sources.release(&info.id, engine);
            return (Ok(AttemptEnd::Closed), false);
        }
        engine.skew_warning.update(&info.name, skew);
        let stream = match close.run_until_cancelled(self.open_stream(&client)).await {
            Some(Ok(stream)) => stream,
            Some(Err(e)) => {
                self.shared.sources.release(&info.id, engine);
                self.sessions_without_outcome += 1;
                return (Err(e), false);
            }
            None => {
                self.shared.sources.release(&info.id, engine);
                return (Ok(AttemptEnd::Closed), false);
            }
        };
        self.run_session(Reached { client, info, skew, stream }, engine).await
    }

    /// Connects to the engine, and requests its identity and time.
    async fn reach_engine(&self) -> Result<(Client, EngineInfo, Option<Skew>), EngineError> {
        let client = Client::negotiate(self.host()).await?;
        let (info, skew) = clock_skew::measure(&client).await?;
        self.shared.status.set_engine(self.index, &info.id);
        Ok((client, info, skew))
    }

    /// Queues what the queue refused at the end of the last session.
    async fn queue_undelivered(&self, engine: &mut EngineState) {
        while let Some(delivery) = engine.undelivered.first() {
            let last_seen = delivery.last_seen;
            match self.shared.queue.push(engine.undelivered.remove(0)) {
                Ok(()) => last_seen.into_iter().for_each(|event| engine.set_last_seen(event)),
                Err(Full(delivery)) => {
                    engine.undelivered.insert(0, *delivery);
                    self.shared.queue.wait_for_space(engine.undelivered[0].bytes()).await;
                }
            }
        }
    }

    async fn open_stream(&self, client: &Client) -> Result<Option<ByteStream>, EngineError> {
        Ok(if self.is_backlog_only() { None } else { Some(client.events().await?) })
    }

    fn report_lease_conflict(&mut self, info: &EngineInfo, other_host: &str) {
        if !std::mem::replace(&mut self.lease_conflict_logged, true) {
            let (host, EngineInfo { name, id, .. }) = (self.host(), info);
            tracing::warn!(
                "{host} reaches the same engine as {other_host}; the recorder stores its events once ({name}, {id})"
            );
        }
    }

    /// Runs one session with an engine.
    async fn run_session(&mut self, reached: Reached, engine: EngineState) -> (Result<AttemptEnd, EngineError>, bool) {
        let Reached { client, info, skew, stream } = reached;
        let Shared { config, queue, sources, close, .. } = self.shared.clone();
        let source = self.source_key(&info);
        let (opened_at, last_seen) = (Instant::now(), engine.last_seen);
        let start = SessionStart {
            config: config.clone(),
            source: source.clone(),
            engine,
            counter: self.engine_counter.take(),
            previous: PreviousSession { overflowed: self.overflowed, unreachable: self.unreachable },
            skew,
        };
        let session = if stream.is_some() {
            self.report_connected(&info);
            Session::new(start, driver::now())
        } else {
            Session::backlog_only(start, driver::now())
        };
        let metrics = config.engine_metrics.get(&self.index).cloned();
        let driver = Driver { client, config, queue, source: source.clone(), metrics, close, requests: JoinSet::new() };
        let span = tracing::info_span!("session", host = self.host().url(), engine = info.id, source = source.name);
        let Driven { end, rest } = driver.run(session, stream, || self.warn_overflow(&info)).instrument(span).await;
        // An event that was not known before, or a stream that stayed open.
        let is_stable = rest.engine.last_seen != last_seen || opened_at.elapsed() >= MIN_STABLE_DURATION;
        sources.release(&info.id, rest.engine);
        self.engine_counter = rest.counter;
        if rest.has_outcome {
            (self.sessions_without_outcome, self.unreachable) = (0, false);
        } else {
            self.sessions_without_outcome += 1;
        }
        (end.map_or(Ok(AttemptEnd::Closed), |end| end.map(AttemptEnd::Session)), is_stable)
    }

    fn report_connected(&mut self, info: &EngineInfo) {
        self.shared.status.set_connected(self.index);
        let is_back = self.unreachable && self.sessions_without_outcome < MAX_SESSIONS_WITHOUT_OUTCOME;
        if is_back || !self.engine_logged {
            let (host, name) = (self.host(), &info.name);
            tracing::info!(host = host.url(), engine = info.id, "connected to {host}: engine {name} ({})", info.id);
            self.engine_logged = true;
            self.unreachable = false;
        }
    }

    /// Logs that the queue is full, not too often.
    fn warn_overflow(&mut self, info: &EngineInfo) {
        if self.last_overflow_warning.is_none_or(|at| at.elapsed() > OVERFLOW_WARNING_INTERVAL) {
            self.last_overflow_warning = Some(Instant::now());
            let name = &self.source_key(info).name;
            tracing::warn!(
                source = name,
                "the buffer is full: the recorder discards events of {name} and requests them again when there is room"
            );
        }
    }
}
