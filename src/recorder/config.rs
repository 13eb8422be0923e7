//! The configuration of a recorder: engines, store, selection, limits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::telemetry::Notifier;
use crate::engine::{Host, MetricsEndpoint};
use crate::event::Redaction;
use crate::http::Address;
use crate::query::Selection;
use crate::store::{DEFAULT_MAX_REJECTED, Limits};
use crate::stream::DEFAULT_LINE_LIMIT;

/// Interval of the liveness probe. Two probes and their timeouts take less than a minute.
pub const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(15);

/// Configuration of a recording.
#[derive(Clone, Debug)]
pub struct Config {
    /// Hosts of the engines.
    pub hosts: Vec<Host>,
    /// Path of the store.
    pub path: PathBuf,
    /// Selection of the events to store.
    pub selection: Selection,
    /// Redaction of events before they are stored.
    pub redaction: Redaction,
    /// End of the recording.
    pub until: Until,
    /// Interval of the backlog check; `None` turns it off.
    pub backlog_check_interval: Option<Duration>,
    /// Interval of the liveness probe. The probe is off if the backlog check is at least as frequent.
    pub ping_interval: Duration,
    /// Metrics pages of the engines, by the index of their hosts.
    pub engine_metrics: BTreeMap<usize, MetricsEndpoint>,
    /// Limit for events that are read and not yet stored, in bytes.
    pub buffer: usize,
    /// Maximum length of an event, in bytes.
    pub max_event: usize,
    /// Maximum number of rejected lines for each engine, and retention.
    pub limits: Limits,
    /// Programs that watch the recorder.
    pub telemetry: Telemetry,
}

/// Programs that watch the recorder.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// Address of the metrics and health endpoints.
    pub metrics_address: Option<Address>,
    /// Connection to the service manager.
    pub notifier: Notifier,
}

/// End of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// No end: the recording ends when it is stopped.
    Stopped,
    /// The end of the backlog of every engine.
    BacklogRead,
    /// A time, in nanoseconds since the Unix epoch.
    Instant(i64),
}

impl Config {
    /// Creates the default configuration for recording hosts into a store.
    pub fn new(hosts: Vec<Host>, path: PathBuf) -> Config {
        Config {
            hosts,
            path,
            selection: Selection::default(),
            redaction: Redaction::default(),
            until: Until::Stopped,
            backlog_check_interval: Some(Duration::from_secs(10)),
            ping_interval: DEFAULT_PING_INTERVAL,
            engine_metrics: BTreeMap::new(),
            buffer: 64 << 20,
            max_event: DEFAULT_LINE_LIMIT,
            limits: Limits { max_rejected: DEFAULT_MAX_REJECTED, ..Limits::default() },
            telemetry: Telemetry::default(),
        }
    }
}
