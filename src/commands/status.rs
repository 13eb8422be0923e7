//! `events status`: the engines, counts, gaps and the recorder, for a person or as JSON.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use anstyle::{AnsiColor, Style};

use super::{Failure, Shared, size_text};
use crate::error::number;
use crate::query::time::rfc3339;
use crate::store::{self, GapRow, HostState, Reader, Reason};

/// The flags of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One JSON object
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

/// What was let go of.
#[derive(Serialize)]
struct Pruned {
    events: u64,
    /// When something was last.
    at: String,
    /// What is older went; null if nothing is left.
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
    /// How many events of health checks `record --no-healthchecks` has not stored.
    healthchecks_left_out: u64,
    /// How far the engine's clock is ahead of the recorder's.
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
    /// Whether the store could not be written when that was tried last.
    failing: bool,
    /// How many engines it records.
    hosts: usize,
    /// Those whose stream is not open.
    away: Vec<Away>,
}

#[derive(Serialize)]
struct Away {
    host: String,
    /// Why, if that is known.
    why: Option<String>,
}

/// How something stands, at a glance.
#[derive(Clone, Copy)]
enum Light {
    Well,
    Away,
    Bad,
    Off,
}

const BOLD: Style = Style::new().bold();

impl std::fmt::Display for Light {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let color = match self {
            Light::Well => AnsiColor::Green,
            Light::Away => AnsiColor::Yellow,
            Light::Bad => AnsiColor::Red,
            Light::Off => AnsiColor::BrightBlack,
        };
        let style = color.on_default();
        write!(f, "{style}●{style:#}")
    }
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let status = Status::of(&shared.db()?)?;
    if args.json {
        let mut out = std::io::stdout().lock();
        super::print_json(&mut out, &status)?;
        return Ok(out.flush()?);
    }
    // Without colours where there is no terminal, or NO_COLOR says so.
    let mut out = anstream::stdout().lock();
    out.write_all(status.for_people().as_bytes())?;
    Ok(out.flush()?)
}

impl Status {
    fn of(path: &Path) -> Result<Status, Failure> {
        let reader = Reader::open(path)?;
        let recorder = store::recorder(path);
        let mut gaps: HashMap<String, Vec<GapRow>> = HashMap::new();
        for gap in reader.gaps()? {
            if gap.reason != Reason::FirstContact.as_str() {
                gaps.entry(gap.source.clone()).or_default().push(gap);
            }
        }
        let hosts: &[HostState] = recorder.as_ref().map_or(&[], |state| &state.hosts);
        let connected = |engine: &Option<String>| {
            engine.is_some() && hosts.iter().any(|host| host.connected && host.engine_id == *engine)
        };
        let number = |gaps: Option<&Vec<GapRow>>| gaps.map_or(0, Vec::len) as u64;
        let rows = reader.sources()?;
        let pruned = reader.pruned()?.map(|sealed| Pruned {
            events: sealed.events,
            at: rfc3339(sealed.sealed_nano),
            kept_from: rows.iter().filter_map(|row| row.first_nano).min().map(rfc3339),
        });
        let sources: Vec<Source> = rows
            .into_iter()
            .map(|row| Source {
                connected: connected(&row.engine_id),
                gaps: number(gaps.get(&row.name)),
                last_gap: gaps.get(&row.name).and_then(|gaps| gaps.last()).map(Gap::of),
                name: row.name,
                engine_id: row.engine_id,
                host: row.host,
                events: row.events,
                first: row.first_nano.map(rfc3339),
                last: row.last_nano.map(rfc3339),
                rejected: row.rejected,
                healthchecks_left_out: row.healthchecks_left_out,
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
            away: hosts.iter().filter(|host| !host.connected).map(Away::of).collect(),
        };
        Ok(Status { db, sources, recorder })
    }

    fn for_people(&self) -> String {
        let mut text = String::new();
        let (light, verdict) = self.verdict();
        let _ = writeln!(text, "{light} {BOLD}{verdict}{BOLD:#}");
        let (path, events, bytes) = (&self.db.path, number(self.db.events, "event"), size_text(self.db.bytes));
        let _ = writeln!(text, "  store     {path} ({events}, {bytes})");
        if let Some(Pruned { events, at, kept_from }) = &self.db.pruned {
            let kept =
                kept_from.as_ref().map_or("nothing is left".into(), |from| format!("what is left begins {from}"));
            let events = number(*events, "event");
            let _ = writeln!(text, "  pruned    {events}, the last at {at}; {kept}");
        }
        if let Some(pid) = self.recorder.pid {
            let _ = writeln!(text, "  recorder  pid {pid}, {} waiting", number(self.recorder.buffered as u64, "event"));
        }
        for Away { host, why } in &self.recorder.away {
            let _ = writeln!(text, "  away      {}", why.as_ref().unwrap_or(host));
        }
        self.sources.iter().for_each(|source| source.for_people(&mut text, self.recorder.running));
        text
    }

    /// Whether all is well, and if not, what is wrong most.
    fn verdict(&self) -> (Light, String) {
        let Recorder { running, buffered, failing, hosts, .. } = self.recorder;
        let imports_alone = self.sources.iter().all(|source| source.host.is_none());
        match self.recorder.away.len() {
            _ if !running => (if imports_alone { Light::Off } else { Light::Bad }, "not recording".into()),
            _ if failing => (Light::Bad, format!("the store cannot be written: {buffered} events wait in memory")),
            0 => (Light::Well, format!("recording {}", number(hosts as u64, "engine"))),
            away if away == hosts => (Light::Bad, "recording, but no engine is connected".into()),
            away => (Light::Away, format!("recording, but {away} of {hosts} engines are not connected")),
        }
    }
}

impl Away {
    fn of(state: &HostState) -> Away {
        Away { host: state.host.clone(), why: state.trouble.clone() }
    }
}

impl Gap {
    fn of(row: &GapRow) -> Gap {
        Gap { from: row.from_nano.map(rfc3339), to: row.to_nano.map(rfc3339), reason: row.reason.clone() }
    }

    fn for_people(&self) -> String {
        let end = |instant: &Option<String>, none: &str| instant.clone().unwrap_or_else(|| none.into());
        format!("{}, {} to {}", self.reason, end(&self.from, "the beginning"), end(&self.to, "now"))
    }
}

impl Source {
    fn for_people(&self, text: &mut String, running: bool) {
        let (light, state) = match (&self.host, self.connected) {
            (None, _) => (Light::Off, "imported".to_owned()),
            (Some(host), true) => (Light::Well, format!("connected to {host}")),
            (Some(host), false) => (if running { Light::Bad } else { Light::Off }, format!("not connected to {host}")),
        };
        let state = if self.name == state { String::new() } else { format!("  {state}") };
        let _ = writeln!(text, "\n{light} {BOLD}{}{BOLD:#}{state}", self.name);
        let mut line = |key: &str, value: &str| _ = writeln!(text, "  {key:<9} {value}");
        let more = |number, command| if number > 0 { format!("  (`events {command}`)") } else { String::new() };
        let span = match (&self.first, &self.last) {
            (Some(first), Some(last)) => format!(", {first} to {last}"),
            _ => String::new(),
        };
        self.engine_id.iter().for_each(|engine| line("engine", engine));
        line("events", &format!("{}{span}", self.events));
        if self.healthchecks_left_out > 0 {
            line("left out", &format!("{} of health checks", number(self.healthchecks_left_out, "event")));
        }
        self.clock_that_is_off().iter().for_each(|skew| line("clock", skew));
        line("gaps", &format!("{}{}", self.gaps, more(self.gaps, "gaps")));
        self.last_gap.iter().for_each(|gap| line("the last", &gap.for_people()));
        line("rejected", &format!("{}{}", self.rejected, more(self.rejected, "rejected")));
    }

    /// How the engine's clock is off, if it is by more than a second.
    fn clock_that_is_off(&self) -> Option<String> {
        let skew = self.clock_skew_ms.filter(|skew| skew.abs() > 1000)?;
        let side = if skew > 0 { "ahead of" } else { "behind" };
        Some(format!("{:.1} s {side} this machine's", skew.unsigned_abs() as f64 / 1e3))
    }
}

/// The file and what stands beside it and is not in it yet.
pub(super) fn bytes_on_disk(path: &Path) -> u64 {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    [path, Path::new(&wal)].iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum()
}
