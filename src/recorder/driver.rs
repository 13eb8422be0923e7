//! The driver of a session: sockets and timers in, actions out. The recorder's main loop, and its only `select!` over a
//! session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backlog::Timeouts;
use super::clock_skew;
use super::config::{Config, Until};
use super::engine_counter;
use super::gaps::GapReport;
use super::session::{
    Action, ContainerReply, ContainerRequest, GapReportReply, Input, Now, Session, SessionEnd, SessionRest,
};
use crate::clock::now_nano;
use crate::engine::{ByteStream, Client, EngineError, MetricsEndpoint};
use crate::error::chain;
use crate::store::{Delivery, Full, Queue, SourceKey};

/// Time limits for the backlog response.
const BACKLOG_TIMEOUTS: Timeouts = Timeouts { idle: Duration::from_secs(2), total: Duration::from_secs(10) };

/// Time limits for the backlog response with `--until now`.
const BACKLOG_ONLY_TIMEOUTS: Timeouts = Timeouts { idle: Duration::from_secs(10), total: Duration::from_secs(60) };

/// Time limit for the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of bytes read before they are handed on, if they arrive without a pause.
const MAX_READ_BYTES: usize = 256 * 1024;

/// Drives one session. Dropping it cancels the pending requests.
pub(super) struct Driver {
    pub(super) client: Client,
    pub(super) config: Arc<Config>,
    pub(super) queue: Arc<Queue>,
    pub(super) source: Arc<SourceKey>,
    /// Metrics page of the engine.
    pub(super) metrics: Option<MetricsEndpoint>,
    /// Cancelled when the session must end.
    pub(super) close: CancellationToken,
    /// Pending requests. Each ends with an input.
    pub(super) requests: JoinSet<Input>,
}

/// Result of a session.
pub(super) struct Driven {
    /// End of the session; `None` if it was closed.
    pub(super) end: Option<Result<SessionEnd, EngineError>>,
    pub(super) rest: SessionRest,
}

impl Driver {
    /// Drives a session to its end, and delivers everything that arrived. Calls `on_overflow` when the queue is full.
    pub(super) async fn run(
        mut self,
        mut session: Session,
        mut stream: Option<ByteStream>,
        mut on_overflow: impl FnMut(),
    ) -> Driven {
        let mut actions = session.start();
        let end = loop {
            let was_overflowed = session.is_overflowed();
            if let Some(end) = self.take_actions(&mut session, actions) {
                break Some(end);
            }
            let refused_bytes = session.refused_bytes();
            if refused_bytes.is_some() && !was_overflowed && stream.is_some() {
                on_overflow();
            }
            let deadline = session.deadline();
            let input = tokio::select! {
                () = self.close.cancelled() => break None,
                next = next_chunk(&mut stream), if stream.is_some() => read_available(next, &mut stream).await,
                Some(input) = self.requests.join_next() => input.expect("the request does not panic"),
                () = self.queue.wait_for_space(refused_bytes.unwrap_or(0)), if refused_bytes.is_some() => Input::RoomInQueue,
                () = sleep_until(deadline), if deadline.is_some() => Input::DeadlineReached,
            };
            actions = session.on(now(), input);
        };
        let last_actions = session.on(now(), Input::Closing);
        self.take_last_actions(&mut session, last_actions);
        Driven { end, rest: session.into_rest() }
    }

    /// Takes actions, and those that follow from their results. Returns the end of the session, if it is one.
    fn take_actions(&mut self, session: &mut Session, actions: Vec<Action>) -> Option<Result<SessionEnd, EngineError>> {
        let mut end = None;
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Deliver(delivery) => {
                    let result = self.deliver(session, delivery);
                    actions.extend(session.on(now(), result));
                }
                Action::DeliverIfRoom(delivery) => {
                    if !session.is_overflowed() {
                        let _ = self.queue.push(*delivery);
                    }
                }
                Action::End(result) => end = Some(result),
                request => self.send(request),
            }
        }
        // What the queue refused is delivered first.
        end.filter(|_| !session.is_overflowed())
    }

    /// Delivers what is left at the end of a session.
    fn take_last_actions(&mut self, session: &mut Session, actions: Vec<Action>) {
        for action in actions {
            if let Action::Deliver(delivery) = action {
                let result = self.deliver(session, delivery);
                session.on(now(), result);
            }
        }
        if session.is_overflowed() {
            tracing::warn!("the buffer is full: the recorder requests the last events from the engine again");
        }
    }

    /// Queues a delivery, unless an earlier one was refused.
    fn deliver(&self, session: &Session, delivery: Box<Delivery>) -> Input {
        let last_seen = delivery.last_seen;
        let result = if session.is_overflowed() { Err(Full(delivery)) } else { self.queue.push(*delivery) };
        match result {
            Ok(()) => Input::Queued(last_seen),
            Err(Full(delivery)) => Input::Refused(delivery),
        }
    }

    /// Sends a request; its answer becomes an input.
    fn send(&mut self, request: Action) {
        let client = self.client.clone();
        match request {
            Action::FetchBacklog => {
                let (page, max_event) = (self.metrics.clone(), self.config.max_event);
                let is_backlog_only = self.config.until == Until::BacklogRead;
                let timeouts = if is_backlog_only { BACKLOG_ONLY_TIMEOUTS } else { BACKLOG_TIMEOUTS };
                self.requests.spawn(async move {
                    let reply = engine_counter::fetch_backlog(&client, page, max_event, timeouts).await;
                    Input::Backlog(Box::new(reply))
                });
            }
            Action::RequestContainers(request) => {
                self.requests.spawn(async move { Input::Container(request_containers(&client, request).await) });
            }
            Action::ReportGap(gap) => {
                let report = GapReport { client, config: self.config.clone(), source: self.source.clone(), gap };
                self.requests.spawn(async move {
                    let (gap, delivery) = report.run().await;
                    Input::GapReport(Box::new(GapReportReply { gap, delivery }))
                });
            }
            Action::FetchVersion => {
                self.requests.spawn(async move { Input::Version(client.version().await) });
            }
            Action::CompareClocks => {
                self.requests.spawn(async move { Input::Clock(clock_skew::measure(&client).await) });
            }
            Action::Ping => {
                let timeout = PING_TIMEOUT.min(self.config.ping_interval);
                self.requests.spawn(async move { Input::Pong(client.ping(timeout).await) });
            }
            Action::Deliver(_) | Action::DeliverIfRoom(_) | Action::End(_) => {
                unreachable!("`take_actions` takes these actions")
            }
        }
    }
}

/// Returns the next chunk of the stream, or its end.
async fn next_chunk(stream: &mut Option<ByteStream>) -> Result<Option<Bytes>, EngineError> {
    match stream {
        Some(open) => open.next().await,
        None => std::future::pending().await,
    }
}

/// Reads everything else that the stream has now. Closes the stream at its end.
async fn read_available(first: Result<Option<Bytes>, EngineError>, stream: &mut Option<ByteStream>) -> Input {
    let first = match first {
        Ok(Some(bytes)) => bytes,
        end => {
            *stream = None;
            return Input::StreamEnded(end.map(|_| ()));
        }
    };
    let mut bytes_read = first.len().max(1);
    let mut chunks = vec![first];
    while bytes_read < MAX_READ_BYTES {
        // The connection is a task of its own and passes on one chunk at a time, usually one event. Handing on many
        // events costs little more than handing on one.
        let next = tokio::select! {
            biased;
            next = next_chunk(stream) => next,
            () = tokio::task::yield_now() => break,
        };
        // An end is read again.
        let Ok(Some(bytes)) = next else { break };
        bytes_read += bytes.len().max(1);
        chunks.push(bytes);
    }
    Input::Bytes(chunks)
}

async fn request_containers(client: &Client, request: ContainerRequest) -> ContainerReply {
    let log = |e: EngineError| tracing::debug!("{}", chain(&e));
    match request {
        ContainerRequest::List => ContainerReply::Listed(client.list_containers().await.map_err(log).ok()),
        ContainerRequest::Inspect(id) => {
            let command = client.healthcheck_command(&id).await.map_err(log).ok().flatten();
            ContainerReply::Container(id, command)
        }
    }
}

async fn sleep_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Reads both clocks.
pub(super) fn now() -> Now {
    Now { instant: Instant::now().into_std(), nano: now_nano() }
}
