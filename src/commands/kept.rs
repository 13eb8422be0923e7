//! The flags that say how much is kept.

use super::{Failure, size};
use crate::query::time;
use crate::store::{Keep, Store};

/// How much of the record is kept.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Kept {
    /// How long events are kept, as 90d
    #[arg(long, value_name = "DURATION", help_heading = "Keeping")]
    retain: Option<String>,
    /// How large the file may be, as 2GiB: the oldest events go until it is no larger
    #[arg(long, value_name = "SIZE", help_heading = "Keeping")]
    max_size: Option<String>,
}

impl Kept {
    /// What the words mean.
    pub(super) fn keep(&self) -> Result<Keep, Failure> {
        let age = self.retain.as_deref().map(time::parse_duration).transpose()?;
        let bytes = self.max_size.as_deref().map(max_size).transpose()?;
        Ok(Keep { age, bytes: bytes.map(|bytes| bytes as u64) })
    }
}

/// The size that a file may have. A bare number is more likely a slip than a number of bytes, and much would go.
fn max_size(text: &str) -> Result<usize, Failure> {
    let bytes = size("--max-size", text)?;
    let least = Store::least_bytes()?;
    if text.ends_with(|c: char| c.is_ascii_digit()) {
        return Err(
            Failure::usage(format!("--max-size '{text}' has no unit")).hint(format!("write {text}MiB, or {text}GiB"))
        );
    }
    if (bytes as u64) < least {
        return Err(Failure::usage(format!("--max-size {text} is less than an empty store has"))
            .hint(format!("the least is {}KiB", least.div_ceil(1024))));
    }
    Ok(bytes)
}
