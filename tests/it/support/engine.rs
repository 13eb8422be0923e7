//! A simulated engine. It serves `/events` as moby does, and a test controls what it does. It writes HTTP by hand, so
//! that it can violate the protocol. It keeps a list of all emitted events, and of those that a recorder could obtain.

mod backlog;
mod subscriber;
mod truth;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::command::TestDir;
use backlog::{Backlog, EventsParams, NumberedEvent};
use subscriber::{Message, OfferOutcome, SEND_TIMEOUT, Subscriber};
pub(crate) use truth::Truth;

pub(crate) struct Engine {
    socket: PathBuf,
    shared: Arc<Shared>,
    accept_loop: Mutex<Option<AcceptLoop>>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when stalled requests and streams resume.
    resumed: Condvar,
}

struct State {
    id: String,
    name: String,
    backlog: Backlog,
    subscribers: Vec<Arc<Subscriber>>,
    /// Targets of all requests, oldest first.
    requests: Vec<String>,
    /// JSON responses, by path.
    json_by_path: HashMap<String, String>,
    /// Paths that get no response yet.
    blocked_paths: HashSet<String>,
    behavior: Behavior,
    /// Milliseconds by which its clock is ahead; `None` if `/info` does not contain the time.
    clock_offset_ms: Option<i64>,
    connections: HashMap<u64, UnixStream>,
    last_connection_id: u64,
    truth: Truth,
}

/// Behavior of the engine towards its clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behavior {
    /// Complete response sent in place of an event stream.
    pub raw_response: Option<String>,
    /// Boundaries of the chunks.
    pub chunking: Chunking,
    /// Bytes around an event.
    pub framing: Framing,
    /// Keep the response open when a client requests only the backlog.
    pub endless_backlog: bool,
    /// Send this many events of the backlog, and the rest after [`Engine::resume`].
    pub stall_after: Option<usize>,
    /// Answer no request until [`Engine::resume`].
    pub hang_requests: bool,
    /// Cut each stream after its headers.
    pub cut_at_start: bool,
    /// Send the headers in small pieces over this time.
    pub headers_delay: Duration,
    /// Send the newest event twice on a new stream: from the backlog and live.
    pub duplicate_newest: bool,
    /// Microseconds after which an event is skipped for a full subscriber. A short time simulates many concurrent
    /// events, each of which waits on its own.
    pub send_timeout_micros: Option<u64>,
}

/// Boundaries of the chunks of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Chunking {
    /// One chunk per event, as a real engine.
    #[default]
    PerEvent,
    /// One chunk per byte.
    PerByte,
    /// Random boundaries, also inside a character.
    Random,
}

/// Bytes around an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    #[default]
    Lf,
    CrLf,
    JsonSeq,
}

struct AcceptLoop {
    stopping: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Engine {
    /// Starts an engine that listens on a new socket at `path`.
    pub(crate) fn start(path: PathBuf) -> Engine {
        let state = State {
            id: "7a5c1ed0-0000-4000-8000-000000000001".into(),
            name: "sim".into(),
            backlog: Backlog::default(),
            subscribers: Vec::new(),
            requests: Vec::new(),
            json_by_path: HashMap::new(),
            blocked_paths: HashSet::new(),
            behavior: Behavior::default(),
            clock_offset_ms: None,
            connections: HashMap::new(),
            last_connection_id: 0,
            truth: Truth::default(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), resumed: Condvar::new() });
        let engine = Engine { socket: path, shared, accept_loop: Mutex::new(None) };
        engine.start_again();
        engine
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Sets the behavior from now on.
    pub(crate) fn set_behavior(&self, behavior: Behavior) {
        self.state().behavior = behavior;
        self.shared.resumed.notify_all();
    }

    /// Makes the open streams send nothing until [`Engine::resume`]. New streams are not affected.
    pub(crate) fn stall_streams(&self) {
        self.state().subscribers.iter().for_each(|subscriber| subscriber.set_stalled(true));
    }

    /// Resumes stalled requests and streams.
    pub(crate) fn resume(&self) {
        let mut state = self.state();
        (state.behavior.stall_after, state.behavior.hang_requests) = (None, false);
        state.subscribers.iter().for_each(|subscriber| subscriber.set_stalled(false));
        self.shared.resumed.notify_all();
    }

    pub(crate) fn set_identity(&self, id: &str, name: &str) {
        let mut state = self.state();
        (state.id, state.name) = (id.into(), name.into());
    }

    /// Makes `/info` contain the time of a clock that is ahead by this many milliseconds.
    pub(crate) fn set_clock_offset(&self, offset_ms: Option<i64>) {
        self.state().clock_offset_ms = offset_ms;
    }

    /// Sets the JSON response for a path (without API version), and unblocks the path.
    pub(crate) fn set_response(&self, path: &str, json: &str) {
        let mut state = self.state();
        state.json_by_path.insert(path.into(), json.into());
        state.blocked_paths.remove(path);
        self.shared.resumed.notify_all();
    }

    /// Blocks requests for a path until [`Engine::set_response`] sets its response.
    pub(crate) fn block_path(&self, path: &str) {
        self.state().blocked_paths.insert(path.into());
    }

    /// Emits an event into the backlog and to all subscribers. A subscriber whose queue stays full misses it.
    pub(crate) fn emit(&self, event: &str) {
        let mut state = self.state();
        let numbered_event = state.add_event(event);
        let subscribers = state.subscribers.clone();
        // As in moby: a client that subscribes now finds the event in the backlog, and may receive it live too.
        drop(state);
        self.send_message(&subscribers, Message::Event(numbered_event));
    }

    /// Emits an event that every subscriber misses: it is only in the backlog.
    pub(crate) fn emit_to_backlog(&self, event: &str) {
        self.emit_all_to_backlog(&[event]);
    }

    /// Adds several events to the backlog at one moment, and sends them to no subscriber.
    pub(crate) fn emit_all_to_backlog(&self, events: &[impl AsRef<str>]) {
        let mut state = self.state();
        for event in events {
            state.add_event(event.as_ref());
        }
    }

    /// Emits an event, and cuts the streams after its first `at` bytes.
    pub(crate) fn emit_truncated(&self, event: &str, at: usize) {
        let mut state = self.state();
        state.add_event(event);
        let part = &event.as_bytes()[..at];
        if state
            .subscribers
            .iter()
            .any(|subscriber| subscriber.offer(Message::Cut(chunk(part)), SEND_TIMEOUT) == OfferOutcome::Queued)
        {
            state.truth.junk.push(part.into());
        }
        state.subscribers.clear();
    }

    /// Sends bytes on the open streams that are not counted as an event or junk.
    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        let subscribers = self.state().subscribers.clone();
        self.send_message(&subscribers, Message::Bytes(bytes.into()));
    }

    /// Sends a line that is not an event on the open streams.
    pub(crate) fn send_junk(&self, line: &[u8]) {
        let mut state = self.state();
        let line_and_end = [line, b"\n"].concat();
        if state.subscribers.iter().any(|subscriber| {
            subscriber.offer(Message::Bytes(line_and_end.clone()), SEND_TIMEOUT) == OfferOutcome::Queued
        }) {
            state.truth.junk.push(line.into());
        }
    }

    /// Ends the open streams with bytes that are not valid HTTP.
    pub(crate) fn break_streams(&self) {
        let subscribers = std::mem::take(&mut self.state().subscribers);
        self.send_message(&subscribers, Message::Cut(b"no length at all\r\n{}\r\n".into()));
    }

    /// Ends the open streams properly. The engine keeps running.
    pub(crate) fn end_streams(&self) {
        let subscribers = std::mem::take(&mut self.state().subscribers);
        self.send_message(&subscribers, Message::End);
    }

    /// Cuts all connections, as a proxy may do. The engine keeps running.
    pub(crate) fn cut_connections(&self) {
        let mut state = self.state();
        state.subscribers.drain(..).for_each(|subscriber| subscriber.close());
        for (_, connection) in state.connections.drain() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.shared.resumed.notify_all();
    }

    /// Stops listening, and cuts all connections. The backlog stays.
    pub(crate) fn stop(&self) {
        if let Some(accept_loop) = self.accept_loop.lock().expect("no holder panics").take() {
            accept_loop.stopping.store(true, Ordering::SeqCst);
            // A connection makes `accept` return. There is none if the directory of the socket is already deleted.
            if UnixStream::connect(&self.socket).is_ok() {
                accept_loop.thread.join().expect("the accept loop does not panic");
            }
        }
        let _ = std::fs::remove_file(&self.socket);
        self.cut_connections();
    }

    /// Listens again, on a new socket at the same path.
    pub(crate) fn start_again(&self) {
        let listener = UnixListener::bind(&self.socket).expect("the socket is bound");
        let stopping = Arc::new(AtomicBool::new(false));
        let (shared, stop_flag) = (self.shared.clone(), stopping.clone());
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if stop_flag.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let id = shared.state().register_connection(&connection);
                    let _ = handle_connection(&connection, &shared);
                    let _ = connection.shutdown(Shutdown::Both);
                    shared.state().connections.remove(&id);
                });
            }
        });
        *self.accept_loop.lock().expect("no holder panics") = Some(AcceptLoop { stopping, thread });
    }

    /// Restarts the engine, as `systemctl restart docker` does: the backlog is empty afterwards.
    pub(crate) fn restart(&self) {
        self.stop();
        self.clear_backlog();
        self.start_again();
    }

    pub(crate) fn clear_backlog(&self) {
        self.state().backlog.clear();
    }

    /// Number of open streams.
    pub(crate) fn subscriber_count(&self) -> usize {
        self.state().subscribers.len()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// Number of emitted events.
    pub(crate) fn emitted_count(&self) -> usize {
        self.state().truth.emitted.len()
    }

    /// Must be called when the recorder was killed; see [`Truth::on_recorder_killed`].
    pub(crate) fn on_recorder_killed(&self) {
        self.state().truth.on_recorder_killed();
    }

    /// Counts events from this number on as not delivered, until they are delivered again.
    pub(crate) fn invalidate_deliveries_from(&self, number: usize) {
        self.state().truth.invalidate_deliveries_from(number);
    }

    /// Number of events skipped for subscribers that were too slow.
    pub(crate) fn skipped_count(&self) -> usize {
        self.state().truth.skipped_count
    }

    /// Current truth. Events that are in the backlog now count as delivered.
    pub(crate) fn truth(&self) -> Truth {
        let mut state = self.state();
        let (recorder_generation, backlog_numbers) =
            (state.truth.recorder_generation(), state.backlog.iter().map(|event| event.number).collect::<Vec<_>>());
        state.truth.mark_delivered(backlog_numbers, recorder_generation);
        state.truth.clone()
    }

    fn send_message(&self, subscribers: &[Arc<Subscriber>], message: Message) {
        let timeout = self.state().behavior.send_timeout_micros.map_or(SEND_TIMEOUT, Duration::from_micros);
        for subscriber in subscribers {
            match subscriber.offer(message.clone(), timeout) {
                OfferOutcome::Queued => {}
                OfferOutcome::Skipped => self.state().truth.skipped_count += 1,
                OfferOutcome::Closed => self.state().subscribers.retain(|other| !Arc::ptr_eq(other, subscriber)),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.set_behavior(Behavior::default());
        self.state().blocked_paths.clear();
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits while a condition on the behavior is true.
    fn wait_while(&self, condition: impl Fn(&Behavior) -> bool) -> MutexGuard<'_, State> {
        let state = self.state();
        self.resumed.wait_while(state, |state| condition(&state.behavior)).unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn add_event(&mut self, event: &str) -> NumberedEvent {
        let number = self.truth.add_event(&self.name, event);
        let numbered_event =
            NumberedEvent { number, time_nano: self.truth.emitted[number].time_nano, line: event.into() };
        self.backlog.push(numbered_event.clone());
        numbered_event
    }

    fn register_connection(&mut self, connection: &UnixStream) -> u64 {
        self.last_connection_id += 1;
        self.connections.insert(self.last_connection_id, connection.try_clone().expect("the connection is duplicated"));
        self.last_connection_id
    }
}

/// Answers one request: the client sends only one per connection.
fn handle_connection(connection: &UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    shared.state().requests.push(target.clone());
    let state = shared.wait_while(|behavior| behavior.hang_requests);
    let path = target.trim_start_matches("/v1.51");
    let state =
        shared.resumed.wait_while(state, |state| state.blocked_paths.contains(path)).unwrap_or_else(|e| e.into_inner());
    let mut out = connection;
    match path.split('?').next().unwrap_or_default() {
        "/_ping" => out.write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: 2\r\n\r\nOK"),
        "/info" => {
            let clock = state.clock_offset_ms.map(|offset_ms| {
                let now = chrono::Utc::now() + chrono::TimeDelta::milliseconds(offset_ms);
                format!(",\"SystemTime\":\"{}\"", now.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true))
            });
            let (id, name, clock) = (&state.id, &state.name, clock.unwrap_or_default());
            let body = format!("{{\"ID\":\"{id}\",\"Name\":\"{name}\"{clock}}}\n");
            drop(state);
            write_json(out, &body)
        }
        "/events" => {
            let behavior = state.behavior.clone();
            drop(state);
            if let Some(response) = behavior.raw_response {
                return out.write_all(response.as_bytes());
            }
            if behavior.cut_at_start {
                return out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            }
            handle_events(out, shared, path, &behavior)
        }
        page if state.json_by_path.contains_key(page) => {
            let body = state.json_by_path[page].clone();
            drop(state);
            write_json(out, &body)
        }
        _ => {
            drop(state);
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 29\r\n\r\n{\"message\":\"page not found\"}\n")
        }
    }
}

fn write_json(mut out: &UnixStream, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

const HEADERS: &[u8] =
    b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Returns true if the client disconnects within this time.
fn client_disconnects_within(mut out: &UnixStream, timeout: Duration) -> std::io::Result<bool> {
    if timeout.is_zero() {
        return Ok(false);
    }
    out.set_read_timeout(Some(timeout))?;
    let disconnected = matches!(out.read(&mut [0]), Ok(0));
    out.set_read_timeout(None)?;
    Ok(disconnected)
}

/// Answers a request for `/events`: sends the requested part of the backlog, then live events.
fn handle_events(mut out: &UnixStream, shared: &Shared, path: &str, behavior: &Behavior) -> std::io::Result<()> {
    let params = match EventsParams::parse(path) {
        Ok(params) => params,
        Err((status, message)) => {
            let body = format!("{{\"message\":{message:?}}}\n");
            return write!(out, "HTTP/1.1 {status} Refused\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as i64;
    let remaining_nanos = params.until.map(|until| u64::try_from(until - now).unwrap_or(0));
    let backlog_only = remaining_nanos == Some(0) && !behavior.endless_backlog;
    // The headers are sent before the subscription starts.
    for piece in HEADERS.chunks(HEADERS.len().div_ceil(if behavior.headers_delay.is_zero() { 1 } else { 10 })) {
        if client_disconnects_within(out, behavior.headers_delay / 10)? {
            return Ok(());
        }
        out.write_all(piece)?;
    }
    let subscriber = Arc::new(Subscriber::default());
    let mut state = shared.state();
    let recorder_generation = state.truth.recorder_generation();
    let backlog = params.since.map_or(Vec::new(), |since| state.backlog.between(since, params.backlog_until));
    if !backlog_only {
        if let (true, Some(newest)) = (behavior.duplicate_newest, backlog.last()) {
            subscriber.offer(Message::Event(newest.clone()), SEND_TIMEOUT);
        }
        state.subscribers.push(subscriber.clone());
    }
    drop(state);
    let result = send_events(
        &subscriber,
        backlog,
        backlog_only,
        remaining_nanos,
        &EventStream { out, shared, behavior, recorder_generation },
    );
    subscriber.close();
    result
}

/// Sends the backlog and then, unless only the backlog was requested, live events.
fn send_events(
    subscriber: &Subscriber,
    backlog: Vec<NumberedEvent>,
    backlog_only: bool,
    remaining_nanos: Option<u64>,
    stream: &EventStream<'_>,
) -> std::io::Result<()> {
    let &EventStream { mut out, shared, behavior, .. } = stream;
    let (first, later) = backlog.split_at(behavior.stall_after.unwrap_or(usize::MAX).min(backlog.len()));
    stream.send(first.iter().cloned().map(Message::Event))?;
    if !later.is_empty() {
        drop(shared.wait_while(|behavior| behavior.stall_after.is_some()));
        stream.send(later.iter().cloned().map(Message::Event))?;
    }
    if backlog_only {
        return out.write_all(LAST_CHUNK);
    }
    let deadline =
        remaining_nanos.filter(|_| !behavior.endless_backlog).map(|left| Instant::now() + Duration::from_nanos(left));
    while let Some(messages) = subscriber.take(deadline) {
        if !stream.send(messages)? {
            return Ok(());
        }
    }
    if deadline.is_some() { out.write_all(LAST_CHUNK) } else { Ok(()) }
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Body of a response to `/events`.
struct EventStream<'a> {
    out: &'a UnixStream,
    shared: &'a Shared,
    behavior: &'a Behavior,
    /// Generation of the recorder at the other end.
    recorder_generation: u64,
}

impl EventStream<'_> {
    /// Sends messages, and marks their events as delivered. Returns true if the stream continues.
    fn send(&self, messages: impl IntoIterator<Item = Message>) -> std::io::Result<bool> {
        let (mut chunks, mut numbers, mut lines, mut last_bytes) = (Vec::new(), Vec::new(), Vec::new(), None);
        for message in messages {
            match message {
                Message::Event(event) => {
                    numbers.push(event.number);
                    lines.push(event.line.clone());
                    chunks.push(
                        match self.behavior.framing {
                            Framing::Lf => format!("{}\n", event.line),
                            Framing::CrLf => format!("{}\r\n", event.line),
                            Framing::JsonSeq => format!("\x1e{}\n", event.line),
                        }
                        .into_bytes(),
                    );
                }
                Message::Bytes(bytes) => chunks.push(bytes),
                Message::End => last_bytes = Some(LAST_CHUNK.to_owned()),
                Message::Cut(bytes) => last_bytes = Some(bytes),
            }
            if last_bytes.is_some() {
                break;
            }
        }
        if let Err(e) = self.write(chunks) {
            self.shared.state().truth.torn.extend(lines);
            return Err(e);
        }
        self.shared.state().truth.mark_delivered(numbers, self.recorder_generation);
        if let Some(last) = &last_bytes {
            (&mut &*self.out).write_all(last)?;
        }
        Ok(last_bytes.is_none())
    }

    fn write(&self, chunks: Vec<Vec<u8>>) -> std::io::Result<()> {
        let mut out = self.out;
        match self.behavior.chunking {
            Chunking::PerEvent => {
                // Large writes, so that writing does not limit the rate of a fast engine.
                for batch in chunks.chunks(64) {
                    out.write_all(&batch.iter().flat_map(|bytes| chunk(bytes)).collect::<Vec<u8>>())?;
                }
            }
            Chunking::PerByte => {
                for byte in chunks.concat() {
                    out.write_all(&chunk(&[byte]))?;
                }
            }
            Chunking::Random => {
                let bytes = chunks.concat();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(fastrand::usize(1..=64).min(rest.len()));
                    out.write_all(&chunk(piece))?;
                    rest = after;
                }
            }
        }
        Ok(())
    }
}

/// Starts an engine whose socket is in a new test directory.
pub(crate) fn start_engine() -> (TestDir, Engine) {
    let test_dir = TestDir::new();
    let engine = Engine::start(test_dir.path("docker.sock"));
    (test_dir, engine)
}

/// ID of the simulated container with this name.
pub(crate) fn container_id(name: &str) -> String {
    name.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect()
}

/// Current time in nanoseconds since the epoch.
pub(crate) fn now_nano() -> i64 {
    chrono::Utc::now().timestamp_nanos_opt().expect("the year is before 2262")
}

/// Encodes bytes as one chunk of a body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The `n`th generated event, at one event per second.
pub(crate) fn event(n: u64) -> String {
    event_at(n, 1_790_000_000_000_000_000 + n as i64 * 1_000_000_000)
}

/// The `n`th generated event with another time, in nanoseconds since the epoch.
pub(crate) fn event_at(n: u64, time_nano: i64) -> String {
    let action = ["create", "start", "die", "destroy"][(n % 4) as usize];
    let (id, seconds) = (format!("{:064x}", n / 4), time_nano / 1_000_000_000);
    format!(
        r#"{{"status":"{action}","id":"{id}","from":"busybox","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"image":"busybox","name":"box-{}"}}}},"scope":"local","time":{seconds},"timeNano":{time_nano}}}"#,
        n / 4
    )
}

/// Generated events with these numbers, as lines.
pub(crate) fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(event).collect()
}

/// Printed time of the `n`th generated event.
pub(crate) fn event_time(n: u64) -> String {
    events::query::time::rfc3339(1_790_000_000_000_000_000 + n as i64 * 1_000_000_000)
}

/// Path of an engine's socket in a directory.
pub(crate) fn socket_in(dir: &Path) -> PathBuf {
    dir.join("docker.sock")
}
