//! `events gaps`: prints the gaps in the record as NDJSON.

use std::io::Write;

use serde::Serialize;

use super::{Failure, Shared};
use crate::query::time::rfc3339;
use crate::store::Reader;

/// The options of `gaps`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(shared: &Shared, _: &Args) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        source: &'a str,
        from: Option<String>,
        to: Option<String>,
        reason: &'a str,
        detail: Option<&'a str>,
    }
    let gaps = Reader::open(&shared.db_path()?)?.gaps()?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for gap in &gaps {
        let line = Line {
            source: &gap.source,
            from: gap.from_nano.map(rfc3339),
            to: gap.to_nano.map(rfc3339),
            reason: &gap.reason,
            detail: gap.detail.as_deref(),
        };
        super::print_json(&mut out, &line)?;
    }
    Ok(out.flush()?)
}
