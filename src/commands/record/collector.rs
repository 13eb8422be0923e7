//! Reads one host's stream, again and again: connect, prove that nothing was missed, follow, and when it ends begin
//! anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::board::Board;
use super::sources::{Claim, Sources};
use super::{Plan, Until};
use crate::commands::failure::chain;
use crate::commands::now_nano;
use crate::engine::{Chunks, Client, EngineError, Host, Info};
use crate::event::Identity;
use crate::store::{Delivery, Full, GapChange, Queue, Reason, Rejection, SourceKey};
use crate::stream::backoff::Backoff;
use crate::stream::continuity::{Continuity, Verdict};
use crate::stream::{Decoder, End, Item};

/// How long a contact may take to be judged. The stream and the memory come at once; this is for an engine that is
/// stuck, or that is none.
const JUDGEMENT: Duration = Duration::from_secs(5);

/// The memory has come whole when its answer ends; from one that does not end, when nothing came for so long.
const MEMORY_PATIENCE: Duration = Duration::from_secs(2);

/// How many events an answer to the question for the memory may hold: an engine gives 256, Podman all it has.
const MEMORY_LIMIT: usize = 100_000;

/// How many bytes are read before they are handed on, if they come without a pause.
const READ_AT_ONCE: usize = 256 * 1024;

/// How long a stream must have lasted, if it brought nothing, for the next try to be made at once.
const STOOD: Duration = Duration::from_secs(1);

/// How long it is tried to reach an engine whose memory alone is to be taken.
const ONCE_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether an engine that is recorded through another host is so still.
const TAKEN_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is said that the store does not keep up.
const OVERFLOW_SAID: Duration = Duration::from_secs(60);

/// Records one host.
pub(super) struct Collector {
    pub(super) index: usize,
    pub(super) plan: Arc<Plan>,
    pub(super) queue: Arc<Queue>,
    pub(super) sources: Arc<Sources>,
    pub(super) board: Arc<Board>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// How a contact ended.
enum Ended {
    /// The stream ended, as it does when the engine stops.
    Lost,
    /// The store could not take what came; it can now.
    Overflowed,
    /// Another host reaches the same engine and records it.
    Taken,
    /// What was to be taken is taken.
    Done,
}

impl Collector {
    /// Records until it is told to stop; or until the memory is taken, if that is the plan.
    ///
    /// # Errors
    /// Only if the memory alone was to be taken: what kept it from being so.
    pub(super) async fn run(mut self) -> Result<(), EngineError> {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            done = self.keep_recording() => done,
            _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
        }
    }

    fn host(&self) -> &Host {
        &self.plan.hosts[self.index]
    }

    async fn keep_recording(&mut self) -> Result<(), EngineError> {
        let mut backoff = Backoff::default();
        let started = Instant::now();
        let mut away = Away::default();
        let mut overflowed = false;
        loop {
            tokio::time::sleep(backoff.wait()).await;
            let contacted = Instant::now();
            let mut contact = None;
            let ended = self.contact(&mut contact, &mut away, overflowed).await;
            let news = contact.is_some_and(|contact: Contact| contact.news);
            self.board.disconnected(self.index);
            if news || contacted.elapsed() >= STOOD {
                backoff.reset();
            }
            overflowed = matches!(ended, Ok(Ended::Overflowed));
            match ended {
                Ok(Ended::Done) => return Ok(()),
                Ok(Ended::Lost) => tracing::debug!("{} ended its stream", self.host()),
                Ok(Ended::Overflowed) => backoff.reset(),
                Ok(Ended::Taken) => tokio::time::sleep(TAKEN_PATIENCE).await,
                Err(e) if self.plan.until == Until::MemoryTaken && started.elapsed() > ONCE_PATIENCE => return Err(e),
                Err(e @ EngineError::BrokenOff { .. }) => tracing::debug!("{}", chain(&e)),
                Err(e) => self.cannot_reach(&e, &mut away),
            }
        }
    }

    /// The engine is away: said once, and a gap is open from the last event seen until it is known better.
    fn cannot_reach(&self, error: &EngineError, away: &mut Away) {
        let text = chain(error);
        if away.said {
            tracing::debug!("{text}");
            return;
        }
        away.said = true;
        tracing::warn!("{text}; it is tried again until it works");
        if let Some(engine_id) = self.sources.last_at(self.host().url()) {
            let from = self.sources.last_seen(&engine_id).map(|seen| seen.time_nano);
            let source = self.source(&Info { id: engine_id, name: String::new() });
            let gap = GapChange::Blind { from, to: None, reason: Reason::Disconnected, detail: Some(text) };
            self.tell(source, gap);
        }
    }

    fn source(&self, info: &Info) -> Arc<SourceKey> {
        let host = self.host();
        let given = host.name.clone();
        Arc::new(SourceKey {
            engine_id: Some(info.id.clone()),
            renamed: given.is_some(),
            name: given.unwrap_or_else(|| info.name.clone()),
            host: Some(host.url().to_owned()),
        })
    }

    /// Hands on what has become known of a gap. A queue that is full loses it; the next contact finds it again.
    fn tell(&self, source: Arc<SourceKey>, gap: GapChange) {
        let _ = self.queue.push(Delivery { gap: Some(gap), ..delivery(source) });
    }

    /// One contact, from connecting to the end of the stream.
    async fn contact(
        &self,
        contact: &mut Option<Contact>,
        away: &mut Away,
        overflowed: bool,
    ) -> Result<Ended, EngineError> {
        let host = self.host();
        let client = Client::negotiate(host).await?;
        let info = client.info().await?;
        let before = self.sources.last_at(host.url()).filter(|engine_id| *engine_id != info.id);
        let Some(claim) = self.sources.claim(&info.id, host.url()) else {
            if !std::mem::replace(&mut away.taken, true) {
                tracing::warn!("{host} is an engine that another host reaches too: it is recorded once ({})", info.id);
            }
            return Ok(if self.plan.until == Until::MemoryTaken { Ended::Done } else { Ended::Taken });
        };
        if let Some(engine_id) = before {
            self.another_engine(engine_id, &info);
        }
        let source = self.source(&info);
        let here = contact.insert(Contact::new(self, source, claim, overflowed));
        if self.plan.until == Until::MemoryTaken {
            let memory = take_memory(&client, self.plan.max_event).await?;
            here.only_memory(memory);
            return Ok(Ended::Done);
        }
        let stream = client.events().await?;
        self.board.connected(self.index, &info.id);
        if std::mem::take(&mut away.said) || !std::mem::replace(&mut away.reached, true) {
            tracing::info!("{host} is the engine {} ({})", info.name, info.id);
        }
        away.taken = false;
        here.follow(&client, stream, away).await
    }

    /// At this host there was another engine before: what that one does is not seen any more.
    fn another_engine(&self, engine_id: String, info: &Info) {
        let host = self.host();
        tracing::warn!("{host} is another engine now: {}, before it was {engine_id}", info.id);
        if let Some(seen) = self.sources.last_seen(&engine_id) {
            let gap = GapChange::Blind {
                from: Some(seen.time_nano),
                to: Some(now_nano()),
                reason: Reason::EngineRestart,
                detail: Some(format!("{host} is now the engine {}", info.id)),
            };
            self.tell(self.source(&Info { id: engine_id, name: String::new() }), gap);
        }
    }
}

/// What was said of a host, so that it is said once.
#[derive(Default)]
struct Away {
    said: bool,
    taken: bool,
    reached: bool,
    overflowed: Option<Instant>,
}

/// A delivery that says nothing yet.
fn delivery(source: Arc<SourceKey>) -> Delivery {
    Delivery { source, received_nano: now_nano(), events: Vec::new(), rejected: Vec::new(), last_seen: None, gap: None }
}

/// What an engine remembers.
#[derive(Default)]
struct Memory {
    events: Vec<Box<[u8]>>,
    identities: Vec<Identity>,
    rejected: Vec<Rejection>,
}

async fn take_memory(client: &Client, max_event: usize) -> Result<Memory, EngineError> {
    let mut memory = Memory::default();
    let mut decoder = Decoder::with_limit(max_event);
    let mut chunks = client.memory().await?;
    let mut each = |item: Item| match item {
        Item::Event(event) => {
            memory.identities.push(event.identity());
            memory.events.push(event.raw.into());
        }
        Item::Rejected(rejected) => memory.rejected.push(rejection(&rejected)),
    };
    let mut taken = 0;
    loop {
        match tokio::time::timeout(MEMORY_PATIENCE, chunks.next()).await {
            Ok(Ok(Some(bytes))) => decoder.push(&bytes, |item| {
                taken += 1;
                each(item);
            }),
            Ok(Err(e)) => return Err(e),
            // An answer that does not end: what has come is what there is.
            Ok(Ok(None)) | Err(_) => break,
        }
        if taken >= MEMORY_LIMIT {
            break;
        }
    }
    decoder.finish(each);
    Ok(memory)
}

fn rejection(rejected: &crate::stream::Rejected) -> Rejection {
    Rejection { bytes: rejected.bytes.into(), error: rejected.reason.to_string() }
}

/// A contact with an engine: what it brings, handed on as it comes, or held until the contact is judged.
struct Contact {
    plan: Arc<Plan>,
    queue: Arc<Queue>,
    source: Arc<SourceKey>,
    claim: Claim,
    decoder: Decoder,
    /// While the contact is not judged: what is known so far.
    continuity: Option<Continuity>,
    /// What came and is not handed on yet.
    held: Delivery,
    /// The last event that came, whether it is to be stored or not.
    last: Option<Identity>,
    /// Whether the contact before this one lost events because the store did not take them.
    overflowed: bool,
    /// Whether an event came that was not known before.
    news: bool,
}

impl Contact {
    fn new(collector: &Collector, source: Arc<SourceKey>, claim: Claim, overflowed: bool) -> Contact {
        Contact {
            plan: collector.plan.clone(),
            queue: collector.queue.clone(),
            continuity: Some(Continuity::new(claim.last_seen())),
            held: delivery(source.clone()),
            decoder: Decoder::with_limit(collector.plan.max_event),
            source,
            claim,
            last: None,
            overflowed,
            news: false,
        }
    }

    /// Follows the stream to its end.
    async fn follow(&mut self, client: &Client, mut stream: Chunks, away: &mut Away) -> Result<Ended, EngineError> {
        // Dropped with the contact, and with it what is asked.
        let mut asked = JoinSet::new();
        let max_event = self.plan.max_event;
        let ask = |asked: &mut JoinSet<_>| {
            let client = client.clone();
            asked.spawn(async move { take_memory(&client, max_event).await });
        };
        ask(&mut asked);
        let judgement = sleep_until(Instant::now() + JUDGEMENT);
        tokio::pin!(judgement);
        let every = self.plan.look_again.unwrap_or(Duration::from_secs(3600));
        let mut look_again = interval_at(Instant::now() + every, every);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                read = self.read(&mut stream) => {
                    let open = read?;
                    self.judge();
                    if self.continuity.is_none() && self.hand_on().is_err() {
                        return self.overflow(&mut stream, away).await;
                    }
                    if !open {
                        return Ok(Ended::Lost);
                    }
                }
                Some(told) = asked.join_next() => {
                    if self.remember(told.expect("asking does not panic")).is_err() {
                        return self.overflow(&mut stream, away).await;
                    }
                }
                () = &mut judgement, if self.continuity.is_some() => {
                    self.conclude();
                    if self.hand_on().is_err() {
                        return self.overflow(&mut stream, away).await;
                    }
                }
                _ = look_again.tick(), if self.plan.look_again.is_some() && asked.is_empty() => ask(&mut asked),
            }
        }
    }

    /// Takes what the stream has, once it has something. Whether the stream is still open.
    async fn read(&mut self, stream: &mut Chunks) -> Result<bool, EngineError> {
        let mut taken = 0;
        while taken < READ_AT_ONCE {
            let next = if taken == 0 {
                stream.next().await
            } else {
                tokio::select! {
                    biased;
                    next = stream.next() => next,
                    () = std::future::ready(()) => break,
                }
            };
            match next {
                Ok(Some(bytes)) => {
                    taken += bytes.len().max(1);
                    self.take(|decoder, each| decoder.push(&bytes, each));
                }
                end => {
                    self.take(|decoder, each| {
                        if decoder.finish(each) == End::Cut {
                            tracing::debug!("the stream was cut inside an event");
                        }
                    });
                    self.judge();
                    return if taken > 0 { Ok(false) } else { end.map(|_| false) };
                }
            }
        }
        Ok(true)
    }

    fn take(&mut self, decode: impl FnOnce(&mut Decoder, &mut dyn FnMut(Item))) {
        let Contact { held, continuity, last, plan, .. } = self;
        let mut each = |item: Item| match item {
            Item::Event(event) => {
                let identity = event.identity();
                if let Some(continuity) = continuity {
                    continuity.stream_brought(identity);
                }
                *last = Some(identity);
                if plan.selection.passes(&event) {
                    held.events.push(event.raw.into());
                }
            }
            Item::Rejected(rejected) => held.rejected.push(rejection(&rejected)),
        };
        decode(&mut self.decoder, &mut each);
    }

    /// The memory was told: at first to judge the contact by, later to find what the stream left out.
    fn remember(&mut self, told: Result<Memory, EngineError>) -> Result<(), Full> {
        match (&mut self.continuity, told) {
            (Some(continuity), Ok(memory)) => {
                continuity.memory_told(memory.identities);
                // The stream should bring all of it too; what it does not is not lost by that.
                self.held.events = [self.selected(memory.events), std::mem::take(&mut self.held.events)].concat();
                self.judge();
                if self.continuity.is_none() { self.hand_on() } else { Ok(()) }
            }
            (Some(continuity), Err(e)) => {
                tracing::debug!("{}", chain(&e));
                continuity.memory_unknown();
                Ok(())
            }
            (None, Ok(memory)) => {
                self.queue.push(Delivery { events: self.selected(memory.events), ..delivery(self.source.clone()) })
            }
            (None, Err(e)) => {
                tracing::debug!("{}", chain(&e));
                Ok(())
            }
        }
    }

    fn selected(&self, mut events: Vec<Box<[u8]>>) -> Vec<Box<[u8]>> {
        if !self.plan.selection.is_everything() {
            events.retain(|raw| crate::event::Event::parse(raw).is_ok_and(|event| self.plan.selection.passes(&event)));
        }
        events
    }

    /// Takes the memory as all there is to come.
    fn only_memory(&mut self, memory: Memory) {
        let mut continuity = Continuity::new(self.claim.last_seen());
        memory.identities.iter().for_each(|identity| continuity.stream_brought(*identity));
        self.last = memory.identities.last().copied();
        continuity.memory_told(memory.identities);
        self.continuity = Some(continuity);
        self.held.events = self.selected(memory.events);
        self.held.rejected = memory.rejected;
        self.conclude();
        // An empty queue takes a delivery of any size.
        if self.hand_on().is_err() {
            tracing::error!("the buffer is full");
        }
    }

    /// Judges the contact as soon as it can be.
    fn judge(&mut self) {
        if self.continuity.as_ref().is_some_and(|continuity| continuity.verdict().is_some()) {
            self.conclude();
        }
    }

    fn conclude(&mut self) {
        let Some(continuity) = self.continuity.take() else { return };
        let last_seen = self.claim.last_seen();
        let from = last_seen.map(|seen| seen.time_nano);
        let verdict = continuity.conclude();
        let (to, reason, detail) = match verdict {
            Verdict::Proven => {
                self.held.gap = Some(GapChange::Withdrawn { from });
                return;
            }
            Verdict::FirstContact { to } => (to, Reason::FirstContact, None),
            Verdict::Restarted { to } | Verdict::Overrun { to } if self.overflowed => {
                (to, Reason::BufferFull, Some("the store did not take events as fast as they came"))
            }
            Verdict::Restarted { to } => (
                to,
                Reason::EngineRestart,
                Some("the engine has forgotten the last event seen, and its memory is not full"),
            ),
            Verdict::Overrun { to } => {
                (to, Reason::Overrun, Some("the engine remembers 256 events, and the last one seen is not among them"))
            }
        };
        if reason != Reason::FirstContact {
            tracing::warn!("a gap in the record of {}: {}", self.source.name, reason.as_str());
        }
        let to = Some(to.unwrap_or_else(now_nano));
        self.held.gap = Some(GapChange::Blind { from, to, reason, detail: detail.map(Into::into) });
    }

    /// Hands what is held to the writer.
    fn hand_on(&mut self) -> Result<(), Full> {
        let mut held = std::mem::replace(&mut self.held, delivery(self.source.clone()));
        held.received_nano = now_nano();
        held.last_seen = self.last.take();
        if held.is_empty() {
            return Ok(());
        }
        let last_seen = held.last_seen;
        self.queue.push(held)?;
        if let Some(last_seen) = last_seen {
            self.news |= self.claim.last_seen() != Some(last_seen);
            self.claim.saw(last_seen);
        }
        Ok(())
    }

    /// The buffer is full: takes what comes off the socket and lets it go, until there is room. What was let go is
    /// then asked for again, or a gap.
    async fn overflow(&mut self, stream: &mut Chunks, away: &mut Away) -> Result<Ended, EngineError> {
        if away.overflowed.is_none_or(|said| said.elapsed() > OVERFLOW_SAID) {
            away.overflowed = Some(Instant::now());
            let name = &self.source.name;
            tracing::warn!(
                "the buffer is full: what {name} sends now is not kept; the engine is asked for it again when there is room"
            );
        }
        let queue = self.queue.clone();
        let room = queue.room();
        tokio::pin!(room);
        loop {
            tokio::select! {
                () = &mut room => return Ok(Ended::Overflowed),
                next = stream.next() => if !matches!(next, Ok(Some(_))) {
                    room.await;
                    return Ok(Ended::Overflowed);
                },
            }
        }
    }
}

impl Drop for Contact {
    /// However the contact ends, what came is handed on. If it was not judged by then, what came is no proof of what
    /// came before it, so it does not count as the last seen.
    fn drop(&mut self) {
        if self.continuity.is_some() {
            self.last = None;
        }
        if self.hand_on().is_err() {
            tracing::warn!("the buffer is full: the engine is asked again for what it sent last");
        }
    }
}
