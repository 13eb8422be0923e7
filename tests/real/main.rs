//! The tests that need real engines, clients and service managers, in one binary.

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
