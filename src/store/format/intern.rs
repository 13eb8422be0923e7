//! Interns what events share: finds the row of a line template, an event kind, an actor or a label, or inserts it.
//!
//! The caches persist between commits; if an entry is not cached, the tables decide.

use std::borrow::Cow;
use std::rc::Rc;

use rusqlite::{Connection, OptionalExtension, params};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::exec_ids::ExecFlag;
use super::layout::{Actor, LineTemplate, is_varying};
use super::max_ids::MaxIds;
use crate::cache::GenerationalCache;
use crate::event::Event;
use crate::store::ids::{ActorId, KindId, LabelId, SourceId, TemplateId};

/// Maximum number of line templates; an event with a further one is stored as its line. Engines need a handful. A
/// source that needs more is not an engine: its lines differ where those of an engine repeat.
const MAX_TEMPLATES: i64 = 1_000;

/// Minimum number of recently used actors in the cache, which keeps at most twice as many: about 2 KB each.
const ACTOR_CACHE_SIZE: usize = 2_048;

/// Number of cached event kinds and labels.
const KIND_CACHE_SIZE: usize = 4_096;
const LABEL_CACHE_SIZE: usize = 16_384;

/// Line template with its row.
#[derive(Clone)]
pub(in crate::store) struct InternedTemplate {
    pub(in crate::store) id: TemplateId,
    pub(in crate::store) template: Rc<LineTemplate>,
}

/// Actor with its row.
#[derive(Clone)]
pub(in crate::store) struct InternedActor {
    pub(in crate::store) id: ActorId,
    pub(in crate::store) actor: Rc<Actor>,
}

/// Finds and inserts the rows of shared texts, with caches by hash.
pub(in crate::store) struct Interner {
    templates: GenerationalCache<u128, Option<InternedTemplate>>,
    kinds: GenerationalCache<u128, KindId>,
    labels: GenerationalCache<u128, LabelId>,
    actors: GenerationalCache<u128, InternedActor>,
    max_ids: MaxIds,
    /// True if the tables are of a schema before version 5, while events are moved from an older schema.
    legacy_schema: bool,
    key: Vec<u8>,
}

impl Interner {
    pub(in crate::store) fn new(legacy_schema: bool) -> Self {
        Interner {
            templates: GenerationalCache::new(MAX_TEMPLATES as usize),
            kinds: GenerationalCache::new(KIND_CACHE_SIZE),
            labels: GenerationalCache::new(LABEL_CACHE_SIZE),
            actors: GenerationalCache::new(ACTOR_CACHE_SIZE),
            max_ids: MaxIds::default(),
            legacy_schema,
            key: Vec::new(),
        }
    }

    /// Continues with the IDs after the highest ones.
    pub(in crate::store) fn load(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.max_ids = if self.legacy_schema { MaxIds::load_legacy(db)? } else { MaxIds::load(db)? };
        Ok(())
    }

    /// Highest IDs ever given.
    pub(in crate::store) fn max_ids(&self) -> MaxIds {
        self.max_ids
    }

    /// Clears the cache of actors.
    pub(in crate::store) fn clear_actors(&mut self) {
        self.actors.clear();
    }

    /// Clears the caches of the texts that events and actors share.
    pub(in crate::store) fn clear_texts(&mut self) {
        self.templates.clear();
        self.kinds.clear();
        self.labels.clear();
    }

    /// Returns a line template; `None` if there are too many of them.
    pub(in crate::store) fn template(
        &mut self,
        db: &Connection,
        text: &str,
    ) -> rusqlite::Result<Option<InternedTemplate>> {
        let hash = xxh3_128(text.as_bytes());
        if let Some(cached) = self.templates.get(&hash) {
            return Ok(cached.clone());
        }
        let found: Option<TemplateId> =
            db.prepare_cached("SELECT id FROM form WHERE text = ?1")?.query_row([text], |row| row.get(0)).optional()?;
        let id = match found {
            Some(id) => Some(id),
            None => {
                let inserted = db
                    .prepare_cached("INSERT INTO form (id, text) SELECT ?1, ?2 WHERE (SELECT count(*) FROM form) < ?3")?
                    .execute(params![self.max_ids.template.0 + 1, text, MAX_TEMPLATES])?;
                (inserted > 0).then(|| TemplateId(next_id(&mut self.max_ids.template.0)))
            }
        };
        let template = id.map(|id| InternedTemplate { id, template: Rc::new(LineTemplate::parse(text)) });
        self.templates.insert(hash, template.clone());
        Ok(template)
    }

    /// Returns the kind of an event with this line template.
    pub(in crate::store) fn kind(
        &mut self,
        db: &Connection,
        template_id: Option<TemplateId>,
        exec: ExecFlag,
        event: &Event<'_>,
    ) -> rusqlite::Result<KindId> {
        let numbers = [template_id.map_or(0, |id| id.0), exec as i64];
        let hash = self.hash_key(numbers, [&event.kind, &event.scope, &event.action].into_iter());
        if let Some(id) = self.kinds.get(&hash) {
            return Ok(*id);
        }
        let found: Option<KindId> = db
            .prepare_cached(
                "SELECT id FROM shape WHERE action = ?1 AND type = ?2 AND scope = ?3 AND exec = ?4 AND form IS ?5",
            )?
            .query_row(params![event.action, event.kind, event.scope, exec, template_id], |row| row.get(0))
            .optional()?;
        let id = match found {
            Some(id) => id,
            None => {
                let id = KindId(next_id(&mut self.max_ids.kind.0));
                db.prepare_cached(
                    "INSERT INTO shape (id, type, action, scope, exec, form) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![id, event.kind, event.action, event.scope, exec, template_id])?;
                id
            }
        };
        self.kinds.insert(hash, id);
        Ok(id)
    }

    /// Returns the actor of an event, with its stable attributes.
    pub(in crate::store) fn actor(
        &mut self,
        db: &Connection,
        source_id: SourceId,
        event: &Event<'_>,
    ) -> rusqlite::Result<InternedActor> {
        let hash = self.actor_hash(source_id, event);
        if let Some(actor) = self.actors.get(&hash) {
            return Ok(actor.clone());
        }
        let stable_attributes = || event.attributes.iter().filter(|(key, _)| !is_varying(key));
        let mut labels = Vec::new();
        for (key, value) in stable_attributes().filter(|(key, _)| key != "name") {
            labels.push(self.label(db, key, value)?.to_string());
        }
        let labels = format!("[{}]", labels.join(","));
        let name = event.attribute("name");
        let digest = actor_digest(source_id, name, &labels);
        let values = params![event.actor_id, source_id, name, labels, digest];
        let found: Option<ActorId> = db
            .prepare_cached(if self.legacy_schema { FIND_LEGACY_ACTOR } else { FIND_ACTOR })?
            .query_row(&values[..if self.legacy_schema { 4 } else { 5 }], |row| row.get(0))
            .optional()?;
        let id = match found {
            Some(id) => id,
            None => {
                let id = ActorId(next_id(&mut self.max_ids.actor.0));
                let values = params![id, source_id, event.actor_id, name, labels, digest];
                db.prepare_cached(if self.legacy_schema { INSERT_LEGACY_ACTOR } else { INSERT_ACTOR })?
                    .execute(&values[..if self.legacy_schema { 5 } else { 6 }])?;
                id
            }
        };
        let attributes = stable_attributes().map(|(key, value)| (key.as_ref(), value.as_ref()));
        let actor = InternedActor { id, actor: Rc::new(Actor::new(&event.actor_id, attributes)) };
        self.actors.insert(hash, actor.clone());
        Ok(actor)
    }

    /// Hashes what identifies the actor of an event.
    fn actor_hash(&mut self, source_id: SourceId, event: &Event<'_>) -> u128 {
        self.key.clear();
        if write_stable_attributes(event, &mut self.key) {
            self.key.extend_from_slice(&source_id.0.to_le_bytes());
            self.key.extend_from_slice(event.actor_id.as_bytes());
            return xxh3_128(&self.key);
        }
        let stable = event.attributes.iter().filter(|(key, _)| !is_varying(key));
        let texts = stable.flat_map(|(key, value)| [key, value]);
        self.hash_key([source_id.0, 0], std::iter::once(&event.actor_id).chain(texts))
    }

    fn label(&mut self, db: &Connection, key: &str, value: &str) -> rusqlite::Result<LabelId> {
        let hash = self.hash_key([0, 0], [key, value].into_iter());
        if let Some(id) = self.labels.get(&hash) {
            return Ok(*id);
        }
        let found: Option<LabelId> = db
            .prepare_cached("SELECT id FROM label WHERE key = ?1 AND value = ?2")?
            .query_row([key, value], |row| row.get(0))
            .optional()?;
        let id = match found {
            Some(id) => id,
            None => {
                let id = LabelId(next_id(&mut self.max_ids.label.0));
                db.prepare_cached("INSERT INTO label (id, key, value) VALUES (?1, ?2, ?3)")?
                    .execute(params![id, key, value])?;
                id
            }
        };
        self.labels.insert(hash, id);
        Ok(id)
    }

    /// Hashes numbers and texts. With 128 bits, collisions do not occur.
    fn hash_key(&mut self, numbers: [i64; 2], texts: impl Iterator<Item = impl AsRef<str>>) -> u128 {
        self.key.clear();
        numbers.iter().for_each(|number| self.key.extend_from_slice(&number.to_le_bytes()));
        for text in texts {
            let text = text.as_ref();
            self.key.extend_from_slice(&(text.len() as u64).to_le_bytes());
            self.key.extend_from_slice(text.as_bytes());
        }
        xxh3_128(&self.key)
    }
}

const FIND_ACTOR: &str =
    "SELECT id FROM actor WHERE actor_id = ?1 AND digest = ?5 AND source = ?2 AND name IS ?3 AND labels = ?4";
const INSERT_ACTOR: &str =
    "INSERT INTO actor (id, source, actor_id, name, labels, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const FIND_LEGACY_ACTOR: &str =
    "SELECT id FROM actor WHERE actor_id = ?1 AND source = ?2 AND name IS ?3 AND labels = ?4";
const INSERT_LEGACY_ACTOR: &str = "INSERT INTO actor (id, source, actor_id, name, labels) VALUES (?1, ?2, ?3, ?4, ?5)";

/// Digest that distinguishes the actors of one ID, as stored in `actor.digest`. It has two bytes, which leave a few
/// candidates of a hundred thousand. More bytes would be noticeable in the size of the file.
pub(in crate::store) fn actor_digest(source: SourceId, name: Option<&str>, labels: &str) -> i64 {
    let source = source.0.to_le_bytes();
    let text = [&source[..], name.unwrap_or("\0").as_bytes(), b"\0", labels.as_bytes()].concat();
    (xxh3_64(&text) as i64) >> 48
}

/// Returns the next ID.
fn next_id(max_id: &mut i64) -> i64 {
    *max_id += 1;
    *max_id
}

/// Writes the stable attributes as they are in the event, and a zero byte, which no attribute contains. The result
/// identifies an actor without a loop over its attributes. Returns false if the event must be compared attribute by
/// attribute.
fn write_stable_attributes(event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    let Some(text) = event.raw_values.attributes else { return false };
    let mut at = 0;
    for (key, value) in event.attributes.iter().filter(|(key, _)| is_varying(key)) {
        let (Cow::Borrowed(key), Cow::Borrowed(value)) = (key, value) else { return false };
        let offset_of = |part: &str| (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        let (start, end) = (offset_of(key).wrapping_sub(1), offset_of(value).wrapping_add(value.len() + 1));
        // A value that was written with escapes is in another buffer.
        if value.is_empty() || start < at || end <= start || end > text.len() {
            return false;
        }
        out.extend_from_slice(&text.as_bytes()[at..start]);
        at = end;
        match text.as_bytes().get(at) {
            Some(b',') => at += 1,
            _ => drop(out.pop_if(|last| *last == b',')),
        }
    }
    out.extend_from_slice(&text.as_bytes()[at..]);
    out.push(0);
    true
}
