//! Recognizes the file of a store by its first bytes, before SQLite opens it.
//!
//! A file of another program is refused and never changed.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::open_files::RegistryLock;
use crate::store::error::StoreError;

/// Value of `PRAGMA application_id` in every store: `EVNT`.
pub const APPLICATION_ID: i32 = i32::from_be_bytes(*b"EVNT");

/// Schema version that this program reads and writes; stored in `PRAGMA user_version`.
pub(in crate::store) const SCHEMA_VERSION: i64 = 5;

/// First bytes of every SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Returns true if the file at `path` is an SQLite database, of this program or another, by its first bytes.
pub fn is_database(path: &Path) -> bool {
    let registry = RegistryLock::acquire();
    let mut header = [0; MAGIC.len()];
    registry.is_open(path)
        || (path.is_file()
            && File::open(path).is_ok_and(|mut file| file.read_exact(&mut header).is_ok() && header == *MAGIC))
}

/// Content of a file that SQLite may open.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum FileKind {
    Empty,
    Store,
}

/// Checks by its first hundred bytes that a file is a store or empty. So SQLite never opens a file of another program.
pub(in crate::store) fn check_file_kind(registry: &RegistryLock, path: &Path) -> Result<FileKind, StoreError> {
    let io = |source| StoreError::Io { operation: "open", path: path.into(), source };
    let metadata = match path.metadata() {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(StoreError::NotFound { path: path.into() });
        }
        other => other.map_err(io)?,
    };
    if metadata.is_dir() {
        return Err(StoreError::IsDirectory { path: path.into() });
    }
    if !metadata.is_file() {
        return Err(StoreError::NotRegularFile { path: path.into() });
    }
    if metadata.len() == 0 {
        return Ok(FileKind::Empty);
    }
    // The file was checked before the connection opened it.
    if registry.is_open(path) {
        return Ok(FileKind::Store);
    }
    let mut header = [0; 100];
    match File::open(path).map_err(io)?.read_exact(&mut header) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(StoreError::NotADatabase { path: path.into() }),
        other => other.map_err(io)?,
    }
    if &header[..MAGIC.len()] != MAGIC {
        return Err(StoreError::NotADatabase { path: path.into() });
    }
    let header_i32 = |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().expect("the range has four bytes"));
    if header_i32(68) != APPLICATION_ID {
        return Err(StoreError::ForeignDatabase { path: path.into() });
    }
    let found = header_i32(60).into();
    if found > SCHEMA_VERSION {
        return Err(StoreError::SchemaTooNew { path: path.into(), found, known: SCHEMA_VERSION });
    }
    Ok(FileKind::Store)
}
