//! Real engines, started by `tests/setup/engine.sh`, and two independent clients: curl and the docker client. Tests
//! compare the output of `events` with that of these clients.

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

use super::command::{Output, TestDir, eventually, run};

/// The versions of engines, and for each the lock of its one engine. Engines of different versions run side by side.
static ENGINE_LOCKS: [(&str, Mutex<()>); 3] =
    [("20", Mutex::new(())), ("26", Mutex::new(())), ("newest", Mutex::new(()))];

/// Locks the engine of this version for a test.
fn lock_engine(version: &str) -> MutexGuard<'static, ()> {
    let (_, lock) = ENGINE_LOCKS.iter().find(|(name, _)| *name == version).expect("a version of tests/setup/engine.sh");
    // A failed test leaves nothing behind that the next start does not reset.
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A real engine with new state and only the image `busybox`. It is removed completely on drop.
pub(crate) struct Engine {
    version: &'static str,
    /// `DOCKER_HOST` of the engine.
    pub host: String,
    client_path: PathBuf,
    _lock: MutexGuard<'static, ()>,
}

impl Engine {
    /// Starts an engine of this version, and panics if that fails.
    pub(crate) fn start(version: &'static str) -> Engine {
        Engine::start_with(version, &[])
    }

    /// Starts an engine of this version with these arguments for its daemon.
    pub(crate) fn start_with(version: &'static str, daemon_args: &[&str]) -> Engine {
        let lock = lock_engine(version);
        let client_path = run_engine_script(&["client", version]).into();
        run_engine_script(&["reset", version]);
        let host = run_engine_script(&[&["start", version][..], daemon_args].concat());
        let engine = Engine { version, host, client_path, _lock: lock };
        run_engine_script(&["image", version]);
        engine
    }

    /// Stops the daemon with SIGTERM, and waits for its exit.
    pub(crate) fn stop(&self) {
        run_engine_script(&["stop", self.version]);
    }

    /// Kills the daemon and its containerd with SIGKILL. Containers keep running.
    pub(crate) fn kill(&self) {
        run_engine_script(&["kill", self.version]);
    }

    /// Starts the engine again with its state on disk, and with these arguments for its daemon.
    pub(crate) fn start_again(&self, daemon_args: &[&str]) {
        run_engine_script(&[&["start", self.version][..], daemon_args].concat());
    }

    /// Makes the daemon reload its configuration, which emits an event.
    pub(crate) fn reload(&self) {
        run_engine_script(&["reload", self.version]);
    }

    /// Command that runs the docker client of this engine's version against it.
    pub(crate) fn client(&self, args: &[&str]) -> Command {
        self.client_for_host(&self.host, args)
    }

    /// Command that runs the same client against another host.
    pub(crate) fn client_for_host(&self, host: &str, args: &[&str]) -> Command {
        docker_command(&self.client_path, host, args)
    }

    /// Command that runs the same client with this home directory and without `-H`.
    pub(crate) fn client_with_home(&self, home: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.client_path);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Path of that client.
    pub(crate) fn client_path(&self) -> &Path {
        &self.client_path
    }

    /// Moves this thread, and the processes it starts, into the engine's network namespace, until the guard is dropped.
    pub(crate) fn enter_network(&self) -> NetworkGuard {
        let pid = run_engine_script(&["pid", self.version]);
        let own_network = File::open("/proc/thread-self/ns/net").expect("the test's network namespace");
        enter_network_namespace(&File::open(format!("/proc/{pid}/ns/net")).expect("the engine's network namespace"));
        NetworkGuard(own_network)
    }

    /// Runs the docker client, which must succeed, and returns its output.
    pub(crate) fn docker(&self, args: &[&str]) -> String {
        stdout_of(self.client(args))
    }

    /// Runs the docker client, which may fail.
    pub(crate) fn docker_unchecked(&self, args: &[&str]) -> Output {
        run(self.client(args))
    }

    /// Starts a container that runs until it is stopped, without delay when it is. Returns its ID.
    pub(crate) fn container(&self, args: &[&str]) -> String {
        self.docker(&[&["run", "-d", "--stop-signal", "KILL"][..], args, &["busybox", "sleep", "1000"]].concat())
    }

    /// Requests `/events` without an API version. The parameters must contain `until`, so that the response ends.
    pub(crate) fn events(&self, parameters: &[(&str, String)]) -> Vec<String> {
        let mut curl = self.curl(&["-sSf", "--max-time", "30", "--get", "http://d/events"]);
        parameters.iter().for_each(|(key, value)| {
            curl.arg("--data-urlencode").arg(format!("{key}={value}"));
        });
        run(curl).assert_success().lines()
    }

    /// The engine's backlog, in its order.
    pub(crate) fn backlog(&self) -> Vec<String> {
        self.events(&[("since", "0".into()), ("until", "0".into())])
    }

    /// Makes curl follow `/events` from the start of the backlog.
    pub(crate) fn follow(&self, test_dir: &TestDir) -> Follower {
        let output_path = test_dir.path("taken-by-curl");
        let mut curl = self.curl(&["-sN", "http://d/events?since=0"]);
        let curl = curl.stdin(Stdio::null()).stdout(File::create(&output_path).expect("a file for curl"));
        let follower = Follower { curl: curl.spawn().expect("curl starts"), output_path };
        // An engine can send an event twice if it occurs while the subscription starts. The image's event is older.
        eventually("curl has the first event", || {
            if follower.lines().is_empty() { Err("no event arrived") } else { Ok(()) }
        });
        follower
    }

    /// Runs containers, one after the other, until the load is dropped.
    pub(crate) fn keep_busy(&self) -> BackgroundLoad {
        self.keep_busy_with(|command| _ = stdout_of(command))
    }

    /// Runs containers in the same way; they may fail, because the engine may be killed.
    pub(crate) fn keep_busy_unchecked(&self) -> BackgroundLoad {
        self.keep_busy_with(|command| _ = run(command))
    }

    fn keep_busy_with(&self, run: fn(Command)) -> BackgroundLoad {
        let stop_requested = Arc::new(AtomicBool::new(false));
        let (stop_flag, docker, host) = (stop_requested.clone(), self.client_path.clone(), self.host.clone());
        let thread = std::thread::spawn(move || {
            while !stop_flag.load(Ordering::Relaxed) {
                run(docker_command(&docker, &host, &["run", "--rm", "--network", "none", "busybox", "true"]));
            }
        });
        BackgroundLoad { stop_requested, thread: Some(thread) }
    }

    fn curl(&self, args: &[&str]) -> Command {
        let socket = self.host.strip_prefix("unix://").expect("the engine listens on a socket");
        let mut curl = Command::new("curl");
        curl.args(["--noproxy", "*", "--unix-socket", socket]).args(args);
        curl
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let reset = Command::new(ENGINE_SCRIPT).args(["reset", self.version]).status();
        // A panic during another panic would hide the first one.
        assert!(reset.is_ok_and(|status| status.success()) || std::thread::panicking(), "the engine is reset");
    }
}

/// Membership of a thread in the engine's network namespace; dropping it restores the previous namespace.
pub(crate) struct NetworkGuard(File);

impl Drop for NetworkGuard {
    fn drop(&mut self) {
        enter_network_namespace(&self.0);
    }
}

fn enter_network_namespace(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("the namespace is entered");
}

/// A curl that follows an engine.
pub(crate) struct Follower {
    curl: Child,
    output_path: PathBuf,
}

impl Follower {
    /// Complete lines received so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.output_path).unwrap_or_default();
        let complete_lines = text.rfind('\n').map_or("", |end| &text[..end]);
        complete_lines.lines().map(str::to_owned).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

/// A proxy between a recorder and its engine, which keeps what the engine sends.
pub(crate) struct RecordingProxy {
    socket: PathBuf,
    responses: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl RecordingProxy {
    /// Starts a proxy on its own socket in `test_dir`.
    pub(crate) fn start(engine: &Engine, test_dir: &TestDir) -> RecordingProxy {
        let socket = test_dir.path("witness.sock");
        let listener = UnixListener::bind(&socket).expect("the socket is bound");
        let engine_path = engine.host.strip_prefix("unix://").expect("the engine listens on a socket").to_owned();
        let responses = Arc::new(Mutex::new(Vec::new()));
        let shared_responses = responses.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // If the engine is down, the connection is closed immediately.
                if let Ok(engine) = UnixStream::connect(&engine_path) {
                    let responses = shared_responses.clone();
                    std::thread::spawn(move || forward_and_record(client, engine, &responses));
                }
            }
        });
        RecordingProxy { socket, responses }
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Every completely forwarded event: an engine sends each one as one line in its own chunk.
    pub(crate) fn events(&self) -> BTreeSet<String> {
        let responses = self.responses.lock().expect("no holder panics");
        let lines = responses.iter().flat_map(|response| {
            let complete_len = response.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            String::from_utf8_lossy(&response[..complete_len]).lines().map(str::to_owned).collect::<Vec<_>>()
        });
        lines.filter(|line| line.starts_with('{') && line.contains("\"timeNano\"")).collect()
    }
}

/// Forwards bytes in both directions, and keeps those that the engine sent.
fn forward_and_record(client: UnixStream, engine: UnixStream, responses: &Mutex<Vec<Vec<u8>>>) {
    let (mut from, mut to) = (client.try_clone().expect("a socket"), engine.try_clone().expect("a socket"));
    let request_thread = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let (mut engine, mut client, mut response, mut buffer) = (engine, client, Vec::new(), [0; 65536]);
    while let Ok(read @ 1..) = engine.read(&mut buffer) {
        if client.write_all(&buffer[..read]).is_err() {
            break;
        }
        response.extend(&buffer[..read]);
    }
    let _ = client.shutdown(Shutdown::Both);
    responses.lock().expect("no holder panics").push(response);
    let _ = request_thread.join();
}

/// Containers that start and exit in the background.
pub(crate) struct BackgroundLoad {
    stop_requested: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundLoad {
    /// Stops the load after the current container.
    pub(crate) fn stop(mut self) {
        self.stop_requested.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("every container ran");
        }
    }
}

impl Drop for BackgroundLoad {
    fn drop(&mut self) {
        self.stop_requested.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const ENGINE_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/engine.sh");

/// Runs `tests/setup/engine.sh`, which must succeed, and returns the last line of its output.
fn run_engine_script(args: &[&str]) -> String {
    let mut command = Command::new(ENGINE_SCRIPT);
    command.args(args);
    let lines = run(command).assert_exit_code(0).lines();
    lines.last().cloned().unwrap_or_default()
}

/// Command that runs the docker client of an engine version. The engine need not run.
pub(crate) fn client_of_version(version: &str, host: &str, args: &[&str]) -> Command {
    docker_command(Path::new(&run_engine_script(&["client", version])), host, args)
}

fn docker_command(client_path: &Path, host: &str, args: &[&str]) -> Command {
    let mut command = Command::new(client_path);
    // Without the user's configuration and environment, which could set another engine or another output format.
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
    command.args(["-H", host]).args(args).stdin(Stdio::null());
    command
}

fn stdout_of(client: Command) -> String {
    run(client).assert_exit_code(0).lines().join("\n")
}

/// Time of an event, in nanoseconds since the epoch.
pub(crate) fn time_nano(line: &str) -> i64 {
    parse_event(line)["timeNano"].as_i64().unwrap_or_else(|| panic!("no time: {line}"))
}

/// Parses an event.
pub(crate) fn parse_event(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// Sorts lines by time. The sort is stable.
pub(crate) fn sorted_by_time(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_by_key(|line| time_nano(line));
    lines
}

/// Compares two lists as multisets of lines; the error describes the differences. Two clients of an engine can receive
/// concurrent events in opposite order.
pub(crate) fn compare_lines(engine: &[String], ours: &[String]) -> Result<(), String> {
    let (only_engine, only_ours) = (missing_from(ours, engine), missing_from(engine, ours));
    if only_engine.is_empty() && only_ours.is_empty() {
        return Ok(());
    }
    let list = |lines: &[String]| lines.iter().map(|line| format!("\n  {line}")).collect::<String>();
    Err(format!("only from the engine:{}\nonly from events:{}", list(&only_engine), list(&only_ours)))
}

/// Lines that `others` does not contain, or contains less often.
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

/// Makes the engine emit as many kinds of events as one engine can, with text that needs escaping. The number of events
/// stays below the 256 of the backlog.
pub(crate) fn run_full_scenario(engine: &Engine) {
    engine.reload();
    exercise_images(engine);
    exercise_networks_and_volumes(engine);
    exercise_container(engine);
    exercise_failures(engine);
    exercise_health_checks(engine);
    exercise_swarm(engine);
    clean_up(engine);
}

fn exercise_images(engine: &Engine) {
    let registry = run_engine_script(&["registry", engine.version]);
    let app = format!("{registry}/team/app:v3");
    for name in ["team/app:1.0", &app, "docker.io/library/second:latest"] {
        engine.docker(&["tag", "busybox", name]);
    }
    engine.docker(&["rmi", "second"]);
    engine.docker(&["push", &app]);
    let digests = engine.docker(&["image", "inspect", "-f", "{{join .RepoDigests \"\\n\"}}", &app]);
    let digested = digests.lines().find(|name| name.starts_with(&registry)).expect("the pushed image has a digest");
    engine.docker(&["rmi", &app]);
    engine.docker(&["pull", digested]);
    engine.docker(&["pull", &app]);
    let id = engine.docker(&["image", "inspect", "-f", "{{.Id}}", "busybox"]);
    let short = id.trim_start_matches("sha256:")[..12].to_owned();
    let (_, digest) = digested.split_once('@').expect("the name has a digest");
    for image in ["busybox:latest", "team/app:1.0", &app, digested, &format!("{app}@{digest}"), &id, &short] {
        engine.docker(&["run", "--rm", "--network", "none", image, "true"]);
    }
    let test_dir = TestDir::new();
    let saved = test_dir.path("saved.tar");
    let saved = saved.to_str().expect("a path is text");
    engine.docker(&["save", "-o", saved, "team/app:1.0"]);
    engine.docker(&["load", "-i", saved]);
    engine.docker(&["import", "-m", "<from & for> \"tests\"", saved, "imported:1"]);
    engine.docker(&["rmi", "imported:1"]);
}

fn exercise_networks_and_volumes(engine: &Engine) {
    engine.docker(&["network", "create", "team-net"]);
    engine.docker(&["volume", "create", "--label", "kept=yes", "vol-data"]);
    engine.docker(&["volume", "create"]);
}

fn exercise_container(engine: &Engine) {
    let long = format!("long={}", "a label of several KB, ".repeat(250));
    let mut args = vec!["--name", "web", "--network", "team-net", "-v", "vol-data:/data", "--label", &long];
    for label in LABELS {
        args.extend(["--label", label]);
    }
    engine.container(&args);
    engine.docker(&["network", "connect", "bridge", "web"]);
    engine.docker(&["network", "disconnect", "bridge", "web"]);
    for script in SCRIPTS {
        engine.docker(&["exec", "web", "sh", "-c", script]);
    }
    engine.docker(&["exec", "-d", "web", "true"]);
    assert_eq!(engine.docker_unchecked(&["exec", "web", "false"]).status.code(), Some(1));
    for args in [
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
        engine.docker(args);
    }
    // `cp` reads a part of the container's filesystem, `export` all of it.
    let test_dir = TestDir::new();
    engine.docker(&["create", "--name", "copied", "busybox"]);
    let file = test_dir.path("busybox");
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

fn exercise_failures(engine: &Engine) {
    let failing = ["run", "--name", "failing", "--network", "none", "busybox", "sh", "-c", "exit 7"];
    assert_eq!(engine.docker_unchecked(&failing).status.code(), Some(7));
    // Killed by `oom`; if the kernel does not account memory, the second limit applies.
    let limits = ["-m", "16m", "--memory-swap", "16m", "--ulimit", "data=268435456"];
    let hungry = [&["run", "--name", "hungry", "--network", "none"], &limits[..], &["busybox", "tail", "/dev/zero"]];
    assert_ne!(engine.docker_unchecked(&hungry.concat()).status.code(), Some(0));
    let missing = ["run", "--name", "missing", "--network", "none", "busybox", "no-such-program"];
    assert_eq!(engine.docker_unchecked(&missing).status.code(), Some(127));
}

fn exercise_health_checks(engine: &Engine) {
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

/// Exercises a swarm, whose events have another scope and additional types.
fn exercise_swarm(engine: &Engine) {
    let test_dir = TestDir::new();
    let file = test_dir.path("content");
    std::fs::write(&file, "hush").expect("the file is written");
    let file = file.to_str().expect("a path is text");
    engine.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    for args in [
        &["secret", "create", "team-secret", file][..],
        &["config", "create", "team-config", file],
        &["service", "create", "-d", "--name", "team-service", "--replicas", "0", "busybox", "true"],
        &["service", "rm", "team-service"],
        &["config", "rm", "team-config"],
        &["secret", "rm", "team-secret"],
        &["swarm", "leave", "--force"],
    ] {
        engine.docker(args);
    }
}

fn clean_up(engine: &Engine) {
    engine.docker(&["volume", "rm", "vol-data"]);
    engine.docker(&["network", "rm", "team-net"]);
    for what in ["container", "volume", "network", "image"] {
        engine.docker(&[what, "prune", "-f"]);
    }
}
