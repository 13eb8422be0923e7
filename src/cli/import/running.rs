//! A running import: reads inputs, and pushes their events to the writer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use super::dedupe::{self, StoredRejections};
use crate::cli::Failure;
use crate::cli::progress::Progress;
use crate::clock::now_nano;
use crate::event::Redaction;
use crate::store::{Delivery, Limits, Queue, Rejection, SourceKey, Store, WriteStats, WriterOutcome, spawn_writer};
use crate::stream::{Input, Item};

/// Memory limit, in bytes, of what is read and not yet stored.
const MAX_PENDING_BYTES: usize = 24 << 20;

/// A running import.
pub(super) struct Import {
    pub(super) redaction: Redaction,
    pub(super) queue: Arc<Queue>,
    pub(super) writer: JoinHandle<WriterOutcome>,
    /// Rejected lines that are stored already.
    pub(super) stored_rejections: StoredRejections,
    /// Number of rejected lines that were stored already.
    pub(super) skipped: u64,
    /// Number of lines that are not events, stored before or not.
    pub(super) rejected_total: u64,
    pub(super) progress: Progress,
    pub(super) started: Instant,
    pub(super) events: u64,
    /// Bytes of the inputs before the current one.
    pub(super) completed_bytes: u64,
}

impl Import {
    pub(super) fn start(store: Store, redaction: Redaction, progress: Progress) -> Import {
        let queue = Arc::new(Queue::interactive(MAX_PENDING_BYTES));
        Import {
            redaction,
            stored_rejections: StoredRejections::new(store.path()),
            writer: spawn_writer(store, queue.clone(), Limits::default()),
            queue,
            skipped: 0,
            rejected_total: 0,
            progress,
            started: Instant::now(),
            events: 0,
            completed_bytes: 0,
        }
    }

    /// Pushes a delivery to the writer. Returns false if the writer has failed; [`Import::finish`] returns the error.
    pub(super) fn push(&mut self, delivery: Delivery) -> bool {
        self.events += delivery.len() as u64;
        delivery.is_empty() || self.queue.push_blocking(delivery)
    }

    /// Sets the number of bytes of the current input that are done.
    pub(super) fn update_progress(&self, bytes: u64) {
        self.progress.set_position(self.completed_bytes + bytes);
        let rate = self.events as f64 / self.started.elapsed().as_secs_f64().max(0.1);
        self.progress.set_message(format!("{rate:.0} events/s"));
    }

    /// Imports a file of events.
    pub(super) fn import_file(&mut self, input: Input, source: &str) -> Result<(), Failure> {
        let key = SourceKey { engine_id: None, name: source.into(), overrides_name: false, host: None };
        let (key, bytes_read) = (Arc::new(key), input.bytes_read());
        let name = input.name().to_owned();
        let mut batch = Delivery::new(key.clone(), now_nano());
        let redaction = self.redaction.clone();
        let on_item = |delivery: &mut Delivery, item: Item<'_>| match item {
            Item::Event(event) => delivery.events.push_redacted(&event, &redaction),
            Item::Rejected(rejected) => {
                let error = format!("{name}:{}: {}", rejected.line_number, rejected.reason);
                let rejection = Rejection { bytes: rejected.bytes.into(), error };
                delivery.rejected.push(if redaction.is_empty() { rejection } else { rejection.redacted() });
            }
        };
        let mut failure = None;
        input.read(&mut batch, on_item, |batch| {
            let mut delivery = std::mem::replace(batch, Delivery::new(key.clone(), now_nano()));
            failure = self.retain_new_rejections(&mut delivery, |rejection| dedupe::file_key(source, rejection)).err();
            self.update_progress(bytes_read.load(Ordering::Relaxed));
            failure.is_none() && self.push(delivery)
        })?;
        self.completed_bytes += bytes_read.load(Ordering::Relaxed);
        failure.map_or(Ok(()), Err)
    }

    /// Removes the rejected lines that are stored already from a delivery.
    pub(super) fn retain_new_rejections(
        &mut self,
        delivery: &mut Delivery,
        key: impl Fn(&Rejection) -> dedupe::RejectionKey,
    ) -> Result<(), Failure> {
        let mut new = Vec::new();
        for rejection in std::mem::take(&mut delivery.rejected) {
            self.rejected_total += 1;
            if self.stored_rejections.insert(key(&rejection))? {
                new.push(rejection);
            } else {
                self.skipped += 1;
            }
        }
        delivery.rejected = new;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<WriteStats, Failure> {
        self.queue.close();
        let WriterOutcome { mut stored, error: failed } = self.writer.join().expect("the writer does not panic");
        stored.duplicates += self.skipped;
        failed.map_or(Ok(stored), |failed| Err(failed.into()))
    }
}
