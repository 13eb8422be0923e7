//! A recording is played: to stdout, or as an engine to a command.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::command::{Folder, Running, next};
use crate::support::fixture::{self, by_time, imported};
use crate::support::http::{Asked, ask};

#[test]
fn a_command_is_played_to_and_its_status_given_back() {
    let folder = Folder::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let events = env!("CARGO_BIN_EXE_events");
    let ran = folder.run(&["replay", &path, "--speed", "max", "--", "sh", "-c", "echo $DOCKER_HOST; exit 7"]).exited(7);
    let socket = ran.lines()[0].strip_prefix("unix://").unwrap().to_owned();
    assert!(
        !crate::support::command::exists(Path::new(&socket))
            && !crate::support::command::exists(Path::new(&socket).parent().unwrap())
    );
    folder.run(&["replay", &path, "--", "sh", "-c", "kill -9 $$"]).exited(137);
    folder.run(&["replay", &path, "--", "no-such-program"]).exited(1);
    // A recorder is a program under test, too: whatever breaks, it has each event once in the end.
    let until_all = format!(
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
    let words = [&["replay", &path, "--speed", "max"], &faults[..], &["--", "sh", "-c", &until_all]].concat();
    folder.run(&words).succeeded();
    assert_eq!(folder.lines(&["query", "-q"]), by_time(&fixture::lines("docker-28.5.2.ndjson")));
    assert!(!folder.lines(&["rejected"]).is_empty());
}

#[test]
fn signals_are_passed_on_and_nothing_is_left_behind() {
    let folder = Folder::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let script = "trap 'echo caught; exit 5' TERM; echo ready $DOCKER_HOST; while :; do sleep 0.05; done";
    let mut replay = folder.start(&["replay", &path, "--", "sh", "-c", script]);
    let printed = replay.printed();
    let ready = next(&printed);
    let socket = PathBuf::from(ready.strip_prefix("ready unix://").unwrap());
    assert!(crate::support::command::exists(&socket));
    replay.signal("TERM");
    assert_eq!(next(&printed), "caught");
    replay.ended().exited(5);
    assert!(!crate::support::command::exists(socket.parent().unwrap()));
}

#[test]
fn history_is_played_to_stdout() {
    let folder = imported("docker-28.5.2.ndjson");
    let everything = folder.lines(&["query", "-q"]);
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    assert_eq!(folder.lines(&["replay", "--speed", "max"]), everything);
    assert_eq!(folder.lines(&["replay", "--speed", "max", &path]), everything);
    assert_eq!(folder.lines(&["replay", "--speed", "10000", "--last", "5"]), everything[everything.len() - 5..]);
    assert_eq!(
        folder.lines(&["replay", "--speed", "max", "-n", "3", "--type", "network", &path]),
        folder.lines(&["query", "-q", "-n", "3", "--type", "network"])
    );
    let before = chrono::Utc::now().timestamp_nanos_opt().unwrap();
    let retimed = folder.json(&["replay", "--speed", "max", "--retime"]);
    assert_eq!(retimed.len(), everything.len());
    let mut last = before;
    for (event, line) in retimed.iter().zip(&everything) {
        let mut original: serde_json::Value = serde_json::from_str(line).unwrap();
        let nano = event["timeNano"].as_i64().unwrap();
        assert!(nano >= last && nano / 1_000_000_000 == event["time"].as_i64().unwrap());
        last = nano + 1;
        (original["time"], original["timeNano"]) = (event["time"].clone(), event["timeNano"].clone());
        assert_eq!(*event, original);
    }
    for wrong in [&["--speed", "0"][..], &["--speed", "fast"], &["--fault", "cut@1"], &["--fault", "x", "--", "true"]] {
        folder.run(&[&["replay"], wrong].concat()).exited(2);
    }
}

#[test]
fn a_replay_that_waits_for_hours_ends_when_nobody_reads_it() {
    let folder = Folder::new();
    let event =
        |time| format!("{{\"Type\":\"container\",\"Action\":\"oom\",\"Actor\":{{\"ID\":\"c\"}},\"time\":{time}}}\n");
    fs::write(folder.path("slow"), event(1) + &event(10_001)).unwrap();
    let mut replay = folder.start(&["replay", "slow"]);
    let mut line = String::new();
    BufReader::new(replay.stdout()).read_line(&mut line).unwrap();
    assert_eq!(line, event(1));
    replay.ended().exited(0);
}

/// Ten events, the last so long after the first.
fn ten_events(over: Duration) -> Vec<String> {
    let step = over.as_nanos() / 9;
    let event = |n| {
        let time = 1_795_535_600_000_000_000 + n * step;
        format!(r#"{{"Type":"container","Action":"start","Actor":{{"ID":"c{n}"}},"timeNano":{time}}}"#)
    };
    (0..10).map(event).collect()
}

/// Starts `replay` as an engine to a command that waits; gives its socket.
fn played(folder: &Folder, words: &[&str]) -> (Running, PathBuf) {
    let mut replay =
        folder.start(&[&["replay"], words, &["--", "sh", "-c", "echo $DOCKER_HOST; exec sleep 1000"]].concat());
    let host = next(&replay.printed());
    (replay, PathBuf::from(host.strip_prefix("unix://").unwrap()))
}

fn subscribe(socket: &Path) -> Asked {
    ask(socket, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
}

const PLAYED_IN: Duration = Duration::from_secs(2);

/// Reads ten events, which must not come before they are due, and the last of which not much later.
fn assert_paced(begin: Instant, mut line: impl FnMut() -> String, expected: &[String]) {
    let came: Vec<(String, Instant)> = expected.iter().map(|_| (line(), Instant::now())).collect();
    for (n, ((line, at), expected)) in came.iter().zip(expected).enumerate() {
        let (due, taken) = (PLAYED_IN.mul_f64(n as f64 / 9.0), *at - begin);
        assert!(line == expected && taken + Duration::from_millis(1) >= due, "{line} after {taken:?}, due {due:?}");
    }
    // This machine may be busy: half a second is given for that.
    let taken = came[9].1 - came[0].1;
    assert!(taken <= PLAYED_IN.mul_f64(1.1) + Duration::from_millis(500), "{taken:?}");
}

#[test]
fn events_come_at_the_pace_at_which_they_were_recorded() {
    let folder = Folder::new();
    let (once, ten_times) = (ten_events(PLAYED_IN), ten_events(PLAYED_IN * 10));
    fs::write(folder.path("once"), once.join("\n")).unwrap();
    fs::write(folder.path("ten-times"), ten_times.join("\n")).unwrap();
    let (_once, once_socket) = played(&folder, &["once"]);
    let (_ten_times, ten_times_socket) = played(&folder, &["ten-times", "--speed", "10"]);
    std::thread::scope(|scope| {
        for (words, lines) in
            [(&["replay", "once"][..], &once), (&["replay", "ten-times", "--speed", "10"], &ten_times)]
        {
            let folder = &folder;
            scope.spawn(move || {
                let begin = Instant::now();
                let mut replay = folder.start(words);
                let printed = replay.printed();
                assert_paced(begin, || next(&printed), lines);
                replay.ended().exited(0);
            });
        }
        for (socket, lines) in [(once_socket, &once), (ten_times_socket, &ten_times)] {
            scope.spawn(move || {
                let begin = Instant::now();
                let mut asked = subscribe(&socket);
                let line = || String::from_utf8(asked.chunk().unwrap()).unwrap().trim_end().to_owned();
                assert_paced(begin, line, lines);
                assert!(asked.all().whole);
            });
        }
    });
}

#[test]
fn subscribers_at_the_same_time_each_get_all_of_it_from_the_first_event_on() {
    let folder = Folder::new();
    let lines = ten_events(PLAYED_IN / 4);
    fs::write(folder.path("day"), lines.join("\n")).unwrap();
    let (replay, socket) = played(&folder, &["day"]);
    let mut first = subscribe(&socket);
    let begun = first.chunk().unwrap();
    let second = subscribe(&socket);
    let mut first = first.all();
    first.chunks.insert(0, begun);
    assert_eq!(first.lines(), lines);
    assert_eq!(second.all().lines(), lines);
    assert_eq!(subscribe(&socket).all().lines(), lines);
    replay.signal("TERM");
    replay.ended().exited(143);
}

#[test]
fn a_recording_is_taken_from_standard_input_too() {
    let folder = Folder::new();
    let lines = ten_events(PLAYED_IN);
    fs::write(folder.path("day"), lines.join("\n")).unwrap();
    let day = || Stdio::from(fs::File::open(folder.path("day")).unwrap());
    let mut command = folder.command(&["replay", "--speed", "max", "-"]);
    command.stdin(day());
    assert_eq!(crate::support::command::run(command).succeeded().lines(), lines);
    let script = format!("{} record -q --until now && {0} query -q", env!("CARGO_BIN_EXE_events"));
    let mut command = folder.command(&["replay", "--speed", "max", "-", "--", "sh", "-c", &script]);
    command.stdin(day());
    assert_eq!(crate::support::command::run(command).succeeded().lines(), lines);
}

#[test]
fn a_stream_that_is_cut_has_brought_all_before_the_cut() {
    let folder = Folder::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let lines = by_time(&fixture::lines("docker-28.5.2.ndjson"));
    let faults: Vec<String> = (1..=20).map(|at| format!("--fault=cut@{}", at * 12)).collect();
    let mut words = vec![path.as_str(), "--speed", "max"];
    words.extend(faults.iter().map(String::as_str));
    let (replay, socket) = played(&folder, &words);
    for at in (1..=20).map(|at| at * 12) {
        let answer = subscribe(&socket).all();
        let (half, before) = answer.chunks.split_last().unwrap();
        assert_eq!((answer.whole, before.len()), (false, at));
        assert!(lines[at].as_bytes().starts_with(half), "{at}");
    }
    assert_eq!(subscribe(&socket).all().chunks.len(), lines.len());
    replay.signal("TERM");
    replay.ended().exited(143);
}
