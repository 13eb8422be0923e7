//! What must hold whatever comes: a file is one property, and its `check` panics where it does not hold.
//!
//! The fuzzer calls them with what it makes up (`fuzz/`), `tests/regressions.rs` with its seeds and all that ever failed.

pub(crate) mod chain;
pub(crate) mod filter;
pub(crate) mod layout;
pub(crate) mod parser;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod template;
pub(crate) mod time;
