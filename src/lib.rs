//! Records what Docker Engines tell on `/events`, and gives it back in the engine's own language.
//!
//! The data flows one way, and a module is a stage of it: [`engine`] connects and asks, [`stream`] takes bytes apart
//! into events, [`event`] is one of them, [`store`] keeps them in SQLite, [`query`] selects, [`output`] prints,
//! [`serve`] answers as an engine, [`testing`] is one for tests. [`commands`] is the command line, where the stages meet. A stage imports only what
//! stands before it; each can be used alone.

#![warn(clippy::unwrap_used, reason = "the library returns an error, or names its invariant with expect")]

pub mod commands;
pub mod engine;
pub mod error;
pub mod event;
pub mod output;
pub mod query;
pub mod serve;
pub mod store;
pub mod stream;
pub mod testing;

/// The README's examples in Rust are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
