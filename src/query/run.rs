//! Reads a selection from a store. This is the one way from a selection to its events: it narrows the search, chooses
//! how often the filters must look at an event, and applies them.

use std::ops::ControlFlow;

use super::Selection;
use crate::event::Event;
use crate::store::{EventPredicate, Order, Reader, Snapshot, StoreError, StoredEvent};

/// A selection of the events in a store.
#[derive(Clone, Copy, Debug)]
pub struct SelectedEvents<'a> {
    reader: &'a Reader,
    selection: &'a Selection,
    /// Selection that the events must match too.
    within: Option<&'a Selection>,
    /// Row ID of the source; `None` for all sources.
    source: Option<i64>,
}

impl<'a> SelectedEvents<'a> {
    /// Selects events of one source, by its row ID, or of all.
    pub fn new(reader: &'a Reader, selection: &'a Selection, source: Option<i64>) -> Self {
        SelectedEvents { reader, selection, within: None, source }
    }

    /// Restricts the events to those that another selection contains too.
    #[must_use]
    pub fn within(self, selection: &'a Selection) -> Self {
        SelectedEvents { within: Some(selection), ..self }
    }

    /// Calls `visit` with every selected event of a snapshot, in `order`, until it breaks. Ignores the limit of the
    /// selection.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn for_each<B>(
        &self,
        snapshot: Snapshot,
        order: Order,
        visit: impl FnMut(StoredEvent<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, StoreError> {
        let mut query = self.selection.to_query(self.source);
        if let Some(within) = self.within {
            query.since = query.since.max(within.since);
            query.until = [query.until, within.until].into_iter().flatten().min();
            query.exclude_healthchecks |= within.no_healthchecks;
        }
        let matches = |event: &Event<'_>| self.all().all(|selection| selection.matches(event));
        let predicate = if self.all().all(Selection::is_unfiltered) {
            EventPredicate::All
        } else if self.all().any(Selection::uses_per_event_attributes) {
            EventPredicate::PerEvent(&matches)
        } else {
            EventPredicate::PerKindAndActor(&matches)
        };
        self.reader.events(&query, snapshot, order, predicate, visit)
    }

    /// Calls `visit` with the newest selected events, oldest first. The search finds the newest first, so all of them
    /// are in memory before the first call.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn for_each_newest<B>(
        &self,
        snapshot: Snapshot,
        count: u64,
        mut visit: impl FnMut(StoredEvent<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, StoreError> {
        let mut newest: Vec<(Vec<u8>, StoredEvent<'static>)> = Vec::new();
        if count > 0 {
            let _ = self.for_each::<()>(snapshot, Order::TimeReversed, |stored| {
                newest.push((stored.raw.to_vec(), StoredEvent { raw: b"", ..stored }));
                if (newest.len() as u64) < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        for (raw, stored) in newest.iter().rev() {
            if let ControlFlow::Break(value) = visit(StoredEvent { raw, ..*stored }) {
                return Ok(ControlFlow::Break(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Describes how the store searches, one line for each step.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn explain(&self, order: Order) -> Result<Vec<String>, StoreError> {
        self.reader.explain(&self.selection.to_query(self.source), order)
    }

    fn all(&self) -> impl Iterator<Item = &'a Selection> {
        [Some(self.selection), self.within].into_iter().flatten()
    }
}
