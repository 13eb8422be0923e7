//! Events in order of arrival, held in memory, and whoever follows them.
//!
//! A follower reads by position, so the seam between what was there before and what comes later is none: it can lose
//! and double nothing.

use std::sync::{Arc, RwLock};

use hyper::body::Bytes;
use tokio::sync::watch;

/// Events held in memory; clones share them.
#[derive(Clone, Debug)]
pub struct Feed {
    events: Arc<RwLock<Vec<Bytes>>>,
    /// How many there are.
    length: watch::Sender<usize>,
}

impl Default for Feed {
    fn default() -> Self {
        Feed { events: Arc::default(), length: watch::channel(0).0 }
    }
}

impl Feed {
    /// Adds one event, as its bytes without a line's end.
    pub fn push(&self, event: &[u8]) {
        let mut events = self.events.write().expect("no holder of this lock panics");
        events.push(Bytes::copy_from_slice(event));
        self.length.send_replace(events.len());
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        *self.length.borrow()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The event at a position, if it has come.
    pub(super) fn at(&self, position: usize) -> Option<Bytes> {
        self.events.read().expect("no holder of this lock panics").get(position).cloned()
    }

    /// Waits until the event at a position has come.
    pub(super) async fn came(&self, position: usize) {
        let mut length = self.length.subscribe();
        // This feed itself holds the sender, so it is never gone.
        let _ = length.wait_for(|length| *length > position).await;
    }
}
