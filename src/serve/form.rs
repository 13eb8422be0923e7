//! The form that events have at a version of the API: below 1.52 those of containers and images carry `status`, `id` and
//! `from`, from 1.52 on they do not.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::engine::ApiVersion;
use crate::event::Event;

/// From this version on an event says each thing once.
const LEAN: ApiVersion = ApiVersion(1, 52);

/// From this version on an engine tells that an image was created.
const IMAGE_CREATE: ApiVersion = ApiVersion(1, 46);

/// Whether an engine tells of this event at a version of the API.
pub(super) fn is_told_at(event: &Event<'_>, version: Option<ApiVersion>) -> bool {
    version.is_none_or(|version| version >= IMAGE_CREATE) || event.kind != "image" || event.action != "create"
}

/// An event as an engine sends it at a version of the API; without one, as it is stored. Untouched where it has that
/// form already.
pub(super) fn at_version<'e>(event: &Event<'e>, version: Option<ApiVersion>) -> Cow<'e, str> {
    let texts = &event.texts;
    match version {
        Some(version) if version >= LEAN => {
            if texts.status.is_none() && texts.id.is_none() && texts.from.is_none() {
                return Cow::Borrowed(event.text);
            }
            lean(event.text).map_or(Cow::Borrowed(event.text), Cow::Owned)
        }
        Some(_) if event.is_lean() => Cow::Owned(old(event)),
        _ => Cow::Borrowed(event.text),
    }
}

/// With what clients of old look at, in front; what is empty is left out, as Docker 20 to 28 do.
fn old(event: &Event<'_>) -> String {
    let mut text = String::with_capacity(event.text.len() + 256);
    text.push('{');
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("\"{key}\":{},", quoted(value)));
        }
    };
    add("status", &event.status());
    if event.texts.id.is_none() {
        add("id", &event.id());
    }
    if event.texts.from.is_none() {
        add("from", &event.from());
    }
    text.push_str(event.text.trim_start().strip_prefix('{').unwrap_or_default());
    text
}

/// Without `status`, `id` and `from`; everything else keeps its bytes and its place.
fn lean(text: &str) -> Option<String> {
    let members = serde_json::Deserializer::from_str(text).deserialize_map(Members).ok()?;
    let mut lean = String::with_capacity(text.len());
    for (key, value) in members.iter().filter(|(key, _)| !matches!(&**key, "status" | "id" | "from")) {
        lean.push(if lean.is_empty() { '{' } else { ',' });
        lean.push_str(&format!("{}:{}", quoted(key), value.get()));
    }
    lean.push('}');
    Some(lean)
}

/// A text as Go writes it in JSON.
fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    crate::event::quote(text, &mut out);
    String::from_utf8(out).expect("what is quoted stays UTF-8")
}

/// The members of an object, in their order.
struct Members;

impl<'de> Visitor<'de> for Members {
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

    fn fixture(name: &str) -> Vec<String> {
        let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    fn formed(line: &str, version: Option<ApiVersion>) -> String {
        at_version(&Event::parse(line.as_bytes()).unwrap(), version).into_owned()
    }

    #[test]
    fn what_has_the_form_is_untouched() {
        let (old, new) = (Some(ApiVersion(1, 41)), Some(ApiVersion(1, 52)));
        for name in ["docker-20.10.24.ndjson", "docker-28.5.2.ndjson", "docker-29.7.2-api1.51.ndjson"] {
            for line in fixture(name) {
                assert_eq!(formed(&line, None), line);
                assert_eq!(formed(&line, old), line);
            }
        }
        for line in fixture("docker-29.7.2.ndjson") {
            assert_eq!(formed(&line, None), line);
            assert_eq!(formed(&line, new), line);
        }
    }

    #[test]
    fn an_image_is_created_from_1_46_on() {
        let told = |line: &str, version| is_told_at(&Event::parse(line.as_bytes()).unwrap(), version);
        let create = r#"{"Type":"image","Action":"create","Actor":{"ID":"a"},"timeNano":1}"#;
        let versions = [Some(ApiVersion(1, 45)), Some(ApiVersion(1, 46)), None];
        assert_eq!(versions.map(|version| told(create, version)), [false, true, true]);
        for other in [create.replace("image", "volume"), create.replace("create", "tag")] {
            assert_eq!(versions.map(|version| told(&other, version)), [true; 3]);
        }
    }

    #[test]
    fn there_and_back_it_is_the_same() {
        let (old, new) = (Some(ApiVersion(1, 41)), Some(ApiVersion(1, 52)));
        for line in fixture("docker-28.5.2.ndjson") {
            let lean = formed(&line, new);
            assert!(!lean.contains(r#""status":"#) && lean.starts_with(r#"{"Type":"#), "{lean}");
            assert_eq!(formed(&lean, old), line);
        }
        for line in fixture("docker-29.7.2.ndjson") {
            let full = formed(&line, old);
            assert_eq!(full == line, !line.contains(r#""Type":"container""#) && !line.contains(r#""Type":"image""#));
            assert_eq!(formed(&full, new), line);
        }
    }

    #[test]
    fn odd_ones_too() {
        let line =
            r#" {"Action":"a\u003c","Type":"container","Actor":{"Attributes":{"image":"b\"<"},"ID":""},"time":1} "#;
        let event = Event::parse(line.trim().as_bytes()).unwrap();
        let full = at_version(&event, Some(ApiVersion(1, 24))).into_owned();
        assert_eq!(full, format!(r#"{{"status":"a\u003c","from":"b\"\u003c",{}"#, &line.trim()[1..]));
        assert!(Event::parse(full.as_bytes()).is_ok());
    }
}
