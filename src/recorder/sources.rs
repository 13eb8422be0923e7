//! The engines: which of them are being recorded, and what earlier sessions left. Shared by the connections of all
//! hosts.
//!
//! This state is in memory beside the store, so that a reconnect does not wait for a busy store.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use super::session::{EngineState, HealthcheckGate};
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
    /// State of the engine; `None` while a session owns it.
    state: Option<EngineState>,
    /// Host at which the engine was last reached.
    host: Option<String>,
    /// Number of the latest session. Of several engines at one host, the one with the highest number was the last.
    session_number: usize,
}

/// The engine that was last reached at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastEngine {
    pub(super) id: String,
    /// Last event seen of the engine.
    pub(super) last_seen: Option<Identity>,
}

impl Sources {
    /// Creates the sources from the rows of a store, and from the health check commands of containers.
    pub(super) fn from_rows(
        mut rows: Vec<SourceRow>,
        healthchecks: Vec<(String, String, String)>,
        recorded_elsewhere: HashSet<String>,
    ) -> Self {
        rows.sort_by_key(|row| row.connected_nano);
        let mut containers: HashMap<String, Vec<(String, String)>> = HashMap::new();
        for (engine_id, container, command) in healthchecks {
            containers.entry(engine_id).or_default().push((container, command));
        }
        let mut to_engine = |(session_number, row): (usize, SourceRow)| {
            let engine_id = row.engine_id?;
            let state = EngineState {
                last_seen: row.last_seen,
                healthcheck_gate: HealthcheckGate::new(containers.remove(&engine_id).unwrap_or_default().into_iter()),
                ..EngineState::default()
            };
            Some((engine_id, Engine { state: Some(state), host: row.host, session_number }))
        };
        let engines = Mutex::new(rows.into_iter().enumerate().filter_map(&mut to_engine).collect());
        Sources { engines, recorded_elsewhere }
    }

    /// Creates the sources for a store that replaces the previous one.
    pub(super) fn for_new_store(&self, rows: Vec<SourceRow>, healthchecks: Vec<(String, String, String)>) -> Self {
        let recorded_elsewhere = self.lock_engines().keys().chain(&self.recorded_elsewhere).cloned().collect();
        Sources::from_rows(rows, healthchecks, recorded_elsewhere)
    }

    /// Takes the state of an engine that was reached at `host`. Until it is [released](Self::release), no other
    /// connection can record the engine.
    ///
    /// # Errors
    /// Returns the host whose connection records the engine.
    pub(super) fn acquire(&self, engine_id: &str, host: &str) -> Result<EngineState, String> {
        let mut engines = self.lock_engines();
        let session_number = engines.values().map(|engine| engine.session_number + 1).max().unwrap_or(0);
        let engine = engines
            .entry(engine_id.into())
            .or_insert_with(|| Engine { state: Some(EngineState::default()), ..Engine::default() });
        let Some(state) = engine.state.take() else { return Err(engine.host.clone().unwrap_or_default()) };
        engine.session_number = session_number;
        engine.host = Some(host.into());
        Ok(EngineState { was_recorded_elsewhere: self.recorded_elsewhere.contains(engine_id), ..state })
    }

    /// Puts the state of an engine back.
    pub(super) fn release(&self, engine_id: &str, state: EngineState) {
        if let Some(engine) = self.lock_engines().get_mut(engine_id) {
            engine.state = Some(state);
        }
    }

    /// Returns the engine that was last reached at `host`, unless a connection records it now.
    pub(super) fn last_engine_at(&self, host: &str) -> Option<LastEngine> {
        let engines = self.lock_engines();
        let candidates = engines.iter().filter(|(_, engine)| engine.host.as_deref() == Some(host));
        let idle = candidates.filter_map(|(id, engine)| Some((id, engine, engine.state.as_ref()?)));
        let last = idle.max_by_key(|(_, engine, _)| engine.session_number);
        last.map(|(id, _, state)| LastEngine { id: id.clone(), last_seen: state.last_seen })
    }

    fn lock_engines(&self) -> MutexGuard<'_, HashMap<String, Engine>> {
        self.engines.lock().expect("no holder of this lock panics")
    }
}
