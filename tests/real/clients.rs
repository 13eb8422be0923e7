//! Real clients, each put to a real engine and to `events serve` over the recording of that engine: what one prints, the
//! other must make it print.
//!
//! `.ci/run` installs them; `CLIENTS` names their folder. Needs an engine: `cargo test --test clients -- --ignored`.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::command::{Folder, Running, eventually, run};
use crate::support::docker::{Engine, a_full_session, instant, same_lines};
use serde_json::json;

const VERSION: &str = "newest";

/// How a client is asked.
enum Client {
    /// The docker client, with these words more.
    Docker(&'static [&'static str]),
    /// A program of `tests/programs`: it takes each query as a word of JSON, and prints an empty line after each answer.
    Asker(&'static [&'static str]),
    /// curl, at this path.
    Curl(&'static str),
}

const CLIENTS: [Client; 9] = [
    Client::Docker(&[]),
    Client::Docker(&["--format", "{{json .}}"]),
    Client::Asker(&["bin/python", "docker_py.py", "decoded"]),
    Client::Asker(&["bin/python", "docker_py.py", "as it comes"]),
    Client::Asker(&["bin/dockerode", "dockerode.js"]),
    Client::Asker(&["bin/bollard"]),
    Client::Curl("/events"),
    Client::Curl("/v1.51/events"),
    Client::Curl("/v1.41/events"),
];

/// What is asked.
#[derive(Clone, Debug, Default)]
struct Query {
    since: Option<String>,
    until: Option<String>,
    filters: Vec<(&'static str, &'static str)>,
}

/// An engine, and a server of what is recorded of it.
struct Both {
    engine: Engine,
    served: String,
    _server: Running,
    _recorder: Running,
    folder: Folder,
}

impl Both {
    /// The session is over and recorded before the server starts; the recorder goes on.
    fn after(session: fn(&Engine)) -> Both {
        let (engine, folder) = (Engine::start(VERSION), Folder::new());
        let recorder = folder.record(&engine.host, &[]);
        session(&engine);
        folder.eventually("the engine's memory is recorded", || {
            same_lines(&engine.memory(), &folder.lines(&["query", "-q"]))
        });
        // What the server says it is stands there when it starts.
        folder.eventually("the engine's version is noted", || {
            let db = rusqlite::Connection::open(folder.db()).map_err(|e| e.to_string())?;
            db.query_row("SELECT version FROM source", [], |row| row.get::<_, String>(0)).map_err(|e| e.to_string())
        });
        let socket = folder.path("serve.sock");
        let served = format!("unix://{}", socket.display());
        let server = folder.start(&["serve", "--listen", &served]);
        eventually("it listens", || UnixStream::connect(&socket).map_err(|e| format!("{e}: {}", server.log())));
        Both { engine, served, _server: server, _recorder: recorder, folder }
    }

    fn hosts(&self) -> [&str; 2] {
        [&self.engine.host, &self.served]
    }

    /// What each of the two is told by one client, which must be the same.
    fn agree(&self, client: &Client, queries: &[Query]) -> Vec<Vec<String>> {
        let [engine, served] = self.hosts().map(|host| self.answers(client, host, queries));
        for (query, (engine, served)) in queries.iter().zip(engine.iter().zip(&served)) {
            if engine != served {
                let differs = same_lines(engine, served).err().unwrap_or_else(|| "another order".into());
                panic!("{}, {query:?}: {differs}", client.name());
            }
        }
        engine
    }

    /// An answer to each query, in the order of its instants: concurrent events may come in either.
    fn answers(&self, client: &Client, host: &str, queries: &[Query]) -> Vec<Vec<String>> {
        let whole = client.commands(&self.engine, host, queries).into_iter().map(run).map(|ran| {
            // The docker client says a refusal on stderr, and ends with 1.
            let refused = ran.stderr.lines().map(|line| format!("{}: {line}", ran.status)).collect::<Vec<_>>();
            assert_eq!(ran.status.success(), refused.is_empty(), "{}", ran.report());
            [ran.lines(), refused].concat()
        });
        let mut answers: Vec<Vec<String>> = match client {
            Client::Asker(_) => {
                let all: Vec<String> = whole.flatten().collect();
                let mut answers: Vec<Vec<String>> = all.split(String::is_empty).map(<[String]>::to_vec).collect();
                assert_eq!(answers.pop(), Some(vec![]), "an empty line ends each answer");
                answers
            }
            _ => whole.collect(),
        };
        assert_eq!(answers.len(), queries.len(), "{}", client.name());
        answers.iter_mut().for_each(|answer| *answer = by_moment(answer));
        answers
    }
}

impl Client {
    fn name(&self) -> String {
        match self {
            Client::Docker(words) => format!("docker events {}", words.join(" ")),
            Client::Asker(words) => words.join(" "),
            Client::Curl(path) => format!("curl {path}"),
        }
    }

    /// The commands that ask this host all of these.
    fn commands(&self, engine: &Engine, host: &str, queries: &[Query]) -> Vec<Command> {
        match self {
            Client::Docker(words) => queries
                .iter()
                .map(|query| {
                    let mut docker = engine.client_of(host, &["events"]);
                    docker.args(*words);
                    for (flag, value) in [("--since", &query.since), ("--until", &query.until)] {
                        docker.args(value.iter().flat_map(|value| [flag, value]));
                    }
                    docker.args(query.filters.iter().map(|(key, value)| format!("--filter={key}={value}")));
                    docker
                })
                .collect(),
            Client::Asker(words) => {
                let mut asker = asker(words, host);
                asker.args(queries.iter().map(Query::word));
                vec![asker]
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

    fn word(&self) -> String {
        let mut word = json!({ "filters": self.by_key() });
        for (key, value) in [("since", &self.since), ("until", &self.until)] {
            if let Some(value) = value {
                word[key] = json!(value);
            }
        }
        word.to_string()
    }
}

/// The folder they were put into.
fn clients() -> PathBuf {
    std::env::var_os("CLIENTS").expect("CLIENTS names the folder of the clients").into()
}

/// A program of `tests/programs`, or one that was made from it.
fn asker(words: &[&str], host: &str) -> Command {
    let clients = clients();
    let mut command = Command::new(clients.join(words[0]));
    if let [_, script, more @ ..] = words {
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(script)).args(more);
    }
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
    command.env("PYTHONUTF8", "1").env("PYTHONDONTWRITEBYTECODE", "1").env("NODE_PATH", clients.join("node_modules"));
    command.env("DOCKER_HOST", host).stdin(Stdio::null());
    command
}

/// What was printed, by instant; lines that go on (a label of several, curl's status) are of the event before.
fn by_moment(lines: &[String]) -> Vec<String> {
    let mut events: Vec<(String, String)> = Vec::new();
    for line in lines {
        let date = |text: &str| chrono::DateTime::parse_from_rfc3339(text).is_ok().then(|| text.to_owned());
        let moment = if line.starts_with('{') && line.contains("\"timeNano\"") {
            Some(format!("{:020}", instant(line)))
        } else {
            date(line.split(' ').next().unwrap_or_default())
        };
        match (moment, events.last_mut()) {
            (None, Some((_, last))) => *last = format!("{last}\n{line}"),
            (moment, _) => events.push((moment.unwrap_or_default(), line.clone())),
        }
    }
    events.sort_by(|(one, _), (other, _)| one.cmp(other));
    events.into_iter().map(|(_, line)| line).collect()
}

fn unix_time(nano: i64) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

#[test]
fn what_was_is_told_to_every_client_as_the_engine_tells_it() {
    let both = Both::after(a_full_session);
    let memory = both.engine.memory();
    let at = |part: usize| unix_time(instant(&memory[memory.len() * part / 4]));
    let end = unix_time(memory.iter().map(|line| instant(line)).max().expect("there are events") + 1);
    let all = Query { since: Some("0".into()), until: Some(end), filters: vec![] };
    let of = |filters: &[(&'static str, &'static str)]| Query { filters: filters.to_vec(), ..all.clone() };
    let queries = [
        all.clone(),
        Query { since: Some(at(1)), until: Some(at(3)), ..Query::default() },
        Query { until: Some(at(2)), ..Query::default() },
        of(&[("type", "container")]),
        of(&[("type", "image"), ("type", "volume"), ("event", "create"), ("event", "tag")]),
        of(&[("event", "start"), ("event", "die")]),
        of(&[("event", "exec_create")]),
        of(&[("event", "health_status: healthy")]),
        of(&[("container", "web")]),
        of(&[("image", "busybox")]),
        of(&[("network", "team-net"), ("type", "network")]),
        of(&[("volume", "vol-data")]),
        of(&[("label", "tier=front"), ("label", "bare")]),
        of(&[("label", "com.example.team=Grüße, 世界 🚀")]),
        of(&[("label", "markup=<a href=\"x\">&amp; 'y'</a>")]),
        of(&[("scope", "swarm")]),
        Query { since: Some(at(1)), ..of(&[("event", "exec_die"), ("label", "exitCode=0")]) },
    ];
    let none = [
        of(&[("container", "no-such-thing")]),
        Query { since: Some("2".into()), until: Some("1".into()), ..Query::default() },
    ];
    for client in &CLIENTS {
        let told = both.agree(client, &queries);
        // curl's word on the status follows the last event, or stands alone.
        let nothing = |answer: &[String]| answer.first().is_none_or(|first| first.starts_with("200 "));
        let short = told.iter().zip(&queries).find(|(answer, _)| nothing(answer));
        assert!(short.is_none(), "{}: {short:?} tries nothing", client.name());
        both.agree(client, &none);
    }
    // Not every client can say these.
    let odd = [
        Query { since: Some("abc".into()), ..Query::default() },
        Query { since: Some("99999999999999999999".into()), ..Query::default() },
        Query { since: Some("0".into()), until: Some("0".into()), ..Query::default() },
    ];
    CLIENTS[2..].iter().for_each(|client| drop(both.agree(client, &odd)));
}

/// What a client prints that stays.
struct Staying {
    child: Child,
    printed: PathBuf,
}

impl Staying {
    fn start(mut command: Command, folder: &Folder) -> Staying {
        let printed = folder.path(&format!("printed-{}", fastrand::u64(..)));
        command.stdout(File::create(&printed).expect("a file")).stderr(Stdio::inherit());
        Staying { child: command.spawn().expect("the client starts"), printed }
    }

    /// The whole lines that have come so far.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.printed).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }

    fn has(&self, text: &str) -> bool {
        self.lines().iter().any(|line| line.contains(text))
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_happens_is_told_to_every_client_as_the_engine_tells_it() {
    let both = Both::after(|_| {});
    let (engine, marked) = (&both.engine, ["--label", "team=live"]);
    let marks = |name: &str| {
        engine.docker(&[&["create", "--name", name][..], &marked, &["busybox"]].concat());
        engine.docker(&["rm", name]);
    };
    let live =
        [Query::default(), Query { filters: vec![("type", "container"), ("label", "team=live")], ..Query::default() }];
    let mut staying = Vec::new();
    for (client, query) in CLIENTS.iter().flat_map(|client| live.iter().map(move |query| (client, query))) {
        let pair = both.hosts().map(|host| {
            let command = client.commands(engine, host, std::slice::from_ref(query)).remove(0);
            Staying::start(command, &both.folder)
        });
        staying.push((format!("{}, {query:?}", client.name()), pair));
    }
    // An engine does not say when a subscription has begun: its first event does.
    both.folder.eventually("every client has heard something", || {
        marks("are-you-there");
        let deaf = staying.iter().find(|(_, pair)| pair.iter().any(|client| client.lines().is_empty()));
        deaf.map_or(Ok(()), |(name, _)| Err(name.clone()))
    });
    marks("live-begins");
    engine.docker(&["network", "create", "live-net"]);
    engine.docker(&["volume", "create", "live-vol"]);
    engine.container(&[&["--name", "web", "--network", "live-net", "-v", "live-vol:/data"][..], &marked].concat());
    engine.docker(&["exec", "web", "sh", "-c", "echo \"<ü>\" && true"]);
    engine.docker(&["network", "connect", "bridge", "web"]);
    engine.docker(&["kill", "-s", "USR1", "web"]);
    engine.docker(&["rm", "-f", "web"]);
    engine.docker(&["network", "rm", "live-net"]);
    engine.docker(&["tag", "busybox", "live:1"]);
    engine.docker(&["rmi", "live:1"]);
    marks("live-ends");
    marks("over");
    both.folder.eventually("every client has heard of the end", || {
        let waiting = staying.iter().find(|(_, pair)| pair.iter().any(|client| !client.has("over")));
        waiting.map_or(Ok(()), |(name, [engine, served])| {
            Err(format!("{name}: {:?}; {:?}", engine.lines(), served.lines()))
        })
    });
    for (name, pair) in &staying {
        let [engine, served] = pair.each_ref().map(|client| {
            let lines = by_moment(&client.lines());
            let at = |text: &str| lines.iter().position(|line| line.contains(text)).expect("it was heard");
            lines[at("live-begins")..at("live-ends")].to_vec()
        });
        same_lines(&engine, &served).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(engine.len() > 5, "{name}: {engine:?}");
    }
}

#[test]
fn an_answer_ends_when_its_time_has_come() {
    let both = Both::after(|engine| drop(engine.docker(&["run", "--rm", "--network", "none", "busybox", "true"])));
    let soon = chrono::Utc::now().timestamp_nanos_opt().expect("in range") + 5_000_000_000;
    let query = [Query { since: Some("0".into()), until: Some(unix_time(soon)), filters: vec![] }];
    std::thread::scope(|scope| {
        for client in &CLIENTS {
            scope.spawn(|| assert!(both.agree(client, &query)[0].len() > 5));
        }
    });
}

#[test]
fn who_the_engine_is_is_told_too() {
    let both = Both::after(|_| {});
    let printed = |words: &[&str]| both.hosts().map(|host| run(both.engine.client_of(host, words)).succeeded().lines());
    for words in [&["version"][..], &["info", "--format", "{{.ID}} {{.Name}} {{.ServerVersion}} {{.OSType}}"]] {
        let [engine, served] = printed(words);
        assert_eq!(engine, served, "{words:?}");
    }
    // What docker-py asserts of an engine.
    for host in both.hosts() {
        run(asker(&["bin/python", "docker_py_asserts.py"], host)).exited(0);
    }
}

#[test]
fn the_programs_of_the_readme_count_every_end_whatever_breaks() {
    let folder = Folder::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let block = |begin: &str| readme.split(begin).nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    std::fs::write(folder.path("crashes.py"), block("```python\n")).expect("a file");
    let rust = std::fs::read_to_string(root.join("tests/programs/bollard/src/bin/crashes.rs")).expect("the source");
    assert_eq!(block("```rust,ignore\n"), rust);
    let said = readme.lines().find_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" died, ")));
    let fixture = root.join("fixtures/docker-28.5.2.ndjson").display().to_string();
    let path = |name: &str| clients().join(name).display().to_string();
    for command in [vec![path("bin/python"), "crashes.py".into()], vec![path("bin/crashes")]] {
        for faults in [&[][..], &["cut@6"], &["garbage@6"], &["cut@6", "restart@10", "split"], &["stall@3:0.1"]] {
            let mut words = vec!["replay", &fixture, "--speed", "max"];
            words.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
            words.push("--");
            words.extend(command.iter().map(String::as_str));
            assert_eq!(folder.lines(&words), [said.expect("what they print")], "{words:?}");
        }
    }
}
