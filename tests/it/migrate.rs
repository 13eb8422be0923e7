//! Migrations: a store of an older schema becomes one of the newest with all its contents, or stays unchanged.

use std::fs;

use crate::support::command::TestDir;
use crate::support::fixture;

/// Returns a directory with a store of schema 1: a recording of Docker 28.5.2 with a gap of eight events and one rejected
/// line.
fn schema_1_store() -> TestDir {
    let test_dir = TestDir::new();
    fs::copy(fixture::path("stores/schema-1.db"), test_dir.db()).unwrap();
    test_dir
}

fn expected() -> Vec<String> {
    let lines = fixture::lines("docker-28.5.2.ndjson");
    fixture::sorted_by_time(&[&lines[..200], &lines[208..]].concat())
}

#[test]
fn the_first_writer_migrates_everything() {
    let test_dir = schema_1_store();
    let output = test_dir.run(&["import", "-q"]).assert_success();
    assert!(output.stdout.is_empty());
    assert_eq!(test_dir.lines(&["query", "-q"]), expected());
    let envelopes = test_dir.json(&["query", "-q", "--envelope"]);
    assert!(
        envelopes
            .iter()
            .all(|line| line["source"] == "engine" && line["received"].as_str().unwrap().starts_with("2026-"))
    );
    let gaps = test_dir.json(&["gaps"]);
    assert_eq!(test_dir.gap_reasons(), ["first-contact", "engine-restart"]);
    assert_eq!(gaps[1]["from"], "2026-11-24T15:53:58.666126013Z");
    let rejected = test_dir.json(&["rejected"]);
    assert_eq!((rejected.len(), rejected[0]["bytes"].as_str().unwrap()), (1, "bm8gZXZlbnQ="));
    let status = &test_dir.json(&["status", "--json"])[0]["sources"][0];
    assert_eq!(
        (status["events"].as_u64(), status["gaps"].as_u64(), status["rejected"].as_u64()),
        (Some(240), Some(1), Some(1))
    );
}

#[test]
fn a_reader_refuses_an_older_schema_with_a_hint() {
    let test_dir = schema_1_store();
    let before = fs::read(test_dir.db()).unwrap();
    let line = format!(
        "cannot read {}: its schema version is 1, and this program reads version 5 (hint: run `events record` to migrate the file)",
        test_dir.db().display()
    );
    test_dir.run(&["query"]).assert_failure(1, &line);
    assert_eq!(fs::read(test_dir.db()).unwrap(), before);
}

#[test]
fn a_migration_that_fails_midway_leaves_the_old_file_intact() {
    let test_dir = schema_1_store();
    let count = |test_dir: &TestDir| {
        let db = rusqlite::Connection::open(test_dir.db()).unwrap();
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        let events: i64 = db.query_row("SELECT count(*) FROM event WHERE raw <> ''", [], |row| row.get(0)).unwrap();
        (version, events)
    };
    let db = rusqlite::Connection::open(test_dir.db()).unwrap();
    db.execute("UPDATE event SET raw = 'no event' WHERE seq = 200", []).unwrap();
    drop(db);
    let output = test_dir.run(&["import", "-q"]).assert_exit_code(1);
    assert!(output.stderr.contains("cannot migrate"), "{}", output.stderr);
    assert_eq!(count(&test_dir), (1, 240));
}

/// Schema 3: the same recording, recorded and imported. Its hash chain continues.
#[test]
fn a_store_of_schema_3_is_migrated_with_its_chain() {
    let test_dir = TestDir::new();
    fs::copy(fixture::path("stores/schema-3.db"), test_dir.db()).unwrap();
    let output = test_dir.run(&["query"]).assert_exit_code(1);
    assert!(output.stderr.contains("its schema version is 3, and this program reads version 5"), "{}", output.stderr);
    test_dir.run(&["import", "-q"]).assert_success();
    let mut lines = fixture::lines("docker-28.5.2.ndjson");
    lines.extend_from_slice(&fixture::lines("docker-26.1.5.ndjson")[..60]);
    assert_eq!(test_dir.lines(&["query", "-q"]), fixture::sorted_by_time(&lines));
    let old_head = "312:1d42354acdddddc48bd0967f32d1ebde012f774aab81dbb95c8acb91d604d78f";
    test_dir.verify(&["--head", old_head]);
    // Schema 3 has no health checks of containers.
    let output = test_dir.run(&["query", "--no-healthchecks", "--source", "engine"]).assert_exit_code(0);
    assert_eq!(output.lines().len(), 248);
    assert!(output.stderr.contains("no configuration is stored"), "{}", output.stderr);
}

/// Schema 4: a day of Docker 26.1.5 was imported and pruned, a day of 28.5.2 was imported, and an engine was recorded
/// without health checks. The file contains strings of pruned events until garbage collection.
#[test]
fn a_store_of_schema_4_is_migrated_and_garbage_collected() {
    let test_dir = TestDir::new();
    fs::copy(fixture::path("stores/schema-4.db"), test_dir.db()).unwrap();
    let contains = |text: &str| {
        let file = fs::read(test_dir.db()).unwrap();
        file.windows(text.len()).any(|bytes| bytes == text.as_bytes())
    };
    assert!(contains("svc-one.1.vomonevy0xxcl3gy78vkcuwzz"));
    let output = test_dir.run(&["query"]).assert_exit_code(1);
    assert!(output.stderr.contains("its schema version is 4, and this program reads version 5"), "{}", output.stderr);
    test_dir.run(&["prune", "-q", "--retain", "876000h"]).assert_success();
    assert!(!contains("svc-one.1.vomonevy0xxcl3gy78vkcuwzz"));
    assert_eq!(
        test_dir.lines(&["query", "-q", "--source", "imported"]),
        fixture::sorted_by_time(&fixture::lines("docker-28.5.2.ndjson"))
    );
    let output = test_dir.run(&["query", "--no-healthchecks", "--source", "vm"]).assert_exit_code(0);
    assert_eq!(
        (output.lines().len(), output.stderr.contains("no configuration is stored")),
        (13, false),
        "{}",
        output.stderr
    );
    assert_eq!(test_dir.json(&["status", "--json"])[0]["db"]["pruned"]["events"], 245);
    let old_head = "512:af04d5e9cf7e9b530d34e7a9d61c5bd0ad0bd2c335ec4761fb6f1bf60f4a0bdb";
    test_dir.verify(&["--head", old_head]);
}
