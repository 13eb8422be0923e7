//! The hash chain: each link covers the one before, the sequence, the source and the exact bytes of an entry.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// A link: the hash of everything up to and with an entry.
pub(super) type Hash = [u8; 32];

/// What the chain begins with.
pub(super) const BEGINNING: Hash = [0; 32];

/// A place in the chain: the hash after the entry of a sequence. Written `SEQ:HASH`, in lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sequence of the entry; 0 before the first.
    pub seq: i64,
    /// The hash of everything up to and with it.
    pub hash: [u8; 32],
}

impl Display for Head {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.seq)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no [`Head`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no head: it is written SEQ:HASH, a number and 64 lower-case hexadecimal digits")]
pub struct NoHead(String);

impl FromStr for Head {
    type Err = NoHead;

    fn from_str(text: &str) -> Result<Self, NoHead> {
        let read = || {
            let (seq, digits) = text.split_once(':')?;
            if !seq.bytes().all(|byte| byte.is_ascii_digit()) || digits.len() != 64 {
                return None;
            }
            let value = |byte: u8| match byte {
                b'0'..=b'9' => Some(byte - b'0'),
                b'a'..=b'f' => Some(byte - b'a' + 10),
                _ => None,
            };
            let mut hash = [0; 32];
            for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
                *byte = value(pair[0])? << 4 | value(pair[1])?;
            }
            Some(Head { seq: seq.parse().ok()?, hash })
        };
        read().ok_or_else(|| NoHead(text.into()))
    }
}

/// Which table an entry stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Event = 1,
    Gap = 2,
    Rejected = 3,
    Naming = 4,
    Seal = 5,
    Healthcheck = 6,
}

/// One entry of the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    pub(super) seq: i64,
    /// The engine's own ID, or the name of an import.
    pub(super) source: &'a str,
    /// What is printed of it: for an event when it was read and the SHA-256 of its bytes, and [`MARK`] if it is marked
    /// as that of a health check.
    pub(super) fields: &'a [&'a [u8]],
}

/// The last of the fields of an event that is marked as that of a health check.
pub(super) const MARK: &[u8] = b"healthcheck";

/// The fields of a seal.
pub(super) fn seal_fields(upto: Head, events: i64, sealed_nano: i64) -> [Vec<u8>; 4] {
    [upto.seq.to_le_bytes().into(), upto.hash.into(), events.to_le_bytes().into(), sealed_nano.to_le_bytes().into()]
}

/// The fields of a gap.
pub(super) fn gap_fields(
    (from, to): (Option<i64>, Option<i64>),
    reason: Option<&str>,
    detail: Option<&str>,
) -> [Vec<u8>; 4] {
    let instant = |instant: Option<i64>| instant.map_or(Vec::new(), |instant| instant.to_le_bytes().into());
    let text = |text: Option<&str>| text.unwrap_or_default().as_bytes().to_vec();
    [instant(from), instant(to), text(reason), text(detail)]
}

/// The link after `before`.
pub(super) fn link(before: &Hash, entry: Entry<'_>) -> Hash {
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
