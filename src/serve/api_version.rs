//! Converts events to the format of an API version.
//!
//! Below 1.52, events of containers and images have the fields `status`, `id` and `from`; since 1.52 they do not.
//! Fields are added or removed in the text of the event, and all other bytes stay.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::engine::ApiVersion;
use crate::event::Event;

/// Since this version, events lack the repeated fields `status`, `id` and `from`.
const LEGACY_FIELDS_REMOVED: ApiVersion = ApiVersion(1, 52);

/// Since this version, engines send the `create` event of images.
const IMAGE_CREATE_ADDED: ApiVersion = ApiVersion(1, 46);

/// Returns true if an engine sends this event at an API version.
pub(super) fn is_sent_at(event: &Event<'_>, version: Option<ApiVersion>) -> bool {
    version.is_none_or(|version| version >= IMAGE_CREATE_ADDED) || event.kind != "image" || event.action != "create"
}

/// Returns an event as an engine sends it at an API version, or as stored without a version. An event that already has
/// the right format is unchanged.
pub(super) fn for_version<'e>(event: &Event<'e>, version: Option<ApiVersion>) -> Cow<'e, str> {
    let texts = &event.raw_values;
    match version {
        Some(version) if version >= LEGACY_FIELDS_REMOVED => {
            if texts.status.is_none() && texts.id.is_none() && texts.from.is_none() {
                return Cow::Borrowed(event.text);
            }
            without_legacy_fields(event.text).map_or(Cow::Borrowed(event.text), Cow::Owned)
        }
        Some(_) if event.lacks_legacy_fields() => Cow::Owned(with_legacy_fields(event)),
        _ => Cow::Borrowed(event.text),
    }
}

/// Adds the fields for old clients at the front. Empty fields are left out, as in Docker 20 to 28.
fn with_legacy_fields(event: &Event<'_>) -> String {
    let mut text = String::with_capacity(event.text.len() + 256);
    text.push('{');
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("\"{key}\":{},", quote_json(value)));
        }
    };
    add("status", &event.status());
    if event.raw_values.id.is_none() {
        add("id", &event.id());
    }
    if event.raw_values.from.is_none() {
        add("from", &event.from());
    }
    text.push_str(event.text.trim_start().strip_prefix('{').unwrap_or_default());
    text
}

/// Removes `status`, `id` and `from`. All other members keep their bytes and their order.
fn without_legacy_fields(text: &str) -> Option<String> {
    let members = serde_json::Deserializer::from_str(text).deserialize_map(MembersVisitor).ok()?;
    let mut out = String::with_capacity(text.len());
    for (key, value) in members.iter().filter(|(key, _)| !matches!(&**key, "status" | "id" | "from")) {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&format!("{}:{}", quote_json(key), value.get()));
    }
    out.push('}');
    Some(out)
}

/// Quotes a text for JSON, as Go does.
fn quote_json(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    crate::event::write_json_string(text, &mut out);
    String::from_utf8(out).expect("quoted text is UTF-8")
}

/// Collects the members of an object in their order.
struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            members.push((Cow::Owned(key), value));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture_lines(name: &str) -> Vec<String> {
        let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    fn convert(line: &str, version: Option<ApiVersion>) -> String {
        for_version(&Event::parse(line.as_bytes()).unwrap(), version).into_owned()
    }

    #[test]
    fn events_already_in_the_requested_version_are_unchanged() {
        let (old, new) = (Some(ApiVersion(1, 41)), Some(ApiVersion(1, 52)));
        for name in ["docker-20.10.24.ndjson", "docker-28.5.2.ndjson", "docker-29.7.2-api1.51.ndjson"] {
            for line in fixture_lines(name) {
                assert_eq!(convert(&line, None), line);
                assert_eq!(convert(&line, old), line);
            }
        }
        for line in fixture_lines("docker-29.7.2.ndjson") {
            assert_eq!(convert(&line, None), line);
            assert_eq!(convert(&line, new), line);
        }
    }

    #[test]
    fn image_create_is_sent_from_1_46_on() {
        let is_sent = |line: &str, version| is_sent_at(&Event::parse(line.as_bytes()).unwrap(), version);
        let create = r#"{"Type":"image","Action":"create","Actor":{"ID":"a"},"timeNano":1}"#;
        let versions = [Some(ApiVersion(1, 45)), Some(ApiVersion(1, 46)), None];
        assert_eq!(versions.map(|version| is_sent(create, version)), [false, true, true]);
        for other in [create.replace("image", "volume"), create.replace("create", "tag")] {
            assert_eq!(versions.map(|version| is_sent(&other, version)), [true; 3]);
        }
    }

    #[test]
    fn converting_to_another_version_and_back_is_lossless() {
        let (old, new) = (Some(ApiVersion(1, 41)), Some(ApiVersion(1, 52)));
        for line in fixture_lines("docker-28.5.2.ndjson") {
            let converted = convert(&line, new);
            assert!(!converted.contains(r#""status":"#) && converted.starts_with(r#"{"Type":"#), "{converted}");
            assert_eq!(convert(&converted, old), line);
        }
        for line in fixture_lines("docker-29.7.2.ndjson") {
            let full = convert(&line, old);
            assert_eq!(full == line, !line.contains(r#""Type":"container""#) && !line.contains(r#""Type":"image""#));
            assert_eq!(convert(&full, new), line);
        }
    }

    #[test]
    fn escaped_and_empty_values_are_converted() {
        let line =
            r#" {"Action":"a\u003c","Type":"container","Actor":{"Attributes":{"image":"b\"<"},"ID":""},"time":1} "#;
        let event = Event::parse(line.trim().as_bytes()).unwrap();
        let full = for_version(&event, Some(ApiVersion(1, 24))).into_owned();
        assert_eq!(full, format!(r#"{{"status":"a\u003c","from":"b\"\u003c",{}"#, &line.trim()[1..]));
        assert!(Event::parse(full.as_bytes()).is_ok());
    }
}
