//! The properties that the targets try to break. `tests/it/regressions.rs` checks them with the stable compiler.

#[path = "../tests/it/properties/mod.rs"]
pub mod properties;
