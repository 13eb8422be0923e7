//! Stores one delivery, in the writer's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::counters::SourceDelta;
use super::dedupe::Lookup;
use super::delivery::{Delivery, GapChange, Rejection};
use super::outcome::WriteStats;
use super::sources::SourceState;
use crate::store::format::chain::GapFields;
use crate::store::format::decode::EventDecoder;
use crate::store::format::encode::{EventEncoder, InsertStatements, NewEvent, SHARED_ARRIVAL_MIN_EVENTS};
use crate::store::format::entries::RejectedLine;
use crate::store::ids::Nanos;

/// Stores one delivery.
pub(super) struct DeliveryWriter<'a, 'db> {
    pub(super) db: &'db Connection,
    pub(super) inserts: &'a mut InsertStatements<'db>,
    pub(super) encoder: &'a mut EventEncoder,
    pub(super) decoder: &'a mut EventDecoder,
    pub(super) source: &'a mut SourceState,
    pub(super) delivery: &'a Delivery,
    /// Events before this instant are too old.
    pub(super) cutoff_nano: Nanos,
    pub(super) max_rejected: u64,
    pub(super) delta: Option<&'a mut SourceDelta>,
}

/// Events of a delivery that were stored.
struct AddedEvents {
    count: u64,
    first_nano: Nanos,
}

impl DeliveryWriter<'_, '_> {
    /// Stores the delivery. Its gap comes before its events.
    pub(super) fn store(mut self) -> rusqlite::Result<WriteStats> {
        self.store_gap()?;
        let mut stats = WriteStats { rejected: self.delivery.rejected.len() as u64, ..WriteStats::default() };
        let added = self.store_events(&mut stats)?;
        for rejection in &self.delivery.rejected {
            self.store_rejection(rejection)?;
        }
        if added.count > 0 || stats.rejected > 0 {
            self.db
                .prepare_cached(
                    "UPDATE source SET events = events + ?2, rejected = rejected + ?3,
                        first_nano = iif(?2 > 0, min(ifnull(first_nano, ?4), ?4), first_nano),
                        last_nano = iif(?2 > 0, max(ifnull(last_nano, ?5), ?5), last_nano)
                     WHERE id = ?1",
                )?
                .execute(params![
                    self.source.id,
                    added.count,
                    stats.rejected,
                    added.first_nano,
                    self.source.newest_nano
                ])?;
        }
        self.store_engine_state()?;
        for (container, command) in &self.delivery.healthchecks {
            self.store_healthcheck(container, command)?;
        }
        self.store_progress()?;
        if let Some(delta) = &mut self.delta {
            delta.duplicates += stats.duplicates;
            delta.recovered += self.delivery.recovered;
            delta.excluded_healthchecks += self.delivery.excluded_healthchecks;
            delta.rejected += stats.rejected;
        }
        Ok(stats)
    }

    /// Stores the events that are not stored yet and not too old.
    fn store_events(&mut self, stats: &mut WriteStats) -> rusqlite::Result<AddedEvents> {
        let mut added = AddedEvents { count: 0, first_nano: Nanos::MAX };
        let Delivery { received_nano, event_received_nanos, .. } = self.delivery;
        let shares_arrival = event_received_nanos.is_empty() && self.delivery.len() >= SHARED_ARRIVAL_MIN_EVENTS;
        if shares_arrival {
            self.encoder.share_arrival(self.db, Nanos(*received_nano))?;
        }
        let mut received_nanos = event_received_nanos.iter();
        let lists = [(&self.delivery.replayed, true), (&self.delivery.events, false)].into_iter();
        let events = lists.flat_map(|(list, is_replayed)| {
            list.iter().zip(list.healthcheck_flags()).map(move |event| (event, is_replayed))
        });
        for (((event, digest), is_healthcheck), is_replayed) in events {
            let received_nano = Nanos(*received_nanos.next().unwrap_or(received_nano));
            let time = Nanos(event.time_nano);
            let was_pruned = is_replayed && self.source.pruned_before_nano.is_some_and(|oldest| time < oldest);
            if was_pruned || time < self.cutoff_nano {
                stats.expired += 1;
                continue;
            }
            if time <= self.source.newest_nano {
                let mut lookup = Lookup {
                    db: self.db,
                    blocks: &mut self.encoder.blocks,
                    decoder: self.decoder,
                    source_id: self.source.id,
                };
                if !self.source.instants.insert_if_new(&mut lookup, &event)? {
                    stats.duplicates += 1;
                    continue;
                }
            }
            let new = NewEvent { event: &event, digest, is_healthcheck, received_nano, shares_arrival };
            let kind_id = self.encoder.add_event(self.inserts, self.source.entry_source(), new)?;
            if let Some(delta) = &mut self.delta {
                delta.count_event(kind_id, &event);
            }
            added.count += 1;
            added.first_nano = added.first_nano.min(time);
            self.source.newest_nano = self.source.newest_nano.max(time);
        }
        stats.events += added.count;
        Ok(added)
    }

    /// Stores what the engine returned about itself.
    fn store_engine_state(&self) -> rusqlite::Result<()> {
        let (db, delivery, source_id) = (self.db, self.delivery, self.source.id);
        if delivery.connected {
            db.prepare_cached("UPDATE source SET contacted_nano = ?2 WHERE id = ?1")?
                .execute(params![source_id, delivery.received_nano])?;
        }
        if let Some(skew) = delivery.skew_nano {
            db.prepare_cached("UPDATE source SET skew_nano = ?2 WHERE id = ?1")?.execute(params![source_id, skew])?;
        }
        if let Some(version) = &delivery.version {
            db.prepare_cached("UPDATE source SET version = ?2 WHERE id = ?1 AND version IS NOT ?2")?
                .execute(params![source_id, version])?;
        }
        if let Some(containers) = &delivery.containers {
            db.prepare_cached("INSERT OR REPLACE INTO snapshot (source, taken_nano, containers) VALUES (?1, ?2, ?3)")?
                .execute(params![source_id, delivery.received_nano, containers])?;
        }
        Ok(())
    }

    /// Stores how far the stream of the source was read.
    fn store_progress(&self) -> rusqlite::Result<()> {
        let (db, delivery, source_id) = (self.db, self.delivery, self.source.id);
        if delivery.excluded_healthchecks > 0 {
            db.prepare_cached("UPDATE source SET healthchecks_left_out = healthchecks_left_out + ?2 WHERE id = ?1")?
                .execute(params![source_id, delivery.excluded_healthchecks])?;
        }
        if let Some(seen) = delivery.last_seen {
            db.prepare_cached("UPDATE source SET seen_nano = ?2, seen_digest = ?3 WHERE id = ?1")?.execute(params![
                source_id,
                seen.time_nano,
                seen.digest
            ])?;
        }
        Ok(())
    }

    /// Stores the health check command of a container, unless it is stored already. The command of a container never
    /// changes.
    fn store_healthcheck(&mut self, container: &str, command: &str) -> rusqlite::Result<()> {
        let known = self
            .db
            .prepare_cached("SELECT 1 FROM healthcheck WHERE source = ?1 AND container = ?2 AND command = ?3")?
            .exists(params![self.source.id, container, command])?;
        if known {
            return Ok(());
        }
        self.encoder.chain.add_healthcheck(self.db, self.source.entry_source(), container, command)
    }

    fn store_rejection(&mut self, rejection: &Rejection) -> rusqlite::Result<()> {
        if self.source.rejected >= self.max_rejected {
            return Ok(());
        }
        self.source.rejected += 1;
        let received_nano = Nanos(self.delivery.received_nano);
        let line = RejectedLine { received_nano, error: &rejection.error, bytes: &rejection.bytes };
        self.encoder.chain.add_rejected(self.db, self.source.entry_source(), line)?;
        if self.source.rejected == self.max_rejected {
            let name = &self.delivery.source.name;
            tracing::warn!("{} rejected lines of {name} are stored; more are only counted", self.max_rejected);
        }
        Ok(())
    }

    /// Stores a change of a gap, unless the gap is already stored in this state.
    fn store_gap(&mut self) -> rusqlite::Result<()> {
        let Some(change) = &self.delivery.gap else { return Ok(()) };
        let (from, to, reason, detail) = match change {
            GapChange::Withdrawn { from } => (from, &None, None, None),
            GapChange::Reported { from, to, reason, detail } => (from, to, Some(reason.as_str()), detail.as_deref()),
        };
        let latest: Option<(Option<i64>, Option<String>, Option<String>)> = self
            .db
            .prepare_cached(
                "SELECT to_nano, reason, detail FROM gap WHERE source = ?1 AND from_nano IS ?2 ORDER BY seq DESC LIMIT 1",
            )?
            .query_row(params![self.source.id, from], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let latest = latest.unwrap_or_default();
        if (&latest.0, latest.1.as_deref(), latest.2.as_deref()) == (to, reason, detail) {
            return Ok(());
        }
        if let (GapChange::Reported { reason, .. }, Some(delta)) = (change, &mut self.delta)
            && latest.1.as_deref() != Some(reason.as_str())
        {
            delta.count_gap(*reason);
        }
        let gap = GapFields { from: from.map(Nanos), to: to.map(Nanos), reason, detail };
        self.encoder.chain.add_gap(self.db, self.source.entry_source(), gap)
    }
}
