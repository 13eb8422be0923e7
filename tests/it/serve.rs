//! The history answers as an engine does: the binary, asked over its sockets by hand.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use crate::support::command::{Folder, eventually};
use crate::support::engine::Engine;
use crate::support::fixture::{self, by_time, imported};
use crate::support::http::{Asked, ask, encoded, get, serve, serve_from};

#[test]
fn history_is_told_whole_each_event_a_chunk() {
    let folder = imported("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&folder, &[]);
    let everything = folder.lines(&["query", "-q"]);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    for target in
        ["/events?since=0&until=0", "/v1.46/events?since=0&until=1795535700", "/events?until=1795535700.000000001"]
    {
        let answer = get(&socket, target);
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert_eq!(answer.header("Transfer-Encoding"), Some("chunked"));
        assert_eq!(answer.header("Api-Version"), Some("1.51"));
        assert_eq!(answer.lines(), everything, "{target}");
        let chunks: Vec<String> = answer.chunks.iter().map(|chunk| String::from_utf8(chunk.clone()).unwrap()).collect();
        assert!(chunks.iter().zip(&everything).all(|(chunk, line)| *chunk == format!("{line}\n")));
    }
}

#[test]
fn filters_and_bounds_select_as_query_does() {
    let folder = imported("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&folder, &[]);
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
    for (filters, words) in cases {
        for (since, until) in
            [(None, None), (Some(times[0]), None), (None, Some(times[1])), (Some(times[0]), Some(times[2]))]
        {
            let mut target = format!("/events?filters={}&until={}", encoded(filters), until.unwrap_or("1795535700"));
            let mut query = [&["query", "-q"], words].concat();
            if let Some(since) = since {
                target += &format!("&since={since}");
                query.extend(["--since", since]);
            }
            if let Some(until) = until {
                query.extend(["--until", until]);
            }
            assert_eq!(get(&socket, &target).lines(), folder.lines(&query), "{target}");
        }
    }
}

#[test]
fn what_an_engine_refuses_is_refused_in_its_words() {
    let folder = imported("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&folder, &[]);
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
        let answer = get(&socket, target);
        assert_eq!((answer.status(), answer.text()), (status, format!("{{\"message\":\"{message}\"}}\n")), "{target}");
    }
    for (methods, status) in [
        (&["POST", "PUT", "DELETE", "PATCH"][..], 403),
        (&["OPTIONS"], 200),
        (&["TRACE", "CONNECT", "PROPFIND", "get"], 404),
    ] {
        for method in methods {
            let answer = ask(&socket, &format!("{method} /containers/create HTTP/1.1\r\nHost: x\r\n\r\n")).all();
            assert_eq!(answer.status(), status, "{method}");
        }
    }
    // Whatever it sends, a client gets to read why it is refused.
    let archive = "x".repeat(3 << 20);
    let load = format!("POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{archive}", archive.len());
    assert_eq!(ask(&socket, &load).all().status(), 403);
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
        let answer = ask(&socket, request).all();
        assert_eq!((answer.status(), answer.text().as_str()), (400, message), "{request}");
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    }
    for target in ["/containers/json?all=1", "/images/json", "/networks"] {
        assert_eq!(get(&socket, target).text(), "[]\n");
    }
    assert_eq!(get(&socket, "/volumes").text(), "{\"Volumes\":[],\"Warnings\":null}\n");
    let pong = get(&socket, "/_ping");
    assert_eq!((pong.status(), pong.text().as_str()), (200, "OK"));
    assert_eq!(
        ask(&socket, "HEAD /v1.30/_ping HTTP/1.1\r\nHost:\r\n\r\n").head.lines().next(),
        Some("HTTP/1.1 200 OK")
    );
}

#[test]
fn json_seq_and_http_1_0_are_spoken() {
    let folder = imported("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&folder, &[]);
    let everything = folder.lines(&["query", "-q"]);
    let request = "GET /events?since=0&until=0 HTTP/1.1\r\nHost: x\r\nAccept: application/json-seq\r\n\r\n";
    let answer = ask(&socket, request).all();
    assert_eq!(answer.header("Content-Type"), Some("application/json-seq"));
    assert!(answer.chunks.iter().zip(&everything).all(|(chunk, line)| *chunk == format!("\x1e{line}\n").into_bytes()));
    let mut old = ask(&socket, "GET /events?since=0&until=0 HTTP/1.0\r\n\r\n");
    assert!(old.head.starts_with("HTTP/1.0 200 OK") && !old.head.to_lowercase().contains("transfer-encoding"));
    let mut body = String::new();
    old.from.read_to_string(&mut body).unwrap();
    assert_eq!(body.lines().map(str::to_owned).collect::<Vec<_>>(), everything);
}

#[test]
fn the_seam_between_history_and_what_is_recorded_loses_and_doubles_nothing() {
    let folder = Folder::new();
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let mut many = Vec::new();
    for round in 0..120 {
        many.extend(
            lines.iter().map(|line| line.replace("\"timeNano\":17955", &format!("\"timeNano\":{}", 17955 + round))),
        );
    }
    let (first, later) = many.split_at(many.len() / 3);
    fs::write(folder.path("first"), first.join("\n")).unwrap();
    fs::write(folder.path("later"), later.join("\n")).unwrap();
    folder.run(&["import", "-q", "first"]).succeeded();
    let (_server, socket) = serve(&folder, &[]);
    let head = "GET /events?since=0 HTTP/1.1\r\nHost: x\r\n\r\n";
    let subscribers: Vec<_> = (0..4)
        .map(|_| {
            let mut asked = ask(&socket, head);
            let number = many.len();
            std::thread::spawn(move || (0..number).map_while(|_| asked.chunk()).collect::<Vec<_>>())
        })
        .collect();
    // Headers come at once, even if nothing else does for hours.
    let mut quiet = ask(
        &socket,
        &format!("GET /events?filters={} HTTP/1.1\r\nHost: x\r\n\r\n", encoded(r#"{"event":["reload"]}"#)),
    );
    assert!(quiet.head.starts_with("HTTP/1.1 200 OK"));
    folder.run(&["import", "-q", "later"]).succeeded();
    let mut expected: Vec<Vec<u8>> = many.iter().map(|line| format!("{line}\n").into_bytes()).collect();
    expected.sort();
    for subscriber in subscribers {
        let mut got = subscriber.join().unwrap();
        got.sort();
        assert_eq!(got.len(), expected.len());
        assert!(got == expected);
    }
    let reload = many.iter().filter(|line| line.contains("\"Action\":\"reload\"")).count();
    if reload > 0 {
        assert!(quiet.chunk().is_some());
    }
}

#[test]
fn what_is_recorded_is_told_live_and_recorded_again_it_is_the_same() {
    let (first, second) = (Folder::new(), Folder::new());
    let engine = Engine::start(first.path("docker.sock"));
    let lines = fixture::lines("docker-28.5.2.ndjson");
    lines[..100].iter().for_each(|line| engine.happens(line));
    let told = r#"{"ApiVersion":"1.45","GoVersion":"go1.19.8","MinAPIVersion":"1.30","Version":"26.1.5"}"#;
    engine.shows("/version", told);
    let _recorder = first.record(&engine.host(), &[]);
    first.eventually_lines(&["query", "-q"], &by_time(&lines[..100]));
    let (_server, socket) = serve(&first, &[]);
    // Who it is becomes known while it is served.
    first.eventually("it answers as the engine", || {
        let version = get(&socket, "/_ping").header("Api-Version").map(str::to_owned);
        if version.as_deref() == Some("1.45") { Ok(()) } else { Err(version) }
    });
    assert_eq!(get(&socket, "/v1.46/_ping").status(), 400);
    assert_eq!(get(&socket, "/v1.29/_ping").status(), 400);
    assert_eq!(get(&socket, "/version").text(), format!("{told}\n"), "all that it said");
    let mut live = ask(&socket, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let again = second.record(&format!("unix://{}", socket.display()), &[]);
    second.eventually_lines(&["query", "-q"], &by_time(&lines[..100]));
    for line in &lines[100..] {
        engine.happens(line);
        assert_eq!(live.chunk().unwrap(), format!("{line}\n").into_bytes());
    }
    second.eventually_lines(&["query", "-q"], &by_time(&lines));
    let status = second.json(&["status", "--json"]);
    assert_eq!(status[0]["sources"][0]["name"], "sim");
    assert_eq!(status[0]["sources"][0]["gaps"], 0);
    again.stop();
}

#[test]
fn several_sources_are_merged_or_one_is_served() {
    let folder = Folder::new();
    for (name, file) in [("old", "docker-20.10.24.ndjson"), ("new", "docker-28.5.2.ndjson")] {
        folder.run(&["import", "-q", "--source", name, &fixture::path(file).display().to_string()]).succeeded();
    }
    let (server, socket) = serve(&folder, &[]);
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), folder.lines(&["query", "-q"]));
    server.stop();
    let (server, socket) = serve(&folder, &["--source", "old"]);
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), folder.lines(&["query", "-q", "--source", "old"]));
    server.stop();
    let (_server, socket) = serve(&folder, &["--type", "network", "--exclude", "event=connect"]);
    let expected = folder.lines(&["query", "-q", "--type", "network", "--exclude", "event=connect"]);
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), expected);
}

#[test]
fn fixtures_are_served_in_place_of_a_store() {
    let folder = Folder::new();
    let bytes = fixture::bytes("docker-28.5.2.ndjson");
    let gzip = folder.path("day.ndjson.gz");
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&gzip).unwrap(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap();
    fs::write(folder.path("day.zst"), zstd::encode_all(&fixture::bytes("docker-29.7.2.ndjson")[..], 1).unwrap())
        .unwrap();
    let (_server, socket) = serve(&folder, &["day.ndjson.gz", "day.zst"]);
    let number = fixture::lines("docker-28.5.2.ndjson").len() + fixture::lines("docker-29.7.2.ndjson").len();
    let lines = get(&socket, "/events?since=0&until=0").lines();
    assert_eq!(lines.len(), number);
    assert!(!crate::support::command::exists(&folder.db()));
    let again = Folder::new();
    let day = fs::File::open(fixture::path("docker-28.5.2.ndjson")).unwrap();
    let (_again, again) = serve_from(&again, &["-"], day.into());
    let expected = by_time(&fixture::lines("docker-28.5.2.ndjson"));
    assert_eq!(get(&again, "/events?since=0&until=0").lines(), expected);
    // At a version of the API events have its form, whoever sent them.
    for line in get(&socket, "/v1.40/events?since=0&until=0").lines() {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event.get("status").is_some(), event["Type"] == "container" || event["Type"] == "image", "{line}");
    }
}

#[test]
fn an_address_that_cannot_be_served_on_is_named() {
    let folder = imported("docker-28.5.2.ndjson");
    let path = folder.path("serve.sock");
    let listen = format!("unix://{}", path.display());
    // Left behind by a process that is gone: replaced.
    drop(UnixListener::bind(&path).unwrap());
    let (server, _) = serve(&folder, &[]);
    let line = format!("cannot listen on {listen}: somebody does so already");
    folder.run(&["serve", "--listen", &listen]).failed(1, &line);
    server.stop();
    assert!(!crate::support::command::exists(&path));
    fs::write(&path, "text").unwrap();
    folder
        .run(&["serve", "--listen", &listen])
        .failed(1, &format!("cannot listen on {listen}: there is a file that is no socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    let open = "tcp://0.0.0.0:1 can be reached from other machines, by anybody (hint: --tls-cert and --tls-key, or --allow-remote if that is meant)";
    folder.run(&["serve", "--listen", "tcp://0.0.0.0:1"]).failed(2, open);
    folder.run(&["serve"]).exited(2);
    folder.run(&["serve", "--listen", "http://x"]).exited(2);
    let missing = Folder::new();
    missing.run(&["serve", "--listen", &listen]).exited(1);
    assert!(!crate::support::command::exists(&missing.db()));
}

#[test]
fn paths_are_read_as_an_engine_reads_them() {
    let folder = imported("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&folder, &[]);
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
    // Bounds may have signs. Before 1970 no end is set to what is there already; the second before it is no bound at all.
    let everything = folder.lines(&["query", "-q"]);
    for target in ["/events?since=-2&until=1795535700", "/events?until=-2", "/events?since=-1&until=%2B1795535700"] {
        assert_eq!(get(&socket, target).lines(), everything, "{target}");
    }
    assert!(ask(&socket, "GET /events?since=-1&until=-1 HTTP/1.1\r\nHost: x\r\n\r\n").is_quiet());
    // Of two values the first counts.
    assert_eq!(get(&socket, "/events?since=1&since=abc&until=1").status(), 200);
}

#[test]
fn a_stream_with_an_end_yet_to_come_has_all_that_is_stored_until_then() {
    let folder = imported("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&folder, &[]);
    let until = chrono::Utc::now().timestamp_nanos_opt().unwrap() + 1_000_000_000;
    let asked = ask(
        &socket,
        &format!(
            "GET /events?until={}.{:09} HTTP/1.1\r\nHost: x\r\n\r\n",
            until / 1_000_000_000,
            until % 1_000_000_000
        ),
    );
    folder.run(&["import", "-q", &fixture::path("docker-20.10.24.ndjson").display().to_string()]).succeeded();
    let mut told = asked.all().lines();
    let mut expected = folder.lines(&["query", "-q"]);
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

#[test]
fn another_store_at_the_path_is_served_and_its_streams_begin_anew() {
    let folder = imported("docker-28.5.2.ndjson");
    let (server, socket) = serve(&folder, &[]);
    let live = ask(&socket, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let other = imported("docker-20.10.24.ndjson");
    fs::rename(other.db(), folder.db()).unwrap();
    let answer = live.all();
    assert!(!answer.whole && answer.chunks.is_empty());
    let expected = folder.lines(&["query", "-q"]);
    assert_eq!(get(&socket, "/events?since=0&until=0").lines(), expected);
    fs::remove_file(folder.db()).unwrap();
    eventually("its absence is said", || {
        let said = server.log().matches("it is tried again").count();
        if said == 1 { Ok(()) } else { Err(server.log()) }
    });
    assert_eq!(get(&socket, "/_ping").status(), 200);
    server.stop();
}

#[test]
fn it_stops_at_once_with_subscribers_and_leaves_only_the_store() {
    let folder = imported("docker-28.5.2.ndjson");
    let (server, socket) = serve(&folder, &[]);
    let live: Vec<_> = (0..20)
        .map(|at| {
            let since = ["", "?since=0"][at % 2];
            ask(&socket, &format!("GET /events{since} HTTP/1.1\r\nHost: x\r\n\r\n"))
        })
        .collect();
    let begin = Instant::now();
    server.stop();
    assert!(begin.elapsed().as_secs() < 2, "{:?}", begin.elapsed());
    assert!(live.into_iter().all(|asked| !asked.all().whole));
    for suffix in ["-wal", "-shm"] {
        assert!(!crate::support::command::exists(&folder.path(&format!("events.db{suffix}"))), "{suffix}");
    }
    assert!(!crate::support::command::exists(&socket));
}

/// Events of ten days ago and of an hour ago, so many of each.
fn old_and_young(number: usize) -> Vec<String> {
    let now = chrono::Utc::now().timestamp();
    let event = |ago: i64, n: usize| {
        let time = (now - ago) * 1_000_000_000 + n as i64;
        let actor = format!(r#"{{"ID":"{:064x}","Attributes":{{"name":"c{}"}}}}"#, n % 9, n % 9);
        format!(r#"{{"Type":"container","Action":"start","Actor":{actor},"scope":"local","timeNano":{time}}}"#)
    };
    [864_000, 3_600].into_iter().flat_map(|ago| (0..number).map(move |n| event(ago, n))).collect()
}

#[test]
fn pruning_breaks_no_answer_and_takes_nothing_but_what_is_old() {
    let folder = Folder::new();
    let lines = old_and_young(20_000);
    fs::write(folder.path("days"), lines[..39_000].join("\n")).unwrap();
    fs::write(folder.path("later"), lines[39_000..].join("\n")).unwrap();
    folder.run(&["import", "-q", "days"]).succeeded();
    let (server, socket) = serve(&folder, &[]);
    let mut history = ask(&socket, "GET /events?since=0 HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut live = ask(&socket, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let line = |asked: &mut Asked| String::from_utf8(asked.chunk().unwrap()).unwrap().trim_end().to_owned();
    assert_eq!(line(&mut history), lines[0]);
    folder.run(&["prune", "--retain", "1d"]).exited(0);
    let left = folder.lines(&["query", "-q"]);
    assert!(left.len() < 30_000 && left.ends_with(&lines[20_000..39_000]));
    folder.run(&["import", "-q", "later"]).succeeded();
    assert!(lines[39_000..].iter().all(|expected| line(&mut live) == *expected));
    let mut told = vec![lines[0].clone()];
    while told.last() != lines.last() {
        told.push(line(&mut history));
    }
    // In their order, none twice; what went meanwhile may be left out.
    let mut all = lines.iter();
    assert!(told.iter().all(|told| all.any(|line| line == told)));
    assert!(told.ends_with(&[&left[..], &lines[39_000..]].concat()));
    assert_eq!(server.log().lines().count(), 1, "{}", server.log());
    server.stop();
}

#[test]
fn a_store_that_another_program_writes_to_is_served_meanwhile() {
    let folder = imported("docker-28.5.2.ndjson");
    let everything = folder.lines(&["query", "-q"]);
    let (server, socket) = serve(&folder, &[]);
    let mut live = ask(&socket, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    let other = rusqlite::Connection::open(folder.db()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; CREATE TABLE other (a); INSERT INTO other VALUES (1)").unwrap();
    let begin = Instant::now();
    eventually("it is served for seconds", || {
        assert_eq!(get(&socket, "/events?since=0&until=0").lines(), everything);
        if begin.elapsed() > Duration::from_secs(2) { Ok(()) } else { Err(begin.elapsed()) }
    });
    assert!(live.is_quiet());
    other.execute_batch("COMMIT").unwrap();
    assert!(live.is_quiet());
    let line = r#"{"Type":"container","Action":"oom","Actor":{"ID":"c1"},"timeNano":1795539999000000000}"#;
    fs::write(folder.path("one"), line).unwrap();
    folder.run(&["import", "-q", "one"]).succeeded();
    assert_eq!(live.chunk().unwrap(), format!("{line}\n").into_bytes());
    assert_eq!(server.log().lines().count(), 1, "{}", server.log());
    server.stop();
}
