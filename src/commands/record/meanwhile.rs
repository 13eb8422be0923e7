//! What must have happened to an engine's containers while the record was blind: what the record tells of them, beside
//! what the engine shows now.
//!
//! Knows no engine and no store. Nothing is guessed: what an event that is recorded tells is not said again, and what
//! the engine does not show any more is not said at all.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::engine::Times;
use crate::event::Event;
use crate::query::time::rfc3339;

/// The actions of containers that say where they are in their lives.
pub(super) const LIVES: [&str; 7] = ["create", "start", "die", "pause", "unpause", "rename", "destroy"];

/// Between the detail's first sentence and what is said here.
const MEANWHILE: &str = "; meanwhile: ";

/// How long the detail of a gap may be, in bytes.
const DETAIL_LIMIT: usize = 64 * 1024;

/// An engine notes when something happened to a container, and tells the event after that. So what it notes can lie a
/// little before the last event seen, and be told in an event that was not seen.
const BEFORE: i64 = 5_000_000_000;

/// The end of a gap may be an instant of our own clock.
const BEHIND: i64 = 60_000_000_000;

/// So much the instant of an event may lie before what the engine notes of the same thing.
const ROUNDED: i64 = 100_000_000;

/// A container as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    /// As the engine calls it: `running`, `exited`, …
    pub(super) state: String,
}

/// A container as the engine shows it now.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) container: Container,
    /// Unknown where the engine was not asked, or did not answer.
    pub(super) times: Option<Times>,
}

/// The containers there are, by their IDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known(BTreeMap<String, Container>);

impl Known {
    pub(super) fn new(containers: Vec<Container>) -> Known {
        Known(containers.into_iter().map(|container| (container.id.clone(), container)).collect())
    }

    pub(super) fn get(&self, id: &str) -> Option<&Container> {
        self.0.get(id)
    }

    /// What an event makes of them.
    pub(super) fn happened(&mut self, event: &Event<'_>) {
        if event.kind != "container" {
            return;
        }
        let state = match &*event.action {
            "create" => Some("created"),
            "start" | "unpause" => Some("running"),
            "die" => Some("exited"),
            "pause" => Some("paused"),
            "rename" => None,
            "destroy" => {
                self.0.remove(&*event.actor_id);
                return;
            }
            _ => return,
        };
        let id = event.actor_id.to_string();
        let container =
            self.0.entry(id.clone()).or_insert_with(|| Container { id, name: String::new(), state: String::new() });
        if let Some(name) = event.attribute("name") {
            name.trim_start_matches('/').clone_into(&mut container.name);
        }
        if let Some(state) = state {
            state.clone_into(&mut container.state);
        }
    }
}

/// When the events that are recorded tell, for the last time, of what happens to a container.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(HashMap<String, Last>);

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    created: Option<i64>,
    started: Option<i64>,
    ended: Option<i64>,
    destroyed: Option<i64>,
}

impl Told {
    pub(super) fn happened(&mut self, event: &Event<'_>) {
        if event.kind != "container" || !LIVES.contains(&&*event.action) {
            return;
        }
        let last = self.0.entry(event.actor_id.to_string()).or_default();
        let instant = match &*event.action {
            "create" => &mut last.created,
            "start" => &mut last.started,
            "die" => &mut last.ended,
            "destroy" => &mut last.destroyed,
            _ => return,
        };
        *instant = (*instant).max(Some(event.time_nano));
    }

    fn of(&self, id: &str) -> Last {
        self.0.get(id).copied().unwrap_or_default()
    }
}

/// Two states and what lies between them.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    /// The containers there were when the engine was asked, as far as the record tells; `None` if it does not tell all.
    pub(super) known: Option<&'a Known>,
    /// The same with all that is recorded by now: what is under way is no difference.
    pub(super) later: &'a Known,
    pub(super) told: &'a Told,
    /// What the engine shows.
    pub(super) shown: &'a [Shown],
    /// The last instant seen before the gap, and the gap's end.
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Comparison<'_> {
    /// What must have happened, each container in words of its own.
    pub(super) fn differences(&self) -> Vec<String> {
        let mut found: Vec<(Option<i64>, String)> =
            self.shown.iter().filter_map(|shown| self.difference(shown)).collect();
        // What has no time stands behind what has.
        found.sort_by(|a, b| (a.0.is_none(), a).cmp(&(b.0.is_none(), b)));
        let gone = self.known.into_iter().flat_map(|known| known.0.values()).filter(|known| self.is_gone(known));
        found.into_iter().map(|(_, text)| text).chain(gone.map(|gone| format!("{} is gone", called(gone)))).collect()
    }

    fn is_gone(&self, known: &Container) -> bool {
        self.told.of(&known.id).destroyed.is_none() && self.shown.iter().all(|shown| shown.container.id != known.id)
    }

    /// What must have happened to one container, and when the first of it.
    fn difference(&self, shown: &Shown) -> Option<(Option<i64>, String)> {
        let mut parts = Vec::new();
        let first = match &shown.times {
            Some(times) => self.by_its_times(shown, times, &mut parts),
            None => None,
        };
        self.by_its_state(shown, first.is_some(), &mut parts);
        let last = parts.pop()?;
        let all = if parts.is_empty() { last } else { format!("{} and {last}", parts.join(", ")) };
        Some((first, format!("{} {all}", called(&shown.container))))
    }

    fn by_its_times(&self, shown: &Shown, times: &Times, parts: &mut Vec<String>) -> Option<i64> {
        let Container { id, state, .. } = &shown.container;
        let last = self.told.of(id);
        let is_known = self.known.is_some_and(|known| known.get(id).is_some());
        let created = times.created.filter(|at| !is_known && self.untold(*at, last.created));
        let started = times.started.filter(|at| self.untold(*at, last.started));
        let finished = times.finished.filter(|at| self.untold(*at, last.ended));
        if let Some(at) = created {
            parts.push(format!("came, created {}", rfc3339(at)));
        }
        let was_started = started.map(|at| format!("was started at {}", rfc3339(at)));
        // Not by which is later: of one that ends at once, engines up to 26 note the start after the end.
        if matches!(&**state, "exited" | "dead" | "removing") {
            parts.extend(was_started);
            let why = if times.out_of_memory { " (out of memory)" } else { "" };
            parts.extend(finished.map(|at| format!("exited with {}{why} at {}", times.exit_code, rfc3339(at))));
        } else {
            // It has ended before, and with what is forgotten.
            parts.extend(finished.map(|at| format!("ended at {}", rfc3339(at))));
            parts.extend(was_started);
        }
        [created, started, finished].into_iter().flatten().min()
    }

    /// Whether something that the engine notes at an instant belongs to the gap, and no event that is recorded tells it:
    /// what is noted is the last of its kind, so any event no earlier is that one.
    fn untold(&self, at: i64, told: Option<i64>) -> bool {
        // Where not all is recorded, only what lies between two events seen was certainly missed.
        let (before, behind) = if self.known.is_some() { (BEFORE, BEHIND) } else { (0, 0) };
        let within = at > self.from.saturating_sub(before) && at <= self.to.saturating_add(behind);
        within && told.is_none_or(|told| told < at.saturating_sub(ROUNDED))
    }

    /// What has no time: names, pauses, and the states of containers whose times are not known.
    fn by_its_state(&self, shown: &Shown, dated: bool, parts: &mut Vec<String>) {
        let now = &shown.container;
        let before = self.known.and_then(|known| known.get(&now.id)).zip(self.later.get(&now.id));
        let Some((known, later)) = before else { return };
        if known.name != now.name && later.name != now.name && !now.name.is_empty() && !known.name.is_empty() {
            parts.push(format!("was renamed from {}", known.name));
        }
        let changed = known.state != now.state && later.state != now.state;
        match (&*known.state, &*now.state) {
            _ if !changed => {}
            (_, "paused") => parts.push("was paused".into()),
            ("paused", "running") if !dated => parts.push("is not paused any more".into()),
            (_, "running" | "exited" | "created" | "dead") if shown.times.is_none() => {
                parts.push(format!("is {} now", now.state));
            }
            _ => {}
        }
    }
}

/// A container's name, and the ID as the docker client shortens it.
fn called(container: &Container) -> String {
    let short: String = container.id.chars().take(12).collect();
    if container.name.is_empty() { short } else { format!("{} ({short})", container.name) }
}

/// The detail of a gap with what happened meanwhile; what was found out before of the same gap stays in it.
pub(super) fn detail(reason: &str, before: Option<&str>, differences: Vec<String>) -> Option<String> {
    let mut all: Vec<String> = before
        .and_then(|detail| detail.split_once(MEANWHILE))
        .map_or(Vec::new(), |(_, told)| told.split("; ").map(str::to_owned).collect());
    for difference in differences {
        if !all.contains(&difference) {
            all.push(difference);
        }
    }
    if all.is_empty() {
        return None;
    }
    let mut detail = format!("{reason}{MEANWHILE}");
    let room = DETAIL_LIMIT - "and 18446744073709551615 more".len();
    for (at, difference) in all.iter().enumerate() {
        if detail.len() + difference.len() + 2 > room {
            detail.push_str(&format!("and {} more", all.len() - at));
            return Some(detail);
        }
        detail.push_str(difference);
        if at + 1 < all.len() {
            detail.push_str("; ");
        }
    }
    Some(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000_000;

    fn container(id: &str, state: &str) -> Container {
        Container { id: id.into(), name: format!("name-{id}"), state: state.into() }
    }

    fn line(id: &str, action: &str, time_nano: i64) -> String {
        format!(
            r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"name":"name-{id}"}}}},"timeNano":{time_nano}}}"#
        )
    }

    fn take_in(known: &mut Known, told: &mut Told, line: &str) {
        let event = Event::parse(line.as_bytes()).unwrap();
        known.happened(&event);
        told.happened(&event);
    }

    #[test]
    fn what_is_known_is_the_state_and_the_events_since() {
        let mut known = Known::new(vec![container("a", "running"), container("b", "running")]);
        for (id, action) in
            [("a", "die"), ("b", "destroy"), ("c", "create"), ("d", "start"), ("d", "pause"), ("a", "top")]
        {
            take_in(&mut known, &mut Told::default(), &line(id, action, 1));
        }
        let renamed = line("c", "rename", 2).replace("name-c", "other");
        take_in(&mut known, &mut Told::default(), &renamed);
        let mut other = container("c", "created");
        other.name = "other".into();
        assert_eq!(known, Known::new(vec![container("a", "exited"), other, container("d", "paused")]));
    }

    #[test]
    fn without_its_times_a_container_is_at_least_in_another_state() {
        let known = Known::new(vec![container("a", "running"), container("b", "exited")]);
        let shown = [("a", "exited"), ("b", "exited")]
            .map(|(id, state)| Shown { container: container(id, state), times: None });
        let told = Told::default();
        let comparison = Comparison { known: Some(&known), later: &known, told: &told, shown: &shown, from: 0, to: 1 };
        assert_eq!(comparison.differences(), ["name-a (a) is exited now"]);
    }

    #[test]
    fn one_that_ends_at_once_has_exited_though_its_start_is_noted_later() {
        let times =
            Times { started: Some(1_000_600_000), finished: Some(1_000_000_000), exit_code: 7, ..Times::default() };
        let (known, told) = (Known::new(vec![container("a", "created")]), Told::default());
        let shown = [Shown { container: container("a", "exited"), times: Some(times) }];
        let (from, to) = (SECOND / 2, 2 * SECOND);
        let comparison = Comparison { known: Some(&known), later: &known, told: &told, shown: &shown, from, to };
        let said = "name-a (a) was started at 1970-01-01T00:00:01.000600000Z and exited with 7 at 1970-01-01T00:00:01.000000000Z";
        assert_eq!(comparison.differences(), [said]);
    }

    #[test]
    fn a_detail_keeps_what_was_found_before_and_is_bounded() {
        assert_eq!(detail("why", None, Vec::new()), None);
        let first = detail("why", None, vec!["a is gone".into()]).unwrap();
        assert_eq!(first, "why; meanwhile: a is gone");
        let again = detail("why now", Some(&first), vec!["a is gone".into(), "b is gone".into()]).unwrap();
        assert_eq!(again, "why now; meanwhile: a is gone; b is gone");
        assert_eq!(detail("why now", Some(&again), Vec::new()), Some(again));

        let many: Vec<String> = (0..5000).map(|n| format!("container number {n:05} is gone")).collect();
        let long = detail("why", None, many).unwrap();
        let (told, more) = long.rsplit_once("; and ").unwrap();
        assert!(long.len() <= DETAIL_LIMIT && long.len() > DETAIL_LIMIT - 200, "{}", long.len());
        assert_eq!(told.matches("is gone").count() + more.trim_end_matches(" more").parse::<usize>().unwrap(), 5000);
    }

    /// A life of a container after the engine has made it, as often as given: started and ended by turns, destroyed at
    /// the end or not.
    fn life(steps: usize, destroyed: bool) -> Vec<&'static str> {
        let mut actions = vec!["create"];
        actions.extend((0..steps).map(|n| if n % 2 == 0 { "start" } else { "die" }));
        if destroyed && steps.is_multiple_of(2) {
            actions.push("destroy");
        }
        actions
    }

    proptest! {
        /// Whatever part of a life is recorded: nothing is said if nothing was missed, and only of what was missed.
        #[test]
        fn what_is_said_was_missed(steps in 0usize..8, destroyed: bool, blind in 0usize..12, long in 0usize..12) {
            let actions = life(steps, destroyed);
            let at = |n: usize| (n as i64 + 1) * 10 * SECOND;
            let (first, behind) = (blind.min(actions.len()), (blind + long).min(actions.len()));
            let (mut known, mut told) = (Known::default(), Told::default());
            let mut times = Times::default();
            let mut state = "created";
            for (n, action) in actions.iter().enumerate() {
                // An engine notes it, and then tells it.
                let noted = Some(at(n) - SECOND / 100);
                match *action {
                    "create" => times.created = noted,
                    "start" => (times.started, state) = (noted, "running"),
                    "die" => (times.finished, state) = (noted, "exited"),
                    _ => {}
                }
                if !(first..behind).contains(&n) {
                    take_in(&mut known, &mut told, &line("a", action, at(n)));
                }
            }
            let is_gone = actions.last() == Some(&"destroy");
            let shown = [Shown { container: container("a", state), times: Some(times) }];
            let shown = if is_gone { &shown[..0] } else { &shown[..] };
            let from = if first == 0 { 0 } else { at(first - 1) };
            let to = if behind == actions.len() { at(actions.len()) } else { at(behind) };
            let comparison = Comparison { known: Some(&known), later: &known, told: &told, shown, from, to };
            let said = comparison.differences().join("; ");
            let missed = &actions[first..behind];
            prop_assert_eq!(said.contains("came, created"), missed.contains(&"create") && !is_gone
                && known.get("a").is_none(), "{}", said);
            let last_missed = |action| {
                let last = actions.iter().rposition(|a| *a == action);
                last.is_some_and(|last| (first..behind).contains(&last))
            };
            prop_assert_eq!(said.contains("was started at"), last_missed("start") && !is_gone, "{}", said);
            let ended = said.contains("exited with") || said.contains("ended at");
            prop_assert_eq!(ended, last_missed("die") && !is_gone, "{}", said);
            let known_before = first > 0 || (behind < actions.len() && actions[behind..].contains(&"start"));
            prop_assert_eq!(said.contains("is gone"), is_gone && missed.contains(&"destroy") && known_before, "{}", said);
            prop_assert!(!missed.is_empty() || said.is_empty(), "{}", said);
        }
    }
}
