//! Imports another store: its sources, events, gaps and rejected lines. This merges the stores of several machines.
//!
//! The other store is verified first: otherwise an edited event would count as recorded here. A recorder may write to
//! the other store during the import, which reads a snapshot.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempPath;

use super::{Import, dedupe};
use crate::cli::progress::Progress;
use crate::cli::{Failure, Shared};
use crate::error::chain;
use crate::event::Event;
use crate::query::time::rfc3339;
use crate::store::{
    Delivery, EventPredicate, GapChange, GapReason, GapRow, Head, Order, Query, Reader, Rejection, Snapshot, SourceKey,
    SourceRow,
};

/// Maximum number of events that are pushed together.
const MAX_BATCH_EVENTS: usize = 4_096;

/// Minimum number of events with the same time of arrival that are pushed separately: their time is then stored once.
const MIN_SAME_TIME_RUN: usize = 64;

/// Detail of a gap between the records of an engine in two stores.
const BETWEEN_STORES_DETAIL: &str = "neither of the two merged stores recorded the engine in this period";

/// Another store, after verification.
pub(super) struct VerifiedStore {
    path: PathBuf,
    reader: Reader,
    /// Migrated copy that is read instead if the schema of the store is older.
    _copy: Option<TempPath>,
    size: u64,
    /// Head up to which the store was verified.
    head: Head,
}

impl VerifiedStore {
    pub(super) fn open(shared: &Shared, path: &Path, target: &Path) -> Result<VerifiedStore, Failure> {
        let name = path.display();
        let canonical = |path: &Path| path.canonicalize().ok();
        if canonical(path).is_some() && canonical(path) == canonical(target) {
            return Err(
                Failure::failed(format!("cannot import {name} into itself")).hint("pass another store with --db")
            );
        }
        let (reader, copy) = Reader::open_any(path)?;
        let progress = Progress::new(shared, None);
        progress.set_message(format!("verifying {name}"));
        let verified = reader.verify(&[], |_| {})?;
        progress.finish();
        if verified.faults > 0 {
            return Err(Failure::failed(format!("{name} failed verification; faults: {}", verified.faults)).hint(
                format!(
                    "see `events verify --db {name}`; to import only its events, run \
                     `events query --db {name} | events import`"
                ),
            ));
        }
        let size = path.metadata().map_or(0, |metadata| metadata.len());
        Ok(VerifiedStore { path: path.into(), reader, _copy: copy, size, head: verified.head })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Imports the store.
    pub(super) fn import_into(self, import: &mut Import) -> Result<(), Failure> {
        let target = Reader::open(import.stored_rejections.path())?;
        let sources = self.reader.sources()?;
        let keys: BTreeMap<i64, Arc<SourceKey>> = sources.iter().map(|row| (row.id, source_key(row))).collect();
        let target_sources = target.sources()?;
        let target_gaps = target.gaps()?;
        for source in &sources {
            let counterpart =
                target_sources.iter().find(|row| row.engine_id.is_some() && row.engine_id == source.engine_id);
            let counterpart_gaps: Vec<&GapRow> =
                target_gaps.iter().filter(|gap| counterpart.is_some_and(|row| row.name == gap.source)).collect();
            for gap in self.reader.gaps()?.iter().filter(|gap| gap.source == source.name) {
                for gap in merge_gap(gap, source, counterpart, &counterpart_gaps) {
                    let delivery = Delivery::new(keys[&source.id].clone(), 0);
                    import.push(Delivery { gap: Some(gap), ..delivery });
                }
            }
        }
        self.import_events(import, &keys, sources.iter().map(|source| source.events).sum())?;
        self.import_rejected(import, &sources)?;
        for source in &sources {
            let counterpart =
                target_sources.iter().find(|row| row.engine_id.is_some() && row.engine_id == source.engine_id);
            let newer = source.last_seen.filter(|seen| {
                counterpart.and_then(|row| row.last_seen).is_none_or(|stored| stored.time_nano < seen.time_nano)
            });
            let version = source.version.clone().filter(|_| counterpart.is_none());
            let left_out = counterpart.map_or(0, |row| row.excluded_healthchecks);
            let left_out = source.excluded_healthchecks.saturating_sub(left_out);
            let delivery = Delivery::new(keys[&source.id].clone(), 0);
            import.push(Delivery { last_seen: newer, version, excluded_healthchecks: left_out, ..delivery });
        }
        let mut healthchecks: BTreeMap<i64, Vec<(String, String)>> = BTreeMap::new();
        self.reader.healthchecks(|source, container, command| {
            healthchecks.entry(source).or_default().push((container, import.redaction.redact_command(&command)));
        })?;
        for (source, healthchecks) in healthchecks {
            import.push(Delivery { healthchecks, ..Delivery::new(keys[&source].clone(), 0) });
        }
        import.completed_bytes += self.size;
        let (path, head) = (self.path.display(), self.head);
        tracing::info!("{path} was verified and imported up to its head {head}");
        if let Some(pruned) = self.reader.latest_checkpoint()? {
            tracing::info!(
                "{} events were pruned from {path} before the import; the last pruning was at {}",
                pruned.events,
                rfc3339(pruned.created_nano)
            );
        }
        Ok(())
    }

    fn import_events(
        &self,
        import: &mut Import,
        keys: &BTreeMap<i64, Arc<SourceKey>>,
        total: u64,
    ) -> Result<(), Failure> {
        let mut pending: BTreeMap<i64, Delivery> = BTreeMap::new();
        let (mut batch_len, mut imported) = (0, 0u64);
        let snapshot = Snapshot { after: 0, to: self.head.seq };
        let result =
            self.reader.events(&Query::default(), snapshot, Order::Arrival, EventPredicate::All, |stored| {
                let event = match Event::parse(stored.raw) {
                    Ok(event) => event,
                    Err(e) => return ControlFlow::Break(Failure::failed(chain(&e))),
                };
                let delivery = pending
                    .entry(stored.source)
                    .or_insert_with(|| Delivery::new(keys[&stored.source].clone(), stored.received_nano));
                let received_nanos = &delivery.event_received_nanos;
                let differs = stored.received_nano != delivery.received_nano;
                if differs
                    && received_nanos.len() >= MIN_SAME_TIME_RUN
                    && received_nanos.last() == Some(&delivery.received_nano)
                {
                    let next = Delivery::new(delivery.source.clone(), stored.received_nano);
                    import.push(compact_received_times(std::mem::replace(delivery, next)));
                }
                delivery.events.push_redacted(&event, &import.redaction);
                if stored.is_healthcheck {
                    delivery.events.flag_last_healthcheck();
                }
                delivery.event_received_nanos.push(stored.received_nano);
                (batch_len, imported) = (batch_len + 1, imported + 1);
                if batch_len >= MAX_BATCH_EVENTS {
                    batch_len = 0;
                    import.update_progress(
                        (u128::from(self.size) * u128::from(imported) / u128::from(total.max(1))) as u64,
                    );
                    flush(import, &mut pending);
                }
                ControlFlow::Continue(())
            })?;
        flush(import, &mut pending);
        match result {
            ControlFlow::Break(failure) => Err(failure),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn import_rejected(&self, import: &mut Import, sources: &[SourceRow]) -> Result<(), Failure> {
        let keys: BTreeMap<&str, Arc<SourceKey>> = sources.iter().map(|row| (&*row.name, source_key(row))).collect();
        let result = self.reader.rejected(|row| {
            let mut delivery = Delivery::new(keys[&*row.source].clone(), row.received_nano);
            let rejection = Rejection { bytes: row.bytes.into(), error: row.error };
            delivery.rejected.push(if import.redaction.is_empty() { rejection } else { rejection.redacted() });
            match import
                .retain_new_rejections(&mut delivery, |rejection| dedupe::stream_key(row.received_nano, rejection))
            {
                Ok(()) if import.push(delivery) => ControlFlow::Continue(()),
                Ok(()) => ControlFlow::Break(None),
                Err(failure) => ControlFlow::Break(Some(failure)),
            }
        })?;
        match result {
            ControlFlow::Break(Some(failure)) => Err(failure),
            _ => Ok(()),
        }
    }
}

/// Pushes the pending events of each source. An error of the writer is returned at the end of the import.
fn flush(import: &mut Import, pending: &mut BTreeMap<i64, Delivery>) {
    for (_, delivery) in std::mem::take(pending) {
        import.push(compact_received_times(delivery));
    }
}

/// Removes the times of arrival of single events if all are equal to that of the delivery.
fn compact_received_times(mut delivery: Delivery) -> Delivery {
    let received_nano = delivery.received_nano;
    if delivery.event_received_nanos.iter().all(|received| *received == received_nano) {
        delivery.event_received_nanos.clear();
    }
    delivery
}

/// Source under which the events are imported. It has no host: on this machine another engine may have that address.
fn source_key(row: &SourceRow) -> Arc<SourceKey> {
    Arc::new(SourceKey { engine_id: row.engine_id.clone(), name: row.name.clone(), overrides_name: false, host: None })
}

/// Merges a gap of the other store with the gaps of the same engine in this store, and returns the changes to store.
/// Skips an open gap: the next session may still show that nothing is missing.
fn merge_gap(
    gap: &GapRow,
    source: &SourceRow,
    counterpart: Option<&SourceRow>,
    counterpart_gaps: &[&GapRow],
) -> Vec<GapChange> {
    let (Some(to), Some(reason)) = (gap.to_nano, GapReason::from_name(&gap.reason)) else { return Vec::new() };
    let gap_change = |from, to, reason, detail: Option<&str>| GapChange::Reported {
        from,
        to: Some(to),
        reason,
        detail: detail.map(str::to_owned),
    };
    let unchanged = || vec![gap_change(gap.from_nano, to, reason, gap.detail.as_deref())];
    let matching = counterpart_gaps.iter().find(|other| other.from_nano == gap.from_nano);
    let (Some(counterpart), None) = (counterpart, gap.from_nano) else {
        let is_open = matching.is_none_or(|matching| matching.to_nano.is_none());
        return if is_open { unchanged() } else { Vec::new() };
    };
    // Both stores lack everything before some time. Each may have recorded a part of what the other lacks.
    let Some(start) = matching.and_then(|matching| matching.to_nano).or(counterpart.first_nano) else {
        return unchanged();
    };
    let last_seen_nano = |row: &SourceRow| row.last_seen.map(|seen| seen.time_nano).or(row.last_nano);
    let gap_between = |from: Option<i64>, to: i64| {
        from.filter(|from| *from < to)
            .map(|from| gap_change(Some(from), to, GapReason::StoreFailed, Some(BETWEEN_STORES_DETAIL)))
    };
    match to.cmp(&start) {
        Ordering::Less => gap_between(last_seen_nano(source), start).into_iter().chain(unchanged()).collect(),
        Ordering::Equal => Vec::new(),
        Ordering::Greater => gap_between(last_seen_nano(counterpart), to).into_iter().collect(),
    }
}
