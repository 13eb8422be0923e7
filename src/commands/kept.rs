//! The flags that say how much is kept.

use super::{Failure, size};
use crate::query::time;
use crate::store::Keep;

/// How much of the record is kept.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Kept {
    /// How long events are kept, as 90d
    #[arg(long, value_name = "DURATION", help_heading = "Keeping")]
    retain: Option<String>,
    /// How large the file may be, as 2GiB: the oldest events go until it is no larger
    #[arg(long, value_name = "SIZE", help_heading = "Keeping")]
    max_size: Option<String>,
}

impl Kept {
    /// What the words mean.
    pub fn keep(&self) -> Result<Keep, Failure> {
        let age = self.retain.as_deref().map(time::parse_duration).transpose()?;
        let bytes = self.max_size.as_deref().map(|text| size("--max-size", text)).transpose()?;
        Ok(Keep { age, bytes: bytes.map(|bytes| bytes as u64) })
    }
}
