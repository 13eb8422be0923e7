//! Detects rejected lines that are stored already. Events need no such check: the writer compares their identities.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::cli::Failure;
use crate::store::{Reader, Rejection};

/// Key that is equal for equal rejected lines.
pub(super) type RejectionKey = u128;

/// Key of a line of a file: the source, the bytes, and the error, which contains the file name and line number.
pub(super) fn file_key(source: &str, Rejection { bytes, error }: &Rejection) -> RejectionKey {
    hash_parts(&[source.as_bytes(), error.as_bytes(), bytes])
}

/// Key of a line of a stream: the time of arrival, the bytes and the error.
pub(super) fn stream_key(received_nano: i64, Rejection { bytes, error }: &Rejection) -> RejectionKey {
    hash_parts(&[&received_nano.to_le_bytes(), error.as_bytes(), bytes])
}

fn hash_parts(parts: &[&[u8]]) -> RejectionKey {
    let all = parts.iter().flat_map(|part| [&(part.len() as u64).to_le_bytes()[..], part].concat());
    xxh3_128(&all.collect::<Vec<u8>>())
}

/// Keys of the rejected lines of a store.
pub(super) struct StoredRejections {
    path: PathBuf,
    /// Read at the first lookup.
    keys: Option<HashSet<RejectionKey>>,
}

impl StoredRejections {
    pub(super) fn new(path: &Path) -> StoredRejections {
        StoredRejections { path: path.into(), keys: None }
    }

    /// Path of the store.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the key of a line. Returns true if the line was not stored yet.
    pub(super) fn insert(&mut self, key: RejectionKey) -> Result<bool, Failure> {
        let keys = match &mut self.keys {
            Some(keys) => keys,
            None => self.keys.insert(read_keys(&self.path)?),
        };
        Ok(keys.insert(key))
    }
}

fn read_keys(path: &Path) -> Result<HashSet<RejectionKey>, Failure> {
    let mut keys = HashSet::new();
    let _ = Reader::open(path)?.rejected(|row| {
        let rejection = Rejection { bytes: row.bytes.into(), error: row.error };
        keys.extend([file_key(&row.source, &rejection), stream_key(row.received_nano, &rejection)]);
        ControlFlow::<()>::Continue(())
    })?;
    Ok(keys)
}
