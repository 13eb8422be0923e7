//! The history answers as an engine does: the binary, asked over its sockets by hand.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use support::command::{DEADLINE, Folder, Running, eventually, next};
use support::engine::Engine;
use support::fixture;

/// An answer as it came: its head, and each chunk of its body.
#[derive(Debug)]
struct Answer {
    head: String,
    chunks: Vec<Vec<u8>>,
    /// Whether the last chunk came.
    whole: bool,
}

/// A connection that a request was sent down.
struct Asked {
    head: String,
    from: BufReader<UnixStream>,
}

fn ask(socket: &Path, request: &str) -> Asked {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut from = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(from.read_line(&mut head).unwrap() > 0, "{head}");
    }
    Asked { head, from }
}

fn get(socket: &Path, target: &str) -> Answer {
    ask(socket, &format!("GET {target} HTTP/1.1\r\nHost: docker\r\n\r\n")).all()
}

impl Asked {
    /// The next chunk; `None` at the last one, or where the stream is cut.
    fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        self.from.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim_end(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        self.from.read_exact(&mut chunk).ok()?;
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        Some(chunk)
    }

    fn all(mut self) -> Answer {
        let mut chunks = Vec::new();
        if let Some((_, length)) = self.head.split_once("Content-Length: ") {
            let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
            self.from.read_exact(&mut body).unwrap();
            return Answer { head: self.head, chunks: vec![body], whole: true };
        }
        while let Some(chunk) = self.chunk() {
            if chunk.is_empty() {
                return Answer { head: self.head, chunks, whole: true };
            }
            chunks.push(chunk);
        }
        Answer { head: self.head, chunks, whole: false }
    }
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> String {
        String::from_utf8(self.chunks.concat()).unwrap()
    }

    fn lines(&self) -> Vec<String> {
        assert!(self.whole);
        self.text().lines().map(str::to_owned).collect()
    }
}

fn serve(folder: &Folder, more: &[&str]) -> (Running, PathBuf) {
    let socket = folder.path("serve.sock");
    let listen = format!("unix://{}", socket.display());
    let server = folder.start(&[&["serve", "--listen", &listen], more].concat());
    eventually("it listens", || UnixStream::connect(&socket).map_err(|e| format!("{e}: {}", server.log())));
    (server, socket)
}

fn imported(name: &str) -> Folder {
    let folder = Folder::new();
    folder.run(&["import", "-q", &fixture::path(name).display().to_string()]).succeeded();
    folder
}

/// Percent-encodes all that could mean something.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).into() } else { format!("%{byte:02X}") })
        .collect()
}

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
            "/v1.11/_ping",
            400,
            "client version 1.11 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
        ("/nothing", 404, "page not found"),
        ("/containers/json/x", 404, "page not found"),
    ];
    for (target, status, message) in cases {
        let answer = get(&socket, target);
        assert_eq!((answer.status(), answer.text()), (status, format!("{{\"message\":\"{message}\"}}\n")), "{target}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = ask(&socket, &format!("{method} /containers/create HTTP/1.1\r\nHost: x\r\n\r\n")).all();
        assert_eq!(answer.status(), 403, "{method}");
    }
    let answer = ask(&socket, "GET /_ping HTTP/1.1\r\n\r\n").all();
    assert_eq!((answer.status(), answer.header("Content-Type")), (400, Some("text/plain; charset=utf-8")));
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
fn a_request_that_is_too_long_is_refused_and_one_that_never_ends_holds_nobody_up() {
    let folder = imported("docker-28.5.2.ndjson");
    let (_server, socket) = serve(&folder, &[]);
    let mut slow = UnixStream::connect(&socket).unwrap();
    slow.write_all(b"GET /events HTTP/1.1\r\nHo").unwrap();
    let filter = encoded(&format!(r#"{{"container":["{}"]}}"#, "x".repeat(1 << 20)));
    let answer = get(&socket, &format!("/events?filters={filter}"));
    assert_eq!((answer.status(), answer.text().as_str()), (400, "{\"message\":\"the request is too long\"}\n"));
    assert_eq!(get(&socket, "/_ping").status(), 200);
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
    first.eventually_lines(&["query", "-q"], &first_of(&lines, 100));
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
    second.eventually_lines(&["query", "-q"], &first_of(&lines, 100));
    for line in &lines[100..] {
        engine.happens(line);
        assert_eq!(live.chunk().unwrap(), format!("{line}\n").into_bytes());
    }
    second.eventually_lines(&["query", "-q"], &first_of(&lines, lines.len()));
    let status = second.json(&["status", "--json"]);
    assert_eq!(status[0]["sources"][0]["name"], "sim");
    assert_eq!(status[0]["sources"][0]["gaps"], 0);
    again.stop();
}

/// The first so many lines, in the order of time.
fn first_of(lines: &[String], number: usize) -> Vec<String> {
    let mut lines = lines[..number].to_vec();
    lines.sort_by_key(|line| line.rsplit_once(':').unwrap().1.trim_end_matches('}').parse::<i64>().unwrap());
    lines
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
    assert!(!support::command::exists(&folder.db()));
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
    assert!(!support::command::exists(&path));
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
    assert!(!support::command::exists(&missing.db()));
}

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
    assert_eq!(folder.lines(&["query", "-q"]), first_of(&fixture::lines("docker-28.5.2.ndjson"), 248));
    assert!(!folder.lines(&["rejected"]).is_empty());
}

#[test]
fn a_stream_that_is_cut_has_brought_all_before_the_cut() {
    let folder = Folder::new();
    let path = fixture::path("docker-28.5.2.ndjson").display().to_string();
    let lines = fixture::lines("docker-28.5.2.ndjson");
    let faults: Vec<String> = (1..=20).map(|at| format!("--fault=cut@{}", at * 12)).collect();
    let mut words = vec!["replay", &path, "--speed", "max"];
    words.extend(faults.iter().map(String::as_str));
    words.extend(["--", "sh", "-c", "echo $DOCKER_HOST; exec sleep 100"]);
    let mut replay = folder.start(&words);
    let host = next(&replay.printed());
    let socket = Path::new(host.strip_prefix("unix://").unwrap());
    for at in (1..=20).map(|at| at * 12) {
        let answer = ask(socket, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").all();
        let (half, before) = answer.chunks.split_last().unwrap();
        let expected = first_of(&lines, lines.len());
        assert_eq!((answer.whole, before.len()), (false, at));
        assert!(expected[at].as_bytes().starts_with(half), "{at}");
    }
    assert_eq!(ask(socket, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").all().chunks.len(), lines.len());
    replay.signal("TERM");
    replay.ended().exited(143);
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
