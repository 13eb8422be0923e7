//! What must hold whatever comes: a file is one property, and its `check` panics where it does not hold.
//!
//! The fuzzer calls them with what it makes up (`fuzz/`), `tests/regressions.rs` with its seeds and all that ever failed.

#![allow(unreachable_pub, reason = "the fuzz targets call them from another crate")]

pub mod chain;
pub mod filter;
pub mod layout;
pub mod parser;
pub mod store;
pub mod stream;
pub mod template;
pub mod time;
