//! Which rejected lines are stored already: events tell themselves apart, lines that are none do not.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::commands::Failure;
use crate::store::{Reader, Rejection};

/// What makes two rejected lines the same.
pub(super) type Key = u128;

/// A line of a file: of one source, with the same bytes, from the same place of a file of that name.
pub(super) fn of_file(source: &str, Rejection { bytes, error }: &Rejection) -> Key {
    key(&[source.as_bytes(), error.as_bytes(), bytes])
}

/// A line that came down a stream: with the same bytes, at the same instant.
pub(super) fn of_stream(received_nano: i64, Rejection { bytes, error }: &Rejection) -> Key {
    key(&[&received_nano.to_le_bytes(), error.as_bytes(), bytes])
}

fn key(parts: &[&[u8]]) -> Key {
    let all = parts.iter().flat_map(|part| [&(part.len() as u64).to_le_bytes()[..], part].concat());
    xxh3_128(&all.collect::<Vec<u8>>())
}

/// The rejected lines of a store.
pub(super) struct Known {
    path: PathBuf,
    /// Read when the first is asked for.
    lines: Option<HashSet<Key>>,
}

impl Known {
    pub(super) fn of(path: &Path) -> Known {
        Known { path: path.into(), lines: None }
    }

    /// The store.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a line is not stored; it then counts as stored.
    pub(super) fn is_new(&mut self, key: Key) -> Result<bool, Failure> {
        let lines = match &mut self.lines {
            Some(lines) => lines,
            None => self.lines.insert(read(&self.path)?),
        };
        Ok(lines.insert(key))
    }
}

fn read(path: &Path) -> Result<HashSet<Key>, Failure> {
    let mut lines = HashSet::new();
    let _ = Reader::open(path)?.rejected(|row| {
        let rejection = Rejection { bytes: row.bytes.into(), error: row.error };
        lines.extend([of_file(&row.source, &rejection), of_stream(row.received_nano, &rejection)]);
        ControlFlow::<()>::Continue(())
    })?;
    Ok(lines)
}
