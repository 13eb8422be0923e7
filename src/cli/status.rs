//! `events status`: prints the state of the recorder and of each source, for people or as JSON.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use anstyle::{AnsiColor, Style};

use super::{Failure, Shared, format_size};
use crate::error::count_noun;
use crate::query::time::rfc3339;
use crate::store::{self, GapReason, GapRow, HostState, Reader, bytes_on_disk};

/// The options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    db: Db,
    sources: Vec<Source>,
    recorder: Recorder,
}

#[derive(Serialize)]
struct Db {
    path: String,
    bytes: u64,
    events: u64,
    pruned: Option<Pruned>,
}

/// Pruned events.
#[derive(Serialize)]
struct Pruned {
    events: u64,
    /// Time of the last pruning.
    at: String,
    /// Time of the oldest event left; null if there is none.
    kept_from: Option<String>,
}

#[derive(Serialize)]
struct Source {
    name: String,
    engine_id: Option<String>,
    host: Option<String>,
    events: u64,
    first: Option<String>,
    last: Option<String>,
    connected: bool,
    gaps: u64,
    last_gap: Option<Gap>,
    rejected: u64,
    /// Number of health check events that `record --no-healthchecks` did not store.
    healthchecks_left_out: u64,
    /// Time by which the engine's clock is ahead of the recorder's.
    clock_skew_ms: Option<i64>,
}

#[derive(Serialize)]
struct Gap {
    from: Option<String>,
    to: Option<String>,
    reason: String,
}

#[derive(Serialize)]
struct Recorder {
    running: bool,
    pid: Option<u32>,
    buffered: usize,
    /// True if the last attempt to write the store failed.
    failing: bool,
    /// Number of engines that are recorded.
    hosts: usize,
    /// Hosts whose stream is not open.
    away: Vec<DisconnectedHost>,
}

#[derive(Serialize)]
struct DisconnectedHost {
    host: String,
    /// Reason, if known.
    why: Option<String>,
}

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

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let status = Status::load(&shared.db_path()?)?;
    if args.json {
        let mut out = std::io::stdout().lock();
        super::print_json(&mut out, &status)?;
        return Ok(out.flush()?);
    }
    // anstream removes the colors if stdout is not a terminal or NO_COLOR is set.
    let mut out = anstream::stdout().lock();
    out.write_all(status.to_text().as_bytes())?;
    Ok(out.flush()?)
}

impl Status {
    fn load(path: &Path) -> Result<Status, Failure> {
        let reader = Reader::open(path)?;
        let recorder = store::recorder_state(path);
        let mut gaps: HashMap<String, Vec<GapRow>> = HashMap::new();
        for gap in reader.gaps()? {
            if gap.reason != GapReason::FirstContact.as_str() {
                gaps.entry(gap.source.clone()).or_default().push(gap);
            }
        }
        let hosts: &[HostState] = recorder.as_ref().map_or(&[], |state| &state.hosts);
        let connected = |engine: &Option<String>| {
            engine.is_some() && hosts.iter().any(|host| host.connected && host.engine_id == *engine)
        };
        let gap_count = |gaps: Option<&Vec<GapRow>>| gaps.map_or(0, Vec::len) as u64;
        let rows = reader.sources()?;
        let pruned = reader.latest_checkpoint()?.map(|checkpoint| Pruned {
            events: checkpoint.events,
            at: rfc3339(checkpoint.created_nano),
            kept_from: rows.iter().filter_map(|row| row.first_nano).min().map(rfc3339),
        });
        let sources: Vec<Source> = rows
            .into_iter()
            .map(|row| Source {
                connected: connected(&row.engine_id),
                gaps: gap_count(gaps.get(&row.name)),
                last_gap: gaps.get(&row.name).and_then(|gaps| gaps.last()).map(Gap::new),
                name: row.name,
                engine_id: row.engine_id,
                host: row.host,
                events: row.events,
                first: row.first_nano.map(rfc3339),
                last: row.last_nano.map(rfc3339),
                rejected: row.rejected,
                healthchecks_left_out: row.excluded_healthchecks,
                clock_skew_ms: row.skew_nano.map(|nano| nano / 1_000_000),
            })
            .collect();
        let db = Db {
            path: path.display().to_string(),
            bytes: bytes_on_disk(path),
            events: sources.iter().map(|source| source.events).sum(),
            pruned,
        };
        let recorder = Recorder {
            running: recorder.is_some(),
            pid: recorder.as_ref().map(|state| state.pid),
            buffered: recorder.as_ref().map_or(0, |state| state.buffered),
            failing: recorder.as_ref().is_some_and(|state| state.failing),
            hosts: hosts.len(),
            away: hosts.iter().filter(|host| !host.connected).map(DisconnectedHost::new).collect(),
        };
        Ok(Status { db, sources, recorder })
    }

    fn to_text(&self) -> String {
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

impl DisconnectedHost {
    fn new(state: &HostState) -> DisconnectedHost {
        DisconnectedHost { host: state.host.clone(), why: state.trouble.clone() }
    }
}

impl Gap {
    fn new(row: &GapRow) -> Gap {
        Gap { from: row.from_nano.map(rfc3339), to: row.to_nano.map(rfc3339), reason: row.reason.clone() }
    }

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
