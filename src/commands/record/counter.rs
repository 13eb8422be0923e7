//! The engine's own count of its events, read beside its memory.

use std::time::Duration;

use tokio::time::timeout;

use super::memory::{self, Memory, Patience};
use super::tally::{Counted, Tally};
use crate::engine::{Client, EngineError, MetricsPage};
use crate::error::chain;

/// How long the page may take: meanwhile the engine is not asked for its memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where an engine counts, and how what came compares with that.
#[derive(Debug)]
pub(super) struct Counter {
    page: MetricsPage,
    pub(super) tally: Tally,
    /// It was said that the page cannot be read.
    said: bool,
}

/// What an engine remembers, and what it counted meanwhile, if it could be asked.
pub(super) struct Told {
    pub(super) memory: Result<Memory, EngineError>,
    pub(super) counted: Option<Result<Counted, String>>,
}

impl Counter {
    pub(super) fn new(page: MetricsPage) -> Counter {
        Counter { page, tally: Tally::default(), said: false }
    }

    pub(super) fn page(&self) -> MetricsPage {
        self.page.clone()
    }

    /// What was counted, if it could be read; that it could not is said once.
    pub(super) fn read(&mut self, counted: Result<Counted, String>) -> Option<Counted> {
        match counted {
            Ok(counted) => {
                self.said = false;
                Some(counted)
            }
            Err(why) if !std::mem::replace(&mut self.said, true) => {
                tracing::warn!("{why}; what the engine counts is compared when it can be read");
                None
            }
            Err(why) => {
                tracing::debug!("{why}");
                None
            }
        }
    }
}

/// Asks for the memory, and for the counter before and behind it.
pub(super) async fn ask(client: &Client, page: Option<MetricsPage>, max_event: usize, patience: Patience) -> Told {
    let before = count(page.as_ref()).await;
    let memory = memory::take(client, max_event, patience).await;
    let counted = match before {
        Some(Ok(before)) => count(page.as_ref()).await.map(|behind| behind.map(|behind| Counted { before, behind })),
        failed => failed.map(|failed| failed.map(|count| Counted { before: count, behind: count })),
    };
    Told { memory, counted }
}

async fn count(page: Option<&MetricsPage>) -> Option<Result<u64, String>> {
    let page = page?;
    Some(match timeout(PATIENCE, page.events_total()).await {
        Ok(counted) => counted.map_err(|e| chain(&e)),
        Err(_) => Err(format!("{page} does not answer within {} s", PATIENCE.as_secs())),
    })
}
