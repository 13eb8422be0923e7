//! Knowledge of an engine from earlier sessions.

use super::healthcheck_gate::HealthcheckGate;
use crate::event::Identity;
use crate::recorder::clock_skew::SkewWarning;
use crate::recorder::gaps::PendingGap;
use crate::store::Delivery;

/// State of an engine. A session owns it while it lasts, and returns it at its end.
#[derive(Debug, Default)]
pub(in crate::recorder) struct EngineState {
    /// Last event seen: it was delivered, or left out by the filter.
    pub(in crate::recorder) last_seen: Option<Identity>,
    /// True if the engine was reached with an empty backlog, and no event was seen since.
    pub(in crate::recorder) is_idle: bool,
    /// The last gap, while its report is pending.
    pub(in crate::recorder) pending_gap: Option<PendingGap>,
    /// Health checks of the engine's containers.
    pub(in crate::recorder) healthcheck_gate: HealthcheckGate,
    /// Deliveries of the last session that the queue refused. They must be queued before the next session starts.
    pub(in crate::recorder) undelivered: Vec<Delivery>,
    /// Warning about the engine's clock.
    pub(in crate::recorder) skew_warning: SkewWarning,
    /// True if the engine was recorded into a file that has since disappeared from the path or was replaced.
    pub(in crate::recorder) was_recorded_elsewhere: bool,
}

impl EngineState {
    /// Sets the last event seen.
    pub(in crate::recorder) fn set_last_seen(&mut self, event: Identity) {
        self.last_seen = Some(event);
        self.is_idle = false;
    }

    /// Clears the pending gap if it starts at `from`, because nothing was missed there.
    pub(super) fn clear_pending_gap(&mut self, from: i64) {
        self.pending_gap.take_if(|gap| gap.from == from);
    }
}
