//! Highest IDs ever given in the tables of shared texts.

use crate::store::ids::{ActorId, KindId, LabelId, TemplateId};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Highest ID ever given in each table of shared texts. Rows are deleted, but an ID is never given again, so cached
/// rows stay valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct MaxIds {
    pub(in crate::store) actor: ActorId,
    pub(in crate::store) label: LabelId,
    pub(in crate::store) kind: KindId,
    pub(in crate::store) template: TemplateId,
}

impl MaxIds {
    pub(in crate::store) fn load(db: &Connection) -> rusqlite::Result<MaxIds> {
        let current = MaxIds::load_legacy(db)?;
        let deleted = db
            .prepare_cached("SELECT actor, label, shape, form FROM swept")?
            .query_row([], MaxIds::read)
            .optional()?
            .unwrap_or_default();
        Ok(MaxIds {
            actor: current.actor.max(deleted.actor),
            label: current.label.max(deleted.label),
            kind: current.kind.max(deleted.kind),
            template: current.template.max(deleted.template),
        })
    }

    /// Reads the highest IDs of a schema in which rows were never deleted.
    pub(in crate::store) fn load_legacy(db: &Connection) -> rusqlite::Result<MaxIds> {
        let highest =
            ["actor", "label", "shape", "form"].map(|table| format!("ifnull((SELECT max(id) FROM {table}), 0)"));
        db.prepare_cached(&format!("SELECT {}", highest.join(", ")))?.query_row([], MaxIds::read)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<MaxIds> {
        Ok(MaxIds { actor: row.get(0)?, label: row.get(1)?, kind: row.get(2)?, template: row.get(3)? })
    }

    /// Stores the highest IDs; must be called where rows of these tables are deleted.
    pub(in crate::store) fn store(self, db: &Connection) -> rusqlite::Result<()> {
        let MaxIds { actor, label, kind, template } = self;
        db.prepare_cached(
            "INSERT INTO swept VALUES (1, ?1, ?2, ?3, ?4, 0, 0)
             ON CONFLICT (id) DO UPDATE SET actor = ?1, label = ?2, shape = ?3, form = ?4",
        )?
        .execute(params![actor, label, kind, template])?;
        Ok(())
    }
}
