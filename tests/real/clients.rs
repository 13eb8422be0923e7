//! Real clients. Each one queries a real engine, and `events serve` with a recording of that engine. It must print the
//! same in both cases.
//!
//! `.ci/run` installs the clients; `CLIENTS` names their directory. Needs an engine: `cargo test --test real clients`.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::command::{Running, TestDir, eventually, run};
use crate::support::docker::{Engine, compare_lines, run_full_scenario, time_nano};
use serde_json::json;

const VERSION: &str = "newest";

/// A client, and how it takes its queries.
enum Client {
    /// The docker client, with these extra arguments.
    Docker(&'static [&'static str]),
    /// A program of `tests/programs`. Each argument is a query in JSON; an empty line follows each answer.
    Program(&'static [&'static str]),
    /// curl, at this path.
    Curl(&'static str),
}

const CLIENTS: [Client; 9] = [
    Client::Docker(&[]),
    Client::Docker(&["--format", "{{json .}}"]),
    Client::Program(&["bin/python", "docker_py.py", "decoded"]),
    Client::Program(&["bin/python", "docker_py.py", "raw"]),
    Client::Program(&["bin/dockerode", "dockerode.js"]),
    Client::Program(&["bin/bollard"]),
    Client::Curl("/events"),
    Client::Curl("/v1.51/events"),
    Client::Curl("/v1.41/events"),
];

/// The parameters of one request to `/events`.
#[derive(Clone, Debug, Default)]
struct Query {
    since: Option<String>,
    until: Option<String>,
    filters: Vec<(&'static str, &'static str)>,
}

/// An engine, its recorder, and a server of the recording.
struct EngineAndServer {
    engine: Engine,
    served: String,
    _server: Running,
    _recorder: Running,
    test_dir: TestDir,
}

impl EngineAndServer {
    /// Runs a scenario and waits until it is recorded; then starts the server. The recorder keeps running.
    fn with_scenario(scenario: fn(&Engine)) -> EngineAndServer {
        let (engine, test_dir) = (Engine::start(VERSION), TestDir::new());
        let recorder = test_dir.record(&engine.host, &[]);
        scenario(&engine);
        test_dir.eventually("the backlog is recorded", || {
            compare_lines(&engine.backlog(), &test_dir.lines(&["query", "-q"]))
        });
        // The server reads the engine's version from the store when it starts.
        test_dir.eventually("the engine's version is stored", || {
            let db = rusqlite::Connection::open(test_dir.db()).map_err(|e| e.to_string())?;
            db.query_row("SELECT version FROM source", [], |row| row.get::<_, String>(0)).map_err(|e| e.to_string())
        });
        let socket = test_dir.path("serve.sock");
        let served = format!("unix://{}", socket.display());
        let server = test_dir.start(&["serve", "--listen", &served]);
        eventually("the server listens", || UnixStream::connect(&socket).map_err(|e| format!("{e}: {}", server.log())));
        EngineAndServer { engine, served, _server: server, _recorder: recorder, test_dir }
    }

    fn hosts(&self) -> [&str; 2] {
        [&self.engine.host, &self.served]
    }

    /// Runs the queries through one client against both hosts. Asserts that the answers are equal, and returns them.
    fn assert_same_answers(&self, client: &Client, queries: &[Query]) -> Vec<Vec<String>> {
        let [engine, served] = self.hosts().map(|host| self.answers(client, host, queries));
        for (query, (engine, served)) in queries.iter().zip(engine.iter().zip(&served)) {
            if engine != served {
                let difference = compare_lines(engine, served).err().unwrap_or_else(|| "the order differs".into());
                panic!("{}, {query:?}: {difference}", client.name());
            }
        }
        engine
    }

    /// One answer for each query, sorted by time: concurrent events may arrive in either order.
    fn answers(&self, client: &Client, host: &str, queries: &[Query]) -> Vec<Vec<String>> {
        let outputs = client.commands(&self.engine, host, queries).into_iter().map(run).map(|output| {
            // The docker client prints an error response on stderr and exits with 1.
            let errors = output.stderr.lines().map(|line| format!("{}: {line}", output.status)).collect::<Vec<_>>();
            assert_eq!(output.status.success(), errors.is_empty(), "{}", output.report());
            [output.lines(), errors].concat()
        });
        let mut answers: Vec<Vec<String>> = match client {
            Client::Program(_) => {
                let all: Vec<String> = outputs.flatten().collect();
                let mut answers: Vec<Vec<String>> = all.split(String::is_empty).map(<[String]>::to_vec).collect();
                assert_eq!(answers.pop(), Some(vec![]), "an empty line ends each answer");
                answers
            }
            _ => outputs.collect(),
        };
        assert_eq!(answers.len(), queries.len(), "{}", client.name());
        answers.iter_mut().for_each(|answer| *answer = sort_by_time(answer));
        answers
    }
}

impl Client {
    fn name(&self) -> String {
        match self {
            Client::Docker(args) => format!("docker events {}", args.join(" ")),
            Client::Program(args) => args.join(" "),
            Client::Curl(path) => format!("curl {path}"),
        }
    }

    /// Commands that send all queries to this host.
    fn commands(&self, engine: &Engine, host: &str, queries: &[Query]) -> Vec<Command> {
        match self {
            Client::Docker(args) => queries
                .iter()
                .map(|query| {
                    let mut docker = engine.client_for_host(host, &["events"]);
                    docker.args(*args);
                    for (flag, value) in [("--since", &query.since), ("--until", &query.until)] {
                        docker.args(value.iter().flat_map(|value| [flag, value]));
                    }
                    docker.args(query.filters.iter().map(|(key, value)| format!("--filter={key}={value}")));
                    docker
                })
                .collect(),
            Client::Program(args) => {
                let mut command = program_command(args, host);
                command.args(queries.iter().map(Query::to_json));
                vec![command]
            }
            Client::Curl(path) => queries
                .iter()
                .map(|query| {
                    let mut curl = Command::new("curl");
                    let socket = host.strip_prefix("unix://").expect("a socket");
                    curl.args([
                        "-sSN",
                        "--noproxy",
                        "*",
                        "--unix-socket",
                        socket,
                        "-w",
                        "%{http_code} %{content_type}\n",
                    ]);
                    curl.args(["--get", &format!("http://docker{path}")]);
                    for (key, value) in [("since", &query.since), ("until", &query.until)] {
                        curl.args(value.iter().flat_map(|value| ["--data-urlencode".into(), format!("{key}={value}")]));
                    }
                    curl.args(["--data-urlencode", &format!("filters={}", json!(query.by_key()))]);
                    curl
                })
                .collect(),
        }
    }
}

impl Query {
    fn by_key(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut by_key = BTreeMap::<_, Vec<_>>::new();
        self.filters.iter().for_each(|(key, value)| by_key.entry(*key).or_default().push(*value));
        by_key
    }

    fn to_json(&self) -> String {
        let mut query = json!({ "filters": self.by_key() });
        for (key, value) in [("since", &self.since), ("until", &self.until)] {
            if let Some(value) = value {
                query[key] = json!(value);
            }
        }
        query.to_string()
    }
}

/// Directory of the installed clients.
fn clients() -> PathBuf {
    std::env::var_os("CLIENTS").expect("CLIENTS names the directory of the clients").into()
}

/// Command that runs a program of `tests/programs`, or a binary built from one.
fn program_command(args: &[&str], host: &str) -> Command {
    let clients = clients();
    let mut command = Command::new(clients.join(args[0]));
    if let [_, script, script_args @ ..] = args {
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(script)).args(script_args);
    }
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
    command.env("PYTHONUTF8", "1").env("PYTHONDONTWRITEBYTECODE", "1").env("NODE_PATH", clients.join("node_modules"));
    command.env("DOCKER_HOST", host).stdin(Stdio::null());
    command
}

/// Printed lines, sorted by the time of their event. A line without a time (a label of several lines, curl's status)
/// belongs to the event before it.
fn sort_by_time(lines: &[String]) -> Vec<String> {
    let mut events: Vec<(String, String)> = Vec::new();
    for line in lines {
        let date = |text: &str| chrono::DateTime::parse_from_rfc3339(text).is_ok().then(|| text.to_owned());
        let time = if line.starts_with('{') && line.contains("\"timeNano\"") {
            Some(format!("{:020}", time_nano(line)))
        } else {
            date(line.split(' ').next().unwrap_or_default())
        };
        match (time, events.last_mut()) {
            (None, Some((_, last))) => *last = format!("{last}\n{line}"),
            (time, _) => events.push((time.unwrap_or_default(), line.clone())),
        }
    }
    events.sort_by(|(one, _), (other, _)| one.cmp(other));
    events.into_iter().map(|(_, line)| line).collect()
}

fn unix_time(nano: i64) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

#[test]
fn every_client_reads_the_same_history_from_the_engine_and_from_serve() {
    let both = EngineAndServer::with_scenario(run_full_scenario);
    let backlog = both.engine.backlog();
    let quarter = |part: usize| unix_time(time_nano(&backlog[backlog.len() * part / 4]));
    let end = unix_time(backlog.iter().map(|line| time_nano(line)).max().expect("there are events") + 1);
    let all = Query { since: Some("0".into()), until: Some(end), filters: vec![] };
    let with_filters = |filters: &[(&'static str, &'static str)]| Query { filters: filters.to_vec(), ..all.clone() };
    let queries = [
        all.clone(),
        Query { since: Some(quarter(1)), until: Some(quarter(3)), ..Query::default() },
        Query { until: Some(quarter(2)), ..Query::default() },
        with_filters(&[("type", "container")]),
        with_filters(&[("type", "image"), ("type", "volume"), ("event", "create"), ("event", "tag")]),
        with_filters(&[("event", "start"), ("event", "die")]),
        with_filters(&[("event", "exec_create")]),
        with_filters(&[("event", "health_status: healthy")]),
        with_filters(&[("container", "web")]),
        with_filters(&[("image", "busybox")]),
        with_filters(&[("network", "team-net"), ("type", "network")]),
        with_filters(&[("volume", "vol-data")]),
        with_filters(&[("label", "tier=front"), ("label", "bare")]),
        with_filters(&[("label", "com.example.team=Grüße, 世界 🚀")]),
        with_filters(&[("label", "markup=<a href=\"x\">&amp; 'y'</a>")]),
        with_filters(&[("scope", "swarm")]),
        Query { since: Some(quarter(1)), ..with_filters(&[("event", "exec_die"), ("label", "exitCode=0")]) },
    ];
    let empty_queries = [
        with_filters(&[("container", "no-such-thing")]),
        Query { since: Some("2".into()), until: Some("1".into()), ..Query::default() },
    ];
    for client in &CLIENTS {
        let answers = both.assert_same_answers(client, &queries);
        // curl prints the status after the last event, or alone.
        let is_empty = |answer: &[String]| answer.first().is_none_or(|first| first.starts_with("200 "));
        let empty_answer = answers.iter().zip(&queries).find(|(answer, _)| is_empty(answer));
        assert!(empty_answer.is_none(), "{}: {empty_answer:?} has no hits", client.name());
        both.assert_same_answers(client, &empty_queries);
    }
    // The docker client cannot send these.
    let other_queries = [
        Query { since: Some("abc".into()), ..Query::default() },
        Query { since: Some("99999999999999999999".into()), ..Query::default() },
        Query { since: Some("0".into()), until: Some("0".into()), ..Query::default() },
    ];
    CLIENTS[2..].iter().for_each(|client| drop(both.assert_same_answers(client, &other_queries)));
}

/// A client that keeps running, and its output.
struct RunningClient {
    child: Child,
    output_path: PathBuf,
}

impl RunningClient {
    fn start(mut command: Command, test_dir: &TestDir) -> RunningClient {
        let output_path = test_dir.path(&format!("printed-{}", fastrand::u64(..)));
        command.stdout(File::create(&output_path).expect("a file")).stderr(Stdio::inherit());
        RunningClient { child: command.spawn().expect("the client starts"), output_path }
    }

    /// Complete lines printed so far.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.output_path).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }

    fn has(&self, text: &str) -> bool {
        self.lines().iter().any(|line| line.contains(text))
    }
}

impl Drop for RunningClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_client_receives_the_same_live_events_from_the_engine_and_from_serve() {
    let both = EngineAndServer::with_scenario(|_| {});
    let (engine, label_args) = (&both.engine, ["--label", "team=live"]);
    let create_and_remove = |name: &str| {
        engine.docker(&[&["create", "--name", name][..], &label_args, &["busybox"]].concat());
        engine.docker(&["rm", name]);
    };
    let live =
        [Query::default(), Query { filters: vec![("type", "container"), ("label", "team=live")], ..Query::default() }];
    let mut followers = Vec::new();
    for (client, query) in CLIENTS.iter().flat_map(|client| live.iter().map(move |query| (client, query))) {
        let pair = both.hosts().map(|host| {
            let command = client.commands(engine, host, std::slice::from_ref(query)).remove(0);
            RunningClient::start(command, &both.test_dir)
        });
        followers.push((format!("{}, {query:?}", client.name()), pair));
    }
    // An engine does not report the start of a subscription; only the first event shows it.
    both.test_dir.eventually("every client has received an event", || {
        create_and_remove("are-you-there");
        let without_events = followers.iter().find(|(_, pair)| pair.iter().any(|client| client.lines().is_empty()));
        without_events.map_or(Ok(()), |(name, _)| Err(name.clone()))
    });
    create_and_remove("live-begins");
    engine.docker(&["network", "create", "live-net"]);
    engine.docker(&["volume", "create", "live-vol"]);
    engine.container(&[&["--name", "web", "--network", "live-net", "-v", "live-vol:/data"][..], &label_args].concat());
    engine.docker(&["exec", "web", "sh", "-c", "echo \"<ü>\" && true"]);
    engine.docker(&["network", "connect", "bridge", "web"]);
    engine.docker(&["kill", "-s", "USR1", "web"]);
    engine.docker(&["rm", "-f", "web"]);
    engine.docker(&["network", "rm", "live-net"]);
    engine.docker(&["tag", "busybox", "live:1"]);
    engine.docker(&["rmi", "live:1"]);
    create_and_remove("live-ends");
    create_and_remove("over");
    both.test_dir.eventually("every client has received the last event", || {
        let waiting = followers.iter().find(|(_, pair)| pair.iter().any(|client| !client.has("over")));
        waiting.map_or(Ok(()), |(name, [engine, served])| {
            Err(format!("{name}: {:?}; {:?}", engine.lines(), served.lines()))
        })
    });
    for (name, pair) in &followers {
        let [engine, served] = pair.each_ref().map(|client| {
            let lines = sort_by_time(&client.lines());
            let at = |text: &str| lines.iter().position(|line| line.contains(text)).expect("the event was received");
            lines[at("live-begins")..at("live-ends")].to_vec()
        });
        compare_lines(&engine, &served).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(engine.len() > 5, "{name}: {engine:?}");
    }
}

#[test]
fn a_response_ends_at_its_until_time() {
    let both = EngineAndServer::with_scenario(|engine| {
        drop(engine.docker(&["run", "--rm", "--network", "none", "busybox", "true"]));
    });
    let soon = chrono::Utc::now().timestamp_nanos_opt().expect("in range") + 5_000_000_000;
    let query = [Query { since: Some("0".into()), until: Some(unix_time(soon)), filters: vec![] }];
    std::thread::scope(|scope| {
        for client in &CLIENTS {
            scope.spawn(|| assert!(both.assert_same_answers(client, &query)[0].len() > 5));
        }
    });
}

#[test]
fn serve_reports_the_identity_of_the_engine() {
    let both = EngineAndServer::with_scenario(|_| {});
    let outputs =
        |args: &[&str]| both.hosts().map(|host| run(both.engine.client_for_host(host, args)).assert_success().lines());
    for args in [&["version"][..], &["info", "--format", "{{.ID}} {{.Name}} {{.ServerVersion}} {{.OSType}}"]] {
        let [engine, served] = outputs(args);
        assert_eq!(engine, served, "{args:?}");
    }
    // docker-py's own assertions about an engine.
    for host in both.hosts() {
        run(program_command(&["bin/python", "docker_py_asserts.py"], host)).assert_exit_code(0);
    }
}

#[test]
fn the_documented_programs_count_every_death_under_every_fault() {
    let test_dir = TestDir::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/serving-and-replaying.md")).expect("the page");
    let block = |begin: &str| page.split(begin).nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    std::fs::write(test_dir.path("crashes.py"), block("```python\n")).expect("a file");
    let rust = std::fs::read_to_string(root.join("tests/programs/bollard/src/bin/crashes.rs")).expect("the source");
    assert_eq!(block("```rust,ignore\n"), rust);
    let expected = page.lines().find_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" died, ")));
    let fixture = root.join("fixtures/docker-28.5.2.ndjson").display().to_string();
    let path = |name: &str| clients().join(name).display().to_string();
    for command in [vec![path("bin/python"), "crashes.py".into()], vec![path("bin/crashes")]] {
        for faults in [&[][..], &["cut@6"], &["garbage@6"], &["cut@6", "restart@10", "split"], &["stall@3:0.1"]] {
            let mut args = vec!["replay", &fixture, "--speed", "max"];
            args.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
            args.push("--");
            args.extend(command.iter().map(String::as_str));
            assert_eq!(test_dir.lines(&args), [expected.expect("the documented output")], "{args:?}");
        }
    }
}
