//! The second look: what the engine remembers is held against what its stream has brought.
//!
//! Two memories, one after the other, that share an event prove that nothing lies between them, whatever the stream left
//! out. Where more happened in between than an engine remembers, an event that it remembers and its stream passed over
//! shows that it leaves out events, and then nothing is proven of those in between. Knows marks; reads no clock.

use std::collections::HashSet;

use super::memory::Memory;
use crate::event::Mark;

/// How many of the events that came last are known at least: more than can come while a memory is on its way.
const KEPT: usize = 8192;

/// How many newer events the stream must have brought to have passed a memory: what happens at once may come in another
/// order.
const NEWER: usize = 32;

/// The events that came last.
#[derive(Debug, Default)]
pub(super) struct Came {
    young: HashSet<Mark>,
    old: HashSet<Mark>,
}

impl Came {
    pub(super) fn insert(&mut self, event: Mark) {
        if self.young.len() == KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(event);
    }

    fn contains(&self, event: &Mark) -> bool {
        self.young.contains(event) || self.old.contains(event)
    }
}

/// A memory told, while the stream may still bring what is in it.
#[derive(Debug)]
pub(super) struct Look {
    /// The newest event of the memory before: all up to it is known.
    pub(super) since: Option<Mark>,
    pub(super) memory: Memory,
    members: HashSet<Mark>,
    /// The stream has brought some of it.
    entered: bool,
    /// How many the stream has brought that are newer.
    newer: usize,
    /// The stream has brought something since the memory was told.
    pub(super) stirred: bool,
    /// What is to be stored of the memory, if the stream had not brought all of it when it was told.
    pub(super) wanted: Vec<Mark>,
}

impl Look {
    /// `last` is the event that the stream brought last.
    pub(super) fn new(since: Option<Mark>, memory: Memory, came: &Came, last: Option<Mark>) -> Look {
        let members: HashSet<Mark> = memory.marks.iter().copied().collect();
        let entered = members.iter().any(|event| came.contains(event));
        let newer = usize::from(entered && last.is_some_and(|last| !members.contains(&last)));
        Look { since, memory, members, entered, newer, stirred: false, wanted: Vec::new() }
    }

    /// The stream has brought an event.
    pub(super) fn came(&mut self, event: &Mark) {
        let member = self.members.contains(event);
        self.newer += usize::from(self.entered && !member);
        self.entered |= member;
        self.stirred = true;
    }

    /// Whether nothing lies between this memory and the one before.
    pub(super) fn overlaps(&self) -> bool {
        self.since.is_none_or(|since| self.members.contains(&since))
    }

    /// Whether the stream has nothing of this memory still to bring.
    pub(super) fn is_caught_up(&self, came: &Came) -> bool {
        self.newer >= NEWER || self.memory.marks.last().is_none_or(|newest| came.contains(newest))
    }

    /// What the stream, when it has caught up, has left out of what is to be stored.
    pub(super) fn left_out(&self, came: &Came) -> HashSet<Mark> {
        self.wanted.iter().filter(|event| !came.contains(event)).copied().collect()
    }

    /// Whether the stream, when it has caught up, has left something out.
    pub(super) fn shows_loss(&self, came: &Came) -> bool {
        self.members.iter().any(|event| !came.contains(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::continuity::MEMORY;
    use proptest::prelude::*;

    fn id(n: i64) -> Mark {
        Mark { time_nano: n, hash: 0 }
    }

    fn memory(newest: i64) -> Memory {
        let marks = ((newest - MEMORY as i64 + 1).max(0)..=newest).map(id).collect();
        Memory { marks, ..Memory::default() }
    }

    #[test]
    fn what_came_last_is_known_and_what_came_long_ago_is_forgotten() {
        let mut came = Came::default();
        (0..KEPT as i64 * 5).for_each(|n| came.insert(id(n)));
        assert!((KEPT as i64 * 4..KEPT as i64 * 5).all(|n| came.contains(&id(n))));
        assert!(!came.contains(&id(0)));
    }

    proptest! {
        /// Events 0.. happen; the stream leaves some out; the engine is asked at one instant and then at another. No loss is
        /// passed over in silence that the memory can show, and none is made up.
        #[test]
        fn a_loss_that_shows_is_seen_and_none_is_made_up(
            first in 0i64..400, more in 1i64..900, lag in 0i64..600,
            left_out in proptest::collection::hash_set(0i64..1300, 0..4),
        ) {
            let newest = first + more;
            let heard = |n: &i64| !left_out.contains(n);
            let mut came = Came::default();
            let behind = (newest - lag).max(0);
            let before: Vec<i64> = (0..=behind).filter(heard).collect();
            before.iter().for_each(|n| came.insert(id(*n)));
            let mut look = Look::new(Some(id(first)), memory(newest), &came, before.last().map(|n| id(*n)));
            let mut after = (behind + 1..newest + 300).filter(heard);
            while !look.is_caught_up(&came) {
                let Some(next) = after.next() else { break };
                came.insert(id(next));
                look.came(&id(next));
            }
            prop_assert!(look.is_caught_up(&came));
            let oldest = (newest - 255).max(0);
            prop_assert_eq!(look.overlaps(), first >= oldest);
            let lost = (oldest..=newest).any(|n| !heard(&n));
            prop_assert_eq!(look.shows_loss(&came), lost);
        }
    }
}
