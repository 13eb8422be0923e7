//! `/events`: what a request asks for, and the answer that goes on for as long as it is to.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

use super::fault::{Act, Fault, Faults};
use super::form::{at_version, is_told_at};
use super::{Archive, Counted, Feed, History, Play};
use crate::engine::ApiVersion;
use crate::event::Event;
use crate::query::time::unix_time;
use crate::query::{Filter, Selection};
use crate::store::StoreError;

/// What a request for events asks for.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    /// The filter and the bounds.
    asked: Selection,
    /// `since=0&until=0`: all there is, whatever the instants in it, and no more.
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
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "since" => since_text = decode(value),
                "until" => until_text = decode(value),
                "filters" => {
                    filter = Filter::from_wire(&decode(value))
                        .map_err(|e| Refusal { status: StatusCode::BAD_REQUEST, message: e.to_string() })?;
                }
                _ => {}
            }
        }
        let (since, until) = (bound(&since_text)?, bound(&until_text)?);
        if since.zip(until).is_some_and(|(since, until)| since > until) {
            let message = format!("`since` time ({since_text}) cannot be after `until` time ({until_text})");
            return Err(Refusal { status: StatusCode::BAD_REQUEST, message });
        }
        let memory_alone = until == Some(0);
        let (since, until) = if memory_alone { (since, None) } else { (since, until) };
        let asked = Selection { filter, since, until, ..Selection::default() };
        Ok(Subscription { asked, memory_alone, version, sequence })
    }

    /// The answer, each event a chunk; it ends when the time of `until` has come.
    pub(super) fn answer(self, history: History, faults: &Faults, counted: Counted) -> Answer {
        let (chunks, answer) = mpsc::channel(16);
        let out = Out { chunks, faults: faults.begin() };
        tokio::spawn(async move {
            let _counted = counted;
            // Who is gone needs no answer.
            let _: Result<(), Gone> = match history {
                History::Feed(feed) => self.tell_feed(&feed, out).await,
                History::Archive(archive) => self.tell_archive(archive, out).await,
                History::Play(play) => self.tell_play(&play, out).await,
            };
        });
        Answer::Stream(answer)
    }

    /// Whether what was there before is asked for.
    fn replays(&self) -> bool {
        self.memory_alone || self.asked.since.is_some() || self.asked.until.is_some()
    }

    /// Whether nothing that is yet to come is asked for.
    fn is_over(&self) -> bool {
        self.memory_alone || self.asked.until.is_some_and(is_past)
    }

    async fn tell_feed(&self, feed: &Feed, mut out: Out) -> Result<(), Gone> {
        let now = feed.len();
        if self.replays() {
            for raw in (0..now).map_while(|position| feed.at(position)) {
                out.send(self.selected(&raw, true)).await?;
            }
        }
        if self.is_over() {
            return Ok(());
        }
        let follow = async {
            for position in now.. {
                tokio::select! {
                    () = feed.came(position) => {}
                    () = out.chunks.closed() => return Err(Gone),
                }
                if let Some(raw) = feed.at(position) {
                    out.send(self.selected(&raw, false)).await?;
                }
            }
            Ok(())
        };
        until_over(self.asked.until, follow).await
    }

    async fn tell_archive(self, archive: Archive, mut out: Out) -> Result<(), Gone> {
        let mut seq = archive.now();
        if self.replays() {
            let history =
                move |archive: &Archive, asked: &Selection, each: Each| archive.history(seq, asked, each).map(|()| seq);
            (out, _) = self.read(&archive, out, history).await?;
        }
        if self.is_over() {
            return Ok(());
        }
        let until = self.asked.until;
        let this = &self;
        let follow = async move {
            loop {
                let Some((events, newest)) = archive.after(seq) else {
                    let missed = move |archive: &Archive, _: &Selection, each: Each| archive.missed(seq, each);
                    (out, seq) = this.read(&archive, out, missed).await?;
                    continue;
                };
                for raw in events {
                    out.send(this.selected(&raw, false)).await?;
                }
                seq = newest;
                tokio::select! {
                    () = archive.came(seq) => {}
                    () = out.chunks.closed() => return Err(Gone),
                }
            }
        };
        until_over(until, follow).await
    }

    /// Reads the store, beside the tasks that serve others.
    async fn read(
        &self,
        archive: &Archive,
        mut out: Out,
        read: impl FnOnce(&Archive, &Selection, Each) -> Result<i64, StoreError> + Send + 'static,
    ) -> Result<(Out, i64), Gone> {
        let (archive, subscription) = (archive.clone(), self.clone());
        let reading = tokio::task::spawn_blocking(move || {
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
                Ok(seq) if !gone => Ok((out, seq)),
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
                Act::Cut => {
                    let _ = self.chunks.send(Err(Cut)).await;
                    return Err(Gone);
                }
            }
        }
        Ok(())
    }

    /// The same where there are no faults.
    fn blocking_send(&mut self, chunk: Option<Bytes>) -> Result<(), Gone> {
        let Some(chunk) = chunk else { return if self.chunks.is_closed() { Err(Gone) } else { Ok(()) } };
        self.chunks.blocking_send(Ok(chunk)).map_err(|_| Gone)
    }
}

/// Follows until the time of `until` has come, if that is yet to come.
async fn until_over(until: Option<i64>, follow: impl Future<Output = Result<(), Gone>>) -> Result<(), Gone> {
    tokio::select! {
        followed = follow => followed,
        () = over(until) => Ok(()),
    }
}

/// Waits for the time of `until` if that is yet to come; what is asked of the past ends by itself.
async fn over(until: Option<i64>) {
    match until {
        Some(until) if !is_past(until) => {
            let left = u64::try_from(until - now_nano()).unwrap_or(0);
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
        _ => std::future::pending().await,
    }
}

fn is_past(instant: i64) -> bool {
    instant <= now_nano()
}

fn now_nano() -> i64 {
    chrono::Utc::now().timestamp_nanos_opt().expect("the clock is before the year 2262")
}

fn bound(text: &str) -> Result<Option<i64>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    match unix_time(text) {
        Some(Some(instant)) => Ok(Some(instant)),
        out_of_range => {
            let why = if out_of_range.is_some() { "value out of range" } else { "invalid syntax" };
            let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
            let message = format!("strconv.ParseInt: parsing {whole:?}: {why}");
            Err(Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, message })
        }
    }
}

/// Decodes a value of a query: `%XX`, and `+` for a space.
fn decode(value: &str) -> Cow<'_, str> {
    if !value.contains(['%', '+']) {
        return Cow::Borrowed(value);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = || u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok();
        match byte {
            b'+' => bytes.push(b' '),
            b'%' if hex().is_some() => {
                bytes.extend(hex());
                rest = &tail[2..];
            }
            byte => bytes.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The body of an answer: all of it at once, or events as they come.
#[derive(Debug)]
pub(super) enum Answer {
    Whole(Full<Bytes>),
    Stream(mpsc::Receiver<Result<Bytes, Cut>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Answer::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Answer::Stream(chunks) => chunks.poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
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
