//! Another store → the store: its sources, events, gaps and rejected lines, so that the files of several machines become
//! one.
//!
//! It is proven first: what was edited there would be taken for what was recorded here. It may be recorded into
//! meanwhile; what it holds at one moment is taken.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempPath;

use super::{Import, known};
use crate::commands::progress::Progress;
use crate::commands::{Failure, Shared};
use crate::error::chain;
use crate::event::Event;
use crate::query::time::rfc3339;
use crate::store::{
    Ask, Delivery, GapChange, GapRow, Head, Judge, Order, Reader, Reason, Rejection, Snapshot, SourceKey, SourceRow,
};

/// So many events are handed on together.
const TOGETHER: usize = 4_096;

/// From so many on, read at one instant, they are handed on by themselves: then the instant is stored once.
const AT_ONCE: usize = 64;

/// Why there is a gap between what two stores recorded of an engine.
const BETWEEN: &str = "neither of the two stores that were put together recorded it then";

/// Another store, proven.
pub(super) struct Other {
    path: PathBuf,
    reader: Reader,
    /// The copy that is read in its place, where its schema is older.
    _copy: Option<TempPath>,
    size: u64,
    /// Up to where it was proven.
    head: Head,
}

impl Other {
    pub(super) fn open(shared: &Shared, path: &Path, into: &Path) -> Result<Other, Failure> {
        let name = path.display();
        let same = |path: &Path| path.canonicalize().ok();
        if same(path).is_some() && same(path) == same(into) {
            return Err(
                Failure::failed(format!("cannot import {name} into itself")).hint("name another store with --db")
            );
        }
        let (reader, copy) = Reader::open_any(path)?;
        let progress = Progress::of_bytes(shared, None);
        progress.say(format!("proving {name}"));
        let verified = reader.verify(&[], |_| {})?;
        progress.end();
        if verified.faults > 0 {
            return Err(Failure::failed(format!("{name} is not as it was recorded: {} faults", verified.faults)).hint(
                format!(
                    "`events verify --db {name}` names them; `events query --db {name} | events import` takes its events \
                     as imported ones"
                ),
            ));
        }
        let size = path.metadata().map_or(0, |found| found.len());
        Ok(Other { path: path.into(), reader, _copy: copy, size, head: verified.head })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes all of it over.
    pub(super) fn put_into(self, import: &mut Import) -> Result<(), Failure> {
        let here = Reader::open(import.known.path())?;
        let sources = self.reader.sources()?;
        let keys: BTreeMap<i64, Arc<SourceKey>> = sources.iter().map(|row| (row.id, key(row))).collect();
        let known = here.sources()?;
        let gaps_here = here.gaps()?;
        for source in &sources {
            let known = known.iter().find(|known| known.engine_id.is_some() && known.engine_id == source.engine_id);
            let gaps_here: Vec<&GapRow> =
                gaps_here.iter().filter(|gap| known.is_some_and(|known| known.name == gap.source)).collect();
            for gap in self.reader.gaps()?.iter().filter(|gap| gap.source == source.name) {
                for gap in together(gap, source, known, &gaps_here) {
                    let delivery = Delivery::new(keys[&source.id].clone(), 0);
                    import.push(Delivery { gap: Some(gap), ..delivery });
                }
            }
        }
        self.events(import, &keys, sources.iter().map(|source| source.events).sum())?;
        self.rejected(import, &sources)?;
        for source in &sources {
            let known = known.iter().find(|known| known.engine_id.is_some() && known.engine_id == source.engine_id);
            let newer = source.last_seen.filter(|seen| {
                known.and_then(|known| known.last_seen).is_none_or(|known| known.time_nano < seen.time_nano)
            });
            let version = source.version.clone().filter(|_| known.is_none());
            let left_out = known.map_or(0, |known| known.healthchecks_left_out);
            let left_out = source.healthchecks_left_out.saturating_sub(left_out);
            let delivery = Delivery::new(keys[&source.id].clone(), 0);
            import.push(Delivery { last_seen: newer, version, left_out, ..delivery });
        }
        let mut healthchecks: BTreeMap<i64, Vec<(String, String)>> = BTreeMap::new();
        self.reader.healthchecks(|source, container, command| {
            healthchecks.entry(source).or_default().push((container, import.redaction.command(&command)));
        })?;
        for (source, healthchecks) in healthchecks {
            import.push(Delivery { healthchecks, ..Delivery::new(keys[&source].clone(), 0) });
        }
        import.before += self.size;
        let (path, head) = (self.path.display(), self.head);
        tracing::info!("{path} was proven, and taken up to its head {head}");
        if let Some(pruned) = self.reader.pruned()? {
            tracing::info!(
                "of {path} {} events were pruned, the last at {}",
                pruned.events,
                rfc3339(pruned.sealed_nano)
            );
        }
        Ok(())
    }

    fn events(&self, import: &mut Import, keys: &BTreeMap<i64, Arc<SourceKey>>, all: u64) -> Result<(), Failure> {
        let mut held: BTreeMap<i64, Delivery> = BTreeMap::new();
        let (mut count, mut done) = (0, 0u64);
        let snapshot = Snapshot { after: 0, to: self.head.seq };
        let read = self.reader.events(&Ask::default(), snapshot, Order::Arrival, Judge::All, |stored| {
            let event = match Event::parse(stored.raw) {
                Ok(event) => event,
                Err(e) => return ControlFlow::Break(Failure::failed(chain(&e))),
            };
            let delivery = held
                .entry(stored.source)
                .or_insert_with(|| Delivery::new(keys[&stored.source].clone(), stored.received_nano));
            let each = &delivery.each_received_nano;
            let differs = stored.received_nano != delivery.received_nano;
            if differs && each.len() >= AT_ONCE && each.last() == Some(&delivery.received_nano) {
                let fresh = Delivery::new(delivery.source.clone(), stored.received_nano);
                import.push(settled(std::mem::replace(delivery, fresh)));
            }
            delivery.events.push_redacted(&event, &import.redaction);
            if stored.marked {
                delivery.events.mark_last();
            }
            delivery.each_received_nano.push(stored.received_nano);
            (count, done) = (count + 1, done + 1);
            if count >= TOGETHER {
                count = 0;
                import.is_at((u128::from(self.size) * u128::from(done) / u128::from(all.max(1))) as u64);
                hand_on(import, &mut held);
            }
            ControlFlow::Continue(())
        })?;
        hand_on(import, &mut held);
        match read {
            ControlFlow::Break(failure) => Err(failure),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn rejected(&self, import: &mut Import, sources: &[SourceRow]) -> Result<(), Failure> {
        let keys: BTreeMap<&str, Arc<SourceKey>> = sources.iter().map(|row| (&*row.name, key(row))).collect();
        let read = self.reader.rejected(|row| {
            let mut delivery = Delivery::new(keys[&*row.source].clone(), row.received_nano);
            let rejection = Rejection { bytes: row.bytes.into(), error: row.error };
            delivery.rejected.push(if import.redaction.is_none() { rejection } else { rejection.redacted() });
            match import.only_new(&mut delivery, |rejection| known::of_stream(row.received_nano, rejection)) {
                Ok(()) if import.push(delivery) => ControlFlow::Continue(()),
                Ok(()) => ControlFlow::Break(None),
                Err(failure) => ControlFlow::Break(Some(failure)),
            }
        })?;
        match read {
            ControlFlow::Break(Some(failure)) => Err(failure),
            _ => Ok(()),
        }
    }
}

/// Hands on what was gathered, of each source. Whether the writer takes it shows at the end.
fn hand_on(import: &mut Import, held: &mut BTreeMap<i64, Delivery>) {
    for (_, delivery) in std::mem::take(held) {
        import.push(settled(delivery));
    }
}

/// Where all were read at one instant, it is said once.
fn settled(mut delivery: Delivery) -> Delivery {
    let at = delivery.received_nano;
    if delivery.each_received_nano.iter().all(|received| *received == at) {
        delivery.each_received_nano.clear();
    }
    delivery
}

/// The source as it comes over. Where it was reached does not: elsewhere another engine may be there.
fn key(row: &SourceRow) -> Arc<SourceKey> {
    Arc::new(SourceKey { engine_id: row.engine_id.clone(), name: row.name.clone(), renamed: false, host: None })
}

/// What is to be entered of a gap, with what is known here of the same engine. One that lasts is not known to be one.
fn together(gap: &GapRow, source: &SourceRow, known: Option<&SourceRow>, here: &[&GapRow]) -> Vec<GapChange> {
    let (Some(to), Some(reason)) = (gap.to_nano, Reason::named(&gap.reason)) else { return Vec::new() };
    let blind = |from, to, reason, detail: Option<&str>| GapChange::Blind {
        from,
        to: Some(to),
        reason,
        detail: detail.map(str::to_owned),
    };
    let as_it_is = || vec![blind(gap.from_nano, to, reason, gap.detail.as_deref())];
    let same = here.iter().find(|here| here.from_nano == gap.from_nano);
    let (Some(known), None) = (known, gap.from_nano) else {
        let open = same.is_none_or(|same| same.to_nano.is_none());
        return if open { as_it_is() } else { Vec::new() };
    };
    // Both were blind before something; each saw some of what the other did not.
    let Some(begin) = same.and_then(|same| same.to_nano).or(known.first_nano) else { return as_it_is() };
    let seen = |row: &SourceRow| row.last_seen.map(|seen| seen.time_nano).or(row.last_nano);
    let between = |from: Option<i64>, to: i64| {
        from.filter(|from| *from < to).map(|from| blind(Some(from), to, Reason::StoreFailed, Some(BETWEEN)))
    };
    match to.cmp(&begin) {
        Ordering::Less => between(seen(source), begin).into_iter().chain(as_it_is()).collect(),
        Ordering::Equal => Vec::new(),
        Ordering::Greater => between(seen(known), to).into_iter().collect(),
    }
}
