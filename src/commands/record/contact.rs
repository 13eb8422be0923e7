//! One contact with an engine: what it brings, handed on as it comes, or held until the contact is judged.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::Plan;
use super::counter::{self, Counter, Told};
use super::healthchecks::{Answer, Finding, Healthchecks, Questions};
use super::inquiry::{Blindness, Inquiry};
use super::look::{Came, Look};
use super::memory::{Memory, Patience, rejection};
use super::sources::Claim;
use super::tally::{Counted, Dropped};
use crate::commands::now_nano;
use crate::engine::{Chunks, Client, EngineError};
use crate::error::chain;
use crate::event::{Event, Events, Identity, Mark, is_redacted};
use crate::store::{Delivery, Full, GapChange, Queue, Reason, Rejection, SourceKey};
use crate::stream::continuity::{Continuity, MEMORY, Verdict};
use crate::stream::{Decoder, End, Item};

/// So long a contact that cannot be judged yet waits for the stream to bring more. Stream and memory come at once; this
/// is for an engine that is stuck, or that is none.
const JUDGEMENT: Duration = Duration::from_secs(5);

/// The same where the memory cannot be had, and nothing but the stream is waited for.
const JUDGEMENT_ALONE: Duration = Duration::from_secs(1);

/// How long the answer to the question for the memory may take.
const MEMORY_PATIENCE: Patience = Patience { idle: Duration::from_secs(2), whole: Duration::from_secs(10) };

/// So soon the stream brings what the engine is known to remember, or it is not to be trusted any more.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);

/// When so many events have come that half of the memory is new, it is asked for again, but no sooner than this: what the
/// stream leaves out is then still in it, as long as no more than some 2,000 events happen a second.
const LOOK_SOON: Duration = Duration::from_millis(100);

/// So many looks at the memory may fail before the engine counts as lost.
const FAILED_LOOKS: u32 = 2;

/// How often it is looked whether what is known of the containers is too old.
const INQUIRE_AGAIN: Duration = Duration::from_secs(3600);

/// How long to wait for what the containers tell, where the memory alone is to be taken.
const ONCE_INQUIRY: Duration = Duration::from_secs(20);

/// So long, and with so many bytes, what came is held back at most while it is asked whether it is of health checks that
/// are to be left out or marked.
const HOLD_BACK: Duration = Duration::from_secs(1);
const HELD_BACK: usize = 4 << 20;

/// How many bytes are read before they are handed on, if they come without a pause.
const READ_AT_ONCE: usize = 256 * 1024;

/// How often it is said that the store does not keep up.
const OVERFLOW_SAID: Duration = Duration::from_secs(60);

/// How a contact ended.
pub(super) enum Ended {
    /// The stream ended, as it does when the engine stops, or is not to be trusted.
    Lost,
    /// The store could not take what came; it can now.
    Overflowed,
    /// Another host reaches the same engine and records it.
    Taken,
    /// What was to be taken is taken.
    Done,
}

/// What is known of the contacts before this one.
#[derive(Clone, Copy, Default)]
pub(super) struct Before {
    /// Events were let go because the store did not take them.
    pub(super) overflowed: bool,
    /// The engine could not be reached for a while.
    pub(super) away: bool,
}

/// A delivery that says nothing yet.
pub(super) fn delivery(source: Arc<SourceKey>) -> Delivery {
    Delivery::new(source, now_nano())
}

/// The last event that came and is not handed on yet.
enum Last {
    None,
    /// The last of those held: who it is can be found out when it is handed on.
    Held,
    Known(Identity),
}

/// A contact with an engine.
pub(super) struct Contact {
    plan: Arc<Plan>,
    queue: Arc<Queue>,
    source: Arc<SourceKey>,
    claim: Claim,
    before: Before,
    decoder: Decoder,
    /// While the contact is not judged: what is known so far, and when it is judged at the latest.
    continuity: Option<Continuity>,
    judge_by: Instant,
    /// The last event seen before, where the contact was judged without waiting any longer: should it come back after
    /// all, nothing was missed.
    doubt: Option<Identity>,
    /// The second look, and until when the stream must have caught up with what it told.
    look: Option<(Look, Instant)>,
    /// The newest event of the memory told last, or of an empty one the first that came then: all up to it is known.
    complete: Option<Mark>,
    came: Came,
    /// What the stream was found to have left out at the last look.
    left_out: HashSet<Mark>,
    /// The last event that the stream brought.
    came_last: Option<Mark>,
    /// When the engine was asked last for its memory, how many events came since, and, if it counts, which.
    asked: Instant,
    since_asked: usize,
    came_since_asked: HashSet<Identity>,
    /// What it counted when it was asked.
    counted: Option<Counted>,
    failed_looks: u32,
    /// Where the engine counts its events.
    counter: Option<Counter>,
    /// Whether the engine is to be asked for its containers.
    inquire: bool,
    inquired: Instant,
    healthchecks: Healthchecks,
    /// Until when what came is held back, if it is.
    hold_back_until: Option<Instant>,
    /// What came and is not handed on yet; and how many of its events the memory told, not the stream.
    held: Delivery,
    remembered: usize,
    /// The last event that came, whether it is to be stored or not.
    last: Last,
    /// Whether an event came that was not known before.
    news: bool,
    opened: Option<Instant>,
    /// How far the engine's clock is ahead, not handed on yet.
    skew_nano: Option<i64>,
}

impl Contact {
    pub(super) fn new(
        plan: Arc<Plan>,
        queue: Arc<Queue>,
        source: Arc<SourceKey>,
        claim: Claim,
        before: Before,
        counter: Option<Counter>,
    ) -> Self {
        let mut healthchecks = claim.healthchecks();
        healthchecks.begin();
        Contact {
            healthchecks,
            hold_back_until: None,
            continuity: Some(Continuity::new(claim.last_seen())),
            judge_by: Instant::now() + JUDGEMENT,
            doubt: None,
            look: None,
            complete: None,
            came: Came::default(),
            left_out: HashSet::new(),
            came_last: None,
            asked: Instant::now(),
            since_asked: 0,
            came_since_asked: HashSet::new(),
            counted: None,
            failed_looks: 0,
            counter,
            inquire: false,
            inquired: Instant::now(),
            held: delivery(source.clone()),
            remembered: 0,
            decoder: Decoder::with_limit(plan.max_event),
            last: Last::None,
            news: false,
            opened: None,
            skew_nano: None,
            plan,
            queue,
            source,
            claim,
            before,
        }
    }

    /// The engine's clock was compared with ours.
    pub(super) fn clock_is_ahead(&mut self, skew_nano: Option<i64>) {
        self.skew_nano = skew_nano;
    }

    /// Whether it did some good: it brought news, or its stream stood for a while.
    pub(super) fn stood(&self, long_enough: Duration) -> bool {
        self.news || self.opened.is_some_and(|opened| opened.elapsed() >= long_enough)
    }

    /// Whether it is known what this contact missed.
    pub(super) fn is_judged(&self) -> bool {
        self.continuity.is_none()
    }

    /// What is known of the engine's counter, for the next contact.
    pub(super) fn counter(&mut self) -> Option<Counter> {
        self.counter.take()
    }

    /// Follows the stream to its end.
    pub(super) async fn follow(
        &mut self,
        client: &Client,
        mut stream: Chunks,
        overflow_said: &mut Option<Instant>,
    ) -> Result<Ended, EngineError> {
        self.opened = Some(Instant::now());
        // Dropped with the contact, and with it what is asked.
        let (mut asked, mut inquiries, mut questions) = (JoinSet::new(), JoinSet::new(), Questions::default());
        let max_event = self.plan.max_event;
        let page = self.counter.as_ref().map(Counter::page);
        let ask = |asked: &mut JoinSet<_>| {
            let (client, page) = (client.clone(), page.clone());
            asked.spawn(async move { counter::ask(&client, page, max_event, MEMORY_PATIENCE).await });
        };
        ask(&mut asked);
        let every = self.plan.look_again.unwrap_or(Duration::from_secs(3600));
        // What the engine counts is compared from the first look on, so that one comes at once.
        let first = if page.is_some() { Duration::ZERO } else { every };
        let mut look_again = interval_at(Instant::now() + first, every);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.inquire && inquiries.is_empty() {
                inquiries.spawn(self.inquiry(client).ask());
            }
            if self.since_asked >= MEMORY / 2 && self.asked.elapsed() >= LOOK_SOON && self.may_look(&asked) {
                self.begin_look();
                ask(&mut asked);
            }
            questions.ask(client, &mut self.healthchecks);
            let judge_by = self.judge_by;
            let hold_by = self.hold_back_until;
            let settle_by = self.look.as_ref().map(|look| look.1);
            let handed_on = tokio::select! {
                next = stream.next() => {
                    let open = self.read(next, &mut stream).await?;
                    let handed_on = self.came();
                    if !open && handed_on.is_ok() {
                        return Ok(Ended::Lost);
                    }
                    handed_on
                }
                Some(told) = asked.join_next() => self.told(told.expect("asking does not panic"))?,
                () = sleep_until(judge_by), if self.continuity.is_some() => {
                    self.conclude();
                    self.hand_on()
                }
                () = sleep_until(settle_by.unwrap_or(judge_by)), if settle_by.is_some() => {
                    let stirred = self.end_look();
                    let handed_on = self.hand_on();
                    if !stirred && handed_on.is_ok() {
                        tracing::debug!("{} remembers what its stream does not bring", self.source.name);
                        return Ok(Ended::Lost);
                    }
                    handed_on
                }
                _ = look_again.tick(), if self.may_look(&asked) => {
                    self.begin_look();
                    self.inquire |= self.inquired.elapsed() > INQUIRE_AGAIN;
                    ask(&mut asked);
                    Ok(())
                }
                Some(answer) = inquiries.join_next() => self.inquired(answer.expect("asking does not panic")),
                Some(answer) = questions.answer() => self.answered(answer),
                () = sleep_until(hold_by.unwrap_or(judge_by)), if hold_by.is_some() => self.hand_on(),
            };
            if let Err(Full(delivery)) = handed_on {
                return Ok(self.overflow(*delivery, &mut stream, overflow_said).await);
            }
        }
    }

    fn may_look<T>(&self, asked: &JoinSet<T>) -> bool {
        self.plan.look_again.is_some() && asked.is_empty() && self.look.is_none() && self.continuity.is_none()
    }

    /// The engine is about to be asked again.
    fn begin_look(&mut self) {
        (self.asked, self.since_asked) = (Instant::now(), 0);
        self.came_since_asked.clear();
    }

    /// Takes what the stream has, beginning with the `next` of it. Whether the stream is still open.
    async fn read(
        &mut self,
        mut next: Result<Option<Bytes>, EngineError>,
        stream: &mut Chunks,
    ) -> Result<bool, EngineError> {
        let mut taken = 0;
        loop {
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
                    return if taken > 0 { Ok(false) } else { end.map(|_| false) };
                }
            }
            if taken >= READ_AT_ONCE {
                return Ok(true);
            }
            // The connection, a task of its own, brings one chunk at a time; each event is one, and to hand on many
            // costs little more than one.
            next = tokio::select! {
                biased;
                next = stream.next() => next,
                () = tokio::task::yield_now() => return Ok(true),
            };
        }
    }

    fn take(&mut self, decode: impl FnOnce(&mut Decoder, &mut dyn FnMut(Item<'_>))) {
        let Contact {
            held,
            remembered,
            continuity,
            doubt,
            look,
            came,
            came_last,
            complete,
            since_asked,
            came_since_asked,
            last,
            plan,
            counter,
            claim,
            healthchecks,
            ..
        } = self;
        let last_seen = continuity.as_ref().and_then(|_| claim.last_seen());

        let mut each = |item: Item<'_>| match item {
            Item::Event(event) => {
                let finding = healthchecks.happened(&event, true);
                let passes = plan.takes(&event, finding, &mut held.left_out);
                if passes {
                    plan.push(&event, finding, &mut held.events);
                }
                *since_asked += 1;
                let mark = event.mark();
                came.insert(mark);
                *came_last = Some(mark);
                complete.get_or_insert(mark);
                if let Some((look, _)) = look {
                    look.came(&mark);
                }
                // Who it is costs a hash of all of it, and in a quiet following only the last one is asked for.
                let alone = continuity.is_none() && doubt.is_none() && counter.is_none();
                if passes && plan.redaction.is_none() && alone && finding != Finding::Undecided {
                    *last = Last::Held;
                    return;
                }
                let identity = event.identity();
                if let Some(continuity) = continuity {
                    continuity.stream_brought(identity);
                    if last_seen == Some(identity) {
                        let told = held.events.split_off(*remembered);
                        held.again = told.behind(std::mem::take(&mut held.again));
                    }
                }
                if last_seen == Some(identity) {
                    held.left_out = 0;
                    healthchecks.seen_before();
                }
                if let Some(counter) = counter {
                    came_since_asked.insert(identity);
                    counter.tally.came(identity);
                }
                if *doubt == Some(identity) {
                    *doubt = None;
                    claim.nothing_missed(identity.time_nano);
                    held.gap = Some(GapChange::Withdrawn { from: Some(identity.time_nano) });
                }
                *last = Last::Known(identity);
            }
            Item::Rejected(rejected) => held.rejected.push(plan.rejection(rejection(&rejected))),
        };
        decode(&mut self.decoder, &mut each);
    }

    /// The stream has brought something.
    fn came(&mut self) -> Result<(), Full> {
        self.judge();
        match &self.continuity {
            Some(continuity) => {
                let patience = if continuity.lacks_memory() { JUDGEMENT_ALONE } else { JUDGEMENT };
                self.judge_by = Instant::now() + patience;
                Ok(())
            }
            None => {
                self.settle_look();
                self.hand_on()
            }
        }
    }

    /// The memory was told: at first to judge the contact by, later to find what the stream left out.
    ///
    /// # Errors
    /// The engine does not answer any more.
    fn told(&mut self, told: Told) -> Result<Result<(), Full>, EngineError> {
        let counted = self.counter.as_mut().zip(told.counted).and_then(|(counter, counted)| counter.read(counted));
        self.counted = counted;
        Ok(match (&mut self.continuity, told.memory) {
            (Some(continuity), Ok(memory)) => {
                if let Some(endless) = &memory.endless {
                    tracing::debug!("{endless}");
                }
                self.complete = memory.marks.last().copied();
                // Of an answer that does not end it is not known where the memory does, but what came is remembered.
                let seen = self.claim.last_seen();
                if let Some(counter) = &mut self.counter {
                    memory.identities.iter().for_each(|identity| counter.tally.came(*identity));
                }
                let known = seen.and_then(|seen| memory.identities.iter().position(|identity| *identity == seen));
                if memory.endless.is_none() || known.is_some() {
                    continuity.memory_told(memory.identities);
                } else {
                    continuity.memory_unknown();
                    self.judge_by = Instant::now() + JUDGEMENT_ALONE;
                }
                // The stream should bring all of it too; what it does not is not lost by that.
                self.remember(memory.events, known, false);
                self.judge();
                if self.continuity.is_none() { self.hand_on() } else { Ok(()) }
            }
            (Some(continuity), Err(e)) => {
                tracing::debug!("{}", chain(&e));
                continuity.memory_unknown();
                self.judge_by = Instant::now() + JUDGEMENT_ALONE;
                Ok(())
            }
            (None, Ok(memory)) if memory.endless.is_none() => {
                self.failed_looks = 0;
                self.looked(memory)
            }
            (None, Ok(memory)) => {
                self.tally_came(&memory.identities);
                let known = self.complete.and_then(|known| memory.marks.iter().position(|mark| *mark == known));
                self.store_remembered(memory.events, known)
            }
            (None, Err(e)) => {
                tracing::debug!("{}", chain(&e));
                self.failed_looks += 1;
                if self.failed_looks >= FAILED_LOOKS {
                    return Err(e);
                }
                Ok(())
            }
        })
    }

    /// The second look: what the engine remembers now.
    fn looked(&mut self, mut memory: Memory) -> Result<(), Full> {
        let newest = memory.marks.last().copied();
        let since = std::mem::replace(&mut self.complete, newest);
        let known = since.and_then(|since| memory.marks.iter().position(|mark| *mark == since));
        let events = std::mem::take(&mut memory.events);
        let mut look = Look::new(since, memory, &self.came, self.came_last);
        // Where nothing lies between the two memories, all that may be missing is in this one.
        let lacks = look.shows_loss(&self.came);
        if lacks {
            let marks = events.iter().zip(&look.memory.marks);
            let wanted = marks.filter(|((event, _), _)| self.plan.selection.passes(event));
            look.wanted = wanted.map(|(_, mark)| *mark).collect();
        }
        let now = if look.overlaps() && lacks {
            events
        } else {
            look.memory.events = events;
            Events::default()
        };
        self.look = Some((look, Instant::now() + STREAM_PATIENCE));
        self.settle_look();
        self.store_remembered(now, known)?;
        self.hand_on()
    }

    fn store_remembered(&mut self, events: Events, known: Option<usize>) -> Result<(), Full> {
        let (again, events) = self.remembered(events, known, true);
        if again.is_empty() && events.is_empty() {
            return Ok(());
        }
        self.queue.push(Delivery { again, events, ..delivery(self.source.clone()) })
    }

    fn tally_came(&mut self, identities: &[Identity]) {
        if let Some(counter) = &mut self.counter {
            identities.iter().for_each(|identity| counter.tally.came(*identity));
        }
    }

    /// Once the stream has caught up with what the engine was found to remember: did it leave something out?
    fn settle_look(&mut self) {
        let caught_up = self.look.as_ref().is_some_and(|(look, _)| look.is_caught_up(&self.came));
        if caught_up && self.held.gap.is_none() {
            self.end_look();
        }
    }

    /// What the stream left out is taken from the memory; what that does not hold either is a gap. Whether the stream
    /// has brought anything meanwhile.
    fn end_look(&mut self) -> bool {
        let Some((mut look, _)) = self.look.take() else { return true };
        let stirred = look.stirred || look.is_caught_up(&self.came);
        // Until the engine has forgotten it, every look finds it.
        let left_out = look.left_out(&self.came);
        self.held.healed += left_out.difference(&self.left_out).count() as u64;
        self.left_out = left_out;
        if let (false, Some(since), Some(oldest)) = (look.overlaps(), look.since, look.memory.marks.first())
            && look.shows_loss(&self.came)
        {
            let full = look.memory.marks.len() >= MEMORY;
            let reason = if full { Reason::Overrun } else { Reason::EngineRestart };
            // A stream that does not stir any more was well until then.
            let last = self.last_seen().map(|last| last.time_nano);
            let last = last.filter(|last| !stirred && *last <= oldest.time_nano);
            self.counter.iter_mut().for_each(|counter| counter.tally.begin_anew());
            self.blind(GapChange::Blind {
                from: Some(last.unwrap_or(since.time_nano)),
                to: Some(oldest.time_nano),
                reason,
                detail: Some("the stream left out more than the engine remembers".into()),
            });
            self.remember(std::mem::take(&mut look.memory.events), None, true);
            return stirred;
        }
        let counted = self.counted.take();
        let Some(counter) = &mut self.counter else { return stirred };
        if !stirred {
            self.tally_came(&look.memory.identities);
        } else if let Some(Dropped { from, to, counted, came }) =
            counted.and_then(|counted| counter.tally.looked(counted, &look.memory.identities, &self.came_since_asked))
        {
            self.blind(GapChange::Blind {
                from: Some(from),
                to: Some(to),
                reason: Reason::DroppedByEngine,
                detail: Some(format!("the engine counted {counted} events, {came} came")),
            });
        }
        stirred
    }

    /// The last event that came, handed on or not.
    fn last_seen(&self) -> Option<Identity> {
        match &self.last {
            Last::Known(identity) => Some(*identity),
            Last::Held => self.held.events.last().map(|event| event.identity()),
            Last::None => self.claim.last_seen(),
        }
    }

    /// The record is blind somewhere: that is said, and the engine asked what must have happened there.
    fn blind(&mut self, gap: GapChange) {
        if let GapChange::Blind { reason, .. } = &gap
            && *reason != Reason::FirstContact
        {
            tracing::warn!("a gap in the record of {}: {}", self.source.name, reason.as_str());
        }
        self.claim.owe(Blindness::of(&gap));
        self.held.gap = Some(gap);
        self.inquire = true;
    }

    /// What is to be asked of the engine's containers.
    fn inquiry(&mut self, client: &Client) -> Inquiry {
        self.inquire = false;
        self.inquired = Instant::now();
        Inquiry { client: client.clone(), plan: self.plan.clone(), source: self.source.clone(), gap: self.claim.owed() }
    }

    /// The engine has told what containers it has: handed on, unless the gap turned out to be none, or another. Without an
    /// answer it is asked again at the next contact.
    fn inquired(&mut self, (gap, answer): (Option<Blindness>, Option<Delivery>)) -> Result<(), Full> {
        if gap != self.claim.owed() {
            self.inquire = true;
            return Ok(());
        }
        let Some(answer) = answer else { return Ok(()) };
        self.claim.owe(None);
        self.queue.push(answer)
    }

    /// What the engine remembers came before what its stream brings. It was told before up to and with the place `known`.
    fn remember(&mut self, events: Events, known: Option<usize>, counts: bool) {
        let (again, events) = self.remembered(events, known, counts);
        let Delivery { again: told, events: held, .. } = &mut self.held;
        self.remembered = events.len();
        *told = std::mem::take(told).behind(again);
        *held = std::mem::take(held).behind(events);
    }

    /// Those of a memory that are to be stored: the ones told before, up to and with the place `known`, and the others.
    fn remembered(&mut self, mut events: Events, known: Option<usize>, counts: bool) -> (Events, Events) {
        let others = events.split_off(known.map_or(0, |known| known + 1));
        let ((again, some), (events, more)) = (self.selected(events, counts), self.selected(others, counts));
        self.held.left_out += some + more;
        (again, events)
    }

    /// Those of the events that are to be stored, as they are to be stored, and how many health checks' events are left
    /// out and counted. A filter judges what the engine sent.
    fn selected(&mut self, mut events: Events, counts: bool) -> (Events, u64) {
        let Contact { plan, healthchecks, .. } = self;
        let mut left_out = 0;
        if plan.redaction.is_none() {
            events.retain(|event| plan.takes(event, healthchecks.happened(event, counts), &mut left_out));
            return (events, left_out);
        }
        let mut redacted = Events::default();
        for (event, _) in events.iter() {
            let finding = healthchecks.happened(&event, counts);
            if plan.takes(&event, finding, &mut left_out) {
                plan.push(&event, finding, &mut redacted);
            }
        }
        (redacted, left_out)
    }

    /// The engine has told how a container is configured, or which there are.
    fn answered(&mut self, answer: Answer) -> Result<(), Full> {
        self.healthchecks.answered(answer);
        let matters = self.hold_back_until.is_some() || self.healthchecks.has_notes();
        if matters && self.continuity.is_none() { self.hand_on() } else { Ok(()) }
    }

    /// Whether what is held is to wait until it is known what it is.
    fn holds_back(&mut self) -> bool {
        let matters = self.plan.selection.no_healthchecks || !self.plan.redaction.is_none();
        if !(matters && self.healthchecks.is_waiting() && self.held.events.size() < HELD_BACK) {
            return false;
        }
        let until = self.hold_back_until.get_or_insert_with(|| Instant::now() + HOLD_BACK);
        Instant::now() < *until
    }

    /// What is held is looked at once more, now that more is known.
    fn settle_healthchecks(&mut self) {
        self.hold_back_until = None;
        let Contact { healthchecks, held, plan, source, .. } = self;
        if let Some(left_out) = healthchecks.settle() {
            let mut is_one = |event: &Event<'_>| event.exec().is_some_and(|exec| healthchecks.is_one(exec.id));
            if plan.selection.no_healthchecks {
                held.left_out += left_out;
                held.again.retain(|event| !is_one(event));
                held.events.retain(|event| !is_one(event));
            } else if !plan.redaction.is_none() {
                held.again.mark(|event| is_redacted(event) && is_one(event));
                held.events.mark(|event| is_redacted(event) && is_one(event));
            }
        }
        if plan.selection.no_healthchecks && healthchecks.is_first_unseen() {
            let name = &source.name;
            tracing::warn!(
                "how some containers of {name} are configured could not be seen: none of their exec events is left out"
            );
        }
        let noted = healthchecks.notes().into_iter();
        held.healthchecks.extend(noted.map(|(container, command)| (container, plan.redaction.command(&command))));
    }

    /// Takes the memory as all there is to come, and waits for the store if need be.
    pub(super) async fn only_memory(&mut self, client: &Client, memory: Memory) {
        let mut continuity = Continuity::new(self.claim.last_seen());
        memory.identities.iter().for_each(|identity| continuity.stream_brought(*identity));
        self.last = memory.identities.last().map_or(Last::None, |identity| Last::Known(*identity));
        let seen = self.claim.last_seen();
        let known = memory.identities.iter().position(|identity| Some(*identity) == seen);
        continuity.memory_told(memory.identities);
        self.continuity = Some(continuity);
        self.ask_of(client, &memory.events).await;
        self.remember(memory.events, known, true);
        self.held.rejected = memory.rejected.into_iter().map(|rejected| self.plan.rejection(rejected)).collect();
        self.conclude();
        self.settle_healthchecks();
        let mut handed_on = self.hand_on();
        while let Err(Full(delivery)) = handed_on {
            self.queue.room().await;
            handed_on = self.hand_over(*delivery);
        }
        if let Ok(told) = timeout(ONCE_INQUIRY, self.inquiry(client).ask()).await
            && let Err(Full(delivery)) = self.inquired(told)
        {
            self.queue.room().await;
            let _ = self.queue.push(*delivery);
        }
    }

    /// Asks how the containers are configured in which something ran.
    async fn ask_of(&mut self, client: &Client, events: &Events) {
        self.healthchecks.expect(events);
        let mut questions = Questions::default();
        let all = async {
            loop {
                questions.ask(client, &mut self.healthchecks);
                let Some(answer) = questions.answer().await else { return };
                self.healthchecks.answered(answer);
            }
        };
        if timeout(ONCE_INQUIRY, all).await.is_err() {
            tracing::debug!("{} does not tell of its containers in time", self.source.name);
        }
    }

    /// Judges the contact as soon as it can be.
    fn judge(&mut self) {
        if self.continuity.as_ref().is_some_and(|continuity| continuity.verdict().is_some()) {
            self.conclude();
            self.doubt = None;
        }
    }

    fn conclude(&mut self) {
        let Some(continuity) = self.continuity.take() else { return };
        let last_seen = self.claim.last_seen();
        let from = last_seen.map(|seen| seen.time_nano);
        self.held.contacted = true;
        self.held.skew_nano = self.skew_nano.take();
        // If nothing is owed it is looked whether what is known of the containers is too old.
        self.inquire = true;
        let verdict = continuity.conclude();
        if verdict != Verdict::Proven {
            self.counter.iter_mut().for_each(|counter| counter.tally.begin_anew());
        }
        let (to, reason, detail) = match verdict {
            Verdict::Proven => {
                self.held.gap = Some(GapChange::Withdrawn { from });
                from.into_iter().for_each(|from| self.claim.nothing_missed(from));
                return;
            }
            Verdict::FirstContact { to } if self.claim.was_elsewhere() => {
                (to, Reason::StoreFailed, Some("the file recorded into before was moved, deleted or replaced"))
            }
            Verdict::FirstContact { to } => (to, Reason::FirstContact, None),
            Verdict::Restarted { to } | Verdict::Overrun { to } if self.before.overflowed => {
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
        // An engine that is idle remembers nothing, contact after contact, and was watched all the while.
        if to.is_none() && self.claim.is_quiet() && !self.before.away {
            return;
        }
        self.doubt = last_seen;
        let to = Some(to.unwrap_or_else(now_nano));
        self.blind(GapChange::Blind { from, to, reason, detail: detail.map(Into::into) });
    }

    /// Hands what is held to the writer.
    fn hand_on(&mut self) -> Result<(), Full> {
        if self.holds_back() {
            return Ok(());
        }
        self.settle_healthchecks();
        let mut held = std::mem::replace(&mut self.held, delivery(self.source.clone()));
        held.received_nano = now_nano();
        held.last_seen = match std::mem::replace(&mut self.last, Last::None) {
            Last::None => None,
            Last::Held => held.events.last().map(|event| event.identity()),
            Last::Known(identity) => Some(identity),
        };
        self.hand_over(held)
    }

    fn hand_over(&mut self, delivery: Delivery) -> Result<(), Full> {
        if delivery.is_empty() {
            return Ok(());
        }
        let last_seen = delivery.last_seen;
        self.queue.push(delivery)?;
        if let Some(last_seen) = last_seen {
            self.news |= self.claim.last_seen() != Some(last_seen);
            self.claim.saw(last_seen);
        }
        Ok(())
    }

    /// The buffer is full: takes what comes off the socket and lets it go, until there is room. What was let go is
    /// then asked for again, or a gap.
    async fn overflow(&mut self, full: Delivery, stream: &mut Chunks, said: &mut Option<Instant>) -> Ended {
        if said.is_none_or(|said| said.elapsed() > OVERFLOW_SAID) {
            *said = Some(Instant::now());
            let name = &self.source.name;
            tracing::warn!(
                "the buffer is full: what {name} sends now is not kept; the engine is asked for it again when there is room"
            );
        }
        let queue = self.queue.clone();
        {
            let room = queue.room();
            tokio::pin!(room);
            loop {
                tokio::select! {
                    () = &mut room => break,
                    next = stream.next() => if !matches!(next, Ok(Some(_))) {
                        room.await;
                        break;
                    },
                }
            }
        }
        if let Err(Full(lost)) = self.hand_over(full) {
            self.healthchecks.not_noted(lost.healthchecks);
            tracing::debug!("the buffer is full again");
        }
        Ended::Overflowed
    }
}

impl Plan {
    /// Whether an event is to be stored, for what is known of it now; those of health checks that are not are counted.
    fn takes(&self, event: &Event<'_>, finding: Finding, left_out: &mut u64) -> bool {
        match finding {
            _ if !self.selection.passes(event) => false,
            Finding::Healthcheck { anew } if self.selection.no_healthchecks => {
                *left_out += u64::from(anew);
                false
            }
            _ => true,
        }
    }

    /// Puts an event into a list as it is to be stored.
    fn push(&self, event: &Event<'_>, finding: Finding, events: &mut Events) {
        match self.redaction.apply(event) {
            None => events.push(event),
            Some(text) => {
                events.push(&Event::parse(text.as_bytes()).expect("it is an event still"));
                if let Finding::Healthcheck { .. } = finding {
                    events.mark_last();
                }
            }
        }
    }

    /// A rejected line as it is to be stored: what is no event cannot be redacted but as a whole.
    fn rejection(&self, rejection: Rejection) -> Rejection {
        if self.redaction.is_none() { rejection } else { rejection.redacted() }
    }
}

impl Drop for Contact {
    /// However the contact ends, what came is handed on. If it was not judged by then, what came is no proof of what
    /// came before it, so it does not count as the last seen.
    fn drop(&mut self) {
        if self.continuity.is_some() {
            self.last = Last::None;
        }
        self.settle_look();
        if let Some((look, _)) = self.look.take() {
            self.tally_came(&look.memory.identities);
            self.remember(look.memory.events, None, true);
        }
        self.settle_healthchecks();
        if self.hand_on().is_err() {
            tracing::warn!("the buffer is full: the engine is asked again for what it sent last");
        }
        self.claim.give_back(std::mem::take(&mut self.healthchecks));
    }
}
