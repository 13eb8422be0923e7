//! Servers behind TLS, and stand-ins for `ssh`.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::certificates::Certificate;
use crate::support::command::{Running, TestDir, eventually, free_port};

// --- TLS

/// `events serve` with one event, behind TLS.
pub(crate) struct Server {
    pub _running: Running,
    pub address: String,
}

impl Server {
    pub(crate) fn start(test_dir: &TestDir, args: &[&str]) -> Server {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let day = test_dir.path("day.ndjson");
        fs::write(&day, format!("{EVENT}\n")).expect("a file");
        let listen = format!("tcp://{address}");
        let running = test_dir
            .start(&[&["serve", "--listen", &listen, day.to_str().expect("a path is text")][..], args].concat());
        eventually("the server listens", || TcpStream::connect(&address).map(drop));
        Server { _running: running, address }
    }

    pub(crate) fn start_with_tls(test_dir: &TestDir, certificate: &Certificate, extra_args: &[&str]) -> Server {
        Server::start(
            test_dir,
            &[&["--tls-cert", text(&certificate.file), "--tls-key", text(&certificate.key)][..], extra_args].concat(),
        )
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path is text")
}

// --- ssh

/// Creates a directory with this script as `ssh`, and returns a PATH that starts with it.
pub(crate) fn path_with_ssh(test_dir: &TestDir, name: &str, script: &str) -> String {
    let bin = test_dir.path(name);
    fs::create_dir(&bin).expect("the directory is created");
    let ssh = bin.join("ssh");
    fs::write(&ssh, format!("#!/bin/sh\n{script}\n")).expect("a file");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("its mode");
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default())
}

pub(crate) fn with_path(mut command: Command, path: &str) -> Command {
    command.env("PATH", path);
    command
}

/// Runs `record` for unreachable hosts in parallel, each with its PATH. Returns the last line of each stderr.
pub(crate) fn record_errors(test_dir: &TestDir, attempts: &[(&str, &[&str])]) -> Vec<String> {
    let start = |(index, (path, args)): (usize, &(&str, &[&str]))| {
        let db = test_dir.path(&format!("{index}.db"));
        test_dir.start_with_path(path, &[&["record", "-q", "--until", "now", "--db", text(&db)][..], args].concat())
    };
    let attempts: Vec<Running> = attempts.iter().enumerate().map(start).collect();
    let errors = attempts.into_iter().map(|attempt| {
        let output = attempt.wait().assert_exit_code(1);
        output.stderr.lines().last().unwrap_or_default().to_owned()
    });
    errors.collect()
}

pub(crate) const EVENT: &str = r#"{"Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"name":"web"}},"scope":"local","time":1795535605,"timeNano":1795535605311574272}"#;
