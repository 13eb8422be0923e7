//! Silence is not death, and death is not silence: an engine that is gone without a word is found.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use events::commands::record::{Plan, record};
use support::command::{Folder, eventually};
use support::engine::{Engine, event, events};

/// A way to an engine over TCP that can go dead: connections stay open and are taken, and nothing comes any more.
struct Line {
    port: u16,
    dead: Arc<AtomicBool>,
}

impl Line {
    fn to(socket: PathBuf) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, dead) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let line = dead.clone();
        std::thread::spawn(move || {
            // What goes dead stays open, for ever.
            for caller in listener.incoming().map_while(Result::ok) {
                let Ok(engine) = UnixStream::connect(&socket) else { continue };
                let (there, back) = (caller.try_clone().unwrap(), engine.try_clone().unwrap());
                forward(caller, engine, line.clone());
                forward(back, there, line.clone());
            }
        });
        Line { port, dead }
    }

    fn host(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }
}

/// A connection that can be ended from either side.
trait Ending {
    fn ends(&self);
}

impl Ending for TcpStream {
    fn ends(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

impl Ending for UnixStream {
    fn ends(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

fn forward(mut from: impl Read + Send + 'static, mut to: impl Write + Ending + Send + 'static, dead: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut block = [0; 4096];
        loop {
            let read = from.read(&mut block).unwrap_or(0);
            // A connection that was open while the line was dead never says anything again.
            if dead.load(Ordering::SeqCst) {
                std::mem::forget((from, to));
                return;
            }
            if read == 0 || to.write_all(&block[..read]).is_err() {
                return to.ends();
            }
        }
    });
}

/// Records in this process, so that it can be told how often to ask.
fn recording(
    folder: &Folder,
    host: &str,
    ping: Duration,
) -> (tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>) {
    let plan = Plan { look_again: None, ping, ..Plan::new(vec![host.parse().unwrap()], folder.db()) };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let recorder = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(record(plan, async { stopped.await.unwrap() }));
        done.map(|_| ()).unwrap();
    });
    (stop, recorder)
}

fn gaps(folder: &Folder) -> Vec<String> {
    folder.json(&["gaps"]).iter().map(|gap| gap["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_line_that_goes_dead_is_found_without_a_second_look() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let line = Line::to(folder.path("docker.sock"));
    engine.happens(&event(0));
    let (stop, recorder) = recording(&folder, &line.host(), Duration::from_millis(100));
    folder.eventually("it is recorded", || match folder.run(&["query"]).lines() {
        lines if lines == events(0..1) => Ok(()),
        lines => Err(lines),
    });
    line.dead.store(true, Ordering::SeqCst);
    engine.happens(&event(1));
    folder.eventually("the gap is open", || match gaps(&folder) {
        gaps if gaps == ["first-contact", "disconnected"] => Ok(()),
        gaps => Err(gaps),
    });
    line.dead.store(false, Ordering::SeqCst);
    folder.eventually_lines(&["query"], &events(0..2));
    folder.eventually("nothing was missed", || match gaps(&folder) {
        gaps if gaps == ["first-contact"] => Ok(()),
        gaps => Err(gaps),
    });
    stop.send(()).unwrap();
    recorder.join().unwrap();
}

#[test]
fn an_idle_stream_that_answers_is_left_alone() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let (stop, recorder) = recording(&folder, &engine.host(), Duration::from_millis(20));
    let pings = || engine.requests().iter().filter(|request| request.ends_with("/_ping")).count();
    eventually("it is asked whether it is there", || if pings() > 20 { Ok(()) } else { Err(pings()) });
    let streams = engine.requests().iter().filter(|request| *request == "/events?since=0").count();
    assert_eq!((streams, engine.listeners()), (1, 1));
    stop.send(()).unwrap();
    recorder.join().unwrap();
}

#[test]
fn who_looks_again_often_need_not_ask() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let recorder = folder.record(&engine.host(), &["--look-again", "20ms"]);
    let looks = || engine.requests().iter().filter(|request| request.ends_with("until=0")).count();
    eventually("it is looked", || if looks() > 20 { Ok(()) } else { Err(looks()) });
    assert_eq!(engine.requests().iter().filter(|request| request.ends_with("/_ping")).count(), 1);
    recorder.stop();
}
