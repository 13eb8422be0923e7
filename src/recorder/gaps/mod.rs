//! What happened inside a gap, as far as the engine's containers still show it.

mod container_diff;
mod report;

pub(in crate::recorder) use report::{GapReport, PendingGap};
