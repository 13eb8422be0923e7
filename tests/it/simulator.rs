//! The simulated engine itself: it does what moby does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::command::{Folder, eventually};
use crate::support::engine::{Engine, Framing, Manner, Pieces, event_at, events};

fn ask(engine: &Engine, target: &str) -> UnixStream {
    let mut socket = UnixStream::connect(engine.host().trim_start_matches("unix://")).unwrap();
    write!(socket, "GET {target} HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
    socket
}

/// The whole answer to a question that ends.
fn answer(engine: &Engine, target: &str) -> String {
    let mut text = String::new();
    ask(engine, target).read_to_string(&mut text).unwrap();
    text
}

/// The events in an answer.
fn told(engine: &Engine, target: &str) -> Vec<String> {
    answer(engine, target).lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect()
}

fn engine() -> (Folder, Engine) {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    (folder, engine)
}

#[test]
fn it_remembers_256_events_and_gives_those_asked_for_to_the_nanosecond() {
    let (_folder, engine) = engine();
    let all: Vec<String> = (0..300).map(|n| event_at(n, 5_000_000_000 + n as i64)).collect();
    all.iter().for_each(|event| engine.happens(event));
    assert_eq!(told(&engine, "/events?since=0&until=0"), all[44..]);
    assert_eq!(told(&engine, "/events?since=5.000000100&until=5.000000102"), all[100..103]);
    assert_eq!(told(&engine, "/events?since=5.0000002&until=6"), all[200..]);
    assert_eq!(told(&engine, "/events?until=5.000000045"), all[44..46]);
    assert!(answer(&engine, "/events?since=1&until=0").starts_with("HTTP/1.1 400 "));
    assert!(answer(&engine, "/events?since=abc").starts_with("HTTP/1.1 500 "));
}

#[test]
fn after_the_clock_stepped_back_newer_events_hide_behind_an_older_one() {
    let (_folder, engine) = engine();
    let all = [event_at(0, 900), event_at(1, 1000), event_at(2, 100), event_at(3, 950)];
    all.iter().for_each(|event| engine.happens(event));
    assert_eq!(told(&engine, "/events?since=0.0000009&until=9"), all[3..]);
    assert_eq!(told(&engine, "/events?since=0&until=0"), all);
}

#[test]
fn a_slow_subscriber_misses_events_without_a_word() {
    let (_folder, engine) = engine();
    engine.answers(Manner { impatient: Some(0), ..Manner::default() });
    let mut slow = ask(&engine, "/events");
    eventually("it listens", || if engine.listeners() == 1 { Ok(()) } else { Err(()) });
    let all = events(0..20_000);
    all.iter().for_each(|event| engine.happens(event));
    let skipped = engine.skipped();
    assert!((1..all.len() - 1024).contains(&skipped), "{skipped} were skipped");
    engine.ends_streams();
    let mut text = String::new();
    slow.read_to_string(&mut text).unwrap();
    let got = text.lines().filter(|line| line.starts_with('{')).count();
    assert_eq!(got + skipped, all.len());
    let truth = engine.truth();
    let obtainable = truth.made.iter().filter(|made| made.is_obtainable()).count();
    assert_eq!(obtainable, got + 256, "what was read, and what is remembered");
}

#[test]
fn what_a_killed_recorder_was_given_last_can_be_had_from_the_memory_alone() {
    let (_folder, engine) = engine();
    let stream = ask(&engine, "/events");
    eventually("it listens", || if engine.listeners() == 1 { Ok(()) } else { Err(()) });
    events(0..300).iter().for_each(|event| engine.happens(event));
    let obtainable = || engine.truth().made.iter().filter(|made| made.is_obtainable()).count();
    eventually("all are sent", || if obtainable() == 300 { Ok(()) } else { Err(obtainable()) });
    drop(stream);
    engine.recorder_died();
    assert_eq!(obtainable(), 256);
}

#[test]
fn chunks_may_end_anywhere_and_events_be_framed_in_three_ways() {
    let (_folder, engine) = engine();
    let line = r#"{"Type":"x","Action":"ü","Actor":{"ID":"📦"},"timeNano":5}"#;
    engine.happens(line);
    for (framing, whole) in [
        (Framing::Lf, format!("{line}\n")),
        (Framing::CrLf, format!("{line}\r\n")),
        (Framing::JsonSeq, format!("\x1e{line}\n")),
    ] {
        for (pieces, at_least) in [(Pieces::Events, 1), (Pieces::Bytes, line.len()), (Pieces::Anywhere, 1)] {
            engine.answers(Manner { framing, pieces, ..Manner::default() });
            let mut bytes = Vec::new();
            ask(&engine, "/events?since=0&until=0").read_to_end(&mut bytes).unwrap();
            let (chunks, body) = unchunked(&bytes);
            assert_eq!(body, whole.as_bytes());
            assert!(chunks >= at_least, "{chunks} chunks");
        }
    }
}

/// How many chunks a whole answer has, and what they make.
fn unchunked(answer: &[u8]) -> (usize, Vec<u8>) {
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("headers end") + 4;
    let (mut rest, mut body, mut chunks) = (&answer[at..], Vec::new(), 0);
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").expect("a length");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return (chunks, body);
        }
        body.extend(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 2 + length + 2..];
        chunks += 1;
    }
}
