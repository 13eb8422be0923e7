//! `events backup`: a consistent copy of the store while it is recorded into.

use std::path::PathBuf;

use super::progress::Progress;
use super::{Failure, Shared, interrupt};
use crate::store::Reader;

/// The flags of `backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to put the copy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace a file that is there
    #[arg(long, help_heading = "Keeping")]
    force: bool,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let store = Reader::open(&shared.db()?)?;
    let interrupted = interrupt::watch()?;
    let progress = Progress::of_bytes(shared, None);
    let copied = store.copy_to(&args.file, args.force, |copied, all| {
        progress.all_are(all);
        progress.are_done(copied);
        !interrupted.came()
    })?;
    progress.end();
    let Some(copied) = copied else {
        return Err(Failure::failed("interrupted: no copy was made"));
    };
    tracing::info!("{} bytes copied to {}; head {}", copied.bytes, args.file.display(), copied.head);
    Ok(())
}
