//! `events import`: imports events from files, standard input or another store. Uses the parser and the writer of
//! `record`.

mod dedupe;
mod running;
mod store;

use std::path::{Path, PathBuf};

use running::Import;
use store::VerifiedStore;

use super::args::RedactionArgs;
use super::progress::Progress;
use super::{Failure, Shared};
use crate::store::{Store, is_database};
use crate::stream::Input;

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
