//! Logging to stderr.
//!
//! A service logs lines with time and level, other commands log plain lines. The systemd journal has its own time and
//! level: if stderr is the journal, each line begins with its level (`sd-daemon(3)`). A text line is the message and
//! those fields whose values it does not contain; JSON has all fields, and those of the session.

use std::fmt;
use std::io::IsTerminal;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
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
    let _ = match shared.log_format {
        LogFormat::Json => subscriber.with(layer.json().flatten_event(true).with_span_list(false)).try_init(),
        LogFormat::Text => {
            let prefix = match is_service {
                _ if is_journal() => Prefix::JournalLevel,
                true => Prefix::TimeAndLevel,
                false => Prefix::None,
            };
            subscriber.with(layer.event_format(TextFormat(prefix))).try_init()
        }
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

/// Start of a text line.
#[derive(Clone, Copy, Debug)]
enum Prefix {
    None,
    TimeAndLevel,
    /// The level as the journal reads it, such as `<4>` for a warning.
    JournalLevel,
}

/// Format of a text line.
struct TextFormat(Prefix);

impl<S, N> FormatEvent<S, N> for TextFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        match self.0 {
            Prefix::None => {}
            Prefix::TimeAndLevel => {
                SystemTime.format_time(&mut writer)?;
                write_level(&mut writer, level)?;
            }
            Prefix::JournalLevel => write!(writer, "<{}>", journal_level(level))?,
        }
        let mut line = Line::default();
        event.record(&mut line);
        write!(writer, "{}", line.message)?;
        for (name, value) in line.fields.iter().filter(|(_, value)| !line.message.contains(value.as_str())) {
            write!(writer, " {name}={value}")?;
        }
        writeln!(writer)
    }
}

/// Writes the level in a column of its own, in color on a terminal.
fn write_level(writer: &mut Writer<'_>, level: Level) -> fmt::Result {
    let color = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    };
    if writer.has_ansi_escapes() {
        write!(writer, " \x1b[{color}m{level:>5}\x1b[0m ")
    } else {
        write!(writer, " {level:>5} ")
    }
}

fn journal_level(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Message and fields of a line.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push((name, text)),
        }
    }
}
