//! Runs the real binary in a temporary directory. A failed assertion reports the command, its status and its output.

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

/// Limit of every wait. Only failing tests reach it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A temporary directory, and the store in it that all commands use.
pub(crate) struct TestDir {
    dir: TempDir,
    db: PathBuf,
}

/// Exit status and output of a command.
pub(crate) struct Output {
    command_line: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// A running command; killed on drop.
pub(crate) struct Running {
    command_line: String,
    child: Child,
    stderr: PathBuf,
}

impl TestDir {
    pub(crate) fn new() -> TestDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        TestDir { db: dir.path().join("events.db"), dir }
    }

    /// Creates a directory with the store in the subdirectory `name`.
    pub(crate) fn with_store_subdir(name: &str) -> TestDir {
        let test_dir = TestDir::new();
        let subdir = test_dir.path(name);
        std::fs::create_dir(&subdir).expect("the directory is created");
        TestDir { db: subdir.join("events.db"), ..test_dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.db.clone()
    }

    /// Command that runs `events` with these arguments on the store of this directory, with a cleared environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_events"));
        command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("EVENTS_DB", self.db()).env("HOME", self.dir.path()).env("TZ", "UTC");
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs `events` and waits for its exit.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        run(self.command(args))
    }

    /// Runs `events`, which must succeed, and returns the lines it printed.
    pub(crate) fn lines(&self, args: &[&str]) -> Vec<String> {
        self.run(args).assert_success().lines()
    }

    /// Runs `events`, which must succeed, and parses each printed line as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let lines = self.lines(args);
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }

    /// Reasons of all gaps, oldest first.
    pub(crate) fn gap_reasons(&self) -> Vec<String> {
        self.json(&["gaps"]).iter().map(|gap| gap["reason"].as_str().unwrap_or("null").to_owned()).collect()
    }

    /// Waits until the gaps have exactly these reasons.
    pub(crate) fn eventually_gap_reasons(&self, expected: &[&str]) {
        self.eventually(&format!("the gaps are {expected:?}"), || {
            let reasons = self.gap_reasons();
            if reasons == expected { Ok(()) } else { Err(reasons) }
        });
    }

    /// Verifies the hash chain, which must be intact; returns its head as `SEQ:HASH`.
    pub(crate) fn verify(&self, extra_args: &[&str]) -> String {
        let lines = self.lines(&[&["verify", "-q"], extra_args].concat());
        let head = lines.first().and_then(|line| line.strip_prefix("head ")).unwrap_or_else(|| panic!("{lines:?}"));
        let (seq, hash) = head.split_once(':').expect("a head is SEQ:HASH");
        assert!(lines.len() == 1 && seq.parse::<u64>().is_ok() && hash.len() == 64, "{lines:?}");
        head.to_owned()
    }

    /// Names of all commands, as `--help` lists them.
    pub(crate) fn command_names(&self) -> Vec<String> {
        let help = self.run(&["--help"]).assert_success().lines();
        let listed = help.iter().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        listed
            .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
            .map(str::to_owned)
            .filter(|name| !name.is_empty())
            .collect()
    }

    /// Starts `events`.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        self.start_command(self.command(args))
    }

    /// Starts `events` with another PATH.
    pub(crate) fn start_with_path(&self, path_var: &str, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.env("PATH", path_var);
        self.start_command(command)
    }

    /// Starts a prepared command.
    pub(crate) fn start_command(&self, mut command: Command) -> Running {
        let stderr = self.path(&format!("stderr-{}", fastrand::u64(..)));
        command.stdout(Stdio::piped()).stderr(File::create(&stderr).expect("a file for stderr"));
        let command_line = format!("{command:?}");
        Running { child: command.spawn().expect("the binary starts"), command_line, stderr }
    }

    /// Starts `events record` for a host, and waits until it is connected.
    pub(crate) fn record(&self, host: &str, extra_args: &[&str]) -> Running {
        self.record_with_path(&std::env::var("PATH").unwrap_or_default(), host, extra_args)
    }

    /// Starts `events record` with another PATH, and waits until it is connected.
    pub(crate) fn record_with_path(&self, path_var: &str, host: &str, extra_args: &[&str]) -> Running {
        let recorder = self.start_with_path(path_var, &[&["record", "-H", host][..], extra_args].concat());
        let pid = recorder.pid();
        self.eventually("the recorder is connected", || {
            let output = self.run(&["status", "--json"]);
            let status: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            let status = status.ok_or_else(|| format!("{}\n{}", output.report(), recorder.log()))?;
            let connected = status["recorder"]["pid"] == pid
                && status["sources"].as_array().is_some_and(|all| all.iter().any(|source| source["connected"] == true));
            if connected { Ok(()) } else { Err(format!("{status}\n{}", recorder.log())) }
        });
        recorder
    }

    /// Records what the engine of a host has in its backlog, to the end: the session has reached its outcome.
    pub(crate) fn record_backlog(&self, host: &str, extra_args: &[&str]) {
        self.run(&[&["record", "-q", "-H", host, "--until", "now"][..], extra_args].concat()).assert_success();
    }

    /// Waits until `events` with these arguments prints exactly these lines, in this order.
    pub(crate) fn eventually_lines(&self, args: &[&str], expected: &[String]) {
        self.eventually(&format!("{args:?} prints {} lines", expected.len()), || {
            let output = self.run(args);
            if output.status.success() && output.lines() == expected { Ok(()) } else { Err(output.report()) }
        });
    }

    /// Waits until `check` succeeds.
    pub(crate) fn eventually<T, E: Debug>(&self, what: &str, check: impl FnMut() -> Result<T, E>) -> T {
        eventually(what, check)
    }
}

/// Waits at most `timeout` for a condition. Returns true if it became true.
pub(crate) fn within(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        match condition() {
            true => return true,
            false if start.elapsed() > timeout => return false,
            false => {
                let remaining = timeout.saturating_sub(start.elapsed());
                std::thread::park_timeout(remaining.clamp(Duration::from_micros(100), Duration::from_millis(10)));
            }
        }
    }
}

/// Waits until `check` succeeds. After [`TIMEOUT`] it panics with the last error.
pub(crate) fn eventually<T, E: Debug>(what: &str, mut check: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(e) if start.elapsed() > TIMEOUT => panic!("not within {TIMEOUT:?}: {what}; last: {e:?}"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(10)),
        }
    }
}

/// Runs a command and waits for its exit.
pub(crate) fn run(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Output {
        command_line: format!("{command:?}"),
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Output {
    pub(crate) fn report(&self) -> String {
        let stdout = String::from_utf8_lossy(&self.stdout);
        format!("{}\n{}\n--- stdout\n{stdout}--- stderr\n{}", self.command_line, self.status, self.stderr)
    }

    pub(crate) fn assert_exit_code(self, code: i32) -> Output {
        assert_eq!(self.status.code(), Some(code), "{}", self.report());
        self
    }

    /// Asserts that the command exited with 0 and printed nothing to stderr.
    pub(crate) fn assert_success(self) -> Output {
        let output = self.assert_exit_code(0);
        assert_eq!(output.stderr, "", "{}", output.report());
        output
    }

    /// Asserts that the command exited with this code, printed nothing to stdout and this one line to stderr.
    pub(crate) fn assert_failure(self, code: i32, line: &str) {
        let output = self.assert_exit_code(code);
        assert!(output.stdout.is_empty(), "{}", output.report());
        assert_eq!(output.stderr, format!("events: {line}\n"), "{}", output.report());
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

    /// Peak resident memory so far, in bytes; `None` if the process has exited.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024)
    }

    /// Returns true if the process still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("the process can be waited for").is_none()
    }

    /// Text printed to stderr so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until its log contains `text`.
    pub(crate) fn eventually_logs(&self, text: &str) {
        eventually(&format!("the log contains {text:?}"), || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }

    /// Sends SIGTERM. The process must then exit with 0.
    pub(crate) fn stop(self) {
        self.signal("TERM");
        self.wait().assert_exit_code(0);
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the process runs");
        self.child.wait().expect("the process can be waited for");
    }

    /// Sends a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        assert!(signal(self.pid(), name), "kill -{name}");
    }

    /// Waits until the process exits by itself.
    pub(crate) fn wait(mut self) -> Output {
        let status = eventually(&format!("{} exits", self.command_line), || {
            self.child.try_wait().expect("the process can be waited for").ok_or_else(|| self.log())
        });
        let mut stdout = Vec::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut stdout).expect("the output is read");
        }
        Output { command_line: self.command_line.clone(), status, stdout, stderr: self.log() }
    }

    /// Stdout of the process. After it is dropped, nobody reads the pipe.
    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout has not been taken")
    }

    /// Lines that the process prints, as they arrive.
    pub(crate) fn stdout_lines(&mut self) -> mpsc::Receiver<String> {
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
            eprintln!("{}\n--- stderr\n{}", self.command_line, self.log());
        }
    }
}

/// Sends a signal, by name. Returns false if the process does not exist.
pub(crate) fn signal(pid: u32, name: &str) -> bool {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Next line of a running command; panics after [`TIMEOUT`].
pub(crate) fn next_line(lines: &mpsc::Receiver<String>) -> String {
    lines.recv_timeout(TIMEOUT).expect("a line arrives")
}

/// Returns true if a file exists at this path, also if it is a broken link.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// A TCP port that no process listens on. It is below the range from which the system assigns ports, and no later call
/// returns it, so no other process gets it before it is used.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() * 97;
    let mut ports = std::iter::repeat_with(|| {
        let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        10_000 + u16::try_from((start + next) % 20_000).expect("the remainder fits")
    });
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("the iterator is endless")
}
