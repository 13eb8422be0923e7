//! Monitoring of the recorder: requests for its pages, and a stand-in for systemd.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::{Running, TIMEOUT, TestDir};
use crate::support::engine::{Engine, event, events};

/// A response of the metrics server.
pub(crate) struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub(crate) fn send(socket: &Path, request: &str) -> Option<Response> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").expect("a response has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a response has a status");
    Some(Response { status, head: head.into(), body: body.into() })
}

pub(crate) fn get(socket: &Path, path: &str, accept: &str) -> Option<Response> {
    send(socket, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"))
}

/// Values of the metrics page, by name and labels as printed there.
pub(crate) fn scrape(socket: &Path) -> BTreeMap<String, f64> {
    let page = get(socket, "/metrics", "*/*").expect("the page is served");
    let lines = page.body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').expect("a metric"))
        .map(|(name, n)| (name.into(), n.parse().unwrap()))
        .collect()
}

pub(crate) fn sum(samples: &BTreeMap<String, f64>, prefix: &str) -> f64 {
    samples.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, number)| number).sum()
}

pub(crate) fn record(test_dir: &TestDir, engine: &Engine, extra_args: &[&str]) -> (Running, PathBuf) {
    let socket = test_dir.path("metrics.sock");
    let metrics = format!("unix://{}", socket.display());
    let args = ["--look-again", "50ms", "--metrics", &metrics];
    (test_dir.record(&engine.host(), &[&args[..], extra_args].concat()), socket)
}

/// Makes an engine do what the metrics count: events, a missed event, a line that is not an event, a restart.
pub(crate) fn exercise_metrics(test_dir: &TestDir, engine: &Engine) {
    events(0..8).iter().for_each(|event| engine.emit(event));
    engine.emit_to_backlog(&event(8));
    engine.emit(&event(9));
    engine.send_junk(b"{\"no\": \"event\"}");
    test_dir.eventually_lines(&["query", "-q"], &events(0..10));
    engine.restart();
    engine.emit(&event(10));
    test_dir.eventually_lines(&["query", "-q"], &events(0..11));
}

/// Stand-in for systemd: a datagram socket that receives the notifications of the service.
pub(crate) struct Manager {
    pub socket: UnixDatagram,
    pub name: String,
}

impl Manager {
    pub(crate) fn at(address: &SocketAddr, name: String) -> Manager {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Manager { socket, name }
    }

    pub(crate) fn start(&self, test_dir: &TestDir, args: &[&str], watchdog: &str) -> Running {
        let mut command = test_dir.command(args);
        command.env("NOTIFY_SOCKET", &self.name).env("WATCHDOG_USEC", watchdog);
        test_dir.start_command(command)
    }

    /// Receives the next notification.
    pub(crate) fn next_message(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a notification arrives");
        String::from_utf8(buffer[..length].into()).unwrap()
    }

    /// Receives notifications up to and including the first one that `found` accepts.
    pub(crate) fn messages_until(&self, is_last: impl Fn(&str) -> bool) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.next_message());
            if messages.last().is_some_and(|message| is_last(message)) {
                return messages;
            }
            assert!(messages.len() < 1000, "{messages:?}");
        }
    }
}

pub(crate) fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

/// All queries of the dashboard, as Grafana would send them.
pub(crate) fn expressions(dashboard: &Value) -> Vec<String> {
    let expression = |target: &Value| target["expr"].as_str().expect("an expression").to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap()).map(expression);
    let all: Vec<String> =
        targets.chain(dashboard["annotations"]["list"].as_array().unwrap().iter().map(expression)).collect();
    all.iter().map(|expression| expression.replace("$source", ".*").replace("$__rate_interval", "1m")).collect()
}
