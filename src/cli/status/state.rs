//! The state that `events status` prints.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::cli::Failure;
use crate::query::time::rfc3339;
use crate::store::{self, GapReason, GapRow, HostState, Reader, bytes_on_disk};

#[derive(Serialize)]
pub(super) struct Status {
    pub(super) db: Db,
    pub(super) sources: Vec<Source>,
    pub(super) recorder: Recorder,
}

#[derive(Serialize)]
pub(super) struct Db {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) events: u64,
    pub(super) pruned: Option<Pruned>,
}

/// Pruned events.
#[derive(Serialize)]
pub(super) struct Pruned {
    pub(super) events: u64,
    /// Time of the last pruning.
    pub(super) at: String,
    /// Time of the oldest event left; null if there is none.
    pub(super) kept_from: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) engine_id: Option<String>,
    pub(super) host: Option<String>,
    pub(super) events: u64,
    pub(super) first: Option<String>,
    pub(super) last: Option<String>,
    pub(super) connected: bool,
    pub(super) gaps: u64,
    pub(super) last_gap: Option<Gap>,
    pub(super) rejected: u64,
    /// Number of health check events that `record --no-healthchecks` did not store.
    pub(super) healthchecks_left_out: u64,
    /// Time by which the engine's clock is ahead of the recorder's.
    pub(super) clock_skew_ms: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct Gap {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) reason: String,
}

#[derive(Serialize)]
pub(super) struct Recorder {
    pub(super) running: bool,
    pub(super) pid: Option<u32>,
    pub(super) buffered: usize,
    /// True if the last attempt to write the store failed.
    pub(super) failing: bool,
    /// Number of engines that are recorded.
    pub(super) hosts: usize,
    /// Hosts whose stream is not open.
    pub(super) away: Vec<DisconnectedHost>,
}

#[derive(Serialize)]
pub(super) struct DisconnectedHost {
    pub(super) host: String,
    /// Reason, if known.
    pub(super) why: Option<String>,
}

impl Status {
    pub(super) fn load(path: &Path) -> Result<Status, Failure> {
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
}
