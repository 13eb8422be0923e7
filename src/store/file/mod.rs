//! The file of a store on its filesystem: opening it, its identity, its locks.
//!
//! Nothing here knows what the tables of a store contain.

pub(in crate::store) mod filesystem;
pub(in crate::store) mod header;
pub(in crate::store) mod identity;
pub(in crate::store) mod lock;
pub(in crate::store) mod open;
pub(in crate::store) mod open_files;
