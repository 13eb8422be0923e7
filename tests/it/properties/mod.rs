//! Properties that hold for any input. Each file is one property; its `check` panics if the property does not hold.
//!
//! The fuzzer calls them with generated inputs (`fuzz/`), `tests/it/regressions.rs` with its seeds and all regressions.

pub(crate) mod chain;
pub(crate) mod filter;
pub(crate) mod layout;
pub(crate) mod parser;
pub(crate) mod store;
pub(crate) mod stream;
pub(crate) mod template;
pub(crate) mod time;
