//! Logs go to stderr: for a service with time and level, for a command in a terminal as a plain line.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use super::{LogFormat, Shared};

/// Starts logging, once for the process; `service` is a command that runs for long, `usual` what is logged of it where
/// no flag says more or less.
pub(super) fn start(shared: &Shared, service: bool, usual: LevelFilter) {
    let level = match (shared.quiet, shared.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => usual,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let ours = Targets::new().with_target("events", level);
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(ansi);
    let subscriber = tracing_subscriber::registry().with(ours);
    // A second start, as in a test that runs several commands, changes nothing.
    let _ = match (shared.log_format, service) {
        (LogFormat::Json, _) => subscriber.with(lines.json().flatten_event(true)).try_init(),
        (LogFormat::Text, true) => subscriber.with(lines).try_init(),
        (LogFormat::Text, false) => subscriber.with(lines.without_time().with_level(false)).try_init(),
    };
}
