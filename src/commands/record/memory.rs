//! Asks an engine for all it remembers.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::engine::{Client, EngineError};
use crate::event::{Events, Identity, Mark};
use crate::store::Rejection;
use crate::stream::{Decoder, Item, Rejected};

/// How many events an answer may hold: an engine gives 256, Podman all it has.
const LIMIT: usize = 100_000;

/// How long to wait for an answer to end.
#[derive(Clone, Copy, Debug)]
pub(in crate::commands) struct Patience {
    /// For the next bytes.
    pub(in crate::commands) idle: Duration,
    /// For all of it.
    pub(in crate::commands) whole: Duration,
}

/// What an engine remembers, oldest first.
#[derive(Debug, Default)]
pub(in crate::commands) struct Memory {
    pub(in crate::commands) events: Events,
    pub(in crate::commands) identities: Vec<Identity>,
    pub(in crate::commands) marks: Vec<Mark>,
    pub(in crate::commands) rejected: Vec<Rejection>,
    /// Why this may not be all of it: the answer did not end.
    pub(in crate::commands) endless: Option<EngineError>,
}

/// Takes the memory. An answer that does not end, as of a server that does not know `until`, gives what has come.
pub(in crate::commands) async fn take(
    client: &Client,
    max_event: usize,
    patience: Patience,
) -> Result<Memory, EngineError> {
    let until = Instant::now() + patience.whole;
    let mut memory = Memory::default();
    let mut decoder = Decoder::with_limit(max_event);
    let mut chunks = client.memory(patience.whole).await?;
    let mut each = |item: Item<'_>| match item {
        Item::Event(event) => {
            memory.identities.push(event.identity());
            memory.marks.push(event.mark());
            memory.events.push(&event);
        }
        Item::Rejected(rejected) => memory.rejected.push(rejection(&rejected)),
    };
    let mut taken = 0;
    let mut ended = false;
    while !ended && taken < LIMIT {
        match timeout_at(until.min(Instant::now() + patience.idle), chunks.next()).await {
            Ok(Ok(Some(bytes))) => decoder.push(&bytes, |item| {
                taken += 1;
                each(item);
            }),
            Ok(Ok(None)) => {
                decoder.finish(&mut each);
                ended = true;
            }
            Ok(Err(e)) => return Err(e),
            Err(_) => break,
        }
    }
    memory.endless = (!ended).then(|| chunks.endless());
    Ok(memory)
}

/// A rejected line, to be stored.
pub(in crate::commands) fn rejection(rejected: &Rejected<'_>) -> Rejection {
    Rejection { bytes: rejected.bytes.into(), error: rejected.reason.to_string() }
}
