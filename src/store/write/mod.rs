//! Writing: the queue of deliveries, and the one writer that commits them.

pub(in crate::store) mod counters;
pub(in crate::store) mod delivery;
pub(in crate::store) mod queue;
pub(in crate::store) mod status;
pub(in crate::store) mod writer;
