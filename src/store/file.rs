//! Which files are ours, and how one is opened, made and brought to the newest schema.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::chain::{BEGINNING, Head};
use super::held::{Gate, Held};
use super::place::Place;
use super::{SourceRow, StoreError, migrate};
use crate::event::Identity;

/// `PRAGMA application_id` of our files: `EVNT`.
pub const APPLICATION_ID: i32 = i32::from_be_bytes(*b"EVNT");

/// The schema that this program reads and writes; also `PRAGMA user_version`.
pub(super) const SCHEMA: i64 = 5;

/// While many events come, pages are moved from the WAL into the file when there are so many: 32 MB. Each is then moved
/// once for the many times it was written.
const CHECKPOINT: u32 = 8_000;

/// How much of the file a reader maps instead of reading page by page, in bytes.
const MAPPED: i64 = 1 << 30;

/// How many containers' health checks a recorder begins with.
const HEALTHCHECKS: i64 = 10_000;

/// How long one statement waits for another program's lock, before it fails and the caller decides.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// How often it is tried to bring what stands in the WAL of a moved file into it; each time waits for readers.
const LAST_CHECKPOINTS: u32 = 3;

/// A file open for writing, of the newest schema.
#[derive(Debug)]
pub struct Store {
    pub(super) connection: Connection,
    held: Held,
    path: PathBuf,
    place: Place,
    /// The `-wal` and `-shm` files.
    beside: Vec<Place>,
}

impl Store {
    /// Makes sure that `path` can become a store open for writing: makes an empty file, mode 0600, if there is none.
    ///
    /// # Errors
    /// A file that is not ours, or not ours to write, is named and left as it is.
    pub fn prepare(path: &Path) -> Result<(), StoreError> {
        Store::prepare_within(&Gate::enter(), path)
    }

    fn prepare_within(gate: &Gate, path: &Path) -> Result<(), StoreError> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => writable(gate, path),
            Err(source) if source.kind() == ErrorKind::NotFound => match path.parent() {
                Some(directory) if !directory.exists() => {
                    Err(StoreError::NoDirectory { path: path.into(), directory: directory.into() })
                }
                _ => Err(StoreError::Io { doing: "make", path: path.into(), source }),
            },
            Err(source) => Err(StoreError::Io { doing: "make", path: path.into(), source }),
        }
    }

    /// Whether a store can be written at `path`: true if one is there, false if it is yet to be made. Changes nothing.
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create), also where somebody else holds the file for seconds.
    pub fn can_be_written(path: &Path) -> Result<bool, StoreError> {
        if !path.exists() {
            let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
            let made = tempfile::tempfile_in(folder);
            return made.map(|_| false).map_err(|source| StoreError::Io { doing: "make", path: path.into(), source });
        }
        let mut gate = Gate::enter();
        writable(&gate, path)?;
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let _held = gate.hold(path);
        drop(gate);
        known_schema(&connection, path)?;
        connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(sqlite("write", path))?;
        Ok(true)
    }

    /// Opens a store that is there for writing, and brings it to the newest schema.
    ///
    /// # Errors
    /// A file that is missing, not ours, or not ours to write, is named and left as it is.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        writable(&Gate::enter(), path)?;
        Store::open_or_create(path)
    }

    /// Opens a store for writing, of the newest schema; makes it if there is none.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), and what SQLite says.
    pub fn open_or_create(path: &Path) -> Result<Store, StoreError> {
        let mut gate = Gate::enter();
        Store::prepare_within(&gate, path)?;
        // Before it is opened: should another be put there meanwhile, this is not kept.
        let place = Place::of(path).map_err(|source| StoreError::Io { doing: "open", path: path.into(), source })?;
        let empty = recognise(&gate, path)? == Kind::Empty;
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let held = gate.hold(path);
        drop(gate);
        // Who was killed while making the file may have left one that is empty once SQLite has tidied up behind it.
        let pages = |db: &Connection| db.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
        if empty || pages(&connection).map_err(sqlite("open", path))? == 0 {
            // One transaction: there is no file in which it does not stand whose it is.
            connection
                .execute_batch(&format!(
                    "BEGIN; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA application_id = {APPLICATION_ID}; COMMIT"
                ))
                .map_err(sqlite("make", path))?;
        }
        known_schema(&connection, path)?;
        // What was let go of should not be found in the file: its bytes are overwritten.
        connection.pragma_update(None, "secure_delete", "ON").map_err(sqlite("write", path))?;
        migrate::migrations()
            .to_latest(&mut connection)
            .map_err(|e| StoreError::Migrate { path: path.into(), source: e.into() })?;
        for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("foreign_keys", "ON")] {
            connection.pragma_update(None, name, value).map_err(sqlite("write", path))?;
        }
        // The first reading opens the WAL.
        sources(&connection).map_err(sqlite("read", path))?;
        let beside = ["-wal", "-shm"].iter().filter_map(|suffix| Place::of(&with_suffix(path, suffix)).ok()).collect();
        Ok(Store { connection, held, path: path.into(), place, beside })
    }

    /// Closes the file. One that was moved does not have its WAL beside it any more: what stands there is brought into
    /// the file, and the names that stayed behind go, lest the next file at the path is taken to belong to them.
    pub(super) fn close(self) {
        if self.place.is_kept() {
            return;
        }
        let checkpoint = || -> rusqlite::Result<bool> {
            for _ in 0..LAST_CHECKPOINTS {
                let mut statement = self.connection.prepare("PRAGMA wal_checkpoint(TRUNCATE)")?;
                let (pages, moved): (i64, i64) = statement.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?;
                if pages == moved {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match checkpoint() {
            Ok(true) => {}
            Ok(false) => tracing::error!("{} was moved, and what is in its WAL was not", self.path.display()),
            Err(e) => tracing::error!("{}", crate::error::chain(&sqlite("write", &self.path)(e))),
        }
        drop(self.connection);
        drop(self.held);
        self.beside.iter().for_each(Place::clear);
    }

    /// Where the file was when it was opened.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Many events will come at once: pages are moved from the WAL into the file less often.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn expect_many(&self) -> Result<(), StoreError> {
        self.connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT).map_err(sqlite("write", &self.path))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the hash chain.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn head(&self) -> Result<Head, StoreError> {
        head(&self.connection).map_err(sqlite("read", &self.path))
    }

    /// How containers check their health, as far as it is known: engine, container, command. Of many the newest.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn healthchecks(&self) -> Result<Vec<(String, String, String)>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare(
                "SELECT engine_id, container, command FROM healthcheck JOIN source ON source.id = healthcheck.source
                 WHERE engine_id IS NOT NULL ORDER BY seq DESC LIMIT ?1",
            )?;
            let rows = statement.query_map([HEALTHCHECKS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read().map_err(sqlite("read", &self.path))
    }

    /// Every source the store knows.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn sources(&self) -> Result<Vec<SourceRow>, StoreError> {
        sources(&self.connection).map_err(sqlite("read", &self.path))
    }
}

/// Whether there is an SQLite database at a path, ours or not; told from its first bytes.
pub fn is_database(path: &Path) -> bool {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let gate = Gate::enter();
    let mut found = [0; MAGIC.len()];
    gate.holds(path)
        || (path.is_file()
            && File::open(path).is_ok_and(|mut file| file.read_exact(&mut found).is_ok() && found == *MAGIC))
}

/// Opens a store for reading: the connection can write nothing into it.
pub(super) fn open_to_read(path: &Path) -> Result<(Connection, Held), StoreError> {
    let mut gate = Gate::enter();
    if recognise(&gate, path)? == Kind::Empty {
        return Err(StoreError::NotADatabase { path: path.into() });
    }
    // Not SQLITE_OPEN_READONLY: the last such connection leaves its `-wal` and `-shm` files behind.
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let held = gate.hold(path);
    drop(gate);
    if connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).is_err() && !has_wal(path) {
        // A folder that cannot be written, as on a read-only disk; then nobody writes there and no lock is needed.
        let url = format!("file:{}?immutable=1", path.display().to_string().replace('%', "%25").replace('?', "%3f"));
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        connection = connect(Path::new(&url), flags)?;
    }
    connection
        .pragma_update(None, "query_only", true)
        .and_then(|()| connection.pragma_update(None, "mmap_size", MAPPED))
        .map_err(sqlite("read", path))?;
    let found = known_schema(&connection, path)?;
    if found < SCHEMA {
        return Err(StoreError::Older { path: path.into(), found, known: SCHEMA });
    }
    Ok((connection, held))
}

/// Copies a store of whatever schema into an empty file that is there.
pub(super) fn copy_any(path: &Path, into: &Path) -> Result<(), StoreError> {
    let mut gate = Gate::enter();
    recognise(&gate, path)?;
    let from = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let _held = gate.hold(path);
    drop(gate);
    from.backup("main", into, None).map_err(sqlite("copy", path))
}

fn has_wal(path: &Path) -> bool {
    with_suffix(path, "-wal").metadata().is_ok_and(|m| m.len() > 0)
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Turns an error of SQLite into ours.
pub(super) fn sqlite<'a>(doing: &'static str, path: &'a Path) -> impl Fn(rusqlite::Error) -> StoreError + 'a {
    move |source| StoreError::Sqlite { doing, path: path.into(), source }
}

/// The end of the chain, as far as it is stored.
pub(super) fn head(connection: &Connection) -> rusqlite::Result<Head> {
    let last = connection
        .prepare_cached("SELECT seq, hash FROM link ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok(Head { seq: row.get(0)?, hash: row.get(1)? }))
        .optional()?;
    Ok(last.unwrap_or(Head { seq: 0, hash: BEGINNING }))
}

pub(super) fn sources(connection: &Connection) -> rusqlite::Result<Vec<SourceRow>> {
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
            contacted_nano: row.get(10)?,
            skew_nano: row.get(11)?,
            version: row.get(12)?,
            healthchecks_left_out: row.get(13)?,
            last_seen: seen.0.zip(seen.1).map(|(time_nano, digest)| Identity { time_nano, digest }),
        })
    })?;
    rows.collect()
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // As a path it is no name that means something else to SQLite, as `:memory:` does.
    let named = if flags.contains(OpenFlags::SQLITE_OPEN_URI) { path.to_owned() } else { Path::new(".").join(path) };
    let connection = Connection::open_with_flags(named, flags).map_err(sqlite("open", path))?;
    connection.busy_timeout(BUSY).map_err(sqlite("open", path))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Empty,
    Ours,
}

/// Whose file this is, told from its first hundred bytes, so that nothing of another program's is even opened.
fn recognise(gate: &Gate, path: &Path) -> Result<Kind, StoreError> {
    let io = |source| StoreError::Io { doing: "open", path: path.into(), source };
    let metadata = match path.metadata() {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(StoreError::Missing { path: path.into() });
        }
        other => other.map_err(io)?,
    };
    if metadata.is_dir() {
        return Err(StoreError::IsDirectory { path: path.into() });
    }
    if !metadata.is_file() {
        return Err(StoreError::NotAFile { path: path.into() });
    }
    if metadata.len() == 0 {
        return Ok(Kind::Empty);
    }
    // It was looked at when it was opened.
    if gate.holds(path) {
        return Ok(Kind::Ours);
    }
    let mut header = [0; 100];
    match File::open(path).map_err(io)?.read_exact(&mut header) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(StoreError::NotADatabase { path: path.into() }),
        other => other.map_err(io)?,
    }
    if &header[..16] != b"SQLite format 3\0" {
        return Err(StoreError::NotADatabase { path: path.into() });
    }
    let number = |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if number(68) != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.into() });
    }
    let found = number(60).into();
    if found > SCHEMA {
        return Err(StoreError::Newer { path: path.into(), found, known: SCHEMA });
    }
    Ok(Kind::Ours)
}

fn known_schema(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sqlite("open", path))?;
    if found > SCHEMA {
        return Err(StoreError::Newer { path: path.into(), found, known: SCHEMA });
    }
    Ok(found)
}

/// An existing file may be written by us. One without any write permission is left alone even by root, whom the
/// system would let: somebody has put it away.
fn writable(gate: &Gate, path: &Path) -> Result<(), StoreError> {
    recognise(gate, path)?;
    let io = |source| StoreError::Io { doing: "write", path: path.into(), source };
    if path.metadata().map_err(io)?.mode() & 0o222 == 0 {
        return Err(StoreError::ReadOnly { path: path.into() });
    }
    if gate.holds(path) {
        return Ok(());
    }
    OpenOptions::new().write(true).open(path).map(|_| ()).map_err(io)
}
