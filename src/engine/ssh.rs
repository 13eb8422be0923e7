//! `ssh://user@host[:port][/path/to.sock]`: through the `ssh` program, so that the user's keys and configuration count,
//! to `docker system dial-stdio` there, which carries the bytes to its engine.
//!
//! Each connection is a process. It is asked to end when the connection is dropped, made to when it does not, and waited
//! for in any case; a recorder that is killed leaves it with closed pipes, of which it ends. It asks nobody: a recorder
//! tries again for as long as it runs, and each time would be a question more, or a wrong password at the engine's machine.

use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::connect::Refusal;

/// What we say to ssh before the docker client's words; of an option said twice the first counts.
const OURS: [&str; 3] = [
    // Less than the engine has to answer: ssh then says itself what is wrong, and takes along what it has started, as the
    // ssh to a machine between. One that is ended while it connects leaves that behind.
    "-oConnectTimeout=8",
    // A stream whose line is dead ends within 45 s, as keep-alive does it for TCP.
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=2",
];

/// That nobody is there to be asked.
const ALONE: &str = "-oBatchMode=yes";

/// How long ssh may take to end when it is asked to.
const LEAVE: Duration = Duration::from_secs(3);

/// How long, when ssh has ended, its last words may take: what it left in the background may hold its stderr.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How much of what ssh says is held.
const SAID: usize = 16 * 1024;

/// How lines begin that say nothing, behind one that does: what failed is the ssh to the machine between.
const EMPTY_WORDS: [&str; 3] =
    ["kex_exchange_identification: ", "Connection closed by UNKNOWN port ", "stdio forwarding failed"];

/// A machine that is reached through ssh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// Who to be there; else what ssh's configuration says.
    pub user: Option<String>,
    /// A name or an address, or a name of ssh's configuration.
    pub host: String,
    /// The port; else what ssh's configuration says.
    pub port: Option<u16>,
    /// The socket of the engine there; else what the docker client takes there.
    pub socket: Option<String>,
}

impl Ssh {
    /// Reads what follows `ssh://`.
    pub(super) fn parse(rest: &str) -> Result<Ssh, String> {
        if rest.contains(['?', '#']) {
            return Err("a query has no meaning there".into());
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err("a password has no meaning there; ssh takes keys".into());
        }
        let (host, port) = match place.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some(bracketed) => bracketed,
            None => place.find(':').map_or((place, ""), |at| place.split_at(at)),
        };
        if host.is_empty() {
            return Err("the name of the machine is missing".into());
        }
        if host.starts_with('-') || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("'{host}' is no name of a machine"));
        }
        let port = match port.strip_prefix(':').map(str::parse) {
            None if port.is_empty() => None,
            Some(Ok(0)) => return Err("there is no port 0".into()),
            Some(Ok(port)) => Some(port),
            _ => return Err("the port is not a number up to 65535".into()),
        };
        let decoded = |text: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
            _ => Err(format!("'{text}' is no text")),
        };
        let user = user.filter(|user| !user.is_empty()).map(decoded).transpose()?;
        let socket = Some(path).filter(|path| !path.trim_matches('/').is_empty()).map(decoded).transpose()?;
        Ok(Ssh { user, host: host.into(), port, socket })
    }

    /// The words for ssh: those of the docker client (docker/cli 28.5 `cli/connhelper`).
    pub fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.user.iter().flat_map(|user| ["-l".into(), user.clone()]));
        words.extend(self.port.iter().flat_map(|port| ["-p".into(), port.to_string()]));
        words.extend(["-o ConnectTimeout=30", "-T", "--", &self.host].map(str::to_owned));
        words.push(match &self.socket {
            None => "docker system dial-stdio".into(),
            Some(path) => format!("docker {} system dial-stdio", quoted(&format!("--host=unix://{path}"))),
        });
        words
    }

    /// Starts ssh. That it cannot reach the machine shows when bytes are read or written.
    pub(super) fn dial(&self, processes: &Processes) -> io::Result<Dialed> {
        let mut command = Command::new("ssh");
        command.args(OURS).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Never at the terminal. A program is asked if that is said in so many words; one that is merely there is a
        // desktop's, and opens a window.
        if !std::env::var("SSH_ASKPASS_REQUIRE").is_ok_and(|asked| asked == "force" || asked == "prefer") {
            // An ssh to a machine between does not get our words, but it gets the variables.
            command.arg(ALONE).env("SSH_ASKPASS", "false");
        }
        command.env("SSH_ASKPASS_REQUIRE", "force").args(self.arguments());
        let mut child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                io::Error::other(Refusal::new("there is no ssh program".into(), "install it: openssh-client"))
            }
            _ => e,
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("a pipe to ssh is missing"));
        };
        let (end, ended) = oneshot::channel();
        let (held, dropped) = oneshot::channel();
        tokio::spawn(attend(child, stderr, dropped, end, processes.one_more()));
        Ok(Dialed { stdin: Some(stdin), stdout, ended: Ended::Awaited(ended), _held: held })
    }
}

/// A word for the shell there.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The processes that run for a host, so that their end can be waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Processes(Arc<watch::Sender<usize>>);

impl Processes {
    fn one_more(&self) -> Process {
        self.0.send_modify(|running| *running += 1);
        Process(self.clone())
    }

    /// Waits until none runs any more.
    pub(super) async fn ended(&self) {
        // The sender lives as long as we do.
        let _ = self.0.subscribe().wait_for(|running| *running == 0).await;
    }
}

/// One of them, until this is dropped.
struct Process(Processes);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.0.send_modify(|running| *running -= 1);
    }
}

/// Waits for ssh to end, by itself or because nobody wants the connection any more.
async fn attend(
    mut child: Child,
    stderr: ChildStderr,
    dropped: oneshot::Receiver<()>,
    end: oneshot::Sender<Option<Refusal>>,
    _process: Process,
) {
    let mut hearing = tokio::spawn(hear(stderr));
    let status = tokio::select! {
        status = child.wait() => Some(status),
        _ = dropped => None,
    };
    match status {
        None => leave(child).await,
        Some(Err(e)) => _ = end.send(Some(Refusal::new(e.to_string(), ""))),
        Some(Ok(status)) => {
            let said = timeout(LAST_WORDS, &mut hearing).await.ok().and_then(Result::ok).unwrap_or_default();
            let _ = end.send(verdict(status, &said));
        }
    }
    hearing.abort();
}

/// What ssh says, to its end.
async fn hear(mut stderr: ChildStderr) -> Vec<u8> {
    let mut said = Vec::new();
    while let Ok(1..) = stderr.read_buf(&mut said).await {
        let over = said.len().saturating_sub(SAID);
        said.drain(..over);
    }
    said
}

/// Asks ssh to end, and makes it if it does not.
async fn leave(mut child: Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It has not been waited for, so the number is still its own.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(LEAVE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Why it ended, in its own last words; `None` if that is as it should be.
fn verdict(status: ExitStatus, said: &[u8]) -> Option<Refusal> {
    if status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(said);
    let mut lines = said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let last = lines.clone().find(|line| !EMPTY_WORDS.iter().any(|begin| line.starts_with(begin))).or(lines.next());
    let clean = |line: &str| line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let why = last.map_or_else(|| format!("ssh ended with {status}"), clean);
    let hint = match status.code() {
        Some(127) => "the docker client must be there, in the PATH of a command that ssh runs",
        Some(255) => "does `ssh` reach it by itself, with no password asked for and its host key known?",
        _ => "does `docker system dial-stdio` work there, for that user?",
    };
    Some(Refusal::new(why, hint))
}

/// A connection through ssh; dropping it ends the process.
pub(super) struct Dialed {
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    ended: Ended,
    _held: oneshot::Sender<()>,
}

/// How the process ended.
enum Ended {
    Awaited(oneshot::Receiver<Option<Refusal>>),
    Known(Option<Refusal>),
}

impl Dialed {
    /// A pipe that is closed says nothing. The process does, once it has ended; an error if it ended badly.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Ended::Awaited(ended) = &mut self.ended {
            self.ended = Ended::Known(ready!(Pin::new(ended).poll(cx)).unwrap_or(None));
        }
        Poll::Ready(match &self.ended {
            Ended::Known(Some(refusal)) => Err(io::Error::other(refusal.clone())),
            _ => Ok(()),
        })
    }
}

impl AsyncRead for Dialed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stdout).poll_read(cx, buffer))?;
        if buffer.filled().len() > before || buffer.capacity() == before {
            return Poll::Ready(Ok(()));
        }
        self.poll_ended(cx)
    }
}

impl AsyncWrite for Dialed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.stdin {
            Some(stdin) => ready!(Pin::new(stdin).poll_write(cx, bytes)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if written.is_err() {
            ready!(self.poll_ended(cx))?;
        }
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A pipe holds nothing back.
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
        Ssh::parse(rest).map_or_else(|why| why, |ssh| ssh.arguments().join("|"))
    }

    #[test]
    fn the_words_for_ssh_are_those_of_the_docker_client() {
        const USUAL: &str = "-o ConnectTimeout=30|-T|--";
        let plain = "docker system dial-stdio";
        for (rest, expected) in [
            ("box", format!("{USUAL}|box|{plain}")),
            ("me@box:2222", format!("-l|me|-p|2222|{USUAL}|box|{plain}")),
            ("me%40corp@box", format!("-l|me@corp|{USUAL}|box|{plain}")),
            ("[::1]:22", format!("-p|22|{USUAL}|::1|{plain}")),
            ("box/", format!("{USUAL}|box|{plain}")),
            ("box/run/x.sock", format!("{USUAL}|box|docker '--host=unix:///run/x.sock' system dial-stdio")),
            ("box/a%20b", format!("{USUAL}|box|docker '--host=unix:///a b' system dial-stdio")),
            ("box/$(x)'", format!(r"{USUAL}|box|docker '--host=unix:///$(x)'\''' system dial-stdio")),
        ] {
            assert_eq!(arguments(rest), expected, "{rest}");
        }
    }

    #[test]
    fn the_last_words_of_ssh_are_the_error() {
        use std::os::unix::process::ExitStatusExt;
        let said = |code: i32, text: &str| {
            verdict(ExitStatus::from_raw(code << 8), text.as_bytes()).map(|refusal| refusal.to_string())
        };
        assert_eq!(said(0, "Warning: of no meaning\n"), None);
        let text = "@@@@\r\nHost key verification failed.\r\n\n";
        assert_eq!(said(255, text).unwrap(), "Host key verification failed.");
        assert_eq!(said(255, "").unwrap(), "ssh ended with exit status: 255");
        let closed = "kex_exchange_identification: Connection closed by remote host\r\n";
        let between =
            format!("me@jump: Permission denied (publickey).\r\n{closed}Connection closed by UNKNOWN port 65535\r\n");
        assert_eq!(said(255, &between).unwrap(), "me@jump: Permission denied (publickey).");
        assert_eq!(said(255, closed).unwrap(), closed.trim());
    }
}
