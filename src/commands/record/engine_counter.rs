//! Reads the engine's own event counter around each backlog request.

use std::time::Duration;

use tokio::time::timeout;

use super::backlog::{self, Backlog, Timeouts};
use super::drop_counter::{CounterReadings, DropCounter};
use crate::engine::{Client, EngineError, MetricsEndpoint};
use crate::error::chain;

/// Time limit for reading the metrics page. The backlog request waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Metrics page of an engine, and the comparison of its counter with the events that arrived.
#[derive(Debug)]
pub(super) struct EngineCounter {
    page: MetricsEndpoint,
    pub(super) drop_counter: DropCounter,
    /// True if the log reports that the page cannot be read.
    failure_logged: bool,
}

/// Backlog of an engine, and its counter around that request if it has a metrics page.
pub(super) struct BacklogReply {
    pub(super) backlog: Result<Backlog, EngineError>,
    pub(super) readings: Option<Result<CounterReadings, String>>,
}

impl EngineCounter {
    pub(super) fn new(page: MetricsEndpoint) -> EngineCounter {
        EngineCounter { page, drop_counter: DropCounter::default(), failure_logged: false }
    }

    pub(super) fn page(&self) -> MetricsEndpoint {
        self.page.clone()
    }

    /// Returns the readings. If they failed, logs the reason, as a warning only the first time.
    pub(super) fn accept_readings(&mut self, readings: Result<CounterReadings, String>) -> Option<CounterReadings> {
        match readings {
            Ok(readings) => {
                self.failure_logged = false;
                Some(readings)
            }
            Err(reason) if !std::mem::replace(&mut self.failure_logged, true) => {
                tracing::warn!(
                    "{reason}; the recorder cannot detect dropped events until it can read the engine's counter"
                );
                None
            }
            Err(reason) => {
                tracing::debug!("{reason}");
                None
            }
        }
    }
}

/// Fetches the backlog, and reads the counter before and after it.
pub(super) async fn fetch_backlog(
    client: &Client,
    page: Option<MetricsEndpoint>,
    max_event: usize,
    timeouts: Timeouts,
) -> BacklogReply {
    let before = read_counter(page.as_ref()).await;
    let backlog = backlog::fetch(client, max_event, timeouts).await;
    let readings = match before {
        Some(Ok(before)) => {
            read_counter(page.as_ref()).await.map(|after| after.map(|after| CounterReadings { before, after }))
        }
        failure => failure.map(|failed| failed.map(|count| CounterReadings { before: count, after: count })),
    };
    BacklogReply { backlog, readings }
}

async fn read_counter(page: Option<&MetricsEndpoint>) -> Option<Result<u64, String>> {
    let page = page?;
    Some(match timeout(READ_TIMEOUT, page.events_total()).await {
        Ok(counted) => counted.map_err(|e| chain(&e)),
        Err(_) => Err(format!("{page} does not answer within {} s", READ_TIMEOUT.as_secs())),
    })
}
