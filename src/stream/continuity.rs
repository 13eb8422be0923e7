//! Was anything missed between the last event seen and what an engine says now?
//!
//! An engine keeps its last 256 events in memory and numbers none of them. So the proof that nothing was missed is
//! that the last event seen is still in that memory: all that came after it is then there too. On every contact the
//! stream is opened first, from the beginning of the memory, and the memory is asked for a second time beside it: that
//! answer ends, and so tells what the open stream cannot, where the memory ends and how long it is.
//!
//! Knows identities of events only; reads no clock.

use std::collections::HashSet;

use crate::event::Identity;

/// How many events an engine remembers (moby `daemon/events`, all versions measured).
pub const MEMORY: usize = 256;

/// What a new contact with an engine showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No event of this engine was ever seen before.
    FirstContact {
        /// The instant of the oldest event it remembers, if it remembers any.
        to: Option<i64>,
    },
    /// The last event seen is still remembered: nothing was missed.
    Proven,
    /// The last event seen is gone, and the memory was not full: the engine began anew.
    Restarted {
        /// The instant of the oldest event it remembers, if it remembers any.
        to: Option<i64>,
    },
    /// The last event seen is gone, and the memory was full: it was pushed out.
    Overrun {
        /// The instant of the oldest event it remembers.
        to: Option<i64>,
    },
}

#[derive(Debug)]
enum Memory {
    Asked,
    Unknown,
    Told(Vec<Identity>),
}

/// Gathers what a contact shows until it can be judged.
#[derive(Debug)]
pub struct Continuity {
    last_seen: Option<Identity>,
    memory: Memory,
    first: Option<Identity>,
    came: HashSet<Identity>,
}

impl Continuity {
    /// A new contact; `last_seen` is the last event seen from this engine before it.
    pub fn new(last_seen: Option<Identity>) -> Self {
        Continuity { last_seen, memory: Memory::Asked, first: None, came: HashSet::new() }
    }

    /// The stream, opened from the beginning of the memory, has brought an event.
    pub fn stream_brought(&mut self, event: Identity) {
        self.first.get_or_insert(event);
        self.came.insert(event);
    }

    /// The memory, asked for after the stream was opened, oldest first.
    pub fn memory_told(&mut self, events: Vec<Identity>) {
        self.memory = Memory::Told(events);
    }

    /// The memory could not be had.
    pub fn memory_unknown(&mut self) {
        self.memory = Memory::Unknown;
    }

    /// Whether the stream alone is left to judge by.
    pub fn lacks_memory(&self) -> bool {
        matches!(self.memory, Memory::Unknown)
    }

    /// What can be said by now; `None` while the stream must bring more first.
    ///
    /// A verdict comes no sooner than the stream has caught up with the last event seen, or with the memory told, so
    /// that from then on each event it brings is the last one seen.
    pub fn verdict(&self) -> Option<Verdict> {
        let Some(last_seen) = self.last_seen else {
            let known = self.first.is_some() || matches!(self.memory, Memory::Told(_));
            return known.then(|| self.conclude());
        };
        let caught_up = match &self.memory {
            _ if self.came.contains(&last_seen) => true,
            Memory::Asked => false,
            Memory::Unknown => self.came.len() >= MEMORY,
            Memory::Told(events) if events.contains(&last_seen) => false,
            Memory::Told(events) => events.last().is_none_or(|newest| self.came.contains(newest)),
        };
        caught_up.then(|| self.conclude())
    }

    /// What can be said when no more is waited for.
    pub fn conclude(&self) -> Verdict {
        let told: &[Identity] = if let Memory::Told(events) = &self.memory { events } else { &[] };
        let to = self.first.or(told.first().copied()).map(|event| event.time_nano);
        let Some(last_seen) = self.last_seen else {
            return Verdict::FirstContact { to };
        };
        let length = match &self.memory {
            Memory::Told(events) => events.len(),
            Memory::Asked | Memory::Unknown => self.came.len(),
        };
        if self.came.contains(&last_seen) || told.contains(&last_seen) {
            Verdict::Proven
        } else if length < MEMORY {
            Verdict::Restarted { to }
        } else {
            Verdict::Overrun { to }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: i64) -> Identity {
        Identity { time_nano: n, digest: [0; 16] }
    }

    fn ids(range: std::ops::Range<i64>) -> Vec<Identity> {
        range.map(id).collect()
    }

    #[test]
    fn the_last_event_seen_comes_back() {
        let mut c = Continuity::new(Some(id(5)));
        for event in ids(1..5) {
            c.stream_brought(event);
            assert_eq!(c.verdict(), None);
        }
        c.stream_brought(id(5));
        assert_eq!(c.verdict(), Some(Verdict::Proven));
    }

    #[test]
    fn a_memory_that_holds_it_is_waited_for() {
        let mut c = Continuity::new(Some(id(5)));
        c.memory_told(ids(1..9));
        assert_eq!(c.verdict(), None);
        assert_eq!(c.conclude(), Verdict::Proven);
    }

    #[test]
    fn a_short_memory_without_it_is_a_restart() {
        let mut c = Continuity::new(Some(id(5)));
        c.memory_told(ids(10..12));
        assert_eq!(c.verdict(), None, "the stream must bring the memory first");
        c.stream_brought(id(10));
        assert_eq!(c.verdict(), None);
        c.stream_brought(id(11));
        assert_eq!(c.verdict(), Some(Verdict::Restarted { to: Some(10) }));

        let mut c = Continuity::new(Some(id(5)));
        c.memory_told(Vec::new());
        assert_eq!(c.verdict(), Some(Verdict::Restarted { to: None }));
    }

    #[test]
    fn a_full_memory_without_it_is_an_overrun() {
        let mut c = Continuity::new(Some(id(5)));
        c.memory_told(ids(10..266));
        ids(9..265).into_iter().for_each(|event| c.stream_brought(event));
        assert_eq!(c.verdict(), None);
        c.stream_brought(id(265));
        assert_eq!(c.verdict(), Some(Verdict::Overrun { to: Some(9) }));
    }

    #[test]
    fn without_the_memory_the_stream_alone_is_judged() {
        let mut c = Continuity::new(Some(id(5)));
        c.memory_unknown();
        ids(10..265).into_iter().for_each(|event| c.stream_brought(event));
        assert_eq!(c.verdict(), None);
        assert_eq!(c.conclude(), Verdict::Restarted { to: Some(10) });
        c.stream_brought(id(265));
        assert_eq!(c.verdict(), Some(Verdict::Overrun { to: Some(10) }));
    }

    #[test]
    fn the_first_contact_needs_no_proof() {
        let mut c = Continuity::new(None);
        assert_eq!(c.verdict(), None);
        c.memory_told(Vec::new());
        assert_eq!(c.verdict(), Some(Verdict::FirstContact { to: None }));
        let mut c = Continuity::new(None);
        c.stream_brought(id(3));
        assert_eq!(c.verdict(), Some(Verdict::FirstContact { to: Some(3) }));
    }

    proptest! {
        /// Whatever happened meanwhile and however the two answers interleave: an event that the engine no longer
        /// holds is never called seen, and one that it holds is never called lost.
        #[test]
        fn the_verdict_is_the_truth(
            restarted: bool, meanwhile in 0i64..600, between in 0i64..20, order in proptest::collection::vec(any::<bool>(), 0..40),
        ) {
            // Events 1..=1000 went before, 1000 is the last one seen; `meanwhile` more came before the stream was opened,
            // `between` more between that and the asking for the memory.
            let oldest = if restarted { 1001 } else { 1 };
            let ring = |newest: i64| ids(oldest.max(newest - 255)..newest + 1);
            let at_open = 1000 + meanwhile;
            let mut stream = ring(at_open);
            stream.extend(ids(at_open + 1..at_open + between + 1));
            let held = stream.contains(&id(1000));
            let memory = ring(at_open + between);
            let full = memory.len() == MEMORY;
            let mut c = Continuity::new(Some(id(1000)));
            let mut stream = stream.into_iter();
            let mut memory = Some(memory);
            let mut order = order.into_iter();
            let verdict = loop {
                if let Some(verdict) = c.verdict() {
                    break verdict;
                }
                if order.next().unwrap_or(true) && let Some(memory) = memory.take() {
                    c.memory_told(memory);
                } else if let Some(event) = stream.next() {
                    c.stream_brought(event);
                } else if memory.is_none() {
                    prop_assert!(false, "no verdict though all has come");
                }
            };
            match verdict {
                Verdict::Proven => prop_assert!(held),
                Verdict::Restarted { .. } => prop_assert!(!held && !full),
                Verdict::Overrun { .. } => prop_assert!(!held && full),
                Verdict::FirstContact { .. } => prop_assert!(false),
            }
        }
    }
}
