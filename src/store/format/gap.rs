//! Reasons of gaps.

/// Reason of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Events from before the first session with the engine.
    FirstContact,
    /// The engine cannot be reached, and it is not known yet whether anything is missing.
    Disconnected,
    /// The engine lost its backlog, or another engine now answers at the host.
    EngineRestart,
    /// More events happened than the backlog keeps.
    Overrun,
    /// Events arrived faster than they could be stored, and the recorder's buffer was full.
    BufferFull,
    /// The engine counted more events than it sent.
    DroppedByEngine,
    /// The store file was moved, deleted or replaced; or two merged stores both lack the period.
    StoreFailed,
}

impl GapReason {
    /// All reasons.
    pub const ALL: [GapReason; 7] = [
        GapReason::FirstContact,
        GapReason::Disconnected,
        GapReason::EngineRestart,
        GapReason::Overrun,
        GapReason::BufferFull,
        GapReason::DroppedByEngine,
        GapReason::StoreFailed,
    ];

    /// Returns the reason with this name, as `gaps` prints it.
    pub fn from_name(name: &str) -> Option<GapReason> {
        GapReason::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Returns the name that `gaps` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::FirstContact => "first-contact",
            GapReason::Disconnected => "disconnected",
            GapReason::EngineRestart => "engine-restart",
            GapReason::Overrun => "overrun",
            GapReason::BufferFull => "buffer-full",
            GapReason::DroppedByEngine => "dropped-by-engine",
            GapReason::StoreFailed => "store-failed",
        }
    }
}
