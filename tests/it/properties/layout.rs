//! An event taken apart and put together is itself or is found not to be; as an engine writes it, it is itself.

use events::event::Event;
use events::store::layout::{Actor, Form, Varying, form_of, varies};

pub(crate) fn check(bytes: &[u8]) {
    let Ok(event) = Event::parse(bytes) else { return };
    if round_trip(&event) == event.raw() {
        return;
    }
    let written = as_engines_write_it(&event);
    let event = Event::parse(written.as_bytes()).expect("an engine writes events");
    assert_eq!(String::from_utf8_lossy(&round_trip(&event)), written);
}

fn round_trip(event: &Event<'_>) -> Vec<u8> {
    let mut form = String::new();
    form_of(event, &mut form);
    let stay = event.attributes.iter().filter(|(key, _)| !varies(key));
    let actor = Actor::new(&event.actor_id, stay.map(|(key, value)| (key.as_ref(), value.as_ref())));
    let mut line = Vec::new();
    Form::read(&form).fill(&event.kind, &event.action, &actor, &Varying::of(event), event.time_nano, &mut line);
    line
}

/// The same event as Go's encoding/json writes it.
fn as_engines_write_it(event: &Event<'_>) -> String {
    let attributes: Vec<String> =
        event.attributes.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
    let [kind, action, id, scope] =
        [&event.kind, &event.action, &event.actor_id, &event.scope].map(|text| quoted(text));
    let image = event.attribute("image").map(|image| format!("\"from\":{},", quoted(image))).unwrap_or_default();
    format!(
        "{{\"status\":{action},\"id\":{id},{image}\"Type\":{kind},\"Action\":{action},\"Actor\":{{\"ID\":{id},\
         \"Attributes\":{{{}}}}},\"scope\":{scope},\"time\":{},\"timeNano\":{}}}",
        attributes.join(","),
        event.time_nano.div_euclid(1_000_000_000),
        event.time_nano,
    )
}

fn quoted(text: &str) -> String {
    let mut quoted = serde_json::to_string(text).expect("a text is JSON");
    for special in ['<', '>', '&', '\u{2028}', '\u{2029}'] {
        quoted = quoted.replace(special, &format!("\\u{:04x}", special as u32));
    }
    // A backslash before the letter is itself escaped, or it is not: pairs of them are passed over.
    let mut short = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match (c, (c == '\\').then(|| chars.next()).flatten()) {
            ('\\', Some('b')) => short.push_str("\\u0008"),
            ('\\', Some('f')) => short.push_str("\\u000c"),
            (c, escaped) => short.extend([Some(c), escaped].into_iter().flatten()),
        }
    }
    short
}
