//! The tests that need real engines, clients and service managers, in one binary.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a failing test prints its report")]

#[path = "../it/support/mod.rs"]
mod support;

mod clients;
mod engines;
mod hosts;
mod image;
mod install_docs;
mod sqlite_tools;
mod templates;
mod watching;
