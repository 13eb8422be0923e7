//! Containers' own health checks are left out where that is asked for, and nothing else is.

use std::fs;

use crate::support::command::{Folder, Running};
use crate::support::engine::{Engine, event};
use serde_json::{Value, json};

const CHECK: &str = "/bin/sh -c test -f /ok";

fn folder_and_engine() -> (Folder, Engine) {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    (folder, engine)
}

fn id(name: &str) -> String {
    name.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect()
}

/// The engine shows containers, each with what it checks its health by, if it does.
fn shows(engine: &Engine, containers: &[(&str, Option<&str>)]) {
    let listed: Vec<Value> = containers
        .iter()
        .map(|(name, _)| json!({"Id": id(name), "Names": [format!("/{name}")], "State": "running"}))
        .collect();
    engine.shows("/containers/json", &json!(listed).to_string());
    containers.iter().for_each(|(name, check)| tells(engine, name, *check));
}

/// The engine tells how a container is configured.
fn tells(engine: &Engine, name: &str, check: Option<&str>) {
    let config = check.map(|check| json!({"Test": ["CMD-SHELL", check]}));
    engine.shows(&format!("/containers/{}/json", id(name)), &json!({"Config": {"Healthcheck": config}}).to_string());
}

/// An event of a container at the `n`th second.
fn of(name: &str, action: &str, attributes: &str, n: u64) -> String {
    let (id, seconds) = (id(name), 1_790_000_000 + n);
    format!(
        r#"{{"status":"{action}","id":"{id}","from":"busybox","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{attributes}"image":"busybox","name":"{name}"}}}},"scope":"local","time":{seconds},"timeNano":{seconds}000000000}}"#
    )
}

/// What an engine tells of a command that runs in a container from the `n`th second on.
fn runs(name: &str, command: &str, n: u64) -> Vec<String> {
    let exec = format!("\"execID\":\"{n:064x}\",");
    vec![
        of(name, &format!("exec_create: {command}"), &exec, n),
        of(name, &format!("exec_start: {command}"), &exec, n + 1),
        of(name, "exec_die", &format!("{exec}\"exitCode\":\"0\","), n + 2),
    ]
}

fn happen(engine: &Engine, events: &[String]) {
    events.iter().for_each(|event| engine.happens(event));
}

/// How many events were left out, as `status` says.
fn left_out(folder: &Folder) -> u64 {
    folder.json(&["status", "--json"])[0]["sources"][0]["healthchecks_left_out"].as_u64().unwrap()
}

/// Waits until it is stored how a container is configured.
fn noted(folder: &Folder, name: &str) {
    folder.eventually("it is noted", || {
        let db = rusqlite::Connection::open(folder.db()).map_err(|e| e.to_string())?;
        let mut found =
            db.prepare("SELECT command FROM healthcheck WHERE container = ?1").map_err(|e| e.to_string())?;
        found.query_row([id(name)], |row| row.get::<_, String>(0)).map_err(|e| e.to_string())
    });
}

fn eventually_says(folder: &Folder, recorder: &Running, what: &str) {
    folder.eventually(&format!("it says: {what}"), || {
        if recorder.log().contains(what) { Ok(()) } else { Err(recorder.log()) }
    });
}

fn verified(folder: &Folder) {
    folder.run(&["verify", "-q"]).succeeded();
}

/// A history with health checks, a person's commands, and what else happens. What is left without the health checks.
fn history(engine: &Engine) -> (Vec<String>, Vec<String>) {
    shows(engine, &[("web", Some("test -f /ok")), ("db", None)]);
    let (check, person) = (runs("web", CHECK, 10), runs("web", "id", 11));
    let other = [of("web", "start", "", 1), of("web", "health_status: healthy", "", 15), of("db", "start", "", 2)];
    // In another container the same command is a person's.
    let same = runs("db", CHECK, 30);
    // Two at once, and one whose end comes much later.
    let all = [&other[..], &check[..2], &person, &check[2..], &same, &runs("web", CHECK, 40)].concat();
    let left = [&other[..], &person, &same].concat();
    let by_time = |mut events: Vec<String>| {
        events.sort_by_key(|event| event.split("timeNano").nth(1).map(str::to_owned));
        events
    };
    happen(engine, &all);
    (by_time(all), by_time(left))
}

#[test]
fn a_query_leaves_out_health_checks_and_nothing_else() {
    let (folder, engine) = folder_and_engine();
    let (all, left) = history(&engine);
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(&["query"], &all);
    noted(&folder, "web");
    noted(&folder, "db");
    recorder.stop();
    let without = |words: &[&str]| folder.lines(&[&["query", "--no-healthchecks"], words].concat());
    assert_eq!(without(&[]), left);
    assert_eq!(without(&["--count"]), [left.len().to_string()]);
    assert_eq!(without(&["--reverse"]), left.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(without(&["--last", "2"]), left[left.len() - 2..]);
    assert_eq!(without(&["--limit", "3"]), left[..3]);
    assert_eq!(without(&["--action", "exec_die", "--container", "web"]).len(), 1);
    // A window that begins inside of a health check.
    assert_eq!(without(&["--since", "1790000041"]), [] as [&str; 0]);
    assert_eq!(folder.lines(&["replay", "--speed", "max", "--no-healthchecks"]), left);
    assert!(
        folder
            .lines(&["query", "--explain", "--no-healthchecks"])
            .iter()
            .any(|line| line.starts_with("health checks: "))
    );
    assert_eq!(left_out(&folder), 0);
    verified(&folder);
    // Found without what is remembered from event to event, too.
    let db = rusqlite::Connection::open(folder.db()).unwrap();
    let ends: i64 = db
        .query_row(
            "SELECT count(*) FROM event WHERE typeof(exec_id) = 'integer' AND exit_code IS NOT NULL",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(ends, 4);
}

#[test]
fn what_is_known_goes_for_what_came_before_and_is_followed_and_served() {
    let (folder, engine) = folder_and_engine();
    let before = runs("web", CHECK, 10);
    happen(&engine, &before);
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(&["query"], &before);
    let told = "the health checks of 1 container are not known (their configuration was never seen): none of their 3 exec events is left out";
    folder.eventually("that cannot be told", || {
        let ran = folder.run(&["query", "--no-healthchecks"]);
        if ran.stderr.contains(told) && ran.lines() == before { Ok(()) } else { Err(ran.report()) }
    });
    assert!(folder.run(&["query", "--no-healthchecks", "-q"]).stderr.is_empty());
    // It is started anew, and so asked for again.
    tells(&engine, "web", Some("test -f /ok"));
    let start = of("web", "start", "", 20);
    engine.happens(&start);
    noted(&folder, "web");
    assert_eq!(folder.lines(&["query", "--no-healthchecks"]), std::slice::from_ref(&start));
    let mut follower = folder.start(&["query", "--no-healthchecks", "--follow", "--limit", "3"]);
    let lines = follower.printed();
    assert_eq!(crate::support::command::next(&lines), start);
    happen(&engine, &runs("web", CHECK, 30));
    happen(&engine, &runs("web", "id", 40)[..2]);
    assert_eq!(
        [crate::support::command::next(&lines), crate::support::command::next(&lines)],
        runs("web", "id", 40)[..2]
    );
    follower.ended().succeeded();
    recorder.stop();
    let listen = format!("unix://{}", folder.path("served.sock").display());
    let _server = folder.start(&["serve", "-q", "--no-healthchecks", "--listen", &listen]);
    folder.eventually("it is served", || {
        let mut client = folder.command(&["record", "-q", "-H", &listen, "--until", "now"]);
        client.env("EVENTS_DB", folder.path("of-served.db"));
        crate::support::command::run(client);
        let db = folder.path("of-served.db").display().to_string();
        let ran = folder.run(&["query", "-q", "--db", &db]);
        let expected = [std::slice::from_ref(&start), &runs("web", "id", 40)[..2]].concat();
        if ran.lines() == expected { Ok(()) } else { Err(ran.report()) }
    });
}

#[test]
fn imports_and_files_are_not_told_apart_and_that_is_said() {
    let folder = Folder::new();
    let events = [runs("web", CHECK, 10), runs("db", "id", 20), vec![event(0)]].concat();
    fs::write(folder.path("day.ndjson"), events.join("\n")).unwrap();
    folder.run(&["import", "-q", "day.ndjson"]).succeeded();
    let ran = folder.run(&["query", "--no-healthchecks"]).exited(0);
    assert_eq!(ran.lines().len(), 7);
    assert_eq!(ran.stderr.matches("the health checks of 2 containers are not known").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("none of their 6 exec events is left out"), "{}", ran.stderr);
    // Only of what is printed.
    let ran = folder.run(&["query", "--no-healthchecks", "--container", "db", "--limit", "1"]).exited(0);
    assert!(ran.stderr.contains("none of their 1 exec event is left out"), "{}", ran.stderr);
    folder.run(&["query", "--no-healthchecks", "--action", "create"]).succeeded();
    let ran = folder.run(&["replay", "--no-healthchecks", "--speed", "max", "day.ndjson"]).exited(0);
    assert_eq!(ran.lines().len(), 7);
    assert!(ran.stderr.contains("does not stand in files of events"), "{}", ran.stderr);
}

#[test]
fn a_record_without_health_checks_counts_them_once_and_is_continuous() {
    let (folder, engine) = folder_and_engine();
    let (_, left) = history(&engine);
    let words = ["--no-healthchecks", "--look-again", "20ms"];
    let recorder = folder.record(&engine.host(), &words);
    folder.eventually_lines(&["query"], &left);
    folder.eventually("they are counted", || match left_out(&folder) {
        6 => Ok(()),
        other => Err(other),
    });
    // The same again from the engine's memory: after a cut, and after a restart of the recorder.
    engine.cuts_connections();
    happen(&engine, &runs("web", CHECK, 60));
    folder.eventually("the next is counted", || if left_out(&folder) == 9 { Ok(()) } else { Err(left_out(&folder)) });
    // What the stream leaves out is found by the second look, and is none either.
    runs("web", CHECK, 70).iter().for_each(|event| engine.happens_unheard(event));
    happen(&engine, &[event(200)]);
    folder
        .eventually("so is what was unheard", || if left_out(&folder) == 12 { Ok(()) } else { Err(left_out(&folder)) });
    recorder.stop();
    // The last event seen was none that is stored.
    let recorder = folder.record(&engine.host(), &words);
    happen(&engine, &runs("web", CHECK, 80)[..2]);
    folder.eventually("what came since is counted", || {
        if left_out(&folder) == 14 { Ok(()) } else { Err(left_out(&folder)) }
    });
    recorder.kill();
    let recorder = folder.record(&engine.host(), &words);
    happen(&engine, &runs("web", CHECK, 80)[2..]);
    happen(&engine, &runs("web", "ls", 90));
    let expected = [&left[..], &runs("web", "ls", 90), &[event(200)]].concat();
    folder.eventually_lines(&["query"], &expected);
    assert_eq!(left_out(&folder), 15);
    recorder.stop();
    let gaps: Vec<Value> = folder.json(&["gaps"]);
    assert_eq!(gaps.iter().map(|gap| gap["reason"].as_str().unwrap()).collect::<Vec<_>>(), ["first-contact"]);
    assert!(
        String::from_utf8(folder.run(&["status"]).stdout)
            .unwrap()
            .contains("\n  left out  15 events of health checks\n")
    );
    verified(&folder);
}

#[test]
fn the_memory_alone_is_recorded_without_health_checks_too() {
    let (folder, engine) = folder_and_engine();
    let (_, left) = history(&engine);
    folder.run(&["record", "-q", "-H", &engine.host(), "--until", "now", "--no-healthchecks"]).exited(0);
    assert_eq!(folder.lines(&["query"]), left);
    assert_eq!(left_out(&folder), 6);
}

#[test]
fn a_container_that_came_while_recording_is_known_before_it_checks() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["--no-healthchecks"]);
    tells(&engine, "new", Some("test -f /ok"));
    let create = of("new", "create", "", 1);
    engine.happens(&create);
    noted(&folder, "new");
    happen(&engine, &runs("new", CHECK, 10));
    let person = runs("new", "sh -c date", 20);
    happen(&engine, &person);
    folder.eventually_lines(&["query"], &[&[create], &person[..]].concat());
    assert_eq!(left_out(&folder), 3);
    let asked = engine.requests().iter().filter(|request| request.contains(&id("new"))).count();
    assert_eq!(asked, 1);
    recorder.stop();
}

#[test]
fn what_comes_before_the_answer_waits_for_it_a_little_and_no_longer() {
    let (folder, engine) = folder_and_engine();
    let page = format!("/containers/{}/json", id("slow"));
    engine.withholds(&page);
    let recorder = folder.record(&engine.host(), &["--no-healthchecks"]);
    let check = runs("slow", CHECK, 10);
    happen(&engine, &check[..2]);
    engine.happens(&event(0));
    // It is stored after a while, for nothing is lost; and the whole of it is, though the answer comes meanwhile.
    let stored = [&[event(0)], &check[..2]].concat();
    folder.eventually_lines(&["query"], &stored);
    eventually_says(&folder, &recorder, "none of their exec events is left out");
    tells(&engine, "slow", Some("test -f /ok"));
    noted(&folder, "slow");
    engine.happens(&check[2]);
    happen(&engine, &runs("slow", CHECK, 20));
    let stored = [&stored[..], &check[2..]].concat();
    folder.eventually_lines(&["query"], &stored);
    folder.eventually(
        "the next one is left out",
        || if left_out(&folder) == 3 { Ok(()) } else { Err(left_out(&folder)) },
    );
    // A query knows better.
    assert_eq!(folder.lines(&["query", "--no-healthchecks"]), [event(0)]);

    // One whose answer comes in time.
    engine.withholds(&format!("/containers/{}/json", id("soon")));
    engine.happens(&runs("soon", CHECK, 30)[0]);
    folder.eventually("it is asked", || {
        if engine.requests().iter().any(|r| r.contains(&id("soon"))) { Ok(()) } else { Err(()) }
    });
    tells(&engine, "soon", Some("test -f /ok"));
    happen(&engine, &runs("soon", CHECK, 30)[1..]);
    folder.eventually("it is left out", || if left_out(&folder) == 6 { Ok(()) } else { Err(left_out(&folder)) });
    assert_eq!(folder.lines(&["query"]), stored);
    recorder.stop();
    verified(&folder);
}

#[test]
fn a_container_that_is_gone_too_soon_is_stored_and_that_is_said_once() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["--no-healthchecks"]);
    let all = [runs("gone", CHECK, 10), runs("gone", CHECK, 20), runs("lost", CHECK, 30)].concat();
    happen(&engine, &all);
    folder.eventually_lines(&["query"], &all);
    recorder.signal("TERM");
    let ran = recorder.ended().exited(0);
    assert_eq!(ran.stderr.matches("none of their exec events is left out").count(), 1, "{}", ran.stderr);
    assert_eq!(left_out(&folder), 0);
}

#[test]
fn a_command_that_was_taken_out_is_told_apart_all_the_same() {
    for (redact, secret) in [("exec", "s3cret"), ("s[0-9]cret", "s3cret")] {
        let (folder, engine) = folder_and_engine();
        shows(&engine, &[("web", Some("mysqladmin ping -ps3cret"))]);
        let check = |n| runs("web", "/bin/sh -c mysqladmin ping -ps3cret", n);
        // Before the recorder begins, so that it must be asked first; and after.
        happen(&engine, &check(10));
        let recorder = folder.record(&engine.host(), &["--redact", redact]);
        noted(&folder, "web");
        happen(&engine, &check(20));
        let person = runs("web", "mysql -ps9cret", 30);
        happen(&engine, &person);
        let count = || folder.lines(&["query", "--count"]);
        folder.eventually("all is stored", || if count() == ["9"] { Ok(()) } else { Err(count()) });
        recorder.stop();
        let left = folder.lines(&["query", "--no-healthchecks"]);
        assert_eq!(left.len(), 3, "{redact}: {left:#?}");
        assert!(left.iter().all(|line| line.contains(&format!("{:064x}", 30))), "{left:#?}");
        verified(&folder);
        // Nor does the store tell it: not the file, and not by a digest of it.
        let db = rusqlite::Connection::open(folder.db()).unwrap();
        db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let command: String = db.query_row("SELECT command FROM healthcheck", [], |row| row.get(0)).unwrap();
        assert!(command.contains("[redacted]") && !command.contains(secret), "{command}");
        drop(db);
        let bytes = fs::read(folder.db()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
        // The mark is part of what is proven.
        let db = rusqlite::Connection::open(folder.db()).unwrap();
        assert!(db.execute("UPDATE shape SET exec = 3 WHERE exec = 2", []).unwrap() > 0);
        assert_eq!(folder.lines(&["query", "--no-healthchecks", "--count"]), ["9"]);
        folder.run(&["verify", "-q"]).exited(1);
    }
}

#[test]
fn how_a_container_is_configured_outlives_a_pruning() {
    let (folder, engine) = folder_and_engine();
    let (all, _) = history(&engine);
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(&["query"], &all);
    noted(&folder, "web");
    noted(&folder, "db");
    let many: Vec<String> = (0..60).flat_map(|n| runs("web", CHECK, 100 + 10 * n)).collect();
    happen(&engine, &many);
    // Behind the last event, so that the end of the chain is not one.
    engine.sends_junk(b"no event");
    folder.eventually("all is stored", || {
        let stored = (folder.lines(&["query"]).len(), folder.lines(&["rejected"]).len());
        if stored == (all.len() + many.len(), 1) { Ok(()) } else { Err(stored) }
    });
    recorder.stop();
    let names = || -> Vec<String> {
        let db = rusqlite::Connection::open(folder.db()).unwrap();
        let mut rows = db.prepare("SELECT container FROM healthcheck ORDER BY seq").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let before = names();
    // Containers that are still there, though nothing is left of what they did.
    folder.run(&["prune", "-q", "--retain", "1ns"]).succeeded();
    verified(&folder);
    let rest = folder.lines(&["query"]).len();
    assert!(rest > 3 && rest < 64, "{rest}");
    assert_eq!(names(), before);
    // Of an exec that is cut in the middle the end may be left.
    let without = folder.lines(&["query", "--no-healthchecks"]);
    assert!(without.len() <= 1, "{without:?}");
    // Containers that are gone, and of which nothing is left.
    let text = (0..200).map(event).collect::<Vec<_>>().join("\n");
    fs::write(folder.path("more.ndjson"), text).unwrap();
    folder.run(&["import", "-q", "more.ndjson"]).succeeded();
    rusqlite::Connection::open(folder.db()).unwrap().execute("DELETE FROM snapshot", []).unwrap();
    folder.run(&["prune", "-q", "--retain", "1ns"]).succeeded();
    verified(&folder);
    assert_eq!(names(), [] as [&str; 0]);
}

/// A proxy that lets through `/events` alone shows none, however often they start.
#[test]
fn a_container_that_is_not_shown_is_asked_for_twice_at_most() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["--look-again", "100ms"]);
    let asked = || engine.requests().iter().filter(|request| request.contains(&id("gone"))).count();
    let looks = || engine.requests().iter().filter(|request| request.contains("until=0")).count();
    for n in 0..10 {
        engine.happens(&of("gone", "start", "", n));
        // The next look brings it once more, and what is to be asked was asked before the look after that.
        let before = looks();
        folder.eventually("the memory is asked twice", || if looks() > before + 1 { Ok(()) } else { Err(before) });
    }
    recorder.stop();
    assert_eq!(asked(), 2);
}
