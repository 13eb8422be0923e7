//! Tests the recorder under faults: every obtainable event is stored exactly once, and every other event is in a gap.
//! The test records from a simulated engine with the real binary, and prints a table with a row for each fault.
//!
//! Run it with `cargo test --release --test under_fire`. Arguments are parts of fault names, to run only those.
//! `FIRE_ROUNDS=1000` sets the number of kills.
//!
//! - obtainable: sent completely to a recorder that then ran for at least a second, or in the backlog when the recorder
//!   received SIGTERM, or stored
//! - lost: obtainable, and not stored
//! - doubled: stored more than once
//! - unexplained: emitted, not stored, and in no gap that `events gaps` prints for its engine
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "prints a table of its faults")]

#[path = "it/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use events::query::time::parse_time;
use rusqlite::Connection;
use support::command::{Running, TestDir, eventually, within};
use support::engine::{Behavior, Chunking, Engine, Framing, Truth, event_at};

/// Limit of the recorder's peak memory, in bytes, for every fault.
const MAX_PEAK_MEMORY: u64 = 256_000_000;

type FaultCase = (&'static str, u32, fn(&mut Scene));

fn faults() -> Vec<FaultCase> {
    let rounds = std::env::var("FIRE_ROUNDS").map_or(100, |rounds| rounds.parse().expect("FIRE_ROUNDS is a number"));
    vec![
        ("SIGKILL of the recorder at random moments", rounds, kill_at_random_moments),
        ("SIGKILL while the recorder creates its store", 20, kill_during_creation),
        ("the recorder is suspended, and the engine drops events", 5, suspend_recorder),
        ("the stream lacks events that are in the backlog", 5, omit_from_stream),
        ("the stream lacks more events than the backlog contains", 3, omit_more_than_the_backlog),
        ("streams end cleanly, are cut, end in invalid HTTP", 30, end_streams),
        ("streams are cut inside an event or a character", 20, cut_inside_an_event),
        ("the engine restarts", 5, restart_engine),
        ("another engine listens on the same socket", 3, replace_engine),
        ("connections are refused, briefly or for seconds", 2, refuse_connections),
        ("streams stall; requests get no response", 2, stall_streams),
        ("chunks of one byte, chunks of random size", 4, split_chunks),
        ("garbage, cut JSON, JSON that is not an event, invalid UTF-8, NULs, 100,000 [", 10, send_junk),
        ("duplicate keys, escaped NULs, CRLF, json-seq", 3, send_odd_json),
        ("an event of 5 MB", 3, send_large_events),
        ("500, a redirect, HTML, invalid HTTP or nothing in place of a stream", 5, send_invalid_responses),
        ("headers arrive slowly", 2, delay_headers),
        ("events out of order, with equal times, or both in the backlog and live", 10, emit_out_of_order),
        ("the clock is set back by an hour", 3, set_clock_back),
        ("the store is locked for 10 s at 2,000 events/s", 1, lock_store),
        ("the store is locked repeatedly", 10, lock_store_repeatedly),
        ("the disk is full", 3, fill_disk),
        ("the disk is full while the oldest events are deleted", 2, fill_disk_while_pruning),
        ("SIGKILL while the oldest events are deleted", 10, kill_while_pruning),
        ("200,000 old events are deleted while 2,000 a second arrive", 1, prune_under_load),
        ("200,000 events at 20,000/s", 1, flood_recorder),
        ("the buffer overflows on purpose", 1, overflow_buffer),
    ]
}

fn main() {
    enter_private_mount_namespace();
    let patterns: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_selected = |name: &str| patterns.is_empty() || patterns.iter().any(|pattern| name.contains(pattern));
    let mut failed = Vec::new();
    println!("\n{HEADER}");
    for (name, rounds, inject_fault) in faults().into_iter().filter(|(name, ..)| is_selected(name)) {
        let mut scene = Scene::new(name, rounds);
        match catch_unwind(AssertUnwindSafe(|| scene.run(inject_fault))) {
            Ok(row) => {
                println!("{}", row.line());
                failed.extend(row.failure().map(|failure| format!("{name}: {failure}")));
            }
            Err(_) => {
                println!("| {name} | {rounds} | failed |");
                failed.push(name.to_owned());
            }
        }
    }
    println!();
    if !failed.is_empty() {
        eprintln!("failed faults:\n  {}", failed.join("\n  "));
        std::process::exit(1);
    }
}

/// Restarts the program in a private mount namespace, so that its mounts are invisible outside and end with it.
fn enter_private_mount_namespace() {
    const INSIDE: &str = "UNDER_FIRE_INSIDE";
    let args = ["--mount", "--propagation", "private"];
    let allowed = Command::new("unshare").args(args).arg("true").output().is_ok_and(|output| output.status.success());
    if allowed && std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().expect("the path of this program");
        let error =
            Command::new("unshare").args(args).arg(program).args(std::env::args().skip(1)).env(INSIDE, "1").exec();
        panic!("unshare: {error}");
    }
}

// --- the table

const HEADER: &str = "\
| fault | rounds | emitted | obtainable | stored | lost | doubled | unexplained | gaps | peak memory |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

struct Row {
    fault: &'static str,
    rounds: u32,
    emitted: usize,
    obtainable: usize,
    stored: usize,
    lost: usize,
    doubled: usize,
    unexplained: usize,
    gaps: usize,
    peak: u64,
}

impl Row {
    fn line(&self) -> String {
        let Row { fault, rounds, emitted, obtainable, stored, lost, doubled, unexplained, gaps, peak } = self;
        format!(
            "| {fault} | {rounds} | {emitted} | {obtainable} | {stored} | {lost} | {doubled} | {unexplained} | {gaps} | {} MB |",
            peak.div_ceil(1_000_000)
        )
    }

    fn failure(&self) -> Option<String> {
        let Row { emitted, lost, doubled, unexplained, peak, .. } = self;
        (*emitted == 0 || lost + doubled + unexplained > 0 || *peak > MAX_PEAK_MEMORY || *peak == 0)
            .then(|| self.line())
    }
}

// --- the scene

/// An engine, a store, and at times a recorder between them.
struct Scene {
    fault: &'static str,
    rounds: u32,
    test_dir: TestDir,
    engine: Arc<Engine>,
    recorder: Option<Running>,
    /// The number of the next event.
    next: Arc<AtomicU64>,
    peak: u64,
    /// Arguments of the recorder that limit the store: `--max-size` and its value.
    retention_args: &'static [&'static str],
}

impl Scene {
    fn new(fault: &'static str, rounds: u32) -> Scene {
        let test_dir = TestDir::with_store_subdir("store");
        let engine = Arc::new(Engine::start(test_dir.path("docker.sock")));
        Scene { fault, rounds, test_dir, engine, recorder: None, next: Arc::default(), peak: 0, retention_args: &[] }
    }

    /// Runs the fault, waits until the recorder has caught up, and evaluates the store.
    fn run(&mut self, inject_fault: fn(&mut Scene)) -> Row {
        inject_fault(self);
        self.engine.set_behavior(Behavior::default());
        if self.recorder.is_none() {
            self.record(self.retention_args);
        }
        self.wait_until_stored();
        self.stop_recorder();
        self.assert_intact();
        // The hash chain must be intact too.
        self.test_dir.run(&["verify"]).assert_exit_code(0);
        self.evaluate()
    }

    /// Starts a recorder and waits until it is connected.
    fn record(&mut self, args: &[&str]) {
        self.recorder = Some(self.test_dir.record(&self.engine.host(), args));
    }

    /// Starts a recorder.
    fn start_recorder(&mut self) {
        let host = self.engine.host();
        self.recorder = Some(self.test_dir.start(&["record", "-H", &host]));
    }

    fn recorder(&self) -> &Running {
        self.recorder.as_ref().expect("a recorder runs")
    }

    /// Kills the recorder with SIGKILL.
    fn kill_recorder(&mut self) {
        self.measure_memory();
        self.recorder.take().expect("a recorder runs").kill();
        self.engine.on_recorder_killed();
    }

    /// Stops the recorder with SIGTERM; it must exit with 0.
    fn stop_recorder(&mut self) {
        self.measure_memory();
        self.recorder.take().expect("a recorder runs").stop();
    }

    fn measure_memory(&mut self) {
        self.peak = self.peak.max(self.recorder().peak_memory().unwrap_or(0));
    }

    /// Emits this many events, one after the other.
    fn emit(&self, events: u64) {
        (0..events).for_each(|_| self.engine.emit(&next_event(&self.next)));
    }

    /// Next event, which is not emitted yet.
    fn event(&self) -> String {
        next_event(&self.next)
    }

    /// Emits `rate` events a second until the result is dropped.
    fn start_flow(&self, rate: u64) -> Flow {
        let (engine, next) = (self.engine.clone(), self.next.clone());
        spawn_flow(move |since, emitted| {
            let due = since.elapsed().as_micros() as u64 * rate / 1_000_000;
            (emitted..due).for_each(|_| engine.emit(&next_event(&next)));
            due.max(emitted)
        })
    }

    /// Emits bursts of events until the result is dropped.
    fn start_bursts(&self) -> Flow {
        let (engine, next) = (self.engine.clone(), self.next.clone());
        spawn_flow(move |_, emitted| {
            if fastrand::u8(..20) == 0 {
                let burst = if fastrand::u8(..20) == 0 { 300 } else { fastrand::u64(1..60) };
                (0..burst).for_each(|_| engine.emit(&next_event(&next)));
            }
            emitted
        })
    }

    /// Waits for a random time from the range. If a recorder runs, it must keep running.
    fn wait(&mut self, milliseconds: impl std::ops::RangeBounds<u64>) {
        let time = Duration::from_millis(fastrand::u64(milliseconds));
        let exited = within(time, || self.recorder.as_mut().is_some_and(|recorder| !recorder.is_alive()));
        assert!(!exited, "the recorder exited");
    }

    /// Waits until all obtainable events are stored. If some never are, the row counts them as lost.
    fn wait_until_stored(&self) {
        within(Duration::from_secs(40), || self.missing_count() == 0);
    }

    fn missing_count(&self) -> usize {
        // Read before the deletion limit, because more events may be deleted in between.
        let truth = self.engine.truth();
        let stored_counts = self.stored_counts(&truth);
        let kept_from = self.kept_from();
        let is_missing = |n: &usize| {
            let event = &truth.emitted[*n];
            event.is_obtainable() && stored_counts[*n] == 0 && event.time_nano >= kept_from
        };
        (0..stored_counts.len()).filter(is_missing).count()
    }

    /// Time before which events were deleted by retention, from `status`.
    fn kept_from(&self) -> i64 {
        if self.retention_args.is_empty() {
            return i64::MIN;
        }
        let status = self.test_dir.json(&["status", "--json"]);
        status[0]["db"]["pruned"]["kept_from"].as_str().map_or(i64::MIN, |text| parse_time(text, 0).expect("a time"))
    }

    /// Asserts that `status` counts the deleted events correctly. Obtainable events that are missing were certainly
    /// stored and deleted; other missing events may have been.
    fn assert_pruned_count(&self, truth: &Truth, stored_counts: &[usize], kept_from: i64) {
        let status = &self.test_dir.json(&["status", "--json"])[0]["db"]["pruned"];
        let pruned_count = status["events"].as_u64().expect("events were deleted");
        let deleted_count = |certain: bool| {
            let is_deleted = |n: &usize| {
                let event = &truth.emitted[*n];
                stored_counts[*n] == 0 && event.time_nano < kept_from && (event.is_obtainable() || !certain)
            };
            (0..stored_counts.len()).filter(is_deleted).count() as u64
        };
        assert!(
            (deleted_count(true)..=deleted_count(false)).contains(&pruned_count),
            "{}: {} {pruned_count} {}",
            self.fault,
            deleted_count(true),
            deleted_count(false)
        );
    }

    /// Number of times that each event is stored.
    fn stored_counts(&self, truth: &Truth) -> Vec<usize> {
        let mut counts = vec![0; truth.emitted.len()];
        for line in
            self.test_dir.run(&["query", "-q"]).stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
        {
            let number = truth.number(line);
            let number = number.unwrap_or_else(|| panic!("no engine emitted {}", String::from_utf8_lossy(line)));
            counts[number] += 1;
        }
        counts
    }

    /// Waits until the file is at most this large: deleted events must free their space.
    fn wait_until_at_most(&self, bytes: u64) {
        let size = || self.test_dir.db().metadata().map_or(0, |metadata| metadata.len());
        assert!(within(Duration::from_secs(30), || size() <= bytes), "{}: {} bytes", self.fault, size());
    }

    /// Asserts that SQLite finds no damage in the store.
    fn assert_intact(&self) {
        if !self.test_dir.db().exists() {
            return;
        }
        let store = Connection::open(self.test_dir.db()).expect("the store is opened");
        let result: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a result");
        assert_eq!(result, "ok", "{}", self.fault);
    }

    fn evaluate(&self) -> Row {
        let truth = self.engine.truth();
        let stored_counts = self.stored_counts(&truth);
        let gaps = self.gaps();
        let kept_from = self.kept_from();
        if !self.retention_args.is_empty() {
            self.assert_pruned_count(&truth, &stored_counts, kept_from);
        }
        let count = |condition: &dyn Fn(usize) -> bool| (0..stored_counts.len()).filter(|n| condition(*n)).count();
        let is_in_gap = |n: usize| {
            let event = &truth.emitted[n];
            gaps.iter().any(|gap| gap.source == event.engine && (gap.from..=gap.to).contains(&event.time_nano))
        };
        self.assert_rejected(&truth);
        Row {
            fault: self.fault,
            rounds: self.rounds,
            emitted: stored_counts.len(),
            obtainable: count(&|n| truth.emitted[n].is_obtainable() || stored_counts[n] > 0),
            stored: count(&|n| stored_counts[n] > 0),
            lost: count(&|n| {
                truth.emitted[n].is_obtainable() && stored_counts[n] == 0 && truth.emitted[n].time_nano >= kept_from
            }),
            doubled: stored_counts.iter().map(|times| times.saturating_sub(1)).sum(),
            unexplained: count(&|n| stored_counts[n] == 0 && !is_in_gap(n) && truth.emitted[n].time_nano >= kept_from),
            gaps: gaps.iter().filter(|gap| gap.reason != "first-contact").count(),
            peak: self.peak,
        }
    }

    fn gaps(&self) -> Vec<Gap> {
        let gaps = self.test_dir.json(&["gaps"]);
        let instant = |value: &serde_json::Value, open: i64| {
            value.as_str().map_or(open, |text| parse_time(text, 0).unwrap_or_else(|e| panic!("{text}: {e}")))
        };
        let gap = |gap: &serde_json::Value| Gap {
            source: gap["source"].as_str().expect("a source").into(),
            reason: gap["reason"].as_str().expect("a reason").into(),
            from: instant(&gap["from"], i64::MIN),
            to: instant(&gap["to"], i64::MAX),
        };
        gaps.iter().map(gap).collect()
    }

    /// Asserts that `rejected` contains all junk lines that were sent, and otherwise only parts of cut events.
    fn assert_rejected(&self, truth: &Truth) {
        const KEPT: usize = 64 * 1024;
        let mut sent: HashMap<Vec<u8>, usize> = HashMap::new();
        truth.junk.iter().for_each(|line| *sent.entry(line[..line.len().min(KEPT)].into()).or_default() += 1);
        for rejected in self.test_dir.json(&["rejected"]) {
            let bytes = rejected["bytes"].as_str().expect("bytes");
            let bytes = base64::prelude::BASE64_STANDARD.decode(bytes).expect("base64");
            match sent.get_mut(&bytes).filter(|times| **times > 0) {
                Some(times) => *times -= 1,
                None => {
                    let torn = truth.torn.iter().any(|line| line.as_bytes().starts_with(&bytes));
                    assert!(torn, "{}: this rejected line was never sent: {rejected}", self.fault);
                }
            }
        }
        let missing: Vec<_> = sent.iter().filter(|(_, times)| **times > 0).collect();
        assert!(missing.is_empty(), "{}: lines that are not events are missing in rejected: {missing:?}", self.fault);
    }
}

/// A gap as `events gaps` prints it. An open end is the minimum or maximum time.
struct Gap {
    source: String,
    reason: String,
    from: i64,
    to: i64,
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as i64
}

fn next_event(next: &AtomicU64) -> String {
    event_at(next.fetch_add(1, Ordering::Relaxed), now())
}

/// A background thread that emits events.
struct Flow {
    /// Dropped to stop the thread.
    stop_sender: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Calls `tick` every millisecond with the start time and the last result of `tick`.
fn spawn_flow(mut tick: impl FnMut(Instant, u64) -> u64 + Send + 'static) -> Flow {
    let (stop_sender, stop_receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let (since, mut emitted) = (Instant::now(), 0);
        while stop_receiver.recv_timeout(Duration::from_millis(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
            emitted = tick(since, emitted);
        }
    });
    Flow { stop_sender: Some(stop_sender), thread: Some(thread) }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop_sender = None;
        let result = self.thread.take().map(JoinHandle::join);
        assert!(result.is_none_or(|result| result.is_ok()) || std::thread::panicking(), "the flow did not panic");
    }
}

// --- the faults

fn kill_at_random_moments(scene: &mut Scene) {
    for round in 0..scene.rounds {
        let flow = scene.start_bursts();
        scene.start_recorder();
        // Some recorders run long enough that they must have stored what they received.
        scene.wait(if round % 10 == 9 { 1200..=1500 } else { 0..=200 });
        scene.kill_recorder();
        scene.wait(0..=30);
        drop(flow);
        scene.assert_intact();
    }
}

fn kill_during_creation(scene: &mut Scene) {
    for round in 0..scene.rounds {
        for file in ["events.db", "events.db-wal", "events.db-shm", "events.db.lock"] {
            let _ = std::fs::remove_file(scene.test_dir.db().with_file_name(file));
        }
        scene.emit(10);
        scene.start_recorder();
        scene.wait(0..=u64::from(round) * 3);
        scene.kill_recorder();
        scene.assert_intact();
    }
}

fn suspend_recorder(scene: &mut Scene) {
    scene.record(&["--look-again", "500ms"]);
    // Simulates hundreds of concurrent events, each of which waits 100 ms on its own.
    scene.engine.set_behavior(Behavior { send_timeout_micros: Some(1), ..Behavior::default() });
    let flow = scene.start_flow(100);
    for round in 0..scene.rounds {
        let before = scene.engine.skipped_count();
        scene.recorder().signal("STOP");
        // Fill the socket and the subscriber's queue. Then drop a few events, almost a backlog, or many more.
        while scene.engine.skipped_count() < before + [20, 200, 2000][round as usize % 3] {
            scene.emit(10);
        }
        scene.recorder().signal("CONT");
        scene.wait(1000..=1500);
    }
    drop(flow);
}

fn omit_from_stream(scene: &mut Scene) {
    scene.record(&["--look-again", "200ms"]);
    for _ in 0..scene.rounds {
        for _ in 0..40 {
            scene.emit(1);
            scene.engine.emit_to_backlog(&scene.event());
            scene.wait(0..=5);
        }
        scene.wait(200..=400);
    }
}

fn omit_more_than_the_backlog(scene: &mut Scene) {
    scene.record(&["--look-again", "200ms"]);
    for _ in 0..scene.rounds {
        scene.emit(100);
        (0..400).for_each(|_| scene.engine.emit_to_backlog(&scene.event()));
        scene.emit(1);
        scene.wait(500..=700);
    }
}

fn end_streams(scene: &mut Scene) {
    scene.record(&[]);
    let flow = scene.start_flow(500);
    for round in 0..scene.rounds {
        scene.wait(0..=60);
        match round % 3 {
            0 => scene.engine.end_streams(),
            1 => scene.engine.cut_connections(),
            _ => scene.engine.break_streams(),
        }
    }
    drop(flow);
}

fn cut_inside_an_event(scene: &mut Scene) {
    scene.record(&[]);
    for round in 0..scene.rounds {
        scene.emit(20);
        let event = scene.event().replace("box-", "bücher-📦-");
        let inside_a_character = event.find('📦').expect("the event contains it") + 2;
        let at = if round % 2 == 0 { inside_a_character } else { fastrand::usize(1..event.len()) };
        eventually("the recorder is subscribed", || match scene.engine.subscriber_count() {
            0 => Err(scene.recorder().log()),
            _ => Ok(()),
        });
        scene.engine.emit_truncated(&event, at);
        scene.wait(0..=100);
    }
}

fn restart_engine(scene: &mut Scene) {
    scene.record(&[]);
    let flow = scene.start_flow(200);
    for _ in 0..scene.rounds {
        scene.wait(100..=500);
        scene.engine.restart();
        scene.wait(100..=300);
    }
    drop(flow);
}

fn replace_engine(scene: &mut Scene) {
    scene.record(&[]);
    let flow = scene.start_flow(200);
    for round in 0..scene.rounds {
        scene.wait(300..=500);
        scene.engine.stop();
        scene.engine.clear_backlog();
        scene.engine.set_identity(&format!("0ther{round:03}-0000-4000-8000-000000000002"), &format!("other-{round}"));
        scene.wait(0..=100);
        scene.engine.start_again();
        scene.wait(300..=500);
    }
    drop(flow);
}

fn refuse_connections(scene: &mut Scene) {
    scene.record(&[]);
    let flow = scene.start_flow(100);
    for round in 0..scene.rounds {
        scene.wait(200..=300);
        scene.engine.stop();
        scene.wait(if round % 2 == 0 { 500..=800 } else { 4000..=5000 });
        scene.engine.start_again();
        scene.wait(200..=300);
    }
    drop(flow);
}

fn stall_streams(scene: &mut Scene) {
    scene.record(&["--look-again", "500ms"]);
    let flow = scene.start_flow(50);
    for round in 0..scene.rounds {
        scene.wait(200..=300);
        if round % 2 == 0 {
            scene.engine.stall_streams();
        } else {
            scene.engine.set_behavior(Behavior { hang_requests: true, ..Behavior::default() });
            scene.engine.cut_connections();
        }
        scene.wait(4000..=4500);
        scene.engine.resume();
    }
    drop(flow);
}

fn split_chunks(scene: &mut Scene) {
    scene.record(&[]);
    for round in 0..scene.rounds {
        let chunking = if round % 2 == 0 { Chunking::PerByte } else { Chunking::Random };
        scene.engine.set_behavior(Behavior { chunking, ..Behavior::default() });
        scene.engine.cut_connections();
        for _ in 0..100 {
            scene.engine.emit(&scene.event().replace("box-", "bücher-📦-"));
        }
        scene.wait_until_stored();
    }
}

fn send_junk(scene: &mut Scene) {
    scene.record(&[]);
    let deep = "[".repeat(100_000);
    let lines: [&[u8]; 9] = [
        b"garbage",
        b"{\"Type\":\"container\",\"Action\":\"sta",
        b"{\"Type\":\"container\"}",
        b"[1,2,3]",
        b"\xff\xfe\xc3(",
        b"\0\0\0\0",
        deep.as_bytes(),
        b"{\"message\":\"an error in the middle\"}",
        b"null",
    ];
    for _ in 0..scene.rounds {
        for line in lines {
            scene.emit(fastrand::u64(0..3));
            scene.engine.send_junk(line);
        }
        scene.emit(1);
    }
}

fn send_odd_json(scene: &mut Scene) {
    scene.record(&[]);
    for framing in [Framing::Lf, Framing::CrLf, Framing::JsonSeq] {
        scene.engine.set_behavior(Behavior { framing, ..Behavior::default() });
        scene.engine.cut_connections();
        for (from, to) in [
            ("", ""),
            (r#""Type":"container""#, r#""Type":"image","Type":"container""#),
            (r#""name":"#, r#""name":"one","name":"#),
            (r#""image":"busybox""#, r#""image":"\u0000\u0001\ud83d\udce6\\\"\u2028""#),
            (r#""scope":"local""#, r#""scope":"local","scope":"local","more":[{"a":null}]"#),
            (":{", ": {"),
        ] {
            scene.engine.emit(&scene.event().replace(from, to));
            scene.emit(2);
        }
        scene.wait_until_stored();
    }
}

fn send_large_events(scene: &mut Scene) {
    scene.record(&[]);
    for _ in 0..scene.rounds {
        let event = scene.event();
        let large = format!(r#""image":"{}""#, "x".repeat(5 << 20));
        scene.engine.emit(&event.replace(r#""image":"busybox""#, &large));
        scene.emit(20);
        scene.wait(0..=200);
        scene.engine.cut_connections();
    }
}

fn send_invalid_responses(scene: &mut Scene) {
    scene.record(&[]);
    let flow = scene.start_flow(20);
    for response in [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 16\r\n\r\n{\"message\":\"no\"}",
        "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "",
    ] {
        scene.engine.set_behavior(Behavior { raw_response: Some(response.into()), ..Behavior::default() });
        scene.engine.cut_connections();
        scene.wait(500..=700);
        scene.engine.set_behavior(Behavior::default());
        scene.wait(200..=400);
    }
    drop(flow);
}

fn delay_headers(scene: &mut Scene) {
    scene.record(&[]);
    scene.engine.set_behavior(Behavior { headers_delay: Duration::from_secs(1), ..Behavior::default() });
    let flow = scene.start_flow(50);
    for _ in 0..scene.rounds {
        scene.engine.cut_connections();
        scene.wait(1500..=2000);
    }
    drop(flow);
}

fn emit_out_of_order(scene: &mut Scene) {
    scene.record(&[]);
    scene.engine.set_behavior(Behavior { duplicate_newest: true, ..Behavior::default() });
    for _ in 0..scene.rounds {
        let (base_nano, number) = (now(), scene.next.fetch_add(100, Ordering::Relaxed));
        for n in 0..40 {
            scene.engine.emit(&event_at(number + n, base_nano + fastrand::i64(-130_000..=0)));
        }
        // Events with equal times, and the same stop twice, a nanosecond apart.
        (40..44).for_each(|n| scene.engine.emit(&event_at(number + n, base_nano)));
        (0..2).for_each(|nanos| {
            let stop = event_at(number + 44, base_nano + 1 + nanos).replace("\"create\"", "\"stop\"");
            scene.engine.emit(&stop);
        });
        scene.wait(0..=100);
        scene.engine.cut_connections();
    }
}

fn set_clock_back(scene: &mut Scene) {
    const HOUR: i64 = 3_600_000_000_000;
    scene.record(&[]);
    for round in 0..scene.rounds {
        scene.emit(60);
        scene.wait(0..=100);
        scene.engine.cut_connections();
        let number = scene.next.fetch_add(100, Ordering::Relaxed);
        for n in 0..60 {
            scene.engine.emit(&event_at(number + n, now() - HOUR));
        }
        if round % 2 == 0 {
            scene.kill_recorder();
            scene.assert_intact();
            scene.emit(20);
            scene.record(&[]);
        }
    }
}

/// Locks the store until the connection is dropped.
fn lock(scene: &Scene) -> Connection {
    let other = Connection::open(scene.test_dir.db()).expect("the store is opened");
    other.execute_batch("PRAGMA busy_timeout = 20000; BEGIN EXCLUSIVE").expect("the store is locked");
    other
}

fn lock_store(scene: &mut Scene) {
    scene.record(&[]);
    let flow = scene.start_flow(2000);
    scene.wait(500..=500);
    let lock = lock(scene);
    scene.wait(10_000..=10_000);
    drop(lock);
    scene.wait(500..=500);
    drop(flow);
    assert_eq!(scene.engine.skipped_count(), 0, "the stream was read all the time");
}

fn lock_store_repeatedly(scene: &mut Scene) {
    scene.record(&[]);
    let flow = scene.start_flow(2000);
    for _ in 0..scene.rounds {
        let lock = lock(scene);
        scene.wait(200..=400);
        drop(lock);
        scene.wait(0..=20);
    }
    drop(flow);
    assert_eq!(scene.engine.skipped_count(), 0, "the stream was read all the time");
}

/// Fills a disk of 8 MB with another file than the store.
fn fill_disk(scene: &mut Scene) {
    let disk = scene.test_dir.db().with_file_name("");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&disk).output();
    let mounted = mounted.expect("mount is started");
    let stderr = String::from_utf8_lossy(&mounted.stderr);
    assert!(mounted.status.success(), "mounting a small disk needs root and the right to mount: {stderr}");
    scene.record(&[]);
    let logged = |scene: &Scene, text: &str| scene.recorder().log().matches(text).count();
    let large_event = |scene: &Scene| scene.event().replace("busybox", &fastrand::u64(..).to_string().repeat(100));
    for round in 1..=scene.rounds as usize {
        scene.emit(100);
        scene.wait_until_stored();
        let ballast = disk.join("ballast");
        let filled =
            std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(&ballast).expect("the file is created"));
        assert!(filled.is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull), "the disk is full");
        eventually("the store cannot be written", || {
            (0..20).for_each(|_| scene.engine.emit(&large_event(scene)));
            if logged(scene, "waits in memory") == round { Ok(()) } else { Err(scene.recorder().log()) }
        });
        let flow = scene.start_flow(500);
        scene.wait(2000..=2000);
        drop(flow);
        assert_eq!(logged(scene, "waits in memory"), round, "the warning is logged once: {}", scene.recorder().log());
        scene.assert_intact();
        std::fs::remove_file(&ballast).expect("the ballast is deleted");
        scene.wait_until_stored();
        assert_eq!(logged(scene, "can be written again"), round, "{}", scene.recorder().log());
    }
    assert_eq!(scene.engine.skipped_count(), 0, "the stream was read all the time");
}

/// Fills the disk while retention limits the store to one megabyte.
fn fill_disk_while_pruning(scene: &mut Scene) {
    scene.retention_args = &["--max-size", "1MB"];
    let disk = scene.test_dir.db().with_file_name("");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&disk).status();
    assert!(mounted.is_ok_and(|status| status.success()), "mounting a small disk needs root and the right to mount");
    scene.record(scene.retention_args);
    let flow = scene.start_flow(4000);
    scene.wait(4000..=4000);
    for _ in 0..scene.rounds {
        let ballast = disk.join("ballast");
        let filled =
            std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(&ballast).expect("the file is created"));
        assert!(filled.is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull), "the disk is full");
        scene.wait(3000..=3000);
        scene.assert_intact();
        let copy = disk.join("copy.db");
        let output = scene.test_dir.run(&["backup", &copy.display().to_string()]).assert_exit_code(1);
        assert!(output.stderr.contains(" bytes are needed, and 0 are free"), "{}", output.stderr);
        assert!(!copy.exists());
        std::fs::remove_file(&ballast).expect("the ballast is deleted");
        scene.wait(1000..=1000);
    }
    drop(flow);
    scene.wait_until_stored();
    scene.wait_until_at_most(1_000_000);
}

/// Kills the recorder at random moments of pruning, while another program reads an old snapshot of the store.
fn kill_while_pruning(scene: &mut Scene) {
    scene.retention_args = &["--max-size", "500kB"];
    for round in 0..scene.rounds {
        scene.record(scene.retention_args);
        let reader = (round % 3 == 1).then(|| {
            let reader = Connection::open(scene.test_dir.db()).expect("the store is opened");
            reader.execute_batch("BEGIN; SELECT count(*) FROM event").expect("the store is read");
            reader
        });
        let flow = scene.start_flow(4000);
        scene.wait(300..=1500);
        scene.kill_recorder();
        drop((flow, reader));
        scene.assert_intact();
    }
    scene.record(scene.retention_args);
    let flow = scene.start_flow(2000);
    scene.wait(3000..=3000);
    drop(flow);
    scene.wait_until_stored();
    scene.wait_until_at_most(500_000);
}

/// Asserts that new events are readable within a tenth of a second during the whole deletion.
fn prune_under_load(scene: &mut Scene) {
    const DAY: i64 = 86_400_000_000_000;
    // With the entry for the name of their source, they end at a stored link of the chain, so all can be deleted.
    const OLD: u64 = 200_063;
    let old: Vec<String> = (0..OLD).map(|n| event_at(n, now() - 2 * DAY + n as i64 * 1000)).collect();
    let file = scene.test_dir.path("old.ndjson");
    std::fs::write(&file, old.join("\n")).expect("the file is written");
    scene.test_dir.run(&["import", "-q", "old.ndjson"]).assert_success();
    scene.next.store(1_000_000, Ordering::Relaxed);
    scene.record(&["--retain", "1d"]);
    let mut follower = scene.test_dir.start(&["query", "-q", "--follow", "--since", "now"]);
    let lines = follower.stdout_lines();
    let flow = scene.start_flow(2000);
    let deleted = || scene.test_dir.json(&["status", "--json"])[0]["db"]["pruned"]["events"].as_u64().unwrap_or(0);
    let mut delays: Vec<i64> = Vec::new();
    let start = Instant::now();
    while deleted() < OLD {
        assert!(start.elapsed() < Duration::from_secs(60), "{} events are deleted", deleted());
        let last_check = Instant::now();
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(100)) {
            let nano = line.rsplit_once(':').and_then(|(_, nano)| nano.trim_end_matches('}').parse::<i64>().ok());
            delays.push(now() - nano.expect("a time"));
            if last_check.elapsed() > Duration::from_millis(500) {
                break;
            }
        }
    }
    let elapsed = start.elapsed();
    drop(flow);
    drop(follower);
    delays.sort_unstable();
    let percentile = |part: usize| delays[(delays.len() - 1) * part / 1000] as f64 / 1e6;
    println!(
        "(deleted in {:.1} s; of {} new events, half were readable in {:.0} ms, 99.9 % in {:.0} ms, all in {:.0} ms)",
        elapsed.as_secs_f64(),
        delays.len(),
        percentile(500),
        percentile(999),
        percentile(1000)
    );
    assert!(delays.len() > 1000 && percentile(990) < 100.0, "99 % after {} ms", percentile(990));
}

fn flood_recorder(scene: &mut Scene) {
    scene.record(&[]);
    let flow = scene.start_flow(20_000);
    eventually("200,000 events are emitted", || {
        let emitted = scene.engine.emitted_count();
        if emitted >= 200_000 { Ok(()) } else { Err(emitted) }
    });
    drop(flow);
}

fn overflow_buffer(scene: &mut Scene) {
    scene.record(&["--buffer", "256KiB"]);
    scene.emit(50);
    scene.wait_until_stored();
    let first_number = scene.engine.emitted_count();
    let lock = lock(scene);
    let flow = scene.start_flow(5000);
    eventually("the buffer is full", || {
        if scene.recorder().log().contains("the buffer is full") { Ok(()) } else { Err(scene.engine.emitted_count()) }
    });
    scene.wait(500..=500);
    drop(flow);
    assert_eq!(scene.engine.skipped_count(), 0, "the stream was read all the time");
    // The recorder received more than its buffer may contain. It can obtain the rest only from the backlog.
    scene.engine.invalidate_deliveries_from(first_number);
    drop(lock);
    scene.wait_until_stored();
    scene.emit(10);
    scene.wait_until_stored();
    let truth = scene.engine.truth();
    let missing: Vec<usize> =
        scene.stored_counts(&truth).iter().enumerate().filter(|(_, stored)| **stored == 0).map(|(n, _)| n).collect();
    let (first, last) = (missing[0], missing[missing.len() - 1]);
    assert_eq!(missing.len(), last - first + 1, "the missing events are consecutive");
    let gaps = scene.gaps();
    let bounds: Vec<_> = gaps.iter().filter(|gap| gap.reason == "buffer-full").map(|gap| (gap.from, gap.to)).collect();
    assert_eq!(bounds, [(truth.emitted[first - 1].time_nano, truth.emitted[last + 1].time_nano)], "the gap is exact");
}
