//! Tells the health checks of an engine's containers from what people run in them, as the events come.
//!
//! A container's configuration says with which command it checks its health, and never changes. It is asked for beside
//! the stream as soon as the container is seen; what it says is noted in the store. The first event of an exec repeats
//! the command, and what it is found to be the others with its ID are.

use std::collections::{HashMap, VecDeque};

use tokio::task::JoinSet;

use crate::engine::{Client, Listed};
use crate::error::chain;
use crate::event::{Event, Events, Exec};

/// Of so many containers at most it is known how they are configured; of more it is not asked.
const MOST: usize = 20_000;

/// How many execs are known at least: more than an engine remembers, or runs at once.
const EXECS: usize = 4_096;

/// How many containers are asked for at once.
const AT_ONCE: usize = 4;

/// What is known of one engine's containers.
#[derive(Debug, Default)]
pub(super) struct Healthchecks {
    containers: HashMap<String, Container>,
    to_ask: VecDeque<String>,
    /// By their IDs; those that came last are young.
    young: HashMap<String, Ran>,
    old: HashMap<String, Ran>,
    /// The IDs of those whose containers are asked for still.
    undecided: Vec<String>,
    /// What became known and is to be stored.
    notes: Vec<(String, String)>,
    /// All containers are being listed, by this contact; and were listed once.
    listing: bool,
    listed: bool,
    /// Something was taken for no health check because its container could not be seen; and that was said.
    unseen: bool,
    unseen_said: bool,
}

#[derive(Debug)]
enum Container {
    /// It is asked for, or will be; whether something ran in it meanwhile, and whether it was asked for before.
    Asking { ran: bool, again: bool },
    /// The engine does not show it; whether it was asked for twice, which is enough.
    Unseen { again: bool },
    /// The command that checks its health; empty: none. Whether that is noted.
    Known { command: String, noted: bool },
}

/// A command that ran.
#[derive(Debug)]
struct Ran {
    /// As long as it is undecided: in which container, and the command.
    asked: Option<(String, String)>,
    /// Whether it is a health check, once it is decided.
    is: Option<bool>,
    /// Which of its events have come, by their places.
    came: u8,
    /// How many of them are to be counted if it is one.
    waiting: u64,
}

/// What an event is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// None of a health check.
    Other,
    /// Its container is asked for still.
    Undecided,
    /// One of a health check; whether it has not come before.
    Healthcheck { anew: bool },
}

/// What the engine has answered.
pub(super) enum Answer {
    Listed(Option<Vec<Listed>>),
    /// The container, and its command; `None` where it cannot be seen.
    Container(String, Option<Option<String>>),
}

impl Healthchecks {
    /// What a store knows: containers, each with its command.
    pub(super) fn new(known: impl Iterator<Item = (String, String)>) -> Self {
        let known = known.map(|(container, command)| (container, Container::Known { command, noted: true }));
        Healthchecks { containers: known.collect(), ..Healthchecks::default() }
    }

    /// A contact begins: what was asked before is not answered any more.
    pub(super) fn begin(&mut self) {
        let asking = self.containers.iter().filter(|(_, container)| matches!(container, Container::Asking { .. }));
        self.to_ask = asking.map(|(id, _)| id.clone()).collect();
        self.listing = false;
    }

    /// An event has come. What is said twice, by the stream and by the memory, counts once; with `counts` this time.
    pub(super) fn happened(&mut self, event: &Event<'_>, counts: bool) -> Finding {
        if event.kind != "container" {
            return Finding::Other;
        }
        match &*event.action {
            "create" | "start" => self.want(&event.actor_id, false),
            "destroy" => _ = self.containers.remove(&*event.actor_id),
            _ => {
                if let Some(exec) = event.exec() {
                    return self.ran(&event.actor_id, exec, counts);
                }
            }
        }
        Finding::Other
    }

    /// Of these events it will be asked what they are.
    pub(super) fn expect(&mut self, events: &Events) {
        self.listed = true;
        events
            .iter()
            .filter(|(event, _)| event.exec().is_some())
            .for_each(|(event, _)| self.want(&event.actor_id, true));
    }

    /// Whether an exec, by its ID, is a health check for all that is known by now.
    pub(super) fn is_one(&mut self, exec_id: &str) -> bool {
        self.exec(exec_id).is_some_and(|ran| ran.is == Some(true))
    }

    /// What is not decided by now counts as no health check. `None` if nothing was undecided since the last time; or how
    /// many events are to be counted of what turned out to be health checks.
    pub(super) fn settle(&mut self) -> Option<u64> {
        if self.undecided.is_empty() {
            return None;
        }
        let mut left_out = 0;
        for id in std::mem::take(&mut self.undecided) {
            let Some(ran) = self.exec(&id) else { continue };
            let waiting = std::mem::take(&mut ran.waiting);
            ran.asked = None;
            let unseen = ran.is.is_none();
            if *ran.is.get_or_insert(false) {
                left_out += waiting;
            }
            self.unseen |= unseen;
        }
        Some(left_out)
    }

    /// What came so far was seen, and counted, before this recorder began.
    pub(super) fn seen_before(&mut self) {
        for id in self.undecided.clone() {
            self.exec(&id).into_iter().for_each(|ran| ran.waiting = 0);
        }
    }

    pub(super) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// What became known and is to be stored.
    pub(super) fn notes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.notes)
    }

    /// This was not stored.
    pub(super) fn not_noted(&mut self, notes: Vec<(String, String)>) {
        self.notes.extend(notes);
    }

    /// Whether something was kept for the first time because its container could not be seen.
    pub(super) fn is_first_unseen(&mut self) -> bool {
        self.unseen && !std::mem::replace(&mut self.unseen_said, true)
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Listed(None) => {}
            Answer::Listed(Some(listed)) => {
                self.listed = true;
                // Health checks run in those that run.
                let (running, others): (Vec<_>, Vec<_>) = listed.iter().partition(|listed| listed.state == "running");
                running.into_iter().chain(others).for_each(|listed| self.want(&listed.id, false));
            }
            Answer::Container(id, None) => {
                self.decide(&id, None);
                self.containers.entry(id).and_modify(|container| {
                    let again = matches!(container, Container::Asking { again: true, .. });
                    *container = Container::Unseen { again };
                });
            }
            Answer::Container(id, Some(command)) => {
                let command = command.unwrap_or_default();
                self.decide(&id, Some(&command));
                let ran = matches!(self.containers.get(&id), Some(Container::Asking { ran: true, .. }));
                let noted = ran || !command.is_empty();
                if noted {
                    self.notes.push((id.clone(), command.clone()));
                }
                self.containers.entry(id).and_modify(|container| *container = Container::Known { command, noted });
            }
        }
    }

    /// A container was seen: it is to be asked for, if it was not yet.
    fn want(&mut self, id: &str, has_run: bool) {
        match self.containers.get_mut(id) {
            Some(Container::Known { .. } | Container::Unseen { again: true }) => {}
            Some(Container::Asking { ran, .. }) => *ran |= has_run,
            Some(unseen @ Container::Unseen { again: false }) => {
                *unseen = Container::Asking { ran: has_run, again: true };
                self.to_ask.push_back(id.into());
            }
            None => {
                if self.containers.len() >= MOST {
                    return;
                }
                self.containers.insert(id.into(), Container::Asking { ran: has_run, again: false });
                self.to_ask.push_back(id.into());
            }
        }
    }

    fn ran(&mut self, container: &str, exec: Exec<'_>, counts: bool) -> Finding {
        if self.exec(exec.id).is_none() {
            self.first_of(container, exec);
        }
        let Some(ran) = self.exec(exec.id) else { return Finding::Other };
        let anew = counts && ran.came & 1 << exec.step == 0;
        if anew {
            ran.came |= 1 << exec.step;
        }
        match ran.is {
            Some(false) => Finding::Other,
            Some(true) => Finding::Healthcheck { anew },
            None => {
                ran.waiting += u64::from(anew);
                Finding::Undecided
            }
        }
    }

    /// The first event of an exec decides what it is.
    fn first_of(&mut self, container: &str, exec: Exec<'_>) {
        if let None | Some(Container::Asking { .. }) = self.containers.get(container) {
            self.want(container, true);
        }
        let is = match self.containers.get_mut(container) {
            _ if exec.command.is_none() => Some(false),
            Some(Container::Known { command, noted }) => {
                if !std::mem::replace(noted, true) {
                    self.notes.push((container.into(), command.clone()));
                }
                Some(exec.command == Some(&**command))
            }
            Some(Container::Asking { .. }) => None,
            Some(Container::Unseen { .. }) | None => {
                self.unseen = true;
                Some(false)
            }
        };
        if is.is_none() {
            self.undecided.push(exec.id.into());
        }
        let asked = exec.command.filter(|_| is.is_none()).map(|command| (container.to_owned(), command.to_owned()));
        if self.young.len() >= EXECS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(exec.id.into(), Ran { asked, is, came: 0, waiting: 0 });
    }

    /// The container's execs that are undecided are decided.
    fn decide(&mut self, container: &str, command: Option<&str>) {
        for id in &self.undecided {
            let Some(ran) = self.young.get_mut(id).or_else(|| self.old.get_mut(id)) else { continue };
            if let Some((_, ran_command)) = ran.asked.take_if(|(of, _)| of == container) {
                ran.is = Some(Some(&*ran_command) == command);
                self.unseen |= command.is_none();
            }
        }
    }

    fn exec(&mut self, id: &str) -> Option<&mut Ran> {
        self.young.get_mut(id).or_else(|| self.old.get_mut(id))
    }

    /// Whether there are execs of which it is not known yet what they are.
    pub(super) fn is_waiting(&self) -> bool {
        let ran = |id: &String| self.young.get(id).or_else(|| self.old.get(id));
        self.undecided.iter().any(|id| ran(id).is_some_and(|ran| ran.is.is_none()))
    }
}

/// What an engine is being asked about its containers; dropped with the contact.
#[derive(Default)]
pub(super) struct Questions(JoinSet<Answer>);

impl Questions {
    /// Asks for all containers, if that was not done yet, and then for some more of those that were seen.
    pub(super) fn ask(&mut self, client: &Client, healthchecks: &mut Healthchecks) {
        if !healthchecks.listed && !std::mem::replace(&mut healthchecks.listing, true) {
            let client = client.clone();
            self.0.spawn(async move {
                let listed = client.containers().await;
                Answer::Listed(listed.map_err(|e| tracing::debug!("{}", chain(&e))).ok())
            });
        }
        while self.0.len() < AT_ONCE
            && let Some(id) = healthchecks.to_ask.pop_front()
        {
            if !matches!(healthchecks.containers.get(&id), Some(Container::Asking { .. })) {
                continue;
            }
            let client = client.clone();
            self.0.spawn(async move {
                let command = client.healthcheck(&id).await;
                Answer::Container(id, command.map_err(|e| tracing::debug!("{}", chain(&e))).ok().flatten())
            });
        }
    }

    /// The next answer; `None` if nothing is asked.
    pub(super) async fn answer(&mut self) -> Option<Answer> {
        self.0.join_next().await.map(|answer| answer.expect("asking does not panic"))
    }
}
