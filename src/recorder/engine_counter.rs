//! Reads the engine's own event counter around each backlog request.

use std::time::Duration;

use tokio::time::timeout;

use super::backlog::{self, Timeouts};
use super::session::{BacklogReply, CounterReadings};
use crate::engine::{Client, MetricsEndpoint};
use crate::error::chain;

/// Time limit for reading the metrics page. The backlog request waits for it.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

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
