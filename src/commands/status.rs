//! `events status`: the engines, counts, gaps and the recorder, for a person or as JSON.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::{Failure, Shared, size_text};
use crate::query::time::rfc3339;
use crate::store::{self, Reader, Reason};

/// The flags of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
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
    rejected: u64,
    /// How many events of health checks `record --no-healthchecks` has not stored.
    healthchecks_left_out: u64,
    /// How far the engine's clock is ahead of the recorder's.
    clock_skew_ms: Option<i64>,
}

#[derive(Serialize)]
struct Recorder {
    running: bool,
    pid: Option<u32>,
    buffered: usize,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let status = Status::of(&shared.db()?)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        super::print_json(&mut out, &status)?;
    } else {
        out.write_all(status.for_people().as_bytes())?;
    }
    Ok(out.flush()?)
}

impl Status {
    fn of(path: &Path) -> Result<Status, Failure> {
        let reader = Reader::open(path)?;
        let recorder = store::recorder(path);
        let mut gaps: HashMap<String, u64> = HashMap::new();
        for gap in reader.gaps()? {
            if gap.reason != Reason::FirstContact.as_str() {
                *gaps.entry(gap.source).or_default() += 1;
            }
        }
        let connected = |engine: &Option<String>| {
            let hosts = recorder.iter().flat_map(|state| &state.hosts);
            engine.is_some() && hosts.into_iter().any(|host| host.connected && host.engine_id == *engine)
        };
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
                gaps: gaps.get(&row.name).copied().unwrap_or(0),
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
        };
        Ok(Status { db, sources, recorder })
    }

    fn for_people(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "store     {} ({} events, {})", self.db.path, self.db.events, size_text(self.db.bytes));
        if let Some(Pruned { events, at, kept_from }) = &self.db.pruned {
            let kept =
                kept_from.as_ref().map_or("nothing is left".into(), |from| format!("what is left begins {from}"));
            let _ = writeln!(text, "pruned    {events} events, the last at {at}; {kept}");
        }
        let _ = match self.recorder.pid {
            Some(pid) => writeln!(text, "recorder  running, pid {pid}, {} events waiting", self.recorder.buffered),
            None => writeln!(text, "recorder  not running"),
        };
        for source in &self.sources {
            let state = match (&source.host, source.connected) {
                (None, _) => "imported".to_owned(),
                (Some(host), true) => format!("connected to {host}"),
                (Some(host), false) => format!("not connected to {host}"),
            };
            let _ = writeln!(text, "\n{}  {state}", source.name);
            if let Some(engine) = &source.engine_id {
                let _ = writeln!(text, "  engine    {engine}");
            }
            let span = match (&source.first, &source.last) {
                (Some(first), Some(last)) => format!(", {first} to {last}"),
                _ => String::new(),
            };
            let _ = writeln!(text, "  events    {}{span}", source.events);
            if source.healthchecks_left_out > 0 {
                let _ = writeln!(text, "  left out  {} events of health checks", source.healthchecks_left_out);
            }
            if let Some(skew) = source.clock_that_is_off() {
                let _ = writeln!(text, "  clock     {skew}");
            }
            let more = |number, command| if number > 0 { format!("  (`events {command}`)") } else { String::new() };
            let _ = writeln!(text, "  gaps      {}{}", source.gaps, more(source.gaps, "gaps"));
            let _ = writeln!(text, "  rejected  {}{}", source.rejected, more(source.rejected, "rejected"));
        }
        text
    }
}

impl Source {
    /// How the engine's clock is off, if it is by more than a second.
    fn clock_that_is_off(&self) -> Option<String> {
        let skew = self.clock_skew_ms.filter(|skew| skew.abs() > 1000)?;
        let side = if skew > 0 { "ahead of" } else { "behind" };
        Some(format!("{:.1} s {side} this machine's", skew.unsigned_abs() as f64 / 1e3))
    }
}

/// The file and what stands beside it and is not in it yet.
fn bytes_on_disk(path: &Path) -> u64 {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    [path, Path::new(&wal)].iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum()
}
