//! Monitoring of the recorder by real programs: Prometheus and systemd, also with a frozen disk.

use crate::support::engine::start_engine;
use crate::support::watching::{Manager, contrib, exercise_metrics, expressions, scrape};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::command::{Running, TestDir, eventually, free_port, run};
use crate::support::engine::{Engine, event, events};

fn watcher(name: &str) -> Command {
    Command::new(Path::new(&std::env::var("WATCHERS").expect("WATCHERS names the directory of Prometheus")).join(name))
}

#[test]
fn prometheus_scrapes_the_metrics_and_answers_every_dashboard_query() {
    let (test_dir, engine) = start_engine();
    let (port, prometheus) = (free_port(), free_port());
    let metrics = format!("tcp://127.0.0.1:{port}");
    let recorder = test_dir.record(&engine.host(), &["--look-again", "50ms", "--metrics", &metrics]);
    let config = test_dir.path("prometheus.yml");
    let rules = contrib("prometheus/events.yml");
    let scrape = format!("scrape_configs: [{{job_name: events, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]");
    let text = format!("global: {{scrape_interval: 500ms}}\nrule_files: ['{}']\n{scrape}\n", rules.display());
    std::fs::write(&config, text).unwrap();
    let mut check = watcher("promtool");
    check.arg("check").arg("config").arg(&config);
    run(check).assert_exit_code(0);
    let mut server = watcher("prometheus");
    server.arg(format!("--config.file={}", config.display()));
    server.arg(format!("--storage.tsdb.path={}", test_dir.path("tsdb").display()));
    server.arg(format!("--web.listen-address=127.0.0.1:{prometheus}")).env("GOMAXPROCS", "1");
    let server = test_dir.start_command(server);
    let url = format!("http://127.0.0.1:{prometheus}");
    let instant_query = |expression: &str| {
        let mut query = watcher("promtool");
        query.args(["query", "instant", &url, expression]);
        run(query)
    };
    let eventually_answers = |expression: &str| {
        eventually(&format!("{expression} has a result"), || {
            let output = instant_query(expression);
            let has_result = output.status.success() && !output.stdout.is_empty();
            if has_result { Ok(()) } else { Err((output.report(), server.log())) }
        });
    };
    eventually_answers("up == 1");
    eventually_answers("events_gaps_total");
    exercise_metrics(&test_dir, &engine);

    // Prometheus' own lint accepts the metrics page.
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--noproxy", "*", &format!("http://127.0.0.1:{port}/metrics")]);
    let page = test_dir.path("page");
    std::fs::write(&page, run(curl).assert_success().stdout).unwrap();
    let mut lint = watcher("promtool");
    lint.args(["check", "metrics"]).stdin(File::open(&page).unwrap());
    run(lint).assert_success();

    let dashboard: Value = serde_json::from_slice(&std::fs::read(contrib("grafana/events.json")).unwrap()).unwrap();
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 15, "{expressions:?}");
    for expression in expressions {
        eventually_answers(&expression);
    }
    drop(server);
    recorder.stop();
}

/// A systemd that was booted with only the recorder's unit.
struct Machine {
    boot: Option<Running>,
    pid: String,
}

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/boot.sh");

impl Machine {
    fn boot(test_dir: &TestDir, engine: &Engine) -> Machine {
        let socket = engine.host().replacen("unix://", "", 1);
        let mut command = Command::new(BOOT);
        command.arg("start").arg(test_dir.path("")).arg(env!("CARGO_BIN_EXE_events")).arg(&socket);
        let boot = test_dir.start_command({
            command.arg(contrib("systemd/events.service"));
            command
        });
        Machine { pid: boot.pid().to_string(), boot: Some(boot) }
    }

    /// Runs a command inside.
    fn run(&self, args: &[&str]) -> crate::support::command::Output {
        let mut command = Command::new(BOOT);
        command.args(["in", &self.pid]).args(args);
        run(command)
    }

    /// Properties of the service, as `systemctl show` prints them.
    fn properties(&self) -> BTreeMap<String, String> {
        let property_arg = "--property=ActiveState,StatusText,MainPID,NRestarts,Result,ExecMainStatus";
        let shown = self.run(&["systemctl", "show", "events", property_arg]).lines();
        shown.iter().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
    }

    /// Waits until the service has these properties.
    fn eventually_shows(&self, expected: &[(&str, &str)]) -> BTreeMap<String, String> {
        eventually(&format!("systemd shows {expected:?}"), || {
            let shown = self.properties();
            let is_shown = expected.iter().all(|(key, value)| shown.get(*key).is_some_and(|shown| shown == value));
            let logs = || (self.run(&["cat", "/run/out", "/dev/kmsg"]).lines(), self.boot.as_ref().map(Running::log));
            if is_shown { Ok(shown) } else { Err((shown, logs())) }
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.boot.take());
        let removed = Command::new(BOOT).args(["tidy", &self.pid]).status();
        assert!(std::thread::panicking() || removed.is_ok_and(|status| status.success()), "the machine is removed");
    }
}

#[test]
fn systemd_starts_the_unit_restarts_it_when_it_hangs_and_stops_it() {
    let (test_dir, engine) = start_engine();
    // The socket belongs to root and the group docker, as a real engine's does; the service is in that group.
    let socket = test_dir.path("docker.sock");
    std::os::unix::fs::chown(&socket, Some(0), Some(995)).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o660)).unwrap();
    events(0..3).iter().for_each(|event| engine.emit(event));
    let machine = Machine::boot(&test_dir, &engine);
    let connected = "1 of 1 engine connected, 3 events stored, 0 gaps";
    let shown = machine.eventually_shows(&[("ActiveState", "active"), ("StatusText", connected)]);
    let owner = machine.run(&["stat", "--format", "%u", &format!("/proc/{}", shown["MainPID"])]).lines().remove(0);
    assert!(owner.parse::<u32>().unwrap() >= 61184, "a dynamic user: {owner}");
    let query = ["events", "query", "--db", "/var/lib/events/events.db", "-q"];
    assert_eq!(machine.run(&query).assert_success().lines(), events(0..3));
    let health = machine.run(&["curl", "-sS", "--noproxy", "*", "http://127.0.0.1:9324/healthz"]);
    assert_eq!(health.lines(), ["ok"], "{}", health.report());

    // The recorder hangs: systemd gets no watchdog pings, kills it, and starts it again.
    machine.run(&["kill", "-STOP", &shown["MainPID"]]).assert_success();
    let restarted = "1 of 1 engine connected, 0 events stored, 0 gaps";
    machine.eventually_shows(&[("ActiveState", "active"), ("StatusText", restarted), ("NRestarts", "1")]);
    engine.emit(&event(3));
    eventually("the new recorder records", || {
        let output = machine.run(&query);
        if output.lines() == events(0..4) { Ok(()) } else { Err(output.report()) }
    });

    machine.run(&["systemctl", "stop", "events"]).assert_success();
    machine.eventually_shows(&[("ActiveState", "inactive"), ("Result", "success"), ("ExecMainStatus", "0")]);
    assert_eq!(machine.run(&query).assert_success().lines(), events(0..4));
}

#[test]
fn the_unit_is_valid_and_sandboxed() {
    let test_dir = TestDir::new();
    let unit = test_dir.path("events.service");
    // The test binary replaces the path in the unit, because nothing is installed there.
    let text = std::fs::read_to_string(contrib("systemd/events.service")).unwrap();
    std::fs::write(&unit, text.replace("/usr/local/bin/events", env!("CARGO_BIN_EXE_events"))).unwrap();
    let analyze = |args: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(args).arg(&unit);
        run(command)
    };
    analyze(&["verify", "--recursive-errors=no"]).assert_success();
    // In tenths: a unit without any sandboxing has 100, and `OK` ends at 50.
    analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"]).assert_exit_code(0);
}

/// A filesystem in an image file; unmounted on drop.
struct Disk(PathBuf);

fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).status().is_ok_and(|status| status.success())
}

impl Disk {
    fn mount(image: &Path, at: PathBuf) -> Disk {
        File::create(image).unwrap().set_len(32 << 20).unwrap();
        let (image, mount_point) = (image.display().to_string(), at.display().to_string());
        assert!(succeeds("mkfs.ext4", &["-q", &image]) && succeeds("mount", &["-o", "loop", &image, &mount_point]));
        Disk(at)
    }

    /// Freezes the filesystem until the result is dropped: writers wait. Drop it before a process that writes there,
    /// because such a process cannot exit.
    fn freeze(&self) -> Frozen<'_> {
        assert!(succeeds("fsfreeze", &["-f", &self.0.display().to_string()]));
        Frozen(self)
    }
}

struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        succeeds("fsfreeze", &["-u", &self.0.0.display().to_string()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        succeeds("umount", &["--lazy", &self.0.display().to_string()]);
    }
}

#[test]
fn a_stuck_writer_stops_the_watchdog_pings() {
    let test_dir = TestDir::with_store_subdir("disk");
    let engine = Engine::start(test_dir.path("docker.sock"));
    let disk = Disk::mount(&test_dir.path("image"), test_dir.path("disk"));
    let path = test_dir.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap(), path.display().to_string());
    let socket = test_dir.path("metrics.sock");
    let metrics = format!("unix://{}", socket.display());
    let recorder = manager.start(&test_dir, &["record", "-H", &engine.host(), "--metrics", &metrics], "500000");
    engine.emit(&event(0));
    test_dir.eventually_lines(&["query", "-q"], &[event(0)]);
    manager.messages_until(|message| message == "WATCHDOG=1");

    let frozen = disk.freeze();
    engine.emit(&event(1));
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    eventually("there is no ping for four times the watchdog interval", || {
        let mut message = [0; 4096];
        match manager.socket.recv(&mut message) {
            Err(_) => Ok(()),
            Ok(length) => Err(String::from_utf8_lossy(&message[..length]).into_owned()),
        }
    });
    // Everything else continues.
    let samples = scrape(&socket);
    assert!(samples["events_buffered"] == 1.0 && samples["events_lag_seconds"] > 0.5, "{samples:#?}");

    drop(frozen);
    manager.messages_until(|message| message == "WATCHDOG=1");
    test_dir.eventually_lines(&["query", "-q"], &events(0..2));
    recorder.stop();
}
