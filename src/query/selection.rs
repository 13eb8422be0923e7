//! What a user selects: filters, what is taken away, a window of time, how many.

use super::Filter;
use crate::event::Event;
use crate::store::{Ask, Judge, Order};

/// Which events, in which order, and how many of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// What is let through.
    pub filter: Filter,
    /// What is taken away again; each by itself.
    pub excludes: Vec<Filter>,
    /// None of containers' own health checks; what is one, only a store or a recorder can tell.
    pub no_healthchecks: bool,
    /// No earlier than this instant, in nanoseconds since the epoch.
    pub since: Option<i64>,
    /// No later than this instant.
    pub until: Option<i64>,
    /// How many.
    pub cut: Cut,
    /// Newest first.
    pub reverse: bool,
}

/// How many events to give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// All.
    #[default]
    All,
    /// The first so many, in the order given out.
    First(u64),
    /// The newest so many.
    Last(u64),
}

/// A selection that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// The window ends before it begins.
    #[error("--since is after --until: no time lies between them")]
    Window,
}

impl Selection {
    /// Sets the window.
    ///
    /// # Errors
    /// [`SelectionError::Window`].
    pub fn between(mut self, since: Option<i64>, until: Option<i64>) -> Result<Self, SelectionError> {
        if since.zip(until).is_some_and(|(since, until)| since > until) {
            return Err(SelectionError::Window);
        }
        (self.since, self.until) = (since, until);
        Ok(self)
    }

    /// Whether the filters let an event through, whenever it was, be it of a health check or not.
    pub fn passes(&self, event: &Event<'_>) -> bool {
        self.filter.matches(event) && !self.excludes.iter().any(|exclude| exclude.matches(event))
    }

    /// Whether an instant lies in the window.
    pub fn spans(&self, instant: i64) -> bool {
        self.since.is_none_or(|since| instant >= since) && self.until.is_none_or(|until| instant <= until)
    }

    /// Whether any event can be kept back.
    pub fn is_everything(&self) -> bool {
        self.filter.is_empty() && self.excludes.is_empty()
    }

    /// Whether it looks at attributes that vary from event to event of one actor.
    pub fn looks_at_varying(&self) -> bool {
        self.filter.looks_at_varying() || self.excludes.iter().any(Filter::looks_at_varying)
    }

    /// How the store is to judge events that may answer, given what lets them through.
    pub fn judge<'a>(&self, passes: &'a dyn Fn(&Event<'_>) -> bool) -> Judge<'a> {
        match () {
            () if self.is_everything() => Judge::All,
            () if self.looks_at_varying() => Judge::Each(passes),
            () => Judge::Alike(passes),
        }
    }

    /// What to ask of the store; the answer holds all that is selected, and perhaps more.
    pub fn ask(&self, source: Option<i64>) -> Ask {
        let Selection { since, until, no_healthchecks, .. } = *self;
        let mut ask = Ask { source, since, until, no_healthchecks, ..Ask::default() };
        self.filter.narrow(&mut ask);
        ask
    }

    /// The order to read in. The newest ones are found from the end.
    pub fn order(&self) -> Order {
        if self.reverse || matches!(self.cut, Cut::Last(_)) { Order::TimeReversed } else { Order::Time }
    }
}
