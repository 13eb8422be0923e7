//! Which exec events are of a container's own health check: those with its command, and those with the same exec ID.
//!
//! What was marked when it was stored is one. All else is told from what is known of the container, so that it does not
//! matter whether that became known before or after the event. Where nothing is known, nothing is one.

use std::collections::HashSet;
use std::fmt::{Display, Formatter};
use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension, params};

use super::layout::Value;
use super::lines::EventRow;
use super::recent::Recent;
use super::rows::{EXEC_OF_HEALTHCHECK, EXEC_REACH};
use crate::error::number;
use crate::event::{EXEC_DIE, REDACTED, exec_command};

/// How many shapes, actors and pairs of them are remembered.
const SHAPES: usize = 4_096;
const ACTORS: usize = 4_096;
const PAIRS: usize = 16_384;

/// How many events are remembered that others are tied to by their exec ID.
const EXECS: usize = 4_096;

/// Exec events of which it could not be told whether they are of health checks, because it was never seen how their
/// containers are configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// How many events.
    pub events: u64,
    /// Their containers: source and ID.
    pub containers: HashSet<(i64, String)>,
}

impl Untold {
    /// Adds an event of a container.
    pub(super) fn add(&mut self, container: (i64, String)) {
        self.events += 1;
        self.containers.insert(container);
    }

    /// Whether all could be told apart.
    pub fn is_none(&self) -> bool {
        self.events == 0
    }
}

impl Display for Untold {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let containers = number(self.containers.len() as u64, "container");
        let events = number(self.events, "exec event");
        write!(
            f,
            "the health checks of {containers} are not known (their configuration was never seen): none of their {events} is left out"
        )
    }
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    HealthCheck,
    Other,
    Untold,
}

/// What a shape says.
#[derive(Clone, Debug)]
enum Said {
    /// Nothing of a command in a container.
    Other,
    Marked,
    Command(Rc<str>),
    Die,
}

/// A container as its actor names it, and what is known of it.
#[derive(Debug)]
struct Container {
    source: i64,
    id: String,
    /// With what it checks its health, in every form that was noted; `None` if it was never seen.
    commands: Option<Vec<String>>,
}

/// Tells health checks apart, during one reading.
pub(super) struct Healthchecks {
    shapes: Recent<i64, Said>,
    containers: Recent<i64, Rc<Container>>,
    /// By shape and actor, of events that repeat the command.
    pairs: Recent<(i64, i64), Verdict>,
    /// By the sequence of the first event of an exec.
    execs: Recent<i64, Verdict>,
}

impl Default for Healthchecks {
    fn default() -> Self {
        Healthchecks {
            shapes: Recent::new(SHAPES),
            containers: Recent::new(ACTORS),
            pairs: Recent::new(PAIRS),
            execs: Recent::new(EXECS),
        }
    }
}

impl Healthchecks {
    /// Whether an event is of a health check.
    pub(super) fn judge(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<Verdict> {
        let verdict = match self.said(db, row.shape)? {
            Said::Other => return Ok(Verdict::Other),
            Said::Marked => Verdict::HealthCheck,
            Said::Command(command) => self.of_command(db, (row.shape, row.actor), &command)?,
            Said::Die => return self.tied(db, row),
        };
        self.execs.insert(row.seq, verdict);
        Ok(verdict)
    }

    /// The container that an actor is: its source and its ID.
    pub(super) fn container_of(&mut self, db: &Connection, actor: i64) -> rusqlite::Result<(i64, String)> {
        let container = self.container(db, actor)?;
        Ok((container.source, container.id.clone()))
    }

    /// The end of a command, which does not repeat it: what an event before it with the same exec ID is.
    fn tied(&mut self, db: &Connection, row: &EventRow) -> rusqlite::Result<Verdict> {
        let first: Option<i64> = match row.exec_id() {
            Some(Value::Number(first)) => Some(*first),
            // A recorder that began anew did not know the exec ID any more.
            Some(Value::Digest(exec_id)) => db
                .prepare_cached(
                    "SELECT seq FROM event INDEXED BY event_by_actor
                     WHERE actor = ?1 AND seq BETWEEN ?2 AND ?3 AND exec_id = ?4 ORDER BY seq DESC LIMIT 1",
                )?
                .query_row(params![row.actor, row.seq - EXEC_REACH, row.seq - 1, exec_id], |found| found.get(0))
                .optional()?,
            _ => None,
        };
        if let Some(verdict) = first.and_then(|first| self.execs.get(&first)) {
            return Ok(*verdict);
        }
        let found: Option<(i64, i64)> = db
            .prepare_cached("SELECT shape, actor FROM event WHERE seq = ?1")?
            .query_row([first], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let verdict = match found {
            Some((shape, actor)) => match self.said(db, shape)? {
                Said::Marked => Verdict::HealthCheck,
                Said::Command(command) => self.of_command(db, (shape, actor), &command)?,
                Said::Die | Said::Other => Verdict::Other,
            },
            None if self.container(db, row.actor)?.commands.is_none() => Verdict::Untold,
            None => Verdict::Other,
        };
        first.into_iter().for_each(|first| self.execs.insert(first, verdict));
        Ok(verdict)
    }

    fn of_command(&mut self, db: &Connection, pair: (i64, i64), command: &str) -> rusqlite::Result<Verdict> {
        if let Some(verdict) = self.pairs.get(&pair) {
            return Ok(*verdict);
        }
        let verdict = match &self.container(db, pair.1)?.commands {
            None => Verdict::Untold,
            // What is left of a command is no command.
            Some(_) if command.contains(REDACTED) => Verdict::Other,
            Some(known) if known.iter().any(|known| known == command) => Verdict::HealthCheck,
            Some(_) => Verdict::Other,
        };
        self.pairs.insert(pair, verdict);
        Ok(verdict)
    }

    fn said(&mut self, db: &Connection, shape: i64) -> rusqlite::Result<Said> {
        if let Some(said) = self.shapes.get(&shape) {
            return Ok(said.clone());
        }
        let (kind, action, exec): (String, String, i64) = db
            .prepare_cached("SELECT type, action, exec FROM shape WHERE id = ?1")?
            .query_row([shape], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let said = match exec_command(&action) {
            _ if kind != "container" => Said::Other,
            Some(_) if exec == EXEC_OF_HEALTHCHECK => Said::Marked,
            Some(command) => Said::Command(command.into()),
            None if action == EXEC_DIE => Said::Die,
            None => Said::Other,
        };
        self.shapes.insert(shape, said.clone());
        Ok(said)
    }

    fn container(&mut self, db: &Connection, actor: i64) -> rusqlite::Result<Rc<Container>> {
        if let Some(container) = self.containers.get(&actor) {
            return Ok(container.clone());
        }
        let (source, id): (i64, String) = db
            .prepare_cached("SELECT source, actor_id FROM actor WHERE id = ?1")?
            .query_row([actor], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let commands = db
            .prepare_cached("SELECT command FROM healthcheck WHERE source = ?1 AND container = ?2")?
            .query_map(params![source, id], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()?;
        let commands = Some(commands).filter(|commands| !commands.is_empty());
        let container = Rc::new(Container { source, id, commands });
        self.containers.insert(actor, container.clone());
        Ok(container)
    }
}
