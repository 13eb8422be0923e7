//! Events in memory, in order of arrival, for any number of subscribers.
//!
//! A subscriber reads by position, so nothing is lost or duplicated between existing and later events.

use std::sync::{Arc, RwLock};

use hyper::body::Bytes;
use tokio::sync::watch;

/// Events in memory, shared by clones.
#[derive(Clone, Debug)]
pub struct Feed {
    events: Arc<RwLock<Vec<Bytes>>>,
    /// Number of events.
    length: watch::Sender<usize>,
}

impl Default for Feed {
    fn default() -> Self {
        Feed { events: Arc::default(), length: watch::channel(0).0 }
    }
}

impl Feed {
    /// Adds the bytes of one event, without a line feed.
    pub fn push(&self, event: &[u8]) {
        let mut events = self.events.write().expect("no holder of this lock panics");
        events.push(Bytes::copy_from_slice(event));
        self.length.send_replace(events.len());
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        *self.length.borrow()
    }

    /// Returns true if the feed is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the event at a position, if it has arrived.
    pub(super) fn get(&self, position: usize) -> Option<Bytes> {
        self.events.read().expect("no holder of this lock panics").get(position).cloned()
    }

    /// Waits until the event at a position arrives.
    pub(super) async fn wait_for_event(&self, position: usize) {
        let mut length = self.length.subscribe();
        // This feed holds the sender, so the channel stays open.
        let _ = length.wait_for(|length| *length > position).await;
    }
}
