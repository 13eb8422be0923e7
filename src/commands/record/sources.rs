//! The engines: which of them are being recorded, and the last event seen of each. Shared by the connections of all
//! hosts.
//!
//! This state is in memory beside the store, so that a reconnect does not wait for a busy store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::gap_report::PendingGap;
use super::healthcheck_gate::HealthcheckGate;
use crate::event::Identity;
use crate::store::SourceRow;

/// All known engines.
#[derive(Debug, Default)]
pub(super) struct Sources {
    engines: Mutex<HashMap<String, Engine>>,
    /// Engines that were recorded into a file that has since disappeared from the path or was replaced.
    recorded_elsewhere: HashSet<String>,
}

#[derive(Debug, Default)]
struct Engine {
    last_seen: Option<Identity>,
    /// Host at which the engine was last reached.
    host: Option<String>,
    /// Number of the latest session. Of several engines at one host, the one with the highest number was the last.
    session_number: usize,
    /// True while a connection records the engine.
    leased: bool,
    /// True if the engine was reached with an empty backlog, and no event was seen since.
    idle: bool,
    /// The last gap, while its report is pending.
    pending_gap: Option<PendingGap>,
    /// Health checks of the engine's containers, while no session uses them.
    healthcheck_gate: HealthcheckGate,
}

/// Lease on an engine: the exclusive right to record it, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Lease {
    sources: Arc<Sources>,
    engine_id: String,
}

impl Sources {
    /// Creates the sources from the rows of a store, and from the health check commands of containers.
    pub(super) fn from_rows(rows: Vec<SourceRow>, healthchecks: Vec<(String, String, String)>) -> Self {
        let mut rows = rows;
        rows.sort_by_key(|row| row.connected_nano);
        let mut containers: HashMap<String, Vec<(String, String)>> = HashMap::new();
        for (engine_id, container, command) in healthchecks {
            containers.entry(engine_id).or_default().push((container, command));
        }
        let mut to_engine = |(session_number, row): (usize, SourceRow)| {
            let engine_id = row.engine_id?;
            let healthcheck_gate = HealthcheckGate::new(containers.remove(&engine_id).unwrap_or_default().into_iter());
            let (last_seen, host) = (row.last_seen, row.host);
            Some((engine_id, Engine { last_seen, host, session_number, healthcheck_gate, ..Engine::default() }))
        };
        let engines = Mutex::new(rows.into_iter().enumerate().filter_map(&mut to_engine).collect());
        Sources { engines, recorded_elsewhere: HashSet::new() }
    }

    /// Creates the sources for a store that replaces the previous one.
    pub(super) fn for_new_store(&self, rows: Vec<SourceRow>, healthchecks: Vec<(String, String, String)>) -> Self {
        let recorded_elsewhere = self.lock_engines().keys().chain(&self.recorded_elsewhere).cloned().collect();
        Sources { recorded_elsewhere, ..Sources::from_rows(rows, healthchecks) }
    }

    /// Acquires the lease on an engine that was reached at `host`.
    ///
    /// # Errors
    /// Returns the host whose connection has the lease.
    pub(super) fn acquire(self: &Arc<Self>, engine_id: &str, host: &str) -> Result<Lease, String> {
        let mut engines = self.lock_engines();
        let session_number = engines.values().map(|engine| engine.session_number + 1).max().unwrap_or(0);
        let engine = engines.entry(engine_id.into()).or_default();
        if engine.leased {
            return Err(engine.host.clone().unwrap_or_default());
        }
        engine.leased = true;
        engine.session_number = session_number;
        engine.host = Some(host.into());
        Ok(Lease { sources: self.clone(), engine_id: engine_id.into() })
    }

    /// Returns the engine that was last reached at `host`, unless a connection records it now.
    pub(super) fn last_engine_at(&self, host: &str) -> Option<String> {
        let engines = self.lock_engines();
        let candidates = engines.iter().filter(|(_, engine)| engine.host.as_deref() == Some(host) && !engine.leased);
        candidates.max_by_key(|(_, engine)| engine.session_number).map(|(engine_id, _)| engine_id.clone())
    }

    /// Returns the last event seen of the engine.
    pub(super) fn last_seen(&self, engine_id: &str) -> Option<Identity> {
        self.lock_engines().get(engine_id)?.last_seen
    }

    fn lock_engines(&self) -> MutexGuard<'_, HashMap<String, Engine>> {
        self.engines.lock().expect("no holder of this lock panics")
    }
}

impl Lease {
    /// Returns the last event seen of the engine.
    pub(super) fn last_seen(&self) -> Option<Identity> {
        self.sources.last_seen(&self.engine_id)
    }

    /// Returns true if the engine was recorded into another file before.
    pub(super) fn was_recorded_elsewhere(&self) -> bool {
        self.sources.recorded_elsewhere.contains(&self.engine_id)
    }

    /// Marks the engine as reached with an empty backlog. Returns true if it was marked already.
    pub(super) fn mark_idle(&self) -> bool {
        let mut engines = self.sources.lock_engines();
        engines.get_mut(&self.engine_id).is_some_and(|engine| std::mem::replace(&mut engine.idle, true))
    }

    /// Takes the health checks of the engine's containers. The session puts them back when it ends.
    pub(super) fn take_healthcheck_gate(&self) -> HealthcheckGate {
        let mut engines = self.sources.lock_engines();
        engines.get_mut(&self.engine_id).map(|engine| std::mem::take(&mut engine.healthcheck_gate)).unwrap_or_default()
    }

    /// Puts back the health checks of the engine's containers.
    pub(super) fn return_healthcheck_gate(&self, healthcheck_gate: HealthcheckGate) {
        if let Some(engine) = self.sources.lock_engines().get_mut(&self.engine_id) {
            engine.healthcheck_gate = healthcheck_gate;
        }
    }

    /// Sets the gap whose report is pending.
    pub(super) fn set_pending_gap(&self, gap: Option<PendingGap>) {
        if let Some(engine) = self.sources.lock_engines().get_mut(&self.engine_id) {
            engine.pending_gap = gap;
        }
    }

    /// Returns the gap whose report is pending.
    pub(super) fn pending_gap(&self) -> Option<PendingGap> {
        self.sources.lock_engines().get(&self.engine_id)?.pending_gap.clone()
    }

    /// Clears the pending gap if it starts at `from`, because nothing was missed there.
    pub(super) fn clear_pending_gap(&self, from: i64) {
        if self.pending_gap().is_some_and(|gap| gap.from == from) {
            self.set_pending_gap(None);
        }
    }

    /// Sets the last event seen, once it is queued.
    pub(super) fn set_last_seen(&self, event: Identity) {
        if let Some(engine) = self.sources.lock_engines().get_mut(&self.engine_id) {
            engine.last_seen = Some(event);
            engine.idle = false;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(engine) = self.sources.lock_engines().get_mut(&self.engine_id) {
            engine.leased = false;
        }
    }
}
