//! `serve` with hostile and faulty clients.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use crate::support::command::{Running, eventually};
use crate::support::fixture::imported_store;
use crate::support::http::{ResponseStream, get, percent_encode, send_request, serve};

#[test]
fn long_requests_are_refused_and_unfinished_ones_block_no_client() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    let mut slow = UnixStream::connect(&socket).unwrap();
    slow.write_all(b"GET /events HTTP/1.1\r\nHo").unwrap();
    let values: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    for filter in ["x".repeat(1 << 20), values.join("\",\"")] {
        let filter = percent_encode(&format!(r#"{{"container":["{filter}"]}}"#));
        let response = get(&socket, &format!("/events?filters={filter}"));
        assert_eq!((response.status(), response.text().as_str()), (400, "{\"message\":\"the request is too long\"}\n"));
    }
    assert_eq!(get(&socket, "/_ping").status(), 200);
}

/// Number of open files of a process whose names start with `kind`.
fn open_files(server: &Running, kind: &str) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    files.filter(|file| file.as_ref().is_ok_and(|file| is_kind(&file.path(), kind))).count()
}

fn is_kind(file: &Path, kind: &str) -> bool {
    fs::read_link(file).is_ok_and(|target| target.to_string_lossy().starts_with(kind))
}

#[test]
fn ten_thousand_connections_leave_none_open() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (server, socket) = serve(&test_dir, &[]);
    let before = open_files(&server, "socket:");
    let requests: [&[u8]; 7] = [
        b"",
        b"\0\x01\x02\xff\n\n",
        b"garbage\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n\n",
        b"GET /events?since=0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHo",
    ];
    for round in 0..10_000 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(requests[round % requests.len()]).unwrap();
    }
    eventually("all connections are closed", || match open_files(&server, "socket:") {
        open if open <= before => Ok(()),
        open => Err((before, open)),
    });
    // SQLite keeps files of earlier readers open for later ones: as many as were in use at the same time.
    let stores = open_files(&server, &test_dir.db().display().to_string());
    assert!(stores <= 64 + 5, "{stores}");
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), test_dir.lines(&["query", "-q"]));
    server.stop();
}

#[test]
fn endless_headers_are_refused_with_bounded_memory() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (server, socket) = serve(&test_dir, &[]);
    let mut endless = UnixStream::connect(&socket).unwrap();
    endless.write_all(b"GET /events HTTP/1.1\r\n").unwrap();
    let line = format!("X: {}\r\n", "x".repeat(1_000));
    let before = server.peak_memory().unwrap();
    while endless.write_all(line.as_bytes()).is_ok() {}
    let peak = server.peak_memory().unwrap();
    assert!(peak < before + (8 << 20), "{before} bytes, then {peak}");
    let mut refused = String::new();
    let _ = endless.read_to_string(&mut refused);
    assert!(refused.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{refused}");
}

#[test]
fn long_filters_delay_no_other_request() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    let values: Vec<String> = (0..4_000).map(|n| format!("x{n}")).collect();
    let filter = percent_encode(&format!(r#"{{"container":["{}","web"]}}"#, values.join("\",\"")));
    let request = format!("GET /events?until=1795535700&filters={filter} HTTP/1.1\r\nHost: x\r\n\r\n");
    let streams: Vec<_> = (0..20).map(|_| send_request(&socket, &request)).collect();
    let expected = test_dir.lines(&["query", "-q", "--container", "web"]);
    let read = |stream: ResponseStream| (stream.read_to_end().lines() == expected, Instant::now());
    let (pinged, streamed): (Instant, Vec<(bool, Instant)>) = std::thread::scope(|scope| {
        let streams: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| read(stream))).collect();
        assert_eq!(get(&socket, "/_ping").status(), 200);
        (Instant::now(), streams.into_iter().map(|stream| stream.join().unwrap()).collect())
    });
    assert!(!expected.is_empty() && streamed.iter().all(|(is_expected, _)| *is_expected));
    assert!(streamed.iter().any(|(_, at)| *at > pinged), "the ping waited for all streams");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    let mut many = UnixStream::connect(&socket).unwrap();
    many.write_all("GET /events?since=0&until=0 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3).as_bytes()).unwrap();
    many.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut responses = String::new();
    many.read_to_string(&mut responses).unwrap();
    assert_eq!(responses.matches("HTTP/1.1 200 OK").count(), 4);
    assert!(responses.ends_with("OK"));
}
