//! The container diff: what must have happened to an engine's containers in a gap. Compares the recorded events with
//! what the engine shows now.
//!
//! This module has no access to the engine or the store, and it guesses nothing. A change that a recorded event
//! accounts for is not reported again. A change that the engine no longer shows is not reported at all.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::engine::ContainerTimes;
use crate::event::Event;
use crate::query::time::rfc3339;

/// Actions that change the state or the name of a container.
pub(in crate::recorder) const LIFECYCLE_ACTIONS: [&str; 7] =
    ["create", "start", "die", "pause", "unpause", "rename", "destroy"];

/// Separator between the reason in a gap's detail and the container diff.
const DETAIL_SEPARATOR: &str = "; in the gap: ";

/// The separator in gaps that version 0.1.0 stored.
const OLD_DETAIL_SEPARATOR: &str = "; meanwhile: ";

/// Maximum length of a gap's detail, in bytes.
const DETAIL_LIMIT: usize = 64 * 1024;

/// Tolerance before the start of the gap. An engine sets a time before it sends the event. So the time can be a little
/// before the last event seen although its event was missed.
const EVENT_DELAY_SLACK_NANO: i64 = 5_000_000_000;

/// Tolerance after the end of the gap, which can be a time of this machine's clock.
const CLOCK_SKEW_SLACK_NANO: i64 = 60_000_000_000;

/// Maximum time by which an event can be earlier than the engine's time for the same change.
const TIMESTAMP_SLACK_NANO: i64 = 100_000_000;

/// Name and state of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::recorder) struct Container {
    pub(in crate::recorder) id: String,
    pub(in crate::recorder) name: String,
    /// State as the engine names it: `running`, `exited`, …
    pub(in crate::recorder) state: String,
}

/// Container as the engine shows it now.
#[derive(Clone, Debug)]
pub(in crate::recorder) struct InspectedContainer {
    pub(in crate::recorder) container: Container,
    /// `None` if the times were not requested, or if the engine did not answer.
    pub(in crate::recorder) times: Option<ContainerTimes>,
}

/// Containers of an engine, by ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::recorder) struct Containers(BTreeMap<String, Container>);

impl Containers {
    pub(in crate::recorder) fn new(containers: Vec<Container>) -> Containers {
        Containers(containers.into_iter().map(|container| (container.id.clone(), container)).collect())
    }

    pub(in crate::recorder) fn get(&self, id: &str) -> Option<&Container> {
        self.0.get(id)
    }

    /// Updates the containers with an event.
    pub(in crate::recorder) fn apply(&mut self, event: &Event<'_>) {
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

/// Times of the last recorded lifecycle events of each container.
#[derive(Clone, Debug, Default)]
pub(in crate::recorder) struct RecordedTimes(HashMap<String, LastTimes>);

#[derive(Clone, Copy, Debug, Default)]
struct LastTimes {
    created: Option<i64>,
    started: Option<i64>,
    ended: Option<i64>,
    destroyed: Option<i64>,
}

impl RecordedTimes {
    pub(in crate::recorder) fn apply(&mut self, event: &Event<'_>) {
        if event.kind != "container" || !LIFECYCLE_ACTIONS.contains(&&*event.action) {
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

    fn get(&self, id: &str) -> LastTimes {
        self.0.get(id).copied().unwrap_or_default()
    }
}

/// Two states of an engine's containers, and the gap between them.
#[derive(Debug)]
pub(in crate::recorder) struct ContainerDiff<'a> {
    /// Containers at the time of the request, according to the record. `None` if the record is incomplete.
    pub(in crate::recorder) expected: Option<&'a Containers>,
    /// The same with all events recorded by now. A change in progress is not a difference.
    pub(in crate::recorder) expected_latest: &'a Containers,
    pub(in crate::recorder) recorded_times: &'a RecordedTimes,
    /// Containers as the engine shows them.
    pub(in crate::recorder) inspected: &'a [InspectedContainer],
    /// Time of the last event seen before the gap.
    pub(in crate::recorder) from: i64,
    /// End of the gap.
    pub(in crate::recorder) to: i64,
}

impl ContainerDiff<'_> {
    /// Describes what must have happened, with one text for each container.
    pub(in crate::recorder) fn differences(&self) -> Vec<String> {
        let mut found: Vec<(Option<i64>, String)> =
            self.inspected.iter().filter_map(|inspected| self.difference(inspected)).collect();
        // Changes without a time come last.
        found.sort_by(|a, b| (a.0.is_none(), a).cmp(&(b.0.is_none(), b)));
        let missing = self.expected.into_iter().flat_map(|known| known.0.values()).filter(|known| self.is_gone(known));
        found
            .into_iter()
            .map(|(_, text)| text)
            .chain(missing.map(|container| format!("{} was removed", display_name(container))))
            .collect()
    }

    fn is_gone(&self, container: &Container) -> bool {
        self.recorded_times.get(&container.id).destroyed.is_none()
            && self.inspected.iter().all(|inspected| inspected.container.id != container.id)
    }

    /// Describes what must have happened to one container. Returns also the time of its first change.
    fn difference(&self, inspected: &InspectedContainer) -> Option<(Option<i64>, String)> {
        let mut parts = Vec::new();
        let first = match &inspected.times {
            Some(times) => self.diff_times(inspected, times, &mut parts),
            None => None,
        };
        self.diff_state(inspected, first.is_some(), &mut parts);
        let last = parts.pop()?;
        let all = if parts.is_empty() { last } else { format!("{} and {last}", parts.join(", ")) };
        Some((first, format!("{} {all}", display_name(&inspected.container))))
    }

    fn diff_times(
        &self,
        inspected: &InspectedContainer,
        times: &ContainerTimes,
        parts: &mut Vec<String>,
    ) -> Option<i64> {
        let Container { id, state, .. } = &inspected.container;
        let last = self.recorded_times.get(id);
        let is_known = self.expected.is_some_and(|known| known.get(id).is_some());
        let created = times.created.filter(|at| !is_known && self.is_unrecorded(*at, last.created));
        let started = times.started.filter(|at| self.is_unrecorded(*at, last.started));
        let finished = times.finished.filter(|at| self.is_unrecorded(*at, last.ended));
        if let Some(at) = created {
            parts.push(format!("was created at {}", rfc3339(at)));
        }
        let was_started = started.map(|at| format!("was started at {}", rfc3339(at)));
        // The state decides the order, not the times. For a container that exits immediately, engines up to 26 set the
        // start after the end.
        if matches!(&**state, "exited" | "dead" | "removing") {
            parts.extend(was_started);
            let cause = if times.oom_killed { " (out of memory)" } else { "" };
            parts.extend(finished.map(|at| format!("exited with {}{cause} at {}", times.exit_code, rfc3339(at))));
        } else {
            // The exit was before the start, and the start has replaced its exit code.
            parts.extend(finished.map(|at| format!("exited at {}", rfc3339(at))));
            parts.extend(was_started);
        }
        [created, started, finished].into_iter().flatten().min()
    }

    /// Returns true if a change at the time `at` belongs to the gap and no recorded event accounts for it. The engine
    /// keeps the time of the last change of a kind, so any event at or after it accounts for it.
    fn is_unrecorded(&self, at: i64, recorded: Option<i64>) -> bool {
        // If the record is incomplete, only a change strictly between two events seen was certainly missed.
        let (before, after) =
            if self.expected.is_some() { (EVENT_DELAY_SLACK_NANO, CLOCK_SKEW_SLACK_NANO) } else { (0, 0) };
        let is_within = at > self.from.saturating_sub(before) && at <= self.to.saturating_add(after);
        is_within && recorded.is_none_or(|recorded| recorded < at.saturating_sub(TIMESTAMP_SLACK_NANO))
    }

    /// Describes changes without a time: names, pauses, and states of containers whose times are unknown.
    fn diff_state(&self, inspected: &InspectedContainer, has_times: bool, parts: &mut Vec<String>) {
        let current = &inspected.container;
        let before = self.expected.and_then(|known| known.get(&current.id)).zip(self.expected_latest.get(&current.id));
        let Some((expected, expected_latest)) = before else { return };
        if expected.name != current.name
            && expected_latest.name != current.name
            && !current.name.is_empty()
            && !expected.name.is_empty()
        {
            parts.push(format!("was renamed from {}", expected.name));
        }
        let is_changed = expected.state != current.state && expected_latest.state != current.state;
        match (&*expected.state, &*current.state) {
            _ if !is_changed => {}
            (_, "paused") => parts.push("was paused".into()),
            ("paused", "running") if !has_times => parts.push("is no longer paused".into()),
            (_, "running" | "exited" | "created" | "dead") if inspected.times.is_none() => {
                parts.push(format!("is now {}", current.state));
            }
            _ => {}
        }
    }
}

/// Returns the name of a container and its ID, shortened as in the docker client.
fn display_name(container: &Container) -> String {
    let short: String = container.id.chars().take(12).collect();
    if container.name.is_empty() { short } else { format!("{} ({short})", container.name) }
}

/// Adds the differences to the detail of a gap. Keeps those that were found before for the same gap.
pub(in crate::recorder) fn gap_detail(
    reason: &str,
    previous: Option<&str>,
    differences: Vec<String>,
) -> Option<String> {
    let mut all: Vec<String> = previous
        .and_then(|detail| detail.split_once(DETAIL_SEPARATOR).or_else(|| detail.split_once(OLD_DETAIL_SEPARATOR)))
        .map_or(Vec::new(), |(_, previous_differences)| previous_differences.split("; ").map(str::to_owned).collect());
    for difference in differences {
        if !all.contains(&difference) {
            all.push(difference);
        }
    }
    if all.is_empty() {
        return None;
    }
    let mut detail = format!("{reason}{DETAIL_SEPARATOR}");
    let limit = DETAIL_LIMIT - "and 18446744073709551615 more".len();
    for (index, difference) in all.iter().enumerate() {
        if detail.len() + difference.len() + 2 > limit {
            detail.push_str(&format!("and {} more", all.len() - index));
            return Some(detail);
        }
        detail.push_str(difference);
        if index + 1 < all.len() {
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

    fn apply_event(containers: &mut Containers, recorded_times: &mut RecordedTimes, line: &str) {
        let event = Event::parse(line.as_bytes()).unwrap();
        containers.apply(&event);
        recorded_times.apply(&event);
    }

    #[test]
    fn events_are_applied_to_the_known_state() {
        let mut containers = Containers::new(vec![container("a", "running"), container("b", "running")]);
        for (id, action) in
            [("a", "die"), ("b", "destroy"), ("c", "create"), ("d", "start"), ("d", "pause"), ("a", "top")]
        {
            apply_event(&mut containers, &mut RecordedTimes::default(), &line(id, action, 1));
        }
        let renamed = line("c", "rename", 2).replace("name-c", "other");
        apply_event(&mut containers, &mut RecordedTimes::default(), &renamed);
        let mut other = container("c", "created");
        other.name = "other".into();
        assert_eq!(containers, Containers::new(vec![container("a", "exited"), other, container("d", "paused")]));
    }

    #[test]
    fn without_times_only_a_state_change_is_reported() {
        let expected = Containers::new(vec![container("a", "running"), container("b", "exited")]);
        let inspected = [("a", "exited"), ("b", "exited")]
            .map(|(id, state)| InspectedContainer { container: container(id, state), times: None });
        let recorded_times = RecordedTimes::default();
        let diff = ContainerDiff {
            expected: Some(&expected),
            expected_latest: &expected,
            recorded_times: &recorded_times,
            inspected: &inspected,
            from: 0,
            to: 1,
        };
        assert_eq!(diff.differences(), ["name-a (a) is now exited"]);
    }

    #[test]
    fn a_container_that_exits_at_once_is_reported_as_exited() {
        let times = ContainerTimes {
            started: Some(1_000_600_000),
            finished: Some(1_000_000_000),
            exit_code: 7,
            ..ContainerTimes::default()
        };
        let (expected, recorded_times) = (Containers::new(vec![container("a", "created")]), RecordedTimes::default());
        let inspected = [InspectedContainer { container: container("a", "exited"), times: Some(times) }];
        let (from, to) = (SECOND / 2, 2 * SECOND);
        let diff = ContainerDiff {
            expected: Some(&expected),
            expected_latest: &expected,
            recorded_times: &recorded_times,
            inspected: &inspected,
            from,
            to,
        };
        let message = "name-a (a) was started at 1970-01-01T00:00:01.000600000Z and exited with 7 at 1970-01-01T00:00:01.000000000Z";
        assert_eq!(diff.differences(), [message]);
    }

    #[test]
    fn a_gap_detail_keeps_previous_differences_and_is_bounded() {
        assert_eq!(gap_detail("why", None, Vec::new()), None);
        let first = gap_detail("why", None, vec!["a was removed".into()]).unwrap();
        assert_eq!(first, "why; in the gap: a was removed");
        let second = gap_detail("why now", Some(&first), vec!["a was removed".into(), "b was removed".into()]).unwrap();
        assert_eq!(second, "why now; in the gap: a was removed; b was removed");
        assert_eq!(gap_detail("why now", Some(&second), Vec::new()), Some(second));
        let old = gap_detail("why", Some("why; meanwhile: a was removed"), Vec::new());
        assert_eq!(old.as_deref(), Some("why; in the gap: a was removed"));

        let many: Vec<String> = (0..5000).map(|n| format!("container number {n:05} was removed")).collect();
        let long = gap_detail("why", None, many).unwrap();
        let (reported, more) = long.rsplit_once("; and ").unwrap();
        assert!(long.len() <= DETAIL_LIMIT && long.len() > DETAIL_LIMIT - 200, "{}", long.len());
        assert_eq!(
            reported.matches("was removed").count() + more.trim_end_matches(" more").parse::<usize>().unwrap(),
            5000
        );
    }

    /// Returns the actions of a container: `create`, then `start` and `die` in turn, and `destroy` at the end if
    /// requested.
    fn lifecycle(steps: usize, destroyed: bool) -> Vec<&'static str> {
        let mut actions = vec!["create"];
        actions.extend((0..steps).map(|n| if n % 2 == 0 { "start" } else { "die" }));
        if destroyed && steps.is_multiple_of(2) {
            actions.push("destroy");
        }
        actions
    }

    proptest! {
        /// For any recorded part of the lifecycle, only missed changes are reported.
        #[test]
        fn only_missed_events_are_reported(steps in 0usize..8, destroyed: bool, gap_start in 0usize..12, gap_len in 0usize..12) {
            let actions = lifecycle(steps, destroyed);
            let at = |n: usize| (n as i64 + 1) * 10 * SECOND;
            let (first, gap_end) = (gap_start.min(actions.len()), (gap_start + gap_len).min(actions.len()));
            let (mut expected, mut recorded_times) = (Containers::default(), RecordedTimes::default());
            let mut times = ContainerTimes::default();
            let mut state = "created";
            for (n, action) in actions.iter().enumerate() {
                // The engine sets the time, then sends the event.
                let engine_time = Some(at(n) - SECOND / 100);
                match *action {
                    "create" => times.created = engine_time,
                    "start" => (times.started, state) = (engine_time, "running"),
                    "die" => (times.finished, state) = (engine_time, "exited"),
                    _ => {}
                }
                if !(first..gap_end).contains(&n) {
                    apply_event(&mut expected, &mut recorded_times, &line("a", action, at(n)));
                }
            }
            let is_gone = actions.last() == Some(&"destroy");
            let inspected = [InspectedContainer { container: container("a", state), times: Some(times) }];
            let inspected = if is_gone { &inspected[..0] } else { &inspected[..] };
            let from = if first == 0 { 0 } else { at(first - 1) };
            let to = if gap_end == actions.len() { at(actions.len()) } else { at(gap_end) };
            let diff = ContainerDiff { expected: Some(&expected), expected_latest: &expected, recorded_times: &recorded_times, inspected, from, to };
            let report = diff.differences().join("; ");
            let missed = &actions[first..gap_end];
            prop_assert_eq!(report.contains("was created at"), missed.contains(&"create") && !is_gone
                && expected.get("a").is_none(), "{}", report);
            let last_missed = |action| {
                let last = actions.iter().rposition(|a| *a == action);
                last.is_some_and(|last| (first..gap_end).contains(&last))
            };
            prop_assert_eq!(report.contains("was started at"), last_missed("start") && !is_gone, "{}", report);
            let ended = report.contains("exited with") || report.contains("exited at");
            prop_assert_eq!(ended, last_missed("die") && !is_gone, "{}", report);
            let known_before = first > 0 || (gap_end < actions.len() && actions[gap_end..].contains(&"start"));
            prop_assert_eq!(report.contains("was removed"), is_gone && missed.contains(&"destroy") && known_before, "{}", report);
            prop_assert!(!missed.is_empty() || report.is_empty(), "{}", report);
        }
    }
}
