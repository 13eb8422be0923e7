//! Recognizes, creates, opens, migrates and closes the SQLite file of a store.
//!
//! A file of another program is refused and never changed. Events and queries are the business of other modules.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::event::Identity;
use crate::store::file::identity::FileIdentity;
use crate::store::file::open_files::{OpenFile, RegistryLock};
use crate::store::format::chain::{GENESIS_HASH, Head};
use crate::store::format::migrate;
use crate::store::{SourceRow, StoreError};

/// Value of `PRAGMA application_id` in every store: `EVNT`.
pub const APPLICATION_ID: i32 = i32::from_be_bytes(*b"EVNT");

/// Schema version that this program reads and writes; stored in `PRAGMA user_version`.
pub(in crate::store) const SCHEMA_VERSION: i64 = 5;

/// Number of pages in the WAL that starts a checkpoint during a bulk import: 32 MB. A page that was written many times
/// is then copied into the file once.
const BULK_AUTOCHECKPOINT_PAGES: u32 = 8_000;

/// Number of bytes of the file that a reader maps into memory instead of reading them page by page.
const MMAP_BYTES: i64 = 1 << 30;

/// Maximum number of health check commands that a recorder loads when it starts.
const MAX_HEALTHCHECKS: i64 = 10_000;

/// Time that a statement waits for another program's lock. Then it fails, and the caller decides.
pub(in crate::store) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts to write the WAL of a moved file back into the file. Each attempt waits for readers.
const CLOSE_CHECKPOINT_ATTEMPTS: u32 = 3;

/// Store that is open for writing, with the newest schema.
#[derive(Debug)]
pub struct Store {
    pub(in crate::store) connection: Connection,
    open_file: OpenFile,
    path: PathBuf,
    identity: FileIdentity,
    /// Identities of the `-wal` and `-shm` files.
    companion_files: Vec<FileIdentity>,
}

impl Store {
    /// Checks that a store can be opened for writing at `path`. Creates an empty file with mode 0600 if there is none.
    ///
    /// # Errors
    /// The file is not a store or cannot be written. It is not changed.
    pub fn prepare(path: &Path) -> Result<(), StoreError> {
        Store::prepare_locked(&RegistryLock::acquire(), path)
    }

    fn prepare_locked(registry: &RegistryLock, path: &Path) -> Result<(), StoreError> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => ensure_writable(registry, path),
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
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create), or another program holds a lock on the file for seconds.
    pub fn check_writable(path: &Path) -> Result<bool, StoreError> {
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
        ensure_writable(&registry, path)?;
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let _open_file = registry.register(path);
        drop(registry);
        check_schema_version(&connection, path)?;
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(sqlite_error("write", path))?;
        Ok(true)
    }

    /// Opens an existing store for writing, and migrates it to the newest schema.
    ///
    /// # Errors
    /// The file does not exist, is not a store, or cannot be written. It is not changed.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        ensure_writable(&RegistryLock::acquire(), path)?;
        Store::open_or_create(path)
    }

    /// Opens a store for writing, and migrates it to the newest schema. Creates the store if there is none.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and any error of SQLite.
    pub fn open_or_create(path: &Path) -> Result<Store, StoreError> {
        let mut registry = RegistryLock::acquire();
        Store::prepare_locked(&registry, path)?;
        // Taken before the file is opened: if another file replaces it in between, the recorder notices the move.
        let identity =
            FileIdentity::of(path).map_err(|source| StoreError::Io { operation: "open", path: path.into(), source })?;
        let is_empty = check_file_kind(&registry, path)? == FileKind::Empty;
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
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
        migrate::migrations()
            .to_latest(&mut connection)
            .map_err(|e| StoreError::Migrate { path: path.into(), source: e.into() })?;
        for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("foreign_keys", "ON")] {
            connection.pragma_update(None, name, value).map_err(sqlite_error("write", path))?;
        }
        // The first read creates the `-wal` and `-shm` files, whose identities are taken next.
        sources(&connection).map_err(sqlite_error("read", path))?;
        let companion_files =
            ["-wal", "-shm"].iter().filter_map(|suffix| FileIdentity::of(&with_suffix(path, suffix)).ok()).collect();
        Ok(Store { connection, open_file, path: path.into(), identity, companion_files })
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
        let checkpoint = || -> rusqlite::Result<bool> {
            for _ in 0..CLOSE_CHECKPOINT_ATTEMPTS {
                let mut statement = self.connection.prepare("PRAGMA wal_checkpoint(TRUNCATE)")?;
                let (wal_pages, checkpointed): (i64, i64) =
                    statement.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?;
                if wal_pages == checkpointed {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match checkpoint() {
            Ok(true) => {}
            Ok(false) => tracing::error!("cannot copy the WAL into {} after the file was moved", self.path.display()),
            Err(e) => tracing::error!("{}", crate::error::chain(&sqlite_error("write", &self.path)(e))),
        }
        drop(self.connection);
        drop(self.open_file);
        self.companion_files.iter().for_each(FileIdentity::remove_if_current);
    }

    /// Returns the identity of the file at the time it was opened.
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// Prepares for a bulk import: checkpoints run less often.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn optimize_for_bulk(&self) -> Result<(), StoreError> {
        self.connection
            .pragma_update(None, "wal_autocheckpoint", BULK_AUTOCHECKPOINT_PAGES)
            .map_err(sqlite_error("write", &self.path))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the head of the hash chain.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn head(&self) -> Result<Head, StoreError> {
        head(&self.connection).map_err(sqlite_error("read", &self.path))
    }

    /// Returns the known health check commands: engine ID, container ID, command. At most 10,000, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn healthchecks(&self) -> Result<Vec<(String, String, String)>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare(
                "SELECT engine_id, container, command FROM healthcheck JOIN source ON source.id = healthcheck.source
                 WHERE engine_id IS NOT NULL ORDER BY seq DESC LIMIT ?1",
            )?;
            let rows = statement.query_map([MAX_HEALTHCHECKS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(sqlite_error("read", &self.path))
    }

    /// Returns all sources in the store.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn sources(&self) -> Result<Vec<SourceRow>, StoreError> {
        sources(&self.connection).map_err(sqlite_error("read", &self.path))
    }
}

/// Returns true if the file at `path` is an SQLite database, of this program or another, by its first bytes.
pub fn is_database(path: &Path) -> bool {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let registry = RegistryLock::acquire();
    let mut header = [0; MAGIC.len()];
    registry.is_open(path)
        || (path.is_file()
            && File::open(path).is_ok_and(|mut file| file.read_exact(&mut header).is_ok() && header == *MAGIC))
}

/// Opens a store for reading. The connection cannot write.
pub(in crate::store) fn open_read_only(path: &Path) -> Result<(Connection, OpenFile), StoreError> {
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
        let url = format!("file:{}?immutable=1", path.display().to_string().replace('%', "%25").replace('?', "%3f"));
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
    Ok((connection, open_file))
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

/// Returns a function that converts an error of SQLite into a [`StoreError`].
pub(in crate::store) fn sqlite_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl Fn(rusqlite::Error) -> StoreError + 'a {
    move |source| StoreError::Sqlite { operation, path: path.into(), source }
}

/// Returns the last stored link of the chain.
pub(in crate::store) fn head(connection: &Connection) -> rusqlite::Result<Head> {
    let last = connection
        .prepare_cached("SELECT seq, hash FROM link ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok(Head { seq: row.get(0)?, hash: row.get(1)? }))
        .optional()?;
    Ok(last.unwrap_or(Head { seq: 0, hash: GENESIS_HASH }))
}

pub(in crate::store) fn sources(connection: &Connection) -> rusqlite::Result<Vec<SourceRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, engine_id, name, host, events, rejected, first_nano, last_nano, seen_nano, seen_digest, contacted_nano,
            skew_nano, version, healthchecks_left_out
         FROM source ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        let seen: (Option<i64>, Option<[u8; 16]>) = (row.get(8)?, row.get(9)?);
        Ok(SourceRow {
            id: row.get(0)?,
            engine_id: row.get(1)?,
            name: row.get(2)?,
            host: row.get(3)?,
            events: row.get(4)?,
            rejected: row.get(5)?,
            first_nano: row.get(6)?,
            last_nano: row.get(7)?,
            connected_nano: row.get(10)?,
            skew_nano: row.get(11)?,
            version: row.get(12)?,
            excluded_healthchecks: row.get(13)?,
            last_seen: seen.0.zip(seen.1).map(|(time_nano, digest)| Identity { time_nano, digest }),
        })
    })?;
    rows.collect()
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

#[derive(Debug, PartialEq, Eq)]
enum FileKind {
    Empty,
    Store,
}

/// Checks by its first hundred bytes that a file is a store or empty. So SQLite never opens a file of another program.
fn check_file_kind(registry: &RegistryLock, path: &Path) -> Result<FileKind, StoreError> {
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
    if &header[..16] != b"SQLite format 3\0" {
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

fn check_schema_version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let found =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sqlite_error("open", path))?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::SchemaTooNew { path: path.into(), found, known: SCHEMA_VERSION });
    }
    Ok(found)
}

/// Checks that an existing file may be written.
///
/// A file without any write permission is refused even for root, who could write it: someone made it read-only on
/// purpose.
fn ensure_writable(registry: &RegistryLock, path: &Path) -> Result<(), StoreError> {
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
