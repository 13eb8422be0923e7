//! What `query` prints: which events, in which order, how many, in which form.

use crate::support::command::{Folder, next};
use crate::support::engine::{Engine, event, event_at, events, instant};
use crate::support::fixture;

fn first_ten() -> Folder {
    fixture::recorded(&events(0..10))
}

/// Seconds since the epoch of the `n`th event.
fn second(n: u64) -> String {
    (1_790_000_000 + n).to_string()
}

#[test]
fn everything_is_printed_by_time_as_the_engine_sent_it() {
    for recording in ["docker-20.10.24.ndjson", "docker-26.1.5.ndjson", "docker-28.5.2.ndjson", "docker-29.7.2.ndjson"]
    {
        let mut lines = fixture::lines(recording);
        let folder = fixture::recorded(&lines);
        let time = |line: &String| line.rsplit_once(":").unwrap().1.trim_end_matches('}').parse::<i64>().unwrap();
        lines.sort_by_key(time);
        assert_eq!(folder.lines(&["query"]), lines, "{recording}");
    }
}

#[test]
fn the_line_people_type_first() {
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let folder = fixture::recorded(&lines);
    let started: Vec<String> =
        lines.into_iter().filter(|line| line.contains(r#""Type":"container","Action":"start""#)).collect();
    assert_eq!(started.len(), 17);
    assert_eq!(folder.lines(&["query", "--type", "container", "--action", "start"]), started);
}

#[test]
fn equal_instants_are_in_order_of_arrival() {
    let same = |n| event_at(n, 1_790_000_000_000_000_000);
    let earlier = event_at(3, 1_789_999_999_999_999_999);
    let folder = fixture::recorded(&[same(2), same(0), same(1), earlier.clone()]);
    assert_eq!(folder.lines(&["query"]), [earlier, same(2), same(0), same(1)]);
    let mut reversed = folder.lines(&["query", "--reverse"]);
    reversed.reverse();
    assert_eq!(reversed, folder.lines(&["query"]));
}

#[test]
fn the_window_is_inclusive_at_the_nanosecond() {
    let folder = first_ten();
    let query = |since: &str, until: &str| folder.lines(&["query", "--since", since, "--until", until]);
    assert_eq!(query(&second(3), &second(5)), events(3..6));
    assert_eq!(query(&format!("{}.000000001", second(3)), &format!("{}.999999999", second(4))), events(4..5));
    assert_eq!(query(&instant(3), &instant(3)), events(3..4));
    assert_eq!(folder.lines(&["query", "--until", "now"]), events(0..10));
    assert_eq!(folder.lines(&["query", "--since", &second(8)]), events(8..10));
    assert_eq!(folder.lines(&["query", "--until", &second(1)]), events(0..2));
    assert_eq!(folder.lines(&["query", "--since", "1h"]), events(0..0));
}

#[test]
fn how_many_and_which_way_round() {
    let folder = first_ten();
    let query = |words: &str| {
        let words: Vec<&str> = std::iter::once("query").chain(words.split(' ')).collect();
        folder.lines(&words)
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
fn each_exclude_takes_away_by_itself() {
    let folder = first_ten();
    assert_eq!(folder.lines(&["query", "--exclude", "event=start", "--exclude", "event=die"]), events([0, 3, 4, 7, 8]));
    let both = ["query", "--exclude", "event=start", "--exclude", "container=box-1", "--type", "container"];
    assert_eq!(folder.lines(&both), events([0, 2, 3, 8]));
}

#[test]
fn the_envelope_says_what_the_store_knows() {
    let folder = first_ten();
    let lines = folder.lines(&["query", "--envelope", "--limit", "2"]);
    // The name of the source and the gap of the first contact are the first of all.
    assert!(lines[1].starts_with(r#"{"seq":4,"source":"events","received":"20"#), "{}", lines[1]);
    assert!(lines[1].ends_with(&format!(r#"Z","event":{}}}"#, event(1))), "{}", lines[1]);
}

#[test]
fn text_is_what_docker_events_prints() {
    let folder = first_ten();
    assert_eq!(
        folder.lines(&["query", "--format", "text", "--limit", "1"]),
        [format!("{} container create {:064x} (image=busybox, name=box-0)", instant(0), 0)]
    );
    let mut command = folder.command(&["query", "--format", "text", "--limit", "1"]);
    let elsewhere = crate::support::command::run({
        command.env("TZ", "XXX-5:30");
        command
    });
    assert!(elsewhere.succeeded().lines()[0].starts_with("2026-09-21T19:43:20.000000000+05:30 container create "));
}

#[test]
fn a_template_makes_a_line_of_each_event() {
    let folder = first_ten();
    let query = |words: &[&str]| {
        folder.lines(&[&["query", "--format", "{{.Action}} {{.Actor.Attributes.name}}"], words].concat())
    };
    assert_eq!(query(&["--limit", "2"]), ["create box-0", "start box-0"]);
    assert_eq!(query(&["--last", "1"]), ["start box-2"]);
    assert_eq!(query(&["--limit", "1", "--reverse"]), ["start box-2"]);
    assert_eq!(folder.lines(&["query", "--format", "- {{.Type}}", "--limit", "1"]), ["- container"]);
    assert_eq!(folder.lines(&["query", "--format", "", "--limit", "1"]), events(0..1));
}

#[test]
fn an_event_that_a_template_fails_on_is_named() {
    let folder = first_ten();
    let ran = folder.run(&["query", "--format", "{{.Type}} {{.Actor.Attributes.name.x}}"]).exited(1);
    assert_eq!(ran.lines(), ["container "]);
    assert_eq!(
        ran.stderr,
        "events: event 3 cannot be printed: template: :1:18: executing \"\" at <.Actor.Attributes.name.x>: can't evaluate field x in type string\n"
    );
}

#[test]
fn a_table_is_as_wide_as_its_rows_need() {
    let folder = first_ten();
    let lines = folder.lines(&["query", "--format", "table", "--limit", "2"]);
    let id = format!("{:064x}", 0);
    assert_eq!(
        lines,
        [
            format!("TIME{:26}  TYPE       ACTION    ID{:62}  NAME      ATTRIBUTES", "", ""),
            format!("2026-09-21T14:13:20.000000000Z  container  create    {id}  box-0     image=busybox"),
            format!("2026-09-21T14:13:21.000000000Z  container  start     {id}  box-0     image=busybox"),
        ]
    );
    let last = folder.lines(&["query", "--format", "table", "--envelope", "--last", "1"]);
    assert!(last[0].starts_with("SEQ  SOURCE  TIME "), "{last:?}");
    assert!(last[1].starts_with("12   events  2026-09-21T14:13:29.000000000Z  container  start "), "{last:?}");
    // Nothing found is a table without rows.
    assert_eq!(folder.lines(&["query", "--format", "table", "--type", "plugin"]).len(), 1);
}

#[test]
fn csv_has_the_columns_of_the_view() {
    let folder = first_ten();
    let ran = folder.run(&["query", "--format", "csv", "--limit", "1"]).succeeded();
    let (time, id) = ("2026-09-21T14:13:20.000000000Z", format!("{:064x}", 0));
    let attributes = r#""{""image"":""busybox"",""name"":""box-0""}""#;
    assert_eq!(
        String::from_utf8(ran.stdout).unwrap(),
        format!(
            "time,type,action,actor_id,name,image,attributes,time_nano\r\n\
             {time},container,create,{id},box-0,busybox,{attributes},1790000000000000000\r\n"
        )
    );
    let lines = folder.lines(&["query", "--format", "csv", "--envelope"]);
    assert_eq!(lines[0], "seq,source,received,time,type,action,actor_id,name,image,attributes,time_nano");
    assert!(lines[1].starts_with("3,events,20"), "{}", lines[1]);
    assert_eq!(folder.lines(&["query", "--format", "csv", "--type", "plugin"]).len(), 1);
}

#[test]
fn every_format_follows() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    engine.happens(&event(0));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(&["query"], &events(0..1));
    let follow = |format: &'static str| folder.start(&["query", "--follow", "--format", format, "--limit", "2"]);
    let mut followers = ["text", "table", "csv", "{{.Actor.Attributes.name}}"].map(follow);
    let lines = followers.each_mut().map(|follower| follower.printed());
    // What is there comes before anything else happens.
    for (lines, header) in lines.iter().zip([false, true, true, false]) {
        (0..1 + usize::from(header)).for_each(|_| drop(next(lines)));
    }
    engine.happens(&event(4));
    lines.iter().for_each(|lines| assert!(next(lines).contains("box-1")));
    followers.into_iter().for_each(|follower| drop(follower.ended().succeeded()));
    recorder.stop();
}

#[test]
fn times_without_a_zone_are_local() {
    let folder = first_ten();
    let since = |time: &str| {
        let mut command = folder.command(&["query", "--count", "--since", time]);
        command.env("TZ", "XXX-5:30");
        crate::support::command::run(command).succeeded().lines()
    };
    assert_eq!(since("2026-09-21T19:43:25"), ["5"]);
    assert_eq!(since("2026-09-21T14:13:25Z"), ["5"]);
    assert_eq!(since("2026-09-21T20"), ["0"]);
    assert_eq!(since("2026-09-22"), ["0"]);
}

#[test]
fn follow_goes_on_with_what_is_recorded_and_ends_after_its_limit() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    events(0..4).iter().for_each(|event| engine.happens(event));
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually_lines(&["query"], &events(0..4));
    let mut tail = folder.start(&["query", "--follow", "--last", "2"]);
    let mut starts = folder.start(&["query", "--follow", "--action", "start", "--limit", "3"]);
    let (tail_lines, start_lines) = (tail.printed(), starts.printed());
    assert_eq!([next(&tail_lines), next(&tail_lines)], [event(2), event(3)]);
    assert_eq!(next(&start_lines), event(1));
    // Arrival, not time, is the order that a follower sees.
    engine.happens(&event(5));
    engine.happens(&event(4));
    assert_eq!([next(&tail_lines), next(&tail_lines)], [event(5), event(4)]);
    assert_eq!(next(&start_lines), event(5));
    engine.happens(&event(9));
    assert_eq!(next(&start_lines), event(9));
    starts.ended().succeeded();
    recorder.stop();
}

#[test]
fn follow_with_an_end_in_the_past_prints_and_ends() {
    let folder = first_ten();
    assert_eq!(folder.lines(&["query", "--follow", "--until", &second(3)]), events(0..4));
}

#[test]
fn a_gap_in_the_window_is_said_on_stderr() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let once = ["record", "-H", &engine.host(), "--until", "now", "-q"];
    engine.happens(&event(0));
    folder.run(&once).succeeded();
    engine.forgets();
    engine.happens(&event(5));
    folder.run(&once).succeeded();
    let said = |words: &[&str]| folder.run(&[&["query"], words].concat()).exited(0).stderr;
    let line = format!(
        "this window touches a gap in the record of sim: from {} to {} (engine-restart); `events gaps` shows all\n",
        instant(0),
        instant(5)
    );
    assert_eq!(said(&[]), line);
    assert_eq!(said(&["--since", &second(3)]), line);
    assert_eq!(said(&["-q"]), "");
    assert_eq!(said(&["--since", &second(5)]), "");
    // What was before the first contact is told to whom asks for it.
    let first = format!(
        "this window touches a gap in the record of sim: from the beginning to {} (first-contact); `events gaps` shows all\n",
        instant(0)
    );
    assert_eq!(said(&["--since", "0", "--until", "1"]), first);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = fixture::recorded(&fixture::lines("docker-28.5.2.ndjson"));
    let script = format!("set -o pipefail; {} query | head -1", env!("CARGO_BIN_EXE_events"));
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", &script]).env("EVENTS_DB", folder.db());
    let ran = crate::support::command::run(bash).succeeded();
    assert_eq!(ran.lines().len(), 1);
}

#[test]
fn a_reader_leaves_no_file_behind() {
    let folder = first_ten();
    folder.lines(&["query"]);
    folder.lines(&["status"]);
    for name in ["events.db-wal", "events.db-shm"] {
        assert!(!crate::support::command::exists(&folder.path(name)), "{name}");
    }
}
