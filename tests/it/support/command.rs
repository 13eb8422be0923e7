//! Runs the real binary in a folder of its own. When something is not as expected, the message is a report: the
//! command, its status, its output, the folder.

use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that is waited for; only a failing test waits so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A folder, and in it the store that every command run there uses.
pub(crate) struct Folder {
    dir: TempDir,
    db: PathBuf,
}

/// What a command that has ended did.
pub(crate) struct Ran {
    what: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// A command that still runs; killed when it is dropped.
pub(crate) struct Running {
    what: String,
    child: Child,
    stderr: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Folder {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Folder { db: dir.path().join("events.db"), dir }
    }

    /// The same, with the store in a folder of its own below.
    pub(crate) fn with_store_in(name: &str) -> Folder {
        let folder = Folder::new();
        let below = folder.path(name);
        std::fs::create_dir(&below).expect("a folder can be made");
        Folder { db: below.join("events.db"), ..folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.db.clone()
    }

    /// `events` with these words, on this folder's store, with nothing of the environment that could matter.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_events"));
        command.args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("EVENTS_DB", self.db()).env("HOME", self.dir.path()).env("TZ", "UTC");
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs `events` to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        run(self.command(words))
    }

    /// Runs `events` to its end, which must be good; gives the lines it printed.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        self.run(words).succeeded().lines()
    }

    /// The same, each line read as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Vec<Value> {
        let lines = self.lines(words);
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }

    /// The names of all commands, as `--help` lists them.
    pub(crate) fn commands(&self) -> Vec<String> {
        let help = self.run(&["--help"]).succeeded().lines();
        let listed = help.iter().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        listed
            .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
            .map(str::to_owned)
            .filter(|name| !name.is_empty())
            .collect()
    }

    /// Starts `events` and lets it run.
    pub(crate) fn start(&self, words: &[&str]) -> Running {
        self.start_command(self.command(words))
    }

    /// The same, with another PATH.
    pub(crate) fn start_in(&self, path: &str, words: &[&str]) -> Running {
        let mut command = self.command(words);
        command.env("PATH", path);
        self.start_command(command)
    }

    /// The same with a command that was made ready.
    pub(crate) fn start_command(&self, mut command: Command) -> Running {
        let stderr = self.path(&format!("stderr-{}", fastrand::u64(..)));
        command.stdout(Stdio::piped()).stderr(File::create(&stderr).expect("a file for stderr"));
        let what = format!("{command:?}");
        Running { child: command.spawn().expect("the binary starts"), what, stderr }
    }

    /// Starts `events record` for a host, and waits until it is connected.
    pub(crate) fn record(&self, host: &str, more: &[&str]) -> Running {
        self.record_in(&std::env::var("PATH").unwrap_or_default(), host, more)
    }

    /// The same, with another PATH.
    pub(crate) fn record_in(&self, path: &str, host: &str, more: &[&str]) -> Running {
        let recorder = self.start_in(path, &[&["record", "-H", host][..], more].concat());
        let pid = recorder.pid();
        self.eventually("the recorder is connected", || {
            let ran = self.run(&["status", "--json"]);
            let status: Option<Value> = serde_json::from_slice(&ran.stdout).ok();
            let status = status.ok_or_else(|| format!("{}\n{}", ran.report(), recorder.log()))?;
            let connected = status["recorder"]["pid"] == pid
                && status["sources"].as_array().is_some_and(|all| all.iter().any(|source| source["connected"] == true));
            if connected { Ok(()) } else { Err(format!("{status}\n{}", recorder.log())) }
        });
        recorder
    }

    /// Waits until `query` with these words prints just these lines, in this order.
    pub(crate) fn eventually_lines(&self, words: &[&str], expected: &[String]) {
        self.eventually(&format!("{words:?} prints {} lines", expected.len()), || {
            let ran = self.run(words);
            if ran.status.success() && ran.lines() == expected { Ok(()) } else { Err(ran.report()) }
        });
    }

    /// Waits until something holds.
    pub(crate) fn eventually<T, E: Debug>(&self, what: &str, check: impl FnMut() -> Result<T, E>) -> T {
        eventually(what, check)
    }
}

/// Waits for a while until something holds; whether it does.
pub(crate) fn within(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    loop {
        match holds() {
            true => return true,
            false if since.elapsed() > patience => return false,
            false => {
                let left = patience.saturating_sub(since.elapsed());
                std::thread::park_timeout(left.clamp(Duration::from_micros(100), Duration::from_millis(10)));
            }
        }
    }
}

/// Waits until something holds; fails with what was wrong last.
pub(crate) fn eventually<T, E: Debug>(what: &str, mut check: impl FnMut() -> Result<T, E>) -> T {
    let since = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(e) if since.elapsed() > DEADLINE => panic!("not within {DEADLINE:?}: {what}; last: {e:?}"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(10)),
        }
    }
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Ran {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Ran {
        what: format!("{command:?}"),
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ran {
    pub(crate) fn report(&self) -> String {
        let stdout = String::from_utf8_lossy(&self.stdout);
        format!("{}\n{}\n--- stdout\n{stdout}--- stderr\n{}", self.what, self.status, self.stderr)
    }

    pub(crate) fn exited(self, code: i32) -> Ran {
        assert_eq!(self.status.code(), Some(code), "{}", self.report());
        self
    }

    /// It exited with 0 and had nothing to say.
    pub(crate) fn succeeded(self) -> Ran {
        let ran = self.exited(0);
        assert_eq!(ran.stderr, "", "{}", ran.report());
        ran
    }

    /// It exited with this code, printed nothing, and said this one line.
    pub(crate) fn failed(self, code: i32, line: &str) {
        let ran = self.exited(code);
        assert!(ran.stdout.is_empty(), "{}", ran.report());
        assert_eq!(ran.stderr, format!("events: {line}\n"), "{}", ran.report());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let text = std::str::from_utf8(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.report()));
        text.lines().map(str::to_owned).collect()
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory it has held so far, in bytes; `None` if it has ended.
    pub(crate) fn peak(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024)
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
    }

    /// What it has said on stderr so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// SIGTERM; it must then end with 0.
    pub(crate) fn stop(self) {
        self.signal("TERM");
        self.ended().exited(0);
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it can be waited for");
    }

    /// Sends a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        assert!(signal(self.pid(), name), "kill -{name}");
    }

    /// Waits for it to end by itself.
    pub(crate) fn ended(mut self) -> Ran {
        let status = eventually(&format!("{} ends", self.what), || {
            self.child.try_wait().expect("it can be waited for").ok_or_else(|| self.log())
        });
        let mut stdout = Vec::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut stdout).expect("its output can be read");
        }
        Ran { what: self.what.clone(), status, stdout, stderr: self.log() }
    }

    /// What it prints; when this is dropped nobody reads it any more.
    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("its output was not taken yet")
    }

    /// The lines it prints, as they come.
    pub(crate) fn printed(&mut self) -> mpsc::Receiver<String> {
        let pipe = self.stdout();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            use std::io::BufRead;
            for line in std::io::BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}\n--- stderr\n{}", self.what, self.log());
        }
    }
}

/// Sends a signal, by name; whether the process is there.
pub(crate) fn signal(pid: u32, name: &str) -> bool {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    sent.is_ok_and(|status| status.success())
}

/// The next line of a running command, which must come.
pub(crate) fn next(lines: &mpsc::Receiver<String>) -> String {
    lines.recv_timeout(DEADLINE).expect("a line comes")
}

/// Whether a path names a file.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// A TCP port of this machine that nobody listens at. Below those that the system gives out by itself, and never the same
/// twice, so that nobody else is given it before it is used.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = std::process::id() * 97;
    let mut ports = std::iter::repeat_with(|| {
        let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        10_000 + u16::try_from((begin + next) % 20_000).expect("it is less")
    });
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("there is always a next one")
}
