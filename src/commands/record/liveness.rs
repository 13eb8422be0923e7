//! The liveness probe: sends `/_ping` beside the stream, because an idle stream and a dead one look the same.
//!
//! The backlog check finds a dead engine too. The probe is for recordings in which that check is off or rare.

use std::time::Duration;

use super::Config;
use crate::engine::{Client, EngineError};
use crate::error::chain;

/// Time limit for the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of consecutive failed pings after which the engine counts as lost.
const MAX_FAILED_PINGS: u32 = 2;

/// Waits until the engine no longer answers. Returns the last error.
pub(super) async fn wait_until_unresponsive(client: &Client, config: &Config) -> EngineError {
    if config.backlog_check_interval.is_some_and(|every| every <= config.ping_interval) {
        return std::future::pending().await;
    }
    let mut failed_pings = 0;
    loop {
        tokio::time::sleep(config.ping_interval).await;
        match client.ping(PING_TIMEOUT.min(config.ping_interval)).await {
            Ok(()) => failed_pings = 0,
            Err(e) => {
                tracing::debug!("{}", chain(&e));
                failed_pings += 1;
                if failed_pings >= MAX_FAILED_PINGS {
                    return e;
                }
            }
        }
    }
}
