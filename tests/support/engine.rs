//! A simulated engine: behaves on `/events` as moby's source does, and does what the script of a test says. It speaks
//! HTTP by hand, so that it can speak it badly.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};

/// How many events an engine remembers.
const MEMORY: usize = 256;

pub struct Engine {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    running: Option<Running>,
}

struct State {
    id: String,
    name: String,
    ring: VecDeque<String>,
    subscribers: Vec<Sender<Message>>,
    /// The targets of all requests, oldest first.
    requests: Vec<String>,
    /// What it shows elsewhere, by path.
    pages: HashMap<String, String>,
    manner: Manner,
    /// By how many milliseconds its clock is ahead, if it tells.
    clock: Option<i64>,
    connections: Vec<UnixStream>,
    /// What those that stalled still have to bring.
    stalled: Vec<(Sender<Message>, Vec<Message>)>,
}

/// How the engine answers `/events`.
#[derive(Clone, Default)]
pub struct Manner {
    /// Instead of the stream: this whole answer.
    pub instead: Option<String>,
    /// Each byte in a chunk of its own.
    pub bytewise: bool,
    /// The answer to the question for the memory alone does not end.
    pub endless_memory: bool,
    /// What it remembers comes so far, and the rest when it goes on.
    pub stalls_after: Option<usize>,
    /// A stream ends as soon as it has begun, cut.
    pub cuts_at_once: bool,
}

#[derive(Clone)]
enum Message {
    Bytes(Vec<u8>),
    /// The last chunk: a clean end.
    End,
}

struct Running {
    stopping: Arc<AtomicBool>,
    accepting: std::thread::JoinHandle<()>,
}

impl Engine {
    /// An engine that listens on a new socket at `path`.
    pub fn start(path: PathBuf) -> Engine {
        let state = State {
            id: "7a5c1ed0-0000-4000-8000-000000000001".into(),
            name: "sim".into(),
            ring: VecDeque::new(),
            subscribers: Vec::new(),
            requests: Vec::new(),
            pages: HashMap::new(),
            manner: Manner::default(),
            clock: None,
            connections: Vec::new(),
            stalled: Vec::new(),
        };
        let mut engine = Engine { socket: path, state: Arc::new(Mutex::new(state)), running: None };
        engine.come_back();
        engine
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// From now on it answers like this.
    pub fn answers(&self, manner: Manner) {
        self.state().manner = manner;
    }

    /// What has stalled goes on.
    pub fn goes_on(&self) {
        let mut state = self.state();
        state.manner.stalls_after = None;
        for (sender, messages) in state.stalled.drain(..) {
            messages.into_iter().for_each(|message| _ = sender.send(message));
        }
    }

    pub fn is_called(&self, id: &str, name: &str) {
        let mut state = self.state();
        (state.id, state.name) = (id.into(), name.into());
    }

    /// It tells its clock, which is ahead by so many milliseconds.
    pub fn has_a_clock(&self, ahead: Option<i64>) {
        self.state().clock = ahead;
    }

    /// From now on it shows this JSON at a path, without the version.
    pub fn shows(&self, path: &str, json: &str) {
        self.state().pages.insert(path.into(), json.into());
    }

    /// Something happens: it is remembered, and told to whoever listens.
    pub fn happens(&self, event: &str) {
        let mut state = self.state();
        state.remember(event);
        state.tell(Message::Bytes(format!("{event}\n").into_bytes()));
    }

    /// Something happens, and no subscriber takes it in time: it is remembered alone.
    pub fn happens_unheard(&self, event: &str) {
        self.state().remember(event);
    }

    /// Bytes come down the open streams that the engine knows nothing of.
    pub fn sends(&self, bytes: &[u8]) {
        self.state().tell(Message::Bytes(bytes.into()));
    }

    /// The open streams end properly, the engine stays.
    pub fn ends_streams(&self) {
        self.state().tell(Message::End);
        self.state().subscribers.clear();
    }

    /// All connections are cut, as by a proxy; the engine stays.
    pub fn cuts_connections(&self) {
        let mut state = self.state();
        state.subscribers.clear();
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// It stops listening, and cuts what is open. It still remembers.
    pub fn goes_away(&mut self) {
        if let Some(running) = self.running.take() {
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
    pub fn come_back(&mut self) {
        let listener = UnixListener::bind(&self.socket).expect("a socket can be bound");
        let stopping = Arc::new(AtomicBool::new(false));
        let (state, over) = (self.state.clone(), stopping.clone());
        let accepting = std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let state = state.clone();
                std::thread::spawn(move || {
                    let _ = converse(&connection, &state);
                    let _ = connection.shutdown(Shutdown::Both);
                });
            }
        });
        self.running = Some(Running { stopping, accepting });
    }

    /// Away and back, as after `systemctl restart docker`: nothing is remembered.
    pub fn restarts(&mut self) {
        self.goes_away();
        self.forgets();
        self.come_back();
    }

    pub fn forgets(&self) {
        self.state().ring.clear();
    }

    /// How many streams are open.
    pub fn listeners(&self) -> usize {
        self.state().subscribers.len()
    }

    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.goes_away();
    }
}

impl State {
    fn remember(&mut self, event: &str) {
        if self.ring.len() == MEMORY {
            self.ring.pop_front();
        }
        self.ring.push_back(event.into());
    }

    fn tell(&mut self, message: Message) {
        self.subscribers.retain(|subscriber| subscriber.send(message.clone()).is_ok());
    }
}

/// Answers one request on a connection, as the client wants no more of it.
fn converse(connection: &UnixStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut locked = state.lock().unwrap_or_else(|e| e.into_inner());
    locked.requests.push(target.clone());
    locked.connections.push(connection.try_clone()?);
    let path = target.trim_start_matches("/v1.51");
    let mut out = connection;
    match path.split('?').next().unwrap_or_default() {
        "/_ping" => out.write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: 2\r\n\r\nOK"),
        "/info" => {
            let clock = locked.clock.map(|ahead| {
                let now = chrono::Utc::now() + chrono::TimeDelta::milliseconds(ahead);
                format!(",\"SystemTime\":\"{}\"", now.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true))
            });
            let (id, name, clock) = (&locked.id, &locked.name, clock.unwrap_or_default());
            let body = format!("{{\"ID\":\"{id}\",\"Name\":\"{name}\"{clock}}}\n");
            json(out, &body)
        }
        "/events" => {
            let manner = locked.manner.clone();
            if let Some(answer) = manner.instead {
                return out.write_all(answer.as_bytes());
            }
            if manner.cuts_at_once {
                return out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            }
            let memory_alone = path.contains("until=0") && !manner.endless_memory;
            let messages = subscribe(&mut locked, memory_alone);
            drop(locked);
            out.write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            stream(out, &messages, manner.bytewise)
        }
        page if locked.pages.contains_key(page) => json(out, &locked.pages[page]),
        _ => out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 29\r\n\r\n{\"message\":\"page not found\"}\n"),
    }
}

fn json(mut out: &UnixStream, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// What it remembers, then, unless that was all that was asked for, what happens.
fn subscribe(state: &mut State, memory_alone: bool) -> Receiver<Message> {
    let (sender, messages) = mpsc::channel();
    let line = |event: &String| Message::Bytes(format!("{event}\n").into_bytes());
    let mut remembered: Vec<Message> = state.ring.iter().map(line).collect();
    if memory_alone {
        remembered.push(Message::End);
    }
    let later = remembered.split_off(state.manner.stalls_after.unwrap_or(usize::MAX).min(remembered.len()));
    remembered.into_iter().for_each(|message| sender.send(message).expect("the receiver is held here"));
    if !later.is_empty() {
        state.stalled.push((sender.clone(), later));
    }
    if !memory_alone {
        state.subscribers.push(sender);
    }
    messages
}

fn stream(mut out: &UnixStream, messages: &Receiver<Message>, bytewise: bool) -> std::io::Result<()> {
    for message in messages {
        match message {
            Message::End => return out.write_all(b"0\r\n\r\n"),
            Message::Bytes(bytes) if bytewise => {
                for byte in bytes {
                    out.write_all(&[b'1', b'\r', b'\n', byte, b'\r', b'\n'])?;
                }
            }
            Message::Bytes(bytes) => {
                write!(out, "{:x}\r\n", bytes.len())?;
                out.write_all(&bytes)?;
                out.write_all(b"\r\n")?;
            }
        }
    }
    Ok(())
}

/// The `n`th event of a made-up life: one a second.
pub fn event(n: u64) -> String {
    event_at(n, 1_790_000_000_000_000_000 + n as i64 * 1_000_000_000)
}

/// The same at some other instant, in nanoseconds since the epoch.
pub fn event_at(n: u64, time_nano: i64) -> String {
    let action = ["create", "start", "die", "destroy"][(n % 4) as usize];
    let (id, seconds) = (format!("{:064x}", n / 4), time_nano / 1_000_000_000);
    format!(
        r#"{{"status":"{action}","id":"{id}","from":"busybox","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"image":"busybox","name":"box-{}"}}}},"scope":"local","time":{seconds},"timeNano":{time_nano}}}"#,
        n / 4
    )
}

/// Events by number, as lines.
pub fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(event).collect()
}

/// When the `n`th event was, as it is printed.
pub fn instant(n: u64) -> String {
    events::query::time::rfc3339(1_790_000_000_000_000_000 + n as i64 * 1_000_000_000)
}

/// A path in a folder, as a socket's.
pub fn socket_in(folder: &Path) -> PathBuf {
    folder.join("docker.sock")
}
