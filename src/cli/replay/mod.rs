//! `events replay`: plays a store or files at their own pace, to stdout or as an engine to a command.

mod command;
mod stdout;

use std::ffi::OsString;
use std::io::{self};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use self::command::run_with_engine;
use super::args::{SelectionArgs, find_source, warn_healthchecks_in_files, warn_unknown_healthchecks};
use super::{Failure, Shared, runtime};
use crate::event::Event;
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
    history: SelectionArgs,
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
    let runtime = runtime::multi_thread()?;
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
}
