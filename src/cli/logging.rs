//! Logging to stderr.
//!
//! A service logs lines with time and level, other commands log plain lines. The systemd journal has its own time and
//! level: if stderr is the journal, each line begins with its level (`sd-daemon(3)`).

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

/// Starts logging, once for the process. `is_service` adds time and level to each line. `default_level` is the level
/// without `-q` and `-v`.
pub(super) fn init(shared: &Shared, is_service: bool, default_level: LevelFilter) {
    let level = match (shared.quiet, shared.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => default_level,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let targets = Targets::new().with_target("events", level);
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(ansi);
    let subscriber = tracing_subscriber::registry().with(targets);
    // A second call, as in a test that runs several commands, changes nothing.
    let _ = match (shared.log_format, is_service) {
        (LogFormat::Json, _) => subscriber.with(layer.json().flatten_event(true)).try_init(),
        (LogFormat::Text, _) if is_journal() => subscriber.with(layer.event_format(JournalFormat)).try_init(),
        (LogFormat::Text, true) => subscriber.with(layer).try_init(),
        (LogFormat::Text, false) => subscriber.with(layer.without_time().with_level(false)).try_init(),
    };
}

/// Returns true if stderr is the journal. `$JOURNAL_STREAM` contains the device and inode of the journal's stream. The
/// variable alone proves nothing: processes with another stderr inherit it too.
pub(super) fn is_journal() -> bool {
    let journal_stream = std::env::var("JOURNAL_STREAM").ok();
    let journal_stream = journal_stream.as_deref().and_then(|value| value.split_once(':'));
    let stat = rustix::fs::fstat(std::io::stderr());
    journal_stream
        .zip(stat.ok())
        .is_some_and(|((device, inode), stat)| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// Format of a line that begins with its level, such as `<4>` for a warning.
struct JournalFormat;

impl<S, N> FormatEvent<S, N> for JournalFormat
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
