//! The oldest part of the record is let go of, and what is left is proven all the same.

mod support;

use std::fs;

use support::command::Folder;
use support::engine::{Engine, event_at};
use support::fixture;

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
    folder.run(&["prune", "-q", "--max-size", "1"]).succeeded();
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
    folder.run(&["prune", "-q", "--max-size", &(before / 2).to_string()]).succeeded();
    assert!(size() <= before / 2 + (64 << 10), "{before} {}", size());
    assert!(size() > before / 4, "{before} {}", size());
    verified(&folder);
    let db = rusqlite::Connection::open(folder.db()).unwrap();
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
    let db = rusqlite::Connection::open(folder.db()).unwrap();
    let open: i64 = db.query_row("SELECT count(*) FROM gap WHERE to_nano IS NULL", [], |row| row.get(0)).unwrap();
    assert_eq!(open, 0);
    drop(db);
    folder.run(&["prune", "-q", "--max-size", "100kB"]).succeeded();
    let envelopes = folder.json(&["query", "-q", "--envelope"]);
    assert!(envelopes.iter().all(|line| line["source"] == "imported" || line["source"] == "engine"));
    verified(&folder);
}

/// So many events, an hour apart, the last one now.
fn hours(numbers: std::ops::Range<u64>) -> Vec<String> {
    let (now, end) = (now(), numbers.end);
    numbers.map(|n| event_at(n, now - (end - 1 - n) as i64 * DAY / 24)).collect()
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
    let left = folder.eventually("what is older than 20 days goes", || {
        let left = folder.lines(&["query", "-q"]);
        if left.len() < 480 + 64 { Ok(left) } else { Err(left.len()) }
    });
    assert!(left.len() >= 480 && lines.ends_with(&left), "{}", left.len());
    let status = &folder.json(&["status", "--json"])[0];
    let pruned = &status["db"]["pruned"];
    assert_eq!(pruned["events"], 1000 - left.len());
    assert!(left[0].contains(&format!("\"timeNano\":{}", parse_nano(&pruned["kept_from"]))), "{pruned}");
    let shown = String::from_utf8(folder.run(&["status"]).succeeded().stdout).unwrap();
    assert!(shown.contains(&format!("\n  pruned    {} events, ", 1000 - left.len())), "{shown}");
    recorder.stop();
    verified(&folder);
    // All that the engine remembers is older than a day but for the last 24: nothing of it comes back.
    let recorder = folder.record(&engine.host(), &["--retain", "1d"]);
    folder.eventually("all but a day goes", || {
        let left = folder.lines(&["query", "-q"]).len();
        if left < 24 + 64 { Ok(()) } else { Err(left) }
    });
    let left = folder.lines(&["query", "-q"]);
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
    folder.run(&["prune", "--retain", "1d"]).exited(1);
    assert!(!support::command::exists(&folder.db()));
}
