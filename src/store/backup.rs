//! A consistent copy of a store while it is recorded into.
//!
//! SQLite's backup API copies page by page. When another connection writes it begins anew, and under a recorder it would
//! do so for ever; but not while the reading connection holds a read transaction: then all of it is one moment. Readers
//! and the writer go on; only the WAL grows by what is written meanwhile.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use tempfile::{NamedTempFile, TempPath};

use super::disk::room;
use super::file::{self, sqlite};
use super::{Head, Reader, Store, StoreError};

/// How many pages are copied at once: a megabyte, some milliseconds.
const PAGES: i32 = 256;

/// How a copy was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Its size in bytes.
    pub bytes: u64,
    /// The end of its hash chain.
    pub head: Head,
}

impl Reader {
    /// Copies the store, as it is now, to a file at `to`, of mode 0600, which appears there when it is whole and on the
    /// disk. One that is there already is replaced if `replace` is set. `each` is called now and then with how many bytes
    /// are copied, of how many; when it gives `false` nothing is left behind, and `None` is given.
    ///
    /// # Errors
    /// There is a file already, no room, or it cannot be read or written; nothing is left behind.
    pub fn copy_to(
        &self,
        to: &Path,
        replace: bool,
        each: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<Copied>, StoreError> {
        let io = |doing| move |source| StoreError::Io { doing, path: to.into(), source };
        let folder = match to.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        if to.is_dir() {
            return Err(StoreError::IsDirectory { path: to.into() });
        }
        if !folder.is_dir() {
            return Err(StoreError::NoDirectory { path: to.into(), directory: folder.into() });
        }
        let is_itself = to.canonicalize().is_ok_and(|to| self.path().canonicalize().is_ok_and(|from| from == to));
        if is_itself || (!replace && to.symlink_metadata().is_ok()) {
            return Err(StoreError::Exists { path: to.into(), itself: is_itself });
        }
        let whole = NamedTempFile::with_prefix_in(".events-backup-", folder).map_err(io("make"))?;
        let Some(copied) = self.copy(to, whole.path(), each)? else { return Ok(None) };
        whole.as_file().sync_all().map_err(io("write"))?;
        if replace { whole.persist(to) } else { whole.persist_noclobber(to) }.map_err(|e| io("make")(e.error))?;
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("write"))?;
        Ok(Some(copied))
    }

    /// Opens a store for reading, of whatever schema: of an older one a copy is read that has the newest, and it is left
    /// as it is.
    ///
    /// # Errors
    /// As [`open`](Self::open), and there is no room for the copy among the temporary files.
    pub fn open_any(path: &Path) -> Result<(Reader, Option<TempPath>), StoreError> {
        match Reader::open(path) {
            Err(StoreError::Older { .. }) => {}
            other => return other.map(|reader| (reader, None)),
        }
        let io = |source| StoreError::Io { doing: "copy", path: path.into(), source };
        let copy = NamedTempFile::with_prefix(".events-import-").map_err(io)?.into_temp_path();
        file::copy_any(path, &copy)?;
        drop(Store::open(&copy)?);
        Ok((Reader::open(&copy)?, Some(copy)))
    }

    /// Copies into an empty file that is there.
    fn copy(
        &self,
        name: &Path,
        into: &Path,
        mut each: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<Copied>, StoreError> {
        let (read, write) = (sqlite("read", self.path()), sqlite("write", name));
        // The moment that is copied.
        let moment = self.connection().unchecked_transaction().map_err(&read)?;
        let head = file::head(&moment).map_err(&read)?;
        let number = |pragma: &str| moment.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, u64>(0));
        let page = number("page_size").map_err(&read)?;
        let bytes = page * number("page_count").map_err(&read)?;
        let free = room(into).unwrap_or(u64::MAX);
        if bytes > free {
            return Err(StoreError::NoRoom { path: name.into(), bytes, free });
        }
        let mut copy = Connection::open(into).map_err(&write)?;
        // It is nobody's yet, and is put on the disk when it is whole.
        copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(&write)?;
        let backup = Backup::new(&moment, &mut copy).map_err(&write)?;
        loop {
            let done = backup.step(PAGES).map_err(&write)? == StepResult::Done;
            let progress = backup.progress();
            let copied = (progress.pagecount - progress.remaining) as u64 * page;
            if !each(copied, bytes) {
                return Ok(None);
            }
            if done {
                return Ok(Some(Copied { bytes, head }));
            }
        }
    }
}
