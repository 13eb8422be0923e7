//! The format of a store: how entries become rows, and rows become entries again.
//!
//! Nothing here decides when to write, what to read or what to delete.

pub(in crate::store) mod blocks;
pub(in crate::store) mod cached_store;
pub(in crate::store) mod chain;
pub(in crate::store) mod checkpoint;
pub(in crate::store) mod decode;
pub(in crate::store) mod encode;
pub(in crate::store) mod entries;
pub(in crate::store) mod exec_ids;
pub(in crate::store) mod gap;
pub(in crate::store) mod intern;
pub mod layout;
pub(in crate::store) mod links;
pub(in crate::store) mod max_ids;
pub(in crate::store) mod migrate;
pub(in crate::store) mod source;
pub(in crate::store) mod store;
