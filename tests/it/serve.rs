//! `serve` behaves as an engine: tests of the binary with HTTP requests written by hand.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use crate::support::command::{TestDir, eventually};
use crate::support::engine::{Engine, now_nano};
use crate::support::fixture::{self, imported_store, sorted_by_time};
use crate::support::http::{ResponseStream, get, percent_encode, send_request, serve, serve_with_stdin, subscribe};

#[test]
fn history_is_sent_completely_one_event_per_chunk() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    let all_lines = test_dir.lines(&["query", "-q"]);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    for target in
        ["/events?since=0&until=0", "/v1.46/events?since=0&until=1795535700", "/events?until=1795535700.000000001"]
    {
        let response = get(&socket, target);
        assert_eq!(response.status(), 200);
        assert_eq!(response.header("Content-Type"), Some("application/json"));
        assert_eq!(response.header("Transfer-Encoding"), Some("chunked"));
        assert_eq!(response.header("Api-Version"), Some("1.51"));
        assert_eq!(response.lines(), all_lines, "{target}");
        let mut chunks = response.chunks.iter().zip(&all_lines);
        assert!(chunks.all(|(chunk, line)| *chunk == format!("{line}\n").into_bytes()));
    }
}

#[test]
fn filters_and_bounds_select_the_same_as_query() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    let times = ["1795535605.311574272", "1795535620", "1795535610.000000000"];
    let cases: [(&str, &[&str]); 9] = [
        (r#"{"type":["container"],"event":["start"]}"#, &["--type", "container", "--action", "start"]),
        (r#"{"type":{"network":true}}"#, &["--type", "network"]),
        (r#"{"container":["web","oom"]}"#, &["--container", "web", "--container", "oom"]),
        (r#"{"label":["exitCode=137"]}"#, &["--label", "exitCode=137"]),
        (r#"{"event":["exec_start"]}"#, &["--action", "exec_start"]),
        (r#"{"image":["busybox"],"type":["container"]}"#, &["--image", "busybox", "--type", "container"]),
        (r#"{"volume":["vol-data"]}"#, &["--volume", "vol-data"]),
        (r#"{"unknown":["x"]}"#, &[]),
        ("{}", &[]),
    ];
    for (filters, args) in cases {
        for (since, until) in
            [(None, None), (Some(times[0]), None), (None, Some(times[1])), (Some(times[0]), Some(times[2]))]
        {
            let bound = until.unwrap_or("1795535700");
            let mut target = format!("/events?filters={}&until={bound}", percent_encode(filters));
            let mut query = [&["query", "-q"], args].concat();
            if let Some(since) = since {
                target += &format!("&since={since}");
                query.extend(["--since", since]);
            }
            if let Some(until) = until {
                query.extend(["--until", until]);
            }
            assert_eq!(get(&socket, &target).lines(), test_dir.lines(&query), "{target}");
        }
    }
}

#[test]
fn invalid_requests_get_the_same_errors_as_from_an_engine() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    let cases = [
        ("/events?since=abc", 500, r#"strconv.ParseInt: parsing \"abc\": invalid syntax"#),
        ("/events?since=2&until=1", 400, "`since` time (2) cannot be after `until` time (1)"),
        ("/events?filters=notjson", 400, "invalid filter"),
        ("/v1.99/events", 400, "client version 1.99 is too new. Maximum supported API version is 1.51"),
        (
            "/v1.99999999999/_ping",
            400,
            "client version 1.99999999999 is too new. Maximum supported API version is 1.51",
        ),
        ("/nothing", 404, "page not found"),
        ("/v1.41", 404, "page not found"),
        ("/v1.41/", 404, "page not found"),
        ("/_ping/", 404, "page not found"),
        ("/events?since=%zz", 400, r#"invalid URL escape \"%zz\""#),
        ("/events?since=%+1", 400, r#"invalid URL escape \"%+1\""#),
        ("/events?since=1;until=1", 400, "invalid semicolon separator in query"),
        ("/events?%73ince=abc", 500, r#"strconv.ParseInt: parsing \"abc\": invalid syntax"#),
        ("/events?since=1.x", 500, r#"strconv.ParseInt: parsing \"x\": invalid syntax"#),
        (
            "/events?since=1.99999999999999999999",
            500,
            r#"strconv.ParseInt: parsing \"99999999999999999999\": value out of range"#,
        ),
        ("/events?since=%2B", 500, r#"strconv.ParseInt: parsing \"+\": invalid syntax"#),
        ("/events?since=1.2.3", 500, r#"strconv.ParseInt: parsing \"2.3\": invalid syntax"#),
        ("/events?since=0&until=-2", 400, "`since` time (0) cannot be after `until` time (-2)"),
        ("/containers/json/x", 404, "page not found"),
    ];
    for (target, status, message) in cases {
        let response = get(&socket, target);
        let body = format!("{{\"message\":\"{message}\"}}\n");
        assert_eq!((response.status(), response.text()), (status, body), "{target}");
    }
    for (methods, status) in [
        (&["POST", "PUT", "DELETE", "PATCH"][..], 403),
        (&["OPTIONS"], 200),
        (&["TRACE", "CONNECT", "PROPFIND", "get"], 404),
    ] {
        for method in methods {
            let request = format!("{method} /containers/create HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(send_request(&socket, &request).read_to_end().status(), status, "{method}");
        }
    }
    // A client can read the refusal even if it sends a large body.
    let archive = "x".repeat(3 << 20);
    let load = format!("POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{archive}", archive.len());
    assert_eq!(send_request(&socket, &load).read_to_end().status(), 403);
    let too_old = "client version 1.11 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version\n";
    for (request, message) in [
        ("GET /_ping HTTP/1.1\r\n\r\n", "400 Bad Request: missing required Host header"),
        ("GET /_ping HTTP/1.1\r\nHost: a b\r\n\r\n", "400 Bad Request: malformed Host header"),
        ("GET /_ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request"),
        ("GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("GET events HTTP/1.1\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("GET /events HTTP/3\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("GET /events?a=\x7f HTTP/1.1\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("GET /_ping HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", "400 Bad Request"),
        ("garbage\r\n\r\n", "400 Bad Request"),
        ("GET /v1.11/_ping HTTP/1.1\r\nHost: x\r\n\r\n", too_old),
    ] {
        let response = send_request(&socket, request).read_to_end();
        assert_eq!((response.status(), response.text().as_str()), (400, message), "{request}");
        assert_eq!(response.header("Content-Type"), Some("text/plain; charset=utf-8"));
    }
    for target in ["/containers/json?all=1", "/images/json", "/networks"] {
        assert_eq!(get(&socket, target).text(), "[]\n");
    }
    assert_eq!(get(&socket, "/volumes").text(), "{\"Volumes\":[],\"Warnings\":null}\n");
    let pong = get(&socket, "/_ping");
    assert_eq!((pong.status(), pong.text().as_str()), (200, "OK"));
    assert_eq!(
        send_request(&socket, "HEAD /v1.30/_ping HTTP/1.1\r\nHost:\r\n\r\n").head.lines().next(),
        Some("HTTP/1.1 200 OK")
    );
}

#[test]
fn json_seq_and_http_1_0_are_supported() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    let all_lines = test_dir.lines(&["query", "-q"]);
    let request = "GET /events?since=0&until=0 HTTP/1.1\r\nHost: x\r\nAccept: application/json-seq\r\n\r\n";
    let response = send_request(&socket, request).read_to_end();
    assert_eq!(response.header("Content-Type"), Some("application/json-seq"));
    let mut chunks = response.chunks.iter().zip(&all_lines);
    assert!(chunks.all(|(chunk, line)| *chunk == format!("\x1e{line}\n").into_bytes()));
    let mut old = send_request(&socket, "GET /events?since=0&until=0 HTTP/1.0\r\n\r\n");
    assert!(old.head.starts_with("HTTP/1.0 200 OK") && !old.head.to_lowercase().contains("transfer-encoding"));
    let mut body = String::new();
    old.reader.read_to_string(&mut body).unwrap();
    assert_eq!(body.lines().map(str::to_owned).collect::<Vec<_>>(), all_lines);
}

#[test]
fn the_transition_from_history_to_live_loses_and_duplicates_nothing() {
    let test_dir = TestDir::new();
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let mut many = Vec::new();
    for round in 0..120 {
        many.extend(
            lines.iter().map(|line| line.replace("\"timeNano\":17955", &format!("\"timeNano\":{}", 17955 + round))),
        );
    }
    let (first, later) = many.split_at(many.len() / 3);
    fs::write(test_dir.path("first"), first.join("\n")).unwrap();
    fs::write(test_dir.path("later"), later.join("\n")).unwrap();
    test_dir.run(&["import", "-q", "first"]).assert_success();
    let (_server, socket) = serve(&test_dir, &[]);
    let head = "GET /events?since=0 HTTP/1.1\r\nHost: x\r\n\r\n";
    let subscribers: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = send_request(&socket, head);
            let number = many.len();
            std::thread::spawn(move || (0..number).map_while(|_| stream.chunk()).collect::<Vec<_>>())
        })
        .collect();
    // The headers arrive immediately, even if no event matches for hours.
    let mut quiet = send_request(
        &socket,
        &format!("GET /events?filters={} HTTP/1.1\r\nHost: x\r\n\r\n", percent_encode(r#"{"event":["reload"]}"#)),
    );
    assert!(quiet.head.starts_with("HTTP/1.1 200 OK"));
    test_dir.run(&["import", "-q", "later"]).assert_success();
    let mut expected: Vec<Vec<u8>> = many.iter().map(|line| format!("{line}\n").into_bytes()).collect();
    expected.sort();
    for subscriber in subscribers {
        let mut received = subscriber.join().unwrap();
        received.sort();
        assert_eq!(received.len(), expected.len());
        assert!(received == expected);
    }
    let reload = many.iter().filter(|line| line.contains("\"Action\":\"reload\"")).count();
    if reload > 0 {
        assert!(quiet.chunk().is_some());
    }
}

#[test]
fn live_events_are_served_and_a_second_recording_is_identical() {
    let (first, second) = (TestDir::new(), TestDir::new());
    let engine = Engine::start(first.path("docker.sock"));
    let lines = fixture::lines("docker-28.5.2.ndjson");
    lines[..100].iter().for_each(|line| engine.emit(line));
    let engine_version = r#"{"ApiVersion":"1.45","GoVersion":"go1.19.8","MinAPIVersion":"1.30","Version":"26.1.5"}"#;
    engine.set_response("/version", engine_version);
    let _recorder = first.record(&engine.host(), &[]);
    first.eventually_lines(&["query", "-q"], &sorted_by_time(&lines[..100]));
    let (_server, socket) = serve(&first, &[]);
    // The recorder stores the engine's version while the store is being served.
    first.eventually("serve answers with the engine's version", || {
        let version = get(&socket, "/_ping").header("Api-Version").map(str::to_owned);
        if version.as_deref() == Some("1.45") { Ok(()) } else { Err(version) }
    });
    assert_eq!(get(&socket, "/v1.46/_ping").status(), 400);
    assert_eq!(get(&socket, "/v1.29/_ping").status(), 400);
    assert_eq!(get(&socket, "/version").text(), format!("{engine_version}\n"), "the whole response of the engine");
    let mut live = subscribe(&socket);
    let again = second.record(&format!("unix://{}", socket.display()), &[]);
    second.eventually_lines(&["query", "-q"], &sorted_by_time(&lines[..100]));
    for line in &lines[100..] {
        engine.emit(line);
        assert_eq!(live.chunk().unwrap(), format!("{line}\n").into_bytes());
    }
    second.eventually_lines(&["query", "-q"], &sorted_by_time(&lines));
    let status = second.json(&["status", "--json"]);
    assert_eq!(status[0]["sources"][0]["name"], "sim");
    assert_eq!(status[0]["sources"][0]["gaps"], 0);
    again.stop();
}

#[test]
fn several_sources_are_merged_unless_one_is_selected() {
    let test_dir = TestDir::new();
    for (name, file) in [("old", "docker-20.10.24.ndjson"), ("new", "docker-28.5.2.ndjson")] {
        test_dir.run(&["import", "-q", "--source", name, &fixture::path(file).display().to_string()]).assert_success();
    }
    let (server, socket) = serve(&test_dir, &[]);
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), test_dir.lines(&["query", "-q"]));
    server.stop();
    let (server, socket) = serve(&test_dir, &["--source", "old"]);
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), test_dir.lines(&["query", "-q", "--source", "old"]));
    server.stop();
    let (_server, socket) = serve(&test_dir, &["--type", "network", "--exclude", "event=connect"]);
    let expected = test_dir.lines(&["query", "-q", "--type", "network", "--exclude", "event=connect"]);
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), expected);
}

#[test]
fn recordings_are_served_instead_of_a_store() {
    let test_dir = TestDir::new();
    let bytes = fixture::bytes("docker-28.5.2.ndjson");
    let gzip = test_dir.path("day.ndjson.gz");
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&gzip).unwrap(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap();
    fs::write(test_dir.path("day.zst"), zstd::encode_all(&fixture::bytes("docker-29.7.2.ndjson")[..], 1).unwrap())
        .unwrap();
    let (_server, socket) = serve(&test_dir, &["day.ndjson.gz", "day.zst"]);
    let number = fixture::lines("docker-28.5.2.ndjson").len() + fixture::lines("docker-29.7.2.ndjson").len();
    let lines = get(&socket, "/events?since=0&until=0").lines();
    assert_eq!(lines.len(), number);
    assert!(!crate::support::command::exists(&test_dir.db()));
    let again = TestDir::new();
    let day = fs::File::open(fixture::path("docker-28.5.2.ndjson")).unwrap();
    let (_again, again) = serve_with_stdin(&again, &["-"], day.into());
    let expected = sorted_by_time(&fixture::lines("docker-28.5.2.ndjson"));
    assert_eq!(get(&again, "/events?since=0&until=0").lines(), expected);
    // Events have the fields of the requested API version, whichever engine sent them.
    for line in get(&socket, "/v1.40/events?since=0&until=0").lines() {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event.get("status").is_some(), event["Type"] == "container" || event["Type"] == "image", "{line}");
    }
}

#[test]
fn an_address_that_cannot_be_used_is_named() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let path = test_dir.path("serve.sock");
    let listen = format!("unix://{}", path.display());
    // A socket that a dead process left is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let (server, _) = serve(&test_dir, &[]);
    let line = format!("cannot listen on {listen}: the address is in use");
    test_dir.run(&["serve", "--listen", &listen]).assert_failure(1, &line);
    server.stop();
    assert!(!crate::support::command::exists(&path));
    fs::write(&path, "text").unwrap();
    test_dir
        .run(&["serve", "--listen", &listen])
        .assert_failure(1, &format!("cannot listen on {listen}: the path exists and is not a socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    let open = "tcp://0.0.0.0:1 can be reached from other machines without TLS (hint: pass --tls-cert and --tls-key, or --allow-remote to allow it)";
    test_dir.run(&["serve", "--listen", "tcp://0.0.0.0:1"]).assert_failure(2, open);
    test_dir.run(&["serve"]).assert_exit_code(2);
    test_dir.run(&["serve", "--listen", "http://x"]).assert_exit_code(2);
    let missing = TestDir::new();
    missing.run(&["serve", "--listen", &listen]).assert_exit_code(1);
    assert!(!crate::support::command::exists(&missing.db()));
}

#[test]
fn paths_are_parsed_as_an_engine_parses_them() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    for (target, clean) in [
        ("//events?until=1", "/events?until=1"),
        ("/v1.41//_ping", "/v1.41/_ping"),
        ("/./_ping", "/_ping"),
        ("/a/../_ping", "/_ping"),
        ("/%2e/_ping", "/_ping"),
        ("/a%2Fb/../x%20y%0A*+", "/a/x%20y%0A%2A+"),
    ] {
        let moved = get(&socket, target);
        assert_eq!((moved.status(), moved.header("Location")), (301, Some(clean)), "{target}");
    }
    assert_eq!(get(&socket, "http://docker/events?until=1").status(), 200);
    for target in ["/%5Fping", "/v1.41/%5fping", "/v1.41.2/_ping", "/v01.041/_ping"] {
        assert_eq!(get(&socket, target).text(), "OK", "{target}");
    }
    // Bounds may have signs. As on an engine, a bound of -1 is none, and an earlier `until` includes all stored events.
    let all_lines = test_dir.lines(&["query", "-q"]);
    for target in ["/events?since=-2&until=1795535700", "/events?until=-2", "/events?since=-1&until=%2B1795535700"] {
        assert_eq!(get(&socket, target).lines(), all_lines, "{target}");
    }
    assert!(send_request(&socket, "GET /events?since=-1&until=-1 HTTP/1.1\r\nHost: x\r\n\r\n").is_idle());
    // The first of two values applies.
    assert_eq!(get(&socket, "/events?since=1&since=abc&until=1").status(), 200);
}

#[test]
fn a_stream_with_a_future_until_contains_all_events_stored_by_then() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&test_dir, &[]);
    let until = now_nano() + 1_000_000_000;
    let stream = send_request(
        &socket,
        &format!(
            "GET /events?until={}.{:09} HTTP/1.1\r\nHost: x\r\n\r\n",
            until / 1_000_000_000,
            until % 1_000_000_000
        ),
    );
    test_dir.run(&["import", "-q", &fixture::path("docker-20.10.24.ndjson").display().to_string()]).assert_success();
    let mut received = stream.read_to_end().lines();
    let mut expected = test_dir.lines(&["query", "-q"]);
    received.sort();
    expected.sort();
    assert_eq!(received, expected);
}

#[test]
fn a_replaced_store_is_served_and_open_streams_are_cut() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (server, socket) = serve(&test_dir, &[]);
    let live = subscribe(&socket);
    let other = imported_store("docker-20.10.24.ndjson");
    fs::rename(other.db(), test_dir.db()).unwrap();
    let response = live.read_to_end();
    assert!(!response.is_complete && response.chunks.is_empty());
    let expected = test_dir.lines(&["query", "-q"]);
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), expected);
    fs::remove_file(test_dir.db()).unwrap();
    eventually("the missing store is logged", || {
        let warnings = server.log().matches("the server retries every second").count();
        if warnings == 1 { Ok(()) } else { Err(server.log()) }
    });
    assert_eq!(get(&socket, "/_ping").status(), 200);
    server.stop();
}

#[test]
fn serve_stops_with_open_streams_and_leaves_only_the_store() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let (server, socket) = serve(&test_dir, &[]);
    let live: Vec<_> = (0..20)
        .map(|at| {
            let since = ["", "?since=0"][at % 2];
            send_request(&socket, &format!("GET /events{since} HTTP/1.1\r\nHost: x\r\n\r\n"))
        })
        .collect();
    server.stop();
    assert!(live.into_iter().all(|stream| !stream.read_to_end().is_complete));
    for suffix in ["-wal", "-shm"] {
        assert!(!crate::support::command::exists(&test_dir.path(&format!("events.db{suffix}"))), "{suffix}");
    }
    assert!(!crate::support::command::exists(&socket));
}

/// Returns `number` events of ten days ago and `number` of an hour ago.
fn old_and_recent_events(number: usize) -> Vec<String> {
    let now = chrono::Utc::now().timestamp();
    let event = |ago: i64, n: usize| {
        let time = (now - ago) * 1_000_000_000 + n as i64;
        let actor = format!(r#"{{"ID":"{:064x}","Attributes":{{"name":"c{}"}}}}"#, n % 9, n % 9);
        format!(r#"{{"Type":"container","Action":"start","Actor":{actor},"scope":"local","timeNano":{time}}}"#)
    };
    [864_000, 3_600].into_iter().flat_map(|ago| (0..number).map(move |n| event(ago, n))).collect()
}

#[test]
fn pruning_breaks_no_response_and_drops_only_old_events() {
    let test_dir = TestDir::new();
    let lines = old_and_recent_events(20_000);
    fs::write(test_dir.path("days"), lines[..39_000].join("\n")).unwrap();
    fs::write(test_dir.path("later"), lines[39_000..].join("\n")).unwrap();
    test_dir.run(&["import", "-q", "days"]).assert_success();
    let (server, socket) = serve(&test_dir, &[]);
    let mut history = send_request(&socket, "GET /events?since=0 HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut live = subscribe(&socket);
    let line = |stream: &mut ResponseStream| String::from_utf8(stream.chunk().unwrap()).unwrap().trim_end().to_owned();
    assert_eq!(line(&mut history), lines[0]);
    test_dir.run(&["prune", "--retain", "1d"]).assert_exit_code(0);
    let left = test_dir.lines(&["query", "-q"]);
    assert!(left.len() < 30_000 && left.ends_with(&lines[20_000..39_000]));
    test_dir.run(&["import", "-q", "later"]).assert_success();
    assert!(lines[39_000..].iter().all(|expected| line(&mut live) == *expected));
    let mut received = vec![lines[0].clone()];
    while received.last() != lines.last() {
        received.push(line(&mut history));
    }
    // The events are in order and none is sent twice; pruned events may be missing.
    let mut all = lines.iter();
    assert!(received.iter().all(|event| all.any(|line| line == event)));
    assert!(received.ends_with(&[&left[..], &lines[39_000..]].concat()));
    assert_eq!(server.log().lines().count(), 1, "{}", server.log());
    server.stop();
}

#[test]
fn a_store_locked_by_another_writer_is_served() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let all_lines = test_dir.lines(&["query", "-q"]);
    let (server, socket) = serve(&test_dir, &[]);
    let mut live = subscribe(&socket);
    let other = rusqlite::Connection::open(test_dir.db()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; CREATE TABLE other (a); INSERT INTO other VALUES (1)").unwrap();
    let start = Instant::now();
    eventually("the store is served for two seconds", || {
        assert_eq!(get(&socket, "/events?since=0&until=0").lines(), all_lines);
        if start.elapsed() > Duration::from_secs(2) { Ok(()) } else { Err(start.elapsed()) }
    });
    assert!(live.is_idle());
    other.execute_batch("COMMIT").unwrap();
    assert!(live.is_idle());
    let line = r#"{"Type":"container","Action":"oom","Actor":{"ID":"c1"},"timeNano":1795539999000000000}"#;
    fs::write(test_dir.path("one"), line).unwrap();
    test_dir.run(&["import", "-q", "one"]).assert_success();
    assert_eq!(live.chunk().unwrap(), format!("{line}\n").into_bytes());
    assert_eq!(server.log().lines().count(), 1, "{}", server.log());
    server.stop();
}
