//! Searches the store, and prints what it finds.

use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::args::warn_unknown_healthchecks;
use crate::clock::now_nano;
use crate::output::{self, PrintError, Record};
use crate::query::{Limit, SelectedEvents, Selection};
use crate::store::{Order, Reader, Snapshot, StoredEvent};

/// Interval at which `--follow` checks for commits. An event must be printed within 100 ms of its arrival, and a check
/// takes a few microseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A search of the selected events.
pub(super) struct Search<'a> {
    pub(super) reader: &'a Reader,
    pub(super) selection: &'a Selection,
    pub(super) selected: SelectedEvents<'a>,
}

impl Search<'_> {
    pub(super) fn count(&self, snapshot: Snapshot) -> Result<u64, Failure> {
        let limit = match self.selection.limit {
            Limit::All => u64::MAX,
            Limit::First(limit) | Limit::Last(limit) => limit,
        };
        let mut count = 0;
        let _ = self.selected.for_each(snapshot, Order::Arrival, |_| {
            count += 1;
            if count < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(count.min(limit))
    }

    pub(super) fn print<W: Write>(
        &self,
        snapshot: Snapshot,
        order: Order,
        printer: &mut Printer<W>,
    ) -> Result<(), Failure> {
        if printer.remaining == 0 {
            return Ok(());
        }
        let flow = self.selected.for_each(snapshot, order, |stored| match printer.print(stored) {
            Ok(()) if printer.remaining > 0 => ControlFlow::Continue(()),
            result => ControlFlow::Break(result),
        })?;
        Ok(flow.break_value().unwrap_or(Ok(()))?)
    }

    /// Prints the newest events of the snapshot, oldest first.
    pub(super) fn print_last<W: Write>(
        &self,
        snapshot: Snapshot,
        limit: u64,
        printer: &mut Printer<W>,
    ) -> Result<(), Failure> {
        if self.selection.reverse {
            printer.remaining = limit;
            return self.print(snapshot, Order::TimeReversed, printer);
        }
        let flow = self.selected.for_each_newest(snapshot, limit, |stored| match printer.print(stored) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        })?;
        Ok(flow.break_value().map_or(Ok(()), Err)?)
    }

    /// Prints the events that are committed after the snapshot, until the window ends or the limit is reached.
    pub(super) fn follow<W: Write>(
        &self,
        mut snapshot: Snapshot,
        printer: &mut Printer<W>,
        mut warned: bool,
    ) -> Result<(), Failure> {
        let mut last_version = None;
        while printer.remaining > 0 {
            let is_past_end = self.selection.until.is_some_and(|until| now_nano() > until);
            let version = self.reader.data_version()?;
            if last_version != Some(version) {
                last_version = Some(version);
                snapshot = self.reader.snapshot(snapshot.to)?;
                printer.load_names(self.reader)?;
                self.print(snapshot, Order::Arrival, printer)?;
                printer.out.flush()?;
                warn_unknown_healthchecks(self.reader, &mut warned);
            }
            if is_past_end {
                break;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

pub(super) struct Printer<W> {
    pub(super) out: output::Printer<W>,
    /// Names of the sources by row ID; empty if they are not printed.
    pub(super) names: HashMap<i64, String>,
    pub(super) should_load_names: bool,
    /// Number of events that may still be printed.
    pub(super) remaining: u64,
}

impl<W: Write> Printer<W> {
    pub(super) fn load_names(&mut self, reader: &Reader) -> Result<(), Failure> {
        if self.should_load_names {
            self.names = reader.sources()?.into_iter().map(|source| (source.id, source.name)).collect();
        }
        Ok(())
    }

    pub(super) fn print(&mut self, stored: StoredEvent<'_>) -> Result<(), PrintError> {
        let source = self.names.get(&stored.source).map_or("", String::as_str);
        let record = Record { raw: stored.raw, seq: stored.seq, source, received_nano: stored.received_nano };
        self.remaining -= 1;
        self.out.print(&record)
    }
}
