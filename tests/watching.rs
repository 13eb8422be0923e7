//! How the recorder is doing, as who watches it sees it: Prometheus, whoever asks for its health, the service manager, a
//! person who asks for `status`.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use support::command::{DEADLINE, Folder, Running, eventually, free_port, run};
use support::engine::{Engine, Manner, event, events, instant};
use support::fixture::imported;

/// An answer: its status, its head, its body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn ask(socket: &Path, request: &str) -> Option<Answer> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("and a status");
    Some(Answer { status, head: head.into(), body: body.into() })
}

fn get(socket: &Path, path: &str, accept: &str) -> Option<Answer> {
    ask(socket, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"))
}

/// The figures of a page, by name and labels as they stand there.
fn figures(socket: &Path) -> BTreeMap<String, f64> {
    let page = get(socket, "/metrics", "*/*").expect("it is shown");
    let lines = page.body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').expect("a figure"))
        .map(|(name, n)| (name.into(), n.parse().unwrap()))
        .collect()
}

fn sum(figures: &BTreeMap<String, f64>, beginning: &str) -> f64 {
    figures.iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, number)| number).sum()
}

fn folder_and_engine() -> (Folder, Engine) {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    (folder, engine)
}

fn record(folder: &Folder, engine: &Engine, more: &[&str]) -> (Running, PathBuf) {
    let socket = folder.path("metrics.sock");
    let shown = format!("unix://{}", socket.display());
    let words = ["--look-again", "50ms", "--metrics", &shown];
    (folder.record(&engine.host(), &[&words[..], more].concat()), socket)
}

/// Lets an engine do what a recorder can be told of: events on the stream and beside it, what is no event, a restart.
fn much_happens(folder: &Folder, engine: &Engine) {
    events(0..8).iter().for_each(|event| engine.happens(event));
    engine.happens_unheard(&event(8));
    engine.happens(&event(9));
    engine.sends_junk(b"{\"no\": \"event\"}");
    folder.eventually_lines(&["query", "-q"], &events(0..10));
    engine.restarts();
    engine.happens(&event(10));
    folder.eventually_lines(&["query", "-q"], &events(0..11));
}

#[test]
fn the_metrics_and_status_say_the_same() {
    let (folder, engine) = folder_and_engine();
    let (recorder, socket) = record(&folder, &engine, &[]);
    much_happens(&folder, &engine);
    let same = || {
        let status = folder.json(&["status", "--json"]).remove(0);
        let (source, shown) = (&status["sources"][0], figures(&socket));
        let said = |key: &str| source[key].as_u64().unwrap() as f64;
        let gaps =
            sum(&shown, "events_gaps_total") - shown[r#"events_gaps_total{source="sim",reason="first-contact"}"#];
        let last =
            events::query::time::rfc3339((shown[r#"events_last_event_timestamp_seconds{source="sim"}"#] * 1e9) as i64);
        let pairs = [
            (said("events"), 11.0, sum(&shown, "events_stored_total")),
            (said("rejected"), 1.0, sum(&shown, "events_rejected_total")),
            (said("gaps"), 1.0, gaps),
            (f64::from(u8::from(source["connected"] == true)), 1.0, sum(&shown, "events_connected")),
            (
                status["db"]["bytes"].as_f64().unwrap(),
                status["db"]["bytes"].as_f64().unwrap(),
                shown["events_store_size_bytes"],
            ),
            (status["recorder"]["buffered"].as_f64().unwrap(), 0.0, shown["events_buffered"]),
        ];
        let agree = pairs.iter().all(|(status, expected, metrics)| status == expected && status == metrics);
        if agree && source["last"] == *last { Ok(shown) } else { Err((status, last, shown)) }
    };
    let shown = eventually("status and the metrics agree", same);
    for (name, number) in [
        (r#"events_stored_total{source="sim",type="container",action="create"}"#, 3.0),
        (r#"events_stored_total{source="sim",type="container",action="destroy"}"#, 2.0),
        (r#"events_healed_total{source="sim"}"#, 1.0),
        (r#"events_gaps_total{source="sim",reason="engine-restart"}"#, 1.0),
        (r#"events_gaps_total{source="sim",reason="overrun"}"#, 0.0),
        ("events_buffer_limit_bytes", f64::from(64 << 20)),
        ("events_store_writable", 1.0),
        ("events_lag_seconds", 0.0),
        (concat!("events_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(shown.get(name), Some(&number), "{name} of {shown:#?}");
    }
    assert!(
        shown.contains_key(&format!("events_connected{{host=\"{}\",source=\"sim\"}}", engine.host())),
        "{shown:#?}"
    );
    engine.goes_away();
    eventually("it is not connected", || {
        let shown = figures(&socket);
        if sum(&shown, "events_connected") == 0.0 { Ok(()) } else { Err(shown) }
    });
    recorder.stop();
    assert!(!support::command::exists(&socket));
}

#[test]
fn a_page_comes_in_the_form_that_is_asked_for() {
    let (folder, engine) = folder_and_engine();
    let (recorder, socket) = record(&folder, &engine, &[]);
    let page = |accept: &str| get(&socket, "/metrics", accept).unwrap();
    let plain = page("text/plain");
    assert!(plain.head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{}", plain.head);
    assert!(plain.body.contains("\n# TYPE events_healed_total counter\n"), "{}", plain.body);
    let open = page("application/openmetrics-text; version=1.0.0");
    let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(open.head.contains(kind), "{}", open.head);
    assert!(open.body.contains("\n# TYPE events_healed counter\n"), "{}", open.body);
    assert!(open.body.ends_with("\n# EOF\n"), "{}", open.body);
    recorder.stop();
}

#[test]
fn there_is_nothing_else_to_see_and_nothing_to_change() {
    let (folder, engine) = folder_and_engine();
    let (recorder, socket) = record(&folder, &engine, &[]);
    assert_eq!(get(&socket, "/", "*/*").unwrap().status, 404);
    let post =
        ask(&socket, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(post.status, 405);
    let head = ask(&socket, "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((head.status, &*head.body), (200, ""));
    recorder.stop();
}

#[test]
fn the_journal_is_told_the_level_of_each_line() {
    let folder = imported("docker-28.5.2.ndjson");
    let said = |words: &[&str], at: &str| {
        let file = File::create(folder.path(at)).unwrap();
        let (stream, mut command) = (file.metadata().unwrap(), folder.command(words));
        command.env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino())).stderr(file);
        command.status().unwrap();
        std::fs::read_to_string(folder.path(at)).unwrap()
    };
    let warning = "no engine tells events of the type 'pot': is it misspelt?\n";
    assert_eq!(said(&["query", "--type", "pot"], "journal"), format!("<4>{warning}"));
    assert_eq!(said(&["query", "--since", "soon", "-q"], "journal").split("'soon'").next(), Some("<3>"));
    // Somebody else's stderr is not the journal.
    let mut command = folder.command(&["query", "--type", "pot"]);
    command.env("JOURNAL_STREAM", "1:2");
    assert_eq!(run(command).stderr, warning);
}

#[test]
fn it_is_ready_when_an_engine_was_tried_and_the_store_can_be_written() {
    let (folder, engine) = folder_and_engine();
    engine.answers(Manner { hangs: true, ..Manner::default() });
    let socket = folder.path("metrics.sock");
    let shown = format!("unix://{}", socket.display());
    let recorder = folder.start(&["record", "-H", &engine.host(), "--metrics", &shown]);
    let says = |path: &str, status: u16, line: &str| {
        eventually(&format!("{path} says {line}"), || {
            let answer = get(&socket, path, "*/*").ok_or_else(|| recorder.log())?;
            let body = answer.body;
            if answer.status == status && body == format!("{line}\n") {
                Ok(())
            } else {
                Err(format!("{} {body}", answer.status))
            }
        });
    };
    says("/readyz", 503, "no engine was tried yet");
    says("/healthz", 200, "ok");
    engine.goes_on();
    says("/readyz", 200, "ok");

    // Another program holds the file: what comes waits, and is not lost; the writer is not stuck.
    let other = rusqlite::Connection::open(folder.db()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    engine.happens(&event(0));
    says("/readyz", 503, &format!("{} cannot be written just now", folder.db().display()));
    assert_eq!(get(&socket, "/healthz", "*/*").unwrap().status, 200);
    let shown = figures(&socket);
    assert!(shown["events_lag_seconds"] > 0.0 && shown["events_buffered"] == 1.0, "{shown:#?}");
    assert_eq!(shown["events_store_writable"], 0.0);
    other.execute_batch("ROLLBACK").unwrap();
    says("/readyz", 200, "ok");
    folder.eventually_lines(&["query", "-q"], &[event(0)]);
    recorder.stop();
}

/// What stands where systemd does: a datagram socket that is told how the service is doing.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn at(address: &SocketAddr, name: String) -> Manager {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Manager { socket, name }
    }

    fn start(&self, folder: &Folder, words: &[&str], watchdog: &str) -> Running {
        let mut command = folder.command(words);
        command.env("NOTIFY_SOCKET", &self.name).env("WATCHDOG_USEC", watchdog);
        folder.start_command(command)
    }

    /// What is told next.
    fn told(&self) -> String {
        let mut told = [0; 4096];
        let length = self.socket.recv(&mut told).expect("something is told");
        String::from_utf8(told[..length].into()).unwrap()
    }

    /// What is told up to this, and this.
    fn told_until(&self, found: impl Fn(&str) -> bool) -> Vec<String> {
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

#[test]
fn the_service_manager_is_told_when_it_is_ready_how_it_stands_that_it_lives_and_that_it_ends() {
    let (folder, engine) = folder_and_engine();
    let path = folder.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap(), path.display().to_string());
    let recorder = manager.start(&folder, &["record", "-H", &engine.host()], "200000");
    let ready = manager.told_until(|told| told.starts_with("READY=1"));
    assert!(ready.iter().rev().skip(1).all(|told| told == "WATCHDOG=1"), "{ready:?}");
    assert_eq!(ready.last().unwrap(), "READY=1\nSTATUS=1 of 1 engine connected, 0 events stored, 0 gaps");
    manager.told_until(|told| told == "WATCHDOG=1");
    manager.told_until(|told| told == "WATCHDOG=1");
    engine.goes_away();
    manager.told_until(|told| told.starts_with("STATUS=0 of 1 engine connected"));
    recorder.stop();
    let last = manager.told_until(|told| told.starts_with("STOPPING=1"));
    assert!(last.iter().all(|told| !told.starts_with("READY")), "{last:?}");
}

/// Also where no engine is: what depends on the recorder should not wait for that.
#[test]
fn it_is_ready_without_an_engine_and_tells_an_abstract_socket_too() {
    let folder = Folder::new();
    let name = format!("events-{}", fastrand::u64(..));
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap(), format!("@{name}"));
    let host = format!("unix://{}", folder.path("nothing.sock").display());
    let recorder = manager.start(&folder, &["record", "-H", &host], "");
    let ready = manager.told();
    assert_eq!(ready, "READY=1\nSTATUS=0 of 1 engine connected, 0 events stored, 0 gaps");
    recorder.stop();
    assert!(manager.told().starts_with("STOPPING=1"));
}

fn watcher(name: &str) -> Command {
    Command::new(Path::new(&std::env::var("WATCHERS").expect("WATCHERS names the folder of Prometheus")).join(name))
}

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

/// All that the dashboard asks, as Grafana would send it.
fn expressions(dashboard: &Value) -> Vec<String> {
    let asked = |of: &Value| of["expr"].as_str().expect("an expression").to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap()).map(asked);
    let all: Vec<String> =
        targets.chain(dashboard["annotations"]["list"].as_array().unwrap().iter().map(asked)).collect();
    all.iter().map(|asked| asked.replace("$source", ".*").replace("$__rate_interval", "1m")).collect()
}

#[test]
#[ignore = "needs Prometheus"]
fn prometheus_takes_them_and_all_that_the_dashboard_asks_is_answered() {
    let (folder, engine) = folder_and_engine();
    let (port, prometheus) = (free_port(), free_port());
    let shown = format!("tcp://127.0.0.1:{port}");
    let recorder = folder.record(&engine.host(), &["--look-again", "50ms", "--metrics", &shown]);
    let config = folder.path("prometheus.yml");
    let rules = contrib("prometheus/events.yml");
    let scrape = format!("scrape_configs: [{{job_name: events, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]");
    let text = format!("global: {{scrape_interval: 500ms}}\nrule_files: ['{}']\n{scrape}\n", rules.display());
    std::fs::write(&config, text).unwrap();
    let mut check = watcher("promtool");
    check.arg("check").arg("config").arg(&config);
    run(check).exited(0);
    let mut server = watcher("prometheus");
    server.arg(format!("--config.file={}", config.display()));
    server.arg(format!("--storage.tsdb.path={}", folder.path("tsdb").display()));
    server.arg(format!("--web.listen-address=127.0.0.1:{prometheus}")).env("GOMAXPROCS", "1");
    let server = folder.start_command(server);
    let url = format!("http://127.0.0.1:{prometheus}");
    let answer = |asked: &str| {
        let mut query = watcher("promtool");
        query.args(["query", "instant", &url, asked]);
        run(query)
    };
    let eventually_says = |asked: &str| {
        eventually(&format!("{asked} has an answer"), || {
            let ran = answer(asked);
            if ran.status.success() && !ran.stdout.is_empty() { Ok(()) } else { Err((ran.report(), server.log())) }
        });
    };
    eventually_says("up == 1");
    eventually_says("events_gaps_total");
    much_happens(&folder, &engine);

    // The lint of Prometheus' own people, of the form that it reads.
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--noproxy", "*", &format!("http://127.0.0.1:{port}/metrics")]);
    let page = folder.path("page");
    std::fs::write(&page, run(curl).succeeded().stdout).unwrap();
    let mut lint = watcher("promtool");
    lint.args(["check", "metrics"]).stdin(File::open(&page).unwrap());
    run(lint).succeeded();

    let dashboard: Value = serde_json::from_slice(&std::fs::read(contrib("grafana/events.json")).unwrap()).unwrap();
    let asked = expressions(&dashboard);
    assert!(asked.len() > 15, "{asked:?}");
    for asked in asked {
        eventually_says(&asked);
    }
    drop(server);
    recorder.stop();
}

#[test]
fn the_dashboard_and_the_alerts_name_nothing_that_is_not_there() {
    let (folder, engine) = folder_and_engine();
    let (recorder, socket) = record(&folder, &engine, &[]);
    engine.happens(&event(0));
    folder.eventually_lines(&["query", "-q"], &[event(0)]);
    let shown = figures(&socket);
    for file in ["grafana/events.json", "prometheus/events.yml"] {
        let text = std::fs::read_to_string(contrib(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<&str> =
            words.filter(|word| word.starts_with("events_") || word.ends_with("_seconds")).collect();
        assert!(named.len() > 3, "{named:?}");
        for name in named {
            assert!(shown.keys().any(|shown| shown.split('{').next() == Some(name)), "{file} names {name}");
        }
    }
    recorder.stop();
}

/// A machine that was booted with nothing but the unit.
struct Machine {
    boot: Option<Running>,
    pid: String,
}

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot");

impl Machine {
    fn boot(folder: &Folder, engine: &Engine) -> Machine {
        let socket = engine.host().replacen("unix://", "", 1);
        let mut command = Command::new(BOOT);
        command.arg("start").arg(folder.path("")).arg(env!("CARGO_BIN_EXE_events")).arg(&socket);
        let boot = folder.start_command({
            command.arg(contrib("systemd/events.service"));
            command
        });
        Machine { pid: boot.pid().to_string(), boot: Some(boot) }
    }

    /// Runs a command in there.
    fn run(&self, words: &[&str]) -> support::command::Ran {
        let mut command = Command::new(BOOT);
        command.args(["in", &self.pid]).args(words);
        run(command)
    }

    /// What systemd says of the service.
    fn shows(&self) -> BTreeMap<String, String> {
        let properties = "--property=ActiveState,StatusText,MainPID,NRestarts,Result,ExecMainStatus";
        let shown = self.run(&["systemctl", "show", "events", properties]).lines();
        shown.iter().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
    }

    /// Waits until systemd says this of the service.
    fn eventually_shows(&self, expected: &[(&str, &str)]) -> BTreeMap<String, String> {
        eventually(&format!("it shows {expected:?}"), || {
            let shown = self.shows();
            let all = expected.iter().all(|(key, value)| shown.get(*key).is_some_and(|shown| shown == value));
            let said = || (self.run(&["cat", "/run/said", "/dev/kmsg"]).lines(), self.boot.as_ref().map(Running::log));
            if all { Ok(shown) } else { Err((shown, said())) }
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.boot.take());
        let tidied = Command::new(BOOT).args(["tidy", &self.pid]).status();
        assert!(std::thread::panicking() || tidied.is_ok_and(|status| status.success()), "nothing is left of it");
    }
}

#[test]
#[ignore = "needs systemd, and root"]
fn systemd_starts_the_unit_hears_that_it_is_ready_kills_it_when_it_hangs_and_stops_it() {
    let (folder, engine) = folder_and_engine();
    // As an engine's socket belongs to root and to its group, which the service is in.
    let socket = folder.path("docker.sock");
    std::os::unix::fs::chown(&socket, Some(0), Some(995)).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o660)).unwrap();
    events(0..3).iter().for_each(|event| engine.happens(event));
    let machine = Machine::boot(&folder, &engine);
    let well = "1 of 1 engine connected, 3 events stored, 0 gaps";
    let shown = machine.eventually_shows(&[("ActiveState", "active"), ("StatusText", well)]);
    let owner = machine.run(&["stat", "--format", "%u", &format!("/proc/{}", shown["MainPID"])]).lines().remove(0);
    assert!(owner.parse::<u32>().unwrap() >= 61184, "a dynamic user: {owner}");
    let query = ["events", "query", "--db", "/var/lib/events/events.db", "-q"];
    assert_eq!(machine.run(&query).succeeded().lines(), events(0..3));
    let health = machine.run(&["curl", "-sS", "--noproxy", "*", "http://127.0.0.1:9324/healthz"]);
    assert_eq!(health.lines(), ["ok"], "{}", health.report());

    // It hangs: systemd hears nothing any more, kills it, and starts it again.
    machine.run(&["kill", "-STOP", &shown["MainPID"]]).succeeded();
    let again = "1 of 1 engine connected, 0 events stored, 0 gaps";
    machine.eventually_shows(&[("ActiveState", "active"), ("StatusText", again), ("NRestarts", "1")]);
    engine.happens(&event(3));
    eventually("it records", || {
        let ran = machine.run(&query);
        if ran.lines() == events(0..4) { Ok(()) } else { Err(ran.report()) }
    });

    machine.run(&["systemctl", "stop", "events"]).succeeded();
    machine.eventually_shows(&[("ActiveState", "inactive"), ("Result", "success"), ("ExecMainStatus", "0")]);
    assert_eq!(machine.run(&query).succeeded().lines(), events(0..4));
}

#[test]
#[ignore = "needs systemd's programs"]
fn the_unit_is_sound_and_gives_little_away() {
    let folder = Folder::new();
    let unit = folder.path("events.service");
    // The program need not be where the unit expects it.
    let text = std::fs::read_to_string(contrib("systemd/events.service")).unwrap();
    std::fs::write(&unit, text.replace("/usr/local/bin/events", env!("CARGO_BIN_EXE_events"))).unwrap();
    let analyze = |words: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(words).arg(&unit);
        run(command)
    };
    analyze(&["verify", "--recursive-errors=no"]).succeeded();
    // In tenths; 100 is a unit that nothing is taken away from, `OK` ends at 50.
    analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"]).exited(0);
}

/// What `status` shows, without the path of the store and its size.
fn shown(folder: &Folder, environment: &[(&str, &str)]) -> String {
    let mut command = folder.command(&["status"]);
    command.envs(environment.iter().copied());
    let text = run(command).succeeded().lines().join("\n");
    let pid = text.find("pid ").map_or(String::new(), |at| text[at..].split(',').next().unwrap().to_owned());
    let size = text.rfind(" events, ").map_or(String::new(), |at| text[at..].split(')').next().unwrap().to_owned());
    let text =
        text.replace(&folder.db().display().to_string(), "DB").replace(&folder.path("").display().to_string(), "");
    let text = if pid.is_empty() { text } else { text.replace(&pid, "pid N") };
    text.replace(&size, " events, SIZE")
}

#[test]
fn a_person_sees_at_a_glance_whether_all_is_well_and_what_happened() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["--look-again", "50ms"]);
    much_happens(&folder, &engine);
    let (first, last, gap) = (instant(0), instant(10), instant(9));
    let rest = format!(
        "  engine    7a5c1ed0-0000-4000-8000-000000000001\n  events    11, {first} to {last}\n  \
         gaps      1  (`events gaps`)\n  the last  engine-restart, {gap} to {last}\n  rejected  1  (`events rejected`)"
    );
    let well = format!(
        "● recording 1 engine\n  store     DB (11 events, SIZE)\n  recorder  pid N, 0 events waiting\n\n\
         ● sim  connected to unix://docker.sock\n{rest}"
    );
    eventually("all is well", || {
        let shown = shown(&folder, &[]);
        if shown == well { Ok(()) } else { Err(shown) }
    });
    engine.goes_away();
    let away = "● recording, but no engine is connected\n  store     DB (11 events, SIZE)\n  recorder  pid N, 0 events waiting\n  \
                away      cannot connect to unix://docker.sock: ";
    eventually("the engine is away", || {
        let shown = shown(&folder, &[]);
        let is_told = shown.starts_with(away) && shown.contains("● sim  not connected to unix://docker.sock\n");
        if is_told && shown.contains("disconnected") { Ok(()) } else { Err(shown) }
    });
    recorder.stop();
    assert!(shown(&folder, &[]).starts_with("● not recording\n  store "));
    // Colours are for terminals, and for who insists; NO_COLOR is the last word.
    assert!(shown(&folder, &[("CLICOLOR_FORCE", "1")]).starts_with("\x1b[31m●"));
    assert!(shown(&folder, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).starts_with("●"));
}

/// A filesystem of its own, in a file; gone when it is dropped.
struct Disk(PathBuf);

fn does(program: &str, words: &[&str]) -> bool {
    Command::new(program).args(words).status().is_ok_and(|status| status.success())
}

impl Disk {
    fn mount(image: &Path, at: PathBuf) -> Disk {
        File::create(image).unwrap().set_len(32 << 20).unwrap();
        let (image, place) = (image.display().to_string(), at.display().to_string());
        assert!(does("mkfs.ext4", &["-q", &image]) && does("mount", &["-o", "loop", &image, &place]));
        Disk(at)
    }

    /// Whatever writes to it waits for as long as what is returned lives: no longer than who writes, which could not end.
    fn freeze(&self) -> Frozen<'_> {
        assert!(does("fsfreeze", &["-f", &self.0.display().to_string()]));
        Frozen(self)
    }
}

struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        does("fsfreeze", &["-u", &self.0.0.display().to_string()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        does("umount", &["--lazy", &self.0.display().to_string()]);
    }
}

#[test]
#[ignore = "needs root, to freeze a filesystem"]
fn a_writer_that_is_stuck_is_no_sign_of_life() {
    let folder = Folder::with_store_in("disk");
    let engine = Engine::start(folder.path("docker.sock"));
    let disk = Disk::mount(&folder.path("image"), folder.path("disk"));
    let path = folder.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap(), path.display().to_string());
    let socket = folder.path("metrics.sock");
    let shown = format!("unix://{}", socket.display());
    let recorder = manager.start(&folder, &["record", "-H", &engine.host(), "--metrics", &shown], "500000");
    engine.happens(&event(0));
    folder.eventually_lines(&["query", "-q"], &[event(0)]);
    manager.told_until(|told| told == "WATCHDOG=1");

    let frozen = disk.freeze();
    engine.happens(&event(1));
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    eventually("it is silent for four times as long as it may be", || {
        let mut told = [0; 4096];
        match manager.socket.recv(&mut told) {
            Err(_) => Ok(()),
            Ok(length) => Err(String::from_utf8_lossy(&told[..length]).into_owned()),
        }
    });
    // Though all else goes on.
    let figures = figures(&socket);
    assert!(figures["events_buffered"] == 1.0 && figures["events_lag_seconds"] > 0.5, "{figures:#?}");

    drop(frozen);
    manager.told_until(|told| told == "WATCHDOG=1");
    folder.eventually_lines(&["query", "-q"], &events(0..2));
    recorder.stop();
}
