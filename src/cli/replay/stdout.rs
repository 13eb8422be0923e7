//! Prints the events to stdout at their own pace.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Args;
use crate::cli::{Failure, Shared};
use crate::clock::now_nano;
use crate::event::{Event, with_time};
use crate::query::Selection;

impl Args {
    /// Prints the events to stdout, each when it is due.
    pub(super) fn print(&self, shared: &Shared, selection: &Selection) -> Result<(), Failure> {
        let mut out = io::BufWriter::with_capacity(64 * 1024, io::stdout().lock());
        let (start, start_nano) = (Instant::now(), now_nano());
        let mut first = None;
        let mut count = 0;
        self.for_each_event(shared, selection, |time_nano, raw| {
            let due = self.speed.delay(time_nano.saturating_sub(*first.get_or_insert(time_nano)));
            let delay = due.saturating_sub(start.elapsed());
            if !delay.is_zero() {
                out.flush()?;
                wait_unless_closed(delay)?;
            }
            if self.retime {
                let due = i64::try_from(due.as_nanos()).unwrap_or(i64::MAX / 2);
                // At full speed all events are due immediately; different times keep their order visible.
                let nano = start_nano.saturating_add(due).saturating_add(if due == 0 { count } else { 0 });
                count += 1;
                if let Ok(event) = Event::parse(raw) {
                    out.write_all(with_time(&event, nano).as_bytes())?;
                    return out.write_all(b"\n");
                }
            }
            out.write_all(raw)?;
            out.write_all(b"\n")
        })?;
        Ok(out.flush()?)
    }
}

/// Waits for this time, or until the reader of stdout closes it: the next event may be hours away.
fn wait_unless_closed(mut remaining: Duration) -> io::Result<()> {
    let start = Instant::now();
    let total = remaining;
    let stdout = io::stdout();
    while !remaining.is_zero() {
        let timeout = Timespec::try_from(remaining).unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 });
        // Without requested events, poll reports only errors.
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(e) => return Err(e.into()),
        }
        remaining = total.saturating_sub(start.elapsed());
    }
    Ok(())
}
