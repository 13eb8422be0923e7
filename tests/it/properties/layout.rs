//! An encoded event decodes to the same bytes, or the difference is detected. An event as an engine writes it always
//! decodes to the same bytes.

use events::event::Event;
use events::store::layout::{Actor, LineTemplate, VaryingAttributes, extract_template, is_varying};

pub(crate) fn check(bytes: &[u8]) {
    let Ok(event) = Event::parse(bytes) else { return };
    if round_trip(&event) == event.raw() {
        return;
    }
    let go_json = to_go_json(&event);
    let event = Event::parse(go_json.as_bytes()).expect("Go's JSON of an event is an event");
    assert_eq!(String::from_utf8_lossy(&round_trip(&event)), go_json);
}

fn round_trip(event: &Event<'_>) -> Vec<u8> {
    let mut template = String::new();
    extract_template(event, &mut template);
    let constant = event.attributes.iter().filter(|(key, _)| !is_varying(key));
    let actor = Actor::new(&event.actor_id, constant.map(|(key, value)| (key.as_ref(), value.as_ref())));
    let mut line = Vec::new();
    LineTemplate::parse(&template).render(
        &event.kind,
        &event.action,
        &actor,
        &VaryingAttributes::from_event(event),
        event.time_nano,
        &mut line,
    );
    line
}

/// The same event as Go's encoding/json writes it.
fn to_go_json(event: &Event<'_>) -> String {
    let attributes: Vec<String> =
        event.attributes.iter().map(|(key, value)| format!("{}:{}", go_quote(key), go_quote(value))).collect();
    let [kind, action, id, scope] =
        [&event.kind, &event.action, &event.actor_id, &event.scope].map(|text| go_quote(text));
    let image = event.attribute("image").map(|image| format!("\"from\":{},", go_quote(image))).unwrap_or_default();
    format!(
        "{{\"status\":{action},\"id\":{id},{image}\"Type\":{kind},\"Action\":{action},\"Actor\":{{\"ID\":{id},\
         \"Attributes\":{{{}}}}},\"scope\":{scope},\"time\":{},\"timeNano\":{}}}",
        attributes.join(","),
        event.time_nano.div_euclid(1_000_000_000),
        event.time_nano,
    )
}

fn go_quote(text: &str) -> String {
    let mut json = serde_json::to_string(text).expect("a text is JSON");
    for special in ['<', '>', '&', '\u{2028}', '\u{2029}'] {
        json = json.replace(special, &format!("\\u{:04x}", special as u32));
    }
    // A backslash before a letter can itself be escaped, so pairs are read together.
    let mut go_quoted = String::with_capacity(json.len());
    let mut chars = json.chars();
    while let Some(c) = chars.next() {
        match (c, (c == '\\').then(|| chars.next()).flatten()) {
            ('\\', Some('b')) => go_quoted.push_str("\\u0008"),
            ('\\', Some('f')) => go_quoted.push_str("\\u000c"),
            (c, escaped) => go_quoted.extend([Some(c), escaped].into_iter().flatten()),
        }
    }
    go_quoted
}
