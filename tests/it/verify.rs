//! What was stored is proven to be as it was stored; what was changed is named.

use std::fs;
use std::path::Path;

use crate::support::command::{Folder, Ran};
use crate::support::engine::Engine;
use crate::support::fixture;
use rusqlite::Connection;
use rusqlite::types::Value;
use serde_json::json;

/// A line whose form does not repeat what is kept elsewhere, and one that is put together.
const ODD: &str = r#"{"time":1795535700,"Type":"container","Action":"od\u0064","Actor":{"ID":"cafe","Attributes":{"name":"odd","image":"busybox"}},"scope":"local"}"#;
const EVEN: &str = r#"{"status":"start","id":"f00d","from":"busybox","Type":"container","Action":"start","Actor":{"ID":"f00d","Attributes":{"image":"busybox","name":"even"}},"scope":"local","time":1795535701,"timeNano":1795535701000000001}"#;

/// A store with events of an engine and of an import, in every form, gaps and rejected lines.
fn store() -> Folder {
    let folder = Folder::new();
    fs::copy(fixture::path("stores/schema-1.db"), folder.db()).unwrap();
    let mut text = format!("{ODD}\n{EVEN}\nno event\n");
    fixture::lines("docker-26.1.5.ndjson").iter().take(60).for_each(|line| text += &format!("{line}\n"));
    import(&folder, &text).succeeded();
    folder
}

/// The same with health checks of two containers; what is secret in the command of one is taken out.
fn store_with_healthchecks() -> Folder {
    let folder = store();
    let engine = Engine::start(folder.path("docker.sock"));
    for (at, (id, check)) in
        [("aaaa", "/bin/true"), ("bbbb", "/bin/login s3cret"), ("cccc", "")].into_iter().enumerate()
    {
        let healthcheck = json!({"Test": ["CMD-SHELL", check]});
        let config = if check.is_empty() { json!({}) } else { json!({"Healthcheck": healthcheck}) };
        engine.shows(&format!("/containers/{id}/json"), &json!({"Config": config}).to_string());
        let command = format!(": /bin/sh -c {check}");
        for (nano, (action, command)) in
            [("exec_create", &*command), ("exec_start", &command), ("exec_die", "")].into_iter().enumerate()
        {
            engine.happens(&format!(
                r#"{{"Type":"container","Action":"{action}{command}","Actor":{{"ID":"{id}","Attributes":{{"execID":"{at:064x}","name":"{id}"}}}},"scope":"local","time":1795535800,"timeNano":17955358000000{at}{nano:04}}}"#
            ));
        }
    }
    folder.run(&["record", "-q", "-H", &engine.host(), "--until", "now", "--redact", "s[0-9]cret"]).exited(0);
    assert_eq!(folder.lines(&["query", "-q", "--no-healthchecks", "--source", "sim"]).len(), 3);
    folder
}

/// Imports a text.
fn import(folder: &Folder, text: &str) -> Ran {
    fs::write(folder.path("text.ndjson"), text).unwrap();
    folder.run(&["import", "-q", "text.ndjson"])
}

fn head(folder: &Folder, words: &[&str]) -> String {
    let ran = folder.run(&[&["verify", "-q"], words].concat()).succeeded();
    let text = String::from_utf8(ran.stdout).unwrap();
    let head = text.strip_prefix("head ").unwrap_or_else(|| panic!("{text}")).trim_end();
    let (seq, hash) = head.split_once(':').unwrap();
    assert!(seq.parse::<u64>().is_ok() && hash.len() == 64, "{head}");
    head.to_owned()
}

/// The faults that are named once this was done to the store.
fn faults(folder: &Folder, sql: &str) -> Vec<String> {
    Connection::open(folder.db()).unwrap().execute_batch(sql).unwrap();
    let ran = folder.run(&["verify"]).exited(1);
    let text = String::from_utf8(ran.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(lines.pop().unwrap().starts_with("head "), "{text}");
    let number = format!("is not as it was recorded: {} fault", lines.len());
    assert!(ran.stderr.contains(&number), "{}{text}", ran.stderr);
    lines
}

fn count(folder: &Folder, sql: &str) -> i64 {
    Connection::open(folder.db()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn what_was_stored_is_proven() {
    let folder = Folder::new();
    import(&folder, "").succeeded();
    assert_eq!(head(&folder, &[]), format!("0:{}", "0".repeat(64)));
    let folder = store();
    let first = head(&folder, &[]);
    assert_eq!(head(&folder, &["--head", &first]), first);
    folder.run(&["import", "-q", &fixture::path("docker-28.5.2.ndjson").display().to_string()]).succeeded();
    let second = head(&folder, &["--head", &first, "--head", &format!("0:{}", "0".repeat(64))]);
    assert_ne!(first, second);
    assert_eq!(head(&folder, &["--head", &first, "--head", &second]), second);
}

#[test]
fn a_tail_that_was_cut_off_is_found_by_a_head_noted_earlier() {
    let folder = store();
    let noted = head(&folder, &[]);
    let seq: i64 = noted.split(':').next().unwrap().parse().unwrap();
    // Whoever knows how the chain is made can cut it where a link stands.
    let cut = seq / 64 * 64;
    let db = Connection::open(folder.db()).unwrap();
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
    assert!(head(&folder, &[]).starts_with(&format!("{cut}:")));
    let ran = folder.run(&["verify", "--head", &noted]).exited(1);
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.starts_with(&format!("the chain does not reach the head {noted}")), "{text}");
}

#[test]
fn a_head_of_another_chain_is_none_of_this_one() {
    let folder = store();
    let noted = head(&folder, &[]);
    let other = noted.replace(['1', '2', '3'], "4").replacen(noted.split(':').next().unwrap(), "70", 1);
    let other = format!("70:{}", other.split(':').nth(1).unwrap());
    let ran = folder.run(&["verify", "--head", &other]).exited(1);
    assert!(String::from_utf8(ran.stdout).unwrap().contains(&format!("the head {other} is not part of the chain")));
    for wrong in ["", "1", "1:", "x:00", &noted[..noted.len() - 1], &noted.to_uppercase().replace(':', ":A"), "-1:00"] {
        let ran = folder.run(&["verify", "--head", wrong]).exited(2);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn what_was_changed_is_named() {
    // The few that share a link.
    let folder = store();
    let of = "(SELECT seq FROM event WHERE shape IN (SELECT id FROM shape WHERE action = 'start') LIMIT 1)";
    let seq = count(&folder, &format!("SELECT {of}"));
    let named = faults(&folder, &format!("UPDATE event SET time_nano = time_nano + 1000 WHERE seq = {seq}"));
    let (first, last) = (seq / 64 * 64 + 1, seq / 64 * 64 + 64);
    assert_eq!(named, [format!("one of the sequences {first} to {last} was changed")]);
    // What is not there any more.
    assert_eq!(faults(&store(), "DELETE FROM event WHERE seq = 100")[0], "sequence 100 is missing");
    assert_eq!(faults(&store(), "DELETE FROM event WHERE seq BETWEEN 60 AND 70")[0], "sequences 60 to 64 are missing");
    // What was put in.
    let insert = "INSERT INTO event SELECT 100000, time_nano, 0, shape, actor, NULL, NULL, NULL, NULL, NULL FROM event WHERE seq = 3";
    assert_eq!(faults(&store(), insert)[0], "event 100000: it is not in the chain: it was put in");
    // Two that changed places.
    let swap = "UPDATE event SET seq = -1 WHERE seq = 80; UPDATE event SET seq = 80 WHERE seq = 90; UPDATE event SET seq = 90 WHERE seq = -1";
    assert_eq!(faults(&store(), swap)[0], "one of the sequences 65 to 128 was changed");
    // The chain itself.
    assert_eq!(faults(&store(), "UPDATE link SET hash = zeroblob(32) WHERE seq = 128"), ["link 128: it was changed"]);
    assert_eq!(faults(&store(), "UPDATE source SET name = 'other' WHERE engine_id IS NOT NULL").len(), 1);
    let trigger = "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM event WHERE seq = 1; END";
    assert_eq!(faults(&store(), trigger), ["the trigger t on event was added"]);
    let view = "DROP VIEW gaps; CREATE VIEW gaps AS SELECT 1 AS seq, '' AS source, 0 AS from_nano, 0 AS to_nano, '' AS reason, '' AS detail";
    assert_eq!(faults(&store(), view), ["the view gaps was changed"]);
    // An index that leaves out a row, so that a query by it does not find the event.
    let index = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = sql || ' WHERE seq <> 80' WHERE name = 'event_by_actor'";
    assert!(!faults(&store(), index).is_empty());
}

#[test]
fn other_programs_may_add_what_is_their_own() {
    let folder = store();
    let db = Connection::open(folder.db()).unwrap();
    db.execute_batch(
        "CREATE TABLE note (text TEXT); CREATE VIEW dies AS SELECT * FROM events; CREATE INDEX own ON actor (source)",
    )
    .unwrap();
    head(&folder, &[]);
}

/// A store that grows while it is proven is proven as it stood at the beginning.
#[test]
fn it_is_proven_while_it_is_written() {
    let folder = Folder::new();
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let mut text = String::new();
    for round in 0..200 {
        for line in &lines {
            // Another instant makes it another event.
            text += &line.replace("\"timeNano\":17955", &format!("\"timeNano\":{}", 17955 - round));
            text += "\n";
        }
    }
    import(&folder, &text[..text.len() / 50]).succeeded();
    fs::write(folder.path("all.ndjson"), &text).unwrap();
    let import = folder.start(&["import", "-q", "all.ndjson"]);
    let mut heads = Vec::new();
    let all = (lines.len() * 200) as i64;
    while count(&folder, "SELECT count(*) FROM event") < all {
        heads.push(head(&folder, &[]));
    }
    import.ended().succeeded();
    assert!(!heads.is_empty());
    let noted: Vec<&str> = heads.iter().flat_map(|head| ["--head", head]).collect();
    head(&folder, &noted);
}

/// All that `query`, `gaps` and `rejected` print.
fn printed(folder: &Folder) -> Vec<Vec<u8>> {
    let asked: [&[&str]; 11] = [
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
    asked
        .iter()
        .map(|words| {
            let ran = folder.run(words);
            [&[u8::from(ran.status.success())], &ran.stdout[..]].concat()
        })
        .collect()
}

/// Each value of some rows of every table is changed, each such row removed and doubled: whatever shows makes `verify`
/// fail.
#[test]
fn no_change_that_shows_goes_unnoticed() {
    let folder = store_with_healthchecks();
    let before = printed(&folder);
    let db = Connection::open(folder.db()).unwrap();
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let changes = changes(&db);
    drop(db);
    assert!(changes.len() > 500, "{}", changes.len());
    let halves = changes.split_at(changes.len() / 2);
    let shown: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = [halves.0, halves.1]
            .into_iter()
            .map(|changes| scope.spawn(|| changes.iter().filter(|change| shows(&folder.db(), &before, change)).count()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    // Most do show: or this would prove nothing.
    assert!(shown > changes.len() / 3, "{shown} of {}", changes.len());
}

/// Whether a change shows; then `verify` fails too.
fn shows(store: &Path, before: &[Vec<u8>], change: &str) -> bool {
    let folder = Folder::new();
    fs::copy(store, folder.db()).unwrap();
    let db = Connection::open(folder.db()).unwrap();
    db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    // What a constraint forbids cannot be done.
    if db.execute_batch(change).is_err() {
        return false;
    }
    drop(db);
    let shows = printed(&folder) != before;
    if shows {
        let ran = folder.run(&["verify"]);
        assert_eq!(ran.status.code(), Some(1), "{change} shows, and verify does not see it");
        assert!(!ran.stdout.is_empty() || !ran.stderr.is_empty());
    }
    shows
}

/// Statements that change one thing each.
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
        for row in rows.iter().step_by(rows.len().div_ceil(7).max(1)) {
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
