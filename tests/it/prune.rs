//! The oldest part of the record is let go of, and what is left is proven all the same.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::command::{Folder, Running, eventually};
use crate::support::engine::{Engine, event_at};
use crate::support::fixture;
use events::event::Event;
use events::store::{
    Ask, Delivery, Judge, Keep, Limits, Order, Queue, Reader, Snapshot, SourceKey, Store, Verified, spawn_writer,
};
use proptest::prelude::*;
use rusqlite::Connection;

const DAY: i64 = 86_400_000_000_000;

fn now() -> i64 {
    chrono::Utc::now().timestamp_nanos_opt().unwrap()
}

/// Lines of a recording, `days` of it, one after another, as engines' clocks go: not strictly in order.
fn days(days: i64) -> Vec<String> {
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let mut all = Vec::new();
    for day in 0..days {
        for line in &lines {
            let (head, nano) = line.rsplit_once(':').unwrap();
            let nano = nano.trim_end_matches('}').parse::<i64>().unwrap() - (days - day) * 86_400_000_000_000;
            let head = head.rsplit_once(r#","time":"#).unwrap().0;
            all.push(format!(r#"{head},"time":{},"timeNano":{nano}}}"#, nano / 1_000_000_000));
        }
    }
    all
}

fn imported(lines: &[String]) -> Folder {
    let folder = Folder::new();
    fs::write(folder.path("days.ndjson"), lines.join("\n")).unwrap();
    folder.run(&["import", "-q", "days.ndjson"]).succeeded();
    folder
}

fn verified(folder: &Folder) -> String {
    String::from_utf8(folder.run(&["verify", "-q"]).succeeded().stdout).unwrap().trim().replace("head ", "")
}

#[test]
fn what_goes_while_it_is_proven_is_not_missed() {
    let folder = imported(&days(200));
    let changed = "UPDATE event SET time_nano = time_nano + 1 WHERE seq = 70";
    Connection::open(folder.db()).unwrap().execute(changed, []).unwrap();
    let mut other = Store::open(&folder.db()).unwrap();
    // The walk is in its first step when all up to a place far behind that step goes.
    let (mut faults, mut gone) = (Vec::new(), 0);
    let reader = Reader::open(&folder.db()).unwrap();
    let walked = reader.verify(&[], |fault| {
        if faults.is_empty() {
            gone = other.prune(i64::MAX, u64::MAX, now()).unwrap().unwrap().upto;
        }
        faults.push(fault.to_string());
    });
    assert_eq!(faults, ["one of the sequences 65 to 128 was changed"]);
    let proven = reader.verify(&[], |fault| panic!("{fault}")).unwrap();
    assert!(gone > 16_000, "{gone}");
    assert_eq!(walked.unwrap(), Verified { faults: 1, ..proven });
}

#[test]
fn what_is_older_goes_and_the_rest_is_proven() {
    let lines = days(100);
    let folder = imported(&lines);
    let before = verified(&folder);
    let everything = folder.lines(&["query", "-q"]);
    // The age is counted from now; the recording is of a day that may lie anywhere.
    let newest = 1_795_535_640;
    let age = chrono::Utc::now().timestamp() - newest;
    let retain = format!("{}s", (age + 50 * 86_400).max(1));
    let dry = folder.run(&["prune", "--retain", &retain, "--dry-run"]).exited(0);
    assert_eq!(folder.lines(&["query", "-q"]), everything);
    let ran = folder.run(&["prune", "--retain", &retain]).exited(0);
    let gone: usize = ran.stderr.split(' ').next().unwrap().parse().unwrap();
    assert!(dry.stderr.starts_with(&format!("{gone} of {} events would go", everything.len())), "{}", dry.stderr);
    // What goes is a beginning of it, to the link of the chain (each 64 entries) before the first that is younger.
    assert!(gone > everything.len() / 2 - 300 && gone <= everything.len() / 2 + 300, "{gone} of {}", everything.len());
    let left = folder.lines(&["query", "-q"]);
    assert_eq!(left.len(), everything.len() - gone);
    assert_eq!(left, fixture::by_time(&lines[gone..]));
    let after = verified(&folder);
    assert_ne!(before, after);
    // The head of then is still part of the chain, for it lies behind what went.
    folder.run(&["verify", "-q", "--head", &before]).succeeded();
    let ran = folder.run(&["verify", "-q", "--head", &format!("64:{}", before.split(':').nth(1).unwrap())]).exited(1);
    assert!(String::from_utf8(ran.stdout).unwrap().contains("cannot be proven: everything up to sequence"));
    let status = &folder.json(&["status", "--json"])[0]["sources"][0];
    assert_eq!(status["events"], left.len());
    assert_eq!(status["first"].as_str().unwrap()[..19], time_of(&left[0]));
    // Lookups go on: an exec that was begun before, a container, a label.
    for words in [&["--action", "exec_die"][..], &["--container", "web"], &["--label", "exitCode=137"]] {
        let words = [&["query", "-q"], words].concat();
        assert_eq!(folder.lines(&words), imported(&left).lines(&words), "{words:?}");
    }
    // And it goes on: more comes, what went may come back, and all of it is let go of.
    folder.run(&["import", "-q", "days.ndjson"]).succeeded();
    assert_eq!(folder.lines(&["query", "-q"]).len(), everything.len());
    verified(&folder);
    folder.run(&["prune", "-q", "--retain", "1ns"]).succeeded();
    // It is cut where a link of the chain stands.
    assert!(folder.lines(&["query", "-q"]).len() < 64);
    verified(&folder);
    folder.run(&["import", "-q", "days.ndjson"]).succeeded();
    assert_eq!(folder.lines(&["query", "-q"]).len(), everything.len());
    verified(&folder);
}

fn time_of(line: &str) -> String {
    let nano: i64 = line.rsplit_once(':').unwrap().1.trim_end_matches('}').parse().unwrap();
    events::query::time::rfc3339(nano)[..19].to_owned()
}

#[test]
fn the_space_goes_back_to_the_disk() {
    let folder = imported(&days(200));
    let size = || fs::metadata(folder.db()).unwrap().len();
    let before = size();
    folder.run(&["prune", "-q", "--max-size", &format!("{}B", before / 2)]).succeeded();
    assert!(size() <= before / 2 + (64 << 10), "{before} {}", size());
    assert!(size() > before / 4, "{before} {}", size());
    verified(&folder);
    let db = Connection::open(folder.db()).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn gaps_and_names_outlive_what_goes() {
    let folder = Folder::new();
    fs::copy(fixture::path("stores/schema-1.db"), folder.db()).unwrap();
    fs::write(folder.path("days.ndjson"), days(100).join("\n")).unwrap();
    folder.run(&["import", "-q", "days.ndjson"]).succeeded();
    let gaps = folder.lines(&["gaps"]);
    assert_eq!(gaps.len(), 2);
    // The gap of the recording reaches beyond everything; the first contact ended long before.
    let db = Connection::open(folder.db()).unwrap();
    let open: i64 = db.query_row("SELECT count(*) FROM gap WHERE to_nano IS NULL", [], |row| row.get(0)).unwrap();
    assert_eq!(open, 0);
    drop(db);
    folder.run(&["prune", "-q", "--max-size", "200kB"]).succeeded();
    let envelopes = folder.json(&["query", "-q", "--envelope"]);
    assert!(envelopes.iter().all(|line| line["source"] == "imported" || line["source"] == "engine"));
    verified(&folder);
}

/// So many events, an hour apart, the last one now.
fn hours(numbers: std::ops::Range<u64>) -> Vec<String> {
    let (now, end) = (now(), numbers.end);
    numbers.map(|n| event_at(n, now - (end - 1 - n) as i64 * DAY / 24)).collect()
}

/// What is left once a recorder has let go of all that is to go; who reads meanwhile may lack what went.
fn left_by(folder: &Folder, recorder: &Running) -> Vec<String> {
    folder.eventually("what is too old goes", || {
        let log = recorder.log();
        if log.contains(" events were let go of, the oldest") { Ok(()) } else { Err(log) }
    });
    folder.lines(&["query", "-q"])
}

#[test]
fn while_recording_what_is_too_old_goes_and_does_not_come_back() {
    let (folder, lines) = (Folder::new(), hours(0..1000));
    let engine = Engine::start(folder.path("docker.sock"));
    lines[..240].iter().for_each(|line| engine.happens(line));
    let recorder = folder.record(&engine.host(), &[]);
    lines[240..].iter().for_each(|line| engine.happens(line));
    folder.eventually_lines(&["query", "-q"], &lines);
    recorder.stop();
    let recorder = folder.record(&engine.host(), &["--retain", "20d"]);
    // At most the entries up to the next link are older.
    let left = left_by(&folder, &recorder);
    assert!((480..480 + 64).contains(&left.len()) && lines.ends_with(&left), "{}", left.len());
    let status = &folder.json(&["status", "--json"])[0];
    let pruned = &status["db"]["pruned"];
    assert_eq!(pruned["events"], 1000 - left.len());
    assert!(left[0].contains(&format!("\"timeNano\":{}", parse_nano(&pruned["kept_from"]))), "{pruned}");
    let shown = String::from_utf8(folder.run(&["status"]).succeeded().stdout).unwrap();
    assert!(shown.contains(&format!("\n  pruned    {} events, ", 1000 - left.len())), "{shown}");
    // Who asks for what went is told so, and nobody else.
    let kept_from = pruned["kept_from"].as_str().unwrap();
    let told = format!("this window begins in what was pruned: the oldest event left is of {kept_from}\n");
    assert_eq!(folder.run(&["query", "--since", "2000-01-01T00:00:00Z"]).exited(0).stderr, told);
    assert_eq!(folder.run(&["query", "--until", "2000-01-01T00:00:00Z"]).exited(0).stderr, told);
    folder.run(&["query", "--since", kept_from]).succeeded();
    folder.run(&["query"]).succeeded();
    recorder.stop();
    verified(&folder);
    // All that the engine remembers is older than a day but for the last 24: nothing of it comes back.
    let recorder = folder.record(&engine.host(), &["--retain", "1d"]);
    let left = left_by(&folder, &recorder);
    assert!(left.len() < 24 + 64, "{}", left.len());
    engine.breaks_streams();
    engine.happens(&event_at(1000, now()));
    folder.eventually("it goes on", || {
        let lines = folder.lines(&["query", "-q"]);
        if lines.len() == left.len() + 1 { Ok(()) } else { Err(lines.len()) }
    });
    recorder.stop();
    // A store that is new does not take what is older either, and has no gap for it.
    let fresh = Folder::new();
    let ran = fresh.run(&["record", "-H", &engine.host(), "--retain", "1d", "--until", "now"]).exited(0);
    assert!(ran.stderr.contains(" events were older than what is kept, and left out"), "{}", ran.stderr);
    assert_eq!(fresh.lines(&["query", "-q"]).len(), 25);
    assert_eq!(fresh.json(&["gaps"]).len(), 1);
    verified(&fresh);
}

#[test]
fn small_steps_take_apart_nothing_that_belongs_together() {
    let lines = days(100);
    let folder = imported(&lines);
    // Nobody is there: what is stored is let go of all the same.
    let recorder = folder.start(&["record", "-H", "unix:///nowhere.sock", "--max-size", "600kB"]);
    folder.eventually("the file is small", || {
        let size = fs::metadata(folder.db()).unwrap().len();
        if size <= 600_000 { Ok(()) } else { Err(size) }
    });
    recorder.stop();
    verified(&folder);
    let left = folder.lines(&["query", "-q"]);
    let same = imported(&lines[lines.len() - left.len()..]);
    for words in
        [&["query", "-q"][..], &["query", "-q", "--action", "exec_die"], &["query", "-q", "--container", "web"]]
    {
        assert_eq!(folder.lines(words), same.lines(words), "{words:?}");
    }
    assert!(left.len() > 1_000 && left.len() < lines.len(), "{}", left.len());
}

fn parse_nano(time: &serde_json::Value) -> i64 {
    events::query::time::parse_time(time.as_str().unwrap(), 0).unwrap()
}

#[test]
fn while_recording_the_file_stays_small_and_what_the_engine_remembers_does_not_come_again() {
    let folder = Folder::new();
    let (quiet, busy) = (Engine::start(folder.path("quiet.sock")), Engine::start(folder.path("busy.sock")));
    busy.is_called("BUSY", "busy");
    (0..100).for_each(|n| quiet.happens(&event_at(n, now() - DAY)));
    let words = ["record", "-H", &quiet.host(), "-H", &busy.host(), "--max-size", "300kB"];
    let recorder = folder.start(&words);
    let count = |source: &str| folder.lines(&["query", "-q", "--count", "--source", source])[0].parse::<u64>().unwrap();
    folder.eventually("both are recorded", || {
        let ran = folder.run(&["status", "--json"]);
        let all = String::from_utf8(ran.stdout).unwrap();
        if all.matches("\"connected\":true").count() == 2 { Ok(()) } else { Err(all) }
    });
    folder.eventually("the quiet one's are stored", || if count("sim") == 100 { Ok(()) } else { Err(()) });
    let mut number = 1000;
    folder.eventually("they go", || {
        (0..500).for_each(|n| busy.happens(&event_at(number + n, now())));
        number += 500;
        let left = count("sim");
        if left == 0 { Ok(()) } else { Err(left) }
    });
    let size = || fs::metadata(folder.db()).unwrap().len();
    folder.eventually("the file is small", || if size() <= 300_000 { Ok(()) } else { Err(size()) });
    // The engine remembers all of them, and tells them again at each contact; a new one comes with them.
    for round in 0..3 {
        quiet.breaks_streams();
        quiet.happens(&event_at(200 + round, now()));
        folder.eventually("a new one is stored", || if count("sim") > round { Ok(()) } else { Err(()) });
        assert_eq!(count("sim"), round + 1);
    }
    recorder.stop();
    let recorder = folder.start(&words);
    quiet.happens(&event_at(300, now()));
    folder.eventually("a new one is stored", || if count("sim") > 3 { Ok(()) } else { Err(()) });
    assert_eq!(count("sim"), 4);
    recorder.stop();
    verified(&folder);
}

#[test]
fn wrong_words() {
    let folder = Folder::new();
    let ran = folder.run(&["prune"]).exited(2);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    folder.run(&["prune", "--retain", "x"]).exited(2);
    folder.run(&["prune", "--max-size", "10"]).failed(2, "--max-size '10' has no unit (hint: write 10MiB, or 10GiB)");
    let ran = folder.run(&["record", "--max-size", "10kB"]).exited(2);
    assert!(
        ran.stderr.starts_with("events: --max-size 10kB is less than an empty store has (hint: the least is "),
        "{}",
        ran.stderr
    );
    folder.run(&["prune", "--retain", "1d"]).exited(1);
    assert!(!crate::support::command::exists(&folder.db()));
}

/// An event of a container with a label and a command that nobody else has.
fn with_a_word(n: u64, nano: i64) -> String {
    format!(
        r#"{{"Type":"container","Action":"exec_create: /bin/login p4ss-{n:04}","Actor":{{"ID":"{n:064x}","Attributes":{{"execID":"{n:064x}","image":"busybox","name":"box-{n}","token":"t0ken-{n:04}"}}}},"scope":"local","time":{},"timeNano":{nano}}}"#,
        nano / 1_000_000_000
    )
}

/// The numbers of those events of which a word stands anywhere in the file or in its WAL.
fn words_in(folder: &Folder) -> BTreeSet<u64> {
    let mut wal = folder.db().into_os_string();
    wal.push("-wal");
    let bytes = [fs::read(folder.db()).unwrap(), fs::read(wal).unwrap_or_default()].concat();
    let mut numbers = BTreeSet::new();
    for word in [&b"p4ss-"[..], b"t0ken-"] {
        for at in memchr::memmem::find_iter(&bytes, word) {
            let digits = &bytes[at + word.len()..][..4];
            numbers.insert(std::str::from_utf8(digits).unwrap().parse().unwrap());
        }
    }
    numbers
}

/// How many rows of texts there are that nobody uses.
fn unused(folder: &Folder) -> Vec<i64> {
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
fn of_what_went_no_word_stays_in_the_file() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let recorder = folder.record(&engine.host(), &[]);
    let old: Vec<String> = (0..2000).map(|n| with_a_word(n, now() - 2 * DAY + n as i64)).collect();
    let young: Vec<String> = (2000..2200).map(|n| with_a_word(n, now() - DAY / 2 + n as i64)).collect();
    old.iter().chain(&young).for_each(|line| engine.happens(line));
    folder.eventually_lines(&["query", "-q", "--count"], &["2200".to_owned()]);
    recorder.stop();
    assert_eq!(words_in(&folder), (0..2200).collect());
    // Somebody reads it meanwhile, and keeps what he reads in use for a while.
    let reader = Connection::open(folder.db()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM event").unwrap();
    let recorder = folder.record(&engine.host(), &["--retain", "1d"]);
    folder.eventually("what is older goes", || {
        let left = folder.lines(&["query", "-q"]).len();
        if left < 200 + 64 { Ok(()) } else { Err(left) }
    });
    drop(reader);
    // It begins to sweep when nothing more is to go; and it empties its WAL once nobody reads it.
    let left: BTreeSet<u64> = (2200 - folder.lines(&["query", "-q"]).len() as u64..2200).collect();
    folder.eventually("their words go", || {
        let more: Vec<u64> = words_in(&folder).difference(&left).copied().collect();
        if more.is_empty() { Ok(()) } else { Err(format!("{} words, {:?}", more.len(), more.first())) }
    });
    assert_eq!(words_in(&folder), left);
    recorder.stop();
    assert_eq!(unused(&folder), [0; 4]);
    verified(&folder);
    let copy = folder.path("copy.db");
    folder.run(&["backup", "-q", copy.to_str().unwrap()]).exited(0);
    // Up to the last link nothing is left; what comes then is given IDs that nobody had.
    folder.run(&["prune", "-q", "--retain", "1s"]).succeeded();
    let last: BTreeSet<u64> = (2200 - folder.lines(&["query", "-q"]).len() as u64..2200).collect();
    assert!(last.len() < 64);
    assert_eq!((words_in(&folder), unused(&folder)), (last, vec![0; 4]));
    let number =
        |sql: &str| -> i64 { Connection::open(folder.db()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap() };
    let reused = ["actor", "label", "shape", "form"]
        .map(|table| format!("SELECT count(*) FROM {table} WHERE id <= (SELECT {table} FROM swept)"));
    let before = reused.each_ref().map(|sql| number(sql));
    assert!(number("SELECT min(actor, label, shape) FROM swept") >= 2200);
    folder.run(&["import", "-q", copy.to_str().unwrap()]).exited(0);
    assert_eq!(words_in(&folder), left);
    assert_eq!(reused.each_ref().map(|sql| number(sql)), before);
    verified(&folder);
}

/// Where every container has labels of its own the texts would take the place of the events.
#[test]
fn texts_that_nobody_uses_do_not_take_the_place_of_events() {
    let folder = imported(&(0..9_000).map(|n| with_a_word(n, n as i64 + 1)).collect::<Vec<_>>());
    let size = fs::metadata(folder.db()).unwrap().len();
    for words in [&["prune", "-q", "--max-size"][..], &["record", "-q", "-H", "unix:///nowhere.sock", "--max-size"]] {
        let most = size / 2;
        let running = folder.start(&[words, &[&*format!("{most}B")]].concat());
        folder.eventually("the file is small", || {
            let size = fs::metadata(folder.db()).unwrap().len();
            if size <= most { Ok(()) } else { Err(size) }
        });
        if words[0] == "record" {
            running.stop();
        } else {
            drop(running.ended().succeeded());
        }
        // As many stay as have room.
        let left = folder.lines(&["query", "-q"]).len();
        assert!(left > 9_000 * 3 / 8, "{words:?}: {left}");
        folder.run(&["import", "-q", "days.ndjson"]).succeeded();
        verified(&folder);
    }
}

/// Lines that were no event go with the events that came after them, not by themselves.
#[test]
fn a_size_that_cannot_be_reached_is_said_to_be_so() {
    let folder = Folder::new();
    fs::write(folder.path("junk"), format!("{}\n", "x".repeat(50_000)).repeat(60)).unwrap();
    folder.run(&["import", "-q", "junk"]).exited(0);
    let ran = folder.run(&["prune", "--max-size", "600kB"]).exited(1);
    let hint =
        "more than --max-size (hint: nothing more can go: what is left are the newest entries and what must stay)\n";
    assert!(ran.stderr.ends_with(hint), "{}", ran.stderr);
    let recorder = folder.start(&["record", "-H", "unix:///nowhere.sock", "--max-size", "600kB"]);
    let said = format!("{}: nothing more can go, and the file is larger than it may be\n", folder.db().display());
    folder.eventually("it is said", || if recorder.log().contains(&said) { Ok(()) } else { Err(recorder.log()) });
    recorder.stop();
    assert_eq!(folder.lines(&["rejected"]).len(), 60);
}

/// What is told of the same few, again and again: texts go, and come again.
#[derive(Clone, Debug)]
enum Deed {
    Tell(u8),
    /// All but so many sixty-fourths of what is there goes, at most.
    Prune(u8),
    /// Texts are swept, and so much is told when half of that is done.
    Sweep(u8),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        3 => any::<u8>().prop_map(Deed::Tell),
        2 => (0u8..64).prop_map(Deed::Prune),
        2 => any::<u8>().prop_map(Deed::Sweep),
    ];
    proptest::collection::vec(deed, 1..24)
}

/// The recorder, as it is within: it goes on from one delivery to the next with what it remembers.
struct Told {
    queue: Arc<Queue>,
    source: Arc<SourceKey>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Told {
    fn tell(&self, seed: u8) {
        let mut lines = self.lines.lock().unwrap();
        let mut delivery = Delivery::new(self.source.clone(), 1);
        for at in 0..40 + u64::from(seed) {
            let n = lines.len() as u64;
            // Some twenty words, of which each stretch of time has a few.
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
        eventually("it is stored", || if self.queue.buffered() == 0 { Ok(()) } else { Err(()) });
    }
}

fn read(reader: &Reader) -> Vec<String> {
    let mut read = Vec::new();
    let all = Snapshot { after: 0, to: i64::MAX };
    let _ = reader
        .events(&Ask::default(), all, Order::Arrival, Judge::All, |stored| {
            read.push(String::from_utf8(stored.raw.to_vec()).unwrap());
            ControlFlow::<()>::Continue(())
        })
        .unwrap();
    read
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A recorder, somebody who prunes and sweeps beside it, and a reader: what is printed is the end of what was told,
    /// and whenever it is proven, it holds.
    #[test]
    fn whoever_sweeps_nothing_goes_that_is_used(deeds in deeds(), small in any::<bool>()) {
        let folder = Folder::new();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let queue = Arc::new(Queue::new(usize::MAX));
        let source = SourceKey { engine_id: Some("e".into()), name: "e".into(), renamed: false, host: None };
        let told = Told { queue: queue.clone(), source: Arc::new(source), lines: lines.clone() };
        let keep = Keep { age: None, bytes: small.then_some(200_000) };
        let limits = Limits { keep, ..Limits::default() };
        let writer = spawn_writer(Store::open_or_create(&folder.db()).unwrap(), queue.clone(), limits);
        told.tell(0);
        let over = Arc::new(AtomicBool::new(false));
        let beside = {
            let (over, lines, path) = (over.clone(), lines.clone(), folder.db());
            std::thread::spawn(move || {
                let reader = Reader::open(&path).unwrap();
                while !over.load(Ordering::Relaxed) {
                    let read = read(&reader);
                    reader.verify(&[], |fault| panic!("{fault}")).unwrap();
                    let lines = lines.lock().unwrap();
                    let mut lines = lines.iter();
                    assert!(read.iter().all(|line| lines.any(|told| told == line)), "in order, and as they were told");
                }
            })
        };
        for deed in deeds {
            let mut other = Store::open(&folder.db()).unwrap();
            match deed {
                Deed::Tell(seed) => told.tell(seed),
                Deed::Prune(part) => {
                    let all = lines.lock().unwrap().len() as i64;
                    let before = all - all * i64::from(part) / 64;
                    while other.prune(before, u64::MAX, 1).unwrap().is_some() {}
                }
                Deed::Sweep(seed) => other.sweep(1, || if seed > 0 { told.tell(seed) }).unwrap(),
            }
            let found = read(&Reader::open(&folder.db()).unwrap());
            let lines = lines.lock().unwrap();
            prop_assert!(lines.ends_with(&found));
            prop_assert!(small || !found.is_empty());
        }
        queue.close();
        prop_assert!(writer.join().unwrap().failed.is_none());
        over.store(true, Ordering::Relaxed);
        beside.join().unwrap();
        let mut other = Store::open(&folder.db()).unwrap();
        let all = lines.lock().unwrap().len() as i64;
        while other.prune(all - 64, u64::MAX, 1).unwrap().is_some() {}
        other.sweep(1, || ()).unwrap();
        drop(other);
        prop_assert!(lines.lock().unwrap().ends_with(&read(&Reader::open(&folder.db()).unwrap())));
        prop_assert_eq!(unused(&folder), [0; 4]);
        verified(&folder);
    }
}
