//! Reports on gaps: the changes inside a gap that the engine's containers still show.

mod container_diff;
mod report;

pub(in crate::recorder) use report::{GapReport, PendingGap};
