//! `doctor`: what holds, what does not, and what to do about it. The way of a container is gone in tests/engines.rs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::support::command::{Folder, Ran, run};
use crate::support::engine::{Engine, event};
use crate::support::fixture;

/// What is said of what does not hold, with what to do.
fn wrong(ran: &Ran) -> Vec<(String, String)> {
    let lines = ran.lines();
    let pairs = lines.iter().enumerate().filter_map(|(at, line)| {
        let line = line.strip_prefix("  ✗ ")?;
        let hint = lines.get(at + 1).and_then(|line| line.strip_prefix("    → ")).unwrap_or_default();
        Some((line.to_owned(), hint.to_owned()))
    });
    pairs.collect()
}

fn doctor(folder: &Folder, host: &Path) -> Ran {
    folder.run(&["doctor", "-H", &format!("unix://{}", host.display())])
}

#[test]
fn an_engine_that_is_well_is_said_to_be_step_by_step() {
    let folder = fixture::recorded(&[event(0)]);
    let engine = Engine::start(folder.path("docker.sock"));
    engine.shows("/version", r#"{"Version":"28.5.2","ApiVersion":"1.51","MinAPIVersion":"1.24"}"#);
    engine.has_a_clock(Some(0));
    engine.happens(&event(1));
    let ran = folder.run(&["doctor", "-H", &engine.host()]).succeeded();
    let shown: Vec<String> = ran.lines().into_iter().filter(|line| !line.contains("has room")).collect();
    let clock = shown.iter().find(|line| line.contains("its clock is 0.0")).expect("the clock").clone();
    let db = folder.db().display().to_string();
    let expected = [
        &engine.host(),
        "  ✓ its socket is there",
        "  ✓ and may be opened",
        "  ✓ it speaks HTTP, and version 1.51 of the API is agreed on",
        "  ✓ it is version 28.5.2, with the API from 1.24 to 1.51",
        "  ✓ it is sim (7a5c1ed0-0000-4000-8000-000000000001)",
        &clock,
        "  ✓ its stream of events opens",
        "  ✓ it remembers 1 event",
        "",
        &db,
        "  ✓ it can be written",
        "  ✓ it holds 1 event",
    ];
    assert_eq!(shown, expected);
    assert_eq!(ran.stderr, "");
    assert_eq!(folder.run(&["doctor", "-q", "-H", &engine.host()]).succeeded().stdout, b"");
    let recorder = folder.record(&engine.host(), &[]);
    let ran = folder.run(&["doctor", "-H", &engine.host()]).succeeded();
    assert!(ran.lines().contains(&format!("  ✓ a recorder writes to it (pid {})", recorder.pid())), "{}", ran.report());
    recorder.stop();
}

#[test]
fn what_keeps_an_engine_from_being_reached_is_named_with_what_to_do() {
    let folder = Folder::new();
    let socket = folder.path("docker.sock");
    let told = |path: &Path| {
        let ran = doctor(&folder, path).exited(1);
        let mut wrong = wrong(&ran);
        assert_eq!(wrong.len(), 1, "{}", ran.report());
        assert_eq!(ran.stderr, "events: one thing is not as it should be (hint: the → below the ✗ says what to do)\n");
        wrong.remove(0)
    };
    let (line, hint) = told(&socket);
    assert_eq!(line, format!("{}: No such file or directory", socket.display()));
    assert!(hint.contains("systemctl start docker"), "{hint}");
    fs::create_dir(&socket).unwrap();
    let (line, hint) = told(&socket);
    assert_eq!(line, format!("{} is no socket", socket.display()));
    assert!(hint.contains("mount its directory"), "{hint}");
    fs::remove_dir(&socket).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    let (line, hint) = told(&socket);
    assert_eq!(line, format!("{} cannot be opened: Connection refused", socket.display()));
    assert!(hint.contains("systemctl restart docker"), "{hint}");
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        for caller in listener.incoming().take(2) {
            let _ = caller.unwrap().write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    let (line, _) = told(&socket);
    assert!(line.contains(" does not answer /_ping in HTTP: "), "{line}");
    thread.join().unwrap();
}

/// The program as a user who is not root, whoever runs the test.
#[test]
fn who_may_not_open_the_socket_is_told_its_group() {
    let folder = Folder::new();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path("events");
    fs::copy(env!("CARGO_BIN_EXE_events"), &program).unwrap();
    let (socket, home) = (folder.path("docker.sock"), program.parent().unwrap());
    open(&program);
    open(home);
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = Command::new(&program);
    command.args(["doctor", "--db", "/dev/shm/events-doctor.db", "-H", &format!("unix://{}", socket.display())]);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let ran = run(command).exited(1);
    let (line, hint) = wrong(&ran).remove(0);
    assert_eq!(line, format!("{} cannot be opened: Permission denied", socket.display()));
    let group = hint.strip_prefix("it belongs to ").and_then(|rest| rest.split(':').next()).expect("a group");
    assert!(hint.contains(&format!("usermod -aG {group} $USER")), "{hint}");
    if rustix::process::getegid().is_root() {
        assert_eq!(group, "root");
    }
}

#[test]
fn an_engine_that_answers_oddly_is_seen_through() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    engine.has_a_clock(Some(-90_000));
    engine.happens("{\"no\":\"event\"}");
    let ran = folder.run(&["doctor", "-q", "-H", &engine.host()]).exited(1);
    let said = wrong(&ran);
    assert_eq!(said.len(), 3, "{}", ran.report());
    // It has no /version.
    assert!(said[0].0.contains("/version with 404 Not Found"), "{said:?}");
    assert!(
        ["its clock is 89.9", "its clock is 90."].iter().any(|off| said[1].0.starts_with(off))
            && said[1].0.ends_with(" s behind this machine's"),
        "{said:?}"
    );
    assert!(said[2].0.starts_with("its memory holds what is no event: "), "{said:?}");
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    engine.shows("/version", "{}");
    let told = |db: &str| {
        let ran = folder.run(&["doctor", "-q", "-H", &engine.host(), "--db", db]).exited(1);
        wrong(&ran).into_iter().map(|(line, _)| line).collect::<Vec<_>>()
    };
    fs::write(folder.path("text"), "this is no database, and long enough to be seen as none").unwrap();
    let text = folder.path("text").display().to_string();
    assert_eq!(told(&text)[0], format!("cannot open {text}: it is not an SQLite database"));
    let there = folder.path("").display().to_string();
    assert_eq!(told(&there)[0], format!("cannot open {there}: it is a directory"));
    assert_eq!(told("/proc/events.db")[0], "cannot make /proc/events.db: No such file or directory");
    // Nothing was made, and nothing changed.
    assert!(!crate::support::command::exists(&folder.db()));
    folder.run(&["doctor", "-H", &engine.host()]).succeeded();
    assert!(!crate::support::command::exists(&folder.db()));
}
