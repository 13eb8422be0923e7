//! A user's selection of events: filters, exclusions, a time window, a limit and an order.

use super::Filter;
use crate::event::Event;
use crate::store::{Order, Query};

/// A selection of events, with their order and number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Events must match this filter.
    pub filter: Filter,
    /// Events that match any one of these are removed.
    pub excludes: Vec<Filter>,
    /// Excludes health checks of containers. Only a store or a recorder can recognize them.
    pub no_healthchecks: bool,
    /// Earliest instant, inclusive, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// Latest instant, inclusive.
    pub until: Option<i64>,
    /// Number of events.
    pub limit: Limit,
    /// Newest first.
    pub reverse: bool,
}

/// Number of events to return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// All events.
    #[default]
    All,
    /// The first N events, in output order.
    First(u64),
    /// The newest N events.
    Last(u64),
}

/// A contradictory selection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// The window ends before it starts.
    #[error("--since is after --until: the window is empty")]
    Window,
}

impl Selection {
    /// Sets the time window.
    ///
    /// # Errors
    /// [`SelectionError::Window`].
    pub fn with_window(mut self, since: Option<i64>, until: Option<i64>) -> Result<Self, SelectionError> {
        if since.zip(until).is_some_and(|(since, until)| since > until) {
            return Err(SelectionError::Window);
        }
        (self.since, self.until) = (since, until);
        Ok(self)
    }

    /// Returns true if the filters select an event. Ignores the time window and `no_healthchecks`.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.filter.matches(event) && !self.excludes.iter().any(|exclude| exclude.matches(event))
    }

    /// Returns true if the time window contains an instant.
    pub fn contains_instant(&self, instant: i64) -> bool {
        self.since.is_none_or(|since| instant >= since) && self.until.is_none_or(|until| instant <= until)
    }

    /// Returns true if no filter can reject an event.
    pub fn is_unfiltered(&self) -> bool {
        self.filter.is_empty() && self.excludes.is_empty()
    }

    /// Returns true if a filter uses attributes that vary between the events of one actor.
    pub fn uses_per_event_attributes(&self) -> bool {
        self.filter.uses_per_event_attributes() || self.excludes.iter().any(Filter::uses_per_event_attributes)
    }

    /// Returns the store query. Its result contains all selected events, and possibly more.
    pub fn to_query(&self, source: Option<i64>) -> Query {
        let Selection { since, until, no_healthchecks, .. } = *self;
        let mut query = Query { source, since, until, exclude_healthchecks: no_healthchecks, ..Query::default() };
        self.filter.narrow(&mut query);
        query
    }

    /// Returns the order to read in. The newest events are read from the end.
    pub fn order(&self) -> Order {
        if self.reverse || matches!(self.limit, Limit::Last(_)) { Order::TimeReversed } else { Order::Time }
    }
}
