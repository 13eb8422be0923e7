//! `events import`: files of events, standard input, or another store → the store, by the same parser and writer as a
//! socket's.

mod known;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use known::Known;
use store::Other;

use super::progress::Progress;
use super::redact::Redact;
use super::{Failure, Shared, now_nano};
use crate::event::Redaction;
use crate::store::{Delivery, Limits, Outcome, Queue, Rejection, SourceKey, Store, Written, is_database, spawn_writer};
use crate::stream::{Input, Item};

/// How much may wait for the store, in bytes.
const BUFFER: usize = 24 << 20;

/// What files are called where nothing else is said.
const SOURCE: &str = "imported";

/// The flags of `import`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// NDJSON or json-seq, as an engine, `docker events --format '{{json .}}'` or `query` wrote it, also compressed with
    /// gzip or zstd; or another store, with its sources, gaps and rejected lines; `-`: standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// What to call the source of files [default: imported]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Fail if anything was no event
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    redact: Redact,
}

/// One thing to import.
enum From {
    File(Input),
    Store(Box<Other>),
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let stores = args.files.iter().filter(|file| is_database(file)).count();
    match args.source.as_deref() {
        Some("") => {
            return Err(Failure::usage("the name of the source is empty").hint("leave out --source, or name one"));
        }
        Some(_) if stores > 0 => {
            return Err(Failure::usage("--source names what comes from files; a store has names of its own")
                .hint("leave out --source, or import the store by itself"));
        }
        _ => {}
    }
    let redaction = args.redact.redaction()?;
    let db = shared.db()?;
    // All are opened, and stores proven, before anything is stored: a name that is wrong should not leave half an import.
    let from = args.files.iter().map(|file| From::open(shared, file, &db)).collect::<Result<Vec<_>, _>>()?;
    shared.make_own_directory()?;
    let store = Store::open_or_create(&db)?;
    store.expect_many()?;
    let all = from.iter().map(From::size).sum::<Option<u64>>();
    let mut import = Import::begin(store, redaction, Progress::of_bytes(shared, all));
    let source = args.source.as_deref().unwrap_or(SOURCE);
    for from in from {
        let taken = match from {
            From::File(input) => import.take(input, source),
            From::Store(other) => other.put_into(&mut import),
        };
        if let Err(failure) = taken {
            // What was read before is stored all the same.
            import.end()?;
            return Err(failure);
        }
    }
    let bad = import.bad;
    let stored = import.end()?;
    let shown = if stored.rejected > 0 { " (`events rejected` shows them)" } else { "" };
    tracing::info!("{} stored, {} skipped, {} rejected{shown}", stored.events, stored.known, stored.rejected);
    // Those that were known already count, too: the same input is as bad the second time.
    if args.strict && bad > 0 {
        let lines = if bad == 1 { "1 line was no event".into() } else { format!("{bad} lines were no events") };
        return Err(Failure::failed(lines).hint("`events rejected` shows them"));
    }
    Ok(())
}

impl From {
    fn open(shared: &Shared, file: &Path, db: &Path) -> Result<From, Failure> {
        if is_database(file) {
            Ok(From::Store(Box::new(Other::open(shared, file, db)?)))
        } else {
            Ok(From::File(Input::open(file)?))
        }
    }

    fn size(&self) -> Option<u64> {
        match self {
            From::File(input) => input.size(),
            From::Store(other) => Some(other.size()),
        }
    }
}

/// An import under way.
struct Import {
    redaction: Redaction,
    queue: Arc<Queue>,
    writer: JoinHandle<Outcome>,
    /// Rejected lines that are stored.
    known: Known,
    /// Lines and events that were there already.
    skipped: u64,
    /// Lines that were no events, stored before or not.
    bad: u64,
    progress: Progress,
    begun: Instant,
    events: u64,
    /// The bytes of what was imported before.
    before: u64,
}

impl Import {
    fn begin(store: Store, redaction: Redaction, progress: Progress) -> Import {
        let queue = Arc::new(Queue::attended(BUFFER));
        Import {
            redaction,
            known: Known::of(store.path()),
            writer: spawn_writer(store, queue.clone(), Limits::default()),
            queue,
            skipped: 0,
            bad: 0,
            progress,
            begun: Instant::now(),
            events: 0,
            before: 0,
        }
    }

    /// Hands something to the writer. Where that has given up nothing more is taken; `end` says why.
    fn push(&mut self, delivery: Delivery) -> bool {
        self.events += delivery.len() as u64;
        delivery.is_empty() || self.queue.push_waiting(delivery)
    }

    /// So many bytes of what is being imported are done.
    fn is_at(&self, bytes: u64) {
        self.progress.are_done(self.before + bytes);
        let rate = self.events as f64 / self.begun.elapsed().as_secs_f64().max(0.1);
        self.progress.say(format!("{rate:.0} events/s"));
    }

    /// A file of events.
    fn take(&mut self, input: Input, source: &str) -> Result<(), Failure> {
        let key = SourceKey { engine_id: None, name: source.into(), renamed: false, host: None };
        let (key, done) = (Arc::new(key), input.done());
        let name = input.name().to_owned();
        let mut held = Delivery::new(key.clone(), now_nano());
        let redaction = self.redaction.clone();
        let each = |delivery: &mut Delivery, item: Item<'_>| match item {
            Item::Event(event) => delivery.events.push_redacted(&event, &redaction),
            Item::Rejected(rejected) => {
                let error = format!("{name}:{}: {}", rejected.line, rejected.reason);
                let rejection = Rejection { bytes: rejected.bytes.into(), error };
                delivery.rejected.push(if redaction.is_none() { rejection } else { rejection.redacted() });
            }
        };
        let mut failed = None;
        input.read(&mut held, each, |held| {
            let mut delivery = std::mem::replace(held, Delivery::new(key.clone(), now_nano()));
            failed = self.only_new(&mut delivery, |rejection| known::of_file(source, rejection)).err();
            self.is_at(done.load(Ordering::Relaxed));
            failed.is_none() && self.push(delivery)
        })?;
        self.before += done.load(Ordering::Relaxed);
        failed.map_or(Ok(()), Err)
    }

    /// Leaves those rejected lines that are not stored already.
    fn only_new(&mut self, delivery: &mut Delivery, key: impl Fn(&Rejection) -> known::Key) -> Result<(), Failure> {
        let mut new = Vec::new();
        for rejection in std::mem::take(&mut delivery.rejected) {
            self.bad += 1;
            if self.known.is_new(key(&rejection))? {
                new.push(rejection);
            } else {
                self.skipped += 1;
            }
        }
        delivery.rejected = new;
        Ok(())
    }

    fn end(self) -> Result<Written, Failure> {
        self.queue.close();
        let Outcome { mut stored, failed } = self.writer.join().expect("the writer does not panic");
        stored.known += self.skipped;
        failed.map_or(Ok(stored), |failed| Err(failed.into()))
    }
}
