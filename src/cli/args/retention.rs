//! The options that limit the age of events and the size of the store.

use super::parse_size;
use crate::cli::Failure;
use crate::query::time;
use crate::store::{Retention, Store};

/// Limits of the store by age and size.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct RetentionArgs {
    /// Delete events older than this, such as 90d
    ///
    /// A number with a unit, such as 90d, 12w or 36h.
    #[arg(long, value_name = "DURATION", help_heading = "Retention options")]
    retain: Option<String>,
    /// Delete the oldest events to limit the file to this size, such as 2GiB
    ///
    /// A number with a unit, such as 2GiB or 500MB. The limit does not include the WAL.
    #[arg(long, value_name = "SIZE", help_heading = "Retention options")]
    max_size: Option<String>,
}

impl RetentionArgs {
    /// Parses the limits.
    pub(in crate::cli) fn retention(&self) -> Result<Retention, Failure> {
        let age = self.retain.as_deref().map(time::parse_duration).transpose()?;
        let bytes = self.max_size.as_deref().map(parse_max_size).transpose()?;
        Ok(Retention { max_age: age, max_bytes: bytes.map(|bytes| bytes as u64) })
    }
}

/// Parses `--max-size`. Refuses a number without a unit: it is more likely a mistake than a number of bytes, and most
/// events would be deleted.
fn parse_max_size(text: &str) -> Result<usize, Failure> {
    let bytes = parse_size("--max-size", text)?;
    let min_bytes = Store::empty_store_bytes()?;
    if text.ends_with(|c: char| c.is_ascii_digit()) {
        return Err(
            Failure::usage(format!("--max-size '{text}' has no unit")).hint(format!("write {text}MiB or {text}GiB"))
        );
    }
    if (bytes as u64) < min_bytes {
        return Err(Failure::usage(format!("--max-size {text} is smaller than an empty store"))
            .hint(format!("pass at least {}KiB", min_bytes.div_ceil(1024))));
    }
    Ok(bytes)
}
