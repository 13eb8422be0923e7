//! Recognizes the exec events of a container's own health check.
//!
//! An event belongs to a health check if it has the health check command of its container, or the exec ID of such an
//! event. The health-check flag, set when an event is stored, decides first. For all other events the table
//! `healthcheck` decides, so it does not matter whether a command was stored before or after the event. If nothing is
//! known about a container, none of its events counts as a health check.

use std::collections::HashSet;
use std::fmt::{Display, Formatter};
use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension, params};

use crate::cache::GenerationalCache;
use crate::error::count_noun;
use crate::event::{EXEC_DIE, REDACTED, exec_command};
use crate::store::format::decode::EventRow;
use crate::store::format::exec_ids::{EXEC_ID_LOOKBACK, ExecFlag};
use crate::store::format::layout::VaryingValue;
use crate::store::ids::{ActorId, KindId, Seq, SourceId};

/// Sizes of the caches of event kinds, of containers by actor, and of pairs of both.
const KIND_CACHE_SIZE: usize = 4_096;
const CONTAINER_CACHE_SIZE: usize = 4_096;
const PAIR_CACHE_SIZE: usize = 16_384;

/// Size of the cache of events to which others refer by their exec ID.
const EXEC_CACHE_SIZE: usize = 4_096;

/// Exec events that cannot be classified, because the configuration of their containers was never seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnknownHealthchecks {
    /// Number of events.
    pub events: u64,
    /// Their containers: row ID of the source, and container ID.
    pub containers: HashSet<(i64, String)>,
}

impl UnknownHealthchecks {
    /// Counts an event of a container.
    pub(super) fn add(&mut self, container: ContainerKey) {
        self.events += 1;
        self.containers.insert((container.source.0, container.id));
    }

    /// Returns true if every event could be classified.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }
}

impl Display for UnknownHealthchecks {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let containers = count_noun(self.containers.len() as u64, "container");
        let events = count_noun(self.events, "exec event");
        write!(f, "cannot exclude the health checks of {containers}: no configuration is stored ({events} kept)")
    }
}

/// Container of a source.
#[derive(Clone, Debug)]
pub(super) struct ContainerKey {
    source: SourceId,
    id: String,
}

/// Event kind and actor of an event, which together determine everything but its time and its varying attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KindAndActor {
    pub(super) kind_id: KindId,
    pub(super) actor_id: ActorId,
}

/// Classification of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Healthcheck,
    Other,
    Unknown,
}

/// Role of an event kind in an exec.
#[derive(Clone, Debug)]
enum ExecRole {
    /// Not an exec event of a container.
    Other,
    Healthcheck,
    Command(Rc<str>),
    Die,
}

/// Container of an actor, with its known health check commands.
#[derive(Debug)]
struct Container {
    key: ContainerKey,
    /// Every stored form of the health check command; `None` if the configuration was never seen.
    commands: Option<Vec<String>>,
}

/// Classifies events while a reader reads them.
pub(super) struct HealthcheckClassifier {
    roles: GenerationalCache<KindId, ExecRole>,
    containers: GenerationalCache<ActorId, Rc<Container>>,
    /// For events that contain the command.
    command_verdicts: GenerationalCache<KindAndActor, Verdict>,
    /// By the sequence of the first event with the exec ID.
    exec_verdicts: GenerationalCache<Seq, Verdict>,
}

impl Default for HealthcheckClassifier {
    fn default() -> Self {
        HealthcheckClassifier {
            roles: GenerationalCache::new(KIND_CACHE_SIZE),
            containers: GenerationalCache::new(CONTAINER_CACHE_SIZE),
            command_verdicts: GenerationalCache::new(PAIR_CACHE_SIZE),
            exec_verdicts: GenerationalCache::new(EXEC_CACHE_SIZE),
        }
    }
}

impl HealthcheckClassifier {
    /// Classifies an event.
    pub(super) fn classify(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<Verdict> {
        let verdict = match self.exec_role(db, row.kind_id)? {
            ExecRole::Other => return Ok(Verdict::Other),
            ExecRole::Healthcheck => Verdict::Healthcheck,
            ExecRole::Command(command) => {
                let pair = KindAndActor { kind_id: row.kind_id, actor_id: row.actor_id };
                self.classify_command(db, pair, &command)?
            }
            ExecRole::Die => return self.classify_die(db, row),
        };
        self.exec_verdicts.insert(row.seq, verdict);
        Ok(verdict)
    }

    /// Returns the container of an actor.
    pub(super) fn container_of(&mut self, db: &Connection, actor_id: ActorId) -> rusqlite::Result<ContainerKey> {
        Ok(self.container(db, actor_id)?.key.clone())
    }

    /// Classifies an `exec_die` event, which does not contain the command, as the earlier event with its exec ID.
    fn classify_die(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<Verdict> {
        let first_seq: Option<Seq> = match row.exec_id() {
            Some(VaryingValue::Number(first)) => Some(Seq(*first)),
            // After a restart the recorder's cache is empty, so it stores the exec ID again instead of a reference.
            Some(VaryingValue::Digest(exec_id)) => db
                .prepare_cached(
                    "SELECT seq FROM event INDEXED BY event_by_actor
                     WHERE actor = ?1 AND seq BETWEEN ?2 AND ?3 AND exec_id = ?4 ORDER BY seq DESC LIMIT 1",
                )?
                .query_row(params![row.actor_id, row.seq - EXEC_ID_LOOKBACK, row.seq - 1, exec_id], |found| {
                    found.get(0)
                })
                .optional()?,
            _ => None,
        };
        if let Some(verdict) = first_seq.and_then(|first| self.exec_verdicts.get(&first)) {
            return Ok(*verdict);
        }
        let found: Option<KindAndActor> = db
            .prepare_cached("SELECT shape, actor FROM event WHERE seq = ?1")?
            .query_row([first_seq], |row| Ok(KindAndActor { kind_id: row.get(0)?, actor_id: row.get(1)? }))
            .optional()?;
        let verdict = match found {
            Some(first) => match self.exec_role(db, first.kind_id)? {
                ExecRole::Healthcheck => Verdict::Healthcheck,
                ExecRole::Command(command) => self.classify_command(db, first, &command)?,
                ExecRole::Die | ExecRole::Other => Verdict::Other,
            },
            None if self.container(db, row.actor_id)?.commands.is_none() => Verdict::Unknown,
            None => Verdict::Other,
        };
        first_seq.into_iter().for_each(|first| self.exec_verdicts.insert(first, verdict));
        Ok(verdict)
    }

    fn classify_command(&mut self, db: &Connection, pair: KindAndActor, command: &str) -> rusqlite::Result<Verdict> {
        if let Some(verdict) = self.command_verdicts.get(&pair) {
            return Ok(*verdict);
        }
        let verdict = match &self.container(db, pair.actor_id)?.commands {
            None => Verdict::Unknown,
            // A redacted command cannot be compared.
            Some(_) if command.contains(REDACTED) => Verdict::Other,
            Some(known) if known.iter().any(|known| known == command) => Verdict::Healthcheck,
            Some(_) => Verdict::Other,
        };
        self.command_verdicts.insert(pair, verdict);
        Ok(verdict)
    }

    fn exec_role(&mut self, db: &Connection, kind_id: KindId) -> rusqlite::Result<ExecRole> {
        if let Some(role) = self.roles.get(&kind_id) {
            return Ok(role.clone());
        }
        let (event_type, action, exec): (String, String, ExecFlag) = db
            .prepare_cached("SELECT type, action, exec FROM shape WHERE id = ?1")?
            .query_row([kind_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let role = match exec_command(&action) {
            _ if event_type != "container" => ExecRole::Other,
            Some(_) if exec == ExecFlag::Healthcheck => ExecRole::Healthcheck,
            Some(command) => ExecRole::Command(command.into()),
            None if action == EXEC_DIE => ExecRole::Die,
            None => ExecRole::Other,
        };
        self.roles.insert(kind_id, role.clone());
        Ok(role)
    }

    fn container(&mut self, db: &Connection, actor: ActorId) -> rusqlite::Result<Rc<Container>> {
        if let Some(container) = self.containers.get(&actor) {
            return Ok(container.clone());
        }
        let (source, id): (SourceId, String) = db
            .prepare_cached("SELECT source, actor_id FROM actor WHERE id = ?1")?
            .query_row([actor], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let commands = db
            .prepare_cached("SELECT command FROM healthcheck WHERE source = ?1 AND container = ?2")?
            .query_map(params![source, id], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()?;
        let commands = Some(commands).filter(|commands| !commands.is_empty());
        let container = Rc::new(Container { key: ContainerKey { source, id }, commands });
        self.containers.insert(actor, container.clone());
        Ok(container)
    }
}
