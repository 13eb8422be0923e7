//! `doctor` reports what works and what does not, each problem with a remedy. `tests/real/engines.rs` covers
//! `--exercise`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::support::command::{Output, TestDir, run};
use crate::support::engine::{Engine, event};
use crate::support::fixture;

/// Returns each problem with its remedy.
fn problems(output: &Output) -> Vec<(String, String)> {
    let lines = output.lines();
    let pairs = lines.iter().enumerate().filter_map(|(at, line)| {
        let line = line.strip_prefix("  ✗ ")?;
        let hint = lines.get(at + 1).and_then(|line| line.strip_prefix("    → ")).unwrap_or_default();
        Some((line.to_owned(), hint.to_owned()))
    });
    pairs.collect()
}

fn doctor(test_dir: &TestDir, host: &Path) -> Output {
    test_dir.run(&["doctor", "-H", &format!("unix://{}", host.display())])
}

#[test]
fn a_working_engine_passes_each_check() {
    let test_dir = fixture::recorded_store(&[event(0)]);
    let engine = Engine::start(test_dir.path("docker.sock"));
    engine.set_response("/version", r#"{"Version":"28.5.2","ApiVersion":"1.51","MinAPIVersion":"1.24"}"#);
    engine.set_clock_offset(Some(0));
    engine.emit(&event(1));
    let output = test_dir.run(&["doctor", "-H", &engine.host()]).assert_success();
    let shown: Vec<String> = output.lines().into_iter().filter(|line| !line.contains("free space")).collect();
    let clock = shown.iter().find(|line| line.contains("the engine's clock is 0.0"));
    let clock = clock.expect("the clock is checked").clone();
    let db = test_dir.db().display().to_string();
    let expected = [
        &engine.host(),
        "  ✓ the socket exists",
        "  ✓ the socket accepts connections",
        "  ✓ the engine answers, with API version 1.51",
        "  ✓ the engine has version 28.5.2, API versions 1.24 to 1.51",
        "  ✓ the engine is sim (7a5c1ed0-0000-4000-8000-000000000001)",
        &clock,
        "  ✓ the event stream opens",
        "  ✓ the backlog contains 1 event",
        "",
        &db,
        "  ✓ the store can be written",
        "  ✓ the store contains 1 event",
    ];
    assert_eq!(shown, expected);
    assert_eq!(output.stderr, "");
    assert_eq!(test_dir.run(&["doctor", "-q", "-H", &engine.host()]).assert_success().stdout, b"");
    let recorder = test_dir.record(&engine.host(), &[]);
    let output = test_dir.run(&["doctor", "-H", &engine.host()]).assert_success();
    let line = format!("  ✓ a recorder writes to the store (pid {})", recorder.pid());
    assert!(output.lines().contains(&line), "{}", output.report());
    recorder.stop();
}

#[test]
fn an_unreachable_engine_is_reported_with_a_remedy() {
    let test_dir = TestDir::new();
    let socket = test_dir.path("docker.sock");
    let only_problem = |path: &Path| {
        let output = doctor(&test_dir, path).assert_exit_code(1);
        let mut problems = problems(&output);
        assert_eq!(problems.len(), 1, "{}", output.report());
        assert_eq!(output.stderr, "events: 1 check failed (hint: apply the fix after → below the ✗)\n");
        problems.remove(0)
    };
    let (line, hint) = only_problem(&socket);
    assert_eq!(line, format!("cannot find the socket {}: No such file or directory", socket.display()));
    assert!(hint.contains("systemctl start docker"), "{hint}");
    fs::create_dir(&socket).unwrap();
    let (line, hint) = only_problem(&socket);
    assert_eq!(line, format!("{} is not a socket", socket.display()));
    assert!(hint.contains("mount the directory of the socket"), "{hint}");
    fs::remove_dir(&socket).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    let (line, hint) = only_problem(&socket);
    assert_eq!(line, format!("cannot connect to {}: Connection refused", socket.display()));
    assert!(hint.contains("systemctl restart docker"), "{hint}");
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        for caller in listener.incoming().take(2) {
            let _ = caller.unwrap().write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    let (line, _) = only_problem(&socket);
    assert!(line.contains(" did not respond to /_ping with valid HTTP: "), "{line}");
    thread.join().unwrap();
}

/// Runs the program as an unprivileged user, even if root runs the test.
#[test]
fn a_socket_without_permission_is_reported_with_its_group() {
    let test_dir = TestDir::new();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let program = test_dir.path("events");
    fs::copy(env!("CARGO_BIN_EXE_events"), &program).unwrap();
    let (socket, home) = (test_dir.path("docker.sock"), program.parent().unwrap());
    open(&program);
    open(home);
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = Command::new(&program);
    command.args(["doctor", "--db", "/dev/shm/events-doctor.db", "-H", &format!("unix://{}", socket.display())]);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = run(command).assert_exit_code(1);
    let (line, hint) = problems(&output).remove(0);
    assert_eq!(line, format!("cannot connect to {}: Permission denied", socket.display()));
    let group = hint.split_once("join the group ").and_then(|(_, rest)| rest.split(',').next());
    let group = group.expect("the hint names the group");
    assert!(hint.contains(&format!("usermod -aG {group} $USER")), "{hint}");
    if rustix::process::getegid().is_root() {
        assert_eq!(group, "root");
    }
}

#[test]
fn wrong_responses_of_an_engine_are_reported() {
    let test_dir = TestDir::new();
    let engine = Engine::start(test_dir.path("docker.sock"));
    engine.set_clock_offset(Some(-90_000));
    engine.emit("{\"no\":\"event\"}");
    let output = test_dir.run(&["doctor", "-q", "-H", &engine.host()]).assert_exit_code(1);
    let problems = problems(&output);
    assert_eq!(problems.len(), 3, "{}", output.report());
    // The engine has no /version.
    assert!(problems[0].0.contains("/version with 404 Not Found"), "{problems:?}");
    assert!(
        ["the engine's clock is 89.9", "the engine's clock is 90."].iter().any(|off| problems[1].0.starts_with(off))
            && problems[1].0.ends_with(" s behind this machine's"),
        "{problems:?}"
    );
    assert!(problems[2].0.starts_with("the backlog contains a line that is not an event: "), "{problems:?}");
}

#[test]
fn an_unusable_store_is_reported() {
    let test_dir = TestDir::new();
    let engine = Engine::start(test_dir.path("docker.sock"));
    engine.set_response("/version", "{}");
    let problems_of = |db: &str| {
        let output = test_dir.run(&["doctor", "-q", "-H", &engine.host(), "--db", db]).assert_exit_code(1);
        problems(&output).into_iter().map(|(line, _)| line).collect::<Vec<_>>()
    };
    fs::write(test_dir.path("text"), "this is not a database, and longer than the header of one").unwrap();
    let text = test_dir.path("text").display().to_string();
    assert_eq!(problems_of(&text)[0], format!("cannot open {text}: it is not an SQLite database"));
    let directory = test_dir.path("").display().to_string();
    assert_eq!(problems_of(&directory)[0], format!("cannot open {directory}: it is a directory"));
    assert_eq!(problems_of("/proc/events.db")[0], "cannot create /proc/events.db: No such file or directory");
    // Neither run creates a store.
    assert!(!crate::support::command::exists(&test_dir.db()));
    test_dir.run(&["doctor", "-H", &engine.host()]).assert_success();
    assert!(!crate::support::command::exists(&test_dir.db()));
}
