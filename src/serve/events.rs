//! `/events`: what a request asks for, and the answer that goes on for as long as it is to.

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

use super::archive::{News, Position};
use super::fault::{Act, Fault, Faults};
use super::form::{at_version, is_told_at};
use super::target::{Plus, decoded};
use super::{Archive, Counted, Feed, History, Play};
use crate::engine::ApiVersion;
use crate::event::Event;
use crate::query::time::unix_instant;
use crate::query::{Filter, Selection};
use crate::store::StoreError;

/// How long it takes, in nanoseconds, until what an engine tells is stored and seen here.
const STORED_WITHIN: i64 = 200_000_000;

/// What a request for events asks for.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    /// The filter and the bounds.
    asked: Selection,
    /// `until=0`, or before: all there is, whatever the instants in it, and no more.
    memory_alone: bool,
    version: Option<ApiVersion>,
    /// Each event is a record of json-seq (RFC 7464), not a line.
    sequence: bool,
}

/// A request that is refused as an engine refuses it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Subscription {
    /// Reads the query of a request; parameters that are not known mean nothing.
    pub(super) fn from_query(
        query: &str,
        version: Option<ApiVersion>,
        sequence: bool,
    ) -> Result<Subscription, Refusal> {
        let mut filter = Filter::default();
        let (mut since_text, mut until_text) = (Cow::Borrowed(""), Cow::Borrowed(""));
        let wrong = |message: String| Refusal { status: StatusCode::BAD_REQUEST, message };
        let mut filters_text = Cow::Borrowed("");
        // Of several the first one counts, so the last ones are read first.
        for pair in query.split('&').rev() {
            if pair.contains(';') {
                return Err(wrong("invalid semicolon separator in query".into()));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decoded(key, Plus::Space).map_err(wrong)?, decoded(value, Plus::Space).map_err(wrong)?);
            match &*key {
                "since" => since_text = value,
                "until" => until_text = value,
                "filters" => filters_text = value,
                _ => {}
            }
        }
        if !filters_text.is_empty() {
            filter = Filter::from_wire(&filters_text).map_err(|e| wrong(e.to_string()))?;
        }
        let (since, until) = (bound(&since_text)?, bound(&until_text)?);
        if since.zip(until).is_some_and(|(since, until)| since > until) {
            let message = format!("`since` time ({since_text}) cannot be after `until` time ({until_text})");
            return Err(Refusal { status: StatusCode::BAD_REQUEST, message });
        }
        let memory_alone = until.is_some_and(|until| until <= 0);
        let (since, until) = if memory_alone { (since, None) } else { (since, until) };
        let asked = Selection { filter, since, until, ..Selection::default() };
        Ok(Subscription { asked, memory_alone, version, sequence })
    }

    /// The answer, each event a chunk; it ends when the time of `until` has come.
    pub(super) fn answer(self, history: History, faults: &Faults, subscribers: &watch::Sender<usize>) -> Answer {
        let (chunks, answer) = mpsc::channel(16);
        let out = Out { chunks, faults: faults.begin() };
        let telling: Pin<Box<dyn Future<Output = Result<(), Gone>> + Send>> = match history {
            History::Feed(feed) => {
                let now = feed.len();
                Box::pin(async move { self.tell_feed(&feed, now, out).await })
            }
            History::Archive(archive) => {
                let now = archive.now();
                Box::pin(self.tell_archive(archive, now, out))
            }
            History::Play(play) => Box::pin(async move { self.tell_play(&play, out).await }),
        };
        // Only now, so that whoever sees it counted can rely on it: what happens next is told.
        let counted = Counted::new(subscribers);
        tokio::spawn(async move {
            let _counted = counted;
            // Who is gone needs no answer.
            let _: Result<(), Gone> = telling.await;
        });
        Answer::Stream(Chunks { chunks: answer, flushed: Arc::default(), cutting: None })
    }

    /// Whether what was there before is asked for.
    fn replays(&self) -> bool {
        self.memory_alone || self.asked.since.is_some() || self.asked.until.is_some()
    }

    /// Whether nothing that is yet to come is asked for.
    fn is_over(&self) -> bool {
        self.memory_alone || self.asked.until.is_some_and(is_past)
    }

    async fn tell_feed(&self, feed: &Feed, now: usize, mut out: Out) -> Result<(), Gone> {
        if self.replays() {
            for raw in (0..now).map_while(|position| feed.at(position)) {
                out.send(self.selected(&raw, true)).await?;
            }
        }
        if self.is_over() {
            return Ok(());
        }
        let mut at = now;
        loop {
            let (over, end) = (self.is_over(), feed.len());
            for raw in (at..end).map_while(|position| feed.at(position)) {
                out.send(self.selected(&raw, over)).await?;
            }
            if over {
                return Ok(());
            }
            at = end;
            tokio::select! {
                () = feed.came(at) => {}
                () = passed(self.asked.until) => {}
                () = out.chunks.closed() => return Err(Gone),
            }
        }
    }

    async fn tell_archive(self, archive: Archive, now: Position, mut out: Out) -> Result<(), Gone> {
        let mut at = now;
        if self.replays() {
            let history = move |archive: &Archive, asked: &Selection, each: Each<'_>| {
                archive.history(now, asked, each).map(|()| now)
            };
            (out, _) = self.read(&archive, out, history).await?;
        }
        if self.is_over() {
            return Ok(());
        }
        // What happened by then is in the store a moment later.
        let last = self.asked.until.map(|until| until.saturating_add(STORED_WITHIN));
        loop {
            let (over, end) = (last.is_some_and(is_past), archive.now());
            while at < end {
                match archive.after(at) {
                    News::Held(events, newest) => {
                        let bounded = self.is_over();
                        for raw in events {
                            out.send(self.selected(&raw, bounded)).await?;
                        }
                        at = newest;
                    }
                    News::LetGo => {
                        let missed = move |archive: &Archive, _: &Selection, each: Each<'_>| archive.missed(at, each);
                        (out, at) = self.read(&archive, out, missed).await?;
                    }
                    // As when an engine starts anew: whoever comes again gets what is there now.
                    News::OtherStore => return out.cut().await,
                }
            }
            if over {
                return Ok(());
            }
            tokio::select! {
                () = archive.came(at) => {}
                () = passed(last) => {}
                () = out.chunks.closed() => return Err(Gone),
            }
        }
    }

    /// Reads the store, beside the tasks that serve others.
    async fn read(
        &self,
        archive: &Archive,
        out: Out,
        read: impl FnOnce(&Archive, &Selection, Each<'_>) -> Result<Position, StoreError> + Send + 'static,
    ) -> Result<(Out, Position), Gone> {
        let turn = tokio::select! {
            turn = archive.turn() => turn,
            () = out.chunks.closed() => return Err(Gone),
        };
        let (archive, subscription, mut out) = (archive.clone(), self.clone(), out);
        let reading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut gone = false;
            let read = read(&archive, &subscription.asked, &mut |raw| match out
                .blocking_send(subscription.selected(raw, false))
            {
                Ok(()) => ControlFlow::Continue(()),
                Err(Gone) => {
                    gone = true;
                    ControlFlow::Break(())
                }
            });
            match read {
                Ok(at) if !gone => Ok((out, at)),
                Ok(_) => Err(Gone),
                Err(e) => {
                    tracing::error!("{}", crate::error::chain(&e));
                    // Half an answer must not look like a whole one.
                    let _ = out.chunks.blocking_send(Err(Cut));
                    Err(Gone)
                }
            }
        });
        reading.await.expect("reading does not panic")
    }

    /// From the first event on, whoever asks: paced as it was recorded.
    async fn tell_play(&self, play: &Play, mut out: Out) -> Result<(), Gone> {
        let mut pace = play.pace();
        for (at, raw) in play.events(out.faults.as_ref()) {
            tokio::select! {
                () = pace.until(at) => {}
                () = out.chunks.closed() => return Err(Gone),
            }
            out.send(self.selected(&pace.of(raw), true)).await?;
        }
        Ok(())
    }

    /// The chunk of an event, if it is asked for; what is read from a store within bounds is within them.
    fn selected(&self, raw: &[u8], bounded: bool) -> Option<Bytes> {
        if self.version.is_none() && self.asked.is_everything() && !bounded {
            return Some(self.chunk(raw));
        }
        let event = Event::parse(raw).ok()?;
        if (bounded && !self.asked.spans(event.time_nano))
            || !self.asked.passes(&event)
            || !is_told_at(&event, self.version)
        {
            return None;
        }
        Some(self.chunk(at_version(&event, self.version).as_bytes()))
    }

    fn chunk(&self, raw: &[u8]) -> Bytes {
        let separator: &[u8] = if self.sequence { b"\x1e" } else { b"" };
        [separator, raw, b"\n"].concat().into()
    }
}

/// Takes one event of a store after the other.
type Each<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// The subscriber is not there any more.
#[derive(Debug)]
struct Gone;

/// The stream is to be broken off.
#[derive(Debug, thiserror::Error)]
#[error("the stream is cut")]
pub(super) struct Cut;

/// What goes to one subscriber.
struct Out {
    chunks: mpsc::Sender<Result<Bytes, Cut>>,
    faults: Option<Fault>,
}

impl Out {
    async fn send(&mut self, chunk: Option<Bytes>) -> Result<(), Gone> {
        let Some(chunk) = chunk else { return Ok(()) };
        let Some(faults) = &mut self.faults else { return self.chunks.send(Ok(chunk)).await.map_err(|_| Gone) };
        for act in faults.on(chunk) {
            match act {
                Act::Send(bytes) => self.chunks.send(Ok(bytes)).await.map_err(|_| Gone)?,
                Act::Wait(duration) => tokio::time::sleep(duration).await,
                Act::Cut => return self.cut().await,
            }
        }
        Ok(())
    }

    /// Breaks the stream off.
    async fn cut(&self) -> Result<(), Gone> {
        let _ = self.chunks.send(Err(Cut)).await;
        Err(Gone)
    }

    /// The same where there are no faults.
    fn blocking_send(&mut self, chunk: Option<Bytes>) -> Result<(), Gone> {
        let Some(chunk) = chunk else { return if self.chunks.is_closed() { Err(Gone) } else { Ok(()) } };
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| Gone)
    }
}

/// Waits until an instant has passed; for ever if there is none.
async fn passed(instant: Option<i64>) {
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

fn now_nano() -> i64 {
    chrono::Utc::now().timestamp_nanos_opt().expect("the clock is before the year 2262")
}

/// Reads a bound as an engine does: whole seconds and a fraction, each an integer. The second before 1970 means none.
fn bound(text: &str) -> Result<Option<i64>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let (seconds, parts) = (integer(whole)?, integer(fraction)?);
    Ok((seconds != -1).then(|| unix_instant(seconds, parts, fraction.len())))
}

/// Go's `ParseInt`, which takes the integers that Rust takes; an engine hands on what it says.
fn integer(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|e: ParseIntError| {
        let why = match e.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let message = format!("strconv.ParseInt: parsing {text:?}: {why}");
        Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, message }
    })
}

/// The body of an answer: all of it at once, or events as they come.
#[derive(Debug)]
pub(super) enum Answer {
    Whole(Full<Bytes>),
    Stream(Chunks),
}

/// Events as they come, each a chunk.
#[derive(Debug)]
pub(super) struct Chunks {
    chunks: mpsc::Receiver<Result<Bytes, Cut>>,
    /// Told whenever all that was given to the connection has been written.
    flushed: Arc<Notify>,
    /// Where the stream is to be cut: waits for that.
    cutting: Option<Pin<Box<OwnedNotified>>>,
}

impl Answer {
    /// The same, on a connection that tells whenever all it was given has been written.
    pub(super) fn on(mut self, connection: &Arc<Notify>) -> Answer {
        if let Answer::Stream(chunks) = &mut self {
            chunks.flushed = connection.clone();
        }
        self
    }
}

impl Chunks {
    /// The next chunk. A cut comes when those before it are written: hyper lets go of what it holds at an error.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if self.cutting.is_none() {
            match ready!(self.chunks.poll_recv(cx)) {
                Some(Err(Cut)) => {}
                chunk => return Poll::Ready(chunk),
            }
        }
        let cutting = self.cutting.get_or_insert_with(|| Box::pin(self.flushed.clone().notified_owned()));
        cutting.as_mut().poll(cx).map(|()| Some(Err(Cut)))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Answer::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Answer::Stream(chunks) => chunks.poll_next(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Whole(body) => body.is_end_stream(),
            Answer::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Answer::Whole(body) => body.size_hint(),
            Answer::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}
