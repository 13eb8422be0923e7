//! `/events`: what a request asks for, and the answer that goes on for as long as it is to.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

use super::Feed;
use crate::event::Event;
use crate::query::Filter;
use crate::query::time::unix_time;

/// What a request for events asks for.
#[derive(Debug)]
pub(super) struct Subscription {
    filter: Filter,
    since: Option<i64>,
    until: Option<i64>,
}

/// A request that is refused as an engine refuses it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Subscription {
    /// Reads the query of a request; parameters that are not known mean nothing.
    pub(super) fn from_query(query: &str) -> Result<Subscription, Refusal> {
        let mut subscription = Subscription { filter: Filter::default(), since: None, until: None };
        let (mut since_text, mut until_text) = (Cow::Borrowed(""), Cow::Borrowed(""));
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "since" => since_text = decode(value),
                "until" => until_text = decode(value),
                "filters" => {
                    subscription.filter = Filter::from_wire(&decode(value))
                        .map_err(|e| Refusal { status: StatusCode::BAD_REQUEST, message: e.to_string() })?;
                }
                _ => {}
            }
        }
        subscription.since = bound(&since_text)?;
        subscription.until = bound(&until_text)?;
        if subscription.since.zip(subscription.until).is_some_and(|(since, until)| since > until) {
            let message = format!("`since` time ({since_text}) cannot be after `until` time ({until_text})");
            return Err(Refusal { status: StatusCode::BAD_REQUEST, message });
        }
        Ok(subscription)
    }

    /// The answer, each event a chunk; it ends when the time of `until` has come.
    pub(super) fn answer(self, feed: Feed) -> Answer {
        let (chunks, answer) = mpsc::channel(16);
        tokio::spawn(async move {
            let until = self.until;
            tokio::select! {
                () = self.tell(&feed, chunks) => {}
                () = over(until) => {}
            }
        });
        Answer::Stream(answer)
    }

    async fn tell(self, feed: &Feed, chunks: mpsc::Sender<Bytes>) {
        let remembered = feed.len();
        let replay = self.since.is_some() || self.until.is_some();
        let mut position = if replay { 0 } else { remembered };
        loop {
            // `since=0&until=0` asks for the memory, whatever the instants in it.
            let memory_alone = self.until == Some(0);
            if memory_alone && position >= remembered {
                return;
            }
            let Some(raw) = feed.at(position) else {
                if self.until.is_some_and(is_past) {
                    return;
                }
                tokio::select! {
                    () = feed.came(position) => continue,
                    () = chunks.closed() => return,
                }
            };
            position += 1;
            let Ok(event) = Event::parse(&raw) else { continue };
            let in_time = self.since.is_none_or(|since| event.time_nano >= since)
                && (memory_alone || self.until.is_none_or(|until| event.time_nano <= until));
            if in_time && self.filter.matches(&event) {
                let chunk = [&raw[..], b"\n"].concat();
                if chunks.send(chunk.into()).await.is_err() {
                    return;
                }
            }
        }
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
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        match self.get_mut() {
            Answer::Whole(body) => Pin::new(body).poll_frame(cx),
            Answer::Stream(chunks) => chunks.poll_recv(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes)))),
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
