//! The engine for tests, as a test of somebody's program would use it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use crate::support::command::{DEADLINE, Folder};
use crate::support::fixture;
use events::serve::FaultKind;
use events::testing::Engine;

#[test]
fn a_recorder_is_tested_with_it() {
    let engine = Engine::from_fixture(fixture::path("docker-28.5.2.ndjson")).unwrap();
    let folder = Folder::new();
    let recorder = folder.record(&engine.docker_host(), &[]);
    assert!(engine.wait_for_subscriber());
    let mut expected = fixture::by_time(&fixture::lines("docker-28.5.2.ndjson"));
    expected.push(r#"{"Type":"container","Action":"oom","Actor":{"ID":"c1"},"timeNano":1795539999000000000}"#.into());
    engine.push(expected.last().unwrap());
    folder.eventually_lines(&["query", "-q"], &expected);
    engine.stop();
    recorder.stop();
}

#[test]
fn what_breaks_on_purpose_is_mended() {
    let faults = vec![FaultKind::Cut(7), FaultKind::Garbage(9), FaultKind::Cut(11), FaultKind::Split];
    let path = fixture::path("docker-29.7.2.ndjson");
    let engine = Engine::from_fixture_with_faults(path, faults, 1).unwrap();
    let folder = Folder::new();
    let recorder = folder.record(&engine.docker_host(), &[]);
    let count = fixture::lines("docker-29.7.2.ndjson").len().to_string();
    folder.eventually("all is stored", || {
        let lines = folder.run(&["query", "-q", "--count"]).lines();
        if lines == [count.clone()] { Ok(()) } else { Err(lines) }
    });
    recorder.stop();
}

/// Live, without `since`: what is pushed once a subscriber is counted is told to it, also from within an async test.
#[tokio::test]
async fn what_is_pushed_to_a_subscriber_that_was_waited_for_is_told() {
    for _ in 0..200 {
        let engine = Engine::start().unwrap();
        let mut stream = UnixStream::connect(engine.docker_host().strip_prefix("unix://").unwrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(engine.wait_for_subscriber());
        engine.push(r#"{"Type":"container","Action":"oom","Actor":{"ID":"c1"},"time":1}"#);
        let told = BufReader::new(stream).lines().any(|line| line.unwrap().contains("oom"));
        assert!(told);
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let failed = Engine::from_fixture("missing.ndjson").unwrap_err();
    assert_eq!(events::error::chain(&failed), "cannot read missing.ndjson: No such file or directory");
}
