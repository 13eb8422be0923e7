//! Records one host: connects, runs a session, and reconnects when it ends.
//!
//! This module decides when to connect, and logs why it cannot. The session decides what is stored.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::backlog::{self, Timeouts};
use super::clock_skew::{self, SkewWarning};
use super::engine_counter::EngineCounter;
use super::liveness;
use super::session::{PreviousSession, Session, SessionEnd, empty_delivery};
use super::sources::Sources;
use super::status::Status;
use super::{Config, Until};
use crate::commands::now_nano;
use crate::engine::{Client, EngineError, EngineInfo, Host};
use crate::error::chain;
use crate::store::{Delivery, GapChange, GapReason, Queue, SourceKey};
use crate::stream::backoff::Backoff;

/// Minimum age of a stream without new events for the next attempt to be immediate.
const MIN_STABLE_DURATION: Duration = Duration::from_secs(5);

/// Number of consecutive sessions without an outcome after which the engine counts as unreachable.
const MAX_SESSIONS_WITHOUT_OUTCOME: u32 = 3;

/// Time limit for reaching an engine with `--until now`.
const BACKLOG_ONLY_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limits for the backlog response with `--until now`.
const BACKLOG_ONLY_TIMEOUTS: Timeouts = Timeouts { idle: Duration::from_secs(10), total: Duration::from_secs(60) };

/// Delay from opening the stream to requesting the engine's version.
const SETTLE_DELAY: Duration = Duration::from_millis(300);

/// Interval between attempts to get the lease on an engine that is recorded through another host.
const LEASE_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Task that records one host.
pub(super) struct Connection {
    pub(super) index: usize,
    pub(super) config: Arc<Config>,
    pub(super) queue: Arc<Queue>,
    pub(super) sources: Arc<Sources>,
    pub(super) status: Arc<Status>,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// State of a host between sessions. Its flags make each warning appear once.
#[derive(Default)]
struct ConnectionState {
    /// True if the log reports the engine as unreachable.
    unreachable: bool,
    lease_conflict_logged: bool,
    engine_logged: bool,
    last_overflow_warning: Option<Instant>,
    skew_warning: SkewWarning,
    overflowed: bool,
    /// Number of consecutive sessions that ended without an outcome.
    sessions_without_outcome: u32,
    /// Counter of the engine, while no session uses it.
    engine_counter: Option<EngineCounter>,
}

impl Connection {
    /// Records until shutdown. With `--until now`, records until the backlog is stored.
    ///
    /// # Errors
    /// Fails only with `--until now`, if the backlog cannot be read.
    pub(super) async fn run(mut self) -> Result<(), EngineError> {
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            result = self.keep_recording() => result,
            _ = shutdown.wait_for(|stopped| *stopped) => Ok(()),
        }
    }

    fn host(&self) -> &Host {
        &self.config.hosts[self.index]
    }

    async fn keep_recording(&mut self) -> Result<(), EngineError> {
        let mut backoff = Backoff::default();
        let counter = self.config.engine_metrics.get(&self.index).cloned().map(EngineCounter::new);
        let mut state = ConnectionState { engine_counter: counter, ..ConnectionState::default() };
        let started = Instant::now();
        let backlog_only = self.config.until == Until::BacklogRead;
        loop {
            tokio::time::sleep(backoff.next_delay()).await;
            let mut session = None;
            let end = self.run_session(&mut session, &mut state).await;
            self.status.set_disconnected(self.index);
            state.overflowed = matches!(end, Ok(SessionEnd::Overflowed));
            match session.as_ref().map(Session::has_outcome) {
                Some(true) => (state.sessions_without_outcome, state.unreachable) = (0, false),
                Some(false) => state.sessions_without_outcome += 1,
                None => {}
            }
            state.engine_counter = session.as_mut().and_then(Session::take_engine_counter).or(state.engine_counter);
            if state.overflowed || session.is_some_and(|session| session.was_stable(MIN_STABLE_DURATION)) {
                backoff.reset();
            }
            match end {
                Ok(SessionEnd::Completed) => return Ok(()),
                Ok(SessionEnd::Overflowed) => {}
                Ok(SessionEnd::LeasedElsewhere) => tokio::time::sleep(LEASE_RETRY_DELAY).await,
                Err(e @ EngineError::Unterminated { .. }) if backlog_only => return Err(e),
                Err(e) if backlog_only && started.elapsed() > BACKLOG_ONLY_CONNECT_TIMEOUT => return Err(e),
                Ok(SessionEnd::StreamEnded) => {
                    self.report_lost_stream(&format!("{} closes its stream immediately", self.host()), &mut state);
                }
                Err(e @ EngineError::Interrupted { .. }) => self.report_lost_stream(&chain(&e), &mut state),
                Err(e) => self.report_unreachable(&chain(&e), e.hint(), &mut state),
            }
        }
    }

    /// Logs the end of a stream. This is normal unless no session reaches an outcome.
    fn report_lost_stream(&self, text: &str, state: &mut ConnectionState) {
        if state.sessions_without_outcome >= MAX_SESSIONS_WITHOUT_OUTCOME {
            self.report_unreachable(text, None, state);
        } else {
            tracing::debug!("{text}");
        }
    }

    /// Logs once that the engine is unreachable. Opens a gap from the last event seen until more is known.
    fn report_unreachable(&self, text: &str, hint: Option<String>, state: &mut ConnectionState) {
        self.status.set_error(self.index, text);
        if state.unreachable {
            tracing::debug!("{text}");
            return;
        }
        state.unreachable = true;
        if self.config.until == Until::BacklogRead {
            // The reason is printed at the end, as the error of `run`.
            tracing::warn!(
                "{} does not answer; the recorder retries for {} s",
                self.host(),
                BACKLOG_ONLY_CONNECT_TIMEOUT.as_secs()
            );
        } else {
            let hint = hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            tracing::warn!("{text}{hint}; the recorder retries until it succeeds");
        }
        if let Some(engine_id) = self.sources.last_engine_at(self.host().url()) {
            let from = self.sources.last_seen(&engine_id).map(|seen| seen.time_nano);
            let source = self.source_key(&EngineInfo { id: engine_id, ..EngineInfo::default() });
            let detail = Some(text.to_owned());
            self.push_gap(source, GapChange::Reported { from, to: None, reason: GapReason::Disconnected, detail });
        }
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
    fn push_gap(&self, source: Arc<SourceKey>, gap: GapChange) {
        let _ = self.queue.push(Delivery { gap: Some(gap), ..empty_delivery(source) });
    }

    /// Runs one session, from connecting to the end of the stream.
    async fn run_session(
        &self,
        session_slot: &mut Option<Session>,
        state: &mut ConnectionState,
    ) -> Result<SessionEnd, EngineError> {
        let host = self.host();
        let backlog_only = self.config.until == Until::BacklogRead;
        let client = Client::negotiate(host).await?;
        let (info, skew) = clock_skew::measure(&client).await?;
        self.status.set_engine(self.index, &info.id);
        let previous_engine = self.sources.last_engine_at(host.url()).filter(|engine_id| *engine_id != info.id);
        let lease = match self.sources.acquire(&info.id, host.url()) {
            Ok(lease) => lease,
            Err(other_host) => {
                if !std::mem::replace(&mut state.lease_conflict_logged, true) {
                    let EngineInfo { name, id, .. } = &info;
                    tracing::warn!(
                        "{host} reaches the same engine as {other_host}; the recorder stores its events once ({name}, {id})"
                    );
                }
                return Ok(if backlog_only { SessionEnd::Completed } else { SessionEnd::LeasedElsewhere });
            }
        };
        state.lease_conflict_logged = false;
        if let Some(engine_id) = previous_engine {
            self.report_engine_change(engine_id, &info);
            state.engine_counter.iter_mut().for_each(|counter| counter.drop_counter.reset());
        }
        let (source, previous) =
            (self.source_key(&info), PreviousSession { overflowed: state.overflowed, unreachable: state.unreachable });
        state.skew_warning.update(&info.name, skew);
        let session = session_slot.insert(Session::new(
            self.config.clone(),
            self.queue.clone(),
            source.clone(),
            lease,
            previous,
            state.engine_counter.take(),
        ));
        session.set_skew(skew.map(|skew| skew.nano));
        if backlog_only {
            let mut backlog = backlog::fetch(&client, self.config.max_event, BACKLOG_ONLY_TIMEOUTS).await?;
            let incomplete = backlog.incomplete.take();
            session.store_backlog_only(&client, backlog).await;
            return incomplete.map_or(Ok(SessionEnd::Completed), Err);
        }
        let stream = client.events().await?;
        self.status.set_connected(self.index);
        if (state.unreachable && state.sessions_without_outcome < MAX_SESSIONS_WITHOUT_OUTCOME) || !state.engine_logged
        {
            tracing::info!("connected to {host}: engine {} ({})", info.name, info.id);
            state.engine_logged = true;
            state.unreachable = false;
        }
        let ConnectionState { last_overflow_warning, skew_warning, .. } = state;
        tokio::select! {
            ended = session.follow(&client, stream, last_overflow_warning) => ended,
            error = liveness::wait_until_unresponsive(&client, &self.config) => Err(error),
            never = self.monitor_engine(&client, &source, skew_warning) => match never {},
        }
    }

    /// Stores the engine's version, and compares the clocks periodically.
    async fn monitor_engine(
        &self,
        client: &Client,
        source: &Arc<SourceKey>,
        skew_warning: &mut SkewWarning,
    ) -> Infallible {
        // If the stream ends immediately, no request is needed.
        tokio::time::sleep(SETTLE_DELAY).await;
        match client.version().await {
            Ok(version) => {
                let _ = self.queue.push(Delivery { version: Some(version), ..empty_delivery(source.clone()) });
            }
            Err(e) => tracing::debug!("{}", chain(&e)),
        }
        loop {
            tokio::time::sleep(clock_skew::CHECK_INTERVAL).await;
            match clock_skew::measure(client).await {
                Ok((info, Some(skew))) => {
                    skew_warning.update(&info.name, Some(skew));
                    // If the queue is full, events need its space more than this figure does.
                    let _ = self.queue.push(Delivery { skew_nano: Some(skew.nano), ..empty_delivery(source.clone()) });
                }
                Ok((_, None)) => {}
                Err(e) => tracing::debug!("{}", chain(&e)),
            }
        }
    }

    /// Reports that another engine now answers at this host, so that the events of the previous one are missed.
    fn report_engine_change(&self, engine_id: String, info: &EngineInfo) {
        let host = self.host();
        tracing::warn!("{host} now reaches another engine: {}, previously {engine_id}", info.id);
        if let Some(seen) = self.sources.last_seen(&engine_id) {
            let gap = GapChange::Reported {
                from: Some(seen.time_nano),
                to: Some(now_nano()),
                reason: GapReason::EngineRestart,
                detail: Some(format!("{host} now reaches the engine {}", info.id)),
            };
            self.push_gap(self.source_key(&EngineInfo { id: engine_id, ..EngineInfo::default() }), gap);
        }
    }
}
