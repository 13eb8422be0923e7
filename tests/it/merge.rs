//! `import` merges the stores of several machines into one.

use std::fs;
use std::path::Path;

use crate::support::command::TestDir;
use crate::support::engine::{Behavior, Engine, event, event_time, events};
use crate::support::fixture;
use serde_json::Value;

const FIRST: &str = "7a5c1ed0-0000-4000-8000-000000000001";
const SECOND: &str = "b2b2b2b2-0000-4000-8000-000000000002";

/// Imports a store into another; returns the log.
fn import_store(into: &TestDir, from: &Path) -> String {
    into.run(&["import", from.to_str().unwrap()]).assert_exit_code(0).stderr
}

/// Returns the events, gaps and rejected lines of a store, each with its engine's ID as the source.
fn contents(test_dir: &TestDir) -> Vec<Value> {
    let sources = test_dir.json(&["status", "--json"])[0]["sources"].as_array().unwrap().clone();
    let id = |line: &Value| {
        let source = sources.iter().find(|source| source["name"] == line["source"]).expect("status lists every source");
        if source["engine_id"].is_null() { source["name"].clone() } else { source["engine_id"].clone() }
    };
    let lines = [&["query", "-q", "--envelope"][..], &["gaps"], &["rejected"]].map(|args| test_dir.json(args)).concat();
    let mut contents: Vec<Value> = lines
        .into_iter()
        .map(|mut line| {
            line["source"] = id(&line);
            line.as_object_mut().unwrap().remove("seq");
            line
        })
        .collect();
    contents.sort_by_key(Value::to_string);
    contents
}

/// Records an engine that restarts and sends a line that is not an event; returns the store.
fn recorded_machine(id: &str, numbers: std::ops::Range<u64>) -> TestDir {
    let test_dir = TestDir::new();
    let engine = Engine::start(test_dir.path("docker.sock"));
    engine.set_identity(id, "vm");
    let middle = (numbers.start + numbers.end) / 2;
    let recorder = test_dir.record(&engine.host(), &[]);
    (numbers.start..middle).for_each(|n| engine.emit(&event(n)));
    engine.send_junk(b"no event");
    let count = |n: u64| {
        test_dir.eventually("the events are stored", || {
            let count = test_dir.lines(&["query", "-q", "--count"])[0].clone();
            if count == n.to_string() { Ok(()) } else { Err(count) }
        });
    };
    count(middle - numbers.start);
    engine.restart();
    (middle..numbers.end).for_each(|n| engine.emit(&event(n)));
    count(numbers.end - numbers.start);
    recorder.stop();
    test_dir
}

#[test]
fn stores_of_two_machines_are_merged() {
    let (first, second, merged) = (recorded_machine(FIRST, 0..40), recorded_machine(SECOND, 20..100), TestDir::new());
    fs::write(merged.path("day.ndjson"), events(0..3).join("\n") + "\nnonsense").unwrap();
    merged.run(&["import", "-q", "day.ndjson", "--source", "vm"]).assert_success();
    let mut expected = [contents(&first), contents(&second), contents(&merged)].concat();
    expected.sort_by_key(Value::to_string);
    let log = import_store(&merged, &first.db());
    let head = format!("head {}", first.verify(&[]));
    assert!(log.contains(&format!("was verified and imported up to its {head}\n")), "{log}");
    assert!(log.ends_with("\n40 stored, 0 skipped, 1 rejected (`events rejected` shows them)\n"), "{log}");
    import_store(&merged, &second.db());
    assert_eq!(contents(&merged), expected);
    let names: Vec<Value> = merged.json(&["status", "--json"])[0]["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].clone())
        .collect();
    assert_eq!(names, ["vm", "vm-7a5c1ed0", "vm-b2b2b2b2"]);
    // Importing again changes nothing.
    let before = merged.verify(&[]);
    for from in [&first, &second] {
        assert!(import_store(&merged, &from.db()).ends_with(" 0 rejected\n"));
    }
    merged.run(&["import", "-q", "day.ndjson", "--source", "vm"]).assert_success();
    assert_eq!(merged.verify(&[]), before);
    // Importing a file under the name of an engine does not add events to that engine.
    merged.run(&["import", "-q", "day.ndjson", "--source", "vm-7a5c1ed0"]).assert_success();
    merged.run(&["import", "-q", "day.ndjson", "--source", "vm-7a5c1ed0"]).assert_success();
    assert_eq!(merged.lines(&["query", "-q", "--source", "vm-7a5c1ed0-imported"]), events(0..3));
    assert_eq!(merged.lines(&["query", "-q", "--source", "vm-7a5c1ed0"]), events(0..40));
    merged.verify(&[]);
}

#[test]
fn two_stores_of_one_engine_are_merged_with_a_gap_between_them() {
    let (early, late) = (TestDir::new(), TestDir::new());
    let engine = Engine::start(early.path("docker.sock"));
    (0..10).for_each(|n| engine.emit(&event(n)));
    early.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).assert_success();
    (10..400).for_each(|n| engine.emit(&event(n)));
    late.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).assert_success();
    assert_eq!(late.lines(&["query", "-q"]), events(144..400));
    let (early_in_late, late_in_early) = (TestDir::new(), TestDir::new());
    fs::copy(late.db(), early_in_late.db()).unwrap();
    fs::copy(early.db(), late_in_early.db()).unwrap();
    for _ in 0..2 {
        import_store(&early_in_late, &early.db());
        import_store(&late_in_early, &late.db());
    }
    assert_eq!(early_in_late.lines(&["query", "-q"]), events((0..10).chain(144..400)));
    assert_eq!(contents(&early_in_late), contents(&late_in_early));
    let gaps = late_in_early.json(&["gaps"]);
    let bounds: Vec<_> =
        gaps.iter().map(|gap| (gap["from"].clone(), gap["to"].clone(), gap["reason"].clone())).collect();
    let text = |text: &str| Value::String(text.into());
    assert_eq!(
        bounds,
        [
            (Value::Null, text(&event_time(0)), text("first-contact")),
            (text(&event_time(9)), text(&event_time(144)), text("store-failed"))
        ]
    );
    // Recording into the merged store continues where the later store ended.
    engine.emit(&event(400));
    for test_dir in [&early_in_late, &late_in_early] {
        test_dir.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).assert_success();
        assert_eq!(test_dir.lines(&["query", "-q"]), events((0..10).chain(144..401)));
        assert_eq!(test_dir.json(&["gaps"]).len(), 2);
        test_dir.verify(&[]);
    }
}

#[test]
fn a_store_being_recorded_is_imported_as_of_one_moment() {
    let (from, into) = (TestDir::new(), TestDir::new());
    let engine = Engine::start(from.path("docker.sock"));
    let recorder = from.record(&engine.host(), &[]);
    for round in 0..5 {
        (round * 200..round * 200 + 200).for_each(|n| engine.emit(&event(n)));
        import_store(&into, &from.db());
        let imported = into.lines(&["query", "-q"]);
        assert_eq!(imported, events(0..imported.len() as u64));
    }
    from.eventually_lines(&["query", "-q"], &events(0..1000));
    import_store(&into, &from.db());
    recorder.stop();
    assert_eq!(contents(&into), contents(&from));
    into.verify(&[]);
}

#[test]
fn an_edited_store_is_not_imported() {
    let (from, into) = (recorded_machine(FIRST, 0..10), TestDir::new());
    let db = rusqlite::Connection::open(from.db()).unwrap();
    db.execute("UPDATE label SET value = 'alpine' WHERE key = 'image'", []).unwrap();
    let path = from.db().display().to_string();
    let output = into.run(&["import", &path]).assert_exit_code(1);
    let expected = format!("events: {path} failed verification; faults: ");
    assert!(
        output.stderr.starts_with(&expected) && output.stderr.contains(" (hint: see `events verify --db "),
        "{}",
        output.stderr
    );
    assert!(!crate::support::command::exists(&into.db()));
}

#[test]
fn a_store_of_an_older_schema_is_imported_and_left_unchanged() {
    let into = TestDir::new();
    fs::copy(fixture::path("stores/schema-1.db"), into.path("old.db")).unwrap();
    let before = fs::read(into.path("old.db")).unwrap();
    import_store(&into, Path::new("old.db"));
    let migrated = TestDir::new();
    fs::copy(fixture::path("stores/schema-1.db"), migrated.db()).unwrap();
    migrated.run(&["import", "-q", "/dev/null"]).assert_success();
    assert_eq!(contents(&into), contents(&migrated));
    assert!(contents(&into).len() > 100);
    assert_eq!(fs::read(into.path("old.db")).unwrap(), before);
    into.verify(&[]);
}

#[test]
fn a_killed_merge_run_again_gives_the_same_store() {
    let from = TestDir::new();
    let engine = Engine::start(from.path("docker.sock"));
    engine.set_behavior(Behavior::default());
    engine.emit(&event(30_000));
    from.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).assert_success();
    fs::write(from.path("many"), events(0..20_000).join("\n") + "\nnonsense\n").unwrap();
    from.run(&["import", "-q", "many"]).assert_success();
    let (into, path) = (TestDir::new(), from.db().display().to_string());
    for round in 1..=4 {
        let import = into.start(&["import", &path]);
        into.eventually("some events are stored", || {
            let output = into.run(&["query", "--count", "-q"]);
            let count: usize = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0);
            if count >= round * 2_000 { Ok(()) } else { Err(count) }
        });
        if round % 2 == 0 { import.signal("INT") } else { import.kill() }
    }
    import_store(&into, &from.db());
    assert!(contents(&into) == contents(&from));
    let before = into.verify(&[]);
    import_store(&into, &from.db());
    assert_eq!(into.verify(&[]), before);
}

#[test]
fn merging_redacts_secrets() {
    let (from, into) = (TestDir::new(), TestDir::new());
    let engine = Engine::start(from.path("docker.sock"));
    engine.emit(&event(0).replace("busybox", "busybox-secret"));
    engine.send_junk(b"secret");
    from.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).assert_success();
    into.run(&["import", "-q", "--redact", "secret", from.db().to_str().unwrap()]).assert_success();
    let all = fs::read(into.db()).unwrap();
    assert!(!all.windows(6).any(|bytes| bytes == b"secret"));
    assert_eq!(into.lines(&["query", "-q"]).len(), 1);
    into.verify(&[]);
}

#[test]
fn invalid_imports_of_stores_are_refused() {
    let test_dir = recorded_machine(FIRST, 0..2);
    let path = test_dir.db().display().to_string();
    let line = "--source cannot be combined with a store, which names its own sources (hint: omit --source, or import the store \
                separately)";
    test_dir.run(&["import", "--db", "new.db", "--source", "x", &path]).assert_failure(2, line);
    let line = format!("cannot import {path} into itself (hint: pass another store with --db)");
    test_dir.run(&["import", &path]).assert_failure(1, &line);
    let other = rusqlite::Connection::open(test_dir.path("other.db")).unwrap();
    other.execute_batch("CREATE TABLE x (y)").unwrap();
    let output = test_dir.run(&["import", "other.db"]).assert_exit_code(1);
    assert!(
        output.stderr.starts_with("events: cannot open other.db: it is the database of another program"),
        "{}",
        output.stderr
    );
    assert!(!crate::support::command::exists(&test_dir.path("new.db")));
}
