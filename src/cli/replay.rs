//! `events replay`: plays a store or files at their own pace, to stdout or as an engine to a command.

use std::ffi::OsString;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::selection_args::{self, find_source, warn_healthchecks_in_files, warn_unknown_healthchecks};
use super::{Failure, Shared};
use crate::clock::now_nano;
use crate::event::{Event, with_time};
use crate::http::Address;
use crate::query::{Limit, SelectedEvents, Selection};
use crate::serve::{Engine, FaultKind, Faults, History, Playback, Speed};
use crate::store::{Order, Reader, StoredEvent};
use crate::stream::load_events;

/// The options of `replay`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files to play instead of the store; `-` is standard input
    ///
    /// NDJSON or json-seq, optionally compressed with gzip or zstd.
    #[arg(value_name = "FIXTURE", conflicts_with = "source")]
    fixtures: Vec<PathBuf>,
    /// Play N times as fast as recorded; max is as fast as possible
    ///
    /// Example: `--speed 60` plays a minute in a second.
    #[arg(long, value_name = "N|max", default_value = "1", help_heading = "Playback options")]
    speed: Speed,
    /// Replace the times of events with the times at which they are played
    #[arg(long, help_heading = "Playback options")]
    retime: bool,
    /// Break the streams of the engine on purpose; repeatable
    ///
    /// cut@N: the connection ends inside the event after event N. stall@N:SECONDS: the engine sends nothing for this
    /// time after event N. garbage@N: a line that is not an event follows event N. restart@N: the connection ends after
    /// event N, and the engine loses the first N events. Each of these occurs once. split: all events arrive in pieces.
    /// Needs `-- CMD`.
    #[arg(long = "fault", value_name = "FAULT", help_heading = "Playback options")]
    faults: Vec<FaultKind>,
    /// Seed for the random choices of `--fault`
    ///
    /// The same seed gives the same streams.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Playback options")]
    seed: u64,
    #[command(flatten)]
    history: selection_args::SelectionArgs,
    /// Play only the first N events
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "last", help_heading = "Selection options")]
    limit: Option<u64>,
    /// Play only the newest N events
    #[arg(long, value_name = "N", help_heading = "Selection options")]
    last: Option<u64>,
    /// Command to run with DOCKER_HOST set to a private engine
    ///
    /// Each request for /events starts at the first event. `events replay` exits with the status of
    /// the command, or with 128 plus the signal that killed it.
    // Listed under "Arguments", not under the heading of the options above.
    #[arg(last = true, value_name = "CMD", help_heading = None::<&str>)]
    command: Vec<OsString>,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let mut selection = args.history.selection()?;
    selection.limit = match (args.limit, args.last) {
        (Some(limit), _) => Limit::First(limit),
        (None, Some(limit)) => Limit::Last(limit),
        (None, None) => Limit::All,
    };
    if args.command.is_empty() {
        if !args.faults.is_empty() {
            return Err(Failure::usage("--fault needs a command: faults do not apply to stdout")
                .hint("add a command after `--`"));
        }
        return args.print(shared, &selection);
    }
    let mut events = Vec::new();
    args.for_each_event(shared, &selection, |time_nano, raw| {
        events.push((time_nano, Bytes::copy_from_slice(raw)));
        Ok(())
    })?;
    let play = Playback::new(events, args.speed).with_retime(args.retime);
    let engine = Engine::new(History::Playback(play));
    let engine = Arc::new(engine.with_faults(Faults::new(args.faults.clone(), args.seed)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start the async runtime: {e}")))?;
    let exit_status = runtime.block_on(run_with_engine(engine, &args.command));
    runtime.shutdown_background();
    let exit_status = exit_status?;
    match exit_status.code().or(exit_status.signal().map(|signal| 128 + signal)) {
        Some(0) => Ok(()),
        code => Err(Failure::status(code.unwrap_or(1))),
    }
}

impl Args {
    /// Calls `visit` with each selected event, in order.
    fn for_each_event(
        &self,
        shared: &Shared,
        selection: &Selection,
        mut visit: impl FnMut(i64, &[u8]) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let limit = match selection.limit {
            Limit::First(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
            Limit::All | Limit::Last(_) => usize::MAX,
        };
        if !self.fixtures.is_empty() {
            warn_healthchecks_in_files(selection);
            let mut events = load_events(&self.fixtures)?;
            events.retain(|(time_nano, raw)| {
                selection.contains_instant(*time_nano) && Event::parse(raw).is_ok_and(|event| selection.matches(&event))
            });
            if let Limit::Last(last) = selection.limit {
                let last = usize::try_from(last).unwrap_or(usize::MAX);
                events.drain(..events.len().saturating_sub(last));
            }
            for (time_nano, raw) in events.iter().take(limit) {
                visit(*time_nano, raw)?;
            }
            return Ok(());
        }
        let reader = Reader::open(&shared.db_path()?)?;
        let source =
            self.history.source.as_deref().map(|name| find_source(&reader, name)).transpose()?.map(|(id, _)| id);
        let selected = SelectedEvents::new(&reader, selection, source);
        let snapshot = reader.snapshot(0)?;
        let mut remaining = limit;
        let visit = |stored: StoredEvent<'_>| {
            if remaining == 0 {
                return ControlFlow::Break(Ok(()));
            }
            remaining -= 1;
            let time_nano = Event::parse(stored.raw).map_or(0, |event| event.time_nano);
            match visit(time_nano, stored.raw) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(Err(e)),
            }
        };
        let flow = match selection.limit {
            Limit::Last(last) => selected.for_each_newest(snapshot, last, visit)?,
            Limit::All | Limit::First(_) => selected.for_each(snapshot, Order::Time, visit)?,
        };
        warn_unknown_healthchecks(&reader, &mut false);
        Ok(flow.break_value().unwrap_or(Ok(()))?)
    }

    /// Prints the events to stdout, each when it is due.
    fn print(&self, shared: &Shared, selection: &Selection) -> Result<(), Failure> {
        let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
        let (start, start_nano) = (Instant::now(), now_nano());
        let mut first = None;
        let mut count = 0;
        self.for_each_event(shared, selection, |time_nano, raw| {
            let due = self.speed.delay(time_nano.saturating_sub(*first.get_or_insert(time_nano)));
            let delay = due.saturating_sub(start.elapsed());
            if !delay.is_zero() {
                out.flush()?;
                wait_unless_closed(delay)?;
            }
            if self.retime {
                let due = i64::try_from(due.as_nanos()).unwrap_or(i64::MAX / 2);
                // At full speed all events are due immediately; different times keep their order visible.
                let nano = start_nano.saturating_add(due).saturating_add(if due == 0 { count } else { 0 });
                count += 1;
                if let Ok(event) = Event::parse(raw) {
                    out.write_all(with_time(&event, nano).as_bytes())?;
                    return out.write_all(b"\n");
                }
            }
            out.write_all(raw)?;
            out.write_all(b"\n")
        })?;
        Ok(out.flush()?)
    }
}

/// Waits for this time, or until the reader of stdout closes it: the next event may be hours away.
fn wait_unless_closed(mut remaining: Duration) -> io::Result<()> {
    let start = Instant::now();
    let total = remaining;
    let stdout = io::stdout();
    while !remaining.is_zero() {
        let timeout = Timespec::try_from(remaining).unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 });
        // Without requested events, poll reports only errors.
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(e) => return Err(e.into()),
        }
        remaining = total.saturating_sub(start.elapsed());
    }
    Ok(())
}

/// Runs a command with a private engine.
async fn run_with_engine(engine: Arc<Engine>, command: &[OsString]) -> Result<ExitStatus, Failure> {
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
