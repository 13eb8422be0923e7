//! The file: how it is found by, what other programs may do with it, and what a reader sees.

use std::path::Path;

use crate::support::command::Folder;
use crate::support::engine::{Engine, event, events};
use crate::support::fixture;
use events::store::{Reader, Store};
use rusqlite::Connection;

#[test]
fn what_can_be_found_by_an_index_is() {
    let folder = fixture::recorded(&fixture::lines("docker-28.5.2.ndjson"));
    let explain = |words: &[&str]| folder.lines(&[&["query", "-q", "--explain"], words].concat()).join("\n");
    for (words, rows) in [
        (&[][..], "rows: all rows of each stretch"),
        (&["--type", "container", "--action", "start"], "rows: by the index of 1 shapes"),
        (&["--type", "image"], "rows: by the index of"),
        // The health checks' shapes are in no index: three quarters of all.
        (&["--action", "exec_create"], "rows: all rows of each stretch"),
        (&["--container", "web"], "rows: by the index of"),
        (&["--image", "acme/webhook"], "rows: by the index of"),
        (&["--label", "app=web"], "rows: by the index of"),
        (&["--label", "exitCode=137"], "rows: all rows of each stretch"),
        (&["--container", "nobody"], "rows: by the index of 0 actors"),
        (&["--since", "1", "--until", "2"], "stretches: 0 are read, 1 passed over"),
        (&["--action", "nothing"], "rows: by the index of 0 shapes"),
    ] {
        let plan = explain(words);
        assert!(plan.contains(rows), "{words:?}: {plan}");
        assert!(!plan.contains("SCAN"), "{words:?}: {plan}");
    }
}

/// Takes the write lock of a file, and lets go of it when dropped.
fn locked(path: &Path) -> Connection {
    let other = Connection::open(path).unwrap();
    other.execute_batch("PRAGMA busy_timeout = 20000; BEGIN EXCLUSIVE").unwrap();
    other
}

#[test]
fn readers_answer_while_another_program_holds_the_write_lock_and_nothing_is_lost() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(&["query"], &events(0..1));

    let lock = locked(&folder.db());
    events(1..100).iter().for_each(|event| engine.happens(event));
    let status = folder.eventually("events are waiting", || {
        let status = folder.json(&["status", "--json"]).remove(0);
        if status["recorder"]["buffered"].as_u64() > Some(0) { Ok(status) } else { Err(status) }
    });
    assert_eq!(status["recorder"]["running"], true);
    assert_eq!(status["sources"][0]["connected"], true);
    assert_eq!(folder.lines(&["query"]), events(0..1));
    drop(lock);
    folder.eventually_lines(&["query"], &events(0..100));
    recorder.stop();
}

#[test]
fn a_full_buffer_is_a_gap_or_healed_and_never_silence() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let recorder = folder.record(&engine.host(), &["--buffer", "20kB"]);
    engine.happens(&event(0));
    folder.eventually_lines(&["query"], &events(0..1));
    let lock = locked(&folder.db());
    events(1..1000).iter().for_each(|event| engine.happens(event));
    folder.eventually("the buffer is full", || {
        if recorder.log().contains("the buffer is full") { Ok(()) } else { Err(recorder.log()) }
    });
    drop(lock);
    let last = event(999);
    folder.eventually("the newest event is stored", || {
        let lines = folder.run(&["query", "--last", "1"]).lines();
        if lines == [last.clone()] { Ok(()) } else { Err(lines) }
    });
    recorder.stop();
    let stored = folder.run(&["query"]).lines();
    let gaps = folder.json(&["gaps"]);
    // All that was let go lies within the one gap.
    let at = stored.iter().zip(events(0..1000)).position(|(a, b)| *a != b).expect("some were let go");
    let resumed = events(0..1000).iter().position(|event| *event == stored[at]).expect("it is one of them");
    assert_eq!(stored[at..], events(resumed as u64..1000));
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert_eq!(gaps[1]["reason"], "buffer-full");
    assert_eq!(gaps[1]["from"], crate::support::engine::instant(at as u64 - 1));
    assert_eq!(gaps[1]["to"], crate::support::engine::instant(resumed as u64));
}

#[test]
fn the_file_is_whole_and_says_whose_it_is() {
    let folder = fixture::recorded(&fixture::lines("docker-28.5.2.ndjson"));
    let db = Connection::open(folder.db()).unwrap();
    let pragma = |name: &str| -> String {
        db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| match value {
                rusqlite::types::Value::Text(text) => text,
                rusqlite::types::Value::Integer(number) => number.to_string(),
                other => format!("{other:?}"),
            })
            .unwrap()
    };
    assert_eq!(pragma("integrity_check"), "ok");
    assert_eq!(pragma("journal_mode"), "wal");
    assert_eq!(pragma("application_id"), u32::from_be_bytes(*b"EVNT").to_string());
    assert_ne!(pragma("user_version"), "0");
}

#[test]
fn an_empty_file_becomes_a_store() {
    let folder = Folder::new();
    std::fs::write(folder.db(), "").unwrap();
    let engine = Engine::start(folder.path("docker.sock"));
    engine.happens(&event(0));
    folder.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).succeeded();
    assert_eq!(folder.lines(&["query"]), events(0..1));
}

/// A reader in the writer's own process must not cost the writer its lock: another program that closes the file would
/// take itself for the last one, and remove the WAL.
#[test]
fn a_reader_in_the_same_process_takes_no_lock_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.db");
    let store = Store::open_or_create(&path).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let locked = || std::fs::read_to_string("/proc/locks").unwrap().contains(&format!(":{inode} "));
    assert!(locked());
    drop(Reader::open(&path).unwrap());
    Store::prepare(&path).unwrap();
    assert!(locked(), "the writer has lost its lock");
    drop(store);
    assert!(!locked());
}
