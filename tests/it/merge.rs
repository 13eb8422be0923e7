//! Stores of several machines become one.

use std::fs;
use std::path::Path;

use crate::support::command::Folder;
use crate::support::engine::{Engine, Manner, event, events, instant};
use crate::support::fixture;
use serde_json::Value;

const FIRST: &str = "7a5c1ed0-0000-4000-8000-000000000001";
const SECOND: &str = "b2b2b2b2-0000-4000-8000-000000000002";

fn take(into: &Folder, from: &Path) -> String {
    into.run(&["import", from.to_str().unwrap()]).exited(0).stderr
}

fn head(folder: &Folder) -> String {
    folder.run(&["verify", "-q"]).succeeded().lines().pop().unwrap()
}

/// Everything a store tells, each source by its engine's ID.
fn told(folder: &Folder) -> Vec<Value> {
    let sources = folder.json(&["status", "--json"])[0]["sources"].as_array().unwrap().clone();
    let id = |line: &Value| {
        let source = sources.iter().find(|source| source["name"] == line["source"]).expect("a source");
        if source["engine_id"].is_null() { source["name"].clone() } else { source["engine_id"].clone() }
    };
    let lines = [&["query", "-q", "--envelope"][..], &["gaps"], &["rejected"]].map(|words| folder.json(words)).concat();
    let mut told: Vec<Value> = lines
        .into_iter()
        .map(|mut line| {
            line["source"] = id(&line);
            line.as_object_mut().unwrap().remove("seq");
            line
        })
        .collect();
    told.sort_by_key(Value::to_string);
    told
}

/// A machine whose engine restarted, and sent what is no event.
fn machine(id: &str, numbers: std::ops::Range<u64>) -> Folder {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    engine.is_called(id, "vm");
    let middle = (numbers.start + numbers.end) / 2;
    let recorder = folder.record(&engine.host(), &[]);
    (numbers.start..middle).for_each(|n| engine.happens(&event(n)));
    engine.sends_junk(b"no event");
    let count = |n: u64| {
        folder.eventually("it is stored", || {
            let count = folder.lines(&["query", "-q", "--count"])[0].clone();
            if count == n.to_string() { Ok(()) } else { Err(count) }
        });
    };
    count(middle - numbers.start);
    engine.restarts();
    (middle..numbers.end).for_each(|n| engine.happens(&event(n)));
    count(numbers.end - numbers.start);
    recorder.stop();
    folder
}

#[test]
fn the_files_of_two_machines_become_one() {
    let (one, two, both) = (machine(FIRST, 0..40), machine(SECOND, 20..100), Folder::new());
    fs::write(both.path("day.ndjson"), events(0..3).join("\n") + "\nnonsense").unwrap();
    both.run(&["import", "-q", "day.ndjson", "--source", "vm"]).succeeded();
    let mut expected = [told(&one), told(&two), told(&both)].concat();
    expected.sort_by_key(Value::to_string);
    let said = take(&both, &one.db());
    assert!(said.contains(&format!("was proven, and taken up to its {}\n", head(&one))), "{said}");
    assert!(said.ends_with("\n40 stored, 0 skipped, 1 rejected (`events rejected` shows them)\n"), "{said}");
    take(&both, &two.db());
    assert_eq!(told(&both), expected);
    let names: Vec<Value> =
        both.json(&["status", "--json"])[0]["sources"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["vm", "vm-7a5c1ed0", "vm-b2b2b2b2"]);
    // However often it is done.
    let before = head(&both);
    for from in [&one, &two] {
        assert!(take(&both, &from.db()).ends_with(" 0 rejected\n"));
    }
    both.run(&["import", "-q", "day.ndjson", "--source", "vm"]).succeeded();
    assert_eq!(head(&both), before);
    // A name that an engine has does not become that engine's.
    both.run(&["import", "-q", "day.ndjson", "--source", "vm-7a5c1ed0"]).succeeded();
    both.run(&["import", "-q", "day.ndjson", "--source", "vm-7a5c1ed0"]).succeeded();
    assert_eq!(both.lines(&["query", "-q", "--source", "vm-7a5c1ed0-imported"]), events(0..3));
    assert_eq!(both.lines(&["query", "-q", "--source", "vm-7a5c1ed0"]), events(0..40));
    head(&both);
}

#[test]
fn what_two_stores_recorded_of_one_engine_is_put_together_and_the_hole_between_them_is_told() {
    let (early, late) = (Folder::new(), Folder::new());
    let engine = Engine::start(early.path("docker.sock"));
    (0..10).for_each(|n| engine.happens(&event(n)));
    early.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).succeeded();
    (10..400).for_each(|n| engine.happens(&event(n)));
    late.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).succeeded();
    assert_eq!(late.lines(&["query", "-q"]), events(144..400));
    let (early_in_late, late_in_early) = (Folder::new(), Folder::new());
    fs::copy(late.db(), early_in_late.db()).unwrap();
    fs::copy(early.db(), late_in_early.db()).unwrap();
    for _ in 0..2 {
        take(&early_in_late, &early.db());
        take(&late_in_early, &late.db());
    }
    assert_eq!(early_in_late.lines(&["query", "-q"]), events((0..10).chain(144..400)));
    assert_eq!(told(&early_in_late), told(&late_in_early));
    let gaps = late_in_early.json(&["gaps"]);
    let bounds: Vec<_> =
        gaps.iter().map(|gap| (gap["from"].clone(), gap["to"].clone(), gap["reason"].clone())).collect();
    let text = |text: &str| Value::String(text.into());
    assert_eq!(
        bounds,
        [
            (Value::Null, text(&instant(0)), text("first-contact")),
            (text(&instant(9)), text(&instant(144)), text("store-failed"))
        ]
    );
    // And recording into it goes on where the later one ended.
    engine.happens(&event(400));
    for folder in [&early_in_late, &late_in_early] {
        folder.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).succeeded();
        assert_eq!(folder.lines(&["query", "-q"]), events((0..10).chain(144..401)));
        assert_eq!(folder.json(&["gaps"]).len(), 2);
        head(folder);
    }
}

#[test]
fn a_store_that_is_recorded_into_is_taken_as_it_is_at_one_moment() {
    let (from, into) = (Folder::new(), Folder::new());
    let engine = Engine::start(from.path("docker.sock"));
    let recorder = from.record(&engine.host(), &[]);
    for round in 0..5 {
        (round * 200..round * 200 + 200).for_each(|n| engine.happens(&event(n)));
        take(&into, &from.db());
        let taken = into.lines(&["query", "-q"]);
        assert_eq!(taken, events(0..taken.len() as u64));
    }
    from.eventually_lines(&["query", "-q"], &events(0..1000));
    take(&into, &from.db());
    recorder.stop();
    assert_eq!(told(&into), told(&from));
    head(&into);
}

#[test]
fn what_was_edited_is_not_taken() {
    let (from, into) = (machine(FIRST, 0..10), Folder::new());
    let db = rusqlite::Connection::open(from.db()).unwrap();
    db.execute("UPDATE label SET value = 'alpine' WHERE key = 'image'", []).unwrap();
    let path = from.db().display().to_string();
    let ran = into.run(&["import", &path]).exited(1);
    let expected = format!("events: {path} is not as it was recorded: ");
    assert!(
        ran.stderr.starts_with(&expected) && ran.stderr.contains(" faults (hint: `events verify --db "),
        "{}",
        ran.stderr
    );
    assert!(!crate::support::command::exists(&into.db()));
}

#[test]
fn one_of_an_older_schema_is_taken_and_left_as_it_is() {
    let into = Folder::new();
    fs::copy(fixture::path("stores/schema-1.db"), into.path("old.db")).unwrap();
    let before = fs::read(into.path("old.db")).unwrap();
    take(&into, Path::new("old.db"));
    let migrated = Folder::new();
    fs::copy(fixture::path("stores/schema-1.db"), migrated.db()).unwrap();
    migrated.run(&["import", "-q", "/dev/null"]).succeeded();
    assert_eq!(told(&into), told(&migrated));
    assert!(told(&into).len() > 100);
    assert_eq!(fs::read(into.path("old.db")).unwrap(), before);
    head(&into);
}

#[test]
fn killed_and_run_again_it_ends_the_same() {
    let from = Folder::new();
    let engine = Engine::start(from.path("docker.sock"));
    engine.answers(Manner::default());
    engine.happens(&event(70_000));
    from.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).succeeded();
    fs::write(from.path("many"), events(0..60_000).join("\n") + "\nnonsense\n").unwrap();
    from.run(&["import", "-q", "many"]).succeeded();
    let (into, path) = (Folder::new(), from.db().display().to_string());
    for round in 1..=4 {
        let import = into.start(&["import", &path]);
        into.eventually("some are stored", || {
            let ran = into.run(&["query", "--count", "-q"]);
            let count: usize = String::from_utf8_lossy(&ran.stdout).trim().parse().unwrap_or(0);
            if count >= round * 5_000 { Ok(()) } else { Err(count) }
        });
        if round % 2 == 0 { import.signal("INT") } else { import.kill() }
    }
    take(&into, &from.db());
    assert!(told(&into) == told(&from));
    let before = head(&into);
    take(&into, &from.db());
    assert_eq!(head(&into), before);
}

#[test]
fn secrets_are_taken_out_on_the_way() {
    let (from, into) = (Folder::new(), Folder::new());
    let engine = Engine::start(from.path("docker.sock"));
    engine.happens(&event(0).replace("busybox", "busybox-secret"));
    engine.sends_junk(b"secret");
    from.run(&["record", "-q", "-H", &engine.host(), "--until", "now"]).succeeded();
    into.run(&["import", "-q", "--redact", "secret", from.db().to_str().unwrap()]).succeeded();
    let all = fs::read(into.db()).unwrap();
    assert!(!all.windows(6).any(|bytes| bytes == b"secret"));
    assert_eq!(into.lines(&["query", "-q"]).len(), 1);
    head(&into);
}

#[test]
fn wrong_words() {
    let folder = machine(FIRST, 0..2);
    let path = folder.db().display().to_string();
    let line = "--source names what comes from files; a store has names of its own (hint: leave out --source, or import the \
                store by itself)";
    folder.run(&["import", "--db", "new.db", "--source", "x", &path]).failed(2, line);
    let line = format!("cannot import {path} into itself (hint: name another store with --db)");
    folder.run(&["import", &path]).failed(1, &line);
    let other = rusqlite::Connection::open(folder.path("other.db")).unwrap();
    other.execute_batch("CREATE TABLE x (y)").unwrap();
    let ran = folder.run(&["import", "other.db"]).exited(1);
    assert!(
        ran.stderr.starts_with("events: cannot open other.db: it is the database of another program"),
        "{}",
        ran.stderr
    );
    assert!(!crate::support::command::exists(&folder.path("new.db")));
}
