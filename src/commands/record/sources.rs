//! Which engine is being recorded by whom, and what was last seen of each; shared by the collectors of all hosts.
//!
//! Kept in memory beside the store, so that a reconnect need not wait for a store that is busy.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::healthchecks::Healthchecks;
use super::inquiry::Blindness;
use crate::event::Identity;
use crate::store::SourceRow;

/// All engines known.
#[derive(Debug, Default)]
pub(super) struct Sources {
    engines: Mutex<HashMap<String, Engine>>,
    /// Engines that were recorded into another file, which is not there any more.
    elsewhere: HashSet<String>,
}

#[derive(Debug, Default)]
struct Engine {
    last_seen: Option<Identity>,
    /// Where it was last reached.
    host: Option<String>,
    /// Rises with every contact: of several engines that were at one host, the highest was the last.
    contact: usize,
    /// Whether a collector is recording it now.
    claimed: bool,
    /// Whether it was reached, and nothing was seen since.
    quiet: bool,
    /// The last gap, while it is still to be said what must have happened in it.
    owed: Option<Blindness>,
    /// What is known of its containers, while no contact has it.
    healthchecks: Healthchecks,
}

/// The right to record an engine, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Claim {
    sources: Arc<Sources>,
    engine_id: String,
}

impl Sources {
    /// What the store knows: sources, and of engines the containers with their commands.
    pub(super) fn from_rows(rows: Vec<SourceRow>, healthchecks: Vec<(String, String, String)>) -> Self {
        let mut rows = rows;
        rows.sort_by_key(|row| row.contacted_nano);
        let mut containers: HashMap<String, Vec<(String, String)>> = HashMap::new();
        for (engine_id, container, command) in healthchecks {
            containers.entry(engine_id).or_default().push((container, command));
        }
        let mut known = |(contact, row): (usize, SourceRow)| {
            let engine_id = row.engine_id?;
            let healthchecks = Healthchecks::new(containers.remove(&engine_id).unwrap_or_default().into_iter());
            let (last_seen, host) = (row.last_seen, row.host);
            Some((engine_id, Engine { last_seen, host, contact, healthchecks, ..Engine::default() }))
        };
        let engines = Mutex::new(rows.into_iter().enumerate().filter_map(&mut known).collect());
        Sources { engines, elsewhere: HashSet::new() }
    }

    /// What another store knows, that is recorded into in place of the one before.
    pub(super) fn in_another(&self, rows: Vec<SourceRow>, healthchecks: Vec<(String, String, String)>) -> Self {
        let elsewhere = self.engines().keys().chain(&self.elsewhere).cloned().collect();
        Sources { elsewhere, ..Sources::from_rows(rows, healthchecks) }
    }

    /// Takes the right to record an engine reached at `host`.
    ///
    /// # Errors
    /// The host whose collector has it.
    pub(super) fn claim(self: &Arc<Self>, engine_id: &str, host: &str) -> Result<Claim, String> {
        let mut engines = self.engines();
        let contact = engines.values().map(|engine| engine.contact + 1).max().unwrap_or(0);
        let engine = engines.entry(engine_id.into()).or_default();
        if engine.claimed {
            return Err(engine.host.clone().unwrap_or_default());
        }
        engine.claimed = true;
        engine.contact = contact;
        engine.host = Some(host.into());
        Ok(Claim { sources: self.clone(), engine_id: engine_id.into() })
    }

    /// The engine last reached at `host`, unless it is being recorded somewhere else now.
    pub(super) fn last_at(&self, host: &str) -> Option<String> {
        let engines = self.engines();
        let there = engines.iter().filter(|(_, engine)| engine.host.as_deref() == Some(host) && !engine.claimed);
        there.max_by_key(|(_, engine)| engine.contact).map(|(engine_id, _)| engine_id.clone())
    }

    /// The last event seen of an engine.
    pub(super) fn last_seen(&self, engine_id: &str) -> Option<Identity> {
        self.engines().get(engine_id)?.last_seen
    }

    fn engines(&self) -> MutexGuard<'_, HashMap<String, Engine>> {
        self.engines.lock().expect("no holder of this lock panics")
    }
}

impl Claim {
    /// The last event seen.
    pub(super) fn last_seen(&self) -> Option<Identity> {
        self.sources.last_seen(&self.engine_id)
    }

    /// Whether it was recorded into another file before.
    pub(super) fn was_elsewhere(&self) -> bool {
        self.sources.elsewhere.contains(&self.engine_id)
    }

    /// It was reached, and it remembers nothing. Whether that was so at the contact before too.
    pub(super) fn is_quiet(&self) -> bool {
        let mut engines = self.sources.engines();
        engines.get_mut(&self.engine_id).is_some_and(|engine| std::mem::replace(&mut engine.quiet, true))
    }

    /// Takes what is known of its containers, to be given back.
    pub(super) fn healthchecks(&self) -> Healthchecks {
        let mut engines = self.sources.engines();
        engines.get_mut(&self.engine_id).map(|engine| std::mem::take(&mut engine.healthchecks)).unwrap_or_default()
    }

    /// Gives back what is known of its containers.
    pub(super) fn give_back(&self, healthchecks: Healthchecks) {
        if let Some(engine) = self.sources.engines().get_mut(&self.engine_id) {
            engine.healthchecks = healthchecks;
        }
    }

    /// Of this gap it is still to be said what must have happened in it.
    pub(super) fn owe(&self, gap: Option<Blindness>) {
        if let Some(engine) = self.sources.engines().get_mut(&self.engine_id) {
            engine.owed = gap;
        }
    }

    /// The gap of which that is still to be said.
    pub(super) fn owed(&self) -> Option<Blindness> {
        self.sources.engines().get(&self.engine_id)?.owed.clone()
    }

    /// There was no gap behind this instant.
    pub(super) fn nothing_missed(&self, from: i64) {
        if self.owed().is_some_and(|gap| gap.from == from) {
            self.owe(None);
        }
    }

    /// A later event was seen, and handed on.
    pub(super) fn saw(&self, event: Identity) {
        if let Some(engine) = self.sources.engines().get_mut(&self.engine_id) {
            engine.last_seen = Some(event);
            engine.quiet = false;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(engine) = self.sources.engines().get_mut(&self.engine_id) {
            engine.claimed = false;
        }
    }
}
