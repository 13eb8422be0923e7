//! Compares how many events came with how many the engine counted, so that what it dropped beyond its memory is no
//! secret.
//!
//! The engine counts an event, then remembers it, then sends it; nothing says which number an event has. So the counter
//! is read before and behind the memory: what came must be at least as many as were counted before. What is missing must
//! still be missing at the next look, as an event that is counted can be a moment on its way. Reads no clock.

use std::collections::HashSet;

use crate::event::Identity;

/// So many events between two looks that could be compared are too many to be kept apart; then it begins anew.
const MOST: usize = 1_000_000;

/// What an engine counted before and behind its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) before: u64,
    pub(super) behind: u64,
}

/// What the engine dropped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    /// The last instant up to which all came.
    pub(super) from: i64,
    /// The instant of the newest event when it was missing.
    pub(super) to: i64,
    /// How many were counted in between, and how many of them came.
    pub(super) counted: u64,
    pub(super) came: u64,
}

/// What came since all was known to have come.
#[derive(Debug, Default)]
pub(super) struct Tally {
    since: Option<Since>,
}

#[derive(Debug)]
struct Since {
    /// What the counter said then; at most that, if it moved while it was read.
    counter: u64,
    /// How many events came since then.
    came: u64,
    /// Which of them may come again: those the engine remembered at the last look, and what came since.
    recent: HashSet<Identity>,
    /// The last instant up to which all came.
    complete: i64,
    missing: Option<Dropped>,
}

impl Tally {
    /// What came before proves nothing of what comes.
    pub(super) fn begin_anew(&mut self) {
        self.since = None;
    }

    /// The stream has brought an event.
    pub(super) fn came(&mut self, event: Identity) {
        let Some(since) = &mut self.since else { return };
        since.came += u64::from(since.recent.insert(event));
        if since.recent.len() > MOST {
            self.since = None;
        }
    }

    /// The engine was asked for what it remembers, and the stream has caught up with that; `came` is what it brought
    /// since the asking began. What is missing for good, if that is known now.
    pub(super) fn looked(
        &mut self,
        counted: Counted,
        memory: &[Identity],
        came: &HashSet<Identity>,
    ) -> Option<Dropped> {
        let newest = memory.last()?.time_nano;
        let remembered: HashSet<Identity> = memory.iter().copied().collect();
        let recent: HashSet<Identity> = came.union(&remembered).copied().collect();
        // Behind the memory, or so many ago that they are not in it: as many may have been counted since.
        let behind = (recent.len() - remembered.len()) as u64;
        let is_still = counted.before == counted.behind && behind == 0;
        let anew = |recent| Since { counter: counted.behind, came: behind, recent, complete: newest, missing: None };
        // A counter that went back is that of an engine that began anew.
        let Some(since) = self.since.as_mut().filter(|since| counted.before >= since.counter) else {
            self.since = Some(anew(recent));
            return None;
        };
        since.came += remembered.iter().filter(|event| !since.recent.contains(event)).count() as u64;
        since.recent = recent;
        let total = counted.before - since.counter;
        let missing = total.saturating_sub(since.came);
        if missing == 0 {
            since.missing = None;
            if is_still {
                *since = anew(std::mem::take(&mut since.recent));
            }
            return None;
        }
        let now = Dropped { from: since.complete, to: newest, counted: total, came: since.came };
        let before = since.missing.replace(now)?;
        let lost = missing.min(before.counted - before.came);
        if missing > lost && newest == before.to {
            // More of the same stretch: told together, once it is no longer growing.
            return None;
        }
        let came = before.counted - lost;
        since.counter += before.counted;
        since.came -= came;
        since.complete = before.to;
        since.missing = (missing > lost).then_some(Dropped {
            from: before.to,
            to: newest,
            counted: total - before.counted,
            came: since.came,
        });
        Some(Dropped { came, ..before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::continuity::MEMORY;
    use proptest::prelude::*;

    /// An engine, and what is seen of it. Events are called by their numbers.
    #[derive(Default)]
    struct Life {
        published: i64,
        /// Counted, and not remembered yet.
        under_way: Vec<i64>,
        ring: Vec<i64>,
        seen: HashSet<i64>,
        tally: Tally,
        dropped: Vec<Dropped>,
    }

    fn id(n: i64) -> Identity {
        Identity { time_nano: n, digest: [0; 16] }
    }

    impl Life {
        fn counts(&mut self) {
            self.published += 1;
            self.under_way.push(self.published);
        }

        /// What was counted is remembered, and sent; a subscriber takes it or not.
        fn tells(&mut self, heard: bool, came: &mut HashSet<Identity>) {
            for n in std::mem::take(&mut self.under_way) {
                self.ring.push(n);
                if heard {
                    self.seen.insert(n);
                    self.tally.came(id(n));
                    came.insert(id(n));
                }
            }
            let over = self.ring.len().saturating_sub(MEMORY);
            self.ring.drain(..over);
        }

        /// Events in a row, heard or not.
        fn run(&mut self, number: usize, heard: bool) {
            for _ in 0..number {
                self.counts();
                self.tells(heard, &mut HashSet::new());
            }
        }

        /// A look; so many events are counted and sent before, while and after the memory is told.
        fn looks(&mut self, meanwhile: [usize; 3], counted_only: bool) {
            let mut came = HashSet::new();
            let during = |life: &mut Life, number: usize, came: &mut HashSet<Identity>| {
                for _ in 0..number {
                    life.counts();
                    life.tells(true, came);
                }
            };
            if counted_only {
                self.counts();
            }
            during(self, meanwhile[0] * usize::from(!counted_only), &mut came);
            let before = self.published as u64;
            during(self, meanwhile[1] * usize::from(!counted_only), &mut came);
            let memory: Vec<Identity> = self.ring.iter().map(|n| id(*n)).collect();
            self.seen.extend(self.ring.iter());
            let behind = self.published as u64;
            self.tells(true, &mut came);
            during(self, meanwhile[2], &mut came);
            self.dropped.extend(self.tally.looked(Counted { before, behind }, &memory, &came));
        }

        fn lost(&self) -> u64 {
            self.published as u64 - self.seen.len() as u64
        }

        fn told(&self) -> u64 {
            self.dropped.iter().map(|dropped| dropped.counted - dropped.came).sum()
        }
    }

    #[test]
    fn what_is_dropped_beyond_the_memory_is_told_at_the_next_look() {
        let mut life = Life::default();
        life.run(10, true);
        life.looks([0; 3], false);
        life.run(100, true);
        life.looks([0; 3], false);
        life.run(300, false);
        life.looks([0; 3], false);
        assert_eq!(life.dropped, []);
        life.run(1, true);
        life.looks([0; 3], false);
        assert_eq!(life.dropped, [Dropped { from: 110, to: 410, counted: 300, came: 256 }]);
        life.looks([0; 3], false);
        assert_eq!((life.dropped.len(), life.lost()), (1, 44));
    }

    #[test]
    fn what_is_found_to_be_missing_of_one_stretch_in_two_looks_is_told_once() {
        let mut life = Life::default();
        life.run(1, true);
        life.looks([0; 3], false);
        life.run(253, false);
        // While the memory is told the counter moves on, so that less seems to be missing than is.
        life.looks([4, 7, 0], false);
        (0..3).for_each(|_| life.looks([0; 3], false));
        assert_eq!(life.dropped, [Dropped { from: 1, to: 265, counted: 264, came: 256 }]);
    }

    #[test]
    fn a_counter_that_goes_back_begins_anew() {
        let mut life = Life::default();
        life.run(1000, true);
        life.looks([0; 3], false);
        let memory = [id(1), id(2)];
        for counter in [2, 2, 2] {
            let counted = Counted { before: counter, behind: counter };
            assert_eq!(life.tally.looked(counted, &memory, &HashSet::new()), None);
        }
    }

    proptest! {
        #[test]
        fn no_more_is_told_than_was_lost_and_in_the_end_no_less(
            steps in prop::collection::vec(
                prop_oneof![
                    (0usize..400, any::<bool>()).prop_map(|(number, heard)| (Some((number, heard)), [0; 3], false)),
                    (prop::array::uniform3(0usize..300), any::<bool>()).prop_map(|(during, only)| (None, during, only)),
                ],
                0..30,
            )
        ) {
            let mut life = Life::default();
            life.run(1, true);
            life.looks([0; 3], false);
            for (run, during, counted_only) in steps {
                match run {
                    Some((number, heard)) => life.run(number, heard),
                    None => life.looks(during, counted_only),
                }
                prop_assert!(life.told() <= life.lost(), "{:?} of {}", life.dropped, life.lost());
            }
            life.looks([0; 3], false);
            life.looks([0; 3], false);
            life.looks([0; 3], false);
            prop_assert_eq!(life.told(), life.lost());
            prop_assert!(life.dropped.is_sorted_by(|a, b| a.from < a.to && a.to <= b.from));
        }
    }
}
