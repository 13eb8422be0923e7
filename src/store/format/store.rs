//! A store that is open for writing: its file, migrated to the newest schema.

use std::path::Path;

use rusqlite::Connection;

use super::chain::Head;
use super::links::head;
use super::migrate;
use super::source::{self, SourceRow};
use crate::store::error::{StoreError, sqlite_error};
use crate::store::file::identity::FileIdentity;
use crate::store::file::open::{self, WritableFile};

/// Number of pages in the WAL that starts a checkpoint during a bulk import: 32 MB. A page that was written many times
/// is then copied into the file once.
const BULK_AUTOCHECKPOINT_PAGES: u32 = 8_000;

/// Maximum number of health check commands that a recorder loads when it starts.
const MAX_HEALTHCHECKS: i64 = 10_000;

/// Store that is open for writing, with the newest schema.
#[derive(Debug)]
pub struct Store {
    file: WritableFile,
}

impl Store {
    /// Checks that a store can be opened for writing at `path`. Creates an empty file with mode 0600 if there is none.
    ///
    /// # Errors
    /// The file is not a store or cannot be written. It is not changed.
    pub fn prepare(path: &Path) -> Result<(), StoreError> {
        open::prepare(path)
    }

    /// Checks that a store can be written at `path`, and changes nothing. Returns true if the file exists.
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create), or another program holds a lock on the file for seconds.
    pub fn check_writable(path: &Path) -> Result<bool, StoreError> {
        open::check_writable(path)
    }

    /// Opens an existing store for writing, and migrates it to the newest schema.
    ///
    /// # Errors
    /// The file does not exist, is not a store, or cannot be written. It is not changed.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        open::ensure_writable(path)?;
        Store::open_or_create(path)
    }

    /// Opens a store for writing, and migrates it to the newest schema. Creates the store if there is none.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and any error of SQLite.
    pub fn open_or_create(path: &Path) -> Result<Store, StoreError> {
        let mut file = WritableFile::open_or_create(path)?;
        migrate::migrations()
            .to_latest(&mut file.connection)
            .map_err(|e| StoreError::Migrate { path: path.into(), source: e.into() })?;
        for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("foreign_keys", "ON")] {
            file.connection.pragma_update(None, name, value).map_err(sqlite_error("write", path))?;
        }
        // The first read creates the `-wal` and `-shm` files.
        source::all(&file.connection).map_err(sqlite_error("read", path))?;
        file.identify_companion_files();
        Ok(Store { file })
    }

    /// Closes the file, also if it was moved: see [`WritableFile::close`].
    pub(in crate::store) fn close(self) {
        self.file.close();
    }

    pub(in crate::store) fn connection(&self) -> &Connection {
        &self.file.connection
    }

    /// Returns the connection for a transaction, of which there is one at a time.
    pub(in crate::store) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.file.connection
    }

    /// Returns the identity of the file at the time it was opened.
    pub fn identity(&self) -> &FileIdentity {
        self.file.identity()
    }

    /// Prepares for a bulk import: checkpoints run less often.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn optimize_for_bulk(&self) -> Result<(), StoreError> {
        self.connection()
            .pragma_update(None, "wal_autocheckpoint", BULK_AUTOCHECKPOINT_PAGES)
            .map_err(sqlite_error("write", self.path()))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Returns the head of the hash chain.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn head(&self) -> Result<Head, StoreError> {
        head(self.connection()).map_err(sqlite_error("read", self.path()))
    }

    /// Returns the known health check commands: engine ID, container ID, command. At most 10,000, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn healthchecks(&self) -> Result<Vec<(String, String, String)>, StoreError> {
        let read = || {
            let mut statement = self.connection().prepare(
                "SELECT engine_id, container, command FROM healthcheck JOIN source ON source.id = healthcheck.source
                 WHERE engine_id IS NOT NULL ORDER BY seq DESC LIMIT ?1",
            )?;
            let rows = statement.query_map([MAX_HEALTHCHECKS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(sqlite_error("read", self.path()))
    }

    /// Returns all sources in the store.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn sources(&self) -> Result<Vec<SourceRow>, StoreError> {
        source::all(self.connection()).map_err(sqlite_error("read", self.path()))
    }
}
