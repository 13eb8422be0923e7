//! Reads one host's stream, again and again: connect, prove that nothing was missed, follow, and when it ends begin
//! anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::board::Board;
use super::clock::{self, Clock};
use super::contact::{Before, Contact, Ended, delivery};
use super::counter::Counter;
use super::memory::{self, Patience};
use super::pulse;
use super::sources::Sources;
use super::{Plan, Until};
use crate::commands::now_nano;
use crate::engine::{Client, EngineError, Host, Info};
use crate::error::chain;
use crate::store::{Delivery, GapChange, Queue, Reason, SourceKey};
use crate::stream::backoff::Backoff;

/// How long a stream must have stood, if it brought nothing, for the next try to be made at once.
const STOOD: Duration = Duration::from_secs(5);

/// So many streams that end before anything can be said of them make an engine that is away.
const FRUITLESS: u32 = 3;

/// How long it is tried to reach an engine whose memory alone is to be taken.
const ONCE_PATIENCE: Duration = Duration::from_secs(5);

/// How long its answer may take.
const ONCE_MEMORY: Patience = Patience { idle: Duration::from_secs(10), whole: Duration::from_secs(60) };

/// So soon after its stream was opened an engine is asked what it is.
const SETTLED: Duration = Duration::from_millis(300);

/// How often it is looked whether an engine that is recorded through another host is so still.
const TAKEN_PATIENCE: Duration = Duration::from_secs(5);

/// Records one host.
pub(super) struct Collector {
    pub(super) index: usize,
    pub(super) plan: Arc<Plan>,
    pub(super) queue: Arc<Queue>,
    pub(super) sources: Arc<Sources>,
    pub(super) board: Arc<Board>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// How it stands with the host, and what was said of it, so that it is said once.
#[derive(Default)]
struct Standing {
    /// It was said that the engine cannot be reached.
    away: bool,
    taken_said: bool,
    reached_said: bool,
    overflow_said: Option<Instant>,
    clock: Clock,
    overflowed: bool,
    /// Streams in a row that ended before anything could be said of them.
    fruitless: u32,
    /// Where the engine counts its events, while no contact has it.
    counter: Option<Counter>,
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
        let counter = self.plan.metrics.get(&self.index).cloned().map(Counter::new);
        let mut standing = Standing { counter, ..Standing::default() };
        let started = Instant::now();
        let once = self.plan.until == Until::MemoryTaken;
        loop {
            tokio::time::sleep(backoff.wait()).await;
            let mut contact = None;
            let ended = self.contact(&mut contact, &mut standing).await;
            self.board.disconnected(self.index);
            standing.overflowed = matches!(ended, Ok(Ended::Overflowed));
            match contact.as_ref().map(Contact::is_judged) {
                Some(true) => (standing.fruitless, standing.away) = (0, false),
                Some(false) => standing.fruitless += 1,
                None => {}
            }
            standing.counter = contact.as_mut().and_then(Contact::counter).or(standing.counter);
            if standing.overflowed || contact.is_some_and(|contact| contact.stood(STOOD)) {
                backoff.reset();
            }
            match ended {
                Ok(Ended::Done) => return Ok(()),
                Ok(Ended::Overflowed) => {}
                Ok(Ended::Taken) => tokio::time::sleep(TAKEN_PATIENCE).await,
                Err(e @ EngineError::Endless { .. }) if once => return Err(e),
                Err(e) if once && started.elapsed() > ONCE_PATIENCE => return Err(e),
                Ok(Ended::Lost) => self.lost(&format!("{} ends its stream at once", self.host()), &mut standing),
                Err(e @ EngineError::BrokenOff { .. }) => self.lost(&chain(&e), &mut standing),
                Err(e) => self.cannot_reach(&chain(&e), e.hint(), &mut standing),
            }
        }
    }

    /// A stream has ended, which is nothing to speak of unless none ever stands.
    fn lost(&self, text: &str, standing: &mut Standing) {
        if standing.fruitless >= FRUITLESS {
            self.cannot_reach(text, None, standing);
        } else {
            tracing::debug!("{text}");
        }
    }

    /// The engine is away: said once, and a gap is open from the last event seen until it is known better.
    fn cannot_reach(&self, text: &str, hint: Option<String>, standing: &mut Standing) {
        self.board.troubled(self.index, text);
        if standing.away {
            tracing::debug!("{text}");
            return;
        }
        standing.away = true;
        if self.plan.until == Until::MemoryTaken {
            // What keeps it from being taken is said at the end.
            tracing::warn!("{} does not answer; it is tried for {} s", self.host(), ONCE_PATIENCE.as_secs());
        } else {
            let hint = hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            tracing::warn!("{text}{hint}; it is tried again until it works");
        }
        if let Some(engine_id) = self.sources.last_at(self.host().url()) {
            let from = self.sources.last_seen(&engine_id).map(|seen| seen.time_nano);
            let source = self.source(&Info { id: engine_id, ..Info::default() });
            let detail = Some(text.to_owned());
            self.tell(source, GapChange::Blind { from, to: None, reason: Reason::Disconnected, detail });
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
    async fn contact(&self, contact: &mut Option<Contact>, standing: &mut Standing) -> Result<Ended, EngineError> {
        let host = self.host();
        let once = self.plan.until == Until::MemoryTaken;
        let client = Client::negotiate(host).await?;
        let (info, skew) = clock::compared(&client).await?;
        self.board.reached(self.index, &info.id);
        let before = self.sources.last_at(host.url()).filter(|engine_id| *engine_id != info.id);
        let claim = match self.sources.claim(&info.id, host.url()) {
            Ok(claim) => claim,
            Err(other) => {
                if !std::mem::replace(&mut standing.taken_said, true) {
                    let Info { name, id, .. } = &info;
                    tracing::warn!("{host} reaches the same engine as {other}: it is recorded once ({name}, {id})");
                }
                return Ok(if once { Ended::Done } else { Ended::Taken });
            }
        };
        standing.taken_said = false;
        if let Some(engine_id) = before {
            self.another_engine(engine_id, &info);
            standing.counter.iter_mut().for_each(|counter| counter.tally.begin_anew());
        }
        let (source, known) = (self.source(&info), Before { overflowed: standing.overflowed, away: standing.away });
        standing.clock.note(&info.name, skew);
        let here = contact.insert(Contact::new(
            self.plan.clone(),
            self.queue.clone(),
            source.clone(),
            claim,
            known,
            standing.counter.take(),
        ));
        here.clock_is_ahead(skew.map(|skew| skew.nano));
        if once {
            let mut memory = memory::take(&client, self.plan.max_event, ONCE_MEMORY).await?;
            let endless = memory.endless.take();
            here.only_memory(&client, memory).await;
            return endless.map_or(Ok(Ended::Done), Err);
        }
        let stream = client.events().await?;
        self.board.connected(self.index);
        if (standing.away && standing.fruitless < FRUITLESS) || !standing.reached_said {
            tracing::info!("{host} is the engine {} ({})", info.name, info.id);
            standing.reached_said = true;
            standing.away = false;
        }
        let Standing { overflow_said, clock, .. } = standing;
        tokio::select! {
            ended = here.follow(&client, stream, overflow_said) => ended,
            silent = pulse::lost(&client, &self.plan) => Err(silent),
            never = self.keep_comparing(&client, &source, clock) => match never {},
        }
    }

    /// Notes what the engine says of itself, and compares the clocks again from time to time.
    async fn keep_comparing(&self, client: &Client, source: &Arc<SourceKey>, clock: &mut Clock) -> Infallible {
        // A stream that ends at once is no reason to ask.
        tokio::time::sleep(SETTLED).await;
        match client.version().await {
            Ok(version) => {
                let _ = self.queue.push(Delivery { version: Some(version), ..delivery(source.clone()) });
            }
            Err(e) => tracing::debug!("{}", chain(&e)),
        }
        loop {
            tokio::time::sleep(clock::EVERY).await;
            match clock::compared(client).await {
                Ok((info, Some(skew))) => {
                    clock.note(&info.name, Some(skew));
                    // A queue that is full has something better to do.
                    let _ = self.queue.push(Delivery { skew_nano: Some(skew.nano), ..delivery(source.clone()) });
                }
                Ok((_, None)) => {}
                Err(e) => tracing::debug!("{}", chain(&e)),
            }
        }
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
            self.tell(self.source(&Info { id: engine_id, ..Info::default() }), gap);
        }
    }
}
