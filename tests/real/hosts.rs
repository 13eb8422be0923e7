//! Every kind of host that the docker client can reach (TLS, ssh, contexts), and Podman's socket.

use crate::support::hosts::{path_with_ssh, record_errors, text, with_path};
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::certificates::{Certificate, CertificateAuthority};
use crate::support::command::{Running, TestDir, eventually, free_port, run, signal, within};
use crate::support::docker::{Engine, compare_lines};
use crate::support::tcp_proxy::TcpProxy;
use serde_json::Value;

/// An engine behind TLS, set up as Docker's documentation describes; this thread is in its network namespace.
struct TlsEngine {
    engine: Engine,
    authority: CertificateAuthority,
    client: Certificate,
    untrusted: Certificate,
    listen_args: Vec<String>,
    network_guard: Option<crate::support::docker::NetworkGuard>,
}

const TLS_HOST: &str = "tcp://127.0.0.1:2376";

impl TlsEngine {
    fn start(test_dir: &TestDir) -> TlsEngine {
        let dir = test_dir.path("certificates");
        fs::create_dir(&dir).expect("the directory is created");
        let authority = CertificateAuthority::new(&dir, "ca");
        let server = authority.issue(&dir, "server", &["127.0.0.1"], 30);
        let client = authority.issue(&dir, "client", &["client"], 30);
        let untrusted = CertificateAuthority::new(&dir, "other").issue(&dir, "stranger", &["client"], 30);
        let [ca, cert, key] = [&authority.file, &server.file, &server.key].map(|path| text(path).to_owned());
        let args =
            ["-H", "tcp://0.0.0.0:2376", "--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
        let listen_args = args.map(str::to_owned).to_vec();
        let engine = Engine::start_with("newest", &args);
        let network_guard = Some(engine.enter_network());
        TlsEngine { engine, authority, client, untrusted, listen_args, network_guard }
    }

    /// Starts the stopped engine again. It then has another network namespace.
    fn start_again(&mut self) {
        self.network_guard = None;
        let args: Vec<&str> = self.listen_args.iter().map(String::as_str).collect();
        self.engine.start_again(&args);
        self.network_guard = Some(self.engine.enter_network());
    }

    /// Flags for a client with a valid certificate.
    fn client_flags(&self) -> [&str; 7] {
        let [ca, cert, key] = [&self.authority.file, &self.client.file, &self.client.key].map(|path| text(path));
        ["--tlsverify", "--tlscacert", ca, "--tlscert", cert, "--tlskey", key]
    }
}

/// ID of the first recorded engine.
fn recorded_id(test_dir: &TestDir) -> Option<String> {
    let status: Value = serde_json::from_slice(&test_dir.run(&["status", "--json"]).stdout).ok()?;
    Some(status["sources"].as_array()?.first()?["engine_id"].as_str()?.to_owned())
}

#[test]
fn a_real_engine_behind_tls_is_recorded() {
    let test_dir = TestDir::new();
    let mut tls = TlsEngine::start(&test_dir);
    let info =
        run(tls.engine.client_for_host(TLS_HOST, &[&tls.client_flags()[..], &["info", "-f", "{{.ID}}"]].concat()));
    let recorder = test_dir.record(TLS_HOST, &[&tls.client_flags()[..], &["--look-again", "300ms"]].concat());
    assert_eq!(recorded_id(&test_dir), info.assert_success().lines().first().cloned());
    tls.engine.docker(&["run", "--rm", "--network", "none", "busybox", "true"]);
    tls.engine.docker(&["network", "create", "team"]);
    wait_until_backlog_is_recorded(&test_dir, &tls.engine);
    tls.engine.container(&["--name", "web", "--network", "none"]);
    wait_until_backlog_is_recorded(&test_dir, &tls.engine);
    tls.engine.stop();
    wait_until_disconnected(&test_dir, &recorder);
    recorder.stop();
    tls.start_again();
    let recorder = test_dir.record(TLS_HOST, &tls.client_flags());
    tls.engine.docker(&["start", "web"]);
    let start = ["query", "-q", "--action", "start", "--container", "web", "--count"];
    test_dir.eventually_lines(&start, &["2".to_owned()]);
    recorder.stop();
    // The gap report sends its requests over TLS too.
    tls.engine.docker(&["kill", "web"]);
    tls.engine.stop();
    tls.start_again();
    let recorder = test_dir.record(TLS_HOST, &tls.client_flags());
    test_dir.eventually("the gap describes what happened to the container", || {
        let gaps = test_dir.lines(&["gaps"]);
        if gaps.iter().any(|gap| gap.contains("in the gap: web (")) { Ok(()) } else { Err(gaps) }
    });
    recorder.stop();
}

/// Waits until the recorder has logged that the engine is unavailable, and reports it as not connected.
fn wait_until_disconnected(test_dir: &TestDir, recorder: &Running) {
    test_dir.eventually("the log reports the engine as unavailable", || {
        let log = recorder.log();
        if log.contains("the recorder retries until it succeeds") { Ok(()) } else { Err(log) }
    });
    test_dir.eventually("the gap is open", || {
        let gaps = test_dir.json(&["gaps"]);
        let open = gaps.last().is_some_and(|gap| gap["reason"] == "disconnected" && gap["to"].is_null());
        let status: Value = serde_json::from_slice(&test_dir.run(&["status", "--json"]).stdout).expect("JSON");
        if open && status["sources"][0]["connected"] == false { Ok(()) } else { Err((gaps, status)) }
    });
}

/// Waits until the backlog is recorded, each event once, with no gap but the first.
fn wait_until_recorded_without_gap(test_dir: &TestDir, engine: &Engine) {
    test_dir.eventually("nothing was missed", || {
        compare_lines(&engine.backlog(), &test_dir.lines(&["query", "-q"]))?;
        let gaps = test_dir.json(&["gaps"]);
        if gaps.len() == 1 && gaps[0]["reason"] == "first-contact" { Ok(()) } else { Err(format!("{gaps:?}")) }
    });
}

#[test]
fn a_silently_dead_connection_to_a_tls_engine_is_detected() {
    let test_dir = TestDir::new();
    let tls = TlsEngine::start(&test_dir);
    let proxy = TcpProxy::start(|| TcpStream::connect("127.0.0.1:2376"));
    let recorder = test_dir.record(&proxy.host(), &[&tls.client_flags()[..], &["--look-again", "300ms"]].concat());
    wait_until_recorded_without_gap(&test_dir, &tls.engine);
    proxy.blackhole();
    tls.engine.docker(&["network", "create", "unseen"]);
    wait_until_disconnected(&test_dir, &recorder);
    assert_eq!(test_dir.lines(&["query", "-q", "--network", "unseen", "--count"]), ["0"]);
    proxy.restore();
    wait_until_recorded_without_gap(&test_dir, &tls.engine);
    // Events after that arrive on a new stream.
    tls.engine.docker(&["network", "rm", "unseen"]);
    wait_until_recorded_without_gap(&test_dir, &tls.engine);
    recorder.stop();
}

#[test]
fn each_failed_tls_connection_prints_one_clear_line() {
    let test_dir = TestDir::new();
    let tls = TlsEngine::start(&test_dir);
    let ca = text(&tls.authority.file);
    let client_hint = "(hint: pass --tlscert FILE and --tlskey FILE, or set DOCKER_CERT_PATH)";
    let other_address = "tcp://127.0.0.2:2376";
    let untrusted = [
        "--tlsverify",
        "--tlscacert",
        ca,
        "--tlscert",
        text(&tls.untrusted.file),
        "--tlskey",
        text(&tls.untrusted.key),
    ];
    let cases: [(&str, &[&str], &[&str]); 5] = [
        (TLS_HOST, &["--tlsverify", "--tlscacert", ca], &["certificate", client_hint]),
        (TLS_HOST, &untrusted, &["the server rejects the client certificate, or requires one", client_hint]),
        (other_address, &tls.client_flags(), &["the server certificate is for 127.0.0.1, not for 127.0.0.2 (hint: "]),
        (
            TLS_HOST,
            &[],
            &["Client sent an HTTP request to an HTTPS server", "(hint: the engine uses TLS: pass --tlsverify with"],
        ),
        (
            "tcp://127.0.0.1:2375",
            &["--tls"],
            &["cannot connect to tcp://127.0.0.1:2375: Connection refused (hint: check that a Docker Engine is"],
        ),
    ];
    let path_var = std::env::var("PATH").unwrap_or_default();
    let args: Vec<Vec<&str>> = cases.iter().map(|(host, args, _)| [&["-H", *host][..], args].concat()).collect();
    let attempts: Vec<(&str, &[&str])> = args.iter().map(|args| (path_var.as_str(), &args[..])).collect();
    for (line, (host, args, parts)) in record_errors(&test_dir, &attempts).iter().zip(cases) {
        for part in parts {
            assert!(line.contains(part), "{host} {args:?}: {line}\nwithout {part}");
        }
    }
}

#[test]
fn contexts_select_the_same_engine_as_for_the_docker_client() {
    let test_dir = TestDir::new();
    let tls = TlsEngine::start(&test_dir);
    let home = test_dir.path("");
    let docker = |args: &[&str]| tls.engine.client_with_home(&home, args);
    let [ca, cert, key] = [&tls.authority.file, &tls.client.file, &tls.client.key].map(|path| text(path));
    let contexts = [
        ("safe", format!("host={TLS_HOST},ca={ca},cert={cert},key={key}")),
        ("unsafe", format!("host={TLS_HOST},skip-tls-verify=true,cert={cert},key={key}")),
        ("untrusted", format!("host={TLS_HOST},cert={cert},key={key}")),
        ("in-clear", format!("host={TLS_HOST}")),
        ("socket", format!("host={}", tls.engine.host)),
        ("nowhere", "host=unix:///nowhere.sock".to_owned()),
    ];
    for (name, endpoint) in &contexts {
        run(docker(&["context", "create", name, "--docker", endpoint])).assert_exit_code(0);
    }
    run(docker(&["context", "use", "safe"])).assert_exit_code(0);

    let socket = ["-H", &tls.engine.host];
    type Args<'a> = &'a [&'a str];
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Args<'_>, Variables<'_>); 15] = [
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
    let attempts: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(index, (args, variables))| {
            let db = test_dir.path(&format!("{index}.db"));
            let spawn = |mut command: Command| {
                command.envs(variables.iter().copied());
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().expect("the command starts")
            };
            let theirs = spawn(docker(&[args, &["version", "-f", "{{.Server.Version}}"][..]].concat()));
            let record = [&["record", "-q", "--until", "now", "--db", text(&db)][..], args].concat();
            (theirs, spawn(test_dir.command(&record)))
        })
        .collect();
    for ((theirs, ours), (args, variables)) in attempts.into_iter().zip(cases) {
        let [theirs, ours] = [theirs, ours].map(|child| child.wait_with_output().expect("the command exits"));
        let report = format!("{args:?} {variables:?}:\n{theirs:?}\n{ours:?}");
        assert_eq!(theirs.status.success(), ours.status.success(), "{report}");
    }
    let id = run(docker(&["--context", "socket", "info", "-f", "{{.ID}}"])).assert_success().lines();
    test_dir.run(&["record", "-q", "--until", "now"]).assert_success();
    assert_eq!(recorded_id(&test_dir), id.first().cloned());
}

/// Passphrase of the key for the host `locked`.
const PASSPHRASE: &str = "open sesame";

/// A private sshd that accepts the test's keys, and an `ssh` that is configured for it.
struct Sshd {
    child: Child,
    path: String,
    config: PathBuf,
    port: u16,
}

impl Sshd {
    fn start(test_dir: &TestDir, engine: &Engine) -> Sshd {
        let port = free_port();
        for (key, passphrase) in [("host_key", ""), ("own_key", ""), ("locked_key", PASSPHRASE)] {
            let mut keygen = Command::new("ssh-keygen");
            run({
                keygen.args(["-q", "-t", "ed25519", "-N", passphrase, "-f"]).arg(test_dir.path(key));
                keygen
            })
            .assert_exit_code(0);
        }
        let path_text = |name: &str| test_dir.path(name).display().to_string();
        let host_key = fs::read_to_string(test_dir.path("host_key.pub")).expect("a key");
        fs::write(test_dir.path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).expect("a file");
        let docker = engine.client_path().parent().expect("the client is in a directory");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {} {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication yes\nPermitRootLogin yes\nPidFile none\nMaxStartups 100\n\
             SetEnv DOCKER_HOST={} PATH={}:/usr/bin:/bin\n",
            path_text("host_key"),
            path_text("own_key.pub"),
            path_text("locked_key.pub"),
            engine.host,
            docker.display(),
        );
        fs::write(test_dir.path("sshd_config"), config).expect("a file");
        fs::create_dir_all("/run/sshd").expect("sshd's directory for privilege separation is created");
        let log = fs::File::create(test_dir.path("sshd.log")).expect("a file");
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(test_dir.path("sshd_config")).stdin(Stdio::null()).stderr(log);
        let child = sshd.spawn().expect("sshd starts");
        eventually("sshd listens", || TcpStream::connect(("127.0.0.1", port)).map(drop));
        let config = test_dir.path("ssh_config");
        fs::write(
            &config,
            format!(
                "Host unknown prompts\nUserKnownHostsFile /dev/null\nHost prompts\nStrictHostKeyChecking ask\n\
                 Host behind\nProxyJump alias\nHost beyond\nProxyJump locked\nHost locked\nIdentityFile {}\nHost * !locked\nIdentityFile {}\n\
                 Host *\nIdentitiesOnly yes\nUserKnownHostsFile {}\nStrictHostKeyChecking yes\n\
                 Host alias unknown prompts behind beyond locked\nHostName 127.0.0.1\nPort {port}\nUser root\n",
                path_text("locked_key"),
                path_text("own_key"),
                path_text("known_hosts")
            ),
        )
        .expect("a file");
        // ssh looks for its configuration in the home directory from the password database, not in HOME.
        let path = path_with_ssh(test_dir, "bin", &format!("exec /usr/bin/ssh -F {} \"$@\"", config.display()));
        Sshd { child, path, config, port }
    }

    /// Number of our ssh processes, including zombies.
    fn process_count(&self, parent: u32) -> usize {
        let is_ours = |pid: &u32| {
            let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let status = status(*pid);
            is_child(&status, parent) || (cmdline.contains(text(&self.config)) && status.starts_with("Name:\tssh\n"))
        };
        pids().filter(is_ours).count()
    }

    /// Stops the processes that serve open connections. Ignores one that exits at that moment.
    fn suspend_connections(&self) {
        children(self.child.id()).into_iter().for_each(|session| _ = signal(session, "STOP"));
    }

    /// Stops the server and its connections.
    fn suspend(&self) {
        assert!(signal(self.child.id(), "STOP"));
        self.suspend_connections();
    }

    /// Resumes the server, which then accepts new connections; open ones stay stopped.
    fn resume(&self) {
        assert!(signal(self.child.id(), "CONT"));
    }

    /// Log of sshd so far.
    fn log(&self) -> String {
        fs::read_to_string(self.config.with_file_name("sshd.log")).expect("the log is read")
    }
}

/// IDs of all processes.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// Start time of a process, in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

fn is_child(status: &str, parent: u32) -> bool {
    status.lines().any(|line| line == format!("PPid:\t{parent}"))
}

/// Child processes of a process, including zombies.
fn children(parent: u32) -> Vec<u32> {
    pids().filter(|pid| is_child(&status(*pid), parent)).collect()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // A stopped process does not exit by itself.
        children(self.child.id()).into_iter().for_each(|session| _ = signal(session, "KILL"));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_engine_is_recorded_through_a_real_sshd() {
    let (test_dir, engine) = (TestDir::new(), Engine::start("newest"));
    let sshd = Sshd::start(&test_dir, &engine);
    let host = format!("ssh://root@127.0.0.1:{}", sshd.port);
    let info = run(with_path(engine.client_for_host(&host, &["info", "-f", "{{.ID}}"]), &sshd.path)).assert_success();

    for host in [&host, "ssh://alias", &format!("ssh://alias{}", engine.host.trim_start_matches("unix://"))] {
        let db = test_dir.path(&format!("{}.db", host.len()));
        let record_once = ["record", "-q", "--until", "now", "-H", host, "--db", text(&db)];
        run(with_path(test_dir.command(&record_once), &sshd.path)).assert_success();
        let ours = test_dir.lines(&["query", "-q", "--db", text(&db)]);
        compare_lines(&engine.backlog(), &ours).unwrap_or_else(|e| panic!("{host}: {e}"));
    }

    let recorder = test_dir.record_with_path(&sshd.path, &host, &["--look-again", "300ms"]);
    assert_eq!(recorded_id(&test_dir), info.lines().first().cloned());
    engine.docker(&["run", "--rm", "--network", "none", "busybox", "true"]);
    wait_until_backlog_is_recorded(&test_dir, &engine);
    // The ssh of the stream and those of current requests run; those of earlier requests have exited.
    for _ in 0..3 {
        engine.docker(&["run", "--rm", "--network", "none", "busybox", "true"]);
        wait_until_backlog_is_recorded(&test_dir, &engine);
        // The recorder also inspects new containers, a few at a time.
        test_dir.eventually("only the ssh processes of current requests run", || {
            match sshd.process_count(recorder.pid()) {
                1..=4 => Ok(()),
                running => Err(running),
            }
        });
    }
    // The engine is stopped and started again, which cuts the connection.
    engine.stop();
    engine.start_again(&[]);
    engine.docker(&["network", "create", "team"]);
    test_dir.eventually_lines(&["query", "-q", "--network", "team", "--count"], &["1".to_owned()]);
    recorder.stop();
    assert_eq!(sshd.process_count(u32::MAX), 0);

    let recorder = test_dir.record_with_path(&sshd.path, &host, &[]);
    assert_ne!(sshd.process_count(recorder.pid()), 0);
    recorder.kill();
    test_dir.eventually("no ssh process is left", || match sshd.process_count(u32::MAX) {
        0 => Ok(()),
        running => Err(running),
    });
    check_error_lines(&test_dir, &sshd);
}

fn check_error_lines(test_dir: &TestDir, sshd: &Sshd) {
    let address = format!("127.0.0.1:{}", sshd.port);
    let hosts = [
        (
            format!("ssh://root@127.0.0.1:{}", free_port()),
            "ssh: connect to host 127.0.0.1 port ",
            "Connection refused (hint: ",
        ),
        (format!("ssh://root@{address}/nowhere.sock"), "", "/nowhere.sock"),
        (format!("ssh://stranger@{address}"), "stranger@127.0.0.1: Permission denied (", ""),
        ("ssh://unknown".into(), "Host key verification failed. (hint: ", ""),
    ];
    let args: Vec<[&str; 2]> = hosts.iter().map(|(host, ..)| ["-H", host]).collect();
    let attempts: Vec<(&str, &[&str])> = args.iter().map(|args| (sshd.path.as_str(), &args[..])).collect();
    for (line, (host, prefix, part)) in record_errors(test_dir, &attempts).iter().zip(&hosts) {
        let prefix = format!("events: cannot connect to {host}: {prefix}");
        assert!(line.starts_with(&prefix) && line.contains(part), "{line}\ninstead of {prefix}…{part}");
    }
    let log = sshd.log();
    assert!(log.contains("stranger") && !log.contains("Failed password"), "a password was tried: {log}");
}

#[test]
fn a_silently_dead_connection_through_ssh_is_detected() {
    let engine = Engine::start("newest");
    // Two machines; the second recorder makes no backlog checks.
    let (test_dir, without_checks) = (TestDir::new(), TestDir::new());
    let (sshd, other_sshd) = (Sshd::start(&test_dir, &engine), Sshd::start(&without_checks, &engine));
    let recorder = test_dir.record_with_path(&sshd.path, "ssh://alias", &["--look-again", "300ms"]);
    let other_recorder = without_checks.record_with_path(&other_sshd.path, "ssh://alias", &["--look-again", "0"]);
    wait_until_recorded_without_gap(&test_dir, &engine);
    wait_until_recorded_without_gap(&without_checks, &engine);

    // The ssh of the stream is stopped. The recorder detects this soon.
    let processes = children(recorder.pid()).into_iter();
    let (_, ssh) =
        processes.filter_map(|pid| Some((start_time(pid)?, pid))).min().expect("the ssh of the stream is the oldest");
    assert!(signal(ssh, "STOP"));
    engine.docker(&["network", "create", "unheard"]);
    wait_until_recorded_without_gap(&test_dir, &engine);
    test_dir
        .eventually("the stopped ssh exits", || if pids().any(|pid| pid == ssh) { Err(status(ssh)) } else { Ok(()) });

    // One machine stops completely; on the other, only the connections stop.
    wait_until_recorded_without_gap(&without_checks, &engine);
    other_sshd.suspend_connections();
    sshd.suspend();
    engine.docker(&["network", "create", "unseen"]);
    let is_recorded = |test_dir: &TestDir| test_dir.lines(&["query", "-q", "--network", "unseen", "--count"]) == ["1"];
    let limit = Duration::from_secs(60);
    std::thread::scope(|scope| {
        let found = scope.spawn(|| within(limit, || is_recorded(&without_checks)));
        wait_until_disconnected(&test_dir, &recorder);
        assert!(!is_recorded(&test_dir));
        // The recorder has ended the ssh processes of abandoned connections.
        test_dir.eventually("no abandoned ssh is left", || {
            match (sshd.process_count(recorder.pid()), children(recorder.pid())) {
                (processes, children_now) if processes <= children_now.len() => Ok(()),
                running => Err(running),
            }
        });
        sshd.resume();
        wait_until_recorded_without_gap(&test_dir, &engine);
        recorder.stop();
        test_dir.eventually("no ssh process is left", || match sshd.process_count(u32::MAX) {
            0 => Ok(()),
            running => Err(running),
        });
        assert!(found.join().expect("the thread does not panic"), "within {limit:?}: {}", other_recorder.log());
    });
    wait_until_recorded_without_gap(&without_checks, &engine);
    without_checks.eventually("only the ssh of the stream runs", || {
        match other_sshd.process_count(other_recorder.pid()) {
            1 => Ok(()),
            running => Err(running),
        }
    });
    other_recorder.stop();
}

#[test]
fn ssh_prompts_for_nothing_unless_askpass_is_forced() {
    let (test_dir, engine) = (TestDir::new(), Engine::start("newest"));
    let sshd = Sshd::start(&test_dir, &engine);
    // An askpass program as on a desktop. This one would give the right answer.
    let (prompts, askpass) = (test_dir.path("prompts"), test_dir.path("askpass"));
    fs::write(&askpass, format!("#!/bin/sh\necho \"$1\" >> {}\necho {PASSPHRASE}\n", prompts.display()))
        .expect("a file");
    fs::set_permissions(&askpass, fs::Permissions::from_mode(0o755)).expect("its mode");
    let record_once = |host: &str| {
        let db = test_dir.path(&format!("{host}.db"));
        let host = format!("ssh://{host}");
        let mut command = with_path(
            test_dir.command(&["record", "-q", "--until", "now", "-H", &host, "--db", text(&db)]),
            &sshd.path,
        );
        command.env("SSH_ASKPASS", &askpass).env("DISPLAY", ":0");
        command
    };
    let attempts = ["locked", "prompts"].map(|host| test_dir.start_command(record_once(host)));
    let errors = attempts.map(|attempt| attempt.wait().assert_exit_code(1).stderr);
    for (stderr, expected) in
        errors.iter().zip(["root@127.0.0.1: Permission denied (", "Host key verification failed. ("])
    {
        assert!(stderr.lines().last().is_some_and(|line| line.contains(expected)), "{stderr}\nwithout {expected}");
    }
    let log = sshd.log();
    assert!(!log.contains("Failed password"), "a password was tried: {log}");
    // The ssh to a jump host does not prompt either.
    let stderr = test_dir.start_command(record_once("beyond")).wait().assert_exit_code(1).stderr;
    assert!(stderr.contains("cannot connect to ssh://beyond: root@127.0.0.1: Permission denied ("), "{stderr}");
    assert!(!prompts.exists(), "{:?}", fs::read_to_string(&prompts));

    let mut forced = record_once("locked");
    forced.env("SSH_ASKPASS_REQUIRE", "force");
    run(forced).assert_success();
    assert!(fs::read_to_string(&prompts).is_ok_and(|prompts| prompts.contains("passphrase")));
}

#[test]
fn ssh_gets_the_arguments_of_the_docker_client_after_our_options() {
    let test_dir = TestDir::new();
    let call_log = test_dir.path("call_log");
    let path = path_with_ssh(
        &test_dir,
        "recorder",
        &format!("{{ for arg in \"$@\"; do echo \"$arg\"; done; echo; }} >> {}; exit 255", call_log.display()),
    );
    for host in
        ["ssh://box", "ssh://me@box:2222", "ssh://me@[::1]:22/", "ssh://me%40corp@box/run/x.sock", "ssh://box/a%20b"]
    {
        let ssh_args = |command: Command| {
            let _ = fs::remove_file(&call_log);
            run(with_path(command, &path)).assert_exit_code(1);
            let calls = fs::read_to_string(&call_log).expect("ssh was started");
            calls.split("\n\n").next().expect("one call").to_owned()
        };
        let theirs = ssh_args(crate::support::docker::client_of_version(
            "newest",
            host,
            &["version", "-f", "{{.Server.Version}}"],
        ));
        let ours = "-oConnectTimeout=8\n-oServerAliveInterval=15\n-oServerAliveCountMax=2\n-oBatchMode=yes\n";
        let args = ssh_args(test_dir.command(&["record", "-q", "--until", "now", "-H", host]));
        assert_eq!(args, format!("{ours}{theirs}"), "{host}");
    }
}

/// Waits until the backlog is recorded.
fn wait_until_backlog_is_recorded(test_dir: &TestDir, engine: &Engine) {
    test_dir.eventually("the backlog is recorded", || {
        let ours = test_dir.lines(&["query", "-q"]);
        let theirs = engine.backlog();
        let missing = theirs.iter().filter(|line| !ours.contains(line)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} lines are missing")) }
    });
}

/// Podman as an engine, with storage of its own.
struct Podman {
    service: Child,
    args: Vec<String>,
    host: String,
}

impl Podman {
    fn start(test_dir: &TestDir) -> Podman {
        let path = |name: &str| test_dir.path(name).display().to_string();
        let host = format!("unix://{}", path("podman.sock"));
        let mut args: Vec<String> = vec!["--root".into(), path("storage"), "--runroot".into(), path("run")];
        args.extend(["--tmpdir".into(), path("tmp"), "--network-config-dir".into(), path("networks")]);
        args.extend(["--storage-driver=vfs", "--events-backend=file", "--cgroup-manager=cgroupfs"].map(str::to_owned));
        args.extend(["system", "service", "--time=0", &host].map(str::to_owned));
        Podman { service: Podman::serve(&args, &host), args, host }
    }

    fn serve(args: &[String], host: &str) -> Child {
        let service = Command::new("podman").args(args).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let socket = host.trim_start_matches("unix://");
        eventually("Podman listens", || std::os::unix::net::UnixStream::connect(socket).map(drop));
        service.expect("podman starts")
    }

    fn start_again(&mut self) {
        self.stop();
        self.service = Podman::serve(&self.args, &self.host);
    }

    fn stop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
        let _ = fs::remove_file(self.host.trim_start_matches("unix://"));
    }

    fn podman(&self, args: &[&str]) -> String {
        let mut podman = Command::new("podman");
        podman.args(["--remote", "--url", &self.host]).args(args).stdin(Stdio::null());
        run(podman).assert_exit_code(0).lines().join("\n")
    }

    /// All events of Podman's log, as Podman sends them.
    fn log(&self) -> Vec<String> {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--noproxy", "*", "--max-time", "30", "--unix-socket"]);
        curl.args([self.host.trim_start_matches("unix://"), "http://d/events?since=0&stream=false"]);
        run(curl).assert_success().lines()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn podman_is_recorded_as_an_engine() {
    let test_dir = TestDir::new();
    let mut podman = Podman::start(&test_dir);
    let tree = test_dir.path("tree");
    fs::create_dir_all(tree.join("bin")).expect("the directory is created");
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("busybox-static");
    let image = test_dir.path("image.tar");
    run({
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&tree).arg("-cf").arg(&image).arg(".");
        tar
    })
    .assert_success();
    podman.podman(&["import", text(&image), "busybox:latest"]);
    podman.podman(&["volume", "create", "before"]);

    let wait_until_log_is_recorded = |podman: &Podman, args: &[&str]| {
        test_dir.eventually("Podman's log is recorded", || {
            let lines = test_dir.run(&[&["query", "-q"][..], args].concat()).lines();
            compare_lines(&podman.log(), &lines)
        });
    };
    // Podman's backlog is its whole log.
    test_dir.run(&["record", "-q", "--until", "now", "-H", &podman.host]).assert_success();
    wait_until_log_is_recorded(&podman, &[]);

    let recorder = test_dir.record(&podman.host, &["--look-again", "300ms"]);
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--network", "none"];
    let label = ["--label", "markup=<a href=\"x\">&amp;</a> ü"];
    let args = [&["run", "-d", "--name", "web"][..], &limits, &label, &["busybox", "/bin/busybox", "sleep", "1000"]];
    podman.podman(&args.concat());
    podman.podman(&["exec", "web", "/bin/busybox", "true"]);
    podman.podman(&["kill", "web"]);
    podman.podman(&["volume", "create", "during"]);
    wait_until_log_is_recorded(&podman, &[]);
    // Podman keeps its log across a restart, so no event is missed.
    podman.start_again();
    podman.podman(&["volume", "create", "behind"]);
    podman.podman(&["rm", "-f", "web"]);
    wait_until_log_is_recorded(&podman, &[]);
    recorder.stop();

    let gaps: Vec<Value> = test_dir.json(&["gaps"]);
    assert_eq!(gaps.iter().map(|gap| &gap["reason"]).collect::<Vec<_>>(), ["first-contact"]);
    let status: Value = serde_json::from_slice(&test_dir.run(&["status", "--json"]).stdout).expect("JSON");
    let sources = status["sources"].as_array().expect("a list");
    assert_eq!((sources.len(), &sources[0]["rejected"]), (1, &Value::from(0)), "{status}");
    // The differences that docs/hosts.md lists.
    let count = |args: &[&str]| test_dir.lines(&[&["query", "-q", "--count"][..], args].concat())[0].clone();
    for (args, expected) in [
        (&["--action", "remove", "--type", "container"][..], "1"),
        (&["--action", "destroy"], "0"),
        (&["--action", "exec"], "1"),
        (&["--volume", "during"], "1"),
        (&["--action", "exec_die"], "0"),
        (&["--action", "exec_died"], "1"),
    ] {
        assert_eq!(count(args), expected, "{args:?}");
    }
    test_dir.run(&["verify", "-q"]).assert_exit_code(0);
}
