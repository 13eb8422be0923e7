//! Reading: a query becomes a plan, and the plan's rows become events in order.

mod conditions;
pub(in crate::store) mod entries;
mod explain;
pub(in crate::store) mod filter;
pub(in crate::store) mod healthchecks;
mod merge;
mod planner;
pub(in crate::store) mod query;
pub(in crate::store) mod reader;
