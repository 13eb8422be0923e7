//! Real engines, started by `tests/setup/engine.sh`, and the two that ask them without us: curl and the docker client. What
//! those two say is what our own answers are held against.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::command::{Folder, Ran, eventually, run};

/// Engines share the machine: one at a time, also where tests run side by side.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A real engine that has just begun and has nothing but the image `busybox`; gone without a trace when it is dropped.
pub(crate) struct Engine {
    version: &'static str,
    /// Its `DOCKER_HOST`.
    pub host: String,
    client: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Engine {
    /// Starts an engine of this version; a machine that cannot is a failure.
    pub(crate) fn start(version: &'static str) -> Engine {
        Engine::start_with(version, &[])
    }

    /// The same, with these words for its daemon.
    pub(crate) fn start_with(version: &'static str, words: &[&str]) -> Engine {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let client = starter(&["client", version]).into();
        starter(&["reset", version]);
        let host = starter(&[&["start", version][..], words].concat());
        let engine = Engine { version, host, client, _alone: alone };
        starter(&["image", version]);
        engine
    }

    /// SIGTERM to the daemon, and its end.
    pub(crate) fn stop(&self) {
        starter(&["stop", self.version]);
    }

    /// SIGKILL to the daemon and its containerd: containers go on.
    pub(crate) fn kill(&self) {
        starter(&["kill", self.version]);
    }

    /// Starts it again with what it had on disk, and with these words more.
    pub(crate) fn start_again(&self, words: &[&str]) {
        starter(&[&["start", self.version][..], words].concat());
    }

    /// Makes the daemon read its configuration again, of which it tells in an event.
    pub(crate) fn reload(&self) {
        starter(&["reload", self.version]);
    }

    /// The docker client of this engine's own version, which need not understand any other.
    pub(crate) fn client(&self, words: &[&str]) -> Command {
        self.client_of(&self.host, words)
    }

    /// The same client, for another host.
    pub(crate) fn client_of(&self, host: &str, words: &[&str]) -> Command {
        client(&self.client, host, words)
    }

    /// The same client, as a user with this home calls it who names no host.
    pub(crate) fn client_at(&self, home: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Where that client is.
    pub(crate) fn client_program(&self) -> &Path {
        &self.client
    }

    /// Goes where the engine's TCP ports are: this thread, and what it starts, until this is dropped.
    pub(crate) fn near(&self) -> Near {
        let pid = starter(&["pid", self.version]);
        let here = File::open("/proc/thread-self/ns/net").expect("our own network");
        enter(&File::open(format!("/proc/{pid}/ns/net")).expect("the engine's network"));
        Near(here)
    }

    /// Runs the docker client, which must succeed, and gives what it printed.
    pub(crate) fn docker(&self, words: &[&str]) -> String {
        printed(self.client(words))
    }

    /// Runs the docker client to an end that may be good or bad.
    pub(crate) fn docker_however(&self, words: &[&str]) -> Ran {
        run(self.client(words))
    }

    /// Starts a container that runs until it is stopped, at once when it is; gives its ID.
    pub(crate) fn container(&self, words: &[&str]) -> String {
        self.docker(&[&["run", "-d", "--stop-signal", "KILL"][..], words, &["busybox", "sleep", "1000"]].concat())
    }

    /// Asks unversioned `/events` for lines that end: `until` must be among the parameters.
    pub(crate) fn events(&self, parameters: &[(&str, String)]) -> Vec<String> {
        let mut curl = self.curl(&["-sSf", "--max-time", "30", "--get", "http://d/events"]);
        parameters.iter().for_each(|(key, value)| {
            curl.arg("--data-urlencode").arg(format!("{key}={value}"));
        });
        run(curl).succeeded().lines()
    }

    /// All the engine remembers, in its order.
    pub(crate) fn memory(&self) -> Vec<String> {
        self.events(&[("since", "0".into()), ("until", "0".into())])
    }

    /// Lets curl follow `/events` from the beginning of the engine's memory.
    pub(crate) fn follow(&self, folder: &Folder) -> Follower {
        let taken = folder.path("taken-by-curl");
        let mut curl = self.curl(&["-sN", "http://d/events?since=0"]);
        let curl = curl.stdin(Stdio::null()).stdout(File::create(&taken).expect("a file for curl"));
        let follower = Follower { curl: curl.spawn().expect("curl starts"), taken };
        // An engine can bring an event twice if it happens while the subscription begins; the image's event is over.
        eventually(
            "curl has the first event",
            || {
                if follower.lines().is_empty() { Err("nothing came") } else { Ok(()) }
            },
        );
        follower
    }

    /// Keeps running containers, one after the other, until it is dropped.
    pub(crate) fn keep_busy(&self) -> Busy {
        self.keep_busy_with(|command| _ = printed(command))
    }

    /// The same, though the engine may be killed meanwhile.
    pub(crate) fn keep_busy_however(&self) -> Busy {
        self.keep_busy_with(|command| _ = run(command))
    }

    fn keep_busy_with(&self, run: fn(Command)) -> Busy {
        let enough = Arc::new(AtomicBool::new(false));
        let (told, docker, host) = (enough.clone(), self.client.clone(), self.host.clone());
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                run(client(&docker, &host, &["run", "--rm", "--network", "none", "busybox", "true"]));
            }
        });
        Busy { enough, thread: Some(thread) }
    }

    fn curl(&self, words: &[&str]) -> Command {
        let socket = self.host.strip_prefix("unix://").expect("the engine listens on a socket");
        let mut curl = Command::new("curl");
        curl.args(["--noproxy", "*", "--unix-socket", socket]).args(words);
        curl
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let reset = Command::new(STARTER).args(["reset", self.version]).status();
        // A panic while another one is under way would hide the first.
        assert!(reset.is_ok_and(|status| status.success()) || std::thread::panicking(), "the engine can be reset");
    }
}

/// Being in the engine's network.
pub(crate) struct Near(File);

impl Drop for Near {
    fn drop(&mut self) {
        enter(&self.0);
    }
}

fn enter(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("a network can be entered");
}

/// curl, following an engine.
pub(crate) struct Follower {
    curl: Child,
    taken: PathBuf,
}

impl Follower {
    /// The whole lines that have come so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.taken).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

/// Stands between a recorder and its engine, and sees what the engine gives.
pub(crate) struct Witness {
    socket: PathBuf,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Witness {
    /// A witness on a socket of its own, for as long as the folder is there.
    pub(crate) fn beside(engine: &Engine, folder: &Folder) -> Witness {
        let socket = folder.path("witness.sock");
        let listener = UnixListener::bind(&socket).expect("a socket can be bound");
        let behind = engine.host.strip_prefix("unix://").expect("the engine listens on a socket").to_owned();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = seen.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // An engine that is away is a connection that ends at once.
                if let Ok(engine) = UnixStream::connect(&behind) {
                    let seen = all.clone();
                    std::thread::spawn(move || witness(client, engine, &seen));
                }
            }
        });
        Witness { socket, seen }
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Every event that went by whole: an engine sends each as a chunk of its own, a line.
    pub(crate) fn events(&self) -> BTreeSet<String> {
        let seen = self.seen.lock().expect("no holder panics");
        let lines = seen.iter().flat_map(|answer| {
            let whole = answer.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            String::from_utf8_lossy(&answer[..whole]).lines().map(str::to_owned).collect::<Vec<_>>()
        });
        lines.filter(|line| line.starts_with('{') && line.contains("\"timeNano\"")).collect()
    }
}

/// Passes on what two say to each other, and keeps what the engine said.
fn witness(client: UnixStream, engine: UnixStream, seen: &Mutex<Vec<Vec<u8>>>) {
    let (mut from, mut to) = (client.try_clone().expect("a socket"), engine.try_clone().expect("a socket"));
    let questions = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let (mut engine, mut client, mut kept, mut some) = (engine, client, Vec::new(), [0; 65536]);
    while let Ok(read @ 1..) = engine.read(&mut some) {
        if client.write_all(&some[..read]).is_err() {
            break;
        }
        kept.extend(&some[..read]);
    }
    let _ = client.shutdown(Shutdown::Both);
    seen.lock().expect("no holder panics").push(kept);
    let _ = questions.join();
}

/// Containers that come and go in the background.
pub(crate) struct Busy {
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    /// Lets the last container end.
    pub(crate) fn stop(mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("every container ran");
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const STARTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/engine.sh");

/// Runs `tests/setup/engine.sh`; it must succeed. What it prints last is what it has to say.
fn starter(words: &[&str]) -> String {
    let mut command = Command::new(STARTER);
    command.args(words);
    let printed = run(command).exited(0).lines();
    printed.last().cloned().unwrap_or_default()
}

/// The docker client of an engine of this version, which need not run.
pub(crate) fn client_for(version: &str, host: &str, words: &[&str]) -> Command {
    client(Path::new(&starter(&["client", version])), host, words)
}

fn client(docker: &Path, host: &str, words: &[&str]) -> Command {
    let mut command = Command::new(docker);
    // Without the user's configuration and environment, which could name another engine or another form of output.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
    command.args(["-H", host]).args(words).stdin(Stdio::null());
    command
}

fn printed(client: Command) -> String {
    run(client).exited(0).lines().join("\n")
}

/// The instant of an event, in nanoseconds since the epoch.
pub(crate) fn instant(line: &str) -> i64 {
    parsed(line)["timeNano"].as_i64().unwrap_or_else(|| panic!("no instant: {line}"))
}

/// An event, read.
pub(crate) fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// Lines by instant; where instants are the same the order stays.
pub(crate) fn by_instant(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_by_key(|line| instant(line));
    lines
}

/// Whether two lists hold the same lines, each as often as the other, in whatever order; says what differs. Two that
/// follow an engine may see concurrent events in opposite order.
pub(crate) fn same_lines(engine: &[String], ours: &[String]) -> Result<(), String> {
    let (only_engine, only_ours) = (missing_from(ours, engine), missing_from(engine, ours));
    if only_engine.is_empty() && only_ours.is_empty() {
        return Ok(());
    }
    let list = |lines: &[String]| lines.iter().map(|line| format!("\n  {line}")).collect::<String>();
    Err(format!("only the engine has{}\nonly we have{}", list(&only_engine), list(&only_ours)))
}

/// Those of `lines` that `others` does not have, or not so often.
fn missing_from(others: &[String], lines: &[String]) -> Vec<String> {
    let mut others: Vec<&String> = others.iter().collect();
    let mut missing = Vec::new();
    for line in lines {
        match others.iter().position(|other| *other == line) {
            Some(at) => drop(others.swap_remove(at)),
            None => missing.push(line.clone()),
        }
    }
    missing
}

/// A session that brings about as many kinds of events as an engine alone can make, with text that has to be
/// escaped; fewer than the 256 that it remembers.
pub(crate) fn a_full_session(engine: &Engine) {
    engine.reload();
    images(engine);
    networks_and_volumes(engine);
    a_container_with_everything(engine);
    bad_ends(engine);
    health_checks(engine);
    a_swarm(engine);
    tidying_up(engine);
}

fn images(engine: &Engine) {
    let registry = starter(&["registry", engine.version]);
    let app = format!("{registry}/team/app:v3");
    for name in ["team/app:1.0", &app, "docker.io/library/second:latest"] {
        engine.docker(&["tag", "busybox", name]);
    }
    engine.docker(&["rmi", "second"]);
    engine.docker(&["push", &app]);
    let digests = engine.docker(&["image", "inspect", "-f", "{{join .RepoDigests \"\\n\"}}", &app]);
    let digested = digests.lines().find(|name| name.starts_with(&registry)).expect("what was pushed has a digest");
    engine.docker(&["rmi", &app]);
    engine.docker(&["pull", digested]);
    engine.docker(&["pull", &app]);
    let id = engine.docker(&["image", "inspect", "-f", "{{.Id}}", "busybox"]);
    let short = id.trim_start_matches("sha256:")[..12].to_owned();
    let (_, digest) = digested.split_once('@').expect("it has a digest");
    for image in ["busybox:latest", "team/app:1.0", &app, digested, &format!("{app}@{digest}"), &id, &short] {
        engine.docker(&["run", "--rm", "--network", "none", image, "true"]);
    }
    let folder = Folder::new();
    let saved = folder.path("saved.tar");
    let saved = saved.to_str().expect("a path is text");
    engine.docker(&["save", "-o", saved, "team/app:1.0"]);
    engine.docker(&["load", "-i", saved]);
    engine.docker(&["import", "-m", "<from & for> \"tests\"", saved, "imported:1"]);
    engine.docker(&["rmi", "imported:1"]);
}

fn networks_and_volumes(engine: &Engine) {
    engine.docker(&["network", "create", "team-net"]);
    engine.docker(&["volume", "create", "--label", "kept=yes", "vol-data"]);
    engine.docker(&["volume", "create"]);
}

fn a_container_with_everything(engine: &Engine) {
    let long = format!("long={}", "a label of several KB, ".repeat(250));
    let mut words = vec!["--name", "web", "--network", "team-net", "-v", "vol-data:/data", "--label", &long];
    for label in LABELS {
        words.extend(["--label", label]);
    }
    engine.container(&words);
    engine.docker(&["network", "connect", "bridge", "web"]);
    engine.docker(&["network", "disconnect", "bridge", "web"]);
    for script in SCRIPTS {
        engine.docker(&["exec", "web", "sh", "-c", script]);
    }
    engine.docker(&["exec", "-d", "web", "true"]);
    assert_eq!(engine.docker_however(&["exec", "web", "false"]).status.code(), Some(1));
    for words in [
        &["rename", "web", "web.renamed-1"][..],
        &["pause", "web.renamed-1"],
        &["unpause", "web.renamed-1"],
        &["top", "web.renamed-1"],
        &["update", "--restart", "no", "web.renamed-1"],
        &["commit", "-m", "with \"quotes\" & <brackets>", "web.renamed-1", "team/committed:1"],
        &["kill", "-s", "USR1", "web.renamed-1"],
        &["restart", "-t", "1", "web.renamed-1"],
        &["stop", "-t", "1", "web.renamed-1"],
        &["start", "web.renamed-1"],
        &["kill", "web.renamed-1"],
        &["rm", "-f", "web.renamed-1"],
        &["create", "--name", "web-never-started", "busybox"],
        &["rm", "web-never-started"],
    ] {
        engine.docker(words);
    }
    // `cp` reads the container's archive, `export` all of it.
    let folder = Folder::new();
    engine.docker(&["create", "--name", "copied", "busybox"]);
    let file = folder.path("busybox");
    engine.docker(&["cp", "copied:/bin/busybox", file.to_str().expect("a path is text")]);
    engine.docker(&["export", "-o", file.to_str().expect("a path is text"), "copied"]);
    engine.docker(&["rm", "copied"]);
}

const LABELS: [&str; 10] = [
    "tier=front",
    "com.example.team=Grüße, 世界 🚀",
    "schlüssel=wert",
    "markup=<a href=\"x\">&amp; 'y'</a>",
    "equation=a=b=c",
    "empty=",
    "bare",
    "lines=one\ntwo\tthree\r\u{1}\u{7f}",
    "separators=\u{2028}\u{2029}",
    "path=C:\\dir\\",
];

const SCRIPTS: [&str; 3] = [
    "echo \"quoted $HOME\" 'and so' && printf '%s\\n' \"a\tb\"",
    "echo '<tag attr=\"ü\">' > /dev/null; true & wait",
    "true\n# a second line: exec_start, {\"json\":[1]}",
];

fn bad_ends(engine: &Engine) {
    let failing = ["run", "--name", "failing", "--network", "none", "busybox", "sh", "-c", "exit 7"];
    assert_eq!(engine.docker_however(&failing).status.code(), Some(7));
    // Ends by `oom`; where the kernel counts no memory, by the second limit.
    let limits = ["-m", "16m", "--memory-swap", "16m", "--ulimit", "data=268435456"];
    let hungry = [&["run", "--name", "hungry", "--network", "none"], &limits[..], &["busybox", "tail", "/dev/zero"]];
    assert_ne!(engine.docker_however(&hungry.concat()).status.code(), Some(0));
    let missing = ["run", "--name", "missing", "--network", "none", "busybox", "no-such-program"];
    assert_eq!(engine.docker_however(&missing).status.code(), Some(127));
}

fn health_checks(engine: &Engine) {
    for (name, check, expected) in [("healthy", "echo \"ok\" && true", "healthy"), ("ill", "exit 1", "unhealthy")] {
        let health = ["--health-cmd", check, "--health-interval", "300ms", "--health-retries", "1"];
        engine.container(&[&["--name", name, "--network", "none"][..], &health].concat());
        eventually(&format!("{name} is {expected}"), || {
            let health = engine.docker(&["inspect", "-f", "{{.State.Health.Status}}", name]);
            if health == expected { Ok(()) } else { Err(health) }
        });
        engine.docker(&["rm", "-f", name]);
    }
}

/// What a swarm does has another scope, and types of its own.
fn a_swarm(engine: &Engine) {
    let folder = Folder::new();
    let file = folder.path("content");
    std::fs::write(&file, "hush").expect("a file can be written");
    let file = file.to_str().expect("a path is text");
    engine.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    for words in [
        &["secret", "create", "team-secret", file][..],
        &["config", "create", "team-config", file],
        &["service", "create", "-d", "--name", "team-service", "--replicas", "0", "busybox", "true"],
        &["service", "rm", "team-service"],
        &["config", "rm", "team-config"],
        &["secret", "rm", "team-secret"],
        &["swarm", "leave", "--force"],
    ] {
        engine.docker(words);
    }
}

fn tidying_up(engine: &Engine) {
    engine.docker(&["volume", "rm", "vol-data"]);
    engine.docker(&["network", "rm", "team-net"]);
    for what in ["container", "volume", "network", "image"] {
        engine.docker(&[what, "prune", "-f"]);
    }
}
