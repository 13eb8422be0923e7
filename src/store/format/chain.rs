//! The hash chain over all entries of the store.
//!
//! Each link covers the previous link and the sequence, the source and the exact bytes of an entry. This module only
//! computes links; it does not know SQL.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use crate::store::ids::{Nanos, Seq};
use sha2::{Digest, Sha256};

/// Chain link: the hash of everything up to and including an entry.
pub(in crate::store) type Hash = [u8; 32];

/// Link before the first entry.
pub(in crate::store) const GENESIS_HASH: Hash = [0; 32];

/// Head of the chain: a sequence and the link after its entry. Written `SEQ:HASH`, with lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Sequence of the entry; 0 before the first entry.
    pub seq: i64,
    /// Hash of everything up to and including the entry.
    pub hash: [u8; 32],
}

impl Display for Head {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.seq)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Error for a text that is not a [`Head`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a chain head: expected SEQ:HASH, a number and 64 lower-case hexadecimal digits")]
pub struct ParseHeadError(String);

impl FromStr for Head {
    type Err = ParseHeadError;

    fn from_str(text: &str) -> Result<Self, ParseHeadError> {
        let parse = || {
            let (seq, digits) = text.split_once(':')?;
            if !seq.bytes().all(|byte| byte.is_ascii_digit()) || digits.len() != 64 {
                return None;
            }
            let hex_digit = |byte: u8| match byte {
                b'0'..=b'9' => Some(byte - b'0'),
                b'a'..=b'f' => Some(byte - b'a' + 10),
                _ => None,
            };
            let mut hash = [0; 32];
            for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
                *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
            }
            Some(Head { seq: seq.parse().ok()?, hash })
        };
        parse().ok_or_else(|| ParseHeadError(text.into()))
    }
}

/// Kind of an entry; each kind has its own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum EntryKind {
    Event = 1,
    Gap = 2,
    Rejected = 3,
    SourceName = 4,
    Checkpoint = 5,
    Healthcheck = 6,
}

/// Entry of the chain.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Entry<'a> {
    pub(in crate::store) kind: EntryKind,
    pub(in crate::store) seq: Seq,
    /// ID of the engine, or the name of an import.
    pub(in crate::store) source: &'a str,
    /// Everything that is printed of the entry. For an event: its time of arrival and the SHA-256 of its bytes, then
    /// [`HEALTHCHECK_MARKER`] if the event has the health-check flag.
    pub(in crate::store) fields: &'a [&'a [u8]],
}

/// Last field of an event that has the health-check flag.
pub(in crate::store) const HEALTHCHECK_MARKER: &[u8] = b"healthcheck";

/// Content of a checkpoint: the chain up to `pruned_head` is pruned.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct CheckpointFields {
    pub(in crate::store) pruned_head: Head,
    /// Number of events that were ever pruned.
    pub(in crate::store) events: i64,
    pub(in crate::store) created_nano: Nanos,
}

impl CheckpointFields {
    /// Returns the fields of the entry.
    pub(in crate::store) fn encode(&self) -> [Vec<u8>; 4] {
        [
            self.pruned_head.seq.to_le_bytes().into(),
            self.pruned_head.hash.into(),
            self.events.to_le_bytes().into(),
            self.created_nano.0.to_le_bytes().into(),
        ]
    }
}

/// Content of a gap: its state from this entry on. Without a reason, the gap is withdrawn.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct GapFields<'a> {
    pub(in crate::store) from: Option<Nanos>,
    pub(in crate::store) to: Option<Nanos>,
    pub(in crate::store) reason: Option<&'a str>,
    pub(in crate::store) detail: Option<&'a str>,
}

impl GapFields<'_> {
    /// Returns the fields of the entry.
    pub(in crate::store) fn encode(&self) -> [Vec<u8>; 4] {
        let instant = |instant: Option<Nanos>| instant.map_or(Vec::new(), |instant| instant.0.to_le_bytes().into());
        let text = |text: Option<&str>| text.unwrap_or_default().as_bytes().to_vec();
        [instant(self.from), instant(self.to), text(self.reason), text(self.detail)]
    }
}

/// Returns the link that follows `previous`.
pub(in crate::store) fn link(previous: &Hash, entry: Entry<'_>) -> Hash {
    let mut hash = Sha256::new();
    hash.update(previous);
    let mut head = [0; 17];
    head[0] = entry.kind as u8;
    head[1..9].copy_from_slice(&entry.seq.0.to_le_bytes());
    head[9..].copy_from_slice(&(entry.source.len() as u64).to_le_bytes());
    hash.update(head);
    hash.update(entry.source);
    for field in entry.fields {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}
