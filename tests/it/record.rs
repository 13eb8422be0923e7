//! What `record` stores, and that it stores it once.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::support::command::{Folder, eventually, exists};
use crate::support::engine::{Engine, Manner, Pieces, event, event_at, events, instant};

const ALL: &[&str] = &["query"];

fn folder_and_engine() -> (Folder, Engine) {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    (folder, engine)
}

fn reasons(folder: &Folder) -> Vec<String> {
    folder.json(&["gaps"]).iter().map(|gap| gap["reason"].as_str().unwrap_or("null").to_owned()).collect()
}

/// Waits until these, and no others, are the reasons of the gaps.
fn eventually_reasons(folder: &Folder, expected: &[&str]) {
    folder.eventually(&format!("the gaps are {expected:?}"), || {
        let reasons = reasons(folder);
        if reasons == expected { Ok(()) } else { Err(reasons) }
    });
}

#[test]
fn the_memory_comes_first_then_what_happens() {
    let (folder, engine) = folder_and_engine();
    events(0..3).iter().for_each(|event| engine.happens(event));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(ALL, &events(0..3));
    events(3..6).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(ALL, &events(0..6));
    recorder.stop();
    assert_eq!(folder.lines(ALL), events(0..6));
    let gaps = folder.json(&["gaps"]);
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0]["reason"], "first-contact");
    assert_eq!(gaps[0]["from"], serde_json::Value::Null);
    assert_eq!(gaps[0]["to"], instant(0));
}

#[test]
fn events_are_asked_for_unversioned_and_unfiltered_the_rest_at_the_negotiated_version() {
    let (folder, engine) = folder_and_engine();
    folder.record(&engine.host(), &["--filter", "type=container"]).stop();
    let mut requests = engine.requests();
    assert_eq!(requests[..2], ["/_ping", "/v1.51/info"]);
    requests.retain(|request| request != "/v1.51/containers/json?all=1");
    requests[2..].sort();
    assert_eq!(requests[2..], ["/events?since=0", "/events?since=0&until=0"]);
}

#[test]
fn the_file_is_readable_by_its_owner_alone() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    for name in ["events.db", "events.db-wal", "events.db-shm", "events.db.lock"] {
        let mode = folder.path(name).metadata().unwrap_or_else(|e| panic!("{name}: {e}")).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    recorder.stop();
    assert!(!exists(&folder.path("events.db-wal")));
}

#[test]
fn a_restart_of_the_recorder_goes_on_where_it_was() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    events(0..5).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(ALL, &events(0..5));
    recorder.stop();
    events(5..9).iter().for_each(|event| engine.happens(event));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(ALL, &events(0..9));
    recorder.kill();
    events(9..12).iter().for_each(|event| engine.happens(event));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(ALL, &events(0..12));
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn a_clean_end_of_the_stream_is_a_lost_engine_that_is_sought_again() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    for n in 1..6 {
        if n % 2 == 0 {
            engine.ends_streams();
        } else {
            engine.cuts_connections();
        }
        engine.happens(&event(n));
        folder.eventually_lines(ALL, &events(0..n + 1));
    }
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"], "continuity was proven each time");
}

#[test]
fn a_restarted_engine_leaves_a_gap_that_says_so() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    events(0..3).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(ALL, &events(0..3));

    engine.goes_away();
    let open = folder.eventually("a gap is open", || {
        let gaps = folder.json(&["gaps"]);
        gaps.get(1).cloned().ok_or(gaps)
    });
    assert_eq!((open["from"].as_str(), open["to"].as_str()), (Some(instant(2).as_str()), None), "{open}");
    assert_eq!(folder.json(&["status", "--json"])[0]["sources"][0]["connected"], false);

    engine.forgets();
    engine.come_back();
    engine.happens(&event(7));
    engine.happens(&event(8));
    folder.eventually_lines(ALL, &events([0, 1, 2, 7, 8]));
    let gaps = folder.json(&["gaps"]);
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert_eq!(
        (gaps[1]["reason"].as_str(), gaps[1]["from"].as_str()),
        (Some("engine-restart"), Some(instant(2).as_str()))
    );
    assert!(gaps[1]["to"].is_string());
    recorder.stop();

    // The gap is one, whatever comes later.
    folder.record(&engine.host(), &[]).stop();
    assert_eq!(reasons(&folder), ["first-contact", "engine-restart"]);
}

#[test]
fn an_engine_that_was_only_away_leaves_no_gap() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    engine.goes_away();
    eventually_reasons(&folder, &["first-contact", "disconnected"]);
    engine.happens(&event(1));
    engine.come_back();
    folder.eventually_lines(ALL, &events(0..2));
    eventually_reasons(&folder, &["first-contact"]);
    recorder.stop();
}

#[test]
fn more_than_the_engine_remembers_is_an_overrun() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    events(1..300).iter().for_each(|event| engine.happens(event));
    let recorder = folder.record(&engine.host(), &[]);
    let kept: Vec<u64> = std::iter::once(0).chain(44..300).collect();
    folder.eventually_lines(ALL, &events(kept));
    recorder.stop();
    let gap = &folder.json(&["gaps"])[1];
    assert_eq!(gap["reason"], "overrun");
    assert_eq!((gap["from"].as_str(), gap["to"].as_str()), (Some(instant(0).as_str()), Some(instant(44).as_str())));
}

#[test]
fn exactly_what_the_engine_remembers_is_no_gap() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    events(1..256).iter().for_each(|event| engine.happens(event));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(ALL, &events(0..256));
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn what_the_stream_leaves_out_is_found_in_the_memory() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["--look-again", "50ms"]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    engine.happens_unheard(&event(1));
    engine.happens(&event(2));
    folder.eventually_lines(ALL, &events(0..3));
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn an_engine_that_is_not_there_yet_is_waited_for() {
    let (folder, engine) = folder_and_engine();
    engine.goes_away();
    let recorder = folder.start(&["record", "-H", &engine.host()]);
    folder.eventually("it says so", || {
        if recorder.log().contains("cannot connect") { Ok(()) } else { Err(recorder.log()) }
    });
    engine.come_back();
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    recorder.stop();
}

#[test]
fn whatever_is_no_stream_is_tried_again() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.start(&["record", "-H", &engine.host(), "-v"]);
    for answer in [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 16\r\n\r\n{\"message\":\"no\"}",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "",
    ] {
        let before = engine.requests().len();
        engine.answers(Manner { instead: Some(answer.into()), ..Manner::default() });
        eventually(
            "it tries again",
            || if engine.requests().len() > before + 3 { Ok(()) } else { Err(recorder.log()) },
        );
    }
    engine.answers(Manner::default());
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    assert!(
        recorder.log().contains("answers /events?since=0 with 500 Internal Server Error: no"),
        "{}",
        recorder.log()
    );
    recorder.stop();
}

#[test]
fn bytes_in_any_pieces_are_the_same_events() {
    let (folder, engine) = folder_and_engine();
    engine.answers(Manner { pieces: Pieces::Bytes, ..Manner::default() });
    let wide = event(1).replace("box-0", "bücher-📦");
    engine.happens(&event(0));
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&wide);
    // Several at once, half of one, and a json-seq record.
    engine.sends(format!("{}\r\n\n\x1e{}\n{}", event(2), event(3), &event(4)[..50]).as_bytes());
    engine.sends(format!("{}\n", &event(4)[50..]).as_bytes());
    folder.eventually_lines(ALL, &[event(0), wide, event(2), event(3), event(4)]);
    recorder.stop();
    assert!(folder.lines(&["rejected"]).is_empty());
}

#[test]
fn what_is_no_event_is_kept_apart_and_the_next_event_found() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["--max-event", "1kB"]);
    engine.sends(b"garbage\n");
    engine.happens(&event(0));
    engine.sends(b"{\"Type\":\"container\"}\n\xff\xfe\n");
    engine.sends(format!("{}\n", "x".repeat(5000)).as_bytes());
    engine.happens(&event(1));
    folder.eventually_lines(ALL, &events(0..2));
    let rejected = folder.json(&["rejected"]);
    let told: Vec<_> = rejected.iter().map(|r| (r["error"].as_str().unwrap(), r["bytes"].as_str().unwrap())).collect();
    let long = "eHh4".repeat(333) + "eA==";
    assert_eq!(
        told,
        [
            ("not JSON: expected a value at byte 0", "Z2FyYmFnZQ=="),
            ("no Action", "eyJUeXBlIjoiY29udGFpbmVyIn0="),
            ("not UTF-8 at byte 0", "//4="),
            ("a line of 5000 bytes is over the bound set", long.as_str()),
        ]
    );
    assert_eq!(rejected[0]["source"], "sim");
    assert_eq!(folder.json(&["status", "--json"])[0]["sources"][0]["rejected"], 4);
    recorder.stop();
}

#[test]
fn past_a_limit_what_is_no_event_is_only_counted() {
    let (folder, engine) = folder_and_engine();
    engine.happens(&event(0));
    for (round, kept) in [(1, 3), (2, 5)] {
        let limit = kept.to_string();
        let recorder = folder.record(&engine.host(), &["--rejected-limit", &limit]);
        (0..10).for_each(|n| engine.sends(format!("no event {round} {n}\n").as_bytes()));
        engine.happens(&event(round));
        folder.eventually("all of it came", || {
            let rejected = folder.json(&["status", "--json"])[0]["sources"][0]["rejected"].clone();
            if rejected == round * 10 { Ok(()) } else { Err(rejected) }
        });
        let said = format!("{kept} rejected lines of sim are kept; from now on they are only counted");
        assert_eq!(recorder.log().matches(&said).count(), 1, "{}", recorder.log());
        recorder.stop();
        assert_eq!(folder.lines(&["rejected"]).len(), kept);
        folder.run(&["verify", "-q"]).succeeded();
    }
}

#[test]
fn an_event_is_stored_once_whatever_its_bytes_and_however_often_it_comes() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    let other_bytes =
        event(0).replace("\"image\":\"busybox\",\"name\":\"box-0\"", "\"name\":\"box\\u002d0\", \"image\":\"busybox\"");
    assert_ne!(other_bytes, event(0));
    // At the same instant, but not the same.
    let sibling = event(0).replace("create", "attach");
    engine.happens(&event(0));
    engine.sends(format!("{}\n{other_bytes}\n{sibling}\n{}\n", event(0), event(0)).as_bytes());
    engine.happens(&event(1));
    folder.eventually_lines(ALL, &[event(0), sibling, event(1)]);
    recorder.stop();
}

#[test]
fn a_clock_that_steps_back_hides_nothing() {
    let (folder, engine) = folder_and_engine();
    let hour = 3_600_000_000_000;
    let back: Vec<String> = (0..4).map(|n| event_at(n, 1_790_000_000_000_000_000 + n as i64 - hour)).collect();
    let recorder = folder.record(&engine.host(), &[]);
    events(0..4).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(ALL, &events(0..4));
    recorder.stop();
    engine.happens(&back[0]);
    engine.happens(&back[1]);
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(ALL, &[back[..2].to_vec(), events(0..4)].concat());
    engine.cuts_connections();
    engine.happens(&back[2]);
    engine.happens(&back[3]);
    folder.eventually_lines(ALL, &[back.clone(), events(0..4)].concat());
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn a_filter_says_what_is_stored_not_what_is_seen() {
    let (folder, engine) = folder_and_engine();
    let only = ["--filter", "event=start", "--exclude", "container=box-1"];
    let recorder = folder.record(&engine.host(), &only);
    events(0..12).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(ALL, &events([1, 9]));
    recorder.stop();
    // So many more that the engine forgets the last one stored, but not the last one seen.
    let recorder = folder.record(&engine.host(), &only);
    let unwanted = events((12..400).filter(|n| n % 4 != 1));
    unwanted.iter().for_each(|event| engine.happens(event));
    engine.sends(b"all seen\n");
    folder.eventually(
        "all is seen",
        || if folder.lines(&["rejected"]).len() == 1 { Ok(()) } else { Err(recorder.log()) },
    );
    recorder.kill();
    folder.record(&engine.host(), &only).stop();
    assert_eq!(folder.lines(ALL), events([1, 9]));
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn another_engine_at_the_same_host_is_another_source() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    engine.goes_away();
    engine.forgets();
    engine.is_called("0ther000-0000-4000-8000-000000000002", "sim");
    engine.come_back();
    engine.happens(&event(1));
    folder.eventually_lines(ALL, &events(0..2));
    recorder.stop();
    let gaps = folder.json(&["gaps"]);
    let told: Vec<_> =
        gaps.iter().map(|gap| (gap["source"].as_str().unwrap(), gap["reason"].as_str().unwrap())).collect();
    assert_eq!(told, [("sim", "first-contact"), ("sim", "engine-restart"), ("sim-0ther000", "first-contact")]);
    assert_eq!(gaps[1]["from"], instant(0));
    assert!(gaps[1]["to"].is_string(), "{gaps:?}");
    assert_eq!(folder.lines(&["query", "--source", "sim-0ther000"]), events(1..2));
}

#[test]
fn an_engine_that_moves_to_another_socket_keeps_its_history() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    let link = folder.path("moved.sock");
    engine.goes_away();
    engine.come_back();
    std::os::unix::fs::symlink(folder.path("docker.sock"), &link).unwrap();
    engine.happens(&event(1));
    let recorder = folder.record(&format!("unix://{}", link.display()), &[]);
    folder.eventually_lines(ALL, &events(0..2));
    recorder.stop();
    let status = &folder.json(&["status", "--json"])[0];
    assert_eq!(status["sources"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!(status["sources"][0]["host"], format!("unix://{}", link.display()));
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn many_hosts_go_into_one_file_and_one_that_is_down_holds_up_none() {
    let folder = Folder::new();
    let (a, b) = (Engine::start(folder.path("a.sock")), Engine::start(folder.path("b.sock")));
    b.is_called("b0000000-0000-4000-8000-00000000000b", "sim");
    let down = format!("unix://{}", folder.path("nobody.sock").display());
    let recorder = folder.start(&["record", "-H", &down, "-H", &a.host(), "-H", &format!("build={}", b.host())]);
    a.happens(&event(0));
    b.happens(&event(1));
    folder.eventually_lines(ALL, &events(0..2));
    assert_eq!(folder.lines(&["query", "--source", "build"]), events(1..2));
    assert_eq!(folder.lines(&["query", "--source", "sim"]), events(0..1));
    recorder.stop();
}

#[test]
fn one_engine_under_two_hosts_is_recorded_once() {
    let (folder, engine) = folder_and_engine();
    let link = folder.path("again.sock");
    std::os::unix::fs::symlink(folder.path("docker.sock"), &link).unwrap();
    let recorder = folder.start(&["record", "-H", &engine.host(), "-H", &format!("unix://{}", link.display())]);
    folder.eventually("it is said", || {
        let log = recorder.log();
        if log.contains(" reaches the same engine as unix://") { Ok(()) } else { Err(log) }
    });
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    assert_eq!(engine.listeners(), 1);
    recorder.stop();
    assert_eq!(folder.json(&["status", "--json"])[0]["sources"].as_array().map(Vec::len), Some(1));
}

#[test]
fn until_now_takes_the_memory_and_stops() {
    let (folder, engine) = folder_and_engine();
    events(0..200).iter().for_each(|event| engine.happens(event));
    let once = ["record", "-H", &engine.host(), "--until", "now", "-q"];
    folder.run(&once).succeeded();
    assert_eq!(folder.lines(ALL), events(0..200));
    engine.happens(&event(200));
    folder.run(&once).succeeded();
    assert_eq!(folder.lines(ALL), events(0..201));
    assert_eq!(reasons(&folder), ["first-contact"]);
    assert!(!engine.requests().contains(&"/events?since=0".to_owned()));
}

#[test]
fn until_now_with_no_engine_fails_in_the_end() {
    let folder = Folder::new();
    let ran = folder.run(&["record", "-H", "unix:///nowhere/docker.sock", "--until", "now", "-q"]).exited(1);
    assert!(
        ran.stderr.contains("events: cannot connect to unix:///nowhere/docker.sock: No such file"),
        "{}",
        ran.stderr
    );
}

#[test]
fn until_a_time_stops_then() {
    let (folder, engine) = folder_and_engine();
    engine.happens(&event(0));
    folder.run(&["record", "-H", &engine.host(), "--until", "-500ms", "-q"]).succeeded();
    assert_eq!(folder.lines(ALL), events(0..1));
}

#[test]
fn a_stopped_recorder_has_stored_all_that_it_read() {
    let (folder, engine) = folder_and_engine();
    for round in 0..20 {
        let recorder = folder.record(&engine.host(), &[]);
        folder.eventually_lines(ALL, &events(0..round * 50));
        events(round * 50..(round + 1) * 50).iter().for_each(|event| engine.happens(event));
        recorder.stop();
        // What it had not read it takes from the memory next time; in the end each is there once.
    }
    folder.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).succeeded();
    assert_eq!(folder.lines(ALL), events(0..1000));
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn a_killed_recorder_loses_and_doubles_nothing() {
    let (folder, engine) = folder_and_engine();
    for round in 0..20 {
        let recorder = folder.record(&engine.host(), &[]);
        // What the one killed before had not stored, this one takes from the memory.
        folder.eventually_lines(ALL, &events(0..round * 50));
        events(round * 50..(round + 1) * 50).iter().for_each(|event| engine.happens(event));
        recorder.kill();
    }
    folder.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).succeeded();
    assert_eq!(folder.lines(ALL), events(0..1000));
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn an_engine_whose_memory_does_not_end_is_recorded_all_the_same() {
    let (folder, engine) = folder_and_engine();
    engine.happens(&event(0));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    engine.answers(Manner { endless_memory: true, ..Manner::default() });
    engine.forgets();
    engine.happens(&event(5));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(ALL, &events([0, 5]));
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact", "engine-restart"]);
}

#[test]
fn a_second_recorder_is_refused_and_a_killed_one_blocks_nobody() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    let second = |pid: u32| {
        let line = format!(
            "cannot record into {}: a recorder (pid {pid}) does so already (hint: name another file with --db, or give that recorder this host too)",
            folder.db().display()
        );
        folder.run(&["record", "-H", &engine.host()]).failed(1, &line);
    };
    second(recorder.pid());
    recorder.kill();
    let recorder = folder.record(&engine.host(), &[]);
    second(recorder.pid());
    recorder.stop();
}

/// Records two events, then has the engine forget nothing while the recorder is away and 200 more happen.
fn with_a_long_memory(folder: &Folder, engine: &Engine) {
    engine.happens(&event(0));
    engine.happens(&event(1));
    folder.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).succeeded();
    events(2..200).iter().for_each(|event| engine.happens(event));
}

#[test]
fn a_slow_engine_is_waited_for_and_is_no_restarted_one() {
    let (folder, engine) = folder_and_engine();
    with_a_long_memory(&folder, &engine);
    engine.answers(Manner { stalls_after: Some(1), ..Manner::default() });
    let recorder = folder.record(&engine.host(), &["-v"]);
    folder.eventually("the memory is given up", || {
        if recorder.log().contains("does not end its answer") { Ok(()) } else { Err(recorder.log()) }
    });
    engine.goes_on();
    folder.eventually_lines(ALL, &events(0..200));
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn a_gap_is_withdrawn_if_the_last_event_seen_comes_back_late() {
    let (folder, engine) = folder_and_engine();
    with_a_long_memory(&folder, &engine);
    engine.answers(Manner { stalls_after: Some(1), ..Manner::default() });
    let recorder = folder.record(&engine.host(), &[]);
    eventually_reasons(&folder, &["first-contact", "engine-restart"]);
    engine.goes_on();
    eventually_reasons(&folder, &["first-contact"]);
    folder.eventually_lines(ALL, &events(0..200));
    recorder.stop();
}

#[test]
fn until_now_says_so_if_the_answer_does_not_end() {
    let (folder, engine) = folder_and_engine();
    events(0..3).iter().for_each(|event| engine.happens(event));
    engine.answers(Manner { endless_memory: true, ..Manner::default() });
    let ran = folder.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).exited(1);
    assert!(ran.stderr.contains("does not end its answer to /events?since=0&until=0"), "{}", ran.stderr);
    assert_eq!(folder.lines(ALL), events(0..3), "what came is stored all the same");
}

#[test]
fn until_now_waits_for_the_store_rather_than_lose_a_host() {
    let folder = Folder::new();
    let (a, b) = (Engine::start(folder.path("a.sock")), Engine::start(folder.path("b.sock")));
    b.is_called("b0000000-0000-4000-8000-00000000000b", "b");
    events(0..200).iter().for_each(|event| a.happens(event));
    events(0..200).iter().for_each(|event| b.happens(event));
    folder.run(&["record", "-H", &a.host(), "-H", &b.host(), "--until", "now", "-q", "--buffer", "1"]).succeeded();
    assert_eq!(folder.lines(&["query", "--count", "--source", "sim"]), ["200"]);
    assert_eq!(folder.lines(&["query", "--count", "--source", "b"]), ["200"]);
}

#[test]
fn a_stream_that_leaves_out_more_than_the_engine_remembers_leaves_a_gap() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["--look-again", "50ms"]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    events(1..400).iter().for_each(|event| engine.happens_unheard(event));
    let kept: Vec<u64> = std::iter::once(0).chain(144..400).collect();
    folder.eventually("what is remembered is stored", || {
        let lines = folder.run(ALL).lines();
        if lines == events(kept.iter().copied()) { Ok(()) } else { Err(lines.len()) }
    });
    let gap = &folder.json(&["gaps"])[1];
    assert_eq!(gap["reason"], "overrun");
    assert_eq!((gap["from"].as_str(), gap["to"].as_str()), (Some(instant(0).as_str()), Some(instant(144).as_str())));
    recorder.stop();
}

#[test]
fn an_engine_whose_streams_never_stand_is_away() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    engine.answers(Manner { cuts_at_once: true, ..Manner::default() });
    engine.cuts_connections();
    eventually_reasons(&folder, &["first-contact", "disconnected"]);
    assert!(recorder.log().contains("it is tried again until it works"), "{}", recorder.log());
    engine.answers(Manner::default());
    engine.happens(&event(1));
    folder.eventually_lines(ALL, &events(0..2));
    eventually_reasons(&folder, &["first-contact"]);
    recorder.stop();
}

#[test]
fn an_idle_engine_that_is_watched_has_no_growing_gap() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["-v"]);
    let first = folder.eventually("the first contact is stored", || folder.json(&["gaps"]).pop().ok_or("none"));
    for _ in 0..3 {
        let before = engine.requests().len();
        engine.ends_streams();
        folder.eventually("it is back", || {
            let back = engine.listeners() == 1 && engine.requests().len() >= before + 4;
            if back { Ok(()) } else { Err(engine.requests()) }
        });
    }
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    recorder.stop();
    assert_eq!(folder.json(&["gaps"]), [first]);
}

#[test]
fn an_engine_that_changes_its_name_or_its_host_and_back_doubles_nothing() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    for (n, name) in ["sim", "box", "sim", "box"].into_iter().enumerate() {
        engine.is_called("7a5c1ed0-0000-4000-8000-000000000001", name);
        engine.cuts_connections();
        engine.happens(&event(n as u64));
        folder.eventually_lines(ALL, &events(0..=n as u64));
    }
    recorder.stop();
    assert_eq!(folder.lines(&["query", "--source", "sim"]), events(0..4), "a name once given stays");
}

#[test]
fn an_engine_that_came_back_is_the_one_that_is_there() {
    let (folder, engine) = folder_and_engine();
    let (a, b) = ("a0000000-0000-4000-8000-00000000000a", "b0000000-0000-4000-8000-00000000000b");
    for (n, id) in [a, b, a].into_iter().enumerate() {
        engine.is_called(id, &id[..1]);
        engine.forgets();
        engine.happens(&event(n as u64));
        folder.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).exited(0);
    }
    let before = folder.json(&["gaps"]);
    engine.goes_away();
    let recorder = folder.start(&["record", "-H", &engine.host()]);
    let open = folder.eventually("a gap is open", || {
        let gaps = folder.json(&["gaps"]);
        gaps.iter().find(|gap| gap["to"].is_null()).cloned().ok_or(gaps)
    });
    assert_eq!((open["source"].as_str(), open["from"].as_str()), (Some("a"), Some(instant(2).as_str())));
    engine.come_back();
    folder.eventually("the gap is withdrawn", || {
        let gaps = folder.json(&["gaps"]);
        if gaps == before { Ok(()) } else { Err(gaps) }
    });
    recorder.stop();
    assert_eq!(folder.json(&["gaps"]), before);
}

#[test]
fn until_a_time_one_engine_under_two_hosts_is_reached_through_both() {
    let (folder, engine) = folder_and_engine();
    engine.happens(&event(0));
    let again = format!("again={}", engine.host());
    folder.run(&["record", "-H", &engine.host(), "-H", &again, "--until", "-1s", "-q"]).exited(0);
    assert_eq!(folder.lines(ALL), events(0..1));
}

/// Renames the store, as `mv` does, which leaves its `-wal` and `-shm` files where they are.
fn moved_away(folder: &Folder) -> std::path::PathBuf {
    let there = folder.path("moved.db");
    std::fs::rename(folder.db(), &there).unwrap();
    there
}

fn lines_in(folder: &Folder, db: &Path) -> Vec<String> {
    let db = db.display().to_string();
    let lines = folder.lines(&["query", "-q", "--db", &db]);
    let check = rusqlite::Connection::open(&db).unwrap();
    assert_eq!(check.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok", "{db}");
    lines
}

/// The one gap of a store that was begun because the one before was gone.
fn assert_begun_anew(folder: &Folder, oldest: u64) {
    let gaps = folder.json(&["gaps"]);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0]["reason"].as_str(), gaps[0]["from"].as_str()), (Some("store-failed"), None), "{gaps:?}");
    assert_eq!(gaps[0]["to"], instant(oldest));
    assert!(gaps[0]["detail"].as_str().is_some_and(|detail| detail.contains("moved, deleted or replaced")), "{gaps:?}");
}

#[test]
fn a_store_that_is_moved_away_keeps_what_was_read_and_a_new_one_is_begun() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    events(0..300).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(&["query", "--count"], &["300".into()]);
    let there = moved_away(&folder);
    let stale = folder.path("events.db-wal").metadata().unwrap().ino();
    events(300..310).iter().for_each(|event| engine.happens(event));
    // A new file: what the engine remembers, and what happens from then on.
    folder.eventually_lines(ALL, &events(54..310));
    events(310..320).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(ALL, &events(54..320));
    assert_ne!(folder.path("events.db-wal").metadata().unwrap().ino(), stale, "a WAL belongs to one file");
    let status = &folder.json(&["status", "--json"])[0];
    assert_eq!(
        (status["recorder"]["pid"].as_u64(), status["sources"][0]["events"].as_u64()),
        (Some(recorder.pid().into()), Some(266))
    );
    let log = recorder.log();
    let said = format!("{} was moved or deleted; what was read is in the file that was there", folder.db().display());
    assert_eq!(log.matches(&said).count(), 1, "{log}");
    recorder.signal("TERM");
    let ran = recorder.ended().exited(0);
    assert_begun_anew(&folder, 54);
    // The file that was moved is whole without what stayed behind.
    assert_eq!(lines_in(&folder, &there)[..300], events(0..300));
    let (before, after) = (lines_in(&folder, &there).len(), lines_in(&folder, &folder.db()).len());
    assert!(ran.stderr.contains(&format!("stopped: {} events stored", before + after)), "{}", ran.stderr);
}

#[test]
fn a_store_that_is_deleted_is_begun_anew() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    for name in ["events.db", "events.db-wal", "events.db-shm", "events.db.lock"] {
        std::fs::remove_file(folder.path(name)).unwrap();
    }
    engine.happens(&event(1));
    folder.eventually_lines(ALL, &events(0..2));
    assert_eq!(folder.db().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // It is locked again, too.
    folder.run(&["record", "-H", &engine.host()]).exited(1);
    recorder.stop();
    assert_begun_anew(&folder, 0);
}

#[test]
fn a_lock_that_is_deleted_is_taken_again() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    std::fs::remove_file(folder.path("events.db.lock")).unwrap();
    folder.eventually("the recorder is known again", || {
        let status = folder.json(&["status", "--json"]).remove(0);
        if status["recorder"]["pid"] == recorder.pid() { Ok(()) } else { Err(recorder.log()) }
    });
    engine.happens(&event(1));
    folder.eventually_lines(ALL, &events(0..2));
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"], "it is the same store, and nothing was missed");
}

#[test]
fn in_a_store_that_another_replaces_is_gone_on() {
    let (folder, engine) = folder_and_engine();
    // Another store, that has seen the engine's first events.
    engine.happens(&event(0));
    let other = folder.path("other.db").display().to_string();
    folder.run(&["record", "--db", &other, "-H", &engine.host(), "--until", "now", "-q"]).succeeded();
    let recorder = folder.record(&engine.host(), &[]);
    events(1..5).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(ALL, &events(0..5));
    std::fs::rename(&other, folder.db()).unwrap();
    folder.eventually("it is said", || {
        if recorder.log().contains("was replaced;") { Ok(()) } else { Err(recorder.log()) }
    });
    engine.happens(&event(5));
    folder.eventually_lines(ALL, &events(0..6));
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"], "the other store went on from what it had seen last");
    assert_eq!(lines_in(&folder, &folder.db()), events(0..6));
}

#[test]
fn what_is_no_store_is_left_alone_and_waited_for() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    let there = moved_away(&folder);
    std::fs::write(folder.db(), "notes").unwrap();
    let said = || recorder.log().matches("it is not an SQLite database (hint").count();
    folder.eventually("it is said", || if said() > 0 { Ok(()) } else { Err(recorder.log()) });
    engine.happens(&event(1));
    assert_eq!(std::fs::read(folder.db()).unwrap(), b"notes");
    std::fs::rename(&there, folder.db()).unwrap();
    folder.eventually_lines(ALL, &events(0..2));
    assert_eq!(said(), 1, "{}", recorder.log());
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"], "it came back, and nothing was missed");
}

#[test]
fn a_folder_may_go_and_come_back() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let (here, there) = (folder.path("data"), folder.path("elsewhere"));
    std::fs::create_dir(&here).unwrap();
    let db = here.join("events.db").display().to_string();
    let query = ["query", "--db", &db];
    let recorder = folder.start(&["record", "--db", &db, "-H", &engine.host()]);
    engine.happens(&event(0));
    folder.eventually_lines(&query, &events(0..1));
    std::fs::rename(&here, &there).unwrap();
    folder.eventually("it is waited for", || {
        if recorder.log().contains("there is no directory") { Ok(()) } else { Err(recorder.log()) }
    });
    events(1..4).iter().for_each(|event| engine.happens(event));
    assert_eq!(lines_in(&folder, &there.join("events.db")), events(0..1));
    std::fs::rename(&there, &here).unwrap();
    folder.eventually_lines(&query, &events(0..4));
    // A recorder that waits can be stopped.
    std::fs::rename(&here, &there).unwrap();
    folder.eventually("it is waited for again", || {
        let times = recorder.log().matches("there is no directory").count();
        if times == 2 { Ok(()) } else { Err(recorder.log()) }
    });
    recorder.stop();
    assert_eq!(lines_in(&folder, &there.join("events.db")), events(0..4));
}

#[test]
fn a_clock_that_is_off_is_shown_and_said_once() {
    let (folder, engine) = folder_and_engine();
    let skew = || folder.json(&["status", "--json"])[0]["sources"][0]["clock_skew_ms"].as_i64();
    let shown = || folder.lines(&["status"]).into_iter().find(|line| line.starts_with("  clock"));
    folder.record(&engine.host(), &[]).stop();
    assert_eq!(skew(), None, "this engine does not tell");
    engine.has_a_clock(Some(0));
    folder.record(&engine.host(), &[]).stop();
    assert!(skew().is_some_and(|skew| skew.abs() < 1000), "{:?}", skew());
    assert_eq!(shown(), None);
    engine.has_a_clock(Some(-90_000));
    let recorder = folder.record(&engine.host(), &[]);
    engine.cuts_connections();
    engine.happens(&event(0));
    folder.eventually_lines(ALL, &events(0..1));
    let said = recorder.log().matches("the clock of sim is 90.0 s behind this machine's").count();
    assert_eq!(said, 1, "{}", recorder.log());
    recorder.stop();
    assert!(skew().is_some_and(|skew| (skew + 90_000).abs() < 1000), "{:?}", skew());
    assert_eq!(shown().as_deref(), Some("  clock     90.0 s behind this machine's"));
}

#[test]
fn a_proxy_that_cuts_an_idle_stream_is_routine() {
    let (folder, engine) = folder_and_engine();
    engine.happens(&event(0));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(ALL, &events(0..1));
    let before = recorder.log();
    for _ in 0..3 {
        let asked = engine.requests().len();
        engine.ends_streams();
        folder.eventually("it is back", || {
            if engine.listeners() == 1 && engine.requests().len() >= asked + 4 {
                Ok(())
            } else {
                Err(engine.requests())
            }
        });
    }
    engine.happens(&event(1));
    folder.eventually_lines(ALL, &events(0..2));
    assert_eq!(recorder.log(), before, "nothing to speak of");
    recorder.stop();
    assert_eq!(reasons(&folder), ["first-contact"]);
}

#[test]
fn an_engine_that_is_away_for_long_twice_is_away_twice() {
    let (folder, engine) = folder_and_engine();
    engine.happens(&event(0));
    let recorder = folder.record(&engine.host(), &["-v"]);
    folder.eventually_lines(ALL, &events(0..1));
    for round in 1..3 {
        let before = recorder.log().matches("cannot connect").count();
        engine.goes_away();
        eventually_reasons(&folder, &["first-contact", "disconnected"]);
        folder.eventually("it was tried often", || {
            if recorder.log().matches("cannot connect").count() > before + 4 { Ok(()) } else { Err(recorder.log()) }
        });
        engine.come_back();
        engine.happens(&event(round));
        folder.eventually_lines(ALL, &events(0..=round));
        eventually_reasons(&folder, &["first-contact"]);
        let log = recorder.log();
        assert_eq!(log.matches("it is tried again until it works").count() as u64, round, "{log}");
        assert_eq!(log.matches("is the engine sim").count() as u64, round + 1, "{log}");
    }
    recorder.stop();
}
