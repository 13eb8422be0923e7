//! A recording is played: to stdout, or as an engine to a command.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use support::command::{Folder, eventually, next};
use support::fixture::{self, by_time, imported};

#[test]
fn a_command_is_played_to_and_its_status_given_back() {
    let folder = Folder::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let events = env!("CARGO_BIN_EXE_events");
    let ran = folder.run(&["replay", &path, "--speed", "max", "--", "sh", "-c", "echo $DOCKER_HOST; exit 7"]).exited(7);
    let socket = ran.lines()[0].strip_prefix("unix://").unwrap().to_owned();
    assert!(
        !support::command::exists(Path::new(&socket))
            && !support::command::exists(Path::new(&socket).parent().unwrap())
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
    assert!(support::command::exists(&socket));
    replay.signal("TERM");
    assert_eq!(next(&printed), "caught");
    replay.ended().exited(5);
    assert!(!support::command::exists(socket.parent().unwrap()));
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
    let mut command = folder.command(&["replay", "slow"]);
    let mut replay = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(replay.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, event(1));
    let status = eventually("it ends", || replay.try_wait().unwrap().ok_or("it runs"));
    assert_eq!(status.code(), Some(0));
}
