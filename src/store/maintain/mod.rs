//! Maintenance: retention, pruning, garbage collection, backup and verification.

pub(in crate::store) mod backup;
mod deleted_events;
pub(in crate::store) mod gc;
mod pages;
pub(in crate::store) mod prune;
pub(in crate::store) mod retention;
pub(in crate::store) mod verify;
