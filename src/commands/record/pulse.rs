//! Is an engine that says nothing still there? An idle stream and a dead one look the same.
//!
//! The second look tells too; this is for when it is not taken, or seldom.

use std::time::Duration;

use super::Plan;
use crate::engine::{Client, EngineError};
use crate::error::chain;

/// How long an engine may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many times in a row it may not say so before it counts as lost.
const MISSED: u32 = 2;

/// Waits until the engine does not answer any more, and says how it fails to.
pub(super) async fn lost(client: &Client, plan: &Plan) -> EngineError {
    if plan.look_again.is_some_and(|every| every <= plan.ping) {
        return std::future::pending().await;
    }
    let mut missed = 0;
    loop {
        tokio::time::sleep(plan.ping).await;
        match client.ping(PATIENCE.min(plan.ping)).await {
            Ok(()) => missed = 0,
            Err(e) => {
                tracing::debug!("{}", chain(&e));
                missed += 1;
                if missed >= MISSED {
                    return e;
                }
            }
        }
    }
}
