//! `events status`: prints the state of the recorder and of each source, for people or as JSON.

mod state;
mod text;

use std::io::Write;

use self::state::Status;
use super::{Failure, Shared};

/// The options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let status = Status::load(&shared.db_path()?)?;
    if args.json {
        let mut out = std::io::stdout().lock();
        super::print_json(&mut out, &status)?;
        return Ok(out.flush()?);
    }
    // anstream removes the colors if stdout is not a terminal or NO_COLOR is set.
    let mut out = anstream::stdout().lock();
    out.write_all(status.to_text().as_bytes())?;
    Ok(out.flush()?)
}
