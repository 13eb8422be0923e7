//! The events in stretches of some thousands, each with the instants it spans: in place of an index on time.
//!
//! Events come nearly in the order of time, so a window of time is few stretches, and to find the event of one
//! instant one stretch is read. A clock that steps, a second engine, an import of old days only make stretches overlap.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

/// How many events a stretch holds.
pub(super) const LENGTH: i64 = 4_096;

/// How many shapes are told of a stretch; one with more holds anything.
const SHAPES: usize = 256;

/// How many stretches' instants are kept to look events up in.
const HELD: usize = 4;

/// One stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) first_seq: i64,
    pub(super) last_seq: i64,
    pub(super) events: i64,
    pub(super) min_nano: i64,
    pub(super) max_nano: i64,
}

/// All stretches, and of the last one what is in it.
#[derive(Debug, Default)]
pub(super) struct Stretches {
    all: Vec<Stretch>,
    /// The shapes of the last one; `None` if they are too many.
    shapes: Option<BTreeSet<i64>>,
    /// From this one on they are not stored yet.
    unstored: Option<usize>,
    /// The shapes of those that ended since the last commit.
    ended: Vec<(usize, Option<BTreeSet<i64>>)>,
    /// The instants and sequences of the stretches looked into last, by their place.
    held: Vec<(usize, Vec<(i64, i64)>)>,
}

impl Stretches {
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let all = all(db, 0)?;
        let shapes: Option<String> = match all.last() {
            Some(last) => db
                .prepare_cached("SELECT shapes FROM stretch WHERE first_seq = ?1")?
                .query_row([last.first_seq], |row| row.get(0))?,
            None => None,
        };
        let shapes = shapes.map(|json| ids(&json).collect());
        Ok(Stretches { all, shapes, ..Stretches::default() })
    }

    /// An event was stored.
    pub(super) fn add(&mut self, seq: i64, time_nano: i64, shape: i64) {
        let full = self.all.last().is_none_or(|last| last.events >= LENGTH);
        if full {
            if let Some(ended) = self.all.len().checked_sub(1) {
                self.ended.push((ended, self.shapes.take()));
            }
            self.shapes = Some(BTreeSet::new());
            self.all.push(Stretch {
                first_seq: seq,
                last_seq: seq,
                events: 0,
                min_nano: time_nano,
                max_nano: time_nano,
            });
        }
        let at = self.all.len() - 1;
        let last = &mut self.all[at];
        last.last_seq = seq;
        last.events += 1;
        last.min_nano = last.min_nano.min(time_nano);
        last.max_nano = last.max_nano.max(time_nano);
        self.shapes = self.shapes.take().filter(|shapes| shapes.len() < SHAPES || shapes.contains(&shape));
        if let Some(shapes) = &mut self.shapes {
            shapes.insert(shape);
        }
        self.unstored = Some(self.unstored.map_or(at, |first| first.min(at)));
        if let Some((_, times)) = self.held.iter_mut().find(|held| held.0 == at) {
            times.push((time_nano, seq));
        }
    }

    /// Stores what was added.
    pub(super) fn store(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let Some(first) = self.unstored.take() else { return Ok(()) };
        let mut upsert = db.prepare_cached(
            "INSERT INTO stretch (first_seq, last_seq, events, min_nano, max_nano, shapes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (first_seq) DO UPDATE
             SET last_seq = ?2, events = ?3, min_nano = ?4, max_nano = ?5, shapes = ?6",
        )?;
        let last = self.all.len() - 1;
        for at in first..=last {
            let shapes = match self.ended.iter().find(|ended| ended.0 == at) {
                Some((_, shapes)) => shapes.as_ref(),
                None => self.shapes.as_ref(),
            };
            let shapes =
                shapes.map(|shapes| format!("[{}]", shapes.iter().map(i64::to_string).collect::<Vec<_>>().join(",")));
            let s = &self.all[at];
            upsert.execute(params![s.first_seq, s.last_seq, s.events, s.min_nano, s.max_nano, shapes])?;
        }
        self.ended.clear();
        Ok(())
    }

    /// The sequences of the events stored at an instant.
    pub(super) fn at_instant(&mut self, db: &Connection, time_nano: i64) -> rusqlite::Result<Vec<i64>> {
        let mut found = Vec::new();
        for at in (0..self.all.len()).rev() {
            let stretch = &self.all[at];
            if !(stretch.min_nano..=stretch.max_nano).contains(&time_nano) {
                continue;
            }
            let times = self.times(db, at)?;
            found.extend(times.iter().filter(|(time, _)| *time == time_nano).map(|(_, seq)| *seq));
        }
        Ok(found)
    }

    /// The instants and sequences of one stretch, as far as they are stored or added.
    fn times(&mut self, db: &Connection, at: usize) -> rusqlite::Result<&[(i64, i64)]> {
        let held = match self.held.iter().position(|held| held.0 == at) {
            Some(held) => self.held.remove(held),
            None => {
                let Stretch { first_seq, last_seq, .. } = self.all[at];
                let mut statement =
                    db.prepare_cached("SELECT time_nano, seq FROM event WHERE seq BETWEEN ?1 AND ?2")?;
                let times = statement.query_map([first_seq, last_seq], |row| Ok((row.get(0)?, row.get(1)?)))?;
                (at, times.collect::<rusqlite::Result<Vec<_>>>()?)
            }
        };
        self.held.truncate(HELD - 1);
        self.held.insert(0, held);
        Ok(&self.held[0].1)
    }
}

/// The stretches that are stored, in order, from the one that the sequence after `after` is in.
pub(super) fn all(db: &Connection, after: i64) -> rusqlite::Result<Vec<Stretch>> {
    let mut statement = db.prepare_cached(
        "SELECT first_seq, last_seq, events, min_nano, max_nano FROM stretch
         WHERE first_seq >= ifnull((SELECT max(first_seq) FROM stretch WHERE first_seq <= ?1 + 1), 0)
         ORDER BY first_seq",
    )?;
    let rows = statement.query_map([after], |row| {
        Ok(Stretch {
            first_seq: row.get(0)?,
            last_seq: row.get(1)?,
            events: row.get(2)?,
            min_nano: row.get(3)?,
            max_nano: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// The numbers in a JSON array of numbers.
pub(super) fn ids(json: &str) -> impl Iterator<Item = i64> {
    json.split(['[', ',', ']']).filter_map(|number| number.parse().ok())
}
