//! A simulated engine: behaves on `/events` as moby's source does, and does what the script of a test says. It speaks
//! HTTP by hand, so that it can speak it badly; and it keeps the truth of what it made and what could be had.

mod memory;
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

use memory::{Asked, Happened, Memory};
use subscriber::{Fate, Message, PATIENCE, Subscriber};
pub(crate) use truth::Truth;

pub(crate) struct Engine {
    socket: PathBuf,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when what has stalled goes on.
    going_on: Condvar,
}

struct State {
    id: String,
    name: String,
    memory: Memory,
    subscribers: Vec<Arc<Subscriber>>,
    /// The targets of all requests, oldest first.
    requests: Vec<String>,
    /// What it shows elsewhere, by path.
    pages: HashMap<String, String>,
    /// Where it does not answer yet, by path.
    withheld: HashSet<String>,
    manner: Manner,
    /// By how many milliseconds its clock is ahead, if it tells.
    clock: Option<i64>,
    connections: HashMap<u64, UnixStream>,
    connected: u64,
    truth: Truth,
}

/// How the engine answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// Instead of the stream: this whole answer.
    pub instead: Option<String>,
    /// Where the chunks end.
    pub pieces: Pieces,
    /// What stands around an event.
    pub framing: Framing,
    /// The answer to the question for the memory alone does not end.
    pub endless_memory: bool,
    /// What it remembers comes so far, and the rest when it goes on.
    pub stalls_after: Option<usize>,
    /// Nothing is answered at all until it goes on.
    pub hangs: bool,
    /// A stream ends as soon as it has begun, cut.
    pub cuts_at_once: bool,
    /// The headers come drop by drop, and take so long.
    pub slow_headers: Duration,
    /// A stream that begins brings the newest event twice: from the memory, and as what happens.
    pub twice: bool,
    /// An event is skipped for a full subscriber so soon, in microseconds: as if many happened at once, each of which
    /// waits for itself.
    pub impatient: Option<u64>,
}

/// Where the chunks of a body end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// With each event, as an engine's.
    #[default]
    Events,
    /// With each byte.
    Bytes,
    /// Anywhere, inside a character too.
    Anywhere,
}

/// What stands around an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    #[default]
    Lf,
    CrLf,
    JsonSeq,
}

struct Running {
    stopping: Arc<AtomicBool>,
    accepting: std::thread::JoinHandle<()>,
}

impl Engine {
    /// An engine that listens on a new socket at `path`.
    pub(crate) fn start(path: PathBuf) -> Engine {
        let state = State {
            id: "7a5c1ed0-0000-4000-8000-000000000001".into(),
            name: "sim".into(),
            memory: Memory::default(),
            subscribers: Vec::new(),
            requests: Vec::new(),
            pages: HashMap::new(),
            withheld: HashSet::new(),
            manner: Manner::default(),
            clock: None,
            connections: HashMap::new(),
            connected: 0,
            truth: Truth::default(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), going_on: Condvar::new() });
        let engine = Engine { socket: path, shared, running: Mutex::new(None) };
        engine.come_back();
        engine
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// From now on it answers like this.
    pub(crate) fn answers(&self, manner: Manner) {
        self.state().manner = manner;
        self.shared.going_on.notify_all();
    }

    /// The open streams stand and bring nothing, until it goes on; new ones are as always.
    pub(crate) fn stalls_streams(&self) {
        self.state().subscribers.iter().for_each(|subscriber| subscriber.stall(true));
    }

    /// What has stalled goes on.
    pub(crate) fn goes_on(&self) {
        let mut state = self.state();
        (state.manner.stalls_after, state.manner.hangs) = (None, false);
        state.subscribers.iter().for_each(|subscriber| subscriber.stall(false));
        self.shared.going_on.notify_all();
    }

    pub(crate) fn is_called(&self, id: &str, name: &str) {
        let mut state = self.state();
        (state.id, state.name) = (id.into(), name.into());
    }

    /// It tells its clock, which is ahead by so many milliseconds.
    pub(crate) fn has_a_clock(&self, ahead: Option<i64>) {
        self.state().clock = ahead;
    }

    /// From now on it shows this JSON at a path, without the version.
    pub(crate) fn shows(&self, path: &str, json: &str) {
        let mut state = self.state();
        state.pages.insert(path.into(), json.into());
        state.withheld.remove(path);
        self.shared.going_on.notify_all();
    }

    /// From now on it does not answer what is asked at a path, until it shows something there.
    pub(crate) fn withholds(&self, path: &str) {
        self.state().withheld.insert(path.into());
    }

    /// Something happens: it is remembered, and told to whoever listens. A listener that takes too little misses it.
    pub(crate) fn happens(&self, event: &str) {
        let mut state = self.state();
        let happened = state.remember(event);
        let subscribers = state.subscribers.clone();
        // As in moby: who subscribes just now finds it in the memory, and may be told of it too.
        drop(state);
        self.tell(&subscribers, Message::Event(happened));
    }

    /// Something happens, and no subscriber takes it in time: it is remembered alone.
    pub(crate) fn happens_unheard(&self, event: &str) {
        self.state().remember(event);
    }

    /// Something happens, and the streams are cut when this much of it is sent.
    pub(crate) fn happens_cut(&self, event: &str, at: usize) {
        let mut state = self.state();
        state.remember(event);
        let part = &event.as_bytes()[..at];
        if state
            .subscribers
            .iter()
            .any(|subscriber| subscriber.offer(Message::Cut(chunk(part)), PATIENCE) == Fate::Taken)
        {
            state.truth.junk.push(part.into());
        }
        state.subscribers.clear();
    }

    /// Bytes come down the open streams that the engine knows nothing of.
    pub(crate) fn sends(&self, bytes: &[u8]) {
        let subscribers = self.state().subscribers.clone();
        self.tell(&subscribers, Message::Bytes(bytes.into()));
    }

    /// A line that is no event comes down the open streams.
    pub(crate) fn sends_junk(&self, line: &[u8]) {
        let mut state = self.state();
        let line_and_end = [line, b"\n"].concat();
        if state.subscribers.iter().any(|one| one.offer(Message::Bytes(line_and_end.clone()), PATIENCE) == Fate::Taken)
        {
            state.truth.junk.push(line.into());
        }
    }

    /// The open streams break off with what is no HTTP.
    pub(crate) fn breaks_streams(&self) {
        let subscribers = std::mem::take(&mut self.state().subscribers);
        self.tell(&subscribers, Message::Cut(b"no length at all\r\n{}\r\n".into()));
    }

    /// The open streams end properly, the engine stays.
    pub(crate) fn ends_streams(&self) {
        let subscribers = std::mem::take(&mut self.state().subscribers);
        self.tell(&subscribers, Message::End);
    }

    /// All connections are cut, as by a proxy; the engine stays.
    pub(crate) fn cuts_connections(&self) {
        let mut state = self.state();
        state.subscribers.drain(..).for_each(|subscriber| subscriber.leave());
        for (_, connection) in state.connections.drain() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.shared.going_on.notify_all();
    }

    /// It stops listening, and cuts what is open. It still remembers.
    pub(crate) fn goes_away(&self) {
        if let Some(running) = self.running.lock().expect("no holder panics").take() {
            running.stopping.store(true, Ordering::SeqCst);
            // So that accept returns; it cannot if the socket's folder is gone already.
            if UnixStream::connect(&self.socket).is_ok() {
                running.accepting.join().expect("accepting does not panic");
            }
        }
        let _ = std::fs::remove_file(&self.socket);
        self.cuts_connections();
    }

    /// It listens again, on a new socket at the same path.
    pub(crate) fn come_back(&self) {
        let listener = UnixListener::bind(&self.socket).expect("a socket can be bound");
        let stopping = Arc::new(AtomicBool::new(false));
        let (shared, over) = (self.shared.clone(), stopping.clone());
        let accepting = std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let number = shared.state().admit(&connection);
                    let _ = converse(&connection, &shared);
                    let _ = connection.shutdown(Shutdown::Both);
                    shared.state().connections.remove(&number);
                });
            }
        });
        *self.running.lock().expect("no holder panics") = Some(Running { stopping, accepting });
    }

    /// Away and back, as after `systemctl restart docker`: nothing is remembered.
    pub(crate) fn restarts(&self) {
        self.goes_away();
        self.forgets();
        self.come_back();
    }

    pub(crate) fn forgets(&self) {
        self.state().memory.forget();
    }

    /// How many streams are open.
    pub(crate) fn listeners(&self) -> usize {
        self.state().subscribers.len()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// How many events were made.
    pub(crate) fn made(&self) -> usize {
        self.state().truth.made.len()
    }

    /// The recorder was killed.
    pub(crate) fn recorder_died(&self) {
        self.state().truth.recorder_died();
    }

    /// What was made from this number on counts as not given, unless it is given again.
    pub(crate) fn takes_back_from(&self, number: usize) {
        self.state().truth.takes_back_from(number);
    }

    /// How many events were skipped for subscribers that were too slow.
    pub(crate) fn skipped(&self) -> usize {
        self.state().truth.skipped
    }

    /// The truth as it stands: what is remembered now can be had, too.
    pub(crate) fn truth(&self) -> Truth {
        let mut state = self.state();
        let (life, remembered) = (state.truth.life(), state.memory.all().map(|event| event.number).collect::<Vec<_>>());
        state.truth.gives(remembered, life);
        state.truth.clone()
    }

    fn tell(&self, subscribers: &[Arc<Subscriber>], message: Message) {
        let patience = self.state().manner.impatient.map_or(PATIENCE, Duration::from_micros);
        for subscriber in subscribers {
            match subscriber.offer(message.clone(), patience) {
                Fate::Taken => {}
                Fate::Skipped => self.state().truth.skipped += 1,
                Fate::Gone => self.state().subscribers.retain(|other| !Arc::ptr_eq(other, subscriber)),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.answers(Manner::default());
        self.state().withheld.clear();
        self.goes_away();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits while what is asked of the manner holds.
    fn wait_while(&self, stalled: impl Fn(&Manner) -> bool) -> MutexGuard<'_, State> {
        let state = self.state();
        self.going_on.wait_while(state, |state| stalled(&state.manner)).unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn remember(&mut self, event: &str) -> Happened {
        let number = self.truth.makes(&self.name, event);
        let happened = Happened { number, time_nano: self.truth.made[number].time_nano, line: event.into() };
        self.memory.push(happened.clone());
        happened
    }

    fn admit(&mut self, connection: &UnixStream) -> u64 {
        self.connected += 1;
        self.connections.insert(self.connected, connection.try_clone().expect("a connection can be shared"));
        self.connected
    }
}

/// Answers one request on a connection, as the client wants no more of it.
fn converse(connection: &UnixStream, shared: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    shared.state().requests.push(target.clone());
    let state = shared.wait_while(|manner| manner.hangs);
    let path = target.trim_start_matches("/v1.51");
    let state =
        shared.going_on.wait_while(state, |state| state.withheld.contains(path)).unwrap_or_else(|e| e.into_inner());
    let mut out = connection;
    match path.split('?').next().unwrap_or_default() {
        "/_ping" => out.write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: 2\r\n\r\nOK"),
        "/info" => {
            let clock = state.clock.map(|ahead| {
                let now = chrono::Utc::now() + chrono::TimeDelta::milliseconds(ahead);
                format!(",\"SystemTime\":\"{}\"", now.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true))
            });
            let (id, name, clock) = (&state.id, &state.name, clock.unwrap_or_default());
            let body = format!("{{\"ID\":\"{id}\",\"Name\":\"{name}\"{clock}}}\n");
            drop(state);
            json(out, &body)
        }
        "/events" => {
            let manner = state.manner.clone();
            drop(state);
            if let Some(answer) = manner.instead {
                return out.write_all(answer.as_bytes());
            }
            if manner.cuts_at_once {
                return out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            }
            tell_events(out, shared, path, &manner)
        }
        page if state.pages.contains_key(page) => {
            let body = state.pages[page].clone();
            drop(state);
            json(out, &body)
        }
        _ => {
            drop(state);
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 29\r\n\r\n{\"message\":\"page not found\"}\n")
        }
    }
}

fn json(mut out: &UnixStream, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

const HEADERS: &[u8] =
    b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Whether the client goes within that time.
fn client_goes(mut out: &UnixStream, time: Duration) -> std::io::Result<bool> {
    if time.is_zero() {
        return Ok(false);
    }
    out.set_read_timeout(Some(time))?;
    let went = matches!(out.read(&mut [0]), Ok(0));
    out.set_read_timeout(None)?;
    Ok(went)
}

/// The answer to `/events`: what it remembers of what was asked for, then what happens.
fn tell_events(mut out: &UnixStream, shared: &Shared, path: &str, manner: &Manner) -> std::io::Result<()> {
    let asked = match Asked::read(path) {
        Ok(asked) => asked,
        Err((status, message)) => {
            let body = format!("{{\"message\":{message:?}}}\n");
            return write!(out, "HTTP/1.1 {status} Refused\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as i64;
    let left = asked.until.map(|until| u64::try_from(until - now).unwrap_or(0));
    let memory_alone = left == Some(0) && !manner.endless_memory;
    // The headers go out before the subscription begins.
    for piece in HEADERS.chunks(HEADERS.len().div_ceil(if manner.slow_headers.is_zero() { 1 } else { 10 })) {
        if client_goes(out, manner.slow_headers / 10)? {
            return Ok(());
        }
        out.write_all(piece)?;
    }
    let subscriber = Arc::new(Subscriber::default());
    let mut state = shared.state();
    let life = state.truth.life();
    let remembered = asked.since.map_or(Vec::new(), |since| state.memory.between(since, asked.bounded));
    if !memory_alone {
        if let (true, Some(newest)) = (manner.twice, remembered.last()) {
            subscriber.offer(Message::Event(newest.clone()), PATIENCE);
        }
        state.subscribers.push(subscriber.clone());
    }
    drop(state);
    let told = tell(&subscriber, remembered, memory_alone, left, &Stream { out, shared, manner, life });
    subscriber.leave();
    told
}

/// Tells what is remembered, and then, unless that was all that was asked for, what happens.
fn tell(
    subscriber: &Subscriber,
    remembered: Vec<Happened>,
    memory_alone: bool,
    left: Option<u64>,
    stream: &Stream<'_>,
) -> std::io::Result<()> {
    let &Stream { mut out, shared, manner, .. } = stream;
    let (first, later) = remembered.split_at(manner.stalls_after.unwrap_or(usize::MAX).min(remembered.len()));
    stream.send(first.iter().cloned().map(Message::Event))?;
    if !later.is_empty() {
        drop(shared.wait_while(|manner| manner.stalls_after.is_some()));
        stream.send(later.iter().cloned().map(Message::Event))?;
    }
    if memory_alone {
        return out.write_all(LAST_CHUNK);
    }
    let until = left.filter(|_| !manner.endless_memory).map(|left| Instant::now() + Duration::from_nanos(left));
    while let Some(messages) = subscriber.take(until) {
        if !stream.send(messages)? {
            return Ok(());
        }
    }
    if until.is_some() { out.write_all(LAST_CHUNK) } else { Ok(()) }
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The body of an answer.
struct Stream<'a> {
    out: &'a UnixStream,
    shared: &'a Shared,
    manner: &'a Manner,
    /// Which recorder it is talked to.
    life: u64,
}

impl Stream<'_> {
    /// Sends messages, and notes which events have gone out. Whether the stream goes on.
    fn send(&self, messages: impl IntoIterator<Item = Message>) -> std::io::Result<bool> {
        let (mut chunks, mut numbers, mut lines, mut last) = (Vec::new(), Vec::new(), Vec::new(), None);
        for message in messages {
            match message {
                Message::Event(event) => {
                    numbers.push(event.number);
                    lines.push(event.line.clone());
                    chunks.push(
                        match self.manner.framing {
                            Framing::Lf => format!("{}\n", event.line),
                            Framing::CrLf => format!("{}\r\n", event.line),
                            Framing::JsonSeq => format!("\x1e{}\n", event.line),
                        }
                        .into_bytes(),
                    );
                }
                Message::Bytes(bytes) => chunks.push(bytes),
                Message::End => last = Some(LAST_CHUNK.to_owned()),
                Message::Cut(bytes) => last = Some(bytes),
            }
            if last.is_some() {
                break;
            }
        }
        if let Err(e) = self.write(chunks) {
            self.shared.state().truth.torn.extend(lines);
            return Err(e);
        }
        self.shared.state().truth.gives(numbers, self.life);
        if let Some(last) = &last {
            (&mut &*self.out).write_all(last)?;
        }
        Ok(last.is_none())
    }

    fn write(&self, chunks: Vec<Vec<u8>>) -> std::io::Result<()> {
        let mut out = self.out;
        match self.manner.pieces {
            Pieces::Events => {
                // So much at once that a fast engine is not slowed down by us.
                for some in chunks.chunks(64) {
                    out.write_all(&some.iter().flat_map(|bytes| chunk(bytes)).collect::<Vec<u8>>())?;
                }
            }
            Pieces::Bytes => {
                for byte in chunks.concat() {
                    out.write_all(&chunk(&[byte]))?;
                }
            }
            Pieces::Anywhere => {
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

/// Bytes as a chunk of a body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The `n`th event of a made-up life: one a second.
pub(crate) fn event(n: u64) -> String {
    event_at(n, 1_790_000_000_000_000_000 + n as i64 * 1_000_000_000)
}

/// The same at some other instant, in nanoseconds since the epoch.
pub(crate) fn event_at(n: u64, time_nano: i64) -> String {
    let action = ["create", "start", "die", "destroy"][(n % 4) as usize];
    let (id, seconds) = (format!("{:064x}", n / 4), time_nano / 1_000_000_000);
    format!(
        r#"{{"status":"{action}","id":"{id}","from":"busybox","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"image":"busybox","name":"box-{}"}}}},"scope":"local","time":{seconds},"timeNano":{time_nano}}}"#,
        n / 4
    )
}

/// Events by number, as lines.
pub(crate) fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(event).collect()
}

/// When the `n`th event was, as it is printed.
pub(crate) fn instant(n: u64) -> String {
    events::query::time::rfc3339(1_790_000_000_000_000_000 + n as i64 * 1_000_000_000)
}

/// A path in a folder, as a socket's.
pub(crate) fn socket_in(folder: &Path) -> PathBuf {
    folder.join("docker.sock")
}
