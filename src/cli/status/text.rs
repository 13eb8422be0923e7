//! Prints the state for people.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::state::{DisconnectedHost, Gap, Pruned, Recorder, Source, Status};
use crate::cli::args::format_size;
use crate::error::count_noun;

/// Colored dot that shows a state.
#[derive(Clone, Copy)]
enum Indicator {
    Healthy,
    Degraded,
    Failing,
    Inactive,
}

const BOLD: Style = Style::new().bold();

impl std::fmt::Display for Indicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let color = match self {
            Indicator::Healthy => AnsiColor::Green,
            Indicator::Degraded => AnsiColor::Yellow,
            Indicator::Failing => AnsiColor::Red,
            Indicator::Inactive => AnsiColor::BrightBlack,
        };
        let style = color.on_default();
        write!(f, "{style}●{style:#}")
    }
}

impl Status {
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        let (indicator, summary) = self.summary();
        let _ = writeln!(text, "{indicator} {BOLD}{summary}{BOLD:#}");
        let (path, events, bytes) = (&self.db.path, count_noun(self.db.events, "event"), format_size(self.db.bytes));
        let _ = writeln!(text, "  store     {path} ({events}, {bytes})");
        if let Some(Pruned { events, at, kept_from }) = &self.db.pruned {
            let remaining =
                kept_from.as_ref().map_or("no events are left".into(), |from| format!("oldest event left at {from}"));
            let events = count_noun(*events, "event");
            let _ = writeln!(text, "  pruned    {events}, last at {at}; {remaining}");
        }
        if let Some(pid) = self.recorder.pid {
            let _ =
                writeln!(text, "  recorder  pid {pid}, {} waiting", count_noun(self.recorder.buffered as u64, "event"));
        }
        for DisconnectedHost { host, why } in &self.recorder.away {
            let _ = writeln!(text, "  offline   {}", why.as_ref().unwrap_or(host));
        }
        self.sources.iter().for_each(|source| source.write_text(&mut text, self.recorder.running));
        text
    }

    /// State of the recorder on one line: its most serious problem, if any.
    fn summary(&self) -> (Indicator, String) {
        let Recorder { running, buffered, failing, hosts, .. } = self.recorder;
        let is_import_only = self.sources.iter().all(|source| source.host.is_none());
        match self.recorder.away.len() {
            _ if !running => {
                (if is_import_only { Indicator::Inactive } else { Indicator::Failing }, "not recording".into())
            }
            _ if failing => {
                (Indicator::Failing, format!("the store cannot be written: {buffered} events wait in memory"))
            }
            0 => (Indicator::Healthy, format!("recording {}", count_noun(hosts as u64, "engine"))),
            disconnected if disconnected == hosts => {
                (Indicator::Failing, "recording, but no engine is connected".into())
            }
            disconnected => {
                (Indicator::Degraded, format!("recording, but {disconnected} of {hosts} engines are not connected"))
            }
        }
    }
}

impl Gap {
    fn to_text(&self) -> String {
        let bound = |instant: &Option<String>, default: &str| instant.clone().unwrap_or_else(|| default.into());
        format!("{}, {} to {}", self.reason, bound(&self.from, "the beginning"), bound(&self.to, "now"))
    }
}

impl Source {
    fn write_text(&self, text: &mut String, running: bool) {
        let (indicator, state) = match (&self.host, self.connected) {
            (None, _) => (Indicator::Inactive, "imported".to_owned()),
            (Some(host), true) => (Indicator::Healthy, format!("connected to {host}")),
            (Some(host), false) => {
                (if running { Indicator::Failing } else { Indicator::Inactive }, format!("not connected to {host}"))
            }
        };
        let state = if self.name == state { String::new() } else { format!("  {state}") };
        let _ = writeln!(text, "\n{indicator} {BOLD}{}{BOLD:#}{state}", self.name);
        let mut write_line = |key: &str, value: &str| _ = writeln!(text, "  {key:<9} {value}");
        let command_hint = |count, command| if count > 0 { format!("  (`events {command}`)") } else { String::new() };
        let span = match (&self.first, &self.last) {
            (Some(first), Some(last)) => format!(", {first} to {last}"),
            _ => String::new(),
        };
        self.engine_id.iter().for_each(|engine| write_line("engine", engine));
        write_line("events", &format!("{}{span}", self.events));
        if self.healthchecks_left_out > 0 {
            write_line("left out", &format!("{} of health checks", count_noun(self.healthchecks_left_out, "event")));
        }
        self.clock_skew_text().iter().for_each(|skew| write_line("clock", skew));
        write_line("gaps", &format!("{}{}", self.gaps, command_hint(self.gaps, "gaps")));
        self.last_gap.iter().for_each(|gap| write_line("last gap", &gap.to_text()));
        write_line("rejected", &format!("{}{}", self.rejected, command_hint(self.rejected, "rejected")));
    }

    /// Difference between the clocks, if it is above a second.
    fn clock_skew_text(&self) -> Option<String> {
        let skew = self.clock_skew_ms.filter(|skew| skew.abs() > 1000)?;
        let direction = if skew > 0 { "ahead of" } else { "behind" };
        Some(format!("{:.1} s {direction} this machine's", skew.unsigned_abs() as f64 / 1e3))
    }
}
