//! `events backup`: makes a consistent copy of the store, also while a recorder writes to it.

use std::path::PathBuf;

use super::progress::Progress;
use super::{Failure, Shared, interrupt};
use crate::store::Reader;

/// The options of `backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Path of the copy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace FILE if it exists
    #[arg(long, help_heading = "Backup options")]
    force: bool,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    // First: an open store has files that a killed process would leave behind.
    let interrupt = interrupt::watch()?;
    let store = Reader::open(&shared.db_path()?)?;
    let progress = Progress::new(shared, None);
    let copy = store.copy_to(&args.file, args.force, |copied_bytes, total_bytes| {
        progress.set_total(total_bytes);
        progress.set_position(copied_bytes);
        !interrupt.is_set()
    })?;
    progress.finish();
    let Some(copy) = copy else {
        return Err(Failure::failed("interrupted: no copy was made"));
    };
    tracing::info!("copied {} bytes to {}; head {}", copy.bytes, args.file.display(), copy.head);
    Ok(())
}
