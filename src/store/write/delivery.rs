//! Delivery: everything that a session or an import hands to the writer together.

use std::sync::Arc;

use crate::event::{EventBatch, Identity, REDACTED};
use crate::store::format::gap::GapReason;

/// Key of a source. An engine is the same source wherever it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey {
    /// The engine's own ID; `None` for imports, which are distinguished by name.
    pub engine_id: Option<String>,
    /// Name of the source: the engine's own, or one given by a user. If another source has that name, the beginning of
    /// the ID is appended, or `-imported` for an import.
    pub name: String,
    /// True if the name replaces one that the source already has.
    pub overrides_name: bool,
    /// Host at which the source is reached now; with `None`, the stored host stays.
    pub host: Option<String>,
}

/// Data read from one source; never split between two commits.
///
/// Its fields are many, because each is something different that one commit must store together with the others.
#[derive(Debug)]
pub struct Delivery {
    /// Source of the data.
    pub source: Arc<SourceKey>,
    /// Time of arrival, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// Time of arrival of each event, in the order of the events, if they did not arrive together.
    pub event_received_nanos: Vec<i64>,
    /// Events that arrived before. Those that are not stored are stored now, unless they were pruned.
    pub replayed: EventBatch,
    /// Events after those; the ones that are already stored are dropped.
    pub events: EventBatch,
    /// Number of these events that the stream had left out.
    pub recovered: u64,
    /// Lines that are not events.
    pub rejected: Vec<Rejection>,
    /// The last event seen, stored or not, if it changed.
    pub last_seen: Option<Identity>,
    /// Change of a gap; stored before the events.
    pub gap: Option<GapChange>,
    /// True if a new connection to the source was made.
    pub connected: bool,
    /// Time by which the source's clock is ahead of the recorder's, in nanoseconds, if it was requested.
    pub skew_nano: Option<i64>,
    /// The source's answer to `/version`, as JSON, if it was requested.
    pub version: Option<String>,
    /// Current containers of the source, as a JSON array, if they were requested.
    pub containers: Option<String>,
    /// Containers and their health check commands, as exec events repeat them; an empty command means no health check.
    pub healthchecks: Vec<(String, String)>,
    /// Number of health check events that were excluded.
    pub excluded_healthchecks: u64,
}

impl Delivery {
    /// Creates an empty delivery.
    pub fn new(source: Arc<SourceKey>, received_nano: i64) -> Self {
        Delivery {
            source,
            received_nano,
            event_received_nanos: Vec::new(),
            replayed: EventBatch::default(),
            events: EventBatch::default(),
            recovered: 0,
            rejected: Vec::new(),
            last_seen: None,
            gap: None,
            connected: false,
            skew_nano: None,
            version: None,
            containers: None,
            healthchecks: Vec::new(),
            excluded_healthchecks: 0,
        }
    }

    /// Memory that the delivery takes, in bytes.
    pub fn bytes(&self) -> usize {
        let rejected: usize = self.rejected.iter().map(|r| r.bytes.len() + r.error.len() + 48).sum();
        let healthchecks: usize = self.healthchecks.iter().map(|(id, command)| id.len() + command.len() + 48).sum();
        let containers = self.containers.as_ref().map_or(0, String::len);
        let events =
            self.replayed.heap_size() + self.events.heap_size() + self.event_received_nanos.len() * size_of::<i64>();
        size_of::<Self>() + events + rejected + healthchecks + containers
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.replayed.len() + self.events.len()
    }

    /// Returns true if the delivery contains nothing to store.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
            && self.recovered == 0
            && self.rejected.is_empty()
            && self.last_seen.is_none()
            && self.gap.is_none()
            && self.skew_nano.is_none()
            && self.version.is_none()
            && self.containers.is_none()
            && self.healthchecks.is_empty()
            && self.excluded_healthchecks == 0
    }
}

/// Bytes that are not an event.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// The bytes, truncated to the limit.
    pub bytes: Box<[u8]>,
    /// Reason why they are not an event.
    pub error: String,
}

impl Rejection {
    /// Removes the bytes, where they may contain text that must not be stored.
    #[must_use]
    pub fn redacted(self) -> Rejection {
        Rejection { bytes: REDACTED.as_bytes().into(), ..self }
    }
}

/// Change of a gap. A gap begins after the last instant seen, and that instant (or its absence) identifies it. Later
/// findings about the same instant change the same gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GapChange {
    /// Events after this instant are or may be missing, up to an end if it is known.
    Reported {
        /// The last instant seen.
        from: Option<i64>,
        /// End of the gap; `None` while it is open.
        to: Option<i64>,
        /// Reason for the gap.
        reason: GapReason,
        /// Further detail, for a person.
        detail: Option<String>,
    },
    /// No events are missing after this instant.
    Withdrawn {
        /// The last instant seen.
        from: Option<i64>,
    },
}
