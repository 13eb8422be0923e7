//! Pruning deletes the oldest events, and the rest of the store still verifies.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::command::{Running, TestDir, eventually};
use crate::support::engine::{Engine, event_at, now_nano, start_engine};
use crate::support::fixture::{self, line_time_nano, store_with_events};
use events::event::Event;
use events::store::{
    Delivery, EventPredicate, Limits, Order, Query, Queue, Reader, Retention, Snapshot, SourceKey, Store, VerifyReport,
    spawn_writer,
};
use proptest::prelude::*;
use rusqlite::Connection;

const DAY: i64 = 86_400_000_000_000;

/// Repeats a recording on each of the `days` days before its own. As in the recording, the times are not strictly
/// ordered.
fn repeated_days(days: i64) -> Vec<String> {
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let mut all = Vec::new();
    for day in 0..days {
        for line in &lines {
            let nano = line_time_nano(line) - (days - day) * DAY;
            let head = line.rsplit_once(r#","time":"#).unwrap().0;
            all.push(format!(r#"{head},"time":{},"timeNano":{nano}}}"#, nano / 1_000_000_000));
        }
    }
    all
}

#[test]
fn pruning_during_verify_reports_nothing_missing() {
    let test_dir = store_with_events(&repeated_days(200));
    let changed = "UPDATE event SET time_nano = time_nano + 1 WHERE seq = 70";
    Connection::open(test_dir.db()).unwrap().execute(changed, []).unwrap();
    let mut other = Store::open(&test_dir.db()).unwrap();
    // While verify is in its first step, everything up to a point far after that step is pruned.
    let (mut faults, mut pruned_to) = (Vec::new(), 0);
    let reader = Reader::open(&test_dir.db()).unwrap();
    let report = reader.verify(&[], |fault| {
        if faults.is_empty() {
            pruned_to = other.prune(i64::MAX, u64::MAX, now_nano()).unwrap().unwrap().last_seq;
        }
        faults.push(fault.to_string());
    });
    assert_eq!(faults, ["one of the sequences 65 to 128 was changed"]);
    let second_report = reader.verify(&[], |fault| panic!("{fault}")).unwrap();
    assert!(pruned_to > 16_000, "{pruned_to}");
    assert_eq!(report.unwrap(), VerifyReport { faults: 1, ..second_report });
}

#[test]
fn older_events_are_pruned_and_the_rest_verifies() {
    let lines = repeated_days(100);
    let test_dir = store_with_events(&lines);
    let before = test_dir.verify(&[]);
    let all_lines = test_dir.lines(&["query", "-q"]);
    // The age counts from now; the date of the recording is fixed.
    let newest = 1_795_535_640;
    let age = chrono::Utc::now().timestamp() - newest;
    let retain = format!("{}s", (age + 50 * 86_400).max(1));
    let dry = test_dir.run(&["prune", "--retain", &retain, "--dry-run"]).assert_exit_code(0);
    assert_eq!(test_dir.lines(&["query", "-q"]), all_lines);
    let output = test_dir.run(&["prune", "--retain", &retain]).assert_exit_code(0);
    let deleted: usize = output.stderr.split(' ').nth(1).unwrap().parse().unwrap();
    let expected = format!("{deleted} of {} events would be deleted", all_lines.len());
    assert!(dry.stderr.starts_with(&expected), "{}", dry.stderr);
    // The first entries are deleted, up to the last chain link (every 64 entries) before the first younger event.
    let half = all_lines.len() / 2;
    assert!(deleted > half - 300 && deleted <= half + 300, "{deleted} of {}", all_lines.len());
    let remaining = test_dir.lines(&["query", "-q"]);
    assert_eq!(remaining.len(), all_lines.len() - deleted);
    assert_eq!(remaining, fixture::sorted_by_time(&lines[deleted..]));
    let after = test_dir.verify(&[]);
    assert_ne!(before, after);
    // The earlier head is still part of the chain, because it lies after the pruned entries.
    test_dir.verify(&["--head", &before]);
    let pruned_head = format!("64:{}", before.split(':').nth(1).unwrap());
    let output = test_dir.run(&["verify", "-q", "--head", &pruned_head]).assert_exit_code(1);
    assert!(String::from_utf8(output.stdout).unwrap().contains("cannot be verified: everything up to sequence"));
    let status = &test_dir.json(&["status", "--json"])[0]["sources"][0];
    assert_eq!(status["events"], remaining.len());
    assert_eq!(
        status["first"].as_str().unwrap()[..19],
        events::query::time::rfc3339(line_time_nano(&remaining[0]))[..19]
    );
    // Lookups still work: the end of an exec whose start is pruned, a container, a label.
    for args in [&["--action", "exec_die"][..], &["--container", "web"], &["--label", "exitCode=137"]] {
        let args = [&["query", "-q"], args].concat();
        assert_eq!(test_dir.lines(&args), store_with_events(&remaining).lines(&args), "{args:?}");
    }
    // Pruned events can be imported again, and everything can be pruned.
    test_dir.run(&["import", "-q", "events.ndjson"]).assert_success();
    assert_eq!(test_dir.lines(&["query", "-q"]).len(), all_lines.len());
    test_dir.verify(&[]);
    test_dir.run(&["prune", "-q", "--retain", "1ns"]).assert_success();
    // Pruning stops at a chain link.
    assert!(test_dir.lines(&["query", "-q"]).len() < 64);
    test_dir.verify(&[]);
    test_dir.run(&["import", "-q", "events.ndjson"]).assert_success();
    assert_eq!(test_dir.lines(&["query", "-q"]).len(), all_lines.len());
    test_dir.verify(&[]);
}

#[test]
fn pruning_shrinks_the_file() {
    let test_dir = store_with_events(&repeated_days(200));
    let size = || fs::metadata(test_dir.db()).unwrap().len();
    let before = size();
    test_dir.run(&["prune", "-q", "--max-size", &format!("{}B", before / 2)]).assert_success();
    assert!(size() <= before / 2 + (64 << 10), "{before} {}", size());
    assert!(size() > before / 4, "{before} {}", size());
    test_dir.verify(&[]);
    let db = Connection::open(test_dir.db()).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn gaps_and_source_names_survive_pruning() {
    let test_dir = TestDir::new();
    fs::copy(fixture::path("stores/schema-1.db"), test_dir.db()).unwrap();
    fs::write(test_dir.path("days.ndjson"), repeated_days(100).join("\n")).unwrap();
    test_dir.run(&["import", "-q", "days.ndjson"]).assert_success();
    let gaps = test_dir.lines(&["gaps"]);
    assert_eq!(gaps.len(), 2);
    // Both gaps are closed, so pruning could reach past them.
    let db = Connection::open(test_dir.db()).unwrap();
    let open: i64 = db.query_row("SELECT count(*) FROM gap WHERE to_nano IS NULL", [], |row| row.get(0)).unwrap();
    assert_eq!(open, 0);
    drop(db);
    test_dir.run(&["prune", "-q", "--max-size", "200kB"]).assert_success();
    let envelopes = test_dir.json(&["query", "-q", "--envelope"]);
    assert!(envelopes.iter().all(|line| line["source"] == "imported" || line["source"] == "engine"));
    test_dir.verify(&[]);
}

/// Returns events an hour apart, the last one now.
fn hourly_events(numbers: std::ops::Range<u64>) -> Vec<String> {
    let (now, end) = (now_nano(), numbers.end);
    numbers.map(|n| event_at(n, now - (end - 1 - n) as i64 * DAY / 24)).collect()
}

/// Waits until the log reports that the recorder has pruned; returns the events that are left.
fn wait_for_pruning(test_dir: &TestDir, recorder: &Running) -> Vec<String> {
    recorder.eventually_logs(" of the oldest events");
    test_dir.lines(&["query", "-q"])
}

#[test]
fn the_recorder_prunes_by_age_and_stores_no_pruned_event_again() {
    let lines = hourly_events(0..1000);
    let (test_dir, engine) = start_engine();
    lines[..240].iter().for_each(|line| engine.emit(line));
    let recorder = test_dir.record(&engine.host(), &[]);
    lines[240..].iter().for_each(|line| engine.emit(line));
    test_dir.eventually_lines(&["query", "-q"], &lines);
    recorder.stop();
    let recorder = test_dir.record(&engine.host(), &["--retain", "20d"]);
    // Older events are left only up to the next chain link.
    let remaining = wait_for_pruning(&test_dir, &recorder);
    assert!((480..480 + 64).contains(&remaining.len()) && lines.ends_with(&remaining), "{}", remaining.len());
    let status = &test_dir.json(&["status", "--json"])[0];
    let pruned = &status["db"]["pruned"];
    assert_eq!(pruned["events"], 1000 - remaining.len());
    assert!(remaining[0].contains(&format!("\"timeNano\":{}", parse_nano(&pruned["kept_from"]))), "{pruned}");
    let shown = String::from_utf8(test_dir.run(&["status"]).assert_success().stdout).unwrap();
    assert!(shown.contains(&format!("\n  pruned    {} events, ", 1000 - remaining.len())), "{shown}");
    // Only a window that starts among the pruned events causes a warning.
    let kept_from = pruned["kept_from"].as_str().unwrap();
    let warning =
        format!("this window begins in the pruned part of the record: the oldest event left is from {kept_from}\n");
    assert_eq!(test_dir.run(&["query", "--since", "2000-01-01T00:00:00Z"]).assert_exit_code(0).stderr, warning);
    assert_eq!(test_dir.run(&["query", "--until", "2000-01-01T00:00:00Z"]).assert_exit_code(0).stderr, warning);
    test_dir.run(&["query", "--since", kept_from]).assert_success();
    test_dir.run(&["query"]).assert_success();
    recorder.stop();
    test_dir.verify(&[]);
    // All but the newest 24 events of the backlog are older than a day: those are not stored again.
    let recorder = test_dir.record(&engine.host(), &["--retain", "1d"]);
    let remaining = wait_for_pruning(&test_dir, &recorder);
    assert!(remaining.len() < 24 + 64, "{}", remaining.len());
    engine.break_streams();
    engine.emit(&event_at(1000, now_nano()));
    test_dir.eventually("the new event is stored", || {
        let lines = test_dir.lines(&["query", "-q"]);
        if lines.len() == remaining.len() + 1 { Ok(()) } else { Err(lines.len()) }
    });
    recorder.stop();
    // A new store does not store older events either, and has no gap for them.
    let fresh = TestDir::new();
    let output = fresh.run(&["record", "-H", &engine.host(), "--retain", "1d", "--until", "now"]).assert_exit_code(0);
    assert!(output.stderr.contains(" events were older than --retain and were not stored"), "{}", output.stderr);
    assert_eq!(fresh.lines(&["query", "-q"]).len(), 25);
    assert_eq!(fresh.json(&["gaps"]).len(), 1);
    fresh.verify(&[]);
}

#[test]
fn pruning_in_small_steps_keeps_lookups_intact() {
    let lines = repeated_days(100);
    let test_dir = store_with_events(&lines);
    // The recorder prunes even without an engine.
    let recorder = test_dir.start(&["record", "-H", "unix:///nowhere.sock", "--max-size", "600kB"]);
    test_dir.eventually("the file is small", || {
        let size = fs::metadata(test_dir.db()).unwrap().len();
        if size <= 600_000 { Ok(()) } else { Err(size) }
    });
    recorder.stop();
    test_dir.verify(&[]);
    let remaining = test_dir.lines(&["query", "-q"]);
    let recreated = store_with_events(&lines[lines.len() - remaining.len()..]);
    for args in [&["query", "-q"][..], &["query", "-q", "--action", "exec_die"], &["query", "-q", "--container", "web"]]
    {
        assert_eq!(test_dir.lines(args), recreated.lines(args), "{args:?}");
    }
    assert!(remaining.len() > 1_000 && remaining.len() < lines.len(), "{}", remaining.len());
}

fn parse_nano(time: &serde_json::Value) -> i64 {
    events::query::time::parse_time(time.as_str().unwrap(), 0).unwrap()
}

#[test]
fn the_recorder_prunes_by_size_and_stores_no_pruned_event_again() {
    let test_dir = TestDir::new();
    let (quiet, busy) = (Engine::start(test_dir.path("quiet.sock")), Engine::start(test_dir.path("busy.sock")));
    busy.set_identity("BUSY", "busy");
    (0..100).for_each(|n| quiet.emit(&event_at(n, now_nano() - DAY)));
    let args = ["record", "-H", &quiet.host(), "-H", &busy.host(), "--max-size", "300kB"];
    let recorder = test_dir.start(&args);
    let count =
        |source: &str| test_dir.lines(&["query", "-q", "--count", "--source", source])[0].parse::<u64>().unwrap();
    test_dir.eventually("both engines are connected", || {
        let output = test_dir.run(&["status", "--json"]);
        let all = String::from_utf8(output.stdout).unwrap();
        if all.matches("\"connected\":true").count() == 2 { Ok(()) } else { Err(all) }
    });
    test_dir.eventually("the quiet engine is recorded", || if count("sim") == 100 { Ok(()) } else { Err(()) });
    let mut number = 1000;
    test_dir.eventually("the events of the quiet engine are pruned", || {
        (0..500).for_each(|n| busy.emit(&event_at(number + n, now_nano())));
        number += 500;
        let remaining = count("sim");
        if remaining == 0 { Ok(()) } else { Err(remaining) }
    });
    let size = || fs::metadata(test_dir.db()).unwrap().len();
    test_dir.eventually("the file is small", || if size() <= 300_000 { Ok(()) } else { Err(size()) });
    // The backlog still contains all of them. Each new session receives them again, together with a new event.
    for round in 0..3 {
        quiet.break_streams();
        quiet.emit(&event_at(200 + round, now_nano()));
        test_dir.eventually("the new event is stored", || if count("sim") > round { Ok(()) } else { Err(()) });
        assert_eq!(count("sim"), round + 1);
    }
    recorder.stop();
    let recorder = test_dir.start(&args);
    quiet.emit(&event_at(300, now_nano()));
    test_dir.eventually("the new event is stored", || if count("sim") > 3 { Ok(()) } else { Err(()) });
    assert_eq!(count("sim"), 4);
    recorder.stop();
    test_dir.verify(&[]);
}

#[test]
fn invalid_limits_are_refused() {
    let test_dir = TestDir::new();
    let output = test_dir.run(&["prune"]).assert_exit_code(2);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    test_dir.run(&["prune", "--retain", "x"]).assert_exit_code(2);
    test_dir
        .run(&["prune", "--max-size", "10"])
        .assert_failure(2, "--max-size '10' has no unit (hint: write 10MiB or 10GiB)");
    let output = test_dir.run(&["record", "--max-size", "10kB"]).assert_exit_code(2);
    assert!(
        output.stderr.starts_with("events: --max-size 10kB is smaller than an empty store (hint: pass at least "),
        "{}",
        output.stderr
    );
    test_dir.run(&["prune", "--retain", "1d"]).assert_exit_code(1);
    assert!(!crate::support::command::exists(&test_dir.db()));
}

/// Returns an event whose label and command are unique.
fn event_with_unique_strings(n: u64, nano: i64) -> String {
    format!(
        r#"{{"Type":"container","Action":"exec_create: /bin/login p4ss-{n:04}","Actor":{{"ID":"{n:064x}","Attributes":{{"execID":"{n:064x}","image":"busybox","name":"box-{n}","token":"t0ken-{n:04}"}}}},"scope":"local","time":{},"timeNano":{nano}}}"#,
        nano / 1_000_000_000
    )
}

/// Numbers of the events whose unique strings are anywhere in the file or its WAL.
fn events_with_strings_in(test_dir: &TestDir) -> BTreeSet<u64> {
    let mut wal = test_dir.db().into_os_string();
    wal.push("-wal");
    // The WAL first: a checkpoint in between moves its pages into the file, which is read after it.
    let bytes = [fs::read(wal).unwrap_or_default(), fs::read(test_dir.db()).unwrap()].concat();
    let mut numbers = BTreeSet::new();
    for prefix in [&b"p4ss-"[..], b"t0ken-"] {
        for at in memchr::memmem::find_iter(&bytes, prefix) {
            let digits = &bytes[at + prefix.len()..][..4];
            // A page can be read while the recorder writes it: then its number is not known yet.
            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            numbers.insert(number.unwrap_or(u64::MAX));
        }
    }
    numbers
}

/// Number of unreferenced rows in each table of strings.
fn unreferenced_rows(test_dir: &TestDir) -> Vec<i64> {
    let db = Connection::open(test_dir.db()).unwrap();
    [
        "SELECT count(*) FROM actor WHERE id NOT IN (SELECT actor FROM event)",
        "SELECT count(*) FROM label WHERE id NOT IN (SELECT value FROM actor, json_each(actor.labels))",
        "SELECT count(*) FROM shape WHERE id NOT IN (SELECT shape FROM event)",
        "SELECT count(*) FROM form WHERE id NOT IN (SELECT form FROM shape WHERE form IS NOT NULL)",
    ]
    .map(|sql| db.query_row(sql, [], |row| row.get(0)).unwrap())
    .into()
}

#[test]
fn no_string_of_a_pruned_event_stays_in_the_file() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    let old: Vec<String> = (0..2000).map(|n| event_with_unique_strings(n, now_nano() - 2 * DAY + n as i64)).collect();
    let recent: Vec<String> =
        (2000..2200).map(|n| event_with_unique_strings(n, now_nano() - DAY / 2 + n as i64)).collect();
    old.iter().chain(&recent).for_each(|line| engine.emit(line));
    test_dir.eventually_lines(&["query", "-q", "--count"], &["2200".to_owned()]);
    recorder.stop();
    assert_eq!(events_with_strings_in(&test_dir), (0..2200).collect());
    // A reader keeps a read transaction open for a while.
    let reader = Connection::open(test_dir.db()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    let recorder = test_dir.record(&engine.host(), &["--retain", "1d"]);
    test_dir.eventually("the older events are pruned", || {
        let remaining = test_dir.lines(&["query", "-q"]).len();
        if remaining < 200 + 64 { Ok(()) } else { Err(remaining) }
    });
    drop(reader);
    // Garbage collection starts when pruning is done. The WAL is emptied once no reader uses it.
    let remaining: BTreeSet<u64> = (2200 - test_dir.lines(&["query", "-q"]).len() as u64..2200).collect();
    test_dir.eventually("the strings of pruned events are deleted", || {
        let more: Vec<u64> = events_with_strings_in(&test_dir).difference(&remaining).copied().collect();
        if more.is_empty() { Ok(()) } else { Err(format!("{} events, {:?}", more.len(), more.first())) }
    });
    recorder.stop();
    assert_eq!(events_with_strings_in(&test_dir), remaining);
    assert_eq!(unreferenced_rows(&test_dir), [0; 4]);
    test_dir.verify(&[]);
    let copy = test_dir.path("copy.db");
    test_dir.run(&["backup", "-q", copy.to_str().unwrap()]).assert_exit_code(0);
    // Nothing is left before the last chain link. New rows get IDs that were never used.
    test_dir.run(&["prune", "-q", "--retain", "1s"]).assert_success();
    let last: BTreeSet<u64> = (2200 - test_dir.lines(&["query", "-q"]).len() as u64..2200).collect();
    assert!(last.len() < 64);
    assert_eq!((events_with_strings_in(&test_dir), unreferenced_rows(&test_dir)), (last, vec![0; 4]));
    let number =
        |sql: &str| -> i64 { Connection::open(test_dir.db()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap() };
    let low_ids = ["actor", "label", "shape", "form"]
        .map(|table| format!("SELECT count(*) FROM {table} WHERE id <= (SELECT {table} FROM swept)"));
    let before = low_ids.each_ref().map(|sql| number(sql));
    assert!(number("SELECT min(actor, label, shape) FROM swept") >= 2200);
    test_dir.run(&["import", "-q", copy.to_str().unwrap()]).assert_exit_code(0);
    assert_eq!(events_with_strings_in(&test_dir), remaining);
    assert_eq!(low_ids.each_ref().map(|sql| number(sql)), before);
    test_dir.verify(&[]);
}

/// If every container has unique labels, unreferenced strings could take up the whole size limit.
#[test]
fn unreferenced_strings_do_not_displace_events() {
    let test_dir =
        store_with_events(&(0..9_000).map(|n| event_with_unique_strings(n, n as i64 + 1)).collect::<Vec<_>>());
    let size = fs::metadata(test_dir.db()).unwrap().len();
    for args in [&["prune", "-q", "--max-size"][..], &["record", "-q", "-H", "unix:///nowhere.sock", "--max-size"]] {
        let limit = size / 2;
        let running = test_dir.start(&[args, &[&*format!("{limit}B")]].concat());
        test_dir.eventually("the file is small", || {
            let size = fs::metadata(test_dir.db()).unwrap().len();
            if size <= limit { Ok(()) } else { Err(size) }
        });
        if args[0] == "record" {
            running.stop();
        } else {
            drop(running.wait().assert_success());
        }
        // As many events stay as fit into the limit.
        let remaining = test_dir.lines(&["query", "-q"]).len();
        assert!(remaining > 9_000 * 3 / 8, "{args:?}: {remaining}");
        test_dir.run(&["import", "-q", "events.ndjson"]).assert_success();
        test_dir.verify(&[]);
    }
}

/// Rejected lines are pruned with the events after them, never on their own.
#[test]
fn a_size_limit_that_cannot_be_met_is_reported() {
    let test_dir = TestDir::new();
    fs::write(test_dir.path("junk"), format!("{}\n", "x".repeat(50_000)).repeat(60)).unwrap();
    test_dir.run(&["import", "-q", "junk"]).assert_exit_code(0);
    let output = test_dir.run(&["prune", "--max-size", "600kB"]).assert_exit_code(1);
    let hint = "more than --max-size (hint: raise --max-size: prune never deletes the newest entries)\n";
    assert!(output.stderr.ends_with(hint), "{}", output.stderr);
    let recorder = test_dir.start(&["record", "-H", "unix:///nowhere.sock", "--max-size", "600kB"]);
    let warning =
        format!("{}: the file is larger than --max-size, and nothing more can be deleted\n", test_dir.db().display());
    recorder.eventually_logs(&warning);
    recorder.stop();
    assert_eq!(test_dir.lines(&["rejected"]).len(), 60);
}

/// A step of the property test below. Its events share few strings, so strings become unreferenced and appear again.
#[derive(Clone, Debug)]
enum Step {
    /// Stores events.
    Store(u8),
    /// Prunes all but at most so many sixty-fourths of the events.
    Prune(u8),
    /// Collects garbage, and stores events when half of that is done.
    Collect(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<u8>().prop_map(Step::Store),
        2 => (0u8..64).prop_map(Step::Prune),
        2 => any::<u8>().prop_map(Step::Collect),
    ];
    proptest::collection::vec(step, 1..24)
}

/// The recorder's side of the queue: one writer with its caches takes all deliveries.
struct Recorder {
    queue: Arc<Queue>,
    source: Arc<SourceKey>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    /// Delivers events and waits until they are stored.
    fn store(&self, seed: u8) {
        let mut lines = self.lines.lock().unwrap();
        let mut delivery = Delivery::new(self.source.clone(), 1);
        for at in 0..40 + u64::from(seed) {
            let n = lines.len() as u64;
            // About twenty strings, a few of them in each range of time.
            let word = (n / 150 + u64::from(seed) + at % 2) % 23;
            let more = if word.is_multiple_of(3) { r#","extra":1"# } else { "" };
            let line = format!(
                r#"{{"Type":"container","Action":"exec_start: run {word}","Actor":{{"ID":"{}","Attributes":{{"execID":"{:064x}","label-{}":"value {word}","name":"c"}}}},"scope":"local"{more},"time":0,"timeNano":{}}}"#,
                word % 5,
                n / 3,
                word % 7,
                n + 1
            );
            delivery.events.push(&Event::parse(line.as_bytes()).unwrap());
            lines.push(line);
        }
        drop(lines);
        self.queue.push(delivery).unwrap();
        eventually("the delivery is stored", || if self.queue.pending_events() == 0 { Ok(()) } else { Err(()) });
    }
}

/// Reads all stored lines in the order of arrival.
fn read_all(reader: &Reader) -> Vec<String> {
    let mut lines = Vec::new();
    let all = Snapshot { after: 0, to: i64::MAX };
    let _ = reader
        .events(&Query::default(), all, Order::Arrival, EventPredicate::All, |stored| {
            lines.push(String::from_utf8(stored.raw.to_vec()).unwrap());
            ControlFlow::<()>::Continue(())
        })
        .unwrap();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A recorder, another process that prunes and collects garbage, and a reader. The stored events are always the
    /// newest of all events, and the chain always verifies.
    #[test]
    fn garbage_collection_deletes_nothing_that_is_used(steps in steps(), small in any::<bool>()) {
        let test_dir = TestDir::new();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let queue = Arc::new(Queue::new(usize::MAX));
        let source = SourceKey { engine_id: Some("e".into()), name: "e".into(), overrides_name: false, host: None };
        let recorder = Recorder { queue: queue.clone(), source: Arc::new(source), lines: lines.clone() };
        let retention = Retention { max_age: None, max_bytes: small.then_some(200_000) };
        let limits = Limits { retention, ..Limits::default() };
        let writer = spawn_writer(Store::open_or_create(&test_dir.db()).unwrap(), queue.clone(), limits);
        recorder.store(0);
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (stop, lines, path) = (stop.clone(), lines.clone(), test_dir.db());
            std::thread::spawn(move || {
                let reader = Reader::open(&path).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let read = read_all(&reader);
                    reader.verify(&[], |fault| panic!("{fault}")).unwrap();
                    let lines = lines.lock().unwrap();
                    let mut lines = lines.iter();
                    assert!(read.iter().all(|line| lines.any(|stored| stored == line)), "unchanged and in order");
                }
            })
        };
        for step in steps {
            let mut other = Store::open(&test_dir.db()).unwrap();
            match step {
                Step::Store(seed) => recorder.store(seed),
                Step::Prune(part) => {
                    let all = lines.lock().unwrap().len() as i64;
                    let before = all - all * i64::from(part) / 64;
                    while other.prune(before, u64::MAX, 1).unwrap().is_some() {}
                }
                Step::Collect(seed) => other.collect_garbage(1, || if seed > 0 { recorder.store(seed) }).unwrap(),
            }
            let found = read_all(&Reader::open(&test_dir.db()).unwrap());
            let lines = lines.lock().unwrap();
            if small {
                // The recorder prunes while this reads: what it read first can be gone before it reads on.
                prop_assert!(found.last().is_none_or(|newest| lines.last() == Some(newest)));
                let mut lines = lines.iter();
                prop_assert!(found.iter().all(|line| lines.any(|stored| stored == line)), "unchanged and in order");
            } else {
                prop_assert!(lines.ends_with(&found));
                prop_assert!(!found.is_empty());
            }
        }
        queue.close();
        prop_assert!(writer.join().unwrap().error.is_none());
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        let mut other = Store::open(&test_dir.db()).unwrap();
        let all = lines.lock().unwrap().len() as i64;
        while other.prune(all - 64, u64::MAX, 1).unwrap().is_some() {}
        other.collect_garbage(1, || ()).unwrap();
        drop(other);
        prop_assert!(lines.lock().unwrap().ends_with(&read_all(&Reader::open(&test_dir.db()).unwrap())));
        prop_assert_eq!(unreferenced_rows(&test_dir), [0; 4]);
        test_dir.verify(&[]);
    }
}
