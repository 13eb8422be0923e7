//! Recordings of real engines, and a store filled with one.

use std::path::PathBuf;

use super::command::Folder;
use events::testing::Engine;

/// The path of a recording.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The bytes of a recording.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The lines of a recording.
pub(crate) fn lines(name: &str) -> Vec<String> {
    let text = String::from_utf8(bytes(name)).expect("a recording is UTF-8");
    text.lines().map(str::to_owned).collect()
}

/// A folder whose store holds these events, recorded from an engine that remembered them (at most 256).
pub(crate) fn recorded(events: &[String]) -> Folder {
    let folder = Folder::new();
    let engine = Engine::start().expect("an engine starts");
    events.iter().for_each(|event| engine.push(event));
    folder.run(&["record", "-H", &engine.docker_host(), "--until", "now", "-q"]).succeeded();
    folder
}

/// A folder whose store holds a recording.
pub(crate) fn imported(name: &str) -> Folder {
    let folder = Folder::new();
    folder.run(&["import", "-q", &path(name).display().to_string()]).succeeded();
    folder
}

/// Events in the order of time, as a query gives them.
pub(crate) fn by_time(lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    lines.sort_by_key(|line| line.rsplit_once(':').unwrap().1.trim_end_matches('}').parse::<i64>().unwrap());
    lines
}
