//! `events verify`: verifies the hash chain of the store.

use std::io::Write;

use super::{Failure, Shared};
use crate::store::{Head, Reader};

/// Maximum number of faults that are printed. The others are only counted.
const MAX_PRINTED_FAULTS: u64 = 1_000;

/// The options of `verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check that this head is still part of the chain; repeatable
    ///
    /// A head from earlier: printed by `events verify`, or logged by `record`, `backup` or `import`.
    #[arg(long = "head", value_name = "SEQ:HASH", help_heading = "Verification options")]
    heads: Vec<Head>,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let path = shared.db_path()?;
    let reader = Reader::open(&path)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut printed = 0;
    let mut write_error = None;
    let verified = reader.verify(&args.heads, |fault| {
        if printed < MAX_PRINTED_FAULTS && write_error.is_none() {
            printed += 1;
            write_error = writeln!(out, "{fault}").err();
        }
    })?;
    if let Some(e) = write_error {
        return Err(e.into());
    }
    if verified.faults > printed {
        writeln!(out, "and {} more", verified.faults - printed)?;
    }
    writeln!(out, "head {}", verified.head)?;
    out.flush()?;
    if verified.faults > 0 {
        return Err(Failure::failed(format!("{} failed verification; faults: {}", path.display(), verified.faults)));
    }
    tracing::info!("{} entries verified", verified.entries);
    Ok(())
}
