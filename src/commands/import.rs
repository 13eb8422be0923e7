//! `events import`: files of events, or standard input, → the store, by the same parser and writer as a socket's.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::redact::Redact;
use super::{Failure, Shared, now_nano};
use crate::event::Redaction;
use crate::store::{Delivery, Limits, Outcome, Queue, Rejection, SourceKey, Store, Written, spawn_writer};
use crate::stream::{Input, Item};

/// How much may wait for the store, in bytes.
const BUFFER: usize = 24 << 20;

/// The flags of `import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NDJSON or json-seq, as an engine, `docker events --format '{{json .}}'` or `query` wrote it, also as .gz or .zst;
    /// `-`: standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// What to call the source
    #[arg(long, value_name = "NAME", default_value = "imported")]
    source: String,
    /// Fail if anything was no event
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    redact: Redact,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    if args.source.is_empty() {
        return Err(Failure::usage("the name of the source is empty").hint("leave out --source, or name one"));
    }
    let redaction = args.redact.redaction()?;
    // All are opened before anything is stored: a name that is wrong should not leave half an import.
    let inputs = args.files.iter().map(|path| Input::open(path)).collect::<Result<Vec<_>, _>>()?;
    shared.make_own_directory()?;
    let store = Store::open_or_create(&shared.db()?)?;
    store.expect_many()?;
    let import = Import::begin(store, &args.source, redaction);
    for input in inputs {
        if let Err(failure) = import.take(input) {
            // What was read before is stored all the same.
            import.end()?;
            return Err(failure);
        }
    }
    let stored = import.end()?;
    tracing::info!("{} stored, {} skipped, {} rejected", stored.events, stored.known, stored.rejected);
    if args.strict && stored.rejected > 0 {
        return Err(
            Failure::failed(format!("{} lines were no events", stored.rejected)).hint("`events rejected` shows them")
        );
    }
    Ok(())
}

/// An import under way.
struct Import {
    redaction: Redaction,
    source: Arc<SourceKey>,
    queue: Arc<Queue>,
    writer: JoinHandle<Outcome>,
}

impl Import {
    fn begin(store: Store, source: &str, redaction: Redaction) -> Import {
        let key = SourceKey { engine_id: None, name: source.into(), renamed: false, host: None };
        let queue = Arc::new(Queue::attended(BUFFER));
        Import { redaction, source: Arc::new(key), writer: spawn_writer(store, queue.clone(), Limits::default()), queue }
    }

    fn take(&self, input: Input) -> Result<(), Failure> {
        let fresh = || Delivery::new(self.source.clone(), now_nano());
        let each = |delivery: &mut Delivery, item: Item| match item {
            Item::Event(event) => delivery.events.push_redacted(&event, &self.redaction),
            Item::Rejected(rejected) => {
                let rejection = Rejection { bytes: rejected.bytes.into(), error: rejected.reason.to_string() };
                delivery.rejected.push(if self.redaction.is_none() { rejection } else { rejection.redacted() });
            }
        };
        // Where the writer has given up nothing more is read; `end` says why.
        Ok(input.read(&mut fresh(), each, |delivery| {
            let delivery = std::mem::replace(delivery, fresh());
            delivery.is_empty() || self.queue.push_waiting(delivery)
        })?)
    }

    fn end(self) -> Result<Written, Failure> {
        self.queue.close();
        let Outcome { stored, failed } = self.writer.join().expect("the writer does not panic");
        failed.map_or(Ok(stored), |failed| Err(failed.into()))
    }
}
