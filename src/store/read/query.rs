//! The request of a caller to a reader: a query, an order, and a range of sequences.

use std::fmt;
use std::sync::Arc;

/// Query of the store. The default matches everything.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only events of this source: [`crate::store::SourceRow::id`].
    pub source: Option<i64>,
    /// Earliest instant, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Latest instant, inclusive.
    pub until: Option<i64>,
    /// Types to match; any if empty.
    pub types: Vec<String>,
    /// Actions to match.
    pub actions: Actions,
    /// Lists of prefixes. For each list, the actor's ID or its attribute `name` must begin with one of the prefixes.
    pub actors: Vec<Vec<String>>,
    /// Test that the actor must pass.
    pub actor_test: Option<ActorTest>,
    /// Excludes events of containers' own health checks.
    pub exclude_healthchecks: bool,
}

/// Actions to match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Actions {
    /// Any action.
    #[default]
    Any,
    /// One of these actions.
    Exact(Vec<String>),
    /// Any action that begins with one of these prefixes.
    Prefix(Vec<String>),
}

/// Test of an actor by its ID and its stable attributes. It must accept every actor of a matching event.
#[derive(Clone)]
pub struct ActorTest {
    /// Attributes that the test reads.
    pub keys: Vec<String>,
    /// The test itself: takes an actor's ID, and the values of the attributes in the order of `keys`.
    pub matches: Arc<ActorTestFn>,
}

/// Function that tests an actor's ID and attributes.
pub type ActorTestFn = dyn Fn(&str, &[Option<&str>]) -> bool + Send + Sync;

impl fmt::Debug for ActorTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorTest({:?})", self.keys)
    }
}

/// Order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By time, then by arrival.
    Time,
    /// The reverse of [`Order::Time`].
    TimeReversed,
    /// By arrival.
    Arrival,
}

/// Range of sequences to read: after `after`, up to and including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Last sequence before the range.
    pub after: i64,
    /// Last sequence of the range.
    pub to: i64,
}
