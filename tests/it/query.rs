//! `query`: selection, order and formats of events.

use crate::support::command::{TestDir, next_line};
use crate::support::engine::{event, event_at, event_time, events, start_engine};
use crate::support::fixture;

fn first_ten() -> TestDir {
    fixture::recorded_store(&events(0..10))
}

/// Time of the `n`th event in seconds since the epoch.
fn second(n: u64) -> String {
    (1_790_000_000 + n).to_string()
}

#[test]
fn all_events_are_printed_in_time_order_byte_for_byte() {
    for recording in ["docker-20.10.24.ndjson", "docker-26.1.5.ndjson", "docker-28.5.2.ndjson", "docker-29.7.2.ndjson"]
    {
        let lines = fixture::lines(recording);
        let test_dir = fixture::recorded_store(&lines);
        assert_eq!(test_dir.lines(&["query"]), fixture::sorted_by_time(&lines), "{recording}");
    }
}

#[test]
fn type_and_action_select_events() {
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let test_dir = fixture::recorded_store(&lines);
    let started: Vec<String> =
        lines.into_iter().filter(|line| line.contains(r#""Type":"container","Action":"start""#)).collect();
    assert_eq!(started.len(), 17);
    assert_eq!(test_dir.lines(&["query", "--type", "container", "--action", "start"]), started);
}

#[test]
fn events_with_equal_times_are_in_arrival_order() {
    let simultaneous = |n| event_at(n, 1_790_000_000_000_000_000);
    let earlier = event_at(3, 1_789_999_999_999_999_999);
    let test_dir = fixture::recorded_store(&[simultaneous(2), simultaneous(0), simultaneous(1), earlier.clone()]);
    assert_eq!(test_dir.lines(&["query"]), [earlier, simultaneous(2), simultaneous(0), simultaneous(1)]);
    let mut reversed = test_dir.lines(&["query", "--reverse"]);
    reversed.reverse();
    assert_eq!(reversed, test_dir.lines(&["query"]));
}

#[test]
fn the_window_is_inclusive_to_the_nanosecond() {
    let test_dir = first_ten();
    let query = |since: &str, until: &str| test_dir.lines(&["query", "--since", since, "--until", until]);
    assert_eq!(query(&second(3), &second(5)), events(3..6));
    assert_eq!(query(&format!("{}.000000001", second(3)), &format!("{}.999999999", second(4))), events(4..5));
    assert_eq!(query(&event_time(3), &event_time(3)), events(3..4));
    assert_eq!(test_dir.lines(&["query", "--until", "now"]), events(0..10));
    assert_eq!(test_dir.lines(&["query", "--since", &second(8)]), events(8..10));
    assert_eq!(test_dir.lines(&["query", "--until", &second(1)]), events(0..2));
    assert_eq!(test_dir.lines(&["query", "--since", "1h"]), events(0..0));
}

#[test]
fn limit_last_reverse_and_count_combine() {
    let test_dir = first_ten();
    let query = |args: &str| {
        let args: Vec<&str> = std::iter::once("query").chain(args.split(' ')).collect();
        test_dir.lines(&args)
    };
    assert_eq!(query("--limit 3"), events(0..3));
    assert_eq!(query("-n 3"), events(0..3));
    assert_eq!(query("--last 3"), events(7..10));
    assert_eq!(query("--reverse"), events((0..10).rev()));
    assert_eq!(query("--limit 3 --reverse"), events((7..10).rev()));
    assert_eq!(query("--last 3 --reverse"), events((7..10).rev()));
    assert_eq!(query("--limit 0"), events(0..0));
    assert_eq!(query("--last 0"), events(0..0));
    assert_eq!(query("--last 99"), events(0..10));
    assert_eq!(query("--last 2 --action start"), events([5, 9]));
    assert_eq!(query("--count"), ["10"]);
    assert_eq!(query("--count --action start"), ["3"]);
    assert_eq!(query("--count --action nothing"), ["0"]);
    assert_eq!(query("--count --limit 4"), ["4"]);
    assert_eq!(query("--count --last 0"), ["0"]);
}

#[test]
fn each_exclude_applies_on_its_own() {
    let test_dir = first_ten();
    assert_eq!(
        test_dir.lines(&["query", "--exclude", "event=start", "--exclude", "event=die"]),
        events([0, 3, 4, 7, 8])
    );
    let both = ["query", "--exclude", "event=start", "--exclude", "container=box-1", "--type", "container"];
    assert_eq!(test_dir.lines(&both), events([0, 2, 3, 8]));
}

#[test]
fn the_envelope_has_the_sequence_the_source_and_the_time_received() {
    let test_dir = first_ten();
    let lines = test_dir.lines(&["query", "--envelope", "--limit", "2"]);
    // Sequence 1 and 2 are the name of the source and its first gap.
    assert!(lines[1].starts_with(r#"{"seq":4,"source":"events","received":"20"#), "{}", lines[1]);
    assert!(lines[1].ends_with(&format!(r#"Z","event":{}}}"#, event(1))), "{}", lines[1]);
}

#[test]
fn text_format_prints_what_docker_events_prints() {
    let test_dir = first_ten();
    assert_eq!(
        test_dir.lines(&["query", "--format", "text", "--limit", "1"]),
        [format!("{} container create {:064x} (image=busybox, name=box-0)", event_time(0), 0)]
    );
    let mut command = test_dir.command(&["query", "--format", "text", "--limit", "1"]);
    let elsewhere = crate::support::command::run({
        command.env("TZ", "XXX-5:30");
        command
    });
    assert!(elsewhere.assert_success().lines()[0].starts_with("2026-09-21T19:43:20.000000000+05:30 container create "));
}

#[test]
fn a_template_prints_one_line_per_event() {
    let test_dir = first_ten();
    let query = |args: &[&str]| {
        test_dir.lines(&[&["query", "--format", "{{.Action}} {{.Actor.Attributes.name}}"], args].concat())
    };
    assert_eq!(query(&["--limit", "2"]), ["create box-0", "start box-0"]);
    assert_eq!(query(&["--last", "1"]), ["start box-2"]);
    assert_eq!(query(&["--limit", "1", "--reverse"]), ["start box-2"]);
    assert_eq!(test_dir.lines(&["query", "--format", "- {{.Type}}", "--limit", "1"]), ["- container"]);
    assert_eq!(test_dir.lines(&["query", "--format", "", "--limit", "1"]), events(0..1));
}

#[test]
fn an_event_that_a_template_cannot_print_is_named() {
    let test_dir = first_ten();
    let output = test_dir.run(&["query", "--format", "{{.Type}} {{.Actor.Attributes.name.x}}"]).assert_exit_code(1);
    assert_eq!(output.lines(), ["container "]);
    assert_eq!(
        output.stderr,
        "events: cannot print event 3: template: :1:18: executing \"\" at <.Actor.Attributes.name.x>: can't evaluate field x in type string\n"
    );
}

#[test]
fn table_columns_fit_their_rows() {
    let test_dir = first_ten();
    let lines = test_dir.lines(&["query", "--format", "table", "--limit", "2"]);
    let id = format!("{:064x}", 0);
    assert_eq!(
        lines,
        [
            format!("TIME{:26}  TYPE       ACTION    ID{:62}  NAME      ATTRIBUTES", "", ""),
            format!("2026-09-21T14:13:20.000000000Z  container  create    {id}  box-0     image=busybox"),
            format!("2026-09-21T14:13:21.000000000Z  container  start     {id}  box-0     image=busybox"),
        ]
    );
    let last = test_dir.lines(&["query", "--format", "table", "--envelope", "--last", "1"]);
    assert!(last[0].starts_with("SEQ  SOURCE  TIME "), "{last:?}");
    assert!(last[1].starts_with("12   events  2026-09-21T14:13:29.000000000Z  container  start "), "{last:?}");
    // Without matches the table has only its header.
    assert_eq!(test_dir.lines(&["query", "--format", "table", "--type", "plugin"]).len(), 1);
}

#[test]
fn csv_has_the_columns_of_the_events_view() {
    let test_dir = first_ten();
    let output = test_dir.run(&["query", "--format", "csv", "--limit", "1"]).assert_success();
    let (time, id) = ("2026-09-21T14:13:20.000000000Z", format!("{:064x}", 0));
    let attributes = r#""{""image"":""busybox"",""name"":""box-0""}""#;
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!(
            "time,type,action,actor_id,name,image,attributes,time_nano\r\n\
             {time},container,create,{id},box-0,busybox,{attributes},1790000000000000000\r\n"
        )
    );
    let lines = test_dir.lines(&["query", "--format", "csv", "--envelope"]);
    assert_eq!(lines[0], "seq,source,received,time,type,action,actor_id,name,image,attributes,time_nano");
    assert!(lines[1].starts_with("3,events,20"), "{}", lines[1]);
    assert_eq!(test_dir.lines(&["query", "--format", "csv", "--type", "plugin"]).len(), 1);
}

#[test]
fn every_format_works_with_follow() {
    let (test_dir, engine) = start_engine();
    engine.emit(&event(0));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(&["query"], &events(0..1));
    let follow = |format: &'static str| test_dir.start(&["query", "--follow", "--format", format, "--limit", "2"]);
    let mut followers = ["text", "table", "csv", "{{.Actor.Attributes.name}}"].map(follow);
    let lines = followers.each_mut().map(|follower| follower.stdout_lines());
    // Stored events are printed before a new one arrives.
    for (lines, header) in lines.iter().zip([false, true, true, false]) {
        (0..1 + usize::from(header)).for_each(|_| drop(next_line(lines)));
    }
    engine.emit(&event(4));
    lines.iter().for_each(|lines| assert!(next_line(lines).contains("box-1")));
    followers.into_iter().for_each(|follower| drop(follower.wait().assert_success()));
    recorder.stop();
}

#[test]
fn times_without_a_zone_are_local() {
    let test_dir = first_ten();
    let since = |time: &str| {
        let mut command = test_dir.command(&["query", "--count", "--since", time]);
        command.env("TZ", "XXX-5:30");
        crate::support::command::run(command).assert_success().lines()
    };
    assert_eq!(since("2026-09-21T19:43:25"), ["5"]);
    assert_eq!(since("2026-09-21T14:13:25Z"), ["5"]);
    assert_eq!(since("2026-09-21T20"), ["0"]);
    assert_eq!(since("2026-09-22"), ["0"]);
}

#[test]
fn follow_prints_new_events_and_exits_at_its_limit() {
    let (test_dir, engine) = start_engine();
    events(0..4).iter().for_each(|event| engine.emit(event));
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually_lines(&["query"], &events(0..4));
    let mut tail = test_dir.start(&["query", "--follow", "--last", "2"]);
    let mut starts = test_dir.start(&["query", "--follow", "--action", "start", "--limit", "3"]);
    let (tail_lines, start_lines) = (tail.stdout_lines(), starts.stdout_lines());
    assert_eq!([next_line(&tail_lines), next_line(&tail_lines)], [event(2), event(3)]);
    assert_eq!(next_line(&start_lines), event(1));
    // A follower prints events in the order of arrival, not of time.
    engine.emit(&event(5));
    engine.emit(&event(4));
    assert_eq!([next_line(&tail_lines), next_line(&tail_lines)], [event(5), event(4)]);
    assert_eq!(next_line(&start_lines), event(5));
    engine.emit(&event(9));
    assert_eq!(next_line(&start_lines), event(9));
    starts.wait().assert_success();
    recorder.stop();
}

#[test]
fn follow_with_a_past_until_prints_and_exits() {
    let test_dir = first_ten();
    assert_eq!(test_dir.lines(&["query", "--follow", "--until", &second(3)]), events(0..4));
}

#[test]
fn a_gap_in_the_window_is_reported_on_stderr() {
    let (test_dir, engine) = start_engine();
    let record_once = ["record", "-H", &engine.host(), "--until", "now", "-q"];
    engine.emit(&event(0));
    test_dir.run(&record_once).assert_success();
    engine.clear_backlog();
    engine.emit(&event(5));
    test_dir.run(&record_once).assert_success();
    let log = |args: &[&str]| test_dir.run(&[&["query"], args].concat()).assert_exit_code(0).stderr;
    let line = format!(
        "this window overlaps a gap in the record of sim: from {} to {} (engine-restart); `events gaps` shows all\n",
        event_time(0),
        event_time(5)
    );
    assert_eq!(log(&[]), line);
    assert_eq!(log(&["--since", &second(3)]), line);
    assert_eq!(log(&["-q"]), "");
    assert_eq!(log(&["--since", &second(5)]), "");
    // The gap before the first session is reported only for a window that touches it.
    let first = format!(
        "this window overlaps a gap in the record of sim: from the beginning to {} (first-contact); `events gaps` shows all\n",
        event_time(0)
    );
    assert_eq!(log(&["--since", "0", "--until", "1"]), first);
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let test_dir = fixture::recorded_store(&fixture::lines("docker-28.5.2.ndjson"));
    let script = format!("set -o pipefail; {} query | head -1", env!("CARGO_BIN_EXE_events"));
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", &script]).env("EVENTS_DB", test_dir.db());
    let output = crate::support::command::run(bash).assert_success();
    assert_eq!(output.lines().len(), 1);
}

#[test]
fn readers_leave_no_files() {
    let test_dir = first_ten();
    test_dir.lines(&["query"]);
    test_dir.lines(&["status"]);
    for name in ["events.db-wal", "events.db-shm"] {
        assert!(!crate::support::command::exists(&test_dir.path(name)), "{name}");
    }
}
