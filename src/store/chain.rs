//! The hash chain: each link covers the one before, the sequence, the source and the exact bytes of an entry.

use sha2::{Digest, Sha256};

/// A link: the hash of everything up to and with an entry.
pub(super) type Hash = [u8; 32];

/// What the chain begins with.
pub(super) const BEGINNING: Hash = [0; 32];

/// Which table an entry stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Event = 1,
    Gap = 2,
    Rejected = 3,
}

/// One entry of the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    pub(super) seq: i64,
    /// The engine's own ID, or the name of an import.
    pub(super) source: &'a str,
    /// What is printed of it: for an event when it was read and the SHA-256 of its bytes.
    pub(super) fields: &'a [&'a [u8]],
}

/// The link after `before`.
pub(super) fn link(before: &Hash, entry: Entry) -> Hash {
    let mut hash = Sha256::new();
    hash.update(before);
    let mut head = [0; 17];
    head[0] = entry.kind as u8;
    head[1..9].copy_from_slice(&entry.seq.to_le_bytes());
    head[9..].copy_from_slice(&(entry.source.len() as u64).to_le_bytes());
    hash.update(head);
    hash.update(entry.source);
    for field in entry.fields {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}
