//! `/events`: parses the request and streams the response, until the bounds of the request or without end.

use std::borrow::Cow;
use std::num::{IntErrorKind, ParseIntError};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, mpsc, watch};

use super::api_version::{for_version, is_sent_at};
use super::archive::{Position, TailRead};
use super::fault::{Faults, StreamAction, StreamFaults};
use super::request_target::{PlusMode, percent_decode};
use super::{Archive, Feed, History, Playback, SubscriberGuard};
use crate::clock::now_nano;
use crate::engine::ApiVersion;
use crate::event::Event;
use crate::query::time::unix_instant;
use crate::query::{Filter, Selection};
use crate::store::StoreError;

/// Maximum time from an event on the engine until it is stored and visible here, in nanoseconds.
const STORE_LATENCY_NANOS: i64 = 200_000_000;

/// A parsed request for events.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    /// Filter and time window.
    selection: Selection,
    /// True for `until=0` or earlier: all existing events, whatever their times, and no new ones.
    backlog_only: bool,
    version: Option<ApiVersion>,
    /// True if each event is a json-seq record (RFC 7464) instead of a line.
    json_seq: bool,
}

/// An error response, as an engine sends it.
#[derive(Debug)]
pub(super) struct ErrorResponse {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Subscription {
    /// Parses the query of a request. Unknown parameters are ignored.
    pub(super) fn from_query(
        query: &str,
        version: Option<ApiVersion>,
        json_seq: bool,
    ) -> Result<Subscription, ErrorResponse> {
        let mut filter = Filter::default();
        let (mut since_text, mut until_text) = (Cow::Borrowed(""), Cow::Borrowed(""));
        let bad_request = |message: String| ErrorResponse { status: StatusCode::BAD_REQUEST, message };
        let mut filters_text = Cow::Borrowed("");
        // The first value of a parameter counts, so the query is read from the end.
        for pair in query.split('&').rev() {
            if pair.contains(';') {
                return Err(bad_request("invalid semicolon separator in query".into()));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (
                percent_decode(key, PlusMode::Space).map_err(bad_request)?,
                percent_decode(value, PlusMode::Space).map_err(bad_request)?,
            );
            match &*key {
                "since" => since_text = value,
                "until" => until_text = value,
                "filters" => filters_text = value,
                _ => {}
            }
        }
        if !filters_text.is_empty() {
            filter = Filter::from_wire(&filters_text).map_err(|e| bad_request(e.to_string()))?;
        }
        let (since, until) = (parse_bound(&since_text)?, parse_bound(&until_text)?);
        if since.zip(until).is_some_and(|(since, until)| since > until) {
            let message = format!("`since` time ({since_text}) cannot be after `until` time ({until_text})");
            return Err(ErrorResponse { status: StatusCode::BAD_REQUEST, message });
        }
        let backlog_only = until.is_some_and(|until| until <= 0);
        let (since, until) = if backlog_only { (since, None) } else { (since, until) };
        let selection = Selection { filter, since, until, ..Selection::default() };
        Ok(Subscription { selection, backlog_only, version, json_seq })
    }

    /// Returns the response body, with each event as one chunk. It ends at the time of `until`.
    pub(super) fn into_body(
        self,
        history: History,
        faults: &Faults,
        subscribers: &watch::Sender<usize>,
    ) -> ResponseBody {
        let (chunks, receiver) = mpsc::channel(16);
        let out = EventSink { chunks: chunks.clone(), faults: faults.begin_stream() };
        let sending: Pin<Box<dyn Future<Output = Result<(), Disconnected>> + Send>> = match history {
            History::Feed(feed) => {
                let joined_at = feed.len();
                Box::pin(async move { self.stream_feed(&feed, joined_at, out).await })
            }
            History::Archive(archive) => {
                let joined_at = archive.newest_position();
                Box::pin(self.stream_archive(archive, joined_at, out))
            }
            History::Playback(playback) => Box::pin(async move { self.stream_playback(&playback, out).await }),
        };
        // Counted only now: a subscriber that is counted receives every event from then on.
        let guard = SubscriberGuard::new(subscribers);
        tokio::spawn(async move {
            let _guard = guard;
            // A disconnected subscriber needs no end.
            if sending.await.is_ok() {
                let _ = chunks.send(Ok(Chunk::End)).await;
            }
        });
        ResponseBody::Stream(Chunks { chunks: receiver, flushed: Arc::default(), pending_cut: None })
    }

    /// Returns true if the request includes events from before it.
    fn includes_history(&self) -> bool {
        self.backlog_only || self.selection.since.is_some() || self.selection.until.is_some()
    }

    /// Returns true if the request includes no future events.
    fn is_finished(&self) -> bool {
        self.backlog_only || self.selection.until.is_some_and(is_past)
    }

    async fn stream_feed(&self, feed: &Feed, joined_at: usize, mut out: EventSink) -> Result<(), Disconnected> {
        if self.includes_history() {
            for raw in (0..joined_at).map_while(|position| feed.get(position)) {
                out.send(self.select_chunk(&raw, true)).await?;
            }
        }
        if self.is_finished() {
            return Ok(());
        }
        let mut position = joined_at;
        loop {
            let (is_finished, end) = (self.is_finished(), feed.len());
            for raw in (position..end).map_while(|position| feed.get(position)) {
                out.send(self.select_chunk(&raw, is_finished)).await?;
            }
            if is_finished {
                return Ok(());
            }
            position = end;
            tokio::select! {
                () = feed.wait_for_event(position) => {}
                () = sleep_until(self.selection.until) => {}
                () = out.chunks.closed() => return Err(Disconnected),
            }
        }
    }

    async fn stream_archive(
        self,
        archive: Archive,
        joined_at: Position,
        mut out: EventSink,
    ) -> Result<(), Disconnected> {
        let mut position = joined_at;
        if self.includes_history() {
            let history = move |archive: &Archive, selection: &Selection, on_event: OnEvent<'_>| {
                archive.read_history(joined_at, selection, on_event).map(|()| joined_at)
            };
            (out, _) = self.read_store(&archive, out, history).await?;
        }
        if self.is_finished() {
            return Ok(());
        }
        // Events up to `until` may arrive in the store a moment later.
        let deadline = self.selection.until.map(|until| until.saturating_add(STORE_LATENCY_NANOS));
        loop {
            let (is_finished, end) = (deadline.is_some_and(is_past), archive.newest_position());
            while position < end {
                match archive.read_tail(position) {
                    TailRead::Events(events, newest) => {
                        let bounded = self.is_finished();
                        for raw in events {
                            out.send(self.select_chunk(&raw, bounded)).await?;
                        }
                        position = newest;
                    }
                    TailRead::Evicted => {
                        let missed = move |archive: &Archive, _: &Selection, on_event: OnEvent<'_>| {
                            archive.read_evicted(position, on_event)
                        };
                        (out, position) = self.read_store(&archive, out, missed).await?;
                    }
                    // As after a restart of an engine: a client that reconnects gets the events of the new store.
                    TailRead::StoreReplaced => return out.cut().await,
                }
            }
            if is_finished {
                return Ok(());
            }
            tokio::select! {
                () = archive.wait_for_newer(position) => {}
                () = sleep_until(deadline) => {}
                () = out.chunks.closed() => return Err(Disconnected),
            }
        }
    }

    /// Reads the store on a blocking thread, so that other subscribers do not wait.
    async fn read_store(
        &self,
        archive: &Archive,
        out: EventSink,
        read: impl FnOnce(&Archive, &Selection, OnEvent<'_>) -> Result<Position, StoreError> + Send + 'static,
    ) -> Result<(EventSink, Position), Disconnected> {
        let permit = tokio::select! {
            permit = archive.acquire_read_permit() => permit,
            () = out.chunks.closed() => return Err(Disconnected),
        };
        let (archive, subscription, mut out) = (archive.clone(), self.clone(), out);
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut disconnected = false;
            let result = read(&archive, &subscription.selection, &mut |raw| match out
                .blocking_send(subscription.select_chunk(raw, false))
            {
                Ok(()) => ControlFlow::Continue(()),
                Err(Disconnected) => {
                    disconnected = true;
                    ControlFlow::Break(())
                }
            });
            match result {
                Ok(position) if !disconnected => Ok((out, position)),
                Ok(_) => Err(Disconnected),
                Err(e) => {
                    tracing::error!("{}", crate::error::chain(&e));
                    // An incomplete response must not look complete.
                    let _ = out.chunks.blocking_send(Err(StreamCut));
                    Err(Disconnected)
                }
            }
        });
        reading.await.expect("the reading thread does not panic")
    }

    /// Plays the recording from its first event, at its pace.
    async fn stream_playback(&self, playback: &Playback, mut out: EventSink) -> Result<(), Disconnected> {
        let mut pacer = playback.pacer();
        for (instant, raw) in playback.events(out.faults.as_ref()) {
            tokio::select! {
                () = pacer.wait_until_due(instant) => {}
                () = out.chunks.closed() => return Err(Disconnected),
            }
            out.send(self.select_chunk(&pacer.stamp(raw), true)).await?;
        }
        Ok(())
    }

    /// Returns the chunk of an event, if the request includes it. The time is checked only if `bounded` is true; a
    /// store already applies the time window.
    fn select_chunk(&self, raw: &[u8], bounded: bool) -> Option<Bytes> {
        if self.version.is_none() && self.selection.is_unfiltered() && !bounded {
            return Some(self.chunk(raw));
        }
        let event = Event::parse(raw).ok()?;
        if (bounded && !self.selection.contains_instant(event.time_nano))
            || !self.selection.matches(&event)
            || !is_sent_at(&event, self.version)
        {
            return None;
        }
        Some(self.chunk(for_version(&event, self.version).as_bytes()))
    }

    fn chunk(&self, raw: &[u8]) -> Bytes {
        let separator: &[u8] = if self.json_seq { b"\x1e" } else { b"" };
        [separator, raw, b"\n"].concat().into()
    }
}

/// Called with each event from a store.
type OnEvent<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// The subscriber has disconnected.
#[derive(Debug)]
struct Disconnected;

/// The stream must be cut.
#[derive(Debug, thiserror::Error)]
#[error("the stream is cut")]
pub(super) struct StreamCut;

/// Part of a stream of events.
#[derive(Debug)]
enum Chunk {
    Data(Bytes),
    /// The stream is complete. A channel that closes without it, as when the server stops, must not look complete.
    End,
}

/// Sends chunks to one subscriber, with the faults of its stream.
struct EventSink {
    chunks: mpsc::Sender<Result<Chunk, StreamCut>>,
    faults: Option<StreamFaults>,
}

impl EventSink {
    async fn send(&mut self, chunk: Option<Bytes>) -> Result<(), Disconnected> {
        let Some(chunk) = chunk else { return Ok(()) };
        let Some(faults) = &mut self.faults else {
            return self.chunks.send(Ok(Chunk::Data(chunk))).await.map_err(|_| Disconnected);
        };
        for action in faults.apply(chunk) {
            match action {
                StreamAction::Send(bytes) => {
                    self.chunks.send(Ok(Chunk::Data(bytes))).await.map_err(|_| Disconnected)?;
                }
                StreamAction::Wait(duration) => tokio::time::sleep(duration).await,
                StreamAction::Cut => return self.cut().await,
            }
        }
        Ok(())
    }

    /// Cuts the stream.
    async fn cut(&self) -> Result<(), Disconnected> {
        let _ = self.chunks.send(Err(StreamCut)).await;
        Err(Disconnected)
    }

    /// Sends a chunk from a blocking thread. Faults are not applied.
    fn blocking_send(&mut self, chunk: Option<Bytes>) -> Result<(), Disconnected> {
        let Some(chunk) = chunk else { return if self.chunks.is_closed() { Err(Disconnected) } else { Ok(()) } };
        self.chunks.blocking_send(Ok(Chunk::Data(chunk))).map_err(|_| Disconnected)
    }
}

/// Waits until an instant has passed, or forever if there is none.
async fn sleep_until(instant: Option<i64>) {
    match instant {
        Some(instant) => {
            let left = u64::try_from(instant.saturating_sub(now_nano())).unwrap_or(0);
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
        None => std::future::pending().await,
    }
}

fn is_past(instant: i64) -> bool {
    instant <= now_nano()
}

/// Parses a bound as an engine does: whole seconds and a fraction, each an integer. `-1` means no bound.
fn parse_bound(text: &str) -> Result<Option<i64>, ErrorResponse> {
    if text.is_empty() {
        return Ok(None);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let (seconds, fraction_value) = (parse_integer(whole)?, parse_integer(fraction)?);
    Ok((seconds != -1).then(|| unix_instant(seconds, fraction_value, fraction.len())))
}

/// Parses an integer as Go's `ParseInt`, which accepts the same texts as Rust. An engine returns its error message.
fn parse_integer(text: &str) -> Result<i64, ErrorResponse> {
    text.parse().map_err(|e: ParseIntError| {
        let reason = match e.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let message = format!("strconv.ParseInt: parsing {text:?}: {reason}");
        ErrorResponse { status: StatusCode::INTERNAL_SERVER_ERROR, message }
    })
}

/// Body of a response: complete, or a stream of events.
#[derive(Debug)]
pub(super) enum ResponseBody {
    Full(Full<Bytes>),
    Stream(Chunks),
}

/// A stream of events, each one chunk.
#[derive(Debug)]
pub(super) struct Chunks {
    chunks: mpsc::Receiver<Result<Chunk, StreamCut>>,
    /// Notified whenever all data of the connection is written.
    flushed: Arc<Notify>,
    /// Set when a cut waits until earlier data is written.
    pending_cut: Option<Pin<Box<OwnedNotified>>>,
}

impl ResponseBody {
    /// Sets the notification of the connection that all its data is written.
    pub(super) fn with_flush_notify(mut self, flushed: &Arc<Notify>) -> ResponseBody {
        if let ResponseBody::Stream(chunks) = &mut self {
            chunks.flushed = flushed.clone();
        }
        self
    }
}

impl Chunks {
    /// Returns the next chunk. A cut waits until earlier chunks are written, because hyper discards its buffer
    /// on errors.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamCut>>> {
        if self.pending_cut.is_none() {
            match ready!(self.chunks.poll_recv(cx)) {
                Some(Ok(Chunk::Data(bytes))) => return Poll::Ready(Some(Ok(bytes))),
                Some(Ok(Chunk::End)) => return Poll::Ready(None),
                None => return Poll::Ready(Some(Err(StreamCut))),
                Some(Err(StreamCut)) => {}
            }
        }
        let pending_cut = self.pending_cut.get_or_insert_with(|| Box::pin(self.flushed.clone().notified_owned()));
        pending_cut.as_mut().poll(cx).map(|()| Some(Err(StreamCut)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = StreamCut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamCut>>> {
        match self.get_mut() {
            ResponseBody::Full(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            ResponseBody::Stream(chunks) => chunks.poll_next(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Full(body) => body.is_end_stream(),
            ResponseBody::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            ResponseBody::Full(body) => body.size_hint(),
            ResponseBody::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}
