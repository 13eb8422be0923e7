//! The format of a store: how entries become rows, and rows become entries again.
//!
//! Nothing here decides when to write, what to read or what to delete.

pub(in crate::store) mod blocks;
pub(in crate::store) mod chain;
pub(in crate::store) mod decode;
pub(in crate::store) mod encode;
pub mod layout;
pub(in crate::store) mod migrate;
