//! `verify` succeeds on an unchanged store and names each change.

use std::fs;
use std::path::Path;

use crate::support::command::{Output, TestDir};
use crate::support::engine::Engine;
use crate::support::fixture;
use rusqlite::Connection;
use rusqlite::types::Value;
use serde_json::json;

/// A line that is stored verbatim, and one that is encoded.
const ODD: &str = r#"{"time":1795535700,"Type":"container","Action":"od\u0064","Actor":{"ID":"cafe","Attributes":{"name":"odd","image":"busybox"}},"scope":"local"}"#;
const EVEN: &str = r#"{"status":"start","id":"f00d","from":"busybox","Type":"container","Action":"start","Actor":{"ID":"f00d","Attributes":{"image":"busybox","name":"even"}},"scope":"local","time":1795535701,"timeNano":1795535701000000001}"#;

/// Returns a store with events of an engine and of an import, in every encoding, with gaps and rejected lines.
fn sample_store() -> TestDir {
    let test_dir = TestDir::new();
    fs::copy(fixture::path("stores/schema-1.db"), test_dir.db()).unwrap();
    let mut text = format!("{ODD}\n{EVEN}\nno event\n");
    fixture::lines("docker-26.1.5.ndjson").iter().take(60).for_each(|line| text += &format!("{line}\n"));
    import(&test_dir, &text).assert_success();
    test_dir
}

/// The sample store with health checks of two containers; the command of one contains a redacted secret.
fn store_with_healthchecks() -> TestDir {
    let test_dir = sample_store();
    let engine = Engine::start(test_dir.path("docker.sock"));
    for (at, (id, check)) in
        [("aaaa", "/bin/true"), ("bbbb", "/bin/login s3cret"), ("cccc", "")].into_iter().enumerate()
    {
        let healthcheck = json!({"Test": ["CMD-SHELL", check]});
        let config = if check.is_empty() { json!({}) } else { json!({"Healthcheck": healthcheck}) };
        engine.set_response(&format!("/containers/{id}/json"), &json!({"Config": config}).to_string());
        let command = format!(": /bin/sh -c {check}");
        for (nano, (action, command)) in
            [("exec_create", &*command), ("exec_start", &command), ("exec_die", "")].into_iter().enumerate()
        {
            engine.emit(&format!(
                r#"{{"Type":"container","Action":"{action}{command}","Actor":{{"ID":"{id}","Attributes":{{"execID":"{at:064x}","name":"{id}"}}}},"scope":"local","time":1795535800,"timeNano":17955358000000{at}{nano:04}}}"#
            ));
        }
    }
    test_dir
        .run(&["record", "-q", "-H", &engine.host(), "--until", "now", "--redact", "s[0-9]cret"])
        .assert_exit_code(0);
    assert_eq!(test_dir.lines(&["query", "-q", "--no-healthchecks", "--source", "sim"]).len(), 3);
    test_dir
}

/// Imports lines from a text.
fn import(test_dir: &TestDir, text: &str) -> Output {
    fs::write(test_dir.path("text.ndjson"), text).unwrap();
    test_dir.run(&["import", "-q", "text.ndjson"])
}

/// Returns the faults that `verify` prints after this change of the store.
fn faults(test_dir: &TestDir, sql: &str) -> Vec<String> {
    Connection::open(test_dir.db()).unwrap().execute_batch(sql).unwrap();
    let output = test_dir.run(&["verify"]).assert_exit_code(1);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(lines.pop().unwrap().starts_with("head "), "{text}");
    let number = format!("failed verification; faults: {}", lines.len());
    assert!(output.stderr.contains(&number), "{}{text}", output.stderr);
    lines
}

fn count(test_dir: &TestDir, sql: &str) -> i64 {
    Connection::open(test_dir.db()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn an_unchanged_store_verifies() {
    let test_dir = TestDir::new();
    import(&test_dir, "").assert_success();
    assert_eq!(test_dir.verify(&[]), format!("0:{}", "0".repeat(64)));
    let test_dir = sample_store();
    let first = test_dir.verify(&[]);
    assert_eq!(test_dir.verify(&["--head", &first]), first);
    test_dir.run(&["import", "-q", &fixture::path("docker-28.5.2.ndjson").display().to_string()]).assert_success();
    let second = test_dir.verify(&["--head", &first, "--head", &format!("0:{}", "0".repeat(64))]);
    assert_ne!(first, second);
    assert_eq!(test_dir.verify(&["--head", &first, "--head", &second]), second);
}

#[test]
fn a_removed_tail_is_found_by_an_earlier_head() {
    let test_dir = sample_store();
    let earlier_head = test_dir.verify(&[]);
    let seq: i64 = earlier_head.split(':').next().unwrap().parse().unwrap();
    // Someone who knows the format of the chain can remove everything after a link.
    let cut = seq / 64 * 64;
    let db = Connection::open(test_dir.db()).unwrap();
    for table in ["event", "rejected", "gap", "naming", "link"] {
        db.execute(&format!("DELETE FROM {table} WHERE seq > ?1"), [cut]).unwrap();
    }
    db.execute_batch("DELETE FROM stretch").unwrap();
    let (first, last, events, min, max): (i64, i64, i64, i64, i64) = db
        .query_row("SELECT min(seq), max(seq), count(*), min(time_nano), max(time_nano) FROM event", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .unwrap();
    db.execute("INSERT INTO stretch VALUES (?1, ?2, ?3, ?4, ?5, NULL)", [first, last, events, min, max]).unwrap();
    db.execute_batch(
        "DELETE FROM source WHERE id NOT IN (SELECT source FROM naming);
         UPDATE source SET (events, first_nano, last_nano) = (SELECT count(*), min(time_nano), max(time_nano)
             FROM event JOIN actor ON actor.id = event.actor WHERE actor.source = source.id)",
    )
    .unwrap();
    drop(db);
    assert!(test_dir.verify(&[]).starts_with(&format!("{cut}:")));
    let output = test_dir.run(&["verify", "--head", &earlier_head]).assert_exit_code(1);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("the chain does not reach the head {earlier_head}")), "{text}");
}

#[test]
fn a_head_of_another_chain_is_rejected() {
    let test_dir = sample_store();
    let earlier_head = test_dir.verify(&[]);
    let other = earlier_head.replace(['1', '2', '3'], "4").replacen(earlier_head.split(':').next().unwrap(), "70", 1);
    let other = format!("70:{}", other.split(':').nth(1).unwrap());
    let output = test_dir.run(&["verify", "--head", &other]).assert_exit_code(1);
    assert!(String::from_utf8(output.stdout).unwrap().contains(&format!("the head {other} is not part of the chain")));
    let (shorter, longer) = (&earlier_head[..earlier_head.len() - 1], earlier_head.to_uppercase().replace(':', ":A"));
    for wrong in ["", "1", "1:", "x:00", shorter, &longer, "-1:00"] {
        let output = test_dir.run(&["verify", "--head", wrong]).assert_exit_code(2);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    }
}

#[test]
fn each_change_is_named() {
    // A changed event: `verify` names the entries up to the next link.
    let test_dir = sample_store();
    let of = "(SELECT seq FROM event WHERE shape IN (SELECT id FROM shape WHERE action = 'start') LIMIT 1)";
    let seq = count(&test_dir, &format!("SELECT {of}"));
    let named = faults(&test_dir, &format!("UPDATE event SET time_nano = time_nano + 1000 WHERE seq = {seq}"));
    let (first, last) = (seq / 64 * 64 + 1, seq / 64 * 64 + 64);
    assert_eq!(named, [format!("one of the sequences {first} to {last} was changed")]);
    // Removed events.
    assert_eq!(faults(&sample_store(), "DELETE FROM event WHERE seq = 100")[0], "sequence 100 is missing");
    let delete = "DELETE FROM event WHERE seq BETWEEN 60 AND 70";
    assert_eq!(faults(&sample_store(), delete)[0], "sequences 60 to 64 are missing");
    // An inserted event.
    let insert = "INSERT INTO event SELECT 100000, time_nano, 0, shape, actor, NULL, NULL, NULL, NULL, NULL FROM event WHERE seq = 3";
    assert_eq!(faults(&sample_store(), insert)[0], "event 100000: the row is not in the chain: it was inserted");
    // Two swapped events.
    let swap = "UPDATE event SET seq = -1 WHERE seq = 80; UPDATE event SET seq = 80 WHERE seq = 90; UPDATE event SET seq = 90 WHERE seq = -1";
    assert_eq!(faults(&sample_store(), swap)[0], "one of the sequences 65 to 128 was changed");
    // The chain itself.
    let link = "UPDATE link SET hash = zeroblob(32) WHERE seq = 128";
    assert_eq!(faults(&sample_store(), link), ["link 128: the link was changed"]);
    assert_eq!(faults(&sample_store(), "UPDATE source SET name = 'other' WHERE engine_id IS NOT NULL").len(), 1);
    let trigger = "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM event WHERE seq = 1; END";
    assert_eq!(faults(&sample_store(), trigger), ["the trigger t on event was added"]);
    let view = "DROP VIEW gaps; CREATE VIEW gaps AS SELECT 1 AS seq, '' AS source, 0 AS from_nano, 0 AS to_nano, '' AS reason, '' AS detail";
    assert_eq!(faults(&sample_store(), view), ["the view gaps was changed"]);
    // An index that leaves out a row, so that a query by it does not find the event.
    let index = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = sql || ' WHERE seq <> 80' WHERE name = 'event_by_actor'";
    assert!(!faults(&sample_store(), index).is_empty());
}

#[test]
fn tables_of_other_programs_are_accepted() {
    let test_dir = sample_store();
    let db = Connection::open(test_dir.db()).unwrap();
    db.execute_batch(
        "CREATE TABLE note (text TEXT); CREATE VIEW dies AS SELECT * FROM events; CREATE INDEX own ON actor (source)",
    )
    .unwrap();
    test_dir.verify(&[]);
}

/// `verify` covers the entries that the store had when it started.
#[test]
fn a_store_verifies_while_it_is_written() {
    let test_dir = TestDir::new();
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let mut text = String::new();
    for round in 0..200 {
        for line in &lines {
            // Another time makes it another event.
            text += &line.replace("\"timeNano\":17955", &format!("\"timeNano\":{}", 17955 - round));
            text += "\n";
        }
    }
    import(&test_dir, &text[..text.len() / 50]).assert_success();
    fs::write(test_dir.path("all.ndjson"), &text).unwrap();
    let import = test_dir.start(&["import", "-q", "all.ndjson"]);
    let mut heads = Vec::new();
    let all = (lines.len() * 200) as i64;
    while count(&test_dir, "SELECT count(*) FROM event") < all {
        heads.push(test_dir.verify(&[]));
    }
    import.wait().assert_success();
    assert!(!heads.is_empty());
    let args: Vec<&str> = heads.iter().flat_map(|head| ["--head", head]).collect();
    test_dir.verify(&args);
}

/// Returns the exit status and output of several `query` commands, `gaps` and `rejected`.
fn outputs(test_dir: &TestDir) -> Vec<Vec<u8>> {
    let commands: [&[&str]; 11] = [
        &["query", "-q", "--envelope"],
        &["query", "-q", "--no-healthchecks"],
        &["query", "-q", "--envelope", "--source", "imported"],
        &["query", "-q", "--type", "container", "--action", "start"],
        &["query", "-q", "--action", "exec_start"],
        &["query", "-q", "--container", "even", "--container", "odd", "--container", "web"],
        &["query", "-q", "--label", "image=busybox"],
        &["query", "-q", "--label", "exitCode"],
        &["query", "-q", "--since", "2026-11-24T15:53:40Z", "--until", "2026-11-24T15:53:55Z"],
        &["gaps"],
        &["rejected"],
    ];
    commands
        .iter()
        .map(|args| {
            let output = test_dir.run(args);
            [&[u8::from(output.status.success())], &output.stdout[..]].concat()
        })
        .collect()
}

/// In some rows of every table, each value is changed, and each row is removed and duplicated. If the change is visible
/// in the output of other commands, `verify` must fail.
#[test]
fn every_visible_change_makes_verify_fail() {
    let test_dir = store_with_healthchecks();
    let before = outputs(&test_dir);
    let db = Connection::open(test_dir.db()).unwrap();
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let changes = changes(&db);
    drop(db);
    assert!(changes.len() > 300, "{}", changes.len());
    let halves = changes.split_at(changes.len() / 2);
    let visible: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = [halves.0, halves.1]
            .into_iter()
            .map(|changes| {
                scope.spawn(|| changes.iter().filter(|change| is_visible(&test_dir.db(), &before, change)).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Enough changes must be visible, or the test shows nothing.
    assert!(visible > changes.len() / 3, "{visible} of {}", changes.len());
}

/// Returns true if a change is visible; checks that `verify` fails then.
fn is_visible(store: &Path, before: &[Vec<u8>], change: &str) -> bool {
    let test_dir = TestDir::new();
    fs::copy(store, test_dir.db()).unwrap();
    let db = Connection::open(test_dir.db()).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    // A constraint of the schema may forbid the change.
    if db.execute_batch(change).is_err() {
        return false;
    }
    drop(db);
    let is_visible = outputs(&test_dir) != before;
    if is_visible {
        let output = test_dir.run(&["verify"]);
        assert_eq!(output.status.code(), Some(1), "{change} is visible, but verify succeeds");
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty());
    }
    is_visible
}

/// Returns statements that make one change each.
fn changes(db: &Connection) -> Vec<String> {
    let text = |sql: &str| -> Vec<String> {
        db.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let mut changes = Vec::new();
    for table in text("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1") {
        let columns = text(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid"));
        let rows: Vec<i64> = {
            let mut rows = db.prepare(&format!("SELECT rowid FROM {table} ORDER BY 1")).unwrap();
            rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        for row in rows.iter().step_by(rows.len().div_ceil(4).max(1)) {
            changes.push(format!("DELETE FROM {table} WHERE rowid = {row}"));
            let others: Vec<String> = columns.iter().skip(1).cloned().collect();
            let key = &columns[0];
            changes.push(format!(
                "INSERT INTO {table} ({key}, {others}) SELECT 100000, {others} FROM {table} WHERE rowid = {row}",
                others = others.join(", ")
            ));
            for column in &columns {
                let value: Value = db
                    .query_row(&format!("SELECT {column} FROM {table} WHERE rowid = {row}"), [], |row| row.get(0))
                    .unwrap();
                let to: &[&str] = match value {
                    Value::Null => &["1", "'x'", "''", "x'00'"],
                    Value::Integer(_) => &["{} + 1", "NULL", "-{}"],
                    Value::Text(_) => &["{} || 'x'", "NULL", "''", "upper({})"],
                    Value::Blob(_) => &["zeroblob(length({}))", "NULL", "x''", "'x'"],
                    Value::Real(_) => &["NULL"],
                };
                for to in to {
                    changes.push(format!(
                        "UPDATE {table} SET {column} = {} WHERE rowid = {row}",
                        to.replace("{}", column)
                    ));
                }
            }
        }
    }
    changes
}
