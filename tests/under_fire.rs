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
const MEMORY: u64 = 200_000_000;

type Fault = (&'static str, u32, fn(&mut Scene));

fn faults() -> Vec<Fault> {
    let rounds = std::env::var("FIRE_ROUNDS").map_or(100, |rounds| rounds.parse().expect("FIRE_ROUNDS is a number"));
    vec![
        ("SIGKILL of the recorder at random moments", rounds, killed),
        ("SIGKILL while the recorder creates its store", 20, killed_at_the_beginning),
        ("the recorder is suspended, and the engine drops events", 5, skipped),
        ("the stream lacks events that are in the backlog", 5, left_out),
        ("the stream lacks more events than the backlog contains", 3, left_out_for_good),
        ("streams end cleanly, are cut, end in invalid HTTP", 30, ended),
        ("streams are cut inside an event or a character", 20, cut_inside),
        ("the engine restarts", 5, restarted),
        ("another engine listens on the same socket", 3, replaced),
        ("connections are refused, briefly or for seconds", 2, refused),
        ("streams stall; requests get no response", 2, stalled),
        ("chunks of one byte, chunks of random size", 4, in_pieces),
        ("garbage, cut JSON, JSON that is not an event, invalid UTF-8, NULs, 100,000 [", 10, junk),
        ("duplicate keys, escaped NULs, CRLF, json-seq", 3, odd),
        ("an event of 5 MB", 3, large),
        ("500, a redirect, HTML, invalid HTTP or nothing in place of a stream", 5, no_streams),
        ("headers arrive slowly", 2, slow_headers),
        ("events out of order, with equal times, or both in the backlog and live", 10, disorderly),
        ("the clock is set back by an hour", 3, clock_back),
        ("the store is locked for 10 s at 2,000 events/s", 1, locked),
        ("the store is locked repeatedly", 10, slow_store),
        ("the disk is full", 3, full_disk),
        ("the disk is full while the oldest events are deleted", 2, full_disk_kept_small),
        ("SIGKILL while the oldest events are deleted", 10, kept_small),
        ("200,000 old events are deleted while 2,000 a second arrive", 1, lets_go),
        ("200,000 events at 20,000/s", 1, flood),
        ("the buffer overflows on purpose", 1, overflow),
    ]
}

fn main() {
    in_a_mount_namespace_of_our_own();
    let patterns: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_selected = |name: &str| patterns.is_empty() || patterns.iter().any(|pattern| name.contains(pattern));
    let mut failed = Vec::new();
    println!("\n{HEADER}");
    for (name, rounds, play) in faults().into_iter().filter(|(name, ..)| is_selected(name)) {
        let mut scene = Scene::new(name, rounds);
        match catch_unwind(AssertUnwindSafe(|| scene.played(play))) {
            Ok(row) => {
                println!("{}", row.line());
                failed.extend(row.wrong().map(|wrong| format!("{name}: {wrong}")));
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
fn in_a_mount_namespace_of_our_own() {
    const INSIDE: &str = "UNDER_FIRE_INSIDE";
    let args = ["--mount", "--propagation", "private"];
    let allowed = Command::new("unshare").args(args).arg("true").output().is_ok_and(|output| output.status.success());
    if allowed && std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().expect("the path of this program");
        let failed = Command::new("unshare").args(args).arg(own).args(std::env::args().skip(1)).env(INSIDE, "1").exec();
        panic!("unshare: {failed}");
    }
}

// --- the table

const HEADER: &str = "\
| fault | rounds | made | obtainable | stored | lost | doubled | unexplained | gaps | peak memory |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

struct Row {
    fault: &'static str,
    rounds: u32,
    made: usize,
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
        let Row { fault, rounds, made, obtainable, stored, lost, doubled, unexplained, gaps, peak } = self;
        format!(
            "| {fault} | {rounds} | {made} | {obtainable} | {stored} | {lost} | {doubled} | {unexplained} | {gaps} | {} MB |",
            peak.div_ceil(1_000_000)
        )
    }

    fn wrong(&self) -> Option<String> {
        let Row { made, lost, doubled, unexplained, peak, .. } = self;
        (*made == 0 || lost + doubled + unexplained > 0 || *peak > MEMORY || *peak == 0).then(|| self.line())
    }
}

// --- the scene

/// An engine, a store, and at times a recorder between them.
struct Scene {
    fault: &'static str,
    rounds: u32,
    folder: TestDir,
    engine: Arc<Engine>,
    recorder: Option<Running>,
    /// The number of the next event.
    next: Arc<AtomicU64>,
    peak: u64,
    /// Arguments of the recorder that limit the store: `--max-size` and its value.
    kept: &'static [&'static str],
}

impl Scene {
    fn new(fault: &'static str, rounds: u32) -> Scene {
        let folder = TestDir::with_store_subdir("store");
        let engine = Arc::new(Engine::start(folder.path("docker.sock")));
        Scene { fault, rounds, folder, engine, recorder: None, next: Arc::default(), peak: 0, kept: &[] }
    }

    /// Runs the fault, waits until the recorder has caught up, and evaluates the store.
    fn played(&mut self, play: fn(&mut Scene)) -> Row {
        play(self);
        self.engine.set_behavior(Behavior::default());
        if self.recorder.is_none() {
            self.records(self.kept);
        }
        self.settles();
        self.stops();
        self.is_whole();
        // The hash chain must be intact too.
        self.folder.run(&["verify"]).assert_exit_code(0);
        self.judged()
    }

    /// Starts a recorder and waits until it is connected.
    fn records(&mut self, args: &[&str]) {
        self.recorder = Some(self.folder.record(&self.engine.host(), args));
    }

    /// Starts a recorder.
    fn begins_to_record(&mut self) {
        let host = self.engine.host();
        self.recorder = Some(self.folder.start(&["record", "-H", &host]));
    }

    fn recorder(&self) -> &Running {
        self.recorder.as_ref().expect("a recorder runs")
    }

    /// Kills the recorder with SIGKILL.
    fn kills(&mut self) {
        self.looks_at_memory();
        self.recorder.take().expect("a recorder runs").kill();
        self.engine.on_recorder_killed();
    }

    /// Stops the recorder with SIGTERM; it must exit with 0.
    fn stops(&mut self) {
        self.looks_at_memory();
        self.recorder.take().expect("a recorder runs").stop();
    }

    fn looks_at_memory(&mut self) {
        self.peak = self.peak.max(self.recorder().peak_memory().unwrap_or(0));
    }

    /// Emits this many events, one after the other.
    fn happen(&self, events: u64) {
        (0..events).for_each(|_| self.engine.emit(&next_event(&self.next)));
    }

    /// Next event, which is not emitted yet.
    fn event(&self) -> String {
        next_event(&self.next)
    }

    /// Emits `rate` events a second until the result is dropped.
    fn flows(&self, rate: u64) -> Flow {
        let (engine, next) = (self.engine.clone(), self.next.clone());
        flow(move |since, made| {
            let due = since.elapsed().as_micros() as u64 * rate / 1_000_000;
            (made..due).for_each(|_| engine.emit(&next_event(&next)));
            due.max(made)
        })
    }

    /// Emits bursts of events until the result is dropped.
    fn bursts(&self) -> Flow {
        let (engine, next) = (self.engine.clone(), self.next.clone());
        flow(move |_, made| {
            if fastrand::u8(..20) == 0 {
                let burst = if fastrand::u8(..20) == 0 { 300 } else { fastrand::u64(1..60) };
                (0..burst).for_each(|_| engine.emit(&next_event(&next)));
            }
            made
        })
    }

    /// Waits for a random time from the range. If a recorder runs, it must keep running.
    fn lasts(&mut self, milliseconds: impl std::ops::RangeBounds<u64>) {
        let time = Duration::from_millis(fastrand::u64(milliseconds));
        let exited = within(time, || self.recorder.as_mut().is_some_and(|recorder| !recorder.is_alive()));
        assert!(!exited, "the recorder exited");
    }

    /// Waits until all obtainable events are stored. If some never are, the row counts them as lost.
    fn settles(&self) {
        within(Duration::from_secs(40), || self.missing() == 0);
    }

    fn missing(&self) -> usize {
        // Read before the deletion limit, because more events may be deleted in between.
        let truth = self.engine.truth();
        let stored = self.stored(&truth);
        let kept_from = self.kept_from();
        let missing = |n: &usize| {
            let made = &truth.emitted[*n];
            made.is_obtainable() && stored[*n] == 0 && made.time_nano >= kept_from
        };
        (0..stored.len()).filter(missing).count()
    }

    /// Time before which events were deleted by retention, from `status`.
    fn kept_from(&self) -> i64 {
        if self.kept.is_empty() {
            return i64::MIN;
        }
        let status = self.folder.json(&["status", "--json"]);
        status[0]["db"]["pruned"]["kept_from"].as_str().map_or(i64::MIN, |text| parse_time(text, 0).expect("a time"))
    }

    /// Asserts that `status` counts the deleted events correctly. Obtainable events that are missing were certainly
    /// stored and deleted; other missing events may have been.
    fn counts_what_went(&self, truth: &Truth, stored: &[usize], kept_from: i64) {
        let status = &self.folder.json(&["status", "--json"])[0]["db"]["pruned"];
        let counted = status["events"].as_u64().expect("events were deleted");
        let deleted = |certain: bool| {
            let is_deleted = |n: &usize| {
                let made = &truth.emitted[*n];
                stored[*n] == 0 && made.time_nano < kept_from && (made.is_obtainable() || !certain)
            };
            (0..stored.len()).filter(is_deleted).count() as u64
        };
        assert!(
            (deleted(true)..=deleted(false)).contains(&counted),
            "{}: {} {counted} {}",
            self.fault,
            deleted(true),
            deleted(false)
        );
    }

    /// Number of times that each event is stored.
    fn stored(&self, truth: &Truth) -> Vec<usize> {
        let mut stored = vec![0; truth.emitted.len()];
        for line in
            self.folder.run(&["query", "-q"]).stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
        {
            let number = truth.number(line);
            let number = number.unwrap_or_else(|| panic!("no engine emitted {}", String::from_utf8_lossy(line)));
            stored[number] += 1;
        }
        stored
    }

    /// Waits until the file is at most this large: deleted events must free their space.
    fn stays_small(&self, bytes: u64) {
        let size = || self.folder.db().metadata().map_or(0, |found| found.len());
        assert!(within(Duration::from_secs(30), || size() <= bytes), "{}: {} bytes", self.fault, size());
    }

    /// Asserts that SQLite finds no damage in the store.
    fn is_whole(&self) {
        if !self.folder.db().exists() {
            return;
        }
        let store = Connection::open(self.folder.db()).expect("the store is opened");
        let result: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a result");
        assert_eq!(result, "ok", "{}", self.fault);
    }

    fn judged(&self) -> Row {
        let truth = self.engine.truth();
        let stored = self.stored(&truth);
        let gaps = self.gaps();
        let kept_from = self.kept_from();
        if !self.kept.is_empty() {
            self.counts_what_went(&truth, &stored, kept_from);
        }
        let count = |condition: &dyn Fn(usize) -> bool| (0..stored.len()).filter(|n| condition(*n)).count();
        let is_in_gap = |n: usize| {
            let made = &truth.emitted[n];
            gaps.iter().any(|gap| gap.source == made.engine && (gap.from..=gap.to).contains(&made.time_nano))
        };
        self.rejected_are(&truth);
        Row {
            fault: self.fault,
            rounds: self.rounds,
            made: stored.len(),
            obtainable: count(&|n| truth.emitted[n].is_obtainable() || stored[n] > 0),
            stored: count(&|n| stored[n] > 0),
            lost: count(&|n| {
                truth.emitted[n].is_obtainable() && stored[n] == 0 && truth.emitted[n].time_nano >= kept_from
            }),
            doubled: stored.iter().map(|times| times.saturating_sub(1)).sum(),
            unexplained: count(&|n| stored[n] == 0 && !is_in_gap(n) && truth.emitted[n].time_nano >= kept_from),
            gaps: gaps.iter().filter(|gap| gap.reason != "first-contact").count(),
            peak: self.peak,
        }
    }

    fn gaps(&self) -> Vec<Gap> {
        let gaps = self.folder.json(&["gaps"]);
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
    fn rejected_are(&self, truth: &Truth) {
        const KEPT: usize = 64 * 1024;
        let mut sent: HashMap<Vec<u8>, usize> = HashMap::new();
        truth.junk.iter().for_each(|line| *sent.entry(line[..line.len().min(KEPT)].into()).or_default() += 1);
        for rejected in self.folder.json(&["rejected"]) {
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
    going: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Calls `tick` every millisecond with the start time and the last result of `tick`.
fn flow(mut tick: impl FnMut(Instant, u64) -> u64 + Send + 'static) -> Flow {
    let (going, over) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let (since, mut made) = (Instant::now(), 0);
        while over.recv_timeout(Duration::from_millis(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
            made = tick(since, made);
        }
    });
    Flow { going: Some(going), thread: Some(thread) }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.going = None;
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking(), "the flow did not panic");
    }
}

// --- the faults

fn killed(scene: &mut Scene) {
    for round in 0..scene.rounds {
        let flow = scene.bursts();
        scene.begins_to_record();
        // Some recorders run long enough that they must have stored what they received.
        scene.lasts(if round % 10 == 9 { 1200..=1500 } else { 0..=200 });
        scene.kills();
        scene.lasts(0..=30);
        drop(flow);
        scene.is_whole();
    }
}

fn killed_at_the_beginning(scene: &mut Scene) {
    for round in 0..scene.rounds {
        for file in ["events.db", "events.db-wal", "events.db-shm", "events.db.lock"] {
            let _ = std::fs::remove_file(scene.folder.db().with_file_name(file));
        }
        scene.happen(10);
        scene.begins_to_record();
        scene.lasts(0..=u64::from(round) * 3);
        scene.kills();
        scene.is_whole();
    }
}

fn skipped(scene: &mut Scene) {
    scene.records(&["--look-again", "500ms"]);
    // Simulates hundreds of concurrent events, each of which waits 100 ms on its own.
    scene.engine.set_behavior(Behavior { send_timeout_micros: Some(1), ..Behavior::default() });
    let flow = scene.flows(100);
    for round in 0..scene.rounds {
        let before = scene.engine.skipped_count();
        scene.recorder().signal("STOP");
        // Fill the socket and the subscriber's queue. Then drop a few events, almost a backlog, or many more.
        while scene.engine.skipped_count() < before + [20, 200, 2000][round as usize % 3] {
            scene.happen(10);
        }
        scene.recorder().signal("CONT");
        scene.lasts(1000..=1500);
    }
    drop(flow);
}

fn left_out(scene: &mut Scene) {
    scene.records(&["--look-again", "200ms"]);
    for _ in 0..scene.rounds {
        for _ in 0..40 {
            scene.happen(1);
            scene.engine.emit_to_backlog(&scene.event());
            scene.lasts(0..=5);
        }
        scene.lasts(200..=400);
    }
}

fn left_out_for_good(scene: &mut Scene) {
    scene.records(&["--look-again", "200ms"]);
    for _ in 0..scene.rounds {
        scene.happen(100);
        (0..400).for_each(|_| scene.engine.emit_to_backlog(&scene.event()));
        scene.happen(1);
        scene.lasts(500..=700);
    }
}

fn ended(scene: &mut Scene) {
    scene.records(&[]);
    let flow = scene.flows(500);
    for round in 0..scene.rounds {
        scene.lasts(0..=60);
        match round % 3 {
            0 => scene.engine.end_streams(),
            1 => scene.engine.cut_connections(),
            _ => scene.engine.break_streams(),
        }
    }
    drop(flow);
}

fn cut_inside(scene: &mut Scene) {
    scene.records(&[]);
    for round in 0..scene.rounds {
        scene.happen(20);
        let event = scene.event().replace("box-", "bücher-📦-");
        let inside_a_character = event.find('📦').expect("the event contains it") + 2;
        let at = if round % 2 == 0 { inside_a_character } else { fastrand::usize(1..event.len()) };
        eventually("the recorder is subscribed", || match scene.engine.subscriber_count() {
            0 => Err(scene.recorder().log()),
            _ => Ok(()),
        });
        scene.engine.emit_truncated(&event, at);
        scene.lasts(0..=100);
    }
}

fn restarted(scene: &mut Scene) {
    scene.records(&[]);
    let flow = scene.flows(200);
    for _ in 0..scene.rounds {
        scene.lasts(100..=500);
        scene.engine.restart();
        scene.lasts(100..=300);
    }
    drop(flow);
}

fn replaced(scene: &mut Scene) {
    scene.records(&[]);
    let flow = scene.flows(200);
    for round in 0..scene.rounds {
        scene.lasts(300..=500);
        scene.engine.stop();
        scene.engine.clear_backlog();
        scene.engine.set_identity(&format!("0ther{round:03}-0000-4000-8000-000000000002"), &format!("other-{round}"));
        scene.lasts(0..=100);
        scene.engine.start_again();
        scene.lasts(300..=500);
    }
    drop(flow);
}

fn refused(scene: &mut Scene) {
    scene.records(&[]);
    let flow = scene.flows(100);
    for round in 0..scene.rounds {
        scene.lasts(200..=300);
        scene.engine.stop();
        scene.lasts(if round % 2 == 0 { 500..=800 } else { 4000..=5000 });
        scene.engine.start_again();
        scene.lasts(200..=300);
    }
    drop(flow);
}

fn stalled(scene: &mut Scene) {
    scene.records(&["--look-again", "500ms"]);
    let flow = scene.flows(50);
    for round in 0..scene.rounds {
        scene.lasts(200..=300);
        if round % 2 == 0 {
            scene.engine.stall_streams();
        } else {
            scene.engine.set_behavior(Behavior { hang_requests: true, ..Behavior::default() });
            scene.engine.cut_connections();
        }
        scene.lasts(4000..=4500);
        scene.engine.resume();
    }
    drop(flow);
}

fn in_pieces(scene: &mut Scene) {
    scene.records(&[]);
    for round in 0..scene.rounds {
        let pieces = if round % 2 == 0 { Chunking::PerByte } else { Chunking::Random };
        scene.engine.set_behavior(Behavior { chunking: pieces, ..Behavior::default() });
        scene.engine.cut_connections();
        for _ in 0..100 {
            scene.engine.emit(&scene.event().replace("box-", "bücher-📦-"));
        }
        scene.settles();
    }
}

fn junk(scene: &mut Scene) {
    scene.records(&[]);
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
            scene.happen(fastrand::u64(0..3));
            scene.engine.send_junk(line);
        }
        scene.happen(1);
    }
}

fn odd(scene: &mut Scene) {
    scene.records(&[]);
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
            scene.happen(2);
        }
        scene.settles();
    }
}

fn large(scene: &mut Scene) {
    scene.records(&[]);
    for _ in 0..scene.rounds {
        let event = scene.event();
        let large = format!(r#""image":"{}""#, "x".repeat(5 << 20));
        scene.engine.emit(&event.replace(r#""image":"busybox""#, &large));
        scene.happen(20);
        scene.lasts(0..=200);
        scene.engine.cut_connections();
    }
}

fn no_streams(scene: &mut Scene) {
    scene.records(&[]);
    let flow = scene.flows(20);
    for answer in [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 16\r\n\r\n{\"message\":\"no\"}",
        "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "",
    ] {
        scene.engine.set_behavior(Behavior { raw_response: Some(answer.into()), ..Behavior::default() });
        scene.engine.cut_connections();
        scene.lasts(500..=700);
        scene.engine.set_behavior(Behavior::default());
        scene.lasts(200..=400);
    }
    drop(flow);
}

fn slow_headers(scene: &mut Scene) {
    scene.records(&[]);
    scene.engine.set_behavior(Behavior { headers_delay: Duration::from_secs(1), ..Behavior::default() });
    let flow = scene.flows(50);
    for _ in 0..scene.rounds {
        scene.engine.cut_connections();
        scene.lasts(1500..=2000);
    }
    drop(flow);
}

fn disorderly(scene: &mut Scene) {
    scene.records(&[]);
    scene.engine.set_behavior(Behavior { duplicate_newest: true, ..Behavior::default() });
    for _ in 0..scene.rounds {
        let (begin, number) = (now(), scene.next.fetch_add(100, Ordering::Relaxed));
        for n in 0..40 {
            scene.engine.emit(&event_at(number + n, begin + fastrand::i64(-130_000..=0)));
        }
        // Events with equal times, and the same stop twice, a nanosecond apart.
        (40..44).for_each(|n| scene.engine.emit(&event_at(number + n, begin)));
        (0..2).for_each(|later| {
            let stop = event_at(number + 44, begin + 1 + later).replace("\"create\"", "\"stop\"");
            scene.engine.emit(&stop);
        });
        scene.lasts(0..=100);
        scene.engine.cut_connections();
    }
}

fn clock_back(scene: &mut Scene) {
    const HOUR: i64 = 3_600_000_000_000;
    scene.records(&[]);
    for round in 0..scene.rounds {
        scene.happen(60);
        scene.lasts(0..=100);
        scene.engine.cut_connections();
        let number = scene.next.fetch_add(100, Ordering::Relaxed);
        for n in 0..60 {
            scene.engine.emit(&event_at(number + n, now() - HOUR));
        }
        if round % 2 == 0 {
            scene.kills();
            scene.is_whole();
            scene.happen(20);
            scene.records(&[]);
        }
    }
}

/// Locks the store until the connection is dropped.
fn lock(scene: &Scene) -> Connection {
    let other = Connection::open(scene.folder.db()).expect("the store is opened");
    other.execute_batch("PRAGMA busy_timeout = 20000; BEGIN EXCLUSIVE").expect("the store is locked");
    other
}

fn locked(scene: &mut Scene) {
    scene.records(&[]);
    let flow = scene.flows(2000);
    scene.lasts(500..=500);
    let lock = lock(scene);
    scene.lasts(10_000..=10_000);
    drop(lock);
    scene.lasts(500..=500);
    drop(flow);
    assert_eq!(scene.engine.skipped_count(), 0, "the stream was read all the time");
}

fn slow_store(scene: &mut Scene) {
    scene.records(&[]);
    let flow = scene.flows(2000);
    for _ in 0..scene.rounds {
        let lock = lock(scene);
        scene.lasts(200..=400);
        drop(lock);
        scene.lasts(0..=20);
    }
    drop(flow);
    assert_eq!(scene.engine.skipped_count(), 0, "the stream was read all the time");
}

/// Fills a disk of 8 MB with another file than the store.
fn full_disk(scene: &mut Scene) {
    let disk = scene.folder.db().with_file_name("");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&disk).output();
    let mounted = mounted.expect("mount is started");
    let stderr = String::from_utf8_lossy(&mounted.stderr);
    assert!(mounted.status.success(), "mounting a small disk needs root and the right to mount: {stderr}");
    scene.records(&[]);
    let logged = |scene: &Scene, text: &str| scene.recorder().log().matches(text).count();
    let wide = |scene: &Scene| scene.event().replace("busybox", &fastrand::u64(..).to_string().repeat(100));
    for round in 1..=scene.rounds as usize {
        scene.happen(100);
        scene.settles();
        let ballast = disk.join("ballast");
        let filled =
            std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(&ballast).expect("the file is created"));
        assert!(filled.is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull), "the disk is full");
        eventually("the store cannot be written", || {
            (0..20).for_each(|_| scene.engine.emit(&wide(scene)));
            if logged(scene, "waits in memory") == round { Ok(()) } else { Err(scene.recorder().log()) }
        });
        let flow = scene.flows(500);
        scene.lasts(2000..=2000);
        drop(flow);
        assert_eq!(logged(scene, "waits in memory"), round, "the warning is logged once: {}", scene.recorder().log());
        scene.is_whole();
        std::fs::remove_file(&ballast).expect("the ballast is deleted");
        scene.settles();
        assert_eq!(logged(scene, "can be written again"), round, "{}", scene.recorder().log());
    }
    assert_eq!(scene.engine.skipped_count(), 0, "the stream was read all the time");
}

/// Fills the disk while retention limits the store to one megabyte.
fn full_disk_kept_small(scene: &mut Scene) {
    scene.kept = &["--max-size", "1MB"];
    let disk = scene.folder.db().with_file_name("");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(&disk).status();
    assert!(mounted.is_ok_and(|status| status.success()), "mounting a small disk needs root and the right to mount");
    scene.records(scene.kept);
    let flow = scene.flows(4000);
    scene.lasts(4000..=4000);
    for _ in 0..scene.rounds {
        let ballast = disk.join("ballast");
        let filled =
            std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(&ballast).expect("the file is created"));
        assert!(filled.is_err_and(|e| e.kind() == std::io::ErrorKind::StorageFull), "the disk is full");
        scene.lasts(3000..=3000);
        scene.is_whole();
        let copy = disk.join("copy.db");
        let output = scene.folder.run(&["backup", &copy.display().to_string()]).assert_exit_code(1);
        assert!(output.stderr.contains(" bytes are needed, and 0 are free"), "{}", output.stderr);
        assert!(!copy.exists());
        std::fs::remove_file(&ballast).expect("the ballast is deleted");
        scene.lasts(1000..=1000);
    }
    drop(flow);
    scene.settles();
    scene.stays_small(1_000_000);
}

/// Kills the recorder at random moments of pruning, while another program reads an old snapshot of the store.
fn kept_small(scene: &mut Scene) {
    scene.kept = &["--max-size", "500kB"];
    for round in 0..scene.rounds {
        scene.records(scene.kept);
        let reader = (round % 3 == 1).then(|| {
            let reader = Connection::open(scene.folder.db()).expect("the store is opened");
            reader.execute_batch("BEGIN; SELECT count(*) FROM event").expect("the store is read");
            reader
        });
        let flow = scene.flows(4000);
        scene.lasts(300..=1500);
        scene.kills();
        drop((flow, reader));
        scene.is_whole();
    }
    scene.records(scene.kept);
    let flow = scene.flows(2000);
    scene.lasts(3000..=3000);
    drop(flow);
    scene.settles();
    scene.stays_small(500_000);
}

/// Asserts that new events are readable within a tenth of a second during the whole deletion.
fn lets_go(scene: &mut Scene) {
    const DAY: i64 = 86_400_000_000_000;
    // With the entry for the name of their source, they end at a stored link of the chain, so all can be deleted.
    const OLD: u64 = 200_063;
    let old: Vec<String> = (0..OLD).map(|n| event_at(n, now() - 2 * DAY + n as i64 * 1000)).collect();
    let file = scene.folder.path("old.ndjson");
    std::fs::write(&file, old.join("\n")).expect("the file is written");
    scene.folder.run(&["import", "-q", "old.ndjson"]).assert_success();
    scene.next.store(1_000_000, Ordering::Relaxed);
    scene.records(&["--retain", "1d"]);
    let mut follower = scene.folder.start(&["query", "-q", "--follow", "--since", "now"]);
    let lines = follower.stdout_lines();
    let flow = scene.flows(2000);
    let deleted = || scene.folder.json(&["status", "--json"])[0]["db"]["pruned"]["events"].as_u64().unwrap_or(0);
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
    let took = start.elapsed();
    drop(flow);
    drop(follower);
    delays.sort_unstable();
    let at = |part: usize| delays[(delays.len() - 1) * part / 1000] as f64 / 1e6;
    println!(
        "(deleted in {:.1} s; of {} new events, half were readable in {:.0} ms, 99.9 % in {:.0} ms, all in {:.0} ms)",
        took.as_secs_f64(),
        delays.len(),
        at(500),
        at(999),
        at(1000)
    );
    assert!(delays.len() > 1000 && at(990) < 100.0, "99 % after {} ms", at(990));
}

fn flood(scene: &mut Scene) {
    scene.records(&[]);
    let flow = scene.flows(20_000);
    eventually("200,000 events are emitted", || {
        let made = scene.engine.emitted_count();
        if made >= 200_000 { Ok(()) } else { Err(made) }
    });
    drop(flow);
}

fn overflow(scene: &mut Scene) {
    scene.records(&["--buffer", "256KiB"]);
    scene.happen(50);
    scene.settles();
    let begin = scene.engine.emitted_count();
    let lock = lock(scene);
    let flow = scene.flows(5000);
    eventually("the buffer is full", || {
        if scene.recorder().log().contains("the buffer is full") { Ok(()) } else { Err(scene.engine.emitted_count()) }
    });
    scene.lasts(500..=500);
    drop(flow);
    assert_eq!(scene.engine.skipped_count(), 0, "the stream was read all the time");
    // The recorder received more than its buffer may contain. It can obtain the rest only from the backlog.
    scene.engine.invalidate_deliveries_from(begin);
    drop(lock);
    scene.settles();
    scene.happen(10);
    scene.settles();
    let truth = scene.engine.truth();
    let missing: Vec<usize> =
        scene.stored(&truth).iter().enumerate().filter(|(_, stored)| **stored == 0).map(|(n, _)| n).collect();
    let (first, last) = (missing[0], missing[missing.len() - 1]);
    assert_eq!(missing.len(), last - first + 1, "the missing events are consecutive");
    let gaps = scene.gaps();
    let bounds: Vec<_> = gaps.iter().filter(|gap| gap.reason == "buffer-full").map(|gap| (gap.from, gap.to)).collect();
    assert_eq!(bounds, [(truth.emitted[first - 1].time_nano, truth.emitted[last + 1].time_nano)], "the gap is exact");
}
