//! The simulated engine itself: it behaves as moby does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::command::eventually;
use crate::support::engine::{Behavior, Chunking, Engine, Framing, event_at, events, start_engine};

/// Sends a request; returns the connection.
fn send_get(engine: &Engine, target: &str) -> UnixStream {
    let mut socket = UnixStream::connect(engine.host().trim_start_matches("unix://")).unwrap();
    write!(socket, "GET {target} HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
    socket
}

/// Sends a request and reads the whole response.
fn get(engine: &Engine, target: &str) -> String {
    let mut text = String::new();
    send_get(engine, target).read_to_string(&mut text).unwrap();
    text
}

/// Sends a request; returns the events in the response.
fn get_events(engine: &Engine, target: &str) -> Vec<String> {
    get(engine, target).lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect()
}

#[test]
fn the_backlog_has_256_events_and_bounds_are_exact_to_the_nanosecond() {
    let (_test_dir, engine) = start_engine();
    let all: Vec<String> = (0..300).map(|n| event_at(n, 5_000_000_000 + n as i64)).collect();
    all.iter().for_each(|event| engine.emit(event));
    assert_eq!(get_events(&engine, "/events?since=0&until=0"), all[44..]);
    assert_eq!(get_events(&engine, "/events?since=5.000000100&until=5.000000102"), all[100..103]);
    assert_eq!(get_events(&engine, "/events?since=5.0000002&until=6"), all[200..]);
    assert_eq!(get_events(&engine, "/events?until=5.000000045"), all[44..46]);
    assert!(get(&engine, "/events?since=1&until=0").starts_with("HTTP/1.1 400 "));
    assert!(get(&engine, "/events?since=abc").starts_with("HTTP/1.1 500 "));
}

#[test]
fn after_a_backward_clock_step_an_older_event_hides_newer_ones() {
    let (_test_dir, engine) = start_engine();
    let all = [event_at(0, 900), event_at(1, 1000), event_at(2, 100), event_at(3, 950)];
    all.iter().for_each(|event| engine.emit(event));
    assert_eq!(get_events(&engine, "/events?since=0.0000009&until=9"), all[3..]);
    assert_eq!(get_events(&engine, "/events?since=0&until=0"), all);
}

#[test]
fn a_slow_subscriber_silently_misses_events() {
    let (_test_dir, engine) = start_engine();
    engine.set_behavior(Behavior { send_timeout_micros: Some(0), ..Behavior::default() });
    let mut slow = send_get(&engine, "/events");
    eventually("the subscriber is counted", || if engine.subscriber_count() == 1 { Ok(()) } else { Err(()) });
    let all = events(0..20_000);
    all.iter().for_each(|event| engine.emit(event));
    let skipped = engine.skipped_count();
    assert!((1..all.len() - 1024).contains(&skipped), "{skipped} were skipped");
    engine.end_streams();
    let mut text = String::new();
    slow.read_to_string(&mut text).unwrap();
    let received = text.lines().filter(|line| line.starts_with('{')).count();
    assert_eq!(received + skipped, all.len());
    let truth = engine.truth();
    let obtainable = truth.emitted.iter().filter(|event| event.is_obtainable()).count();
    assert_eq!(obtainable, received + 256, "the received events and the backlog");
}

#[test]
fn events_sent_to_a_killed_recorder_are_obtainable_only_from_the_backlog() {
    let (_test_dir, engine) = start_engine();
    let stream = send_get(&engine, "/events");
    eventually("the subscriber is counted", || if engine.subscriber_count() == 1 { Ok(()) } else { Err(()) });
    events(0..300).iter().for_each(|event| engine.emit(event));
    let obtainable = || engine.truth().emitted.iter().filter(|event| event.is_obtainable()).count();
    eventually("all events are sent", || if obtainable() == 300 { Ok(()) } else { Err(obtainable()) });
    drop(stream);
    engine.on_recorder_killed();
    assert_eq!(obtainable(), 256);
}

#[test]
fn chunks_end_anywhere_and_events_have_three_framings() {
    let (_test_dir, engine) = start_engine();
    let line = r#"{"Type":"x","Action":"ü","Actor":{"ID":"📦"},"timeNano":5}"#;
    engine.emit(line);
    for (framing, whole) in [
        (Framing::Lf, format!("{line}\n")),
        (Framing::CrLf, format!("{line}\r\n")),
        (Framing::JsonSeq, format!("\x1e{line}\n")),
    ] {
        for (pieces, at_least) in [(Chunking::PerEvent, 1), (Chunking::PerByte, line.len()), (Chunking::Random, 1)] {
            engine.set_behavior(Behavior { framing, chunking: pieces, ..Behavior::default() });
            let mut bytes = Vec::new();
            send_get(&engine, "/events?since=0&until=0").read_to_end(&mut bytes).unwrap();
            let (chunks, body) = dechunk(&bytes);
            assert_eq!(body, whole.as_bytes());
            assert!(chunks >= at_least, "{chunks} chunks");
        }
    }
}

/// Decodes a chunked response; returns the number of chunks and the body.
fn dechunk(response: &[u8]) -> (usize, Vec<u8>) {
    let at = response.windows(4).position(|four| four == b"\r\n\r\n").expect("the headers end") + 4;
    let (mut rest, mut body, mut chunks) = (&response[at..], Vec::new(), 0);
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").expect("a chunk starts with its length");
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return (chunks, body);
        }
        body.extend(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 2 + length + 2..];
        chunks += 1;
    }
}
