//! Silence is not death, and death is not silence: an engine that is gone without a word is found.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::command::{Folder, eventually};
use crate::support::engine::{Engine, event, events};
use crate::support::line::Line;
use events::commands::record::{Plan, record};

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
    let socket = folder.path("docker.sock");
    let line = Line::to(move || UnixStream::connect(&socket));
    engine.happens(&event(0));
    let (stop, recorder) = recording(&folder, &line.host(), Duration::from_millis(100));
    folder.eventually("it is recorded", || match folder.run(&["query"]).lines() {
        lines if lines == events(0..1) => Ok(()),
        lines => Err(lines),
    });
    line.goes_dead();
    engine.happens(&event(1));
    folder.eventually("the gap is open", || match gaps(&folder) {
        gaps if gaps == ["first-contact", "disconnected"] => Ok(()),
        gaps => Err(gaps),
    });
    line.comes_back();
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
