//! Logs go to stderr: for a service with time and level, for a command in a terminal as a plain line; for the journal of
//! systemd, which has a time and a level of its own, as a line that begins with its level (`sd-daemon(3)`).

use std::fmt;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

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
        (LogFormat::Text, _) if is_journal() => subscriber.with(lines.event_format(Levelled)).try_init(),
        (LogFormat::Text, true) => subscriber.with(lines).try_init(),
        (LogFormat::Text, false) => subscriber.with(lines.without_time().with_level(false)).try_init(),
    };
}

/// Whether stderr is the journal's: `$JOURNAL_STREAM` names its device and inode, and is inherited by whoever has
/// another stderr too.
pub(super) fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let named = named.as_deref().and_then(|named| named.split_once(':'));
    let stat = rustix::fs::fstat(std::io::stderr());
    named
        .zip(stat.ok())
        .is_some_and(|((device, inode), stat)| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// A line that begins with its level, as `<4>` for a warning.
struct Levelled;

impl<S, N> FormatEvent<S, N> for Levelled
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{level}>")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
