//! `events::testing`, as a test of another program uses it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use crate::support::command::{TIMEOUT, TestDir};
use crate::support::fixture;
use events::serve::FaultKind;
use events::testing::Engine;

#[test]
fn the_test_engine_serves_a_recorder() {
    let engine = Engine::from_fixture(fixture::path("docker-28.5.2.ndjson")).unwrap();
    let test_dir = TestDir::new();
    let recorder = test_dir.record(&engine.docker_host(), &[]);
    assert!(engine.wait_for_subscriber());
    let mut expected = fixture::sorted_by_time(&fixture::lines("docker-28.5.2.ndjson"));
    expected.push(r#"{"Type":"container","Action":"oom","Actor":{"ID":"c1"},"timeNano":1795539999000000000}"#.into());
    engine.push(expected.last().unwrap());
    test_dir.eventually_lines(&["query", "-q"], &expected);
    engine.stop();
    recorder.stop();
}

#[test]
fn injected_faults_lose_no_event() {
    let faults = vec![FaultKind::Cut(7), FaultKind::Garbage(9), FaultKind::Cut(11), FaultKind::Split];
    let path = fixture::path("docker-29.7.2.ndjson");
    let engine = Engine::from_fixture_with_faults(path, faults, 1).unwrap();
    let test_dir = TestDir::new();
    let recorder = test_dir.record(&engine.docker_host(), &[]);
    let count = fixture::lines("docker-29.7.2.ndjson").len().to_string();
    test_dir.eventually("all events are stored", || {
        let lines = test_dir.run(&["query", "-q", "--count"]).lines();
        if lines == [count.clone()] { Ok(()) } else { Err(lines) }
    });
    recorder.stop();
}

/// Without `since` a subscriber receives only events pushed after it is counted. This also works in an async test.
#[tokio::test]
async fn events_pushed_after_wait_for_subscriber_are_delivered() {
    for _ in 0..200 {
        let engine = Engine::start().unwrap();
        let mut stream = UnixStream::connect(engine.docker_host().strip_prefix("unix://").unwrap()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(engine.wait_for_subscriber());
        engine.push(r#"{"Type":"container","Action":"oom","Actor":{"ID":"c1"},"time":1}"#);
        let is_received = BufReader::new(stream).lines().any(|line| line.unwrap().contains("oom"));
        assert!(is_received);
    }
}

#[test]
fn an_unreadable_recording_is_named() {
    let error = Engine::from_fixture("missing.ndjson").unwrap_err();
    assert_eq!(events::error::chain(&error), "cannot read missing.ndjson: No such file or directory");
}
