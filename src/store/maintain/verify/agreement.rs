//! Checks that whatever helps to find an event agrees with the event's own bytes: its kind, its actor, its time.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;

use super::fault::readable;
use crate::event::Event;
use crate::store::format::decode::{EventDecoder, EventRow};
use crate::store::format::exec_ids::ExecFlag;
use crate::store::format::layout::{Actor, LineTemplate, is_varying};
use crate::store::ids::{ActorId, KindId};

/// Row of an event kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredKind {
    event_type: String,
    action: String,
    scope: String,
    has_exec_id: bool,
    /// True if its events have the health-check flag.
    is_healthcheck: bool,
    /// True if the line is rendered from kind and actor, with a placeholder for every value. A correct line then proves
    /// both.
    is_complete: bool,
}

/// Event kinds and actors that already matched an event.
#[derive(Default)]
pub(super) struct EventAgreement {
    kinds: HashMap<KindId, StoredKind>,
    actors: HashSet<ActorId>,
}

impl EventAgreement {
    /// Returns true if the events of a kind have the health-check flag.
    pub(super) fn is_healthcheck(&self, db: &Connection, kind_id: KindId) -> rusqlite::Result<bool> {
        Ok(match self.kinds.get(&kind_id) {
            Some(kind) => kind.is_healthcheck,
            None => readable(StoredKind::read(db, kind_id))?.is_some_and(|kind| kind.is_healthcheck),
        })
    }

    /// Returns the first value that helps to find an event but does not match the event's bytes.
    pub(super) fn find_mismatch(
        &mut self,
        db: &Connection,
        decoder: &mut EventDecoder,
        row: &EventRow,
        line: &[u8],
    ) -> rusqlite::Result<Option<String>> {
        let (kind, kind_checked) = match self.kinds.remove(&row.kind_id) {
            Some(kind) => (kind, true),
            None => (StoredKind::read(db, row.kind_id)?, false),
        };
        let actor_checked = self.actors.contains(&row.actor_id);
        let mut mismatch = (kind.has_exec_id != row.has_exec_id()).then_some("exec");
        if !(kind.is_complete && kind_checked && actor_checked) {
            let Ok(event) = Event::parse(line) else { return Ok(Some("the line is not an event".into())) };
            let matches = (kind.event_type == event.kind, kind.action == event.action, kind.scope == event.scope);
            mismatch = mismatch.or(match matches {
                (false, ..) => Some("type"),
                (_, false, _) => Some("action"),
                (.., false) => Some("scope"),
                _ => None,
            });
            let stable = event.attributes.iter().filter(|(key, _)| !is_varying(key));
            let actor = Actor::new(&event.actor_id, stable.map(|(key, value)| (&**key, &**value)));
            if *decoder.actor(db, row.actor_id)?.actor != actor {
                mismatch = mismatch.or(Some("actor"));
            }
            if row.time_nano.0 != event.time_nano {
                mismatch = mismatch.or(Some("time_nano"));
            }
        }
        self.kinds.insert(row.kind_id, kind);
        if mismatch.is_none() {
            self.actors.insert(row.actor_id);
        }
        Ok(mismatch.map(|column| format!("the stored {column} does not match the bytes of the event")))
    }
}

impl StoredKind {
    fn read(db: &Connection, kind_id: KindId) -> rusqlite::Result<StoredKind> {
        let mut statement = db.prepare_cached(
            "SELECT type, action, scope, exec, form.text FROM shape LEFT JOIN form ON form.id = shape.form WHERE shape.id = ?1",
        )?;
        statement.query_row([kind_id], |row| {
            let template: Option<String> = row.get(4)?;
            Ok(StoredKind {
                event_type: row.get(0)?,
                action: row.get(1)?,
                scope: row.get(2)?,
                has_exec_id: row.get::<_, ExecFlag>(3)? != ExecFlag::None,
                is_healthcheck: row.get::<_, ExecFlag>(3)? == ExecFlag::Healthcheck,
                is_complete: template.is_some_and(|template| LineTemplate::parse(&template).is_complete()),
            })
        })
    }
}
