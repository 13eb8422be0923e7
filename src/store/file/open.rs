//! Opens and closes the SQLite file of a store.
//!
//! A file of another program is refused and never changed. The content of the tables, and their migration to the newest
//! schema, is the business of [`crate::store::format`].

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::header::{APPLICATION_ID, FileKind, SCHEMA_VERSION, check_file_kind};
use super::identity::FileIdentity;
use super::open_files::{OpenFile, RegistryLock};
use crate::store::error::{StoreError, sqlite_error};

/// Number of bytes of the file that a reader maps into memory instead of reading them page by page.
const MMAP_BYTES: i64 = 1 << 30;

/// Time that a statement waits for another program's lock. Then it fails, and the caller decides.
pub(in crate::store) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts to write the WAL of a moved file back into the file. Each attempt waits for readers.
const CLOSE_CHECKPOINT_ATTEMPTS: u32 = 3;

/// File that is open for writing. Its tables may have an older schema.
#[derive(Debug)]
pub(in crate::store) struct WritableFile {
    pub(in crate::store) connection: Connection,
    open_file: OpenFile,
    path: PathBuf,
    identity: FileIdentity,
    /// Identities of the `-wal` and `-shm` files.
    companion_files: Vec<FileIdentity>,
}

impl WritableFile {
    /// Opens a file for writing. Creates it if there is none.
    pub(in crate::store) fn open_or_create(path: &Path) -> Result<WritableFile, StoreError> {
        let mut registry = RegistryLock::acquire();
        prepare_locked(&registry, path)?;
        // Taken before the file is opened: if another file replaces it in between, the recorder notices the move.
        let identity =
            FileIdentity::of(path).map_err(|source| StoreError::Io { operation: "open", path: path.into(), source })?;
        let is_empty = check_file_kind(&registry, path)? == FileKind::Empty;
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let open_file = registry.register(path);
        drop(registry);
        // A process that was killed while creating the file may have left one that is empty after SQLite's recovery.
        let page_count = |db: &Connection| db.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
        if is_empty || page_count(&connection).map_err(sqlite_error("open", path))? == 0 {
            // One transaction, so that no file with content lacks the application ID.
            connection
                .execute_batch(&format!(
                    "BEGIN; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA application_id = {APPLICATION_ID}; COMMIT"
                ))
                .map_err(sqlite_error("create", path))?;
        }
        check_schema_version(&connection, path)?;
        // Deleted text must not be found in the file, so SQLite overwrites its bytes.
        connection.pragma_update(None, "secure_delete", "ON").map_err(sqlite_error("write", path))?;
        Ok(WritableFile { connection, open_file, path: path.into(), identity, companion_files: Vec::new() })
    }

    /// Identifies the `-wal` and `-shm` files, which the first read in WAL mode creates.
    pub(in crate::store) fn identify_companion_files(&mut self) {
        self.companion_files = ["-wal", "-shm"]
            .iter()
            .filter_map(|suffix| FileIdentity::of(&with_suffix(&self.path, suffix)).ok())
            .collect();
    }

    /// Returns the path of the file.
    pub(in crate::store) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the identity of the file at the time it was opened.
    pub(in crate::store) fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// Closes the file.
    ///
    /// If the file was moved, its WAL stayed at the old path, and SQLite would not write it back. So this function
    /// writes the WAL back into the file. Then it removes the old `-wal` and `-shm` files, because SQLite would take
    /// them for those of the next file at that path.
    pub(in crate::store) fn close(self) {
        if self.identity.is_current() {
            return;
        }
        match self.checkpoint_fully() {
            Ok(true) => {}
            Ok(false) => tracing::error!("cannot copy the WAL into {} after the file was moved", self.path.display()),
            Err(e) => tracing::error!("{}", crate::error::chain(&sqlite_error("write", &self.path)(e))),
        }
        drop(self.connection);
        drop(self.open_file);
        self.companion_files.iter().for_each(FileIdentity::remove_if_current);
    }

    /// Copies the whole WAL into the file. Returns false if a reader prevented it.
    fn checkpoint_fully(&self) -> rusqlite::Result<bool> {
        for _ in 0..CLOSE_CHECKPOINT_ATTEMPTS {
            let mut statement = self.connection.prepare("PRAGMA wal_checkpoint(TRUNCATE)")?;
            let (wal_pages, checkpointed): (i64, i64) =
                statement.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?;
            if wal_pages == checkpointed {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// File that is open for reading. The connection cannot write.
#[derive(Debug)]
pub(in crate::store) struct ReadableFile {
    pub(in crate::store) connection: Connection,
    _open_file: OpenFile,
}

impl ReadableFile {
    /// Opens a file for reading. Its tables have the newest schema.
    pub(in crate::store) fn open(path: &Path) -> Result<ReadableFile, StoreError> {
        let mut registry = RegistryLock::acquire();
        if check_file_kind(&registry, path)? == FileKind::Empty {
            return Err(StoreError::NotADatabase { path: path.into() });
        }
        // Not SQLITE_OPEN_READONLY: the last such connection leaves its `-wal` and `-shm` files behind.
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let open_file = registry.register(path);
        drop(registry);
        if connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).is_err() && !has_wal(path) {
            // The folder cannot be written, as on a read-only filesystem. Then no process writes there, and no lock is
            // needed.
            let url =
                format!("file:{}?immutable=1", path.display().to_string().replace('%', "%25").replace('?', "%3f"));
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            connection = connect(Path::new(&url), flags)?;
        }
        connection
            .pragma_update(None, "query_only", true)
            .and_then(|()| connection.pragma_update(None, "mmap_size", MMAP_BYTES))
            .map_err(sqlite_error("read", path))?;
        let found = check_schema_version(&connection, path)?;
        if found < SCHEMA_VERSION {
            return Err(StoreError::SchemaTooOld { path: path.into(), found, known: SCHEMA_VERSION });
        }
        Ok(ReadableFile { connection, _open_file: open_file })
    }
}

/// Checks that a store can be opened for writing at `path`. Creates an empty file with mode 0600 if there is none.
pub(in crate::store) fn prepare(path: &Path) -> Result<(), StoreError> {
    prepare_locked(&RegistryLock::acquire(), path)
}

fn prepare_locked(registry: &RegistryLock, path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => ensure_writable_locked(registry, path),
        Err(source) if source.kind() == ErrorKind::NotFound => match path.parent() {
            Some(directory) if !directory.exists() => {
                Err(StoreError::DirectoryNotFound { path: path.into(), directory: directory.into() })
            }
            _ => Err(StoreError::Io { operation: "create", path: path.into(), source }),
        },
        Err(source) => Err(StoreError::Io { operation: "create", path: path.into(), source }),
    }
}

/// Checks that a store can be written at `path`, and changes nothing. Returns true if the file exists.
pub(in crate::store) fn check_writable(path: &Path) -> Result<bool, StoreError> {
    if !path.exists() {
        let dir = path.ancestors().skip(1).find(|dir| dir.exists()).unwrap_or(Path::new("."));
        let temp_file = tempfile::tempfile_in(dir);
        return temp_file.map(|_| false).map_err(|source| StoreError::Io {
            operation: "create",
            path: path.into(),
            source,
        });
    }
    let mut registry = RegistryLock::acquire();
    ensure_writable_locked(&registry, path)?;
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let _open_file = registry.register(path);
    drop(registry);
    check_schema_version(&connection, path)?;
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(sqlite_error("write", path))?;
    Ok(true)
}

/// Checks that an existing file may be written.
pub(in crate::store) fn ensure_writable(path: &Path) -> Result<(), StoreError> {
    ensure_writable_locked(&RegistryLock::acquire(), path)
}

/// Checks that an existing file may be written.
///
/// A file without any write permission is refused even for root, who could write it: someone made it read-only on
/// purpose.
fn ensure_writable_locked(registry: &RegistryLock, path: &Path) -> Result<(), StoreError> {
    check_file_kind(registry, path)?;
    let io = |source| StoreError::Io { operation: "write", path: path.into(), source };
    if path.metadata().map_err(io)?.mode() & 0o222 == 0 {
        return Err(StoreError::ReadOnly { path: path.into() });
    }
    if registry.is_open(path) {
        return Ok(());
    }
    OpenOptions::new().write(true).open(path).map(|_| ()).map_err(io)
}

/// Copies a store of any schema version into an existing empty file.
pub(in crate::store) fn copy_any_version(path: &Path, into: &Path) -> Result<(), StoreError> {
    let mut registry = RegistryLock::acquire();
    check_file_kind(&registry, path)?;
    let from = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let _open_file = registry.register(path);
    drop(registry);
    from.backup("main", into, None).map_err(sqlite_error("copy", path))
}

fn has_wal(path: &Path) -> bool {
    with_suffix(path, "-wal").metadata().is_ok_and(|m| m.len() > 0)
}

pub(in crate::store) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // With `./` before it, no name has a special meaning to SQLite, as `:memory:` would.
    let target = if flags.contains(OpenFlags::SQLITE_OPEN_URI) { path.to_owned() } else { Path::new(".").join(path) };
    let connection = Connection::open_with_flags(target, flags).map_err(sqlite_error("open", path))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite_error("open", path))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn check_schema_version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let found =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sqlite_error("open", path))?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::SchemaTooNew { path: path.into(), found, known: SCHEMA_VERSION });
    }
    Ok(found)
}
