//! The properties that the targets try, and that `tests/it/regressions.rs` holds on the stable compiler.

#[path = "../tests/it/properties/mod.rs"]
pub mod properties;
