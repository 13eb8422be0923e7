//! The flag that keeps secrets out of the store.

use super::Failure;
use crate::event::Redaction;

/// What to take out of events before they are stored.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Redact {
    /// Take this out of events before they are stored: `exec`, the command lines of exec events, or whatever a regular
    /// expression finds in commands and in the values of attributes; repeatable
    #[arg(long, value_name = "exec|REGEX")]
    redact: Vec<String>,
}

impl Redact {
    /// What the words mean.
    pub(super) fn redaction(&self) -> Result<Redaction, Failure> {
        Ok(Redaction::new(&self.redact)?)
    }
}
