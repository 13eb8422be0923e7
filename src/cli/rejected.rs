//! `events rejected`: prints rejected lines as NDJSON.

use std::io::Write;
use std::ops::ControlFlow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::{Failure, Shared};
use crate::query::time::rfc3339;
use crate::store::Reader;

/// The options of `rejected`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(shared: &Shared, _: &Args) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        source: &'a str,
        received: String,
        error: &'a str,
        bytes: String,
    }
    let reader = Reader::open(&shared.db_path()?)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let result = reader.rejected(|row| {
        let line = Line {
            source: &row.source,
            received: rfc3339(row.received_nano),
            error: &row.error,
            bytes: STANDARD.encode(&row.bytes),
        };
        match super::print_json(&mut out, &line) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    })?;
    if let ControlFlow::Break(error) = result {
        return Err(error.into());
    }
    Ok(out.flush()?)
}
