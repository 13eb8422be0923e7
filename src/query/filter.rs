//! The engine's event filters, key for key and quirk for quirk (moby `daemon/events/filter.go` and
//! `api/types/filters`; compared with running engines in `tests/engines.rs`).
//!
//! Keys AND; values of one key OR, but the values of `label` AND; an empty list filters nothing; a key that is not
//! known is passed over.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::reference::strip_tag;
use crate::event::Event;
use crate::store::{Actions, ActorTest, Ask, varies};

/// The keys that an engine knows.
pub const KEYS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// The types of the events that engines tell, Podman's last.
const TYPES: [&str; 14] = [
    "builder",
    "config",
    "container",
    "daemon",
    "image",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
    "machine",
    "pod",
    "system",
];

/// The keys whose values are the beginning of an actor's ID or name.
const PREFIX_KEYS: [&str; 9] =
    ["container", "plugin", "volume", "network", "daemon", "node", "service", "secret", "config"];

/// When one of these is given as it stands here, every value of `event` is the beginning of an action.
const FUZZY_ACTIONS: [&str; 3] = ["health_status", "exec_create", "exec_start"];

/// A filter that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not of the form `KEY=VALUE`.
    #[error("the filter '{0}' is not KEY=VALUE")]
    Form(String),
    /// A key that no engine knows.
    #[error("the filter key '{0}' is not known; the keys are {keys}", keys = KEYS.join(", "))]
    Key(String),
    /// JSON that is neither of the two wire forms.
    #[error("invalid filter")]
    Wire,
}

/// Which events to let through. The default lets through all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// By key, the values, each with the flag that the map form gives it. A `false` there makes an engine not take
    /// the value where it compares whole texts, and take it all the same where it compares beginnings.
    values: BTreeMap<String, BTreeMap<String, bool>>,
}

impl Filter {
    /// Adds one `KEY=VALUE` of the command line: the key trimmed and in lower case, the value trimmed, as the docker
    /// client does; unlike it, a key that no engine knows is refused.
    ///
    /// # Errors
    /// [`FilterError::Form`] and [`FilterError::Key`].
    pub fn add(&mut self, text: &str) -> Result<(), FilterError> {
        let (key, value) = text.split_once('=').ok_or_else(|| FilterError::Form(text.into()))?;
        let key = key.trim().to_lowercase();
        if !KEYS.contains(&key.as_str()) {
            return Err(if key.is_empty() { FilterError::Form(text.into()) } else { FilterError::Key(key) });
        }
        self.insert(key, value.trim().into());
        Ok(())
    }

    /// Reads the `filters` parameter of a request, in either form: `{"k":["v"]}` or `{"k":{"v":true}}`. Unknown keys
    /// are kept and mean nothing.
    ///
    /// # Errors
    /// [`FilterError::Wire`].
    pub fn from_wire(json: &str) -> Result<Filter, FilterError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Maps(BTreeMap<String, Option<BTreeMap<String, Option<bool>>>>),
            Lists(BTreeMap<String, Option<Vec<Option<String>>>>),
        }
        let mut filter = Filter::default();
        if json.is_empty() {
            return Ok(filter);
        }
        match serde_json::from_str::<Option<Wire>>(json).map_err(|_| FilterError::Wire)? {
            None => {}
            Some(Wire::Maps(maps)) => {
                for (key, values) in maps {
                    let values = values.into_iter().flatten().map(|(value, flag)| (value, flag.unwrap_or_default()));
                    filter.values.insert(key, values.collect());
                }
            }
            Some(Wire::Lists(lists)) => {
                for (key, values) in lists {
                    filter.values.entry(key.clone()).or_default();
                    for value in values.into_iter().flatten() {
                        filter.insert(key.clone(), value.unwrap_or_default());
                    }
                }
            }
        }
        Ok(filter)
    }

    fn insert(&mut self, key: String, value: String) {
        self.values.entry(key).or_default().insert(value, true);
    }

    /// Whether every event passes.
    pub fn is_empty(&self) -> bool {
        self.values.values().all(BTreeMap::is_empty)
    }

    /// The types it asks for that no engine knows: nothing of them will ever come.
    pub fn unknown_types(&self) -> impl Iterator<Item = &str> {
        self.given("type").into_iter().flat_map(BTreeMap::keys).map(String::as_str).filter(|kind| !TYPES.contains(kind))
    }

    /// Whether the engine would let this event through.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.matches_action(&event.action)
            && self.is_exactly("type", &event.kind)
            && self.is_exactly("scope", &event.scope)
            && PREFIX_KEYS.iter().all(|key| self.matches_actor(key, event))
            && self.matches_image(event)
            && self.matches_labels(event)
    }

    /// Narrows an ask: what comes back holds all that this filter lets through.
    pub fn narrow(&self, ask: &mut Ask) {
        let whole = |key| -> Vec<String> {
            self.given(key)
                .map(|values| values.iter().filter(|v| *v.1).map(|v| v.0.clone()).collect())
                .unwrap_or_default()
        };
        ask.types = whole("type");
        if let Some(values) = self.given("event") {
            ask.actions = if fuzzy(values) {
                Actions::BeginningWith(values.keys().cloned().collect())
            } else {
                Actions::Exactly(whole("event"))
            };
        }
        for key in PREFIX_KEYS {
            if let Some(values) = self.given(key) {
                ask.actors.push(values.keys().cloned().collect());
            }
        }
        ask.test = self.actor_test();
    }

    /// Whether it looks at attributes that vary from event to event of one actor.
    pub fn looks_at_varying(&self) -> bool {
        self.given("label").is_some_and(|labels| labels.keys().any(|label| varies(label_key(label))))
    }

    /// What `label` and `image` say of an actor, whatever the event.
    fn actor_test(&self) -> Option<ActorTest> {
        let labels: Vec<(String, Option<String>)> = self.given("label").map_or(Vec::new(), |labels| {
            let split = |label: &String| match label.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (label.clone(), None),
            };
            labels.keys().map(split).filter(|(key, _)| !varies(key)).collect()
        });
        let images = self.given("image").is_some();
        if labels.is_empty() && !images {
            return None;
        }
        let mut keys: Vec<String> = labels.iter().map(|(key, _)| key.clone()).collect();
        let first_name = keys.len();
        if images {
            keys.extend(["image".to_owned(), "name".to_owned()]);
        }
        let filter = self.clone();
        let passes = move |id: &str, values: &[Option<&str>]| {
            let has = |((_, wanted), value): (&(String, Option<String>), &Option<&str>)| match (wanted, value) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(wanted), Some(value)) => wanted == value,
            };
            // Of which type the events are is not known here: an image's name is under one key or the other.
            // One that is absent is empty, and may be asked for as such.
            let names = || values[first_name..].iter().map(|name| name.unwrap_or_default()).chain([id]);
            labels.iter().zip(values).all(has) && (!images || names().any(|name| filter.is_image(name)))
        };
        Some(ActorTest { keys, passes: Arc::new(passes) })
    }

    /// The values of a key, if it filters anything.
    fn given(&self, key: &str) -> Option<&BTreeMap<String, bool>> {
        self.values.get(key).filter(|values| !values.is_empty())
    }

    fn is_exactly(&self, key: &str, text: &str) -> bool {
        self.given(key).is_none_or(|values| values.get(text) == Some(&true))
    }

    fn begins(&self, key: &str, text: &str) -> bool {
        self.given(key).is_none_or(|values| values.keys().any(|prefix| text.starts_with(prefix.as_str())))
    }

    fn matches_action(&self, action: &str) -> bool {
        match self.given("event") {
            Some(values) if fuzzy(values) => self.begins("event", action),
            _ => self.is_exactly("event", action),
        }
    }

    /// On events of every type, though the key is named as one.
    fn matches_actor(&self, key: &str, event: &Event<'_>) -> bool {
        self.given(key).is_none()
            || self.begins(key, &event.actor_id)
            || self.begins(key, event.attribute("name").unwrap_or_default())
    }

    fn matches_image(&self, event: &Event<'_>) -> bool {
        if self.given("image").is_none() {
            return true;
        }
        let attribute = if event.kind == "image" { "name" } else { "image" };
        let image = event.attribute(attribute).unwrap_or_default();
        self.is_image(&event.actor_id) || self.is_image(image)
    }

    /// Whether a name, as it stands or without tag and digest, is one of the images.
    fn is_image(&self, name: &str) -> bool {
        self.is_exactly("image", name) || self.is_exactly("image", &strip_tag(name))
    }

    fn matches_labels(&self, event: &Event<'_>) -> bool {
        let Some(labels) = self.given("label") else { return true };
        labels.keys().all(|label| match label.split_once('=') {
            Some((key, value)) => event.attribute(key) == Some(value),
            None => event.attribute(label).is_some(),
        })
    }
}

/// The key of `KEY` or `KEY=VALUE`.
fn label_key(label: &str) -> &str {
    label.split_once('=').map_or(label, |(key, _)| key)
}

fn fuzzy(actions: &BTreeMap<String, bool>) -> bool {
    FUZZY_ACTIONS.iter().any(|action| actions.contains_key(*action))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> Event<'_> {
        Event::parse(json.as_bytes()).unwrap()
    }

    const WEB: &str = r#"{"Type":"container","Action":"exec_create: sh -c id","Actor":{"ID":"abc","Attributes":{"image":"localhost:5000/team/api:v3","name":"web","tier":"front"}},"scope":"local","time":1}"#;
    const IMAGE: &str = r#"{"Type":"image","Action":"tag","Actor":{"ID":"sha256:9eacf74f8949656da2954e021fa30022f4a01cd9590d64fb7d48486a8905d36b","Attributes":{"name":"docker.io/library/busybox:1"}},"scope":"local","time":1}"#;
    const CONNECT: &str = r#"{"Type":"network","Action":"connect","Actor":{"ID":"net1","Attributes":{"container":"abc","name":"web-net"}},"scope":"local","time":1}"#;

    fn filter(words: &[&str]) -> Filter {
        let mut filter = Filter::default();
        words.iter().for_each(|word| filter.add(word).unwrap());
        filter
    }

    #[test]
    fn the_engines_quirks() {
        for (words, json, expected) in [
            (&[][..], WEB, true),
            (&["type=container"], WEB, true),
            (&["type=image"], WEB, false),
            (&["type=image", "type=container"], WEB, true),
            (&["event=exec_create: sh -c id"], WEB, true),
            (&["event=exec"], WEB, false),
            (&["event=exec_create"], WEB, true),
            // One fuzzy value makes all of them fuzzy.
            (&["event=exec_create", "event=ta"], IMAGE, true),
            (&["event=exec_creat", "event=ta"], IMAGE, false),
            (&["container=we"], WEB, true),
            (&["container=ab"], WEB, true),
            // Every type, but not through a network event's attribute `container`.
            (&["container=web"], CONNECT, true),
            (&["container=abc"], CONNECT, false),
            (&["container=web", "network=ne"], CONNECT, true),
            (&["container="], CONNECT, true),
            (&["image=localhost:5000/team/api:v3"], WEB, true),
            (&["image=localhost:5000/team/api"], WEB, true),
            (&["image=team/api"], WEB, false),
            (&["image=busybox"], IMAGE, true),
            (&["image=busybox:1"], IMAGE, false),
            (&["image=docker.io/library/busybox:1"], IMAGE, true),
            (&["image=sha256"], IMAGE, true),
            (&["label=tier"], WEB, true),
            (&["label=tier=front", "label=name"], WEB, true),
            (&["label=tier=front", "label=gone"], WEB, false),
            (&["label=tier=fron"], WEB, false),
            (&["scope=local"], WEB, true),
            (&["scope=swarm"], WEB, false),
            (&["node=w", "daemon=w"], WEB, true),
            (&["node=x"], WEB, false),
        ] {
            let event = event(json);
            assert_eq!(filter(words).matches(&event), expected, "{words:?} on {}", event.action);
        }
    }

    #[test]
    fn both_wire_forms_mean_the_same_and_false_is_a_quirk() {
        let matches = |json: &str| Filter::from_wire(json).unwrap().matches(&event(WEB));
        for (json, expected) in [
            ("", true),
            ("null", true),
            ("{}", true),
            (r#"{"type":[]}"#, true),
            (r#"{"type":null}"#, true),
            (r#"{"type":["container"]}"#, true),
            (r#"{"type":{"container":true}}"#, true),
            (r#"{"type":{"container":false}}"#, false),
            // Go reads null as the zero of its type.
            (r#"{"type":{"container":null}}"#, false),
            (r#"{"type":[null]}"#, false),
            (r#"{"container":{"we":false}}"#, true),
            (r#"{"nonsense":["x"]}"#, true),
            (r#"{"Type":["image"]}"#, true),
        ] {
            assert_eq!(matches(json), expected, "{json}");
        }
        for json in
            ["notjson", "[]", "5", r#"{"type":"container"}"#, r#"{"a":["x"],"b":{"y":true}}"#, "{", r#"{"a":[1]}"#]
        {
            assert_eq!(Filter::from_wire(json), Err(FilterError::Wire), "{json}");
        }
    }

    #[test]
    fn the_command_line_trims_and_refuses() {
        assert_eq!(filter(&[" TYPE = container "]), filter(&["type=container"]));
        let add = |text: &str| Filter::default().add(text).unwrap_err().to_string();
        assert_eq!(add("type"), "the filter 'type' is not KEY=VALUE");
        assert_eq!(add("=x"), "the filter '=x' is not KEY=VALUE");
        assert!(add("name=x").starts_with("the filter key 'name' is not known; the keys are config, container, "));
    }
}
