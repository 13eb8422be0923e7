//! Names of images as the engine reads them (distribution/reference): just as much as its `image` filter needs.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";

/// The longest name, in bytes.
const LONGEST: usize = 255;

/// `domain/path`, `:tag`, `@digest`; the grammar of distribution/reference.
static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
    let component = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
    let label = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let domain = format!(r"(?:{label}(?:\.{label})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?");
    let tag = "[0-9A-Za-z_][0-9A-Za-z_.-]{0,127}";
    let digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
    let name = format!("(?P<domain>{domain})/(?P<path>{component}(?:/{component})*)");
    Regex::new(&format!("^(?P<name>{name})(?::{tag})?(?:@(?P<digest>{digest}))?$")).expect("the grammar is a regex")
});

/// The familiar name of an image without tag and digest: `busybox` for `docker.io/library/busybox:1`. What is no name
/// of an image comes back as it is.
pub fn strip_tag(image: &str) -> Cow<'_, str> {
    familiar_name(image).map_or(Cow::Borrowed(image), Cow::Owned)
}

fn familiar_name(image: &str) -> Option<String> {
    if image.len() == 64 && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None; // An ID.
    }
    let (domain, rest) = split_domain(image);
    let path = rest.split_once(':').map_or(rest.as_str(), |(path, _)| path);
    if path.chars().any(char::is_uppercase) {
        return None;
    }
    let whole = format!("{domain}/{rest}");
    let found = REFERENCE.captures(&whole)?;
    if found["name"].len() > LONGEST {
        return None;
    }
    if let Some(digest) = found.name("digest")
        && !is_digest(digest.as_str())
    {
        return None;
    }
    let (domain, path) = (&found["domain"], &found["path"]);
    if domain != DEFAULT_DOMAIN {
        return Some(format!("{domain}/{path}"));
    }
    let official = path.strip_prefix(OFFICIAL).filter(|name| !name.contains('/'));
    Some(official.unwrap_or(path).to_owned())
}

fn split_domain(image: &str) -> (&str, String) {
    let (domain, rest) = match image.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, image),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !rest.contains('/');
    (domain, if official { format!("{OFFICIAL}{rest}") } else { rest.to_owned() })
}

/// A digest of an algorithm that the engine has, of the right length.
fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_the_engine_strips_them() {
        let id = "9eacf74f8949656da2954e021fa30022f4a01cd9590d64fb7d48486a8905d36b";
        for (image, stripped) in [
            ("busybox", "busybox"),
            ("busybox:latest", "busybox"),
            ("docker.io/library/busybox:1", "busybox"),
            ("index.docker.io/library/busybox", "busybox"),
            ("library/busybox", "busybox"),
            ("docker.io/library/a/b", "library/a/b"),
            ("acme/web:1.0", "acme/web"),
            ("localhost:5000/team/api:v3", "localhost:5000/team/api"),
            ("localhost/x:1", "localhost/x"),
            ("[::1]:5000/x:1", "[::1]:5000/x"),
            ("Registry/x", "Registry/x"),
            (&format!("busybox@sha256:{id}"), "busybox"),
            (&format!("acme/web:1@sha256:{id}"), "acme/web"),
            (&format!("sha256:{id}"), "sha256"),
            // No names of images: they come back as they are.
            (id, id),
            ("", ""),
            ("Busybox:1", "Busybox:1"),
            ("busybox:", "busybox:"),
            ("a//b:1", "a//b:1"),
            ("busybox@sha256:abc", "busybox@sha256:abc"),
            (&format!("busybox@md5:{id}"), &format!("busybox@md5:{id}")),
            (&format!("busybox:{}", "x".repeat(129)), &format!("busybox:{}", "x".repeat(129))),
        ] {
            assert_eq!(strip_tag(image), stripped, "{image}");
        }
        let long = "a".repeat(300);
        assert_eq!(strip_tag(&long), long.as_str());
    }
}
