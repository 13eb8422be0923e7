//! Reading: a query becomes a plan, and the plan's rows become events in order.

pub(in crate::store) mod healthchecks;
pub(in crate::store) mod merge;
pub(in crate::store) mod planner;
pub(in crate::store) mod reader;
