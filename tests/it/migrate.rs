//! A store of an older schema becomes one of the newest with all that is in it, or stays as it is.

use std::fs;

use crate::support::command::Folder;
use crate::support::fixture;

/// A folder whose store is a copy of one of schema 1: a session of Docker 28.5.2 with a gap of eight events, and one
/// line that was none.
fn of_schema_1() -> Folder {
    let folder = Folder::new();
    fs::copy(fixture::path("stores/schema-1.db"), folder.db()).unwrap();
    folder
}

fn expected() -> Vec<String> {
    let lines = fixture::lines("docker-28.5.2.ndjson");
    fixture::by_time(&[&lines[..200], &lines[208..]].concat())
}

#[test]
fn whoever_writes_first_brings_everything_along() {
    let folder = of_schema_1();
    let ran = folder.run(&["import", "-q"]).succeeded();
    assert!(ran.stdout.is_empty());
    assert_eq!(folder.lines(&["query", "-q"]), expected());
    let envelopes = folder.json(&["query", "-q", "--envelope"]);
    assert!(
        envelopes
            .iter()
            .all(|line| line["source"] == "engine" && line["received"].as_str().unwrap().starts_with("2026-"))
    );
    let gaps = folder.json(&["gaps"]);
    assert_eq!(
        gaps.iter().map(|gap| gap["reason"].as_str().unwrap()).collect::<Vec<_>>(),
        ["first-contact", "engine-restart"]
    );
    assert_eq!(gaps[1]["from"], "2026-11-24T15:53:58.666126013Z");
    let rejected = folder.json(&["rejected"]);
    assert_eq!((rejected.len(), rejected[0]["bytes"].as_str().unwrap()), (1, "bm8gZXZlbnQ="));
    let status = &folder.json(&["status", "--json"])[0]["sources"][0];
    assert_eq!(
        (status["events"].as_u64(), status["gaps"].as_u64(), status["rejected"].as_u64()),
        (Some(240), Some(1), Some(1))
    );
}

#[test]
fn a_reader_says_what_to_do() {
    let folder = of_schema_1();
    let before = fs::read(folder.db()).unwrap();
    let line = format!(
        "cannot read {}: its schema is version 1, this program reads version 5 (hint: `events record` brings it to the newest version)",
        folder.db().display()
    );
    folder.run(&["query"]).failed(1, &line);
    assert_eq!(fs::read(folder.db()).unwrap(), before);
}

#[test]
fn a_migration_that_fails_in_the_middle_leaves_the_old_file_whole() {
    let folder = of_schema_1();
    let count = |folder: &Folder| {
        let db = rusqlite::Connection::open(folder.db()).unwrap();
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        let events: i64 = db.query_row("SELECT count(*) FROM event WHERE raw <> ''", [], |row| row.get(0)).unwrap();
        (version, events)
    };
    let db = rusqlite::Connection::open(folder.db()).unwrap();
    db.execute("UPDATE event SET raw = 'no event' WHERE seq = 200", []).unwrap();
    drop(db);
    let ran = folder.run(&["import", "-q"]).exited(1);
    assert!(ran.stderr.contains("cannot bring"), "{}", ran.stderr);
    assert_eq!(count(&folder), (1, 240));
}

/// Schema 3: the same session, recorded and imported. Its chain goes on.
#[test]
fn a_store_of_schema_3_is_brought_along_with_its_chain() {
    let folder = Folder::new();
    fs::copy(fixture::path("stores/schema-3.db"), folder.db()).unwrap();
    let ran = folder.run(&["query"]).exited(1);
    assert!(ran.stderr.contains("its schema is version 3, this program reads version 5"), "{}", ran.stderr);
    folder.run(&["import", "-q"]).succeeded();
    let mut lines = fixture::lines("docker-28.5.2.ndjson");
    lines.extend_from_slice(&fixture::lines("docker-26.1.5.ndjson")[..60]);
    lines.sort_by_key(|line| line.rsplit_once(':').unwrap().1.trim_end_matches('}').parse::<i64>().unwrap());
    assert_eq!(folder.lines(&["query", "-q"]), lines);
    let noted = "312:1d42354acdddddc48bd0967f32d1ebde012f774aab81dbb95c8acb91d604d78f";
    folder.run(&["verify", "-q", "--head", noted]).succeeded();
    // How its containers check their health was not asked then.
    let ran = folder.run(&["query", "--no-healthchecks", "--source", "engine"]).exited(0);
    assert_eq!(ran.lines().len(), 248);
    assert!(ran.stderr.contains("their configuration was never seen"), "{}", ran.stderr);
}

/// Schema 4: a day of Docker 26.1.5 was imported and pruned, one of 28.5.2 imported, and an engine recorded without its
/// health checks. The words of what was pruned stand in the file until it is swept.
#[test]
fn a_store_of_schema_4_is_brought_along_and_swept() {
    let folder = Folder::new();
    fs::copy(fixture::path("stores/schema-4.db"), folder.db()).unwrap();
    let has = |word: &str| fs::read(folder.db()).unwrap().windows(word.len()).any(|bytes| bytes == word.as_bytes());
    assert!(has("svc-one.1.vomonevy0xxcl3gy78vkcuwzz"));
    let ran = folder.run(&["query"]).exited(1);
    assert!(ran.stderr.contains("its schema is version 4, this program reads version 5"), "{}", ran.stderr);
    folder.run(&["prune", "-q", "--retain", "876000h"]).succeeded();
    assert!(!has("svc-one.1.vomonevy0xxcl3gy78vkcuwzz"));
    assert_eq!(
        folder.lines(&["query", "-q", "--source", "imported"]),
        fixture::by_time(&fixture::lines("docker-28.5.2.ndjson"))
    );
    let ran = folder.run(&["query", "--no-healthchecks", "--source", "vm"]).exited(0);
    assert_eq!((ran.lines().len(), ran.stderr.contains("never seen")), (13, false), "{}", ran.stderr);
    assert_eq!(folder.json(&["status", "--json"])[0]["db"]["pruned"]["events"], 245);
    let noted = "512:af04d5e9cf7e9b530d34e7a9d61c5bd0ad0bd2c335ec4761fb6f1bf60f4a0bdb";
    folder.run(&["verify", "-q", "--head", noted]).succeeded();
}
