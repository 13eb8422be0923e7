//! What watches the recorder: its pages, and a stand-in for the service manager.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::{DEADLINE, Folder, Running};
use crate::support::engine::{Engine, event, events};

/// An answer: its status, its head, its body.
pub(crate) struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub(crate) fn ask(socket: &Path, request: &str) -> Option<Answer> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("and a status");
    Some(Answer { status, head: head.into(), body: body.into() })
}

pub(crate) fn get(socket: &Path, path: &str, accept: &str) -> Option<Answer> {
    ask(socket, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"))
}

/// The figures of a page, by name and labels as they stand there.
pub(crate) fn figures(socket: &Path) -> BTreeMap<String, f64> {
    let page = get(socket, "/metrics", "*/*").expect("it is shown");
    let lines = page.body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').expect("a figure"))
        .map(|(name, n)| (name.into(), n.parse().unwrap()))
        .collect()
}

pub(crate) fn sum(figures: &BTreeMap<String, f64>, beginning: &str) -> f64 {
    figures.iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, number)| number).sum()
}

pub(crate) fn folder_and_engine() -> (Folder, Engine) {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    (folder, engine)
}

pub(crate) fn record(folder: &Folder, engine: &Engine, more: &[&str]) -> (Running, PathBuf) {
    let socket = folder.path("metrics.sock");
    let shown = format!("unix://{}", socket.display());
    let words = ["--look-again", "50ms", "--metrics", &shown];
    (folder.record(&engine.host(), &[&words[..], more].concat()), socket)
}

/// Lets an engine do what a recorder can be told of: events on the stream and beside it, what is no event, a restart.
pub(crate) fn much_happens(folder: &Folder, engine: &Engine) {
    events(0..8).iter().for_each(|event| engine.happens(event));
    engine.happens_unheard(&event(8));
    engine.happens(&event(9));
    engine.sends_junk(b"{\"no\": \"event\"}");
    folder.eventually_lines(&["query", "-q"], &events(0..10));
    engine.restarts();
    engine.happens(&event(10));
    folder.eventually_lines(&["query", "-q"], &events(0..11));
}

/// What stands where systemd does: a datagram socket that is told how the service is doing.
pub(crate) struct Manager {
    pub socket: UnixDatagram,
    pub name: String,
}

impl Manager {
    pub(crate) fn at(address: &SocketAddr, name: String) -> Manager {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Manager { socket, name }
    }

    pub(crate) fn start(&self, folder: &Folder, words: &[&str], watchdog: &str) -> Running {
        let mut command = folder.command(words);
        command.env("NOTIFY_SOCKET", &self.name).env("WATCHDOG_USEC", watchdog);
        folder.start_command(command)
    }

    /// What is told next.
    pub(crate) fn told(&self) -> String {
        let mut told = [0; 4096];
        let length = self.socket.recv(&mut told).expect("something is told");
        String::from_utf8(told[..length].into()).unwrap()
    }

    /// What is told up to this, and this.
    pub(crate) fn told_until(&self, found: impl Fn(&str) -> bool) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            all.push(self.told());
            if all.last().is_some_and(|told| found(told)) {
                return all;
            }
            assert!(all.len() < 1000, "{all:?}");
        }
    }
}

pub(crate) fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

/// All that the dashboard asks, as Grafana would send it.
pub(crate) fn expressions(dashboard: &Value) -> Vec<String> {
    let asked = |of: &Value| of["expr"].as_str().expect("an expression").to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap()).map(asked);
    let all: Vec<String> =
        targets.chain(dashboard["annotations"]["list"].as_array().unwrap().iter().map(asked)).collect();
    all.iter().map(|asked| asked.replace("$source", ".*").replace("$__rate_interval", "1m")).collect()
}
