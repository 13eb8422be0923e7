//! Records Docker Engine events in SQLite, reports gaps, and queries and replays the events.
//!
//! Data flows one way, and each module is a stage: [`engine`] connects and sends requests, [`stream`] splits bytes into
//! lines and events, [`event`] parses one event, [`store`] stores events in SQLite, [`query`] selects them, [`output`]
//! prints them, [`serve`] answers as an engine. [`testing`] is an engine for tests. [`commands`] is the command line,
//! which combines the stages. A stage imports only earlier stages, and each can be used alone.

#![warn(clippy::unwrap_used, reason = "the library returns an error, or states its invariant with expect")]

mod cache;
pub mod cli;
mod clock;
pub mod engine;
pub mod error;
pub mod event;
pub mod http;
pub mod output;
pub mod query;
pub mod recorder;
pub mod serve;
pub mod store;
pub mod stream;
pub mod testing;

/// Runs the Rust examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Runs the Rust examples of the documentation as tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/rust-library.md")]
struct Documentation;
