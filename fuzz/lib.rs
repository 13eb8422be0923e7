//! The properties that the targets try, and that `tests/regressions.rs` holds on the stable compiler.

#[path = "../tests/properties/mod.rs"]
pub mod properties;
