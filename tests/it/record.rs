//! `record` stores each event once, and a gap wherever events may be missing.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::command::{TestDir, eventually, exists};
use crate::support::engine::{Behavior, Chunking, Engine, event, event_at, event_time, events, start_engine};

const ALL: &[&str] = &["query"];

#[test]
fn the_backlog_is_stored_before_live_events() {
    let (test_dir, engine) = start_engine();
    events(0..3).iter().for_each(|event| engine.emit(event));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(ALL, &events(0..3));
    events(3..6).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(ALL, &events(0..6));
    recorder.stop();
    assert_eq!(test_dir.lines(ALL), events(0..6));
    let gaps = test_dir.json(&["gaps"]);
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0]["reason"], "first-contact");
    assert_eq!(gaps[0]["from"], Value::Null);
    assert_eq!(gaps[0]["to"], event_time(0));
}

#[test]
fn events_are_requested_unversioned_and_unfiltered() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--filter", "type=container"]);
    test_dir.eventually("the backlog is requested", || {
        let requests = engine.requests();
        if requests.iter().any(|request| request.ends_with("until=0")) { Ok(()) } else { Err(requests) }
    });
    recorder.stop();
    let mut requests = engine.requests();
    assert_eq!(requests[..2], ["/_ping", "/v1.51/info"]);
    // A slow machine gives the recorder time for more: the containers, the version, another backlog.
    requests.retain(|request| request.contains("/events"));
    requests.sort();
    requests.dedup();
    assert_eq!(requests, ["/events?since=0", "/events?since=0&until=0"]);
}

#[test]
fn store_files_are_readable_only_by_their_owner() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    for name in ["events.db", "events.db-wal", "events.db-shm", "events.db.lock"] {
        let mode = test_dir.path(name).metadata().unwrap_or_else(|e| panic!("{name}: {e}")).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    recorder.stop();
    assert!(!exists(&test_dir.path("events.db-wal")));
}

#[test]
fn a_restarted_recorder_resumes_without_duplicates() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    events(0..5).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(ALL, &events(0..5));
    recorder.stop();
    events(5..9).iter().for_each(|event| engine.emit(event));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(ALL, &events(0..9));
    recorder.kill();
    events(9..12).iter().for_each(|event| engine.emit(event));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(ALL, &events(0..12));
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn the_recorder_reconnects_after_a_clean_or_cut_end_of_the_stream() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    for n in 1..6 {
        if n % 2 == 0 {
            engine.end_streams();
        } else {
            engine.cut_connections();
        }
        engine.emit(&event(n));
        test_dir.eventually_lines(ALL, &events(0..n + 1));
    }
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"], "continuity was established each time");
}

#[test]
fn a_restarted_engine_leaves_an_engine_restart_gap() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    events(0..3).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(ALL, &events(0..3));

    engine.stop();
    let open = test_dir.eventually("a gap is open", || {
        let gaps = test_dir.json(&["gaps"]);
        gaps.get(1).cloned().ok_or(gaps)
    });
    assert_eq!((open["from"].as_str(), open["to"].as_str()), (Some(event_time(2).as_str()), None), "{open}");
    assert_eq!(test_dir.json(&["status", "--json"])[0]["sources"][0]["connected"], false);

    engine.clear_backlog();
    engine.start_again();
    engine.emit(&event(7));
    engine.emit(&event(8));
    test_dir.eventually_lines(ALL, &events([0, 1, 2, 7, 8]));
    let gaps = test_dir.json(&["gaps"]);
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert_eq!(
        (gaps[1]["reason"].as_str(), gaps[1]["from"].as_str()),
        (Some("engine-restart"), Some(event_time(2).as_str()))
    );
    assert!(gaps[1]["to"].is_string());
    recorder.stop();

    // A later session changes nothing about the gap.
    test_dir.record_backlog(&engine.host(), &[]);
    assert_eq!(test_dir.gap_reasons(), ["first-contact", "engine-restart"]);
}

#[test]
fn a_gap_is_logged_with_fields() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--log-format", "json"]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    engine.stop();
    engine.clear_backlog();
    engine.start_again();
    engine.emit(&event(7));
    test_dir.eventually_lines(ALL, &events([0, 7]));
    recorder.signal("TERM");
    let logged = recorder.wait().assert_exit_code(0);
    let lines: Vec<Value> = logged.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let gap = lines.iter().find(|line| line["message"] == "gap").unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!(
        (&gap["level"], &gap["source"], &gap["reason"]),
        (&json!("WARN"), &json!("sim"), &json!("engine-restart"))
    );
    let stored = &test_dir.json(&["gaps"])[1];
    assert_eq!((&gap["from"], &gap["to"]), (&stored["from"], &stored["to"]));
    assert_eq!((&gap["span"]["name"], &gap["span"]["source"]), (&json!("session"), &json!("sim")));
    assert_eq!(gap["span"]["host"], engine.host());
}

#[test]
fn a_disconnect_with_an_intact_backlog_leaves_no_gap() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    engine.stop();
    test_dir.eventually_gap_reasons(&["first-contact", "disconnected"]);
    engine.emit(&event(1));
    engine.start_again();
    test_dir.eventually_lines(ALL, &events(0..2));
    test_dir.eventually_gap_reasons(&["first-contact"]);
    recorder.stop();
}

#[test]
fn more_events_than_the_backlog_are_an_overrun() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    events(1..300).iter().for_each(|event| engine.emit(event));
    let recorder = test_dir.record(&engine.host(), &[]);
    let obtainable: Vec<u64> = std::iter::once(0).chain(44..300).collect();
    test_dir.eventually_lines(ALL, &events(obtainable));
    recorder.stop();
    let gap = &test_dir.json(&["gaps"])[1];
    assert_eq!(gap["reason"], "overrun");
    assert_eq!((gap["from"].as_str(), gap["to"].as_str()), (Some(&*event_time(0)), Some(&*event_time(44))));
}

#[test]
fn exactly_a_full_backlog_is_no_gap() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    events(1..256).iter().for_each(|event| engine.emit(event));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(ALL, &events(0..256));
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn events_missing_from_the_stream_are_found_in_the_backlog() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--look-again", "50ms"]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    engine.emit_to_backlog(&event(1));
    engine.emit(&event(2));
    test_dir.eventually_lines(ALL, &events(0..3));
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn the_recorder_waits_for_an_engine_to_start() {
    let (test_dir, engine) = start_engine();
    engine.stop();
    let recorder = test_dir.start(&["record", "-H", &engine.host()]);
    recorder.eventually_logs("cannot connect");
    engine.start_again();
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    recorder.stop();
}

#[test]
fn invalid_responses_are_retried() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.start(&["record", "-H", &engine.host(), "-v"]);
    for response in [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 16\r\n\r\n{\"message\":\"no\"}",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "",
    ] {
        let before = engine.requests().len();
        engine.set_behavior(Behavior { raw_response: Some(response.into()), ..Behavior::default() });
        eventually("the recorder retries", || {
            if engine.requests().len() > before + 3 { Ok(()) } else { Err(recorder.log()) }
        });
    }
    engine.set_behavior(Behavior::default());
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    assert!(
        recorder.log().contains("responded to /events?since=0 with 500 Internal Server Error: no"),
        "{}",
        recorder.log()
    );
    recorder.stop();
}

#[test]
fn events_are_the_same_however_the_stream_is_chunked() {
    let (test_dir, engine) = start_engine();
    engine.set_behavior(Behavior { chunking: Chunking::PerByte, ..Behavior::default() });
    let multibyte_event = event(1).replace("box-0", "bücher-📦");
    engine.emit(&event(0));
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&multibyte_event);
    // An event with CRLF, an empty line, a json-seq record, and half an event.
    engine.send_raw(format!("{}\r\n\n\x1e{}\n{}", event(2), event(3), &event(4)[..50]).as_bytes());
    engine.send_raw(format!("{}\n", &event(4)[50..]).as_bytes());
    test_dir.eventually_lines(ALL, &[event(0), multibyte_event, event(2), event(3), event(4)]);
    recorder.stop();
    assert!(test_dir.lines(&["rejected"]).is_empty());
}

#[test]
fn lines_that_are_not_events_are_rejected_and_later_events_stored() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--max-event", "1kB"]);
    engine.send_raw(b"garbage\n");
    engine.emit(&event(0));
    engine.send_raw(b"{\"Type\":\"container\"}\n\xff\xfe\n");
    engine.send_raw(format!("{}\n", "x".repeat(5000)).as_bytes());
    engine.emit(&event(1));
    test_dir.eventually_lines(ALL, &events(0..2));
    let rejected = test_dir.json(&["rejected"]);
    let rejections: Vec<_> =
        rejected.iter().map(|line| (line["error"].as_str().unwrap(), line["bytes"].as_str().unwrap())).collect();
    let long = "eHh4".repeat(333) + "eA==";
    assert_eq!(
        rejections,
        [
            ("not JSON: expected a value at byte 0", "Z2FyYmFnZQ=="),
            ("no Action", "eyJUeXBlIjoiY29udGFpbmVyIn0="),
            ("not UTF-8 at byte 0", "//4="),
            ("line of 5000 bytes exceeds the limit", long.as_str()),
        ]
    );
    assert_eq!(rejected[0]["source"], "sim");
    assert_eq!(test_dir.json(&["status", "--json"])[0]["sources"][0]["rejected"], 4);
    recorder.stop();
}

#[test]
fn rejected_lines_past_the_limit_are_only_counted() {
    let (test_dir, engine) = start_engine();
    engine.emit(&event(0));
    for (round, stored) in [(1, 3), (2, 5)] {
        let limit = stored.to_string();
        let recorder = test_dir.record(&engine.host(), &["--rejected-limit", &limit]);
        (0..10).for_each(|n| engine.send_raw(format!("no event {round} {n}\n").as_bytes()));
        engine.emit(&event(round));
        test_dir.eventually("all lines are counted", || {
            let rejected = test_dir.json(&["status", "--json"])[0]["sources"][0]["rejected"].clone();
            if rejected == round * 10 { Ok(()) } else { Err(rejected) }
        });
        let warning = format!("{stored} rejected lines of sim are stored; more are only counted");
        assert_eq!(recorder.log().matches(&warning).count(), 1, "{}", recorder.log());
        recorder.stop();
        assert_eq!(test_dir.lines(&["rejected"]).len(), stored);
        test_dir.verify(&[]);
    }
}

#[test]
fn an_event_sent_again_with_other_bytes_is_stored_once() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    let other_bytes =
        event(0).replace("\"image\":\"busybox\",\"name\":\"box-0\"", "\"name\":\"box\\u002d0\", \"image\":\"busybox\"");
    assert_ne!(other_bytes, event(0));
    // The same time, but another event.
    let sibling = event(0).replace("create", "attach");
    engine.emit(&event(0));
    engine.send_raw(format!("{}\n{other_bytes}\n{sibling}\n{}\n", event(0), event(0)).as_bytes());
    engine.emit(&event(1));
    test_dir.eventually_lines(ALL, &[event(0), sibling, event(1)]);
    recorder.stop();
}

#[test]
fn events_after_a_backward_clock_step_are_stored() {
    let (test_dir, engine) = start_engine();
    let hour = 3_600_000_000_000;
    let earlier_events: Vec<String> =
        (0..4).map(|n| event_at(n, 1_790_000_000_000_000_000 + n as i64 - hour)).collect();
    let recorder = test_dir.record(&engine.host(), &[]);
    events(0..4).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(ALL, &events(0..4));
    recorder.stop();
    engine.emit(&earlier_events[0]);
    engine.emit(&earlier_events[1]);
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(ALL, &[earlier_events[..2].to_vec(), events(0..4)].concat());
    engine.cut_connections();
    engine.emit(&earlier_events[2]);
    engine.emit(&earlier_events[3]);
    test_dir.eventually_lines(ALL, &[earlier_events.clone(), events(0..4)].concat());
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn a_filter_limits_what_is_stored_but_not_the_last_event_seen() {
    let (test_dir, engine) = start_engine();
    let filter_args = ["--filter", "event=start", "--exclude", "container=box-1"];
    let recorder = test_dir.record(&engine.host(), &filter_args);
    events(0..12).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(ALL, &events([1, 9]));
    recorder.stop();
    // More events than fit into the backlog: it no longer contains the last event stored, but the last event seen.
    let recorder = test_dir.record(&engine.host(), &filter_args);
    let filtered_out = events((12..400).filter(|n| n % 4 != 1));
    filtered_out.iter().for_each(|event| engine.emit(event));
    engine.send_raw(b"all seen\n");
    test_dir.eventually("all events are seen", || {
        if test_dir.lines(&["rejected"]).len() == 1 { Ok(()) } else { Err(recorder.log()) }
    });
    recorder.kill();
    test_dir.record_backlog(&engine.host(), &filter_args);
    assert_eq!(test_dir.lines(ALL), events([1, 9]));
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn another_engine_at_the_same_host_is_another_source() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    engine.stop();
    engine.clear_backlog();
    engine.set_identity("0ther000-0000-4000-8000-000000000002", "sim");
    engine.start_again();
    engine.emit(&event(1));
    test_dir.eventually_lines(ALL, &events(0..2));
    recorder.stop();
    let gaps = test_dir.json(&["gaps"]);
    let sources: Vec<_> =
        gaps.iter().map(|gap| (gap["source"].as_str().unwrap(), gap["reason"].as_str().unwrap())).collect();
    assert_eq!(sources, [("sim", "first-contact"), ("sim", "engine-restart"), ("sim-0ther000", "first-contact")]);
    assert_eq!(gaps[1]["from"], event_time(0));
    assert!(gaps[1]["to"].is_string(), "{gaps:?}");
    assert_eq!(test_dir.lines(&["query", "--source", "sim-0ther000"]), events(1..2));
}

#[test]
fn an_engine_that_moves_to_another_socket_keeps_its_history() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    let link = test_dir.path("moved.sock");
    engine.stop();
    engine.start_again();
    std::os::unix::fs::symlink(test_dir.path("docker.sock"), &link).unwrap();
    engine.emit(&event(1));
    let recorder = test_dir.record(&format!("unix://{}", link.display()), &[]);
    test_dir.eventually_lines(ALL, &events(0..2));
    recorder.stop();
    let status = &test_dir.json(&["status", "--json"])[0];
    assert_eq!(status["sources"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!(status["sources"][0]["host"], format!("unix://{}", link.display()));
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn several_hosts_share_a_store_and_one_that_is_down_delays_none() {
    let test_dir = TestDir::new();
    let (a, b) = (Engine::start(test_dir.path("a.sock")), Engine::start(test_dir.path("b.sock")));
    b.set_identity("b0000000-0000-4000-8000-00000000000b", "sim");
    let unreachable_host = format!("unix://{}", test_dir.path("nobody.sock").display());
    let recorder =
        test_dir.start(&["record", "-H", &unreachable_host, "-H", &a.host(), "-H", &format!("build={}", b.host())]);
    a.emit(&event(0));
    b.emit(&event(1));
    test_dir.eventually_lines(ALL, &events(0..2));
    assert_eq!(test_dir.lines(&["query", "--source", "build"]), events(1..2));
    assert_eq!(test_dir.lines(&["query", "--source", "sim"]), events(0..1));
    recorder.stop();
}

#[test]
fn one_engine_under_two_hosts_is_recorded_once() {
    let (test_dir, engine) = start_engine();
    let link = test_dir.path("again.sock");
    std::os::unix::fs::symlink(test_dir.path("docker.sock"), &link).unwrap();
    let recorder = test_dir.start(&["record", "-H", &engine.host(), "-H", &format!("unix://{}", link.display())]);
    recorder.eventually_logs(" reaches the same engine as unix://");
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    assert_eq!(engine.subscriber_count(), 1);
    recorder.stop();
    assert_eq!(test_dir.json(&["status", "--json"])[0]["sources"].as_array().map(Vec::len), Some(1));
}

/// A host that now reaches an engine that another host records waits, and reports nothing about its previous engine.
#[test]
fn a_host_that_reaches_a_recorded_engine_waits() {
    let test_dir = TestDir::new();
    let (a, b) = (Engine::start(test_dir.path("a.sock")), Engine::start(test_dir.path("b.sock")));
    b.set_identity("b0000000-0000-4000-8000-00000000000b", "b");
    let recorder = test_dir.start(&["record", "-H", &a.host(), "-H", &b.host()]);
    a.emit(&event(0));
    b.emit(&event(1));
    test_dir.eventually_lines(ALL, &events(0..2));
    b.stop();
    test_dir.eventually_gap_reasons(&["first-contact", "first-contact", "disconnected"]);
    b.set_identity("7a5c1ed0-0000-4000-8000-000000000001", "sim");
    b.start_again();
    recorder.eventually_logs(" reaches the same engine as unix://");
    assert!(!recorder.log().contains("now reaches another engine"), "{}", recorder.log());
    assert_eq!(test_dir.gap_reasons(), ["first-contact", "first-contact", "disconnected"]);
    recorder.stop();
}

#[test]
fn until_now_records_the_backlog_and_exits() {
    let (test_dir, engine) = start_engine();
    events(0..200).iter().for_each(|event| engine.emit(event));
    let record_once = ["record", "-H", &engine.host(), "--until", "now", "-q"];
    test_dir.run(&record_once).assert_success();
    assert_eq!(test_dir.lines(ALL), events(0..200));
    engine.emit(&event(200));
    test_dir.run(&record_once).assert_success();
    assert_eq!(test_dir.lines(ALL), events(0..201));
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
    assert!(!engine.requests().contains(&"/events?since=0".to_owned()));
}

#[test]
fn until_now_without_an_engine_fails() {
    let test_dir = TestDir::new();
    let record_once = ["record", "-H", "unix:///nowhere/docker.sock", "--until", "now", "-q"];
    let output = test_dir.run(&record_once).assert_exit_code(1);
    assert!(
        output.stderr.contains("events: cannot connect to unix:///nowhere/docker.sock: No such file"),
        "{}",
        output.stderr
    );
}

#[test]
fn until_stops_at_the_given_time() {
    let (test_dir, engine) = start_engine();
    engine.emit(&event(0));
    test_dir.run(&["record", "-H", &engine.host(), "--until", "-500ms", "-q"]).assert_success();
    assert_eq!(test_dir.lines(ALL), events(0..1));
}

#[test]
fn a_stopped_recorder_loses_and_duplicates_nothing() {
    let (test_dir, engine) = start_engine();
    for round in 0..20 {
        let recorder = test_dir.record(&engine.host(), &[]);
        test_dir.eventually_lines(ALL, &events(0..round * 50));
        events(round * 50..(round + 1) * 50).iter().for_each(|event| engine.emit(event));
        recorder.stop();
        // Events that it had not read yet arrive in the next backlog.
    }
    test_dir.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).assert_success();
    assert_eq!(test_dir.lines(ALL), events(0..1000));
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn a_killed_recorder_loses_and_duplicates_nothing() {
    let (test_dir, engine) = start_engine();
    for round in 0..20 {
        let recorder = test_dir.record(&engine.host(), &[]);
        // Events that the killed recorder had not stored arrive in the backlog.
        test_dir.eventually_lines(ALL, &events(0..round * 50));
        events(round * 50..(round + 1) * 50).iter().for_each(|event| engine.emit(event));
        recorder.kill();
    }
    test_dir.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).assert_success();
    assert_eq!(test_dir.lines(ALL), events(0..1000));
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn an_endless_backlog_response_does_not_prevent_recording() {
    let (test_dir, engine) = start_engine();
    engine.emit(&event(0));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    engine.set_behavior(Behavior { endless_backlog: true, ..Behavior::default() });
    engine.clear_backlog();
    engine.emit(&event(5));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(ALL, &events([0, 5]));
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact", "engine-restart"]);
}

#[test]
fn a_second_recorder_is_refused_unless_the_first_was_killed() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    let assert_refused = |pid: u32| {
        let line = format!(
            "cannot record into {}: another recorder (pid {pid}) is using the file (hint: pass another path with --db, or add this host to that recorder)",
            test_dir.db().display()
        );
        test_dir.run(&["record", "-H", &engine.host()]).assert_failure(1, &line);
    };
    assert_refused(recorder.pid());
    recorder.kill();
    let recorder = test_dir.record(&engine.host(), &[]);
    assert_refused(recorder.pid());
    recorder.stop();
}

/// Records two events, stops, and emits 198 more, so that the backlog is long and still contains the last event seen.
fn fill_backlog_after_recording(test_dir: &TestDir, engine: &Engine) {
    engine.emit(&event(0));
    engine.emit(&event(1));
    test_dir.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).assert_success();
    events(2..200).iter().for_each(|event| engine.emit(event));
}

#[test]
fn a_slow_backlog_is_not_mistaken_for_a_restart() {
    let (test_dir, engine) = start_engine();
    fill_backlog_after_recording(&test_dir, &engine);
    engine.set_behavior(Behavior { stall_after: Some(1), ..Behavior::default() });
    let recorder = test_dir.record(&engine.host(), &["-v"]);
    recorder.eventually_logs("did not end its response");
    engine.resume();
    test_dir.eventually_lines(ALL, &events(0..200));
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn a_gap_is_withdrawn_if_the_last_event_seen_arrives_late() {
    let (test_dir, engine) = start_engine();
    fill_backlog_after_recording(&test_dir, &engine);
    engine.set_behavior(Behavior { stall_after: Some(1), ..Behavior::default() });
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_gap_reasons(&["first-contact", "engine-restart"]);
    engine.resume();
    test_dir.eventually_gap_reasons(&["first-contact"]);
    test_dir.eventually_lines(ALL, &events(0..200));
    recorder.stop();
}

#[test]
fn until_now_reports_an_endless_backlog_response() {
    let (test_dir, engine) = start_engine();
    events(0..3).iter().for_each(|event| engine.emit(event));
    engine.set_behavior(Behavior { endless_backlog: true, ..Behavior::default() });
    let output = test_dir.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).assert_exit_code(1);
    assert!(output.stderr.contains("did not end its response to /events?since=0&until=0"), "{}", output.stderr);
    assert_eq!(test_dir.lines(ALL), events(0..3), "the events that arrived are stored");
}

#[test]
fn until_now_waits_for_the_store_when_the_buffer_is_full() {
    let test_dir = TestDir::new();
    let (a, b) = (Engine::start(test_dir.path("a.sock")), Engine::start(test_dir.path("b.sock")));
    b.set_identity("b0000000-0000-4000-8000-00000000000b", "b");
    events(0..200).iter().for_each(|event| a.emit(event));
    events(0..200).iter().for_each(|event| b.emit(event));
    test_dir
        .run(&["record", "-H", &a.host(), "-H", &b.host(), "--until", "now", "-q", "--buffer", "1"])
        .assert_success();
    assert_eq!(test_dir.lines(&["query", "--count", "--source", "sim"]), ["200"]);
    assert_eq!(test_dir.lines(&["query", "--count", "--source", "b"]), ["200"]);
}

#[test]
fn a_stream_that_drops_more_than_the_backlog_leaves_a_gap() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--look-again", "50ms"]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    // At one moment: a backlog check in between would store the first ones.
    engine.emit_all_to_backlog(&events(1..400));
    let obtainable: Vec<u64> = std::iter::once(0).chain(144..400).collect();
    test_dir.eventually("the backlog is stored", || {
        let lines = test_dir.run(ALL).lines();
        if lines == events(obtainable.iter().copied()) { Ok(()) } else { Err(lines.len()) }
    });
    let gap = &test_dir.json(&["gaps"])[1];
    assert_eq!(gap["reason"], "overrun");
    assert_eq!((gap["from"].as_str(), gap["to"].as_str()), (Some(&*event_time(0)), Some(&*event_time(144))));
    recorder.stop();
}

#[test]
fn streams_that_are_always_cut_count_as_disconnected() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    engine.set_behavior(Behavior { cut_at_start: true, ..Behavior::default() });
    engine.cut_connections();
    test_dir.eventually_gap_reasons(&["first-contact", "disconnected"]);
    assert!(recorder.log().contains("the recorder retries until it succeeds"), "{}", recorder.log());
    engine.set_behavior(Behavior::default());
    engine.emit(&event(1));
    test_dir.eventually_lines(ALL, &events(0..2));
    test_dir.eventually_gap_reasons(&["first-contact"]);
    recorder.stop();
}

#[test]
fn reconnecting_to_an_idle_engine_extends_no_gap() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["-v"]);
    let first = test_dir.eventually("the first gap is stored", || test_dir.json(&["gaps"]).pop().ok_or("none"));
    for n in 1..=3 {
        engine.end_streams();
        test_dir.eventually("the recorder has reconnected", || {
            if engine.subscriber_count() == 1 { Ok(()) } else { Err(engine.requests()) }
        });
        // A rejected line is stored once continuity is established, and changes no gap.
        engine.send_junk(b"not an event");
        test_dir.eventually("continuity is established", || {
            let rejected = test_dir.json(&["rejected"]).len();
            if rejected == n { Ok(()) } else { Err(rejected) }
        });
        assert_eq!(test_dir.json(&["gaps"]), std::slice::from_ref(&first));
    }
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    assert_eq!(test_dir.json(&["gaps"]), [first]);
}

#[test]
fn renaming_an_engine_duplicates_nothing() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    for (n, name) in ["sim", "box", "sim", "box"].into_iter().enumerate() {
        engine.set_identity("7a5c1ed0-0000-4000-8000-000000000001", name);
        engine.cut_connections();
        engine.emit(&event(n as u64));
        test_dir.eventually_lines(ALL, &events(0..=n as u64));
    }
    recorder.stop();
    assert_eq!(test_dir.lines(&["query", "--source", "sim"]), events(0..4), "the first name stays");
}

#[test]
fn a_disconnect_gap_belongs_to_the_engine_recorded_last() {
    let (test_dir, engine) = start_engine();
    let (a, b) = ("a0000000-0000-4000-8000-00000000000a", "b0000000-0000-4000-8000-00000000000b");
    for (n, id) in [a, b, a].into_iter().enumerate() {
        engine.set_identity(id, &id[..1]);
        engine.clear_backlog();
        engine.emit(&event(n as u64));
        test_dir.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).assert_exit_code(0);
    }
    let before = test_dir.json(&["gaps"]);
    engine.stop();
    let recorder = test_dir.start(&["record", "-H", &engine.host()]);
    let open = test_dir.eventually("a gap is open", || {
        let gaps = test_dir.json(&["gaps"]);
        gaps.iter().find(|gap| gap["to"].is_null()).cloned().ok_or(gaps)
    });
    assert_eq!((open["source"].as_str(), open["from"].as_str()), (Some("a"), Some(event_time(2).as_str())));
    engine.start_again();
    test_dir.eventually("the gap is withdrawn", || {
        let gaps = test_dir.json(&["gaps"]);
        if gaps == before { Ok(()) } else { Err(gaps) }
    });
    recorder.stop();
    assert_eq!(test_dir.json(&["gaps"]), before);
}

#[test]
fn until_with_one_engine_under_two_hosts_succeeds() {
    let (test_dir, engine) = start_engine();
    engine.emit(&event(0));
    let second_host = format!("again={}", engine.host());
    test_dir.run(&["record", "-H", &engine.host(), "-H", &second_host, "--until", "-1s", "-q"]).assert_exit_code(0);
    assert_eq!(test_dir.lines(ALL), events(0..1));
}

/// Renames the store as `mv` does: its `-wal` and `-shm` files stay. Returns the new path.
fn move_store_away(test_dir: &TestDir) -> std::path::PathBuf {
    let moved = test_dir.path("moved.db");
    std::fs::rename(test_dir.db(), &moved).unwrap();
    moved
}

/// Returns the lines of a store after an integrity check.
fn lines_in(test_dir: &TestDir, db: &Path) -> Vec<String> {
    let db = db.display().to_string();
    let lines = test_dir.lines(&["query", "-q", "--db", &db]);
    let check = rusqlite::Connection::open(&db).unwrap();
    assert_eq!(check.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok", "{db}");
    lines
}

/// Checks the only gap of a store that replaces one that disappeared.
fn assert_only_gap_is_store_failed(test_dir: &TestDir, oldest: u64) {
    let gaps = test_dir.json(&["gaps"]);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0]["reason"].as_str(), gaps[0]["from"].as_str()), (Some("store-failed"), None), "{gaps:?}");
    assert_eq!(gaps[0]["to"], event_time(oldest));
    assert!(gaps[0]["detail"].as_str().is_some_and(|detail| detail.contains("moved, deleted or replaced")), "{gaps:?}");
}

#[test]
fn a_moved_store_stays_intact_and_a_new_one_is_created() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    events(0..300).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(&["query", "--count"], &["300".into()]);
    let moved = move_store_away(&test_dir);
    // Kept open, so that no new file gets its inode.
    let stale = std::fs::File::open(test_dir.path("events.db-wal")).unwrap();
    events(300..310).iter().for_each(|event| engine.emit(event));
    // The new file contains the backlog and all events from then on.
    test_dir.eventually_lines(ALL, &events(54..310));
    events(310..320).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(ALL, &events(54..320));
    assert_ne!(
        test_dir.path("events.db-wal").metadata().unwrap().ino(),
        stale.metadata().unwrap().ino(),
        "each store has its own WAL"
    );
    let status = &test_dir.json(&["status", "--json"])[0];
    assert_eq!(
        (status["recorder"]["pid"].as_u64(), status["sources"][0]["events"].as_u64()),
        (Some(recorder.pid().into()), Some(266))
    );
    let log = recorder.log();
    let warning = format!("{} was moved or deleted; events read so far are in the old file", test_dir.db().display());
    assert_eq!(log.matches(&warning).count(), 1, "{log}");
    recorder.signal("TERM");
    let output = recorder.wait().assert_exit_code(0);
    assert_only_gap_is_store_failed(&test_dir, 54);
    // The moved file is complete without the files that stayed.
    assert_eq!(lines_in(&test_dir, &moved)[..300], events(0..300));
    let (before, after) = (lines_in(&test_dir, &moved).len(), lines_in(&test_dir, &test_dir.db()).len());
    assert!(output.stderr.contains(&format!("stopped: {} events stored", before + after)), "{}", output.stderr);
}

#[test]
fn a_deleted_store_is_created_again() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    for name in ["events.db", "events.db-wal", "events.db-shm", "events.db.lock"] {
        std::fs::remove_file(test_dir.path(name)).unwrap();
    }
    engine.emit(&event(1));
    test_dir.eventually_lines(ALL, &events(0..2));
    assert_eq!(test_dir.db().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // The new store is locked too.
    test_dir.run(&["record", "-H", &engine.host()]).assert_exit_code(1);
    recorder.stop();
    assert_only_gap_is_store_failed(&test_dir, 0);
}

#[test]
fn a_deleted_lock_file_is_created_again() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    std::fs::remove_file(test_dir.path("events.db.lock")).unwrap();
    test_dir.eventually("status shows the recorder again", || {
        let status = test_dir.json(&["status", "--json"]).remove(0);
        if status["recorder"]["pid"] == recorder.pid() { Ok(()) } else { Err(recorder.log()) }
    });
    engine.emit(&event(1));
    test_dir.eventually_lines(ALL, &events(0..2));
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"], "the store is the same, and nothing was missed");
}

#[test]
fn recording_continues_in_a_store_that_replaces_the_first() {
    let (test_dir, engine) = start_engine();
    // Another store with the first event of the engine.
    engine.emit(&event(0));
    let other = test_dir.path("other.db").display().to_string();
    test_dir.run(&["record", "--db", &other, "-H", &engine.host(), "--until", "now", "-q"]).assert_success();
    let recorder = test_dir.record(&engine.host(), &[]);
    events(1..5).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(ALL, &events(0..5));
    std::fs::rename(&other, test_dir.db()).unwrap();
    recorder.eventually_logs("was replaced;");
    engine.emit(&event(5));
    test_dir.eventually_lines(ALL, &events(0..6));
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"], "the other store continued from its last event seen");
    assert_eq!(lines_in(&test_dir, &test_dir.db()), events(0..6));
}

#[test]
fn a_file_that_is_not_a_store_is_left_unchanged() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    let moved = move_store_away(&test_dir);
    std::fs::write(test_dir.db(), "notes").unwrap();
    let errors = || recorder.log().matches("it is not an SQLite database (hint").count();
    test_dir.eventually("the error is logged", || if errors() > 0 { Ok(()) } else { Err(recorder.log()) });
    engine.emit(&event(1));
    assert_eq!(std::fs::read(test_dir.db()).unwrap(), b"notes");
    std::fs::rename(&moved, test_dir.db()).unwrap();
    test_dir.eventually_lines(ALL, &events(0..2));
    assert_eq!(errors(), 1, "{}", recorder.log());
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"], "the store is back, and nothing was missed");
}

#[test]
fn recording_resumes_when_a_moved_directory_is_back() {
    let test_dir = TestDir::new();
    let engine = Engine::start(test_dir.path("docker.sock"));
    let (data_dir, moved_dir) = (test_dir.path("data"), test_dir.path("elsewhere"));
    std::fs::create_dir(&data_dir).unwrap();
    let db = data_dir.join("events.db").display().to_string();
    let query = ["query", "--db", &db];
    let recorder = test_dir.start(&["record", "--db", &db, "-H", &engine.host()]);
    engine.emit(&event(0));
    test_dir.eventually_lines(&query, &events(0..1));
    std::fs::rename(&data_dir, &moved_dir).unwrap();
    recorder.eventually_logs("there is no directory");
    events(1..4).iter().for_each(|event| engine.emit(event));
    assert_eq!(lines_in(&test_dir, &moved_dir.join("events.db")), events(0..1));
    std::fs::rename(&moved_dir, &data_dir).unwrap();
    test_dir.eventually_lines(&query, &events(0..4));
    // A waiting recorder can be stopped.
    std::fs::rename(&data_dir, &moved_dir).unwrap();
    test_dir.eventually("the recorder waits again", || {
        let times = recorder.log().matches("there is no directory").count();
        if times == 2 { Ok(()) } else { Err(recorder.log()) }
    });
    recorder.stop();
    assert_eq!(lines_in(&test_dir, &moved_dir.join("events.db")), events(0..4));
}

#[test]
fn clock_skew_is_shown_and_logged_once() {
    let (test_dir, engine) = start_engine();
    let skew = || test_dir.json(&["status", "--json"])[0]["sources"][0]["clock_skew_ms"].as_i64();
    let shown = || test_dir.lines(&["status"]).into_iter().find(|line| line.starts_with("  clock"));
    test_dir.record_backlog(&engine.host(), &[]);
    assert_eq!(skew(), None, "this engine does not report its clock");
    engine.set_clock_offset(Some(0));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually("the clock is compared", || if skew().is_some() { Ok(()) } else { Err(recorder.log()) });
    recorder.stop();
    assert!(skew().is_some_and(|skew| skew.abs() < 1000), "{:?}", skew());
    assert_eq!(shown(), None);
    engine.set_clock_offset(Some(-90_000));
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.cut_connections();
    engine.emit(&event(0));
    test_dir.eventually_lines(ALL, &events(0..1));
    let warnings = recorder.log().matches("the clock of sim is 90.0 s behind this machine's").count();
    assert_eq!(warnings, 1, "{}", recorder.log());
    recorder.stop();
    assert!(skew().is_some_and(|skew| (skew + 90_000).abs() < 1000), "{:?}", skew());
    assert_eq!(shown().as_deref(), Some("  clock     90.0 s behind this machine's"));
}

#[test]
fn reconnecting_an_idle_stream_logs_nothing() {
    let (test_dir, engine) = start_engine();
    engine.emit(&event(0));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(ALL, &events(0..1));
    let before = recorder.log();
    for _ in 0..3 {
        let requests = engine.requests().len();
        engine.end_streams();
        test_dir.eventually("the recorder has reconnected", || {
            if engine.subscriber_count() == 1 && engine.requests().len() >= requests + 4 {
                Ok(())
            } else {
                Err(engine.requests())
            }
        });
    }
    engine.emit(&event(1));
    test_dir.eventually_lines(ALL, &events(0..2));
    assert_eq!(recorder.log(), before, "a routine reconnect is not logged");
    recorder.stop();
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
}

#[test]
fn two_long_outages_are_logged_once_each() {
    let (test_dir, engine) = start_engine();
    engine.emit(&event(0));
    let recorder = test_dir.record(&engine.host(), &["-v"]);
    test_dir.eventually_lines(ALL, &events(0..1));
    for round in 1..3 {
        let before = recorder.log().matches("cannot connect").count();
        engine.stop();
        test_dir.eventually_gap_reasons(&["first-contact", "disconnected"]);
        test_dir.eventually("the recorder has retried often", || {
            if recorder.log().matches("cannot connect").count() > before + 4 { Ok(()) } else { Err(recorder.log()) }
        });
        engine.start_again();
        engine.emit(&event(round));
        test_dir.eventually_lines(ALL, &events(0..=round));
        test_dir.eventually_gap_reasons(&["first-contact"]);
        let log = recorder.log();
        assert_eq!(log.matches("the recorder retries until it succeeds").count() as u64, round, "{log}");
        assert_eq!(log.matches(": engine sim (").count() as u64, round + 1, "{log}");
    }
    recorder.stop();
}
