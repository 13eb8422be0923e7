//! Idle and dead connections: a connection that dies silently is found, and an idle one stays open.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::command::{TestDir, eventually};
use crate::support::engine::{Engine, event, events, start_engine};
use crate::support::tcp_proxy::TcpProxy;
use events::recorder::{Config, Recorder};
use tokio_util::sync::CancellationToken;

/// Starts a recorder in this process, because the interval of liveness probes has no flag.
fn start_recorder(test_dir: &TestDir, host: &str, ping: Duration) -> (CancellationToken, std::thread::JoinHandle<()>) {
    let config = Config::new(vec![host.parse().unwrap()], test_dir.db());
    let config = Config { backlog_check_interval: None, ping_interval: ping, ..config };
    let shutdown = CancellationToken::new();
    let recording = Recorder::run(config, shutdown.clone());
    let recorder = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(recording).unwrap();
    });
    (shutdown, recorder)
}

#[test]
fn a_dead_connection_is_found_without_a_backlog_check() {
    let test_dir = TestDir::new();
    let engine = Engine::start(test_dir.path("docker.sock"));
    let socket = test_dir.path("docker.sock");
    let proxy = TcpProxy::start(move || UnixStream::connect(&socket));
    engine.emit(&event(0));
    let (stop, recorder) = start_recorder(&test_dir, &proxy.host(), Duration::from_millis(100));
    test_dir.eventually_lines(&["query"], &events(0..1));
    proxy.blackhole();
    engine.emit(&event(1));
    test_dir.eventually_gap_reasons(&["first-contact", "disconnected"]);
    proxy.restore();
    test_dir.eventually_lines(&["query"], &events(0..2));
    test_dir.eventually_gap_reasons(&["first-contact"]);
    stop.cancel();
    recorder.join().unwrap();
}

#[test]
fn an_idle_stream_of_a_live_engine_stays_open() {
    let (test_dir, engine) = start_engine();
    let (stop, recorder) = start_recorder(&test_dir, &engine.host(), Duration::from_millis(500));
    let pings = || engine.requests().iter().filter(|request| request.ends_with("/_ping")).count();
    eventually("the recorder pings", || if pings() > 3 { Ok(()) } else { Err(pings()) });
    let streams = engine.requests().iter().filter(|request| *request == "/events?since=0").count();
    assert_eq!((streams, engine.subscriber_count()), (1, 1));
    stop.cancel();
    recorder.join().unwrap();
}

#[test]
fn frequent_backlog_checks_replace_pings() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--look-again", "20ms"]);
    let checks = || engine.requests().iter().filter(|request| request.ends_with("until=0")).count();
    eventually("backlog checks run", || if checks() > 20 { Ok(()) } else { Err(checks()) });
    assert_eq!(engine.requests().iter().filter(|request| request.ends_with("/_ping")).count(), 1);
    recorder.stop();
}
