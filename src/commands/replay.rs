//! `events replay`: plays history or files at their own pace; to stdout, or as an engine to a command.

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

use super::select::{self, find_source, say_all_untold, say_untold};
use super::{Failure, Shared, now_nano};
use crate::event::{Event, retimed};
use crate::query::{Cut, Selection};
use crate::serve::{Address, Engine, FaultKind, Faults, History, Play, Speed};
use crate::store::{Order, Reader};
use crate::stream::fixtures;

/// The flags of `replay`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Play these files in place of the store: NDJSON or json-seq, also as .gz or .zst; `-`: standard input
    #[arg(value_name = "FIXTURE", conflicts_with = "source")]
    fixtures: Vec<PathBuf>,
    /// How many times as fast as it was recorded; max: as fast as it is taken
    #[arg(long, value_name = "N|max", default_value = "1", help_heading = "Playing")]
    speed: Speed,
    /// Move the instants of the events to now
    #[arg(long, help_heading = "Playing")]
    retime: bool,
    /// Break the streams on purpose, each fault once: cut@N, stall@N:SECONDS, garbage@N, restart@N (after N events);
    /// split: events come in pieces; repeatable
    #[arg(long = "fault", value_name = "FAULT", help_heading = "Playing")]
    faults: Vec<FaultKind>,
    /// What is random in the faults comes from this number alone
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Playing")]
    seed: u64,
    #[command(flatten)]
    history: select::History,
    /// The first N
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "last", help_heading = "Window")]
    limit: Option<u64>,
    /// The newest N
    #[arg(long, value_name = "N", help_heading = "Window")]
    last: Option<u64>,
    /// A command to run with $DOCKER_HOST set to an engine that plays to it; its exit status is given back
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let mut selection = args.history.selection()?;
    selection.cut = match (args.limit, args.last) {
        (Some(most), _) => Cut::First(most),
        (None, Some(most)) => Cut::Last(most),
        (None, None) => Cut::All,
    };
    if args.command.is_empty() {
        if !args.faults.is_empty() {
            return Err(Failure::usage("--fault breaks the streams of an engine, and stdout is none")
                .hint("name a command to play to: -- CMD"));
        }
        return args.print(shared, &selection);
    }
    let mut events = Vec::new();
    args.each(shared, &selection, |instant, raw| {
        events.push((instant, Bytes::copy_from_slice(raw)));
        Ok(())
    })?;
    let play = Play::new(events, args.speed).retimed(args.retime);
    let engine = Engine::new(History::Play(play));
    let engine = Arc::new(engine.with_faults(Faults::new(args.faults.clone(), args.seed)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let status = runtime.block_on(play_to(engine, &args.command));
    runtime.shutdown_background();
    let status = status?;
    match status.code().or(status.signal().map(|signal| 128 + signal)) {
        Some(0) => Ok(()),
        code => Err(Failure::status(code.unwrap_or(1))),
    }
}

impl Args {
    /// Calls `each` with what is selected, in order.
    fn each(
        &self,
        shared: &Shared,
        selection: &Selection,
        mut each: impl FnMut(i64, &[u8]) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let most = match selection.cut {
            Cut::First(most) => usize::try_from(most).unwrap_or(usize::MAX),
            Cut::All | Cut::Last(_) => usize::MAX,
        };
        if !self.fixtures.is_empty() {
            say_all_untold(selection);
            let mut events = fixtures(&self.fixtures)?;
            events.retain(|(instant, raw)| {
                selection.spans(*instant) && Event::parse(raw).is_ok_and(|event| selection.passes(&event))
            });
            if let Cut::Last(newest) = selection.cut {
                let newest = usize::try_from(newest).unwrap_or(usize::MAX);
                events.drain(..events.len().saturating_sub(newest));
            }
            for (instant, raw) in events.iter().take(most) {
                each(*instant, raw)?;
            }
            return Ok(());
        }
        let reader = Reader::open(&shared.db()?)?;
        let source =
            self.history.source.as_deref().map(|name| find_source(&reader, name)).transpose()?.map(|(id, _)| id);
        let passes = |event: &Event<'_>| selection.passes(event);
        let judge = selection.judge(&passes);
        let snapshot = reader.snapshot(0)?;
        let instant = |raw: &[u8]| Event::parse(raw).map_or(0, |event| event.time_nano);
        if let Cut::Last(newest) = selection.cut {
            let mut kept: Vec<Vec<u8>> = Vec::new();
            if newest > 0 {
                let _ =
                    reader.events::<()>(&selection.ask(source), snapshot, Order::TimeReversed, judge, |stored| {
                        kept.push(stored.raw.to_vec());
                        if (kept.len() as u64) < newest { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                    })?;
            }
            say_untold(&reader, &mut false);
            for raw in kept.iter().rev() {
                each(instant(raw), raw)?;
            }
            return Ok(());
        }
        let mut left = most;
        let done = reader.events(&selection.ask(source), snapshot, Order::Time, judge, |stored| {
            if left == 0 {
                return ControlFlow::Break(Ok(()));
            }
            left -= 1;
            match each(instant(stored.raw), stored.raw) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(Err(e)),
            }
        })?;
        say_untold(&reader, &mut false);
        if let ControlFlow::Break(done) = done { Ok(done?) } else { Ok(()) }
    }

    /// To stdout, paced.
    fn print(&self, shared: &Shared, selection: &Selection) -> Result<(), Failure> {
        let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
        let (begin, begin_nano) = (Instant::now(), now_nano());
        let mut first = None;
        let mut count = 0;
        self.each(shared, selection, |instant, raw| {
            let due = self.speed.due(instant.saturating_sub(*first.get_or_insert(instant)));
            let left = due.saturating_sub(begin.elapsed());
            if !left.is_zero() {
                out.flush()?;
                wait(left)?;
            }
            if self.retime {
                let due = i64::try_from(due.as_nanos()).unwrap_or(i64::MAX / 2);
                // At full speed all is due at once; the order is to be seen all the same.
                let nano = begin_nano.saturating_add(due).saturating_add(if due == 0 { count } else { 0 });
                count += 1;
                if let Ok(event) = Event::parse(raw) {
                    out.write_all(retimed(&event, nano).as_bytes())?;
                    return out.write_all(b"\n");
                }
            }
            out.write_all(raw)?;
            out.write_all(b"\n")
        })?;
        Ok(out.flush()?)
    }
}

/// Waits so long, or until nobody reads stdout any more: the next event may be hours away.
fn wait(mut left: Duration) -> io::Result<()> {
    let begin = Instant::now();
    let all = left;
    let stdout = io::stdout();
    while !left.is_zero() {
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 });
        // Asked for nothing, it tells of errors alone.
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(e) => return Err(e.into()),
        }
        left = all.saturating_sub(begin.elapsed());
    }
    Ok(())
}

/// Runs a command beside an engine that is its own.
async fn play_to(engine: Arc<Engine>, words: &[OsString]) -> Result<ExitStatus, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("events-replay-")
        .tempdir()
        .map_err(|e| Failure::failed(format!("cannot make a temporary folder: {e}")))?;
    let address = Address::Unix(folder.path().join("docker.sock"));
    let listening = engine.listen(&address, None)?;
    let program = words[0].to_string_lossy();
    let no_signals = |e| Failure::failed(format!("cannot listen for signals: {e}"));
    let mut hung_up = signal(SignalKind::hangup()).map_err(no_signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut quit = signal(SignalKind::quit()).map_err(no_signals)?;
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .env("DOCKER_HOST", address.to_string())
        .env_remove("DOCKER_CONTEXT")
        .env_remove("DOCKER_TLS_VERIFY")
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::failed(format!("cannot run {program}: {e}")))?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    // From a terminal the command gets it too, without us.
    let at_terminal = io::IsTerminal::is_terminal(&io::stdin());
    let pass_on = |signal| {
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    };
    tokio::pin!(listening);
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|e| Failure::failed(format!("cannot wait for {program}: {e}")));
            }
            () = &mut listening => {}
            _ = hung_up.recv() => pass_on(Signal::HUP),
            _ = terminated.recv() => pass_on(Signal::TERM),
            _ = interrupted.recv() => if !at_terminal { pass_on(Signal::INT) },
            _ = quit.recv() => if !at_terminal { pass_on(Signal::QUIT) },
        }
    }
}
