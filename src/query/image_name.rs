//! Parses image names as the engine does (distribution/reference), as far as its `image` filter needs them.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_REPO_PREFIX: &str = "library/";

/// Maximum length of a name, in bytes.
const MAX_NAME_LEN: usize = 255;

/// Matches `domain/path`, `:tag` and `@digest`: the grammar of distribution/reference.
static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
    let component = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
    let label = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let domain = format!(r"(?:{label}(?:\.{label})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?");
    let tag = "[0-9A-Za-z_][0-9A-Za-z_.-]{0,127}";
    let digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
    let name = format!("(?P<domain>{domain})/(?P<path>{component}(?:/{component})*)");
    Regex::new(&format!("^(?P<name>{name})(?::{tag})?(?:@(?P<digest>{digest}))?$")).expect("the regex is valid")
});

/// Returns the familiar name of an image without tag and digest: `busybox` for `docker.io/library/busybox:1`. Text that
/// is not an image name is returned unchanged.
pub fn strip_tag(image: &str) -> Cow<'_, str> {
    familiar_name(image).map_or(Cow::Borrowed(image), Cow::Owned)
}

fn familiar_name(image: &str) -> Option<String> {
    if image.len() == 64 && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None; // An image ID.
    }
    let (domain, rest) = split_domain(image);
    let path = rest.split_once(':').map_or(rest.as_str(), |(path, _)| path);
    if path.chars().any(char::is_uppercase) {
        return None;
    }
    let canonical = format!("{domain}/{rest}");
    let captures = REFERENCE.captures(&canonical)?;
    if captures["name"].len() > MAX_NAME_LEN {
        return None;
    }
    if let Some(digest) = captures.name("digest")
        && !is_digest(digest.as_str())
    {
        return None;
    }
    let (domain, path) = (&captures["domain"], &captures["path"]);
    if domain != DEFAULT_DOMAIN {
        return Some(format!("{domain}/{path}"));
    }
    let official = path.strip_prefix(OFFICIAL_REPO_PREFIX).filter(|name| !name.contains('/'));
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
    let is_official = domain == DEFAULT_DOMAIN && !rest.contains('/');
    (domain, if is_official { format!("{OFFICIAL_REPO_PREFIX}{rest}") } else { rest.to_owned() })
}

/// Returns true if the engine supports the algorithm and the digest has the right length for it.
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
    fn strip_tag_matches_the_engine() {
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
            // Not image names: returned unchanged.
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
