//! Runs a command with a private engine that plays the events.

use std::ffi::OsString;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Failure;
use crate::http::Address;
use crate::serve::Engine;

/// Runs a command with a private engine.
pub(super) async fn run_with_engine(engine: Arc<Engine>, command: &[OsString]) -> Result<ExitStatus, Failure> {
    let dir = tempfile::Builder::new()
        .prefix("events-replay-")
        .tempdir()
        .map_err(|e| Failure::failed(format!("cannot create a temporary directory: {e}")))?;
    let address = Address::Unix(dir.path().join("docker.sock"));
    let server = engine.listen(&address, None)?;
    let program = command[0].to_string_lossy();
    let signal_error = |e| Failure::failed(format!("cannot listen for signals: {e}"));
    let mut sighup = signal(SignalKind::hangup()).map_err(signal_error)?;
    let mut sigint = signal(SignalKind::interrupt()).map_err(signal_error)?;
    let mut sigterm = signal(SignalKind::terminate()).map_err(signal_error)?;
    let mut sigquit = signal(SignalKind::quit()).map_err(signal_error)?;
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .env("DOCKER_HOST", address.to_string())
        .env_remove("DOCKER_CONTEXT")
        .env_remove("DOCKER_TLS_VERIFY")
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::failed(format!("cannot run {program}: {e}")))?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    // A terminal sends these signals to the command too, so they are not forwarded.
    let is_terminal = io::IsTerminal::is_terminal(&io::stdin());
    let forward = |signal| {
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    };
    tokio::pin!(server);
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|e| Failure::failed(format!("cannot wait for {program}: {e}")));
            }
            () = &mut server => {}
            _ = sighup.recv() => forward(Signal::HUP),
            _ = sigterm.recv() => forward(Signal::TERM),
            _ = sigint.recv() => if !is_terminal { forward(Signal::INT) },
            _ = sigquit.recv() => if !is_terminal { forward(Signal::QUIT) },
        }
    }
}
