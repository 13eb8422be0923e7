//! Writing: the queue of deliveries, and the one writer that commits them.

pub(in crate::store) mod counters;
mod dedupe;
pub(in crate::store) mod delivery;
mod delivery_writer;
pub(in crate::store) mod outcome;
pub(in crate::store) mod queue;
mod sources;
pub(in crate::store) mod status;
pub(in crate::store) mod writer;
