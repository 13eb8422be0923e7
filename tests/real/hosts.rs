//! Every host that the docker client can reach: TLS, ssh, contexts; and Podman's socket.

use crate::support::hosts::{Server, failures, path_with_ssh, text, with_path};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::certificates::{Authority, Certificate};
use crate::support::command::{Folder, Running, eventually, free_port, run, signal, within};
use crate::support::docker::{Engine, same_lines};
use crate::support::line::Line;
use serde_json::Value;

/// An engine behind TLS, as its documentation sets it up, and whoever is near enough to reach it.
struct TlsEngine {
    engine: Engine,
    authority: Authority,
    client: Certificate,
    stranger: Certificate,
    listens: Vec<String>,
    near: Option<docker::Near>,
}

const TLS_HOST: &str = "tcp://127.0.0.1:2376";

impl TlsEngine {
    fn start(folder: &Folder) -> TlsEngine {
        let dir = folder.path("certificates");
        fs::create_dir(&dir).expect("a folder");
        let authority = Authority::new(&dir, "ca");
        let server = authority.signs(&dir, "server", &["127.0.0.1"], 30);
        let client = authority.signs(&dir, "client", &["client"], 30);
        let stranger = Authority::new(&dir, "other").signs(&dir, "stranger", &["client"], 30);
        let [ca, cert, key] = [&authority.file, &server.file, &server.key].map(|path| text(path).to_owned());
        let words =
            ["-H", "tcp://0.0.0.0:2376", "--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
        let listens = words.map(str::to_owned).to_vec();
        let engine = Engine::start_with("newest", &words);
        let near = Some(engine.near());
        TlsEngine { engine, authority, client, stranger, listens, near }
    }

    /// Starts it again, when it was stopped. Its network is another one then.
    fn start_again(&mut self) {
        self.near = None;
        let words: Vec<&str> = self.listens.iter().map(String::as_str).collect();
        self.engine.start_again(&words);
        self.near = Some(self.engine.near());
    }

    /// The flags for whoever may ask it.
    fn words(&self) -> [&str; 7] {
        let [ca, cert, key] = [&self.authority.file, &self.client.file, &self.client.key].map(|path| text(path));
        ["--tlsverify", "--tlscacert", ca, "--tlscert", cert, "--tlskey", key]
    }
}

/// The ID of the engine that was recorded last.
fn recorded_id(folder: &Folder) -> Option<String> {
    let status: Value = serde_json::from_slice(&folder.run(&["status", "--json"]).stdout).ok()?;
    Some(status["sources"].as_array()?.first()?["engine_id"].as_str()?.to_owned())
}

#[test]
fn a_real_engine_behind_tls_is_recorded() {
    let folder = Folder::new();
    let mut tls = TlsEngine::start(&folder);
    let asked = run(tls.engine.client_of(TLS_HOST, &[&tls.words()[..], &["info", "-f", "{{.ID}}"]].concat()));
    let recorder = folder.record(TLS_HOST, &[&tls.words()[..], &["--look-again", "300ms"]].concat());
    assert_eq!(recorded_id(&folder), asked.succeeded().lines().first().cloned());
    tls.engine.docker(&["run", "--rm", "--network", "none", "busybox", "true"]);
    tls.engine.docker(&["network", "create", "team"]);
    records_the_memory(&folder, &tls.engine);
    tls.engine.container(&["--name", "web", "--network", "none"]);
    records_the_memory(&folder, &tls.engine);
    tls.engine.stop();
    is_away(&folder, &recorder);
    recorder.stop();
    tls.start_again();
    let recorder = folder.record(TLS_HOST, &tls.words());
    tls.engine.docker(&["start", "web"]);
    let start = ["query", "-q", "--action", "start", "--container", "web", "--count"];
    folder.eventually_lines(&start, &["2".to_owned()]);
    recorder.stop();
    // What is forgotten is asked of the engine, beside the stream.
    tls.engine.docker(&["kill", "web"]);
    tls.engine.stop();
    tls.start_again();
    let recorder = folder.record(TLS_HOST, &tls.words());
    folder.eventually("the gap says what became of the container", || {
        let gaps = folder.lines(&["gaps"]);
        if gaps.iter().any(|gap| gap.contains("meanwhile: web (")) { Ok(()) } else { Err(gaps) }
    });
    recorder.stop();
}

/// Waits until the recorder says that the engine is away, and does not count as connected any more.
fn is_away(folder: &Folder, recorder: &Running) {
    folder.eventually("it is said that it is away", || {
        let log = recorder.log();
        if log.contains("it is tried again until it works") { Ok(()) } else { Err(log) }
    });
    folder.eventually("the gap is open", || {
        let gaps = folder.json(&["gaps"]);
        let open = gaps.last().is_some_and(|gap| gap["reason"] == "disconnected" && gap["to"].is_null());
        let status: Value = serde_json::from_slice(&folder.run(&["status", "--json"]).stdout).expect("JSON");
        if open && status["sources"][0]["connected"] == false { Ok(()) } else { Err((gaps, status)) }
    });
}

/// Waits until all that the engine remembers is recorded, each event once, and no gap is left but the first.
fn misses_nothing(folder: &Folder, engine: &Engine) {
    folder.eventually("nothing was missed", || {
        same_lines(&engine.memory(), &folder.lines(&["query", "-q"]))?;
        let gaps = folder.json(&["gaps"]);
        if gaps.len() == 1 && gaps[0]["reason"] == "first-contact" { Ok(()) } else { Err(format!("{gaps:?}")) }
    });
}

#[test]
fn an_engine_behind_tls_that_is_gone_without_a_word_is_found() {
    let folder = Folder::new();
    let tls = TlsEngine::start(&folder);
    let line = Line::to(|| TcpStream::connect("127.0.0.1:2376"));
    let recorder = folder.record(&line.host(), &[&tls.words()[..], &["--look-again", "300ms"]].concat());
    misses_nothing(&folder, &tls.engine);
    line.goes_dead();
    tls.engine.docker(&["network", "create", "unseen"]);
    is_away(&folder, &recorder);
    assert_eq!(folder.lines(&["query", "-q", "--network", "unseen", "--count"]), ["0"]);
    line.comes_back();
    misses_nothing(&folder, &tls.engine);
    // And what happens now is told by a stream that is alive.
    tls.engine.docker(&["network", "rm", "unseen"]);
    misses_nothing(&folder, &tls.engine);
    recorder.stop();
}

#[test]
fn what_a_real_engine_refuses_is_one_clear_line() {
    let folder = Folder::new();
    let tls = TlsEngine::start(&folder);
    let ca = text(&tls.authority.file);
    let shows_one = "(hint: --tlscert FILE and --tlskey FILE, or DOCKER_CERT_PATH)";
    let by_name = "tcp://127.0.0.2:2376";
    let stranger =
        ["--tlsverify", "--tlscacert", ca, "--tlscert", text(&tls.stranger.file), "--tlskey", text(&tls.stranger.key)];
    let cases: [(&str, &[&str], &[&str]); 5] = [
        (TLS_HOST, &["--tlsverify", "--tlscacert", ca], &["certificate", shows_one]),
        (TLS_HOST, &stranger, &["it does not take our certificate, or wants one", shows_one]),
        (by_name, &tls.words(), &["its certificate is for 127.0.0.1, not for 127.0.0.2 (hint: "]),
        (TLS_HOST, &[], &["Client sent an HTTP request to an HTTPS server", "(hint: it speaks TLS: --tlsverify with"]),
        (
            "tcp://127.0.0.1:2375",
            &["--tls"],
            &["cannot connect to tcp://127.0.0.1:2375: Connection refused (hint: is a Docker Engine running there?"],
        ),
    ];
    let usual = std::env::var("PATH").unwrap_or_default();
    let words: Vec<Vec<&str>> = cases.iter().map(|(host, words, _)| [&["-H", *host][..], words].concat()).collect();
    let tried: Vec<(&str, &[&str])> = words.iter().map(|words| (usual.as_str(), &words[..])).collect();
    for (line, (host, words, parts)) in failures(&folder, &tried).iter().zip(cases) {
        for part in parts {
            assert!(line.contains(part), "{host} {words:?}: {line}\nwithout {part}");
        }
    }
}

#[test]
fn contexts_name_the_engine_that_they_name_to_the_docker_client() {
    let folder = Folder::new();
    let tls = TlsEngine::start(&folder);
    let home = folder.path("");
    let docker = |words: &[&str]| tls.engine.client_at(&home, words);
    let [ca, cert, key] = [&tls.authority.file, &tls.client.file, &tls.client.key].map(|path| text(path));
    let made = [
        ("safe", format!("host={TLS_HOST},ca={ca},cert={cert},key={key}")),
        ("unsafe", format!("host={TLS_HOST},skip-tls-verify=true,cert={cert},key={key}")),
        ("untrusted", format!("host={TLS_HOST},cert={cert},key={key}")),
        ("in-clear", format!("host={TLS_HOST}")),
        ("socket", format!("host={}", tls.engine.host)),
        ("nowhere", "host=unix:///nowhere.sock".to_owned()),
    ];
    for (name, endpoint) in &made {
        run(docker(&["context", "create", name, "--docker", endpoint])).exited(0);
    }
    run(docker(&["context", "use", "safe"])).exited(0);

    let socket = ["-H", &tls.engine.host];
    type Words<'a> = &'a [&'a str];
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Words, Variables); 15] = [
        (&[], &[]),
        (&[], &[("DOCKER_CONTEXT", "unsafe")]),
        (&[], &[("DOCKER_CONTEXT", "nowhere")]),
        (&[], &[("DOCKER_CONTEXT", "missing")]),
        (&["--context", "safe"], &[("DOCKER_HOST", "unix:///nowhere.sock"), ("DOCKER_CONTEXT", "nowhere")]),
        (&["--context", "untrusted"], &[]),
        (&["--context", "in-clear"], &[]),
        (&["--context", "in-clear"], &[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/nowhere")]),
        (&["--context", "socket"], &[]),
        (&["--context", "missing"], &[]),
        (&["--context", "default"], &[("DOCKER_HOST", &tls.engine.host)]),
        (&[], &[("DOCKER_HOST", "unix:///nowhere.sock")]),
        (&[], &[("DOCKER_HOST", &tls.engine.host), ("DOCKER_CONTEXT", "nowhere")]),
        (&socket, &[("DOCKER_HOST", "unix:///nowhere.sock"), ("DOCKER_CONTEXT", "nowhere")]),
        (&["--context", "safe", "-H", "unix:///nowhere.sock"], &[]),
    ];
    let tried: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(at, (words, variables))| {
            let db = folder.path(&format!("{at}.db"));
            let with = |mut command: Command| {
                command.envs(variables.iter().copied());
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().expect("it starts")
            };
            let theirs = with(docker(&[words, &["version", "-f", "{{.Server.Version}}"][..]].concat()));
            let record = [&["record", "-q", "--until", "now", "--db", text(&db)][..], words].concat();
            (theirs, with(folder.command(&record)))
        })
        .collect();
    for ((theirs, ours), (words, variables)) in tried.into_iter().zip(cases) {
        let [theirs, ours] = [theirs, ours].map(|child| child.wait_with_output().expect("it ends"));
        let shown = format!("{words:?} {variables:?}:\n{theirs:?}\n{ours:?}");
        assert_eq!(theirs.status.success(), ours.status.success(), "{shown}");
    }
    let id = run(docker(&["--context", "socket", "info", "-f", "{{.ID}}"])).succeeded().lines();
    folder.run(&["record", "-q", "--until", "now"]).succeeded();
    assert_eq!(recorded_id(&folder), id.first().cloned());
}

/// What opens the key of the host `locked`.
const PASSPHRASE: &str = "open sesame";

/// An sshd of our own, that lets in who has our key, and an `ssh` that knows it.
struct Sshd {
    child: Child,
    path: String,
    config: PathBuf,
    port: u16,
}

impl Sshd {
    fn start(folder: &Folder, engine: &Engine) -> Sshd {
        let port = free_port();
        for (key, passphrase) in [("host_key", ""), ("own_key", ""), ("locked_key", PASSPHRASE)] {
            let mut keygen = Command::new("ssh-keygen");
            run({
                keygen.args(["-q", "-t", "ed25519", "-N", passphrase, "-f"]).arg(folder.path(key));
                keygen
            })
            .exited(0);
        }
        let shown = |name: &str| folder.path(name).display().to_string();
        let host_key = fs::read_to_string(folder.path("host_key.pub")).expect("a key");
        fs::write(folder.path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).expect("a file");
        let docker = engine.client_program().parent().expect("it is in a folder");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {} {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication yes\nPermitRootLogin yes\nPidFile none\nMaxStartups 100\n\
             SetEnv DOCKER_HOST={} PATH={}:/usr/bin:/bin\n",
            shown("host_key"),
            shown("own_key.pub"),
            shown("locked_key.pub"),
            engine.host,
            docker.display(),
        );
        fs::write(folder.path("sshd_config"), config).expect("a file");
        fs::create_dir_all("/run/sshd").expect("where it keeps itself apart");
        let log = fs::File::create(folder.path("sshd.log")).expect("a file");
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(folder.path("sshd_config")).stdin(Stdio::null()).stderr(log);
        let child = sshd.spawn().expect("sshd starts");
        eventually("sshd listens", || TcpStream::connect(("127.0.0.1", port)).map(drop));
        let config = folder.path("ssh_config");
        fs::write(
            &config,
            format!(
                "Host unknown asks\nUserKnownHostsFile /dev/null\nHost asks\nStrictHostKeyChecking ask\n\
                 Host behind\nProxyJump alias\nHost beyond\nProxyJump locked\nHost locked\nIdentityFile {}\nHost * !locked\nIdentityFile {}\n\
                 Host *\nIdentitiesOnly yes\nUserKnownHostsFile {}\nStrictHostKeyChecking yes\n\
                 Host alias unknown asks behind beyond locked\nHostName 127.0.0.1\nPort {port}\nUser root\n",
                shown("locked_key"),
                shown("own_key"),
                shown("known_hosts")
            ),
        )
        .expect("a file");
        // ssh looks for its configuration in the home that the system has for the user.
        let path = path_with_ssh(folder, "bin", &format!("exec /usr/bin/ssh -F {} \"$@\"", config.display()));
        Sshd { child, path, config, port }
    }

    /// How many ssh processes of ours there are, those that were not waited for among them.
    fn processes(&self, parent: u32) -> usize {
        let ours = |pid: &u32| {
            let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let status = status(*pid);
            is_child(&status, parent) || (cmdline.contains(text(&self.config)) && status.starts_with("Name:\tssh\n"))
        };
        pids().filter(ours).count()
    }

    /// Stops what serves the connections that are open; one that ends just now is none.
    fn stops_connections(&self) {
        children(self.child.id()).into_iter().for_each(|session| _ = signal(session, "STOP"));
    }

    /// Stops all of it.
    fn stops(&self) {
        assert!(signal(self.child.id(), "STOP"));
        self.stops_connections();
    }

    /// Serves new connections again.
    fn goes_on(&self) {
        assert!(signal(self.child.id(), "CONT"));
    }

    /// What it has said so far.
    fn log(&self) -> String {
        fs::read_to_string(self.config.with_file_name("sshd.log")).expect("its log")
    }
}

/// The processes there are.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// When a process was started, in ticks since the machine was.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_the_name) = stat.rsplit_once(')')?;
    behind_the_name.split_whitespace().nth(19)?.parse().ok()
}

fn is_child(status: &str, parent: u32) -> bool {
    status.lines().any(|line| line == format!("PPid:\t{parent}"))
}

/// The processes that this one has started, those that it has not waited for among them.
fn children(parent: u32) -> Vec<u32> {
    pids().filter(|pid| is_child(&status(*pid), parent)).collect()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // What is stopped would stay.
        children(self.child.id()).into_iter().for_each(|session| _ = signal(session, "KILL"));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_engine_is_recorded_through_a_real_sshd() {
    let (folder, engine) = (Folder::new(), Engine::start("newest"));
    let sshd = Sshd::start(&folder, &engine);
    let host = format!("ssh://root@127.0.0.1:{}", sshd.port);
    let asked = run(with_path(engine.client_of(&host, &["info", "-f", "{{.ID}}"]), &sshd.path)).succeeded();

    for host in [&host, "ssh://alias", &format!("ssh://alias{}", engine.host.trim_start_matches("unix://"))] {
        let db = folder.path(&format!("{}.db", host.len()));
        let once = ["record", "-q", "--until", "now", "-H", host, "--db", text(&db)];
        run(with_path(folder.command(&once), &sshd.path)).succeeded();
        let ours = folder.lines(&["query", "-q", "--db", text(&db)]);
        same_lines(&engine.memory(), &ours).unwrap_or_else(|e| panic!("{host}: {e}"));
    }

    let recorder = folder.record_in(&sshd.path, &host, &["--look-again", "300ms"]);
    assert_eq!(recorded_id(&folder), asked.lines().first().cloned());
    engine.docker(&["run", "--rm", "--network", "none", "busybox", "true"]);
    records_the_memory(&folder, &engine);
    // The stream, and what is being asked beside it; what was asked before is gone.
    for _ in 0..3 {
        engine.docker(&["run", "--rm", "--network", "none", "busybox", "true"]);
        records_the_memory(&folder, &engine);
        // Containers that came are asked for, too, a few at a time.
        folder.eventually("only what is being asked runs", || match sshd.processes(recorder.pid()) {
            1..=4 => Ok(()),
            running => Err(running),
        });
    }
    // An engine that is stopped and started again, and a connection that is cut.
    engine.stop();
    engine.start_again(&[]);
    engine.docker(&["network", "create", "team"]);
    folder.eventually_lines(&["query", "-q", "--network", "team", "--count"], &["1".to_owned()]);
    recorder.stop();
    assert_eq!(sshd.processes(u32::MAX), 0);

    let recorder = folder.record_in(&sshd.path, &host, &[]);
    assert_ne!(sshd.processes(recorder.pid()), 0);
    recorder.kill();
    folder.eventually("nothing is left behind", || match sshd.processes(u32::MAX) {
        0 => Ok(()),
        running => Err(running),
    });
    what_goes_wrong_is_one_clear_line(&folder, &sshd);
}

fn what_goes_wrong_is_one_clear_line(folder: &Folder, sshd: &Sshd) {
    let at = format!("127.0.0.1:{}", sshd.port);
    let hosts = [
        (
            format!("ssh://root@127.0.0.1:{}", free_port()),
            "ssh: connect to host 127.0.0.1 port ",
            "Connection refused (hint: ",
        ),
        (format!("ssh://root@{at}/nowhere.sock"), "", "/nowhere.sock"),
        (format!("ssh://stranger@{at}"), "stranger@127.0.0.1: Permission denied (", ""),
        ("ssh://unknown".into(), "Host key verification failed. (hint: ", ""),
    ];
    let words: Vec<[&str; 2]> = hosts.iter().map(|(host, ..)| ["-H", host]).collect();
    let tried: Vec<(&str, &[&str])> = words.iter().map(|words| (sshd.path.as_str(), &words[..])).collect();
    for (line, (host, begins, has)) in failures(folder, &tried).iter().zip(&hosts) {
        let begins = format!("events: cannot connect to {host}: {begins}");
        assert!(line.starts_with(&begins) && line.contains(has), "{line}\ninstead of {begins}…{has}");
    }
    let log = sshd.log();
    assert!(log.contains("stranger") && !log.contains("Failed password"), "a password was tried: {log}");
}

#[test]
fn what_is_gone_without_a_word_is_found_through_ssh() {
    let engine = Engine::start("newest");
    // A machine, and one whose engine is never looked at again.
    let (folder, unlooked) = (Folder::new(), Folder::new());
    let (machine, other) = (Sshd::start(&folder, &engine), Sshd::start(&unlooked, &engine));
    let recorder = folder.record_in(&machine.path, "ssh://alias", &["--look-again", "300ms"]);
    let patient = unlooked.record_in(&other.path, "ssh://alias", &["--look-again", "0"]);
    misses_nothing(&folder, &engine);
    misses_nothing(&unlooked, &engine);

    // The stream's own ssh is stopped. It is not asked for long.
    let all = children(recorder.pid()).into_iter();
    let (_, ssh) = all.filter_map(|pid| Some((started(pid)?, pid))).min().expect("the stream's is the oldest");
    assert!(signal(ssh, "STOP"));
    engine.docker(&["network", "create", "unheard"]);
    misses_nothing(&folder, &engine);
    folder.eventually("it is gone", || if pids().any(|pid| pid == ssh) { Err(status(ssh)) } else { Ok(()) });

    // The one machine stops, and the connections of the other.
    misses_nothing(&unlooked, &engine);
    other.stops_connections();
    machine.stops();
    engine.docker(&["network", "create", "unseen"]);
    let seen = |folder: &Folder| folder.lines(&["query", "-q", "--network", "unseen", "--count"]) == ["1"];
    let last = Duration::from_secs(60);
    std::thread::scope(|side| {
        let found = side.spawn(|| within(last, || seen(&unlooked)));
        is_away(&folder, &recorder);
        assert!(!seen(&folder));
        // Those that were given up are gone.
        folder.eventually("no ssh is left behind", || {
            match (machine.processes(recorder.pid()), children(recorder.pid())) {
                (all, own) if all <= own.len() => Ok(()),
                left => Err(left),
            }
        });
        machine.goes_on();
        misses_nothing(&folder, &engine);
        recorder.stop();
        folder.eventually("nothing is left", || match machine.processes(u32::MAX) {
            0 => Ok(()),
            left => Err(left),
        });
        assert!(found.join().expect("it looks"), "within {last:?}: {}", patient.log());
    });
    misses_nothing(&unlooked, &engine);
    unlooked.eventually("nothing but the stream is open", || match other.processes(patient.pid()) {
        1 => Ok(()),
        running => Err(running),
    });
    patient.stop();
}

#[test]
fn ssh_asks_nobody_unless_that_is_wanted() {
    let (folder, engine) = (Folder::new(), Engine::start("newest"));
    let sshd = Sshd::start(&folder, &engine);
    // As a desktop has it; here it would answer right.
    let (asked, asks) = (folder.path("asked"), folder.path("asks"));
    fs::write(&asks, format!("#!/bin/sh\necho \"$1\" >> {}\necho {PASSPHRASE}\n", asked.display())).expect("a file");
    fs::set_permissions(&asks, fs::Permissions::from_mode(0o755)).expect("its mode");
    let once = |host: &str| {
        let db = folder.path(&format!("{host}.db"));
        let host = format!("ssh://{host}");
        let mut command =
            with_path(folder.command(&["record", "-q", "--until", "now", "-H", &host, "--db", text(&db)]), &sshd.path);
        command.env("SSH_ASKPASS", &asks).env("DISPLAY", ":0");
        command
    };
    let tried = ["locked", "asks"].map(|host| folder.start_command(once(host)));
    let said = tried.map(|tried| tried.ended().exited(1).stderr);
    for (said, why) in said.iter().zip(["root@127.0.0.1: Permission denied (", "Host key verification failed. ("]) {
        assert!(said.lines().last().is_some_and(|line| line.contains(why)), "{said}\nwithout {why}");
    }
    let log = sshd.log();
    assert!(!log.contains("Failed password"), "a password was tried: {log}");
    // And not by the ssh to a machine between.
    let said = folder.start_command(once("beyond")).ended().exited(1).stderr;
    assert!(said.contains("cannot connect to ssh://beyond: root@127.0.0.1: Permission denied ("), "{said}");
    assert!(!asked.exists(), "{:?}", fs::read_to_string(&asked));

    let mut wanted = once("locked");
    wanted.env("SSH_ASKPASS_REQUIRE", "force");
    run(wanted).succeeded();
    assert!(fs::read_to_string(&asked).is_ok_and(|asked| asked.contains("passphrase")));
}

#[test]
fn ssh_is_called_as_the_docker_client_calls_it_behind_words_of_our_own() {
    let folder = Folder::new();
    let called = folder.path("called");
    let path = path_with_ssh(
        &folder,
        "noting",
        &format!("{{ for word in \"$@\"; do echo \"$word\"; done; echo; }} >> {}; exit 255", called.display()),
    );
    for host in
        ["ssh://box", "ssh://me@box:2222", "ssh://me@[::1]:22/", "ssh://me%40corp@box/run/x.sock", "ssh://box/a%20b"]
    {
        let by = |command: Command| {
            let _ = fs::remove_file(&called);
            run(with_path(command, &path)).exited(1);
            let calls = fs::read_to_string(&called).expect("ssh was called");
            calls.split("\n\n").next().expect("one call").to_owned()
        };
        let theirs = by(docker::client_for("newest", host, &["version", "-f", "{{.Server.Version}}"]));
        let ours = "-oConnectTimeout=8\n-oServerAliveInterval=15\n-oServerAliveCountMax=2\n-oBatchMode=yes\n";
        let said = by(folder.command(&["record", "-q", "--until", "now", "-H", host]));
        assert_eq!(said, format!("{ours}{theirs}"), "{host}");
    }
}

/// Waits until all that the engine remembers is recorded.
fn records_the_memory(folder: &Folder, engine: &Engine) {
    folder.eventually("what the engine remembers is recorded", || {
        let ours = folder.lines(&["query", "-q"]);
        let theirs = engine.memory();
        let missing = theirs.iter().filter(|line| !ours.contains(line)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    });
}

/// Podman as an engine, with storage of its own.
struct Podman {
    service: Child,
    words: Vec<String>,
    host: String,
}

impl Podman {
    fn start(folder: &Folder) -> Podman {
        let path = |name: &str| folder.path(name).display().to_string();
        let host = format!("unix://{}", path("podman.sock"));
        let mut words: Vec<String> = vec!["--root".into(), path("storage"), "--runroot".into(), path("run")];
        words.extend(["--tmpdir".into(), path("tmp"), "--network-config-dir".into(), path("networks")]);
        words.extend(["--storage-driver=vfs", "--events-backend=file", "--cgroup-manager=cgroupfs"].map(str::to_owned));
        words.extend(["system", "service", "--time=0", &host].map(str::to_owned));
        Podman { service: Podman::serve(&words, &host), words, host }
    }

    fn serve(words: &[String], host: &str) -> Child {
        let service = Command::new("podman").args(words).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let socket = host.trim_start_matches("unix://");
        eventually("Podman listens", || std::os::unix::net::UnixStream::connect(socket).map(drop));
        service.expect("podman starts")
    }

    fn start_again(&mut self) {
        self.end();
        self.service = Podman::serve(&self.words, &self.host);
    }

    fn end(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
        let _ = fs::remove_file(self.host.trim_start_matches("unix://"));
    }

    fn podman(&self, words: &[&str]) -> String {
        let mut podman = Command::new("podman");
        podman.args(["--remote", "--url", &self.host]).args(words).stdin(Stdio::null());
        run(podman).exited(0).lines().join("\n")
    }

    /// All that its log holds, in its own bytes.
    fn log(&self) -> Vec<String> {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--noproxy", "*", "--max-time", "30", "--unix-socket"]);
        curl.args([self.host.trim_start_matches("unix://"), "http://d/events?since=0&stream=false"]);
        run(curl).succeeded().lines()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn podman_is_recorded_as_an_engine() {
    let folder = Folder::new();
    let mut podman = Podman::start(&folder);
    let tree = folder.path("tree");
    fs::create_dir_all(tree.join("bin")).expect("a folder");
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("busybox-static");
    let image = folder.path("image.tar");
    run({
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&tree).arg("-cf").arg(&image).arg(".");
        tar
    })
    .succeeded();
    podman.podman(&["import", text(&image), "busybox:latest"]);
    podman.podman(&["volume", "create", "before"]);

    let same = |podman: &Podman, words: &[&str]| {
        folder.eventually("what Podman tells is recorded", || {
            let lines = folder.run(&[&["query", "-q"][..], words].concat()).lines();
            same_lines(&podman.log(), &lines)
        });
    };
    // Its whole log is its memory.
    folder.run(&["record", "-q", "--until", "now", "-H", &podman.host]).succeeded();
    same(&podman, &[]);

    let recorder = folder.record(&podman.host, &["--look-again", "300ms"]);
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--network", "none"];
    let label = ["--label", "markup=<a href=\"x\">&amp;</a> ü"];
    let words = [&["run", "-d", "--name", "web"][..], &limits, &label, &["busybox", "/bin/busybox", "sleep", "1000"]];
    podman.podman(&words.concat());
    podman.podman(&["exec", "web", "/bin/busybox", "true"]);
    podman.podman(&["kill", "web"]);
    podman.podman(&["volume", "create", "during"]);
    same(&podman, &[]);
    // It remembers all of it, so that nothing is missed of what happened meanwhile.
    podman.start_again();
    podman.podman(&["volume", "create", "behind"]);
    podman.podman(&["rm", "-f", "web"]);
    same(&podman, &[]);
    recorder.stop();

    let gaps: Vec<Value> = folder.json(&["gaps"]);
    assert_eq!(gaps.iter().map(|gap| &gap["reason"]).collect::<Vec<_>>(), ["first-contact"]);
    let status: Value = serde_json::from_slice(&folder.run(&["status", "--json"]).stdout).expect("JSON");
    let sources = status["sources"].as_array().expect("a list");
    assert_eq!((sources.len(), &sources[0]["rejected"]), (1, &Value::from(0)), "{status}");
    // What is different, as the README has it.
    let count = |words: &[&str]| folder.lines(&[&["query", "-q", "--count"][..], words].concat())[0].clone();
    for (words, expected) in [
        (&["--action", "remove", "--type", "container"][..], "1"),
        (&["--action", "destroy"], "0"),
        (&["--action", "exec"], "1"),
        (&["--volume", "during"], "1"),
        (&["--action", "exec_die"], "0"),
        (&["--action", "exec_died"], "1"),
    ] {
        assert_eq!(count(words), expected, "{words:?}");
    }
    folder.run(&["verify", "-q"]).exited(0);
}
