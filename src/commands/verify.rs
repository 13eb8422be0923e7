//! `events verify`: proves that nothing stored was edited, removed or put in between.

use std::io::Write;

use super::{Failure, Shared};
use crate::store::{Head, Reader};

/// How many faults are printed; of more only the number is told.
const PRINTED: u64 = 1_000;

/// The flags of `verify`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A head noted earlier, that must still be part of the chain: what `verify` printed or `record` logged; repeatable
    #[arg(long = "head", value_name = "SEQ:HASH", help_heading = "Proving")]
    heads: Vec<Head>,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let path = shared.db()?;
    let reader = Reader::open(&path)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut printed = 0;
    let mut failed = None;
    let verified = reader.verify(&args.heads, |fault| {
        if printed < PRINTED && failed.is_none() {
            printed += 1;
            failed = writeln!(out, "{fault}").err();
        }
    })?;
    if let Some(e) = failed {
        return Err(e.into());
    }
    if verified.faults > printed {
        writeln!(out, "and {} more", verified.faults - printed)?;
    }
    writeln!(out, "head {}", verified.head)?;
    out.flush()?;
    if verified.faults > 0 {
        return Err(Failure::failed(format!(
            "{} is not as it was recorded: {} faults",
            path.display(),
            verified.faults
        )));
    }
    tracing::info!("{} entries, each as it was stored", verified.entries);
    Ok(())
}
