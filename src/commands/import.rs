//! `events import`: files of events, or standard input, → the store, by the same parser and writer as a socket's.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::{Failure, Shared, now_nano};
use crate::store::{Delivery, Outcome, Queue, Rejection, SourceKey, Store, Written, spawn_writer};
use crate::stream::{Decoder, Item};

/// How much is read at once, in bytes.
const READ: usize = 1 << 20;

/// How much may wait for the store, in bytes.
const BUFFER: usize = 24 << 20;

/// The flags of `import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NDJSON or json-seq, as an engine, `docker events --format '{{json .}}'` or `query` wrote it; `-`: standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// What to call the source
    #[arg(long, value_name = "NAME", default_value = "imported")]
    source: String,
    /// Fail if anything was no event
    #[arg(long)]
    strict: bool,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    if args.source.is_empty() {
        return Err(Failure::usage("the name of the source is empty").hint("leave out --source, or name one"));
    }
    // All are opened before anything is stored: a name that is wrong should not leave half an import.
    let inputs = args.files.iter().map(|path| Input::open(path)).collect::<Result<Vec<_>, _>>()?;
    shared.make_own_directory()?;
    let store = Store::open_or_create(&shared.db()?)?;
    store.expect_many()?;
    let import = Import::begin(store, &args.source);
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

/// Something to read, and its name for error messages.
struct Input {
    name: String,
    reader: Box<dyn Read>,
}

impl Input {
    fn open(path: &Path) -> Result<Input, Failure> {
        if path == Path::new("-") {
            return Ok(Input { name: "standard input".into(), reader: Box::new(io::stdin().lock()) });
        }
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| cannot_read(&name, &e))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Failure::failed(format!("cannot read {name}: it is a directory")).hint("name the files in it"));
        }
        Ok(Input { name, reader: Box::new(file) })
    }
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot read {name}: {}", crate::error::chain(error)))
}

/// An import under way.
struct Import {
    source: Arc<SourceKey>,
    queue: Arc<Queue>,
    writer: JoinHandle<Outcome>,
}

impl Import {
    fn begin(store: Store, source: &str) -> Import {
        let key = SourceKey { engine_id: None, name: source.into(), renamed: false, host: None };
        let queue = Arc::new(Queue::attended(BUFFER));
        Import { source: Arc::new(key), writer: spawn_writer(store, queue.clone(), u64::MAX), queue }
    }

    fn take(&self, mut input: Input) -> Result<(), Failure> {
        let mut decoder = Decoder::default();
        let mut block = vec![0; READ];
        loop {
            let read = match input.reader.read(&mut block) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|e| cannot_read(&input.name, &e))?,
            };
            let mut delivery = Delivery::new(self.source.clone(), now_nano());
            let mut each = |item: Item| match item {
                Item::Event(event) => delivery.events.push(&event),
                Item::Rejected(rejected) => delivery
                    .rejected
                    .push(Rejection { bytes: rejected.bytes.into(), error: rejected.reason.to_string() }),
            };
            if read == 0 {
                decoder.finish(&mut each);
            } else {
                decoder.push(&block[..read], &mut each);
            }
            if !delivery.is_empty() && !self.queue.push_waiting(delivery) {
                return Ok(()); // The writer has given up; `end` says why.
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    fn end(self) -> Result<Written, Failure> {
        self.queue.close();
        let Outcome { stored, failed } = self.writer.join().expect("the writer does not panic");
        failed.map_or(Ok(stored), |failed| Err(failed.into()))
    }
}
