//! `--no-healthchecks` leaves out the exec events of containers' health checks, and nothing else.

use std::fs;

use crate::support::command::TestDir;
use crate::support::engine::{Engine, container_id, event, start_engine};
use serde_json::{Value, json};

const CHECK: &str = "/bin/sh -c test -f /ok";

/// Sets the containers that the engine lists, each with the command of its health check, if it has one.
fn set_containers(engine: &Engine, containers: &[(&str, Option<&str>)]) {
    let listed: Vec<Value> = containers
        .iter()
        .map(|(name, _)| json!({"Id": container_id(name), "Names": [format!("/{name}")], "State": "running"}))
        .collect();
    engine.set_response("/containers/json", &json!(listed).to_string());
    containers.iter().for_each(|(name, check)| set_healthcheck(engine, name, *check));
}

/// Sets the configuration that the engine returns for a container.
fn set_healthcheck(engine: &Engine, name: &str, check: Option<&str>) {
    let config = check.map(|check| json!({"Test": ["CMD-SHELL", check]}));
    let response = json!({"Config": {"Healthcheck": config}});
    engine.set_response(&format!("/containers/{}/json", container_id(name)), &response.to_string());
}

/// Returns an event of a container, `n` seconds after the start of the simulated time.
fn container_event(name: &str, action: &str, attributes: &str, n: u64) -> String {
    let (id, seconds) = (container_id(name), 1_790_000_000 + n);
    format!(
        r#"{{"status":"{action}","id":"{id}","from":"busybox","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{{attributes}"image":"busybox","name":"{name}"}}}},"scope":"local","time":{seconds},"timeNano":{seconds}000000000}}"#
    )
}

/// Returns the events of a command that runs in a container, from second `n` on.
fn exec_events(name: &str, command: &str, n: u64) -> Vec<String> {
    let exec = format!("\"execID\":\"{n:064x}\",");
    vec![
        container_event(name, &format!("exec_create: {command}"), &exec, n),
        container_event(name, &format!("exec_start: {command}"), &exec, n + 1),
        container_event(name, "exec_die", &format!("{exec}\"exitCode\":\"0\","), n + 2),
    ]
}

fn emit_all(engine: &Engine, events: &[String]) {
    events.iter().for_each(|event| engine.emit(event));
}

/// Number of events left out, from `status`.
fn left_out_count(test_dir: &TestDir) -> u64 {
    test_dir.json(&["status", "--json"])[0]["sources"][0]["healthchecks_left_out"].as_u64().unwrap()
}

/// Waits until exactly `expected` events are left out.
fn eventually_left_out(test_dir: &TestDir, expected: u64) {
    test_dir.eventually(&format!("{expected} events are left out"), || {
        let count = left_out_count(test_dir);
        if count == expected { Ok(()) } else { Err(count) }
    });
}

/// Waits until the health check of a container is stored.
fn wait_for_stored_healthcheck(test_dir: &TestDir, name: &str) {
    test_dir.eventually("the health check is stored", || {
        let db = rusqlite::Connection::open(test_dir.db()).map_err(|e| e.to_string())?;
        let mut found =
            db.prepare("SELECT command FROM healthcheck WHERE container = ?1").map_err(|e| e.to_string())?;
        found.query_row([container_id(name)], |row| row.get::<_, String>(0)).map_err(|e| e.to_string())
    });
}

/// Emits health checks, a person's commands and other events. Returns all of them, and those other than health checks.
fn emit_history(engine: &Engine) -> (Vec<String>, Vec<String>) {
    set_containers(engine, &[("web", Some("test -f /ok")), ("db", None)]);
    let (check, manual_exec) = (exec_events("web", CHECK, 10), exec_events("web", "id", 11));
    let other_events = [
        container_event("web", "start", "", 1),
        container_event("web", "health_status: healthy", "", 15),
        container_event("db", "start", "", 2),
    ];
    // In a container without a health check the same command is a person's.
    let same_command = exec_events("db", CHECK, 30);
    // Two commands overlap, and one health check starts much later.
    let all =
        [&other_events[..], &check[..2], &manual_exec, &check[2..], &same_command, &exec_events("web", CHECK, 40)]
            .concat();
    let kept = [&other_events[..], &manual_exec, &same_command].concat();
    let by_time = |mut events: Vec<String>| {
        events.sort_by_key(|event| event.split("timeNano").nth(1).map(str::to_owned));
        events
    };
    emit_all(engine, &all);
    (by_time(all), by_time(kept))
}

#[test]
fn query_leaves_out_health_checks_and_nothing_else() {
    let (test_dir, engine) = start_engine();
    let (all, kept) = emit_history(&engine);
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(&["query"], &all);
    wait_for_stored_healthcheck(&test_dir, "web");
    wait_for_stored_healthcheck(&test_dir, "db");
    recorder.stop();
    let query_without_checks = |args: &[&str]| test_dir.lines(&[&["query", "--no-healthchecks"], args].concat());
    assert_eq!(query_without_checks(&[]), kept);
    assert_eq!(query_without_checks(&["--count"]), [kept.len().to_string()]);
    assert_eq!(query_without_checks(&["--reverse"]), kept.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(query_without_checks(&["--last", "2"]), kept[kept.len() - 2..]);
    assert_eq!(query_without_checks(&["--limit", "3"]), kept[..3]);
    assert_eq!(query_without_checks(&["--action", "exec_die", "--container", "web"]).len(), 1);
    // A window that starts inside a health check.
    assert_eq!(query_without_checks(&["--since", "1790000041"]), [] as [&str; 0]);
    assert_eq!(test_dir.lines(&["replay", "--speed", "max", "--no-healthchecks"]), kept);
    assert!(
        test_dir
            .lines(&["query", "--explain", "--no-healthchecks"])
            .iter()
            .any(|line| line.starts_with("health checks: "))
    );
    assert_eq!(left_out_count(&test_dir), 0);
    test_dir.verify(&[]);
    // The stored rows alone link the end of an exec to its start.
    let db = rusqlite::Connection::open(test_dir.db()).unwrap();
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
fn a_health_check_learned_later_applies_to_earlier_events() {
    let (test_dir, engine) = start_engine();
    let before = exec_events("web", CHECK, 10);
    emit_all(&engine, &before);
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(&["query"], &before);
    let warning = "cannot exclude the health checks of 1 container: no configuration is stored (3 exec events kept)";
    test_dir.eventually("the query warns", || {
        let output = test_dir.run(&["query", "--no-healthchecks"]);
        if output.stderr.contains(warning) && output.lines() == before { Ok(()) } else { Err(output.report()) }
    });
    assert!(test_dir.run(&["query", "--no-healthchecks", "-q"]).stderr.is_empty());
    // The container starts again, so the recorder requests its configuration again.
    set_healthcheck(&engine, "web", Some("test -f /ok"));
    let start = container_event("web", "start", "", 20);
    engine.emit(&start);
    wait_for_stored_healthcheck(&test_dir, "web");
    assert_eq!(test_dir.lines(&["query", "--no-healthchecks"]), std::slice::from_ref(&start));
    let mut follower = test_dir.start(&["query", "--no-healthchecks", "--follow", "--limit", "3"]);
    let lines = follower.stdout_lines();
    assert_eq!(crate::support::command::next_line(&lines), start);
    emit_all(&engine, &exec_events("web", CHECK, 30));
    emit_all(&engine, &exec_events("web", "id", 40)[..2]);
    assert_eq!(
        [crate::support::command::next_line(&lines), crate::support::command::next_line(&lines)],
        exec_events("web", "id", 40)[..2]
    );
    follower.wait().assert_success();
    recorder.stop();
    let listen = format!("unix://{}", test_dir.path("served.sock").display());
    let _server = test_dir.start(&["serve", "-q", "--no-healthchecks", "--listen", &listen]);
    test_dir.eventually("the events are served", || {
        let mut client = test_dir.command(&["record", "-q", "-H", &listen, "--until", "now"]);
        client.env("EVENTS_DB", test_dir.path("of-served.db"));
        crate::support::command::run(client);
        let db = test_dir.path("of-served.db").display().to_string();
        let output = test_dir.run(&["query", "-q", "--db", &db]);
        let expected = [std::slice::from_ref(&start), &exec_events("web", "id", 40)[..2]].concat();
        if output.lines() == expected { Ok(()) } else { Err(output.report()) }
    });
}

#[test]
fn imported_health_checks_are_kept_with_a_warning() {
    let test_dir = TestDir::new();
    let events = [exec_events("web", CHECK, 10), exec_events("db", "id", 20), vec![event(0)]].concat();
    fs::write(test_dir.path("day.ndjson"), events.join("\n")).unwrap();
    test_dir.run(&["import", "-q", "day.ndjson"]).assert_success();
    let output = test_dir.run(&["query", "--no-healthchecks"]).assert_exit_code(0);
    assert_eq!(output.lines().len(), 7);
    let warnings = output.stderr.matches("cannot exclude the health checks of 2 containers").count();
    assert_eq!(warnings, 1, "{}", output.stderr);
    assert!(output.stderr.contains("(6 exec events kept)"), "{}", output.stderr);
    // The warning covers only printed events.
    let output = test_dir.run(&["query", "--no-healthchecks", "--container", "db", "--limit", "1"]).assert_exit_code(0);
    assert!(output.stderr.contains("(1 exec event kept)"), "{}", output.stderr);
    test_dir.run(&["query", "--no-healthchecks", "--action", "create"]).assert_success();
    let output = test_dir.run(&["replay", "--no-healthchecks", "--speed", "max", "day.ndjson"]).assert_exit_code(0);
    assert_eq!(output.lines().len(), 7);
    assert!(output.stderr.contains("--no-healthchecks has no effect on files"), "{}", output.stderr);
}

#[test]
fn recording_without_health_checks_counts_each_once_and_stays_continuous() {
    let (test_dir, engine) = start_engine();
    let (_, kept) = emit_history(&engine);
    let args = ["--no-healthchecks", "--look-again", "20ms"];
    let recorder = test_dir.record(&engine.host(), &args);
    test_dir.eventually_lines(&["query"], &kept);
    eventually_left_out(&test_dir, 6);
    // The backlog sends the same events again, after a cut and after a restart of the recorder.
    engine.cut_connections();
    emit_all(&engine, &exec_events("web", CHECK, 60));
    eventually_left_out(&test_dir, 9);
    // The backlog check finds events that the stream left out; these are health checks too.
    engine.emit_all_to_backlog(&exec_events("web", CHECK, 70));
    emit_all(&engine, &[event(200)]);
    eventually_left_out(&test_dir, 12);
    recorder.stop();
    // The last event seen is not stored.
    let recorder = test_dir.record(&engine.host(), &args);
    emit_all(&engine, &exec_events("web", CHECK, 80)[..2]);
    eventually_left_out(&test_dir, 14);
    recorder.kill();
    let recorder = test_dir.record(&engine.host(), &args);
    emit_all(&engine, &exec_events("web", CHECK, 80)[2..]);
    emit_all(&engine, &exec_events("web", "ls", 90));
    let expected = [&kept[..], &exec_events("web", "ls", 90), &[event(200)]].concat();
    test_dir.eventually_lines(&["query"], &expected);
    assert_eq!(left_out_count(&test_dir), 15);
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
    assert!(
        String::from_utf8(test_dir.run(&["status"]).stdout)
            .unwrap()
            .contains("\n  left out  15 events of health checks\n")
    );
    test_dir.verify(&[]);
}

#[test]
fn recording_until_now_leaves_out_health_checks() {
    let (test_dir, engine) = start_engine();
    let (_, kept) = emit_history(&engine);
    test_dir.run(&["record", "-q", "-H", &engine.host(), "--until", "now", "--no-healthchecks"]).assert_exit_code(0);
    assert_eq!(test_dir.lines(&["query"]), kept);
    assert_eq!(left_out_count(&test_dir), 6);
}

#[test]
fn a_container_created_while_recording_is_known_before_its_first_check() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--no-healthchecks"]);
    set_healthcheck(&engine, "new", Some("test -f /ok"));
    let create = container_event("new", "create", "", 1);
    engine.emit(&create);
    wait_for_stored_healthcheck(&test_dir, "new");
    emit_all(&engine, &exec_events("new", CHECK, 10));
    let manual_exec = exec_events("new", "sh -c date", 20);
    emit_all(&engine, &manual_exec);
    test_dir.eventually_lines(&["query"], &[&[create], &manual_exec[..]].concat());
    assert_eq!(left_out_count(&test_dir), 3);
    let requests = engine.requests().iter().filter(|request| request.contains(&container_id("new"))).count();
    assert_eq!(requests, 1);
    recorder.stop();
}

#[test]
fn exec_events_wait_only_briefly_for_the_configuration() {
    let (test_dir, engine) = start_engine();
    let page = format!("/containers/{}/json", container_id("slow"));
    engine.block_path(&page);
    let recorder = test_dir.record(&engine.host(), &["--no-healthchecks"]);
    let check = exec_events("slow", CHECK, 10);
    emit_all(&engine, &check[..2]);
    engine.emit(&event(0));
    // The exec is stored after a while, so nothing is lost. Its last event is stored too, even after the response.
    let stored = [&[event(0)], &check[..2]].concat();
    test_dir.eventually_lines(&["query"], &stored);
    recorder.eventually_logs("the recorder stores all their exec events");
    set_healthcheck(&engine, "slow", Some("test -f /ok"));
    wait_for_stored_healthcheck(&test_dir, "slow");
    engine.emit(&check[2]);
    emit_all(&engine, &exec_events("slow", CHECK, 20));
    let stored = [&stored[..], &check[2..]].concat();
    test_dir.eventually_lines(&["query"], &stored);
    eventually_left_out(&test_dir, 3);
    // A query runs later and leaves out the first exec too.
    assert_eq!(test_dir.lines(&["query", "--no-healthchecks"]), [event(0)]);

    // Here the response arrives in time.
    engine.block_path(&format!("/containers/{}/json", container_id("soon")));
    engine.emit(&exec_events("soon", CHECK, 30)[0]);
    test_dir.eventually("the configuration is requested", || {
        if engine.requests().iter().any(|request| request.contains(&container_id("soon"))) { Ok(()) } else { Err(()) }
    });
    set_healthcheck(&engine, "soon", Some("test -f /ok"));
    emit_all(&engine, &exec_events("soon", CHECK, 30)[1..]);
    eventually_left_out(&test_dir, 6);
    assert_eq!(test_dir.lines(&["query"]), stored);
    recorder.stop();
    test_dir.verify(&[]);
}

#[test]
fn exec_events_of_a_removed_container_are_stored_and_logged_once() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--no-healthchecks"]);
    let all = [exec_events("gone", CHECK, 10), exec_events("gone", CHECK, 20), exec_events("lost", CHECK, 30)].concat();
    emit_all(&engine, &all);
    test_dir.eventually_lines(&["query"], &all);
    recorder.signal("TERM");
    let output = recorder.wait().assert_exit_code(0);
    assert_eq!(output.stderr.matches("the recorder stores all their exec events").count(), 1, "{}", output.stderr);
    assert_eq!(left_out_count(&test_dir), 0);
}

#[test]
fn redacted_health_checks_are_still_recognized() {
    for (redact, secret) in [("exec", "s3cret"), ("s[0-9]cret", "s3cret")] {
        let (test_dir, engine) = start_engine();
        set_containers(&engine, &[("web", Some("mysqladmin ping -ps3cret"))]);
        let check = |n| exec_events("web", "/bin/sh -c mysqladmin ping -ps3cret", n);
        // One check before the recorder starts, so the configuration must be requested first; and one after.
        emit_all(&engine, &check(10));
        let recorder = test_dir.record(&engine.host(), &["--redact", redact]);
        wait_for_stored_healthcheck(&test_dir, "web");
        emit_all(&engine, &check(20));
        let manual_exec = exec_events("web", "mysql -ps9cret", 30);
        emit_all(&engine, &manual_exec);
        let count = || test_dir.lines(&["query", "--count"]);
        test_dir.eventually("all events are stored", || if count() == ["9"] { Ok(()) } else { Err(count()) });
        recorder.stop();
        let kept = test_dir.lines(&["query", "--no-healthchecks"]);
        assert_eq!(kept.len(), 3, "{redact}: {kept:#?}");
        assert!(kept.iter().all(|line| line.contains(&format!("{:064x}", 30))), "{kept:#?}");
        test_dir.verify(&[]);
        // The file does not contain the secret either, nor a digest of it.
        let db = rusqlite::Connection::open(test_dir.db()).unwrap();
        db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let command: String = db.query_row("SELECT command FROM healthcheck", [], |row| row.get(0)).unwrap();
        assert!(command.contains("[redacted]") && !command.contains(secret), "{command}");
        drop(db);
        let bytes = fs::read(test_dir.db()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
        // The hash chain covers the health-check flag.
        let db = rusqlite::Connection::open(test_dir.db()).unwrap();
        assert!(db.execute("UPDATE shape SET exec = 3 WHERE exec = 2", []).unwrap() > 0);
        assert_eq!(test_dir.lines(&["query", "--no-healthchecks", "--count"]), ["9"]);
        test_dir.run(&["verify", "-q"]).assert_exit_code(1);
    }
}

#[test]
fn container_configurations_survive_pruning() {
    let (test_dir, engine) = start_engine();
    let (all, _) = emit_history(&engine);
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(&["query"], &all);
    wait_for_stored_healthcheck(&test_dir, "web");
    wait_for_stored_healthcheck(&test_dir, "db");
    let many: Vec<String> = (0..60).flat_map(|n| exec_events("web", CHECK, 100 + 10 * n)).collect();
    emit_all(&engine, &many);
    // A rejected line after the last event, so that the chain does not end with an event.
    engine.send_junk(b"no event");
    test_dir.eventually("all events are stored", || {
        let stored = (test_dir.lines(&["query"]).len(), test_dir.lines(&["rejected"]).len());
        if stored == (all.len() + many.len(), 1) { Ok(()) } else { Err(stored) }
    });
    recorder.stop();
    let names = || -> Vec<String> {
        let db = rusqlite::Connection::open(test_dir.db()).unwrap();
        let mut rows = db.prepare("SELECT container FROM healthcheck ORDER BY seq").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let before = names();
    // The containers still exist, though all their events are pruned.
    test_dir.run(&["prune", "-q", "--retain", "1ns"]).assert_success();
    test_dir.verify(&[]);
    let rest = test_dir.lines(&["query"]).len();
    assert!(rest > 3 && rest < 64, "{rest}");
    assert_eq!(names(), before);
    // Pruning may cut an exec in the middle and leave its end.
    let remaining = test_dir.lines(&["query", "--no-healthchecks"]);
    assert!(remaining.len() <= 1, "{remaining:?}");
    // The containers no longer exist, and all their events are pruned.
    let text = (0..200).map(event).collect::<Vec<_>>().join("\n");
    fs::write(test_dir.path("more.ndjson"), text).unwrap();
    test_dir.run(&["import", "-q", "more.ndjson"]).assert_success();
    rusqlite::Connection::open(test_dir.db()).unwrap().execute("DELETE FROM snapshot", []).unwrap();
    test_dir.run(&["prune", "-q", "--retain", "1ns"]).assert_success();
    test_dir.verify(&[]);
    assert_eq!(names(), [] as [&str; 0]);
}

/// A proxy that permits only `/events` never returns a container, however often it starts.
#[test]
fn a_hidden_container_is_requested_at_most_twice() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--look-again", "100ms"]);
    let requests = || engine.requests().iter().filter(|request| request.contains(&container_id("gone"))).count();
    let checks = || engine.requests().iter().filter(|request| request.contains("until=0")).count();
    for n in 0..10 {
        engine.emit(&container_event("gone", "start", "", n));
        // The next backlog check returns the event again. Its request is sent before the check after that.
        let before = checks();
        test_dir.eventually("two backlog checks have run", || if checks() > before + 1 { Ok(()) } else { Err(before) });
    }
    recorder.stop();
    assert_eq!(requests(), 2);
}
