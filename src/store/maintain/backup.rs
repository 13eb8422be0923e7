//! Copies a store to a file, consistently, while a recorder writes to the store.
//!
//! SQLite's backup API copies page by page. It starts again whenever another connection writes, so beside a recorder
//! it would never finish. It does finish if the connection that reads holds a read transaction. Then the copy is one
//! moment of the store. Readers and the writer continue; only the WAL grows by the pages written during the copy.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use tempfile::{NamedTempFile, TempPath};

use crate::store::error::{StoreError, sqlite_error};
use crate::store::file::filesystem::free_bytes;
use crate::store::file::open::copy_any_version;
use crate::store::format::chain::Head;
use crate::store::format::links::head;
use crate::store::format::store::Store;
use crate::store::read::reader::Reader;

/// Number of pages copied in one step: a megabyte, which takes some milliseconds.
const STEP_PAGES: i32 = 256;

/// Result of a finished copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// Size of the copy in bytes.
    pub bytes: u64,
    /// Head of the copy's hash chain.
    pub head: Head,
}

impl Reader {
    /// Copies the store, as it is now, to a file at `to` with mode 0600.
    ///
    /// The file appears at `to` once it is complete and on the disk. An existing file is replaced only if `replace` is
    /// set. `on_progress` is called after each step with the bytes copied and the total. If it returns `false`, the
    /// copy stops, no file is left behind, and the result is `None`.
    ///
    /// # Errors
    /// The file exists, there is not enough space, or a file cannot be read or written. No file is left behind.
    pub fn copy_to(
        &self,
        to: &Path,
        replace: bool,
        on_progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<BackupSummary>, StoreError> {
        let io = |operation| move |source| StoreError::Io { operation, path: to.into(), source };
        let directory = match to.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        if to.is_dir() {
            return Err(StoreError::IsDirectory { path: to.into() });
        }
        if !directory.is_dir() {
            return Err(StoreError::DirectoryNotFound { path: to.into(), directory: directory.into() });
        }
        let is_same_file = to.canonicalize().is_ok_and(|to| self.path().canonicalize().is_ok_and(|from| from == to));
        if is_same_file || (!replace && to.symlink_metadata().is_ok()) {
            return Err(StoreError::AlreadyExists { path: to.into(), itself: is_same_file });
        }
        let temp_file = NamedTempFile::with_prefix_in(".events-backup-", directory).map_err(io("create"))?;
        let Some(copied) = self.copy(to, temp_file.path(), on_progress)? else { return Ok(None) };
        temp_file.as_file().sync_all().map_err(io("write"))?;
        if replace { temp_file.persist(to) } else { temp_file.persist_noclobber(to) }
            .map_err(|e| io("create")(e.error))?;
        std::fs::File::open(directory).and_then(|dir| dir.sync_all()).map_err(io("write"))?;
        Ok(Some(copied))
    }

    /// Opens a store of any supported schema version for reading.
    ///
    /// A store with an older schema is not changed. It is copied to a temporary file, and the copy is migrated and
    /// opened.
    ///
    /// # Errors
    /// As [`open`](Self::open), or there is no space for the temporary file.
    pub fn open_any(path: &Path) -> Result<(Reader, Option<TempPath>), StoreError> {
        match Reader::open(path) {
            Err(StoreError::SchemaTooOld { .. }) => {}
            other => return other.map(|reader| (reader, None)),
        }
        let io = |source| StoreError::Io { operation: "copy", path: path.into(), source };
        let copy = NamedTempFile::with_prefix(".events-import-").map_err(io)?.into_temp_path();
        copy_any_version(path, &copy)?;
        drop(Store::open(&copy)?);
        Ok((Reader::open(&copy)?, Some(copy)))
    }

    /// Copies into an existing empty file. Errors name `target`, the path the user passed.
    fn copy(
        &self,
        target: &Path,
        into: &Path,
        mut on_progress: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<BackupSummary>, StoreError> {
        let (read, write) = (sqlite_error("read", self.path()), sqlite_error("write", target));
        // Holds the copy to one moment: see above.
        let transaction = self.connection().unchecked_transaction().map_err(&read)?;
        let head = head(&transaction).map_err(&read)?;
        let read_pragma =
            |pragma: &str| transaction.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, u64>(0));
        let page_bytes = read_pragma("page_size").map_err(&read)?;
        let bytes = page_bytes * read_pragma("page_count").map_err(&read)?;
        let free = free_bytes(into).unwrap_or(u64::MAX);
        if bytes > free {
            return Err(StoreError::NoSpace { path: target.into(), bytes, free });
        }
        let mut copy = Connection::open(into).map_err(&write)?;
        // No other process uses the file yet, and the caller syncs it once it is complete.
        copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(&write)?;
        let backup = Backup::new(&transaction, &mut copy).map_err(&write)?;
        loop {
            let done = backup.step(STEP_PAGES).map_err(&write)? == StepResult::Done;
            let progress = backup.progress();
            let copied = (progress.pagecount - progress.remaining) as u64 * page_bytes;
            if !on_progress(copied, bytes) {
                return Ok(None);
            }
            if done {
                return Ok(Some(BackupSummary { bytes, head }));
            }
        }
    }
}
