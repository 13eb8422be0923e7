//! Connects to `ssh://user@host[:port][/path/to.sock]` through the `ssh` program.
//!
//! So the user's keys and configuration apply. On the other machine ssh runs `docker system dial-stdio`, which forwards
//! the bytes to its engine.
//!
//! Each connection is a child process. When the connection is dropped, the process gets SIGTERM, then SIGKILL if it
//! does not exit. It is always waited for. If the recorder is killed, its pipes close, and ssh exits by itself.
//!
//! ssh never prompts. The recorder retries as long as it runs, so each retry would cause one more prompt, or one more
//! wrong password on the other machine.

use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::connect::TransportError;

/// Options before the docker client's arguments. If an option occurs twice, ssh uses the first.
const SSH_OPTIONS: [&str; 3] = [
    // Shorter than the timeout for a response of the engine. So ssh itself reports the problem, and stops the processes
    // that it started, such as the ssh to a jump host. If ssh is killed while it connects, they keep running.
    "-oConnectTimeout=8",
    // A stream over a dead connection ends within 45 s, as TCP keep-alive does for TCP.
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=2",
];

/// Option that disables all prompts.
const BATCH_MODE: &str = "-oBatchMode=yes";

/// Time for ssh to exit after SIGTERM.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(3);

/// Time to read the rest of stderr after ssh has exited. A background process of ssh may keep its stderr open.
const STDERR_DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// Number of bytes kept from the end of ssh's stderr.
const MAX_STDERR_LEN: usize = 16 * 1024;

/// Prefixes of generic error lines. If the ssh to a jump host fails, they follow a line with the reason.
const GENERIC_ERROR_PREFIXES: [&str; 3] =
    ["kex_exchange_identification: ", "Connection closed by UNKNOWN port ", "stdio forwarding failed"];

/// A machine to connect to through ssh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshEndpoint {
    /// User on the other machine; else the one in ssh's configuration.
    pub user: Option<String>,
    /// Host name, IP address, or a name in ssh's configuration.
    pub host: String,
    /// Port; else the one in ssh's configuration.
    pub port: Option<u16>,
    /// Socket of the engine on the other machine; else the default of its docker client.
    pub socket: Option<String>,
}

impl SshEndpoint {
    /// Parses the part of a URL after `ssh://`.
    pub(super) fn parse(rest: &str) -> Result<SshEndpoint, String> {
        if rest.contains(['?', '#']) {
            return Err("a query is not allowed".into());
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host_port)) => (Some(user), host_port),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err("a password is not allowed; ssh uses keys".into());
        }
        let (host, port) = match host_port.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some(bracketed) => bracketed,
            None => host_port.find(':').map_or((host_port, ""), |at| host_port.split_at(at)),
        };
        if host.is_empty() {
            return Err("the host name is missing".into());
        }
        if host.starts_with('-') || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("'{host}' is not a valid host name"));
        }
        let port = match port.strip_prefix(':').map(str::parse) {
            None if port.is_empty() => None,
            Some(Ok(0)) => return Err("port 0 is not valid".into()),
            Some(Ok(port)) => Some(port),
            _ => return Err("the port is not a number from 1 to 65535".into()),
        };
        let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
            _ => Err(format!("'{text}' is not valid percent-encoded text")),
        };
        let user = user.filter(|user| !user.is_empty()).map(decode).transpose()?;
        let socket = Some(path).filter(|path| !path.trim_matches('/').is_empty()).map(decode).transpose()?;
        Ok(SshEndpoint { user, host: host.into(), port, socket })
    }

    /// Arguments for ssh, as in the docker client (docker/cli 28.5 `cli/connhelper`).
    pub fn arguments(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        args.extend(self.user.iter().flat_map(|user| ["-l".into(), user.clone()]));
        args.extend(self.port.iter().flat_map(|port| ["-p".into(), port.to_string()]));
        args.extend(["-o ConnectTimeout=30", "-T", "--", &self.host].map(str::to_owned));
        args.push(match &self.socket {
            None => "docker system dial-stdio".into(),
            Some(path) => format!("docker {} system dial-stdio", shell_quote(&format!("--host=unix://{path}"))),
        });
        args
    }

    /// Starts ssh. If ssh cannot connect, reading or writing returns the error.
    pub(super) fn dial(&self, processes: &TaskTracker) -> io::Result<SshStream> {
        let mut command = Command::new("ssh");
        command.args(SSH_OPTIONS).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // ssh never prompts on the terminal. An askpass program is used only if SSH_ASKPASS_REQUIRE requests it. One
        // that is merely installed belongs to a desktop and would open a window.
        if !std::env::var("SSH_ASKPASS_REQUIRE").is_ok_and(|mode| mode == "force" || mode == "prefer") {
            // The ssh to a jump host does not get these options, but it inherits the environment.
            command.arg(BATCH_MODE).env("SSH_ASKPASS", "false");
        }
        command.env("SSH_ASKPASS_REQUIRE", "force").args(self.arguments());
        let mut child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => io::Error::other(TransportError::new(
                "the ssh program is not installed".into(),
                "install openssh-client",
            )),
            _ => e,
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("a pipe to ssh is missing"));
        };
        let (exit_sender, exit_receiver) = oneshot::channel();
        let (drop_guard, dropped) = oneshot::channel();
        processes.spawn(supervise(child, stderr, dropped, exit_sender));
        Ok(SshStream { stdin: Some(stdin), stdout, exit: ExitState::Pending(exit_receiver), _drop_guard: drop_guard })
    }
}

/// Quotes an argument for the shell on the other machine.
fn shell_quote(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// Waits until ssh exits by itself or the connection is dropped.
async fn supervise(
    mut child: Child,
    stderr: ChildStderr,
    dropped: oneshot::Receiver<()>,
    exit_sender: oneshot::Sender<Option<TransportError>>,
) {
    let mut stderr_reader = tokio::spawn(read_stderr(stderr));
    let status = tokio::select! {
        status = child.wait() => Some(status),
        _ = dropped => None,
    };
    match status {
        None => terminate(child).await,
        Some(Err(e)) => _ = exit_sender.send(Some(TransportError::new(e.to_string(), ""))),
        Some(Ok(status)) => {
            let output =
                timeout(STDERR_DRAIN_TIMEOUT, &mut stderr_reader).await.ok().and_then(Result::ok).unwrap_or_default();
            let _ = exit_sender.send(exit_error(status, &output));
        }
    }
    stderr_reader.abort();
}

/// Reads the stderr of ssh to its end, and returns the last part.
async fn read_stderr(mut stderr: ChildStderr) -> Vec<u8> {
    let mut output = Vec::new();
    while let Ok(1..) = stderr.read_buf(&mut output).await {
        let excess = output.len().saturating_sub(MAX_STDERR_LEN);
        output.drain(..excess);
    }
    output
}

/// Sends SIGTERM to ssh, and SIGKILL if it does not exit in time.
async fn terminate(mut child: Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // The process has not been waited for, so its PID cannot belong to another process.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(TERMINATE_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Returns the error of a failed ssh, from its last meaningful line; `None` if it succeeded.
fn exit_error(status: ExitStatus, stderr: &[u8]) -> Option<TransportError> {
    if status.success() {
        return None;
    }
    let stderr = String::from_utf8_lossy(stderr);
    let mut lines = stderr.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let last = lines
        .clone()
        .find(|line| !GENERIC_ERROR_PREFIXES.iter().any(|prefix| line.starts_with(prefix)))
        .or(lines.next());
    let sanitize = |line: &str| line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let reason = last.map_or_else(|| format!("ssh failed with {status}"), sanitize);
    let hint = match status.code() {
        Some(127) => "install the docker client on that machine, in the PATH of commands that ssh runs",
        Some(255) => "check that `ssh` connects without a password prompt and with a known host key",
        _ => "check that `docker system dial-stdio` works on that machine, for that user",
    };
    Some(TransportError::new(reason, hint))
}

/// A connection through ssh. Dropping it stops the process.
pub(super) struct SshStream {
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    exit: ExitState,
    _drop_guard: oneshot::Sender<()>,
}

/// Exit state of the process.
enum ExitState {
    Pending(oneshot::Receiver<Option<TransportError>>),
    Known(Option<TransportError>),
}

impl SshStream {
    /// Waits until the process has exited; returns an error if it failed.
    ///
    /// A closed pipe does not show the reason, but the exit status and stderr do.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let ExitState::Pending(exit) = &mut self.exit {
            self.exit = ExitState::Known(ready!(Pin::new(exit).poll(cx)).unwrap_or(None));
        }
        Poll::Ready(match &self.exit {
            ExitState::Known(Some(refusal)) => Err(io::Error::other(refusal.clone())),
            _ => Ok(()),
        })
    }
}

impl AsyncRead for SshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stdout).poll_read(cx, buffer))?;
        if buffer.filled().len() > before || buffer.capacity() == before {
            return Poll::Ready(Ok(()));
        }
        self.poll_exit(cx)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stdin {
            Some(stdin) => ready!(Pin::new(stdin).poll_write(cx, bytes)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if written.is_err() {
            ready!(self.poll_exit(cx))?;
        }
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A pipe has no buffer to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(rest: &str) -> String {
        SshEndpoint::parse(rest).map_or_else(|reason| reason, |ssh| ssh.arguments().join("|"))
    }

    #[test]
    fn ssh_arguments_match_the_docker_client() {
        const DEFAULT_OPTIONS: &str = "-o ConnectTimeout=30|-T|--";
        let plain = "docker system dial-stdio";
        for (rest, expected) in [
            ("box", format!("{DEFAULT_OPTIONS}|box|{plain}")),
            ("me@box:2222", format!("-l|me|-p|2222|{DEFAULT_OPTIONS}|box|{plain}")),
            ("me%40corp@box", format!("-l|me@corp|{DEFAULT_OPTIONS}|box|{plain}")),
            ("[::1]:22", format!("-p|22|{DEFAULT_OPTIONS}|::1|{plain}")),
            ("box/", format!("{DEFAULT_OPTIONS}|box|{plain}")),
            ("box/run/x.sock", format!("{DEFAULT_OPTIONS}|box|docker '--host=unix:///run/x.sock' system dial-stdio")),
            ("box/a%20b", format!("{DEFAULT_OPTIONS}|box|docker '--host=unix:///a b' system dial-stdio")),
            ("box/$(x)'", format!(r"{DEFAULT_OPTIONS}|box|docker '--host=unix:///$(x)'\''' system dial-stdio")),
        ] {
            assert_eq!(arguments(rest), expected, "{rest}");
        }
    }

    #[test]
    fn the_last_meaningful_stderr_line_is_the_error() {
        use std::os::unix::process::ExitStatusExt;
        let error = |code: i32, text: &str| {
            exit_error(ExitStatus::from_raw(code << 8), text.as_bytes()).map(|refusal| refusal.to_string())
        };
        assert_eq!(error(0, "Warning: of no meaning\n"), None);
        let text = "@@@@\r\nHost key verification failed.\r\n\n";
        assert_eq!(error(255, text).unwrap(), "Host key verification failed.");
        assert_eq!(error(255, "").unwrap(), "ssh failed with exit status: 255");
        let closed = "kex_exchange_identification: Connection closed by remote host\r\n";
        let via_jump_host =
            format!("me@jump: Permission denied (publickey).\r\n{closed}Connection closed by UNKNOWN port 65535\r\n");
        assert_eq!(error(255, &via_jump_host).unwrap(), "me@jump: Permission denied (publickey).");
        assert_eq!(error(255, closed).unwrap(), closed.trim());
    }
}
