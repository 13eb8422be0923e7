//! Drives whole sessions with a model engine, in random interleavings: drops, restarts, reordering, slow and failed
//! answers, a full queue, kills of the recorder, steps of the clock. The promise: every event is stored, or inside a
//! gap.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::engine::Host;
use crate::recorder::backlog::BACKLOG_LEN;

/// One step of the model.
#[derive(Clone, Debug)]
enum Step {
    /// The engine emits this many events.
    Emit(usize),
    /// The engine drops the next events for the stream, because its reader is slow.
    Drop(usize),
    /// The two newest events of the stream arrive in the other order.
    Reorder,
    /// This many events of the stream arrive.
    Arrive(usize),
    /// The engine takes the snapshot that it will answer to the oldest backlog request.
    TakeSnapshot,
    /// The oldest request is answered. A backlog that has no snapshot yet is taken now.
    Answer,
    /// The oldest request fails.
    Fail,
    /// Milliseconds pass.
    Wait(u64),
    /// The wall clock steps by milliseconds.
    ShiftClock(i64),
    /// The connection is cut. What the engine had sent and did not arrive is lost.
    Cut,
    /// The engine restarts, and loses its backlog.
    RestartEngine,
    /// The queue is full from now on, or has room again.
    SetQueueFull(bool),
    /// The recorder ends its session in an orderly way.
    Close,
    /// The recorder is killed. Only what was queued survives.
    Kill,
    /// The recorder connects, if it is not connected.
    Connect,
}

/// A request that is not answered yet.
#[derive(Debug)]
enum Request {
    Backlog { snapshot: Option<Vec<usize>> },
    Containers(ContainerRequest),
    Report(Option<PendingGap>),
    Version,
    Clock,
    Ping,
}

/// The engine, the recorder's session and the store. It has many fields, because it is the state of all three. Events are numbered by the order in which the engine emits them.
struct Model {
    config: Arc<Config>,
    source: Arc<SourceKey>,
    instant: Instant,
    /// The wall clock. It is always odd, and times of events are even.
    wall_nano: i64,
    /// Number of events emitted when the wall clock showed this time.
    emitted_at: HashMap<i64, usize>,
    /// Texts of the events emitted.
    events: Vec<String>,
    number_by_time: HashMap<i64, usize>,
    /// Number of the oldest event since the engine's last start.
    engine_start: usize,
    session: Option<Session>,
    rest: Option<(EngineState, Option<EngineCounter>)>,
    previous: PreviousSession,
    /// Events that the engine has sent on the stream and that have not arrived.
    stream: VecDeque<usize>,
    drop_next: usize,
    requests: VecDeque<Request>,
    queue_full: bool,
    stored: HashSet<usize>,
    /// End of each gap, by its start.
    gaps: BTreeMap<Option<i64>, (Option<i64>, GapReason)>,
    /// Last event seen, according to the store.
    stored_last_seen: Option<Identity>,
    /// Events that the engine dropped for the stream, and that no backlog has shown to a session since.
    untraceable: HashSet<usize>,
}

impl Model {
    fn new(no_healthchecks: bool, has_counter: bool) -> Model {
        let mut config = Config::new(vec![Host::unix("/model.sock")], PathBuf::from("model.db"));
        config.selection.no_healthchecks = no_healthchecks;
        let source =
            SourceKey { engine_id: Some("model".into()), name: "model".into(), overrides_name: false, host: None };
        Model {
            config: Arc::new(config),
            source: Arc::new(source),
            instant: Instant::now(),
            wall_nano: 1_790_000_000_000_000_001,
            emitted_at: HashMap::new(),
            events: Vec::new(),
            number_by_time: HashMap::new(),
            engine_start: 0,
            session: None,
            rest: Some((EngineState::default(), has_counter.then(EngineCounter::default))),
            previous: PreviousSession::default(),
            stream: VecDeque::new(),
            drop_next: 0,
            requests: VecDeque::new(),
            queue_full: false,
            stored: HashSet::new(),
            gaps: BTreeMap::new(),
            stored_last_seen: None,
            untraceable: HashSet::new(),
        }
    }

    fn now(&mut self) -> Now {
        self.emitted_at.insert(self.wall_nano, self.events.len());
        Now { instant: self.instant, nano: self.wall_nano }
    }

    fn backlog(&self) -> Vec<usize> {
        (self.engine_start.max(self.events.len().saturating_sub(BACKLOG_LEN))..self.events.len()).collect()
    }

    fn emit(&mut self) {
        let number = self.events.len();
        self.wall_nano += 2_000;
        let mut time_nano = self.wall_nano - 1;
        while self.number_by_time.contains_key(&time_nano) {
            time_nano += 2;
        }
        self.number_by_time.insert(time_nano, number);
        let (container, exec) = (number % 3, number % 5);
        let (action, attributes) = match exec {
            0 => ("exec_create: sh -c true", format!(r#""execID":"{number}","#)),
            _ => ("start", String::new()),
        };
        self.events.push(format!(
            r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{container:064x}","Attributes":{{{attributes}"name":"box"}}}},"scope":"local","time":{},"timeNano":{time_nano}}}"#,
            time_nano / 1_000_000_000
        ));
        if self.session.is_none() {
            return;
        }
        if self.drop_next > 0 {
            self.drop_next -= 1;
            self.untraceable.insert(number);
        } else {
            self.stream.push_back(number);
        }
    }

    fn connect(&mut self) {
        if self.session.is_some() {
            return;
        }
        let Some((mut engine, counter)) = self.rest.take() else { return };
        if self.queue_full && !engine.undelivered.is_empty() {
            self.rest = Some((engine, counter));
            return;
        }
        for delivery in std::mem::take(&mut engine.undelivered) {
            delivery.last_seen.into_iter().for_each(|event| engine.set_last_seen(event));
            self.store(&delivery);
        }
        let start = SessionStart {
            config: self.config.clone(),
            source: self.source.clone(),
            engine,
            counter,
            previous: self.previous,
            skew: None,
        };
        self.previous.unreachable = false;
        let now = self.now();
        let mut session = Session::new(start, now);
        self.stream = self.backlog().into();
        self.requests.clear();
        let actions = session.start();
        self.session = Some(session);
        self.take(actions);
    }

    /// Gives the session an input, and takes its actions.
    fn input(&mut self, input: Input) {
        let now = self.now();
        if let Some(session) = &mut self.session {
            let actions = session.on(now, input);
            self.take(actions);
        }
    }

    /// Takes actions as the driver does.
    fn take(&mut self, actions: Vec<Action>) {
        let mut end = None;
        for action in actions {
            match action {
                Action::Deliver(delivery) => self.deliver(delivery),
                Action::DeliverIfRoom(_) => {}
                Action::FetchBacklog => self.requests.push_back(Request::Backlog { snapshot: None }),
                Action::RequestContainers(request) => self.requests.push_back(Request::Containers(request)),
                Action::ReportGap(gap) => self.requests.push_back(Request::Report(gap)),
                Action::FetchVersion => self.requests.push_back(Request::Version),
                Action::CompareClocks => self.requests.push_back(Request::Clock),
                Action::Ping => self.requests.push_back(Request::Ping),
                Action::End(result) => end = Some(result),
            }
        }
        if let Some(end) = end
            && self.session.as_ref().is_some_and(|session| !session.is_overflowed())
        {
            self.previous.overflowed = matches!(end, Ok(SessionEnd::Overflowed));
            self.close();
        }
    }

    fn deliver(&mut self, delivery: Box<Delivery>) {
        let Some(session) = &self.session else { return };
        if self.queue_full || session.is_overflowed() {
            self.input(Input::Refused(delivery));
        } else {
            self.store(&delivery);
            self.input(Input::Queued(delivery.last_seen));
        }
    }

    fn store(&mut self, delivery: &Delivery) {
        match &delivery.gap {
            Some(GapChange::Reported { from, to, reason, .. }) => _ = self.gaps.insert(*from, (*to, *reason)),
            Some(GapChange::Withdrawn { from }) => _ = self.gaps.remove(from),
            None => {}
        }
        for (event, _) in delivery.replayed.iter().chain(delivery.events.iter()) {
            self.stored.insert(self.number_by_time[&event.time_nano]);
        }
        self.stored_last_seen = delivery.last_seen.or(self.stored_last_seen);
    }

    fn close(&mut self) {
        self.input(Input::Closing);
        if let Some(session) = self.session.take() {
            let rest = session.into_rest();
            self.rest = Some((rest.engine, rest.counter));
        }
        self.end_stream();
    }

    fn end_stream(&mut self) {
        self.stream.clear();
        self.requests.clear();
        self.drop_next = 0;
    }

    /// Kills the recorder: the next one knows only what is stored.
    fn kill(&mut self) {
        let has_counter = match (&self.session, &self.rest) {
            (Some(session), _) => session.counter.is_some(),
            (None, rest) => rest.as_ref().is_some_and(|(_, counter)| counter.is_some()),
        };
        // What a backlog showed to this session only may be lost.
        let unstored = (0..self.events.len()).filter(|number| !self.stored.contains(number));
        if let Some(seen) = self.stored_last_seen.map(|seen| self.number_by_time[&seen.time_nano]) {
            self.untraceable.extend(unstored.filter(|number| *number < seen));
        }
        self.session = None;
        let engine = EngineState { last_seen: self.stored_last_seen, ..EngineState::default() };
        self.rest = Some((engine, has_counter.then(EngineCounter::default)));
        self.previous = PreviousSession::default();
        self.end_stream();
    }

    fn arrive(&mut self, count: usize) {
        let arriving: Vec<usize> = self.stream.drain(..count.min(self.stream.len())).collect();
        if !arriving.is_empty() {
            // Chunks are cut inside an event.
            let bytes: Vec<u8> =
                arriving.iter().flat_map(|number| [self.events[*number].as_bytes(), b"\n"].concat()).collect();
            let (first, second) = bytes.split_at(bytes.len() / 3);
            self.input(Input::Bytes(vec![Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)]));
        }
    }

    fn take_snapshot(&mut self) {
        let backlog = self.backlog();
        let oldest = self.requests.iter_mut().find_map(|request| match request {
            Request::Backlog { snapshot } if snapshot.is_none() => Some(snapshot),
            _ => None,
        });
        if let Some(snapshot) = oldest {
            *snapshot = Some(backlog);
        }
    }

    fn answer(&mut self) {
        let Some(request) = self.requests.pop_front() else { return };
        let input = match request {
            Request::Backlog { snapshot } => {
                let numbers = snapshot.unwrap_or_else(|| self.backlog());
                // While the queue is full, a session discards what arrives, also a backlog.
                if self.session.as_ref().is_some_and(|session| !session.is_overflowed()) {
                    numbers.iter().for_each(|number| _ = self.untraceable.remove(number));
                }
                let mut backlog = Backlog::default();
                for number in &numbers {
                    let event = Event::parse(self.events[*number].as_bytes()).expect("the model emits events");
                    backlog.identities.push(event.identity());
                    backlog.fingerprints.push(event.fingerprint());
                    backlog.events.push(&event);
                }
                let count = self.events.len() as u64;
                Input::Backlog(Box::new(BacklogReply {
                    backlog: Ok(backlog),
                    readings: Some(Ok(CounterReadings {
                        before: numbers.last().map_or(0, |n| *n as u64 + 1),
                        after: count,
                    })),
                }))
            }
            Request::Containers(ContainerRequest::List) => Input::Container(ContainerReply::Listed(Some(Vec::new()))),
            Request::Containers(ContainerRequest::Inspect(id)) => {
                Input::Container(ContainerReply::Container(id, Some(None)))
            }
            Request::Report(gap) => Input::GapReport(Box::new(GapReportReply { gap, delivery: None })),
            Request::Version => Input::Version(Ok("{}".into())),
            Request::Clock => Input::Clock(Ok((EngineInfo::default(), None))),
            Request::Ping => Input::Pong(Ok(())),
        };
        self.input(input);
    }

    fn fail(&mut self) {
        let error = EngineError::Unterminated { host: "model".into(), path: "/".into() };
        let input = match self.requests.pop_front() {
            None => return,
            Some(Request::Backlog { .. }) => {
                Input::Backlog(Box::new(BacklogReply { backlog: Err(error), readings: Some(Err("failed".into())) }))
            }
            Some(Request::Containers(ContainerRequest::List)) => Input::Container(ContainerReply::Listed(None)),
            Some(Request::Containers(ContainerRequest::Inspect(id))) => {
                Input::Container(ContainerReply::Container(id, None))
            }
            Some(Request::Report(gap)) => Input::GapReport(Box::new(GapReportReply { gap, delivery: None })),
            Some(Request::Version) => Input::Version(Err(error)),
            Some(Request::Clock) => Input::Clock(Err(error)),
            Some(Request::Ping) => Input::Pong(Err(error)),
        };
        self.input(input);
    }

    /// Lets time pass. The session gets its deadlines in order.
    fn wait(&mut self, duration: Duration) {
        let end = self.instant + duration;
        for _ in 0..1000 {
            let Some(deadline) = self.session.as_ref().and_then(Session::deadline).filter(|at| *at <= end) else {
                self.wall_nano += 2 * ((end - self.instant).as_nanos() as i64 / 2);
                self.instant = end;
                return;
            };
            let passed = deadline.saturating_duration_since(self.instant);
            self.wall_nano += 2 * (passed.as_nanos() as i64 / 2);
            self.instant = self.instant.max(deadline);
            self.input(Input::DeadlineReached);
        }
        panic!("the deadline does not move");
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Emit(count) => (0..count).for_each(|_| self.emit()),
            Step::Drop(count) => self.drop_next += count,
            Step::Reorder => {
                if let Some(last) = self.stream.len().checked_sub(2) {
                    self.stream.swap(last, last + 1);
                }
            }
            Step::Arrive(count) => self.arrive(count),
            Step::TakeSnapshot => self.take_snapshot(),
            Step::Answer => self.answer(),
            Step::Fail => self.fail(),
            Step::Wait(ms) => self.wait(Duration::from_millis(ms)),
            Step::ShiftClock(ms) => self.wall_nano += ms * 1_000_000,
            Step::Cut => {
                self.stream.clear();
                self.input(Input::StreamEnded(Ok(())));
                self.close();
            }
            Step::RestartEngine => {
                self.step(&Step::Cut);
                self.engine_start = self.events.len();
                // The first attempt to connect fails, because it is immediate.
                self.previous.unreachable = true;
            }
            Step::SetQueueFull(is_full) => {
                self.queue_full = is_full;
                if !is_full && self.session.as_ref().is_some_and(Session::is_overflowed) {
                    self.input(Input::RoomInQueue);
                }
            }
            Step::Close => self.close(),
            Step::Kill => self.kill(),
            Step::Connect => self.connect(),
        }
    }

    /// Lets everything arrive, through several backlog checks.
    fn settle(&mut self) {
        self.step(&Step::SetQueueFull(false));
        self.drop_next = 0;
        for _ in 0..8 {
            self.connect();
            self.emit();
            for _ in 0..100 {
                self.arrive(usize::MAX);
                self.answer();
            }
            self.wait(Duration::from_secs(10));
        }
    }

    /// Returns true if a gap covers the event: it starts at an earlier event, and ends at a later one or at a time when
    /// the event had been emitted.
    fn is_in_gap(&self, number: usize) -> bool {
        self.gaps.iter().any(|(from, (to, _))| {
            let starts_before = from.is_none_or(|from| self.number_by_time[&from] < number);
            let ends_after = to.is_none_or(|to| {
                self.number_by_time.get(&to).or_else(|| self.emitted_at.get(&to)).is_some_and(|end| number <= *end)
            });
            starts_before && ends_after
        })
    }

    /// Returns the events that are neither stored nor inside a gap.
    fn lost(&self) -> Vec<usize> {
        let is_lost = |number: &usize| {
            !self.stored.contains(number) && !self.untraceable.contains(number) && !self.is_in_gap(*number)
        };
        (0..self.events.len()).filter(is_lost).collect()
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1usize..40).prop_map(Step::Emit),
        2 => (200usize..600).prop_map(Step::Emit),
        2 => (1usize..20).prop_map(Step::Drop),
        1 => (200usize..400).prop_map(Step::Drop),
        2 => Just(Step::Reorder),
        6 => (1usize..300).prop_map(Step::Arrive),
        2 => Just(Step::TakeSnapshot),
        8 => Just(Step::Answer),
        1 => Just(Step::Fail),
        3 => (1u64..3000).prop_map(Step::Wait),
        1 => (3000u64..12_000).prop_map(Step::Wait),
        1 => (-3_600_000i64..3_600_000).prop_map(Step::ShiftClock),
        2 => Just(Step::Cut),
        1 => Just(Step::RestartEngine),
        2 => any::<bool>().prop_map(Step::SetQueueFull),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        5 => Just(Step::Connect),
    ]
}

/// Steps in which no event can be lost: fewer events than the backlog keeps between two looks at it, and no failure.
fn harmless_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1usize..6).prop_map(Step::Emit),
        2 => Just(Step::Reorder),
        6 => (1usize..300).prop_map(Step::Arrive),
        2 => Just(Step::TakeSnapshot),
        8 => Just(Step::Answer),
        2 => (1u64..50).prop_map(Step::Wait),
        1 => (-3_600_000i64..3_600_000).prop_map(Step::ShiftClock),
        2 => Just(Step::Cut),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        5 => Just(Step::Connect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_stored_or_inside_a_gap(
        steps in proptest::collection::vec(any_step(), 1..120), no_healthchecks: bool, has_counter: bool,
    ) {
        let mut model = Model::new(no_healthchecks, has_counter);
        model.connect();
        steps.iter().for_each(|step| model.step(step));
        model.settle();
        let lost = model.lost();
        prop_assert!(lost.is_empty(), "lost {lost:?} of {}; gaps {:?}", model.events.len(), model.gaps);
    }

    #[test]
    fn no_gap_is_made_up(steps in proptest::collection::vec(harmless_step(), 1..60), no_healthchecks: bool) {
        let mut model = Model::new(no_healthchecks, false);
        model.connect();
        model.settle();
        steps.iter().for_each(|step| model.step(step));
        model.settle();
        let reasons: Vec<GapReason> = model.gaps.values().map(|(_, reason)| *reason).collect();
        prop_assert_eq!(reasons, [GapReason::FirstContact]);
        prop_assert_eq!(model.stored.len(), model.events.len());
    }
}
