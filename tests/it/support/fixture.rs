//! Recordings of real engines, and stores filled with them.

use std::path::PathBuf;

use super::command::TestDir;
use events::testing::Engine;

/// Path of a recording.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Bytes of a recording.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Lines of a recording.
pub(crate) fn lines(name: &str) -> Vec<String> {
    let text = String::from_utf8(bytes(name)).expect("a recording is UTF-8");
    text.lines().map(str::to_owned).collect()
}

/// A directory whose store contains these events, recorded from the backlog of an engine (at most 256).
pub(crate) fn recorded_store(events: &[String]) -> TestDir {
    let test_dir = TestDir::new();
    let engine = Engine::start().expect("an engine starts");
    events.iter().for_each(|event| engine.push(event));
    test_dir.run(&["record", "-H", &engine.docker_host(), "--until", "now", "-q"]).assert_success();
    test_dir
}

/// A directory whose store contains a recording.
pub(crate) fn imported_store(name: &str) -> TestDir {
    let test_dir = TestDir::new();
    test_dir.run(&["import", "-q", &path(name).display().to_string()]).assert_success();
    test_dir
}

/// A directory whose store contains these events, imported from its file `events.ndjson`.
pub(crate) fn store_with_events(lines: &[String]) -> TestDir {
    let test_dir = TestDir::new();
    std::fs::write(test_dir.path("events.ndjson"), lines.join("\n")).expect("the directory is writable");
    test_dir.run(&["import", "-q", "events.ndjson"]).assert_success();
    test_dir
}

/// Time of an event line that ends with `timeNano`, in nanoseconds since the epoch.
pub(crate) fn line_time_nano(line: &str) -> i64 {
    line.rsplit_once(':').unwrap().1.trim_end_matches('}').parse().unwrap()
}

/// Events sorted by time, as a query prints them.
pub(crate) fn sorted_by_time(lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    lines.sort_by_key(|line| line_time_nano(line));
    lines
}
