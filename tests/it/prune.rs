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
    let folder = store_with_events(&repeated_days(200));
    let changed = "UPDATE event SET time_nano = time_nano + 1 WHERE seq = 70";
    Connection::open(folder.db()).unwrap().execute(changed, []).unwrap();
    let mut other = Store::open(&folder.db()).unwrap();
    // While verify is in its first step, everything up to a point far after that step is pruned.
    let (mut faults, mut pruned_to) = (Vec::new(), 0);
    let reader = Reader::open(&folder.db()).unwrap();
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
    let folder = store_with_events(&lines);
    let before = folder.verify(&[]);
    let everything = folder.lines(&["query", "-q"]);
    // The age counts from now; the date of the recording is fixed.
    let newest = 1_795_535_640;
    let age = chrono::Utc::now().timestamp() - newest;
    let retain = format!("{}s", (age + 50 * 86_400).max(1));
    let dry = folder.run(&["prune", "--retain", &retain, "--dry-run"]).assert_exit_code(0);
    assert_eq!(folder.lines(&["query", "-q"]), everything);
    let output = folder.run(&["prune", "--retain", &retain]).assert_exit_code(0);
    let deleted: usize = output.stderr.split(' ').next().unwrap().parse().unwrap();
    let expected = format!("{deleted} of {} events would be deleted", everything.len());
    assert!(dry.stderr.starts_with(&expected), "{}", dry.stderr);
    // The first entries are deleted, up to the last chain link (every 64 entries) before the first younger event.
    let half = everything.len() / 2;
    assert!(deleted > half - 300 && deleted <= half + 300, "{deleted} of {}", everything.len());
    let left = folder.lines(&["query", "-q"]);
    assert_eq!(left.len(), everything.len() - deleted);
    assert_eq!(left, fixture::sorted_by_time(&lines[deleted..]));
    let after = folder.verify(&[]);
    assert_ne!(before, after);
    // The earlier head is still part of the chain, because it lies after the pruned entries.
    folder.verify(&["--head", &before]);
    let pruned_head = format!("64:{}", before.split(':').nth(1).unwrap());
    let output = folder.run(&["verify", "-q", "--head", &pruned_head]).assert_exit_code(1);
    assert!(String::from_utf8(output.stdout).unwrap().contains("cannot be verified: everything up to sequence"));
    let status = &folder.json(&["status", "--json"])[0]["sources"][0];
    assert_eq!(status["events"], left.len());
    assert_eq!(status["first"].as_str().unwrap()[..19], events::query::time::rfc3339(line_time_nano(&left[0]))[..19]);
    // Lookups still work: the end of an exec whose start is pruned, a container, a label.
    for args in [&["--action", "exec_die"][..], &["--container", "web"], &["--label", "exitCode=137"]] {
        let args = [&["query", "-q"], args].concat();
        assert_eq!(folder.lines(&args), store_with_events(&left).lines(&args), "{args:?}");
    }
    // Pruned events can be imported again, and everything can be pruned.
    folder.run(&["import", "-q", "events.ndjson"]).assert_success();
    assert_eq!(folder.lines(&["query", "-q"]).len(), everything.len());
    folder.verify(&[]);
    folder.run(&["prune", "-q", "--retain", "1ns"]).assert_success();
    // Pruning stops at a chain link.
    assert!(folder.lines(&["query", "-q"]).len() < 64);
    folder.verify(&[]);
    folder.run(&["import", "-q", "events.ndjson"]).assert_success();
    assert_eq!(folder.lines(&["query", "-q"]).len(), everything.len());
    folder.verify(&[]);
}

#[test]
fn pruning_shrinks_the_file() {
    let folder = store_with_events(&repeated_days(200));
    let size = || fs::metadata(folder.db()).unwrap().len();
    let before = size();
    folder.run(&["prune", "-q", "--max-size", &format!("{}B", before / 2)]).assert_success();
    assert!(size() <= before / 2 + (64 << 10), "{before} {}", size());
    assert!(size() > before / 4, "{before} {}", size());
    folder.verify(&[]);
    let db = Connection::open(folder.db()).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn gaps_and_source_names_survive_pruning() {
    let folder = TestDir::new();
    fs::copy(fixture::path("stores/schema-1.db"), folder.db()).unwrap();
    fs::write(folder.path("days.ndjson"), repeated_days(100).join("\n")).unwrap();
    folder.run(&["import", "-q", "days.ndjson"]).assert_success();
    let gaps = folder.lines(&["gaps"]);
    assert_eq!(gaps.len(), 2);
    // Both gaps are closed, so pruning could reach past them.
    let db = Connection::open(folder.db()).unwrap();
    let open: i64 = db.query_row("SELECT count(*) FROM gap WHERE to_nano IS NULL", [], |row| row.get(0)).unwrap();
    assert_eq!(open, 0);
    drop(db);
    folder.run(&["prune", "-q", "--max-size", "200kB"]).assert_success();
    let envelopes = folder.json(&["query", "-q", "--envelope"]);
    assert!(envelopes.iter().all(|line| line["source"] == "imported" || line["source"] == "engine"));
    folder.verify(&[]);
}

/// Returns events an hour apart, the last one now.
fn hourly_events(numbers: std::ops::Range<u64>) -> Vec<String> {
    let (now, end) = (now_nano(), numbers.end);
    numbers.map(|n| event_at(n, now - (end - 1 - n) as i64 * DAY / 24)).collect()
}

/// Waits until the log reports that the recorder has pruned; returns the events that are left.
fn lines_after_pruning(folder: &TestDir, recorder: &Running) -> Vec<String> {
    recorder.eventually_logs(" of the oldest events");
    folder.lines(&["query", "-q"])
}

#[test]
fn the_recorder_prunes_by_age_and_stores_no_pruned_event_again() {
    let lines = hourly_events(0..1000);
    let (folder, engine) = start_engine();
    lines[..240].iter().for_each(|line| engine.emit(line));
    let recorder = folder.record(&engine.host(), &[]);
    lines[240..].iter().for_each(|line| engine.emit(line));
    folder.eventually_lines(&["query", "-q"], &lines);
    recorder.stop();
    let recorder = folder.record(&engine.host(), &["--retain", "20d"]);
    // Older events are left only up to the next chain link.
    let left = lines_after_pruning(&folder, &recorder);
    assert!((480..480 + 64).contains(&left.len()) && lines.ends_with(&left), "{}", left.len());
    let status = &folder.json(&["status", "--json"])[0];
    let pruned = &status["db"]["pruned"];
    assert_eq!(pruned["events"], 1000 - left.len());
    assert!(left[0].contains(&format!("\"timeNano\":{}", parse_nano(&pruned["kept_from"]))), "{pruned}");
    let shown = String::from_utf8(folder.run(&["status"]).assert_success().stdout).unwrap();
    assert!(shown.contains(&format!("\n  pruned    {} events, ", 1000 - left.len())), "{shown}");
    // Only a window that starts among the pruned events causes a warning.
    let kept_from = pruned["kept_from"].as_str().unwrap();
    let warning =
        format!("this window begins in the pruned part of the record: the oldest event left is from {kept_from}\n");
    assert_eq!(folder.run(&["query", "--since", "2000-01-01T00:00:00Z"]).assert_exit_code(0).stderr, warning);
    assert_eq!(folder.run(&["query", "--until", "2000-01-01T00:00:00Z"]).assert_exit_code(0).stderr, warning);
    folder.run(&["query", "--since", kept_from]).assert_success();
    folder.run(&["query"]).assert_success();
    recorder.stop();
    folder.verify(&[]);
    // All but the newest 24 events of the backlog are older than a day: those are not stored again.
    let recorder = folder.record(&engine.host(), &["--retain", "1d"]);
    let left = lines_after_pruning(&folder, &recorder);
    assert!(left.len() < 24 + 64, "{}", left.len());
    engine.break_streams();
    engine.emit(&event_at(1000, now_nano()));
    folder.eventually("the new event is stored", || {
        let lines = folder.lines(&["query", "-q"]);
        if lines.len() == left.len() + 1 { Ok(()) } else { Err(lines.len()) }
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
    let folder = store_with_events(&lines);
    // The recorder prunes even without an engine.
    let recorder = folder.start(&["record", "-H", "unix:///nowhere.sock", "--max-size", "600kB"]);
    folder.eventually("the file is small", || {
        let size = fs::metadata(folder.db()).unwrap().len();
        if size <= 600_000 { Ok(()) } else { Err(size) }
    });
    recorder.stop();
    folder.verify(&[]);
    let left = folder.lines(&["query", "-q"]);
    let same = store_with_events(&lines[lines.len() - left.len()..]);
    for args in [&["query", "-q"][..], &["query", "-q", "--action", "exec_die"], &["query", "-q", "--container", "web"]]
    {
        assert_eq!(folder.lines(args), same.lines(args), "{args:?}");
    }
    assert!(left.len() > 1_000 && left.len() < lines.len(), "{}", left.len());
}

fn parse_nano(time: &serde_json::Value) -> i64 {
    events::query::time::parse_time(time.as_str().unwrap(), 0).unwrap()
}

#[test]
fn the_recorder_prunes_by_size_and_stores_no_pruned_event_again() {
    let folder = TestDir::new();
    let (quiet, busy) = (Engine::start(folder.path("quiet.sock")), Engine::start(folder.path("busy.sock")));
    busy.set_identity("BUSY", "busy");
    (0..100).for_each(|n| quiet.emit(&event_at(n, now_nano() - DAY)));
    let args = ["record", "-H", &quiet.host(), "-H", &busy.host(), "--max-size", "300kB"];
    let recorder = folder.start(&args);
    let count = |source: &str| folder.lines(&["query", "-q", "--count", "--source", source])[0].parse::<u64>().unwrap();
    folder.eventually("both engines are connected", || {
        let output = folder.run(&["status", "--json"]);
        let all = String::from_utf8(output.stdout).unwrap();
        if all.matches("\"connected\":true").count() == 2 { Ok(()) } else { Err(all) }
    });
    folder.eventually("the quiet engine is recorded", || if count("sim") == 100 { Ok(()) } else { Err(()) });
    let mut number = 1000;
    folder.eventually("the events of the quiet engine are pruned", || {
        (0..500).for_each(|n| busy.emit(&event_at(number + n, now_nano())));
        number += 500;
        let left = count("sim");
        if left == 0 { Ok(()) } else { Err(left) }
    });
    let size = || fs::metadata(folder.db()).unwrap().len();
    folder.eventually("the file is small", || if size() <= 300_000 { Ok(()) } else { Err(size()) });
    // The backlog still contains all of them. Each new session receives them again, together with a new event.
    for round in 0..3 {
        quiet.break_streams();
        quiet.emit(&event_at(200 + round, now_nano()));
        folder.eventually("the new event is stored", || if count("sim") > round { Ok(()) } else { Err(()) });
        assert_eq!(count("sim"), round + 1);
    }
    recorder.stop();
    let recorder = folder.start(&args);
    quiet.emit(&event_at(300, now_nano()));
    folder.eventually("the new event is stored", || if count("sim") > 3 { Ok(()) } else { Err(()) });
    assert_eq!(count("sim"), 4);
    recorder.stop();
    folder.verify(&[]);
}

#[test]
fn invalid_limits_are_refused() {
    let folder = TestDir::new();
    let output = folder.run(&["prune"]).assert_exit_code(2);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    folder.run(&["prune", "--retain", "x"]).assert_exit_code(2);
    folder
        .run(&["prune", "--max-size", "10"])
        .assert_failure(2, "--max-size '10' has no unit (hint: write 10MiB or 10GiB)");
    let output = folder.run(&["record", "--max-size", "10kB"]).assert_exit_code(2);
    assert!(
        output.stderr.starts_with("events: --max-size 10kB is smaller than an empty store (hint: pass at least "),
        "{}",
        output.stderr
    );
    folder.run(&["prune", "--retain", "1d"]).assert_exit_code(1);
    assert!(!crate::support::command::exists(&folder.db()));
}

/// Returns an event whose label and command are unique.
fn event_with_unique_strings(n: u64, nano: i64) -> String {
    format!(
        r#"{{"Type":"container","Action":"exec_create: /bin/login p4ss-{n:04}","Actor":{{"ID":"{n:064x}","Attributes":{{"execID":"{n:064x}","image":"busybox","name":"box-{n}","token":"t0ken-{n:04}"}}}},"scope":"local","time":{},"timeNano":{nano}}}"#,
        nano / 1_000_000_000
    )
}

/// Numbers of the events whose unique strings are anywhere in the file or its WAL.
fn events_with_strings_in(folder: &TestDir) -> BTreeSet<u64> {
    let mut wal = folder.db().into_os_string();
    wal.push("-wal");
    // The WAL first: a checkpoint in between moves its pages into the file, which is read after it.
    let bytes = [fs::read(wal).unwrap_or_default(), fs::read(folder.db()).unwrap()].concat();
    let mut numbers = BTreeSet::new();
    for prefix in [&b"p4ss-"[..], b"t0ken-"] {
        for at in memchr::memmem::find_iter(&bytes, prefix) {
            let digits = &bytes[at + prefix.len()..][..4];
            numbers.insert(std::str::from_utf8(digits).unwrap().parse().unwrap());
        }
    }
    numbers
}

/// Number of unreferenced rows in each table of strings.
fn unreferenced_rows(folder: &TestDir) -> Vec<i64> {
    let db = Connection::open(folder.db()).unwrap();
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
    let (folder, engine) = start_engine();
    let recorder = folder.record(&engine.host(), &[]);
    let old: Vec<String> = (0..2000).map(|n| event_with_unique_strings(n, now_nano() - 2 * DAY + n as i64)).collect();
    let recent: Vec<String> =
        (2000..2200).map(|n| event_with_unique_strings(n, now_nano() - DAY / 2 + n as i64)).collect();
    old.iter().chain(&recent).for_each(|line| engine.emit(line));
    folder.eventually_lines(&["query", "-q", "--count"], &["2200".to_owned()]);
    recorder.stop();
    assert_eq!(events_with_strings_in(&folder), (0..2200).collect());
    // A reader keeps a read transaction open for a while.
    let reader = Connection::open(folder.db()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    let recorder = folder.record(&engine.host(), &["--retain", "1d"]);
    folder.eventually("the older events are pruned", || {
        let left = folder.lines(&["query", "-q"]).len();
        if left < 200 + 64 { Ok(()) } else { Err(left) }
    });
    drop(reader);
    // Garbage collection starts when pruning is done. The WAL is emptied once no reader uses it.
    let left: BTreeSet<u64> = (2200 - folder.lines(&["query", "-q"]).len() as u64..2200).collect();
    folder.eventually("the strings of pruned events are deleted", || {
        let more: Vec<u64> = events_with_strings_in(&folder).difference(&left).copied().collect();
        if more.is_empty() { Ok(()) } else { Err(format!("{} events, {:?}", more.len(), more.first())) }
    });
    recorder.stop();
    assert_eq!(events_with_strings_in(&folder), left);
    assert_eq!(unreferenced_rows(&folder), [0; 4]);
    folder.verify(&[]);
    let copy = folder.path("copy.db");
    folder.run(&["backup", "-q", copy.to_str().unwrap()]).assert_exit_code(0);
    // Nothing is left before the last chain link. New rows get IDs that were never used.
    folder.run(&["prune", "-q", "--retain", "1s"]).assert_success();
    let last: BTreeSet<u64> = (2200 - folder.lines(&["query", "-q"]).len() as u64..2200).collect();
    assert!(last.len() < 64);
    assert_eq!((events_with_strings_in(&folder), unreferenced_rows(&folder)), (last, vec![0; 4]));
    let number =
        |sql: &str| -> i64 { Connection::open(folder.db()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap() };
    let low_ids = ["actor", "label", "shape", "form"]
        .map(|table| format!("SELECT count(*) FROM {table} WHERE id <= (SELECT {table} FROM swept)"));
    let before = low_ids.each_ref().map(|sql| number(sql));
    assert!(number("SELECT min(actor, label, shape) FROM swept") >= 2200);
    folder.run(&["import", "-q", copy.to_str().unwrap()]).assert_exit_code(0);
    assert_eq!(events_with_strings_in(&folder), left);
    assert_eq!(low_ids.each_ref().map(|sql| number(sql)), before);
    folder.verify(&[]);
}

/// If every container has unique labels, unreferenced strings could take up the whole size limit.
#[test]
fn unreferenced_strings_do_not_displace_events() {
    let folder = store_with_events(&(0..9_000).map(|n| event_with_unique_strings(n, n as i64 + 1)).collect::<Vec<_>>());
    let size = fs::metadata(folder.db()).unwrap().len();
    for args in [&["prune", "-q", "--max-size"][..], &["record", "-q", "-H", "unix:///nowhere.sock", "--max-size"]] {
        let limit = size / 2;
        let running = folder.start(&[args, &[&*format!("{limit}B")]].concat());
        folder.eventually("the file is small", || {
            let size = fs::metadata(folder.db()).unwrap().len();
            if size <= limit { Ok(()) } else { Err(size) }
        });
        if args[0] == "record" {
            running.stop();
        } else {
            drop(running.wait().assert_success());
        }
        // As many events stay as fit into the limit.
        let left = folder.lines(&["query", "-q"]).len();
        assert!(left > 9_000 * 3 / 8, "{args:?}: {left}");
        folder.run(&["import", "-q", "events.ndjson"]).assert_success();
        folder.verify(&[]);
    }
}

/// Rejected lines are pruned with the events after them, never on their own.
#[test]
fn a_size_limit_that_cannot_be_met_is_reported() {
    let folder = TestDir::new();
    fs::write(folder.path("junk"), format!("{}\n", "x".repeat(50_000)).repeat(60)).unwrap();
    folder.run(&["import", "-q", "junk"]).assert_exit_code(0);
    let output = folder.run(&["prune", "--max-size", "600kB"]).assert_exit_code(1);
    let hint = "more than --max-size (hint: raise --max-size: prune never deletes the newest entries)\n";
    assert!(output.stderr.ends_with(hint), "{}", output.stderr);
    let recorder = folder.start(&["record", "-H", "unix:///nowhere.sock", "--max-size", "600kB"]);
    let warning =
        format!("{}: the file is larger than --max-size, and nothing more can be deleted\n", folder.db().display());
    recorder.eventually_logs(&warning);
    recorder.stop();
    assert_eq!(folder.lines(&["rejected"]).len(), 60);
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
        let folder = TestDir::new();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let queue = Arc::new(Queue::new(usize::MAX));
        let source = SourceKey { engine_id: Some("e".into()), name: "e".into(), overrides_name: false, host: None };
        let recorder = Recorder { queue: queue.clone(), source: Arc::new(source), lines: lines.clone() };
        let retention = Retention { max_age: None, max_bytes: small.then_some(200_000) };
        let limits = Limits { retention, ..Limits::default() };
        let writer = spawn_writer(Store::open_or_create(&folder.db()).unwrap(), queue.clone(), limits);
        recorder.store(0);
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (stop, lines, path) = (stop.clone(), lines.clone(), folder.db());
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
            let mut other = Store::open(&folder.db()).unwrap();
            match step {
                Step::Store(seed) => recorder.store(seed),
                Step::Prune(part) => {
                    let all = lines.lock().unwrap().len() as i64;
                    let before = all - all * i64::from(part) / 64;
                    while other.prune(before, u64::MAX, 1).unwrap().is_some() {}
                }
                Step::Collect(seed) => other.collect_garbage(1, || if seed > 0 { recorder.store(seed) }).unwrap(),
            }
            let found = read_all(&Reader::open(&folder.db()).unwrap());
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
        let mut other = Store::open(&folder.db()).unwrap();
        let all = lines.lock().unwrap().len() as i64;
        while other.prune(all - 64, u64::MAX, 1).unwrap().is_some() {}
        other.collect_garbage(1, || ()).unwrap();
        drop(other);
        prop_assert!(lines.lock().unwrap().ends_with(&read_all(&Reader::open(&folder.db()).unwrap())));
        prop_assert_eq!(unreferenced_rows(&folder), [0; 4]);
        folder.verify(&[]);
    }
}
