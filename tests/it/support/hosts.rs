//! Servers behind TLS, and stand-ins for `ssh`.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::certificates::Certificate;
use crate::support::command::{Folder, Running, eventually, free_port};

// --- TLS

/// `events serve` behind TLS: an engine of one event.
pub(crate) struct Server {
    pub _running: Running,
    pub at: String,
}

impl Server {
    pub(crate) fn start(folder: &Folder, words: &[&str]) -> Server {
        let port = free_port();
        let at = format!("127.0.0.1:{port}");
        let day = folder.path("day.ndjson");
        fs::write(&day, format!("{EVENT}\n")).expect("a file");
        let listen = format!("tcp://{at}");
        let running =
            folder.start(&[&["serve", "--listen", &listen, day.to_str().expect("a path is text")][..], words].concat());
        eventually("it is listened there", || TcpStream::connect(&at).map(drop));
        Server { _running: running, at }
    }

    pub(crate) fn under_tls(folder: &Folder, own: &Certificate, more: &[&str]) -> Server {
        Server::start(folder, &[&["--tls-cert", text(&own.file), "--tls-key", text(&own.key)][..], more].concat())
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path is text")
}

// --- ssh

/// A folder for PATH with this as its `ssh`.
pub(crate) fn path_with_ssh(folder: &Folder, name: &str, script: &str) -> String {
    let bin = folder.path(name);
    fs::create_dir(&bin).expect("a folder");
    let ssh = bin.join("ssh");
    fs::write(&ssh, format!("#!/bin/sh\n{script}\n")).expect("a file");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("its mode");
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default())
}

pub(crate) fn with_path(mut command: Command, path: &str) -> Command {
    command.env("PATH", path);
    command
}

/// What `record` says in the end of hosts that cannot be reached, each in its PATH; all of them at once.
pub(crate) fn failures(folder: &Folder, tried: &[(&str, &[&str])]) -> Vec<String> {
    let one = |(at, (path, words)): (usize, &(&str, &[&str]))| {
        let db = folder.path(&format!("{at}.db"));
        folder.start_in(path, &[&["record", "-q", "--until", "now", "--db", text(&db)][..], words].concat())
    };
    let tried: Vec<Running> = tried.iter().enumerate().map(one).collect();
    let said = tried.into_iter().map(|tried| {
        let ran = tried.ended().exited(1);
        ran.stderr.lines().last().unwrap_or_default().to_owned()
    });
    said.collect()
}

pub(crate) const EVENT: &str = r#"{"Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"name":"web"}},"scope":"local","time":1795535605,"timeNano":1795535605311574272}"#;
