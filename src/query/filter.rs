//! Event filters with the semantics of the engine, including its peculiarities.
//!
//! They follow moby `daemon/events/filter.go` and `api/types/filters`. `tests/real/engines.rs` compares them with
//! running engines. Different keys must all match (AND). The values of one key are alternatives (OR), but all values of
//! `label` must match. A key without values matches every event, and an unknown key is ignored.
//!
//! Filters use no HTTP and no SQL. Store queries only narrow a search; [`Filter::matches`] decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::image_name::strip_tag;
use crate::event::Event;
use crate::store::{Actions, ActorTest, Query, is_varying};

/// The filter keys that engines support.
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

/// The event types that engines emit, Podman's last.
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

/// The keys whose values match the beginning of an actor's ID or name.
const PREFIX_KEYS: [&str; 9] =
    ["container", "plugin", "volume", "network", "daemon", "node", "service", "secret", "config"];

/// If a value of `event` is exactly one of these, all values of `event` match the beginning of an action.
const FUZZY_ACTIONS: [&str; 3] = ["health_status", "exec_create", "exec_start"];

/// A filter that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The text is not `KEY=VALUE`.
    #[error("invalid filter '{0}': expected KEY=VALUE")]
    Syntax(String),
    /// No engine supports the key.
    #[error("unknown filter key '{0}': expected one of {keys}", keys = KEYS.join(", "))]
    UnknownKey(String),
    /// The JSON has neither of the two wire formats.
    #[error("invalid filter")]
    Json,
}

/// A filter for events. The default matches every event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Values by key, each with its flag from the map format. With `false`, an engine ignores the value where it
    /// compares exactly, and still uses it where it compares prefixes.
    values: BTreeMap<String, BTreeMap<String, bool>>,
}

impl Filter {
    /// Adds one `KEY=VALUE` of the command line. Trims both and lowercases the key, as the docker client does. Unlike
    /// the docker client, rejects keys that no engine supports.
    ///
    /// # Errors
    /// [`FilterError::Syntax`] and [`FilterError::UnknownKey`].
    pub fn add(&mut self, text: &str) -> Result<(), FilterError> {
        let (key, value) = text.split_once('=').ok_or_else(|| FilterError::Syntax(text.into()))?;
        let key = key.trim().to_lowercase();
        if !KEYS.contains(&key.as_str()) {
            return Err(if key.is_empty() { FilterError::Syntax(text.into()) } else { FilterError::UnknownKey(key) });
        }
        self.insert(key, value.trim().into());
        Ok(())
    }

    /// Parses the `filters` parameter of a request, in either wire format: `{"k":["v"]}` or `{"k":{"v":true}}`.
    /// Unknown keys have no effect.
    ///
    /// # Errors
    /// [`FilterError::Json`].
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
        match serde_json::from_str::<Option<Wire>>(json).map_err(|_| FilterError::Json)? {
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

    /// Returns true if every event matches.
    pub fn is_empty(&self) -> bool {
        self.values.values().all(BTreeMap::is_empty)
    }

    /// The requested types that no engine emits. They never match an event.
    pub fn unknown_types(&self) -> impl Iterator<Item = &str> {
        self.values_for("type")
            .into_iter()
            .flat_map(BTreeMap::keys)
            .map(String::as_str)
            .filter(|kind| !TYPES.contains(kind))
    }

    /// Returns true if an engine with this filter would send the event.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.matches_action(&event.action)
            && self.matches_exact("type", &event.kind)
            && self.matches_exact("scope", &event.scope)
            && PREFIX_KEYS.iter().all(|key| self.matches_actor(key, event))
            && self.matches_image(event)
            && self.matches_labels(event)
    }

    /// Narrows a store query. Its result contains at least all events that this filter matches.
    pub fn narrow(&self, query: &mut Query) {
        let exact_values = |key| -> Vec<String> {
            self.values_for(key)
                .map(|values| values.iter().filter(|v| *v.1).map(|v| v.0.clone()).collect())
                .unwrap_or_default()
        };
        query.types = exact_values("type");
        if let Some(values) = self.values_for("event") {
            query.actions = if is_fuzzy(values) {
                Actions::Prefix(values.keys().cloned().collect())
            } else {
                Actions::Exact(exact_values("event"))
            };
        }
        for key in PREFIX_KEYS {
            if let Some(values) = self.values_for(key) {
                query.actors.push(values.keys().cloned().collect());
            }
        }
        query.actor_test = self.actor_test();
    }

    /// Returns true if the filter uses attributes that vary between the events of one actor.
    pub fn uses_per_event_attributes(&self) -> bool {
        self.values_for("label").is_some_and(|labels| labels.keys().any(|label| is_varying(label_key(label))))
    }

    /// The part of `label` and `image` that depends only on the actor, not on the event.
    fn actor_test(&self) -> Option<ActorTest> {
        let labels: Vec<(String, Option<String>)> = self.values_for("label").map_or(Vec::new(), |labels| {
            let split = |label: &String| match label.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (label.clone(), None),
            };
            labels.keys().map(split).filter(|(key, _)| !is_varying(key)).collect()
        });
        let images = self.values_for("image").is_some();
        if labels.is_empty() && !images {
            return None;
        }
        let mut keys: Vec<String> = labels.iter().map(|(key, _)| key.clone()).collect();
        let image_keys_start = keys.len();
        if images {
            keys.extend(["image".to_owned(), "name".to_owned()]);
        }
        let filter = self.clone();
        let passes = move |id: &str, values: &[Option<&str>]| {
            let has_label = |((_, expected), value): (&(String, Option<String>), &Option<&str>)| match (expected, value)
            {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(expected), Some(value)) => expected == value,
            };
            // The event type is unknown here, so the image's name may be under either key.
            // An absent name counts as empty, and the filter may contain the empty name.
            let names = || values[image_keys_start..].iter().map(|name| name.unwrap_or_default()).chain([id]);
            labels.iter().zip(values).all(has_label) && (!images || names().any(|name| filter.matches_image_name(name)))
        };
        Some(ActorTest { keys, matches: Arc::new(passes) })
    }

    /// The values of a key, if it has any.
    fn values_for(&self, key: &str) -> Option<&BTreeMap<String, bool>> {
        self.values.get(key).filter(|values| !values.is_empty())
    }

    fn matches_exact(&self, key: &str, text: &str) -> bool {
        self.values_for(key).is_none_or(|values| values.get(text) == Some(&true))
    }

    fn matches_prefix(&self, key: &str, text: &str) -> bool {
        self.values_for(key).is_none_or(|values| values.keys().any(|prefix| text.starts_with(prefix.as_str())))
    }

    fn matches_action(&self, action: &str) -> bool {
        match self.values_for("event") {
            Some(values) if is_fuzzy(values) => self.matches_prefix("event", action),
            _ => self.matches_exact("event", action),
        }
    }

    /// Compares events of every type, although the key is named after one type.
    fn matches_actor(&self, key: &str, event: &Event<'_>) -> bool {
        self.values_for(key).is_none()
            || self.matches_prefix(key, &event.actor_id)
            || self.matches_prefix(key, event.attribute("name").unwrap_or_default())
    }

    fn matches_image(&self, event: &Event<'_>) -> bool {
        if self.values_for("image").is_none() {
            return true;
        }
        let attribute = if event.kind == "image" { "name" } else { "image" };
        let image = event.attribute(attribute).unwrap_or_default();
        self.matches_image_name(&event.actor_id) || self.matches_image_name(image)
    }

    /// Returns true if a name is one of the images, as written or without tag and digest.
    fn matches_image_name(&self, name: &str) -> bool {
        self.matches_exact("image", name) || self.matches_exact("image", &strip_tag(name))
    }

    fn matches_labels(&self, event: &Event<'_>) -> bool {
        let Some(labels) = self.values_for("label") else { return true };
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

fn is_fuzzy(actions: &BTreeMap<String, bool>) -> bool {
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

    fn filter(args: &[&str]) -> Filter {
        let mut filter = Filter::default();
        args.iter().for_each(|arg| filter.add(arg).unwrap());
        filter
    }

    #[test]
    fn filters_match_like_the_engine() {
        for (args, json, expected) in [
            (&[][..], WEB, true),
            (&["type=container"], WEB, true),
            (&["type=image"], WEB, false),
            (&["type=image", "type=container"], WEB, true),
            (&["event=exec_create: sh -c id"], WEB, true),
            (&["event=exec"], WEB, false),
            (&["event=exec_create"], WEB, true),
            // One fuzzy action makes all values match prefixes.
            (&["event=exec_create", "event=ta"], IMAGE, true),
            (&["event=exec_creat", "event=ta"], IMAGE, false),
            (&["container=we"], WEB, true),
            (&["container=ab"], WEB, true),
            // Matches the ID or name on every type, but not the attribute `container` of a network event.
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
            assert_eq!(filter(args).matches(&event), expected, "{args:?} on {}", event.action);
        }
    }

    #[test]
    fn wire_lists_and_maps_are_equivalent_and_false_values_match_like_the_engine() {
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
            // Go decodes null as the zero value of its type.
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
            assert_eq!(Filter::from_wire(json), Err(FilterError::Json), "{json}");
        }
    }

    #[test]
    fn command_line_filters_are_trimmed_and_unknown_keys_rejected() {
        assert_eq!(filter(&[" TYPE = container "]), filter(&["type=container"]));
        let add = |text: &str| Filter::default().add(text).unwrap_err().to_string();
        assert_eq!(add("type"), "invalid filter 'type': expected KEY=VALUE");
        assert_eq!(add("=x"), "invalid filter '=x': expected KEY=VALUE");
        assert!(add("name=x").starts_with("unknown filter key 'name': expected one of config, container, "));
    }
}
