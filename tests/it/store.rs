//! The file of the store: indexes, locks of other programs, and readers.

use std::path::Path;

use crate::support::engine::{event, event_time, events, start_engine};
use crate::support::fixture;
use events::store::{Reader, Store};
use rusqlite::Connection;

#[test]
fn queries_use_an_index_where_one_applies() {
    let test_dir = fixture::recorded_store(&fixture::lines("docker-28.5.2.ndjson"));
    let explain = |args: &[&str]| test_dir.lines(&[&["query", "-q", "--explain"], args].concat()).join("\n");
    for (args, rows) in [
        (&[][..], "rows: all rows of each block"),
        (&["--type", "container", "--action", "start"], "rows: by index, 1 event kinds"),
        (&["--type", "image"], "rows: by index,"),
        // The event kinds of health checks, three quarters of all events, are in no index.
        (&["--action", "exec_create"], "rows: all rows of each block"),
        (&["--container", "web"], "rows: by index,"),
        (&["--image", "acme/webhook"], "rows: by index,"),
        (&["--label", "app=web"], "rows: by index,"),
        (&["--label", "exitCode=137"], "rows: all rows of each block"),
        (&["--container", "nobody"], "rows: by index, 0 actors"),
        (&["--since", "1", "--until", "2"], "blocks: 0 read, 1 skipped"),
        (&["--action", "nothing"], "rows: by index, 0 event kinds"),
    ] {
        let plan = explain(args);
        assert!(plan.contains(rows), "{args:?}: {plan}");
        assert!(!plan.contains("SCAN"), "{args:?}: {plan}");
    }
}

/// Takes the write lock of a file; dropping the connection releases it.
fn lock(path: &Path) -> Connection {
    let other = Connection::open(path).unwrap();
    other.execute_batch("PRAGMA busy_timeout = 20000; BEGIN EXCLUSIVE").unwrap();
    other
}

#[test]
fn a_write_lock_of_another_program_blocks_no_reader_and_loses_nothing() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(&["query"], &events(0..1));

    let lock = lock(&test_dir.db());
    events(1..100).iter().for_each(|event| engine.emit(event));
    let status = test_dir.eventually("events are waiting", || {
        let status = test_dir.json(&["status", "--json"]).remove(0);
        if status["recorder"]["buffered"].as_u64() > Some(0) { Ok(status) } else { Err(status) }
    });
    assert_eq!(status["recorder"]["running"], true);
    assert_eq!(status["sources"][0]["connected"], true);
    assert_eq!(test_dir.lines(&["query"]), events(0..1));
    drop(lock);
    test_dir.eventually_lines(&["query"], &events(0..100));
    recorder.stop();
}

/// How much is lost depends on how much the recorder reads at a time; a small loss is still in the backlog and healed.
#[test]
fn a_full_buffer_loses_no_event_outside_a_gap() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--buffer", "20kB", "--look-again", "100ms"]);
    engine.emit(&event(0));
    test_dir.eventually_lines(&["query"], &events(0..1));
    let lock = lock(&test_dir.db());
    events(1..1000).iter().for_each(|event| engine.emit(event));
    recorder.eventually_logs("the buffer is full");
    drop(lock);
    test_dir.eventually("each event is stored or in a gap, and no gap is empty", || {
        let stored = test_dir.run(&["query"]).lines();
        let lost: Vec<String> = (0..1000).filter(|n| !stored.contains(&event(*n))).map(event_time).collect();
        let gaps = test_dir.json(&["gaps"]);
        let is_inside = |gap: &serde_json::Value, time: &str| {
            gap["from"].as_str().is_some_and(|from| from < time) && gap["to"].as_str().is_some_and(|to| time < to)
        };
        let holds = stored.last() == Some(&event(999))
            && lost.iter().all(|time| gaps.iter().any(|gap| is_inside(gap, time)))
            && gaps[1..].iter().all(|gap| lost.iter().any(|time| is_inside(gap, time)));
        if holds { Ok(()) } else { Err((stored.len(), lost.len(), gaps)) }
    });
    recorder.stop();
}

#[test]
fn the_file_is_intact_and_has_an_application_id() {
    let test_dir = fixture::recorded_store(&fixture::lines("docker-28.5.2.ndjson"));
    let db = Connection::open(test_dir.db()).unwrap();
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
    let (test_dir, engine) = start_engine();
    std::fs::write(test_dir.db(), "").unwrap();
    engine.emit(&event(0));
    test_dir.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).assert_success();
    assert_eq!(test_dir.lines(&["query"]), events(0..1));
}

/// Opening a reader in the writer's process must not release the writer's lock. Otherwise another program that closes
/// the file would act as its last user and remove the WAL.
#[test]
fn a_reader_in_the_writers_process_releases_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let store = Store::open_or_create(&path).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let is_locked = || std::fs::read_to_string("/proc/locks").unwrap().contains(&format!(":{inode} "));
    assert!(is_locked());
    drop(Reader::open(&path).unwrap());
    Store::prepare(&path).unwrap();
    assert!(is_locked(), "the writer has lost its lock");
    drop(store);
    assert!(!is_locked());
}
