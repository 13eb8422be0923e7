//! `events import`: imports events from files, standard input or another store. Uses the parser and the writer of
//! `record`.

mod dedupe;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use dedupe::StoredRejections;
use store::VerifiedStore;

use super::progress::Progress;
use super::redact::RedactionArgs;
use super::{Failure, Shared};
use crate::clock::now_nano;
use crate::event::Redaction;
use crate::store::{
    Delivery, Limits, Queue, Rejection, SourceKey, Store, WriteStats, WriterOutcome, is_database, spawn_writer,
};
use crate::stream::{Input, Item};

/// Memory limit, in bytes, of what is read and not yet stored.
const MAX_PENDING_BYTES: usize = 24 << 20;

/// Default name of the source of files.
const DEFAULT_SOURCE_NAME: &str = "imported";

/// The options of `import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files of events, or other stores; `-` is standard input
    ///
    /// NDJSON or json-seq, as an engine, `docker events --format '{{json .}}'` or `events query` writes it, optionally
    /// compressed with gzip or zstd. Another store is imported with its sources, gaps and rejected lines.
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// Name of the source for events from files [default: imported]
    #[arg(long, value_name = "NAME", help_heading = "Import options")]
    source: Option<String>,
    /// Exit with 1 if any line is not an event
    ///
    /// The other lines are imported anyway.
    #[arg(long, help_heading = "Import options")]
    strict: bool,
    #[command(flatten, next_help_heading = "Import options")]
    redact: RedactionArgs,
}

/// An input of the import.
enum ImportInput {
    File(Input),
    Store(Box<VerifiedStore>),
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let store_count = args.files.iter().filter(|file| is_database(file)).count();
    match args.source.as_deref() {
        Some("") => {
            return Err(Failure::usage("--source is empty").hint("pass a name, or omit --source"));
        }
        Some(_) if store_count > 0 => {
            return Err(Failure::usage("--source cannot be combined with a store, which names its own sources")
                .hint("omit --source, or import the store separately"));
        }
        _ => {}
    }
    let redaction = args.redact.redaction()?;
    let db = shared.db_path()?;
    // Open all inputs, and verify stores, before storing anything: a wrong path must not leave half an import.
    let inputs = args.files.iter().map(|file| ImportInput::open(shared, file, &db)).collect::<Result<Vec<_>, _>>()?;
    shared.create_default_dir()?;
    let store = Store::open_or_create(&db)?;
    store.optimize_for_bulk()?;
    let total_bytes = inputs.iter().map(ImportInput::size).sum::<Option<u64>>();
    let mut import = Import::start(store, redaction, Progress::new(shared, total_bytes));
    let source = args.source.as_deref().unwrap_or(DEFAULT_SOURCE_NAME);
    for input in inputs {
        let result = match input {
            ImportInput::File(input) => import.import_file(input, source),
            ImportInput::Store(store) => store.import_into(&mut import),
        };
        if let Err(failure) = result {
            // Everything that was read before the failure is stored.
            import.finish()?;
            return Err(failure);
        }
    }
    let rejected_total = import.rejected_total;
    let stored = import.finish()?;
    let hint = if stored.rejected > 0 { " (`events rejected` shows them)" } else { "" };
    tracing::info!("{} stored, {} skipped, {} rejected{hint}", stored.events, stored.duplicates, stored.rejected);
    // Lines that were stored before count too: repeating an import must not change its exit code.
    if args.strict && rejected_total > 0 {
        let message = if rejected_total == 1 {
            "1 line is not an event".into()
        } else {
            format!("{rejected_total} lines are not events")
        };
        return Err(Failure::failed(message).hint("run `events rejected` to see them"));
    }
    Ok(())
}

impl ImportInput {
    fn open(shared: &Shared, file: &Path, db: &Path) -> Result<ImportInput, Failure> {
        if is_database(file) {
            Ok(ImportInput::Store(Box::new(VerifiedStore::open(shared, file, db)?)))
        } else {
            Ok(ImportInput::File(Input::open(file)?))
        }
    }

    fn size(&self) -> Option<u64> {
        match self {
            ImportInput::File(input) => input.size(),
            ImportInput::Store(store) => Some(store.size()),
        }
    }
}

/// A running import.
struct Import {
    redaction: Redaction,
    queue: Arc<Queue>,
    writer: JoinHandle<WriterOutcome>,
    /// Rejected lines that are stored already.
    stored_rejections: StoredRejections,
    /// Number of rejected lines that were stored already.
    skipped: u64,
    /// Number of lines that are not events, stored before or not.
    rejected_total: u64,
    progress: Progress,
    started: Instant,
    events: u64,
    /// Bytes of the inputs before the current one.
    completed_bytes: u64,
}

impl Import {
    fn start(store: Store, redaction: Redaction, progress: Progress) -> Import {
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
    fn push(&mut self, delivery: Delivery) -> bool {
        self.events += delivery.len() as u64;
        delivery.is_empty() || self.queue.push_blocking(delivery)
    }

    /// Sets the number of bytes of the current input that are done.
    fn update_progress(&self, bytes: u64) {
        self.progress.set_position(self.completed_bytes + bytes);
        let rate = self.events as f64 / self.started.elapsed().as_secs_f64().max(0.1);
        self.progress.set_message(format!("{rate:.0} events/s"));
    }

    /// Imports a file of events.
    fn import_file(&mut self, input: Input, source: &str) -> Result<(), Failure> {
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
    fn retain_new_rejections(
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

    fn finish(self) -> Result<WriteStats, Failure> {
        self.queue.close();
        let WriterOutcome { mut stored, error: failed } = self.writer.join().expect("the writer does not panic");
        stored.duplicates += self.skipped;
        failed.map_or(Ok(stored), |failed| Err(failed.into()))
    }
}
