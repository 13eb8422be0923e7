//! Groups of options that several commands share, and the values in them.

mod hosts;
mod redact;
mod retention;
mod selection;
mod size;

pub(super) use hosts::HostArgs;
pub(super) use redact::RedactionArgs;
pub(super) use retention::RetentionArgs;
pub(super) use selection::{
    FilterArgs, SelectionArgs, find_source, warn_healthchecks_in_files, warn_unknown_healthchecks,
};
pub(super) use size::{format_size, parse_size};
