//! Tests that need only the Rust toolchain, in one binary.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a failing test prints its report")]

mod properties;
mod support;

mod architecture;
mod backup;
mod demo;
mod doctor;
mod gaps;
mod healthchecks;
mod hosts;
mod image;
mod import;
mod install_docs;
mod layout;
mod merge;
mod migrate;
mod prune;
mod query;
mod readme;
mod record;
mod redact;
mod regressions;
mod replay;
mod serve;
mod serve_hostile;
mod serve_scale;
mod serve_tls;
mod silence;
mod simulator;
mod store;
mod stream;
mod testing;
mod usage_errors;
mod verify;
mod watching;
