//! Fetches the backlog of an engine.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::engine::{Client, EngineError};
use crate::event::{EventBatch, Fingerprint, Identity};
use crate::store::Rejection;
use crate::stream::{Decoder, Item, Rejected};

/// Number of events in the backlog of an engine (moby `daemon/events`, all versions measured).
pub(crate) const BACKLOG_LEN: usize = 256;

/// Maximum number of items in a response: an engine returns 256 events, Podman its whole log.
const MAX_EVENTS: usize = 100_000;

/// Time limits for one backlog response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Maximum time until the next bytes.
    pub(crate) idle: Duration,
    /// Maximum time for the whole response.
    pub(crate) total: Duration,
}

/// Backlog of an engine, oldest event first.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) events: EventBatch,
    pub(crate) identities: Vec<Identity>,
    pub(crate) fingerprints: Vec<Fingerprint>,
    pub(crate) rejected: Vec<Rejection>,
    /// Error if the response did not end. Events may then be missing.
    pub(crate) incomplete: Option<EngineError>,
}

/// Requests the backlog. If the response does not end, as from a server that ignores `until`, returns the part that
/// arrived.
pub(crate) async fn fetch(client: &Client, max_event: usize, timeouts: Timeouts) -> Result<Backlog, EngineError> {
    let deadline = Instant::now() + timeouts.total;
    let mut backlog = Backlog::default();
    let mut decoder = Decoder::with_limit(max_event);
    let mut chunks = client.backlog(timeouts.total).await?;
    let mut on_item = |item: Item<'_>| match item {
        Item::Event(event) => {
            backlog.identities.push(event.identity());
            backlog.fingerprints.push(event.fingerprint());
            backlog.events.push(&event);
        }
        Item::Rejected(rejected) => backlog.rejected.push(rejection(&rejected)),
    };
    let mut item_count = 0;
    let mut is_complete = false;
    while !is_complete && item_count < MAX_EVENTS {
        match timeout_at(deadline.min(Instant::now() + timeouts.idle), chunks.next()).await {
            Ok(Ok(Some(bytes))) => decoder.push(&bytes, |item| {
                item_count += 1;
                on_item(item);
            }),
            Ok(Ok(None)) => {
                decoder.finish(&mut on_item);
                is_complete = true;
            }
            Ok(Err(e)) => return Err(e),
            Err(_) => break,
        }
    }
    backlog.incomplete = (!is_complete).then(|| chunks.unterminated_error());
    Ok(backlog)
}

/// Copies a rejected line so that it can be stored.
pub(crate) fn rejection(rejected: &Rejected<'_>) -> Rejection {
    Rejection { bytes: rejected.bytes.into(), error: rejected.reason.to_string() }
}
