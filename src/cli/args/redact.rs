//! The option that keeps secrets out of the store.

use crate::cli::Failure;
use crate::event::Redaction;

/// Texts to remove from events before they are stored.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct RedactionArgs {
    /// Remove secrets from events before they are stored; repeatable
    ///
    /// exec: the command lines of exec events. REGEX: each match of this regular expression in command lines and in
    /// attribute values. Example: `--redact exec --redact 'token=[^ ]+'`.
    #[arg(long, value_name = "exec|REGEX")]
    redact: Vec<String>,
}

impl RedactionArgs {
    /// Parses the expressions.
    pub(in crate::cli) fn redaction(&self) -> Result<Redaction, Failure> {
        Ok(Redaction::new(&self.redact)?)
    }
}
