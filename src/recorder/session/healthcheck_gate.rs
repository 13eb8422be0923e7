//! Distinguishes the health checks of an engine's containers from the commands that people run in them, as events
//! arrive.
//!
//! The configuration of a container contains its health check command and never changes. It is requested beside the
//! stream as soon as the container is seen, and the command is stored. The first event of an exec contains the command.
//! Its classification also applies to the other events with the same exec ID.

use std::collections::{HashMap, VecDeque};

use crate::cache::GenerationalCache;
use crate::engine::ContainerSummary;
use crate::event::{Event, EventBatch, ExecEvent};

/// Maximum number of containers whose configuration is kept. No further ones are requested.
const MAX_CONTAINERS: usize = 20_000;

/// Minimum number of the latest execs that are kept: more than a backlog contains, or an engine runs at a time.
const MAX_RECENT_EXECS: usize = 4_096;

/// Maximum number of concurrent requests for containers.
const MAX_CONCURRENT_REQUESTS: usize = 4;

/// Health check commands of one engine's containers, and the latest execs.
#[derive(Debug)]
pub(in crate::recorder) struct HealthcheckGate {
    containers: HashMap<String, ContainerState>,
    request_queue: VecDeque<String>,
    /// Number of requests for containers that are not answered.
    pending_requests: usize,
    /// The latest execs, by ID.
    execs: GenerationalCache<String, ExecRecord>,
    /// IDs of execs that wait for the configuration of their container.
    undecided: Vec<String>,
    /// Commands that became known and are not stored yet.
    unstored_commands: Vec<(String, String)>,
    /// True if this session has requested the list of containers.
    list_requested: bool,
    /// True if the list was received, or is not needed.
    list_received: bool,
    /// True if an exec was classified as no health check because its container could not be inspected.
    has_unavailable: bool,
    /// True if the warning about that was logged.
    unavailable_logged: bool,
}

#[derive(Debug)]
enum ContainerState {
    /// The configuration is requested, or will be. `has_execs`: something has run in the container since. `is_retry`:
    /// it was requested before.
    Requested { has_execs: bool, is_retry: bool },
    /// The engine did not return the configuration. After a retry it is not requested again.
    Unavailable { is_retry: bool },
    /// Health check command; empty if there is none. `is_stored`: the command is stored, or queued for it.
    Known { command: String, is_stored: bool },
}

/// Command that ran in a container.
#[derive(Debug)]
struct ExecRecord {
    /// Container and command, while the exec is undecided.
    pending: Option<(String, String)>,
    /// Classification, once it is decided.
    is_healthcheck: Option<bool>,
    /// Bit set of the events that have arrived, by step.
    received_steps: u8,
    /// Number of events to count as left out if this is a health check.
    uncounted: u64,
}

/// Classification of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::recorder) enum Classification {
    /// Not part of a health check.
    Other,
    /// The configuration of its container is not known yet.
    Undecided,
    /// Part of a health check. `is_new` is false if the event has arrived before.
    Healthcheck { is_new: bool },
}

/// Request about containers.
#[derive(Debug)]
pub(in crate::recorder) enum ContainerRequest {
    /// The list of all containers.
    List,
    /// The configuration of the container with this ID.
    Inspect(String),
}

/// Answer of the engine.
#[derive(Debug)]
pub(in crate::recorder) enum ContainerReply {
    Listed(Option<Vec<ContainerSummary>>),
    /// Container and its health check command. The outer option is `None` if the container cannot be inspected.
    Container(String, Option<Option<String>>),
}

impl Default for HealthcheckGate {
    fn default() -> Self {
        HealthcheckGate::new(std::iter::empty())
    }
}

impl HealthcheckGate {
    /// Creates the gate from stored pairs of container and command.
    pub(in crate::recorder) fn new(known: impl Iterator<Item = (String, String)>) -> Self {
        let known = known.map(|(container, command)| (container, ContainerState::Known { command, is_stored: true }));
        HealthcheckGate {
            containers: known.collect(),
            request_queue: VecDeque::new(),
            pending_requests: 0,
            execs: GenerationalCache::new(MAX_RECENT_EXECS),
            undecided: Vec::new(),
            unstored_commands: Vec::new(),
            list_requested: false,
            list_received: false,
            has_unavailable: false,
            unavailable_logged: false,
        }
    }

    /// Starts a session. The requests of the previous session were cancelled, so they are queued again.
    pub(in crate::recorder) fn start_session(&mut self) {
        let requested =
            self.containers.iter().filter(|(_, container)| matches!(container, ContainerState::Requested { .. }));
        self.request_queue = requested.map(|(id, _)| id.clone()).collect();
        self.pending_requests = 0;
        self.list_requested = false;
    }

    /// Returns the requests to send now: for the list of containers, unless it was requested, and for the next
    /// containers in the queue.
    pub(super) fn next_requests(&mut self) -> Vec<ContainerRequest> {
        let mut requests = Vec::new();
        if !self.list_received && !std::mem::replace(&mut self.list_requested, true) {
            requests.push(ContainerRequest::List);
        }
        while self.pending_requests + requests.len() < MAX_CONCURRENT_REQUESTS
            && let Some(id) = self.request_queue.pop_front()
        {
            if matches!(self.containers.get(&id), Some(ContainerState::Requested { .. })) {
                requests.push(ContainerRequest::Inspect(id));
            }
        }
        self.pending_requests += requests.len();
        requests
    }

    /// Returns true if no request waits for its answer.
    pub(super) fn has_all_replies(&self) -> bool {
        self.pending_requests == 0
    }

    /// Classifies an event. An event that arrives from both stream and backlog counts once. `should_count` is false if
    /// this arrival must not count.
    pub(in crate::recorder) fn classify(&mut self, event: &Event<'_>, should_count: bool) -> Classification {
        if event.kind != "container" {
            return Classification::Other;
        }
        match &*event.action {
            "create" | "start" => self.request(&event.actor_id, false),
            "destroy" => _ = self.containers.remove(&*event.actor_id),
            _ => {
                if let Some(exec) = event.exec_event() {
                    return self.classify_exec(&event.actor_id, exec, should_count);
                }
            }
        }
        Classification::Other
    }

    /// Queues requests for the containers of these exec events. The list of all containers is then not requested.
    pub(in crate::recorder) fn request_containers(&mut self, events: &EventBatch) {
        self.list_received = true;
        events
            .iter()
            .filter(|(event, _)| event.exec_event().is_some())
            .for_each(|(event, _)| self.request(&event.actor_id, true));
    }

    /// Returns true if the exec with this ID is known to be a health check.
    pub(in crate::recorder) fn is_healthcheck(&mut self, exec_id: &str) -> bool {
        self.exec_mut(exec_id).is_some_and(|record| record.is_healthcheck == Some(true))
    }

    /// Classifies the execs that are still undecided as no health checks. Returns the number of events to count as left
    /// out, or `None` if no exec was undecided since the last call.
    pub(in crate::recorder) fn settle(&mut self) -> Option<u64> {
        if self.undecided.is_empty() {
            return None;
        }
        let mut left_out = 0;
        for id in std::mem::take(&mut self.undecided) {
            let Some(record) = self.exec_mut(&id) else { continue };
            let uncounted = std::mem::take(&mut record.uncounted);
            record.pending = None;
            let is_unavailable = record.is_healthcheck.is_none();
            if *record.is_healthcheck.get_or_insert(false) {
                left_out += uncounted;
            }
            self.has_unavailable |= is_unavailable;
        }
        Some(left_out)
    }

    /// Resets the counts of undecided execs. Their events so far were seen, and counted, before this recorder started.
    pub(in crate::recorder) fn reset_uncounted(&mut self) {
        for id in self.undecided.clone() {
            self.exec_mut(&id).into_iter().for_each(|record| record.uncounted = 0);
        }
    }

    pub(in crate::recorder) fn has_unstored_commands(&self) -> bool {
        !self.unstored_commands.is_empty()
    }

    /// Commands that became known and are not stored yet.
    pub(in crate::recorder) fn take_unstored_commands(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.unstored_commands)
    }

    /// Returns true once, after an event was kept because its container could not be inspected.
    pub(in crate::recorder) fn take_unavailable_warning(&mut self) -> bool {
        self.has_unavailable && !std::mem::replace(&mut self.unavailable_logged, true)
    }

    pub(in crate::recorder) fn on_reply(&mut self, reply: ContainerReply) {
        self.pending_requests = self.pending_requests.saturating_sub(1);
        match reply {
            ContainerReply::Listed(None) => {}
            ContainerReply::Listed(Some(listed)) => {
                self.list_received = true;
                // Running containers come first, because only they run health checks.
                let (running, others): (Vec<_>, Vec<_>) = listed.iter().partition(|listed| listed.state == "running");
                running.into_iter().chain(others).for_each(|listed| self.request(&listed.id, false));
            }
            ContainerReply::Container(id, None) => {
                self.decide(&id, None);
                self.containers.entry(id).and_modify(|container| {
                    let is_retry = matches!(container, ContainerState::Requested { is_retry: true, .. });
                    *container = ContainerState::Unavailable { is_retry };
                });
            }
            ContainerReply::Container(id, Some(command)) => {
                let command = command.unwrap_or_default();
                self.decide(&id, Some(&command));
                let has_execs =
                    matches!(self.containers.get(&id), Some(ContainerState::Requested { has_execs: true, .. }));
                let is_stored = has_execs || !command.is_empty();
                if is_stored {
                    self.unstored_commands.push((id.clone(), command.clone()));
                }
                self.containers
                    .entry(id)
                    .and_modify(|container| *container = ContainerState::Known { command, is_stored });
            }
        }
    }

    /// Queues a request for a container, unless it was requested already.
    fn request(&mut self, id: &str, has_new_exec: bool) {
        match self.containers.get_mut(id) {
            Some(ContainerState::Known { .. } | ContainerState::Unavailable { is_retry: true }) => {}
            Some(ContainerState::Requested { has_execs, .. }) => *has_execs |= has_new_exec,
            Some(entry @ ContainerState::Unavailable { is_retry: false }) => {
                *entry = ContainerState::Requested { has_execs: has_new_exec, is_retry: true };
                self.request_queue.push_back(id.into());
            }
            None => {
                if self.containers.len() >= MAX_CONTAINERS {
                    return;
                }
                self.containers
                    .insert(id.into(), ContainerState::Requested { has_execs: has_new_exec, is_retry: false });
                self.request_queue.push_back(id.into());
            }
        }
    }

    fn classify_exec(&mut self, container: &str, exec: ExecEvent<'_>, should_count: bool) -> Classification {
        if self.exec_mut(exec.id).is_none() {
            self.classify_first(container, exec);
        }
        let Some(record) = self.exec_mut(exec.id) else { return Classification::Other };
        let is_new = should_count && record.received_steps & 1 << exec.step == 0;
        if is_new {
            record.received_steps |= 1 << exec.step;
        }
        match record.is_healthcheck {
            Some(false) => Classification::Other,
            Some(true) => Classification::Healthcheck { is_new },
            None => {
                record.uncounted += u64::from(is_new);
                Classification::Undecided
            }
        }
    }

    /// Classifies an exec by its first event.
    fn classify_first(&mut self, container: &str, exec: ExecEvent<'_>) {
        if let None | Some(ContainerState::Requested { .. }) = self.containers.get(container) {
            self.request(container, true);
        }
        let is_healthcheck = match self.containers.get_mut(container) {
            _ if exec.command.is_none() => Some(false),
            Some(ContainerState::Known { command, is_stored }) => {
                if !std::mem::replace(is_stored, true) {
                    self.unstored_commands.push((container.into(), command.clone()));
                }
                Some(exec.command == Some(&**command))
            }
            Some(ContainerState::Requested { .. }) => None,
            Some(ContainerState::Unavailable { .. }) | None => {
                self.has_unavailable = true;
                Some(false)
            }
        };
        if is_healthcheck.is_none() {
            self.undecided.push(exec.id.into());
        }
        let pending =
            exec.command.filter(|_| is_healthcheck.is_none()).map(|command| (container.to_owned(), command.to_owned()));
        self.execs.insert(exec.id.into(), ExecRecord { pending, is_healthcheck, received_steps: 0, uncounted: 0 });
    }

    /// Decides the undecided execs of a container.
    fn decide(&mut self, container: &str, command: Option<&str>) {
        for id in &self.undecided {
            let Some(record) = self.execs.get_mut(id) else { continue };
            if let Some((_, exec_command)) = record.pending.take_if(|(exec_container, _)| exec_container == container) {
                record.is_healthcheck = Some(Some(&*exec_command) == command);
                self.has_unavailable |= command.is_none();
            }
        }
    }

    fn exec_mut(&mut self, id: &str) -> Option<&mut ExecRecord> {
        self.execs.get_mut(id)
    }

    /// Returns true if any exec is undecided.
    pub(in crate::recorder) fn has_undecided(&self) -> bool {
        self.undecided.iter().any(|id| self.execs.peek(id).is_some_and(|record| record.is_healthcheck.is_none()))
    }
}
