//! How the recorder is doing, as real programs see it: Prometheus, systemd, a frozen disk.

use crate::support::watching::{Manager, contrib, expressions, figures, folder_and_engine, much_happens};
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

use crate::support::command::{DEADLINE, Folder, Running, eventually, free_port, run};
use crate::support::engine::{Engine, Manner, event, events, instant};
use crate::support::fixture::imported;

fn watcher(name: &str) -> Command {
    Command::new(Path::new(&std::env::var("WATCHERS").expect("WATCHERS names the folder of Prometheus")).join(name))
}

#[test]
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

/// A machine that was booted with nothing but the unit.
struct Machine {
    boot: Option<Running>,
    pid: String,
}

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/boot.sh");

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
    fn run(&self, words: &[&str]) -> crate::support::command::Ran {
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
