//! Recomputes the hash chain from its entries, and compares it with the stored links and with expected heads.

use std::collections::BTreeMap;

use super::fault::{Fault, FaultLog};
use crate::store::format::chain::{self, Entry, GENESIS_HASH, Hash, Head};
use crate::store::ids::Seq;

/// The recomputed chain.
pub(super) struct ChainCheck {
    /// Hash after the last entry.
    hash: Hash,
    /// Number of entries.
    entries: u64,
    /// Sequence of the last stored link.
    last_link_seq: Seq,
    suspect: Option<SuspectLink>,
    /// Expected heads that were not reached yet, by sequence.
    expected_heads: BTreeMap<Seq, Vec<Hash>>,
}

/// A link that does not match. The next link shows whether the entries before it were changed, or the link itself.
struct SuspectLink {
    first: Seq,
    last: Seq,
    /// The chain computed from the entries, continued past the link.
    hash: Hash,
}

impl ChainCheck {
    pub(super) fn new(expected_heads: &[Head]) -> Self {
        let mut by_seq: BTreeMap<Seq, Vec<Hash>> = BTreeMap::new();
        for head in expected_heads {
            by_seq.entry(Seq(head.seq)).or_default().push(head.hash);
        }
        ChainCheck { hash: GENESIS_HASH, entries: 0, last_link_seq: Seq(0), suspect: None, expected_heads: by_seq }
    }

    /// Begins after the pruned part of the chain.
    pub(super) fn begin(&mut self, checkpoint: Head) {
        (self.hash, self.last_link_seq) = (checkpoint.hash, Seq(checkpoint.seq));
        (self.entries, self.suspect) = (0, None);
    }

    /// Number of entries.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Appends an entry.
    pub(super) fn append(&mut self, entry: Entry<'_>) {
        self.hash = chain::link(&self.hash, entry);
        if let Some(suspect) = &mut self.suspect {
            suspect.hash = chain::link(&suspect.hash, entry);
        }
        self.entries += 1;
    }

    /// Compares a stored link, `None` if it is not a hash, with the recomputed chain.
    pub(super) fn check_link(&mut self, seq: Seq, stored: Option<Hash>, faults: &mut FaultLog<'_>) {
        let first = self.last_link_seq + 1;
        self.last_link_seq = seq;
        let entry_reported = faults.take_entry_reported();
        let Some(stored) = stored else {
            return faults.report(Fault::Row { table: "link", row: seq.0, problem: "the link is not a hash".into() });
        };
        let computed = std::mem::replace(&mut self.hash, stored);
        if let Some(suspect) = self.suspect.take() {
            if computed != stored && suspect.hash == stored {
                return faults.report(Fault::Row {
                    table: "link",
                    row: suspect.last.0,
                    problem: "the link was changed".into(),
                });
            }
            faults.report(Fault::Changed { first: suspect.first.0, last: suspect.last.0 });
        }
        if computed != stored && !entry_reported {
            self.suspect = Some(SuspectLink { first, last: seq, hash: computed });
        }
    }

    /// Reports the last link if it does not match: no later link shows whether the link itself was changed.
    pub(super) fn resolve_suspect(&mut self, faults: &mut FaultLog<'_>) {
        if let Some(SuspectLink { first, last, .. }) = self.suspect.take() {
            faults.report(Fault::Changed { first: first.0, last: last.0 });
        }
    }

    /// Compares the expected heads of a sequence with the chain.
    pub(super) fn check_expected_heads(&mut self, seq: Seq, faults: &mut FaultLog<'_>) {
        let actual = self.hash;
        for hash in self.expected_heads.remove(&seq).into_iter().flatten().filter(|expected| *expected != actual) {
            faults.report(Fault::HeadMismatch { expected: Head { seq: seq.0, hash }, found: Some(actual) });
        }
    }

    /// Reports the expected heads that the chain did not reach, or that were pruned up to `checkpoint`.
    pub(super) fn report_unreached_heads(&mut self, checkpoint: Head, faults: &mut FaultLog<'_>) {
        for (seq, hashes) in std::mem::take(&mut self.expected_heads) {
            for hash in hashes {
                let expected = Head { seq: seq.0, hash };
                faults.report(if seq.0 < checkpoint.seq {
                    Fault::Pruned { expected, last_seq: checkpoint.seq }
                } else {
                    Fault::HeadMismatch { expected, found: None }
                });
            }
        }
    }
}
