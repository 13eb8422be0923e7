//! `replay` prints a recording, or serves it to a command as an engine does.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::command::{Running, TestDir, next_line};
use crate::support::engine::now_nano;
use crate::support::fixture::{self, imported_store, sorted_by_time};
use crate::support::http::subscribe;

#[test]
fn replay_serves_a_command_and_exits_with_its_code() {
    let test_dir = TestDir::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let events = env!("CARGO_BIN_EXE_events");
    let args = ["replay", &path, "--speed", "max", "--", "sh", "-c", "echo $DOCKER_HOST; exit 7"];
    let output = test_dir.run(&args).assert_exit_code(7);
    let socket = output.lines()[0].strip_prefix("unix://").unwrap().to_owned();
    assert!(
        !crate::support::command::exists(Path::new(&socket))
            && !crate::support::command::exists(Path::new(&socket).parent().unwrap())
    );
    test_dir.run(&["replay", &path, "--", "sh", "-c", "kill -9 $$"]).assert_exit_code(137);
    test_dir.run(&["replay", &path, "--", "no-such-program"]).assert_exit_code(1);
    // A recorder as the command: despite the faults it stores each event once.
    let script = format!(
        "{events} record -q --look-again 0 & pid=$!; for n in $(seq 300); do [ \"$({events} query -q --count 2>/dev/null)\" = 248 ] && break; sleep 0.1; done; kill $pid; wait $pid"
    );
    let faults = [
        "--fault",
        "cut@50",
        "--fault",
        "garbage@60",
        "--fault",
        "cut@100",
        "--fault",
        "split",
        "--fault",
        "stall@10:0.1",
        "--seed",
        "3",
    ];
    let args = [&["replay", &path, "--speed", "max"], &faults[..], &["--", "sh", "-c", &script]].concat();
    test_dir.run(&args).assert_success();
    assert_eq!(test_dir.lines(&["query", "-q"]), sorted_by_time(&fixture::lines("docker-28.5.2.ndjson")));
    assert!(!test_dir.lines(&["rejected"]).is_empty());
}

#[test]
fn signals_are_forwarded_and_the_socket_is_removed() {
    let test_dir = TestDir::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let script = "trap 'echo caught; exit 5' TERM; echo ready $DOCKER_HOST; while :; do sleep 0.05; done";
    let mut replay = test_dir.start(&["replay", &path, "--", "sh", "-c", script]);
    let printed = replay.stdout_lines();
    let ready = next_line(&printed);
    let socket = PathBuf::from(ready.strip_prefix("ready unix://").unwrap());
    assert!(crate::support::command::exists(&socket));
    replay.signal("TERM");
    assert_eq!(next_line(&printed), "caught");
    replay.wait().assert_exit_code(5);
    assert!(!crate::support::command::exists(socket.parent().unwrap()));
}

#[test]
fn a_store_or_a_recording_is_replayed_to_stdout() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let all_lines = test_dir.lines(&["query", "-q"]);
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    assert_eq!(test_dir.lines(&["replay", "--speed", "max"]), all_lines);
    assert_eq!(test_dir.lines(&["replay", "--speed", "max", &path]), all_lines);
    assert_eq!(test_dir.lines(&["replay", "--speed", "10000", "--last", "5"]), all_lines[all_lines.len() - 5..]);
    assert_eq!(
        test_dir.lines(&["replay", "--speed", "max", "-n", "3", "--type", "network", &path]),
        test_dir.lines(&["query", "-q", "-n", "3", "--type", "network"])
    );
    let before = now_nano();
    let retimed = test_dir.json(&["replay", "--speed", "max", "--retime"]);
    assert_eq!(retimed.len(), all_lines.len());
    let mut last = before;
    for (event, line) in retimed.iter().zip(&all_lines) {
        let mut original: serde_json::Value = serde_json::from_str(line).unwrap();
        let nano = event["timeNano"].as_i64().unwrap();
        assert!(nano >= last && nano / 1_000_000_000 == event["time"].as_i64().unwrap());
        last = nano + 1;
        (original["time"], original["timeNano"]) = (event["time"].clone(), event["timeNano"].clone());
        assert_eq!(*event, original);
    }
    for wrong in [&["--speed", "0"][..], &["--speed", "fast"], &["--fault", "cut@1"], &["--fault", "x", "--", "true"]] {
        test_dir.run(&[&["replay"], wrong].concat()).assert_exit_code(2);
    }
}

#[test]
fn a_waiting_replay_exits_when_its_reader_closes() {
    let test_dir = TestDir::new();
    let event =
        |time| format!("{{\"Type\":\"container\",\"Action\":\"oom\",\"Actor\":{{\"ID\":\"c\"}},\"time\":{time}}}\n");
    fs::write(test_dir.path("slow"), event(1) + &event(10_001)).unwrap();
    let mut replay = test_dir.start(&["replay", "slow"]);
    let mut line = String::new();
    BufReader::new(replay.stdout()).read_line(&mut line).unwrap();
    assert_eq!(line, event(1));
    replay.wait().assert_exit_code(0);
}

/// Returns ten evenly spaced events over this duration.
fn ten_events(duration: Duration) -> Vec<String> {
    let step = duration.as_nanos() / 9;
    let event = |n| {
        let time = 1_795_535_600_000_000_000 + n * step;
        format!(r#"{{"Type":"container","Action":"start","Actor":{{"ID":"c{n}"}},"timeNano":{time}}}"#)
    };
    (0..10).map(event).collect()
}

/// Starts `replay` with a command that waits; returns the socket of its engine.
fn replay_to_command(test_dir: &TestDir, args: &[&str]) -> (Running, PathBuf) {
    let mut replay =
        test_dir.start(&[&["replay"], args, &["--", "sh", "-c", "echo $DOCKER_HOST; exec sleep 1000"]].concat());
    let host = next_line(&replay.stdout_lines());
    (replay, PathBuf::from(host.strip_prefix("unix://").unwrap()))
}

/// Duration of a replay of ten events.
const REPLAY_DURATION: Duration = Duration::from_secs(2);

/// Reads ten events. None may arrive before it is due, and the last must arrive soon after it is due.
fn assert_paced(start: Instant, mut line: impl FnMut() -> String, expected: &[String]) {
    let received: Vec<(String, Instant)> = expected.iter().map(|_| (line(), Instant::now())).collect();
    for (n, ((line, at), expected)) in received.iter().zip(expected).enumerate() {
        let (due, elapsed) = (REPLAY_DURATION.mul_f64(n as f64 / 9.0), *at - start);
        assert!(line == expected && elapsed + Duration::from_millis(1) >= due, "{line} after {elapsed:?}, due {due:?}");
    }
    // At a tenth of the pace it would take 20 seconds; a busy machine may double it.
    let elapsed = received[9].1 - received[0].1;
    assert!(elapsed < REPLAY_DURATION * 5, "{elapsed:?}");
}

#[test]
fn events_are_replayed_at_their_recorded_pace() {
    let test_dir = TestDir::new();
    let (once, ten_times) = (ten_events(REPLAY_DURATION), ten_events(REPLAY_DURATION * 10));
    fs::write(test_dir.path("once"), once.join("\n")).unwrap();
    fs::write(test_dir.path("ten-times"), ten_times.join("\n")).unwrap();
    let (_once, once_socket) = replay_to_command(&test_dir, &["once"]);
    let (_ten_times, ten_times_socket) = replay_to_command(&test_dir, &["ten-times", "--speed", "10"]);
    std::thread::scope(|scope| {
        for (args, lines) in [(&["replay", "once"][..], &once), (&["replay", "ten-times", "--speed", "10"], &ten_times)]
        {
            let test_dir = &test_dir;
            scope.spawn(move || {
                let start = Instant::now();
                let mut replay = test_dir.start(args);
                let printed = replay.stdout_lines();
                assert_paced(start, || next_line(&printed), lines);
                replay.wait().assert_exit_code(0);
            });
        }
        for (socket, lines) in [(once_socket, &once), (ten_times_socket, &ten_times)] {
            scope.spawn(move || {
                let start = Instant::now();
                let mut stream = subscribe(&socket);
                let line = || String::from_utf8(stream.chunk().unwrap()).unwrap().trim_end().to_owned();
                assert_paced(start, line, lines);
                assert!(stream.read_to_end().is_complete);
            });
        }
    });
}

#[test]
fn concurrent_subscribers_each_get_the_whole_recording() {
    let test_dir = TestDir::new();
    let lines = ten_events(REPLAY_DURATION / 4);
    fs::write(test_dir.path("day"), lines.join("\n")).unwrap();
    let (replay, socket) = replay_to_command(&test_dir, &["day"]);
    let mut first = subscribe(&socket);
    let first_chunk = first.chunk().unwrap();
    let second = subscribe(&socket);
    let mut first = first.read_to_end();
    first.chunks.insert(0, first_chunk);
    assert_eq!(first.lines(), lines);
    assert_eq!(second.read_to_end().lines(), lines);
    assert_eq!(subscribe(&socket).read_to_end().lines(), lines);
    replay.signal("TERM");
    replay.wait().assert_exit_code(143);
}

#[test]
fn a_recording_is_read_from_standard_input() {
    let test_dir = TestDir::new();
    let lines = ten_events(REPLAY_DURATION);
    fs::write(test_dir.path("day"), lines.join("\n")).unwrap();
    let day = || Stdio::from(fs::File::open(test_dir.path("day")).unwrap());
    let mut command = test_dir.command(&["replay", "--speed", "max", "-"]);
    command.stdin(day());
    assert_eq!(crate::support::command::run(command).assert_success().lines(), lines);
    let script = format!("{} record -q --until now && {0} query -q", env!("CARGO_BIN_EXE_events"));
    let mut command = test_dir.command(&["replay", "--speed", "max", "-", "--", "sh", "-c", &script]);
    command.stdin(day());
    assert_eq!(crate::support::command::run(command).assert_success().lines(), lines);
}

#[test]
fn a_cut_stream_contains_all_events_before_the_cut() {
    let test_dir = TestDir::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let lines = sorted_by_time(&fixture::lines("docker-28.5.2.ndjson"));
    let faults: Vec<String> = (1..=20).map(|at| format!("--fault=cut@{}", at * 12)).collect();
    let mut args = vec![path.as_str(), "--speed", "max"];
    args.extend(faults.iter().map(String::as_str));
    let (replay, socket) = replay_to_command(&test_dir, &args);
    for at in (1..=20).map(|at| at * 12) {
        let response = subscribe(&socket).read_to_end();
        let (half, before) = response.chunks.split_last().unwrap();
        assert_eq!((response.is_complete, before.len()), (false, at));
        assert!(lines[at].as_bytes().starts_with(half), "{at}");
    }
    assert_eq!(subscribe(&socket).read_to_end().chunks.len(), lines.len());
    replay.signal("TERM");
    replay.wait().assert_exit_code(143);
}
