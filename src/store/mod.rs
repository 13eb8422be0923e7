//! The store: one SQLite file, with its schema, its one writer and its readers. The only module that uses rusqlite.
//!
//! The store keeps each event as the bytes that the engine sent; everything else in the file only helps to find events.
//! A reader never writes, never waits for the writer, and never creates a file. The store does not know where events
//! come from.

mod file;
mod format;
mod maintain;
mod read;
mod write;

use std::path::PathBuf;

pub use file::filesystem::{bytes_on_disk, free_bytes, unsafe_filesystem};
pub use file::identity::FileIdentity;
pub use file::lock::{HostState, RecorderLock, RecorderState, recorder_state};
pub use file::open::{APPLICATION_ID, Store, is_database};
pub use format::chain::{Head, ParseHeadError};
pub use format::layout::{self, is_varying};
pub use maintain::backup::BackupSummary;
pub use maintain::prune::{Checkpoint, PrunedRange};
pub use maintain::retention::Retention;
pub use maintain::verify::{Fault, VerifyReport};
pub use read::healthchecks::UnknownHealthchecks;
pub use read::planner::{Actions, ActorTest, ActorTestFn, Query};
pub use read::reader::{EventPredicate, GapRevision, Order, Reader, Snapshot, StoredEvent};
pub use write::counters::{Counters, SourceCounters, TypeAction};
pub use write::queue::{Full, Progress, Queue};
pub use write::writer::{
    DEFAULT_MAX_REJECTED, Delivery, GapChange, Limits, Rejection, SourceKey, WriteError, WriteStats, WriterOutcome,
    spawn_writer,
};

use crate::event::Identity;

/// A source of events: an engine, or a name under which files were imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRow {
    /// Row ID.
    pub id: i64,
    /// ID of the engine; `None` for imports.
    pub engine_id: Option<String>,
    /// Name that users see and pass.
    pub name: String,
    /// Host at which the engine was reached last; `None` for imports.
    pub host: Option<String>,
    /// Number of events stored.
    pub events: u64,
    /// Number of rejected lines stored.
    pub rejected: u64,
    /// Time of the earliest event stored, in nanoseconds since the epoch.
    pub first_nano: Option<i64>,
    /// Time of the latest event stored, in nanoseconds since the epoch.
    pub last_nano: Option<i64>,
    /// Last event seen, stored or not.
    pub last_seen: Option<Identity>,
    /// Time at which the engine was reached last, in nanoseconds since the epoch.
    pub connected_nano: Option<i64>,
    /// Nanoseconds that the engine's clock was ahead of the recorder's when the engine was reached last.
    pub skew_nano: Option<i64>,
    /// Answer of the engine to `/version`, as JSON.
    pub version: Option<String>,
    /// Number of health check events that were not stored.
    pub excluded_healthchecks: u64,
}

impl SourceRow {
    /// Returns the name of the source in the hash chain: the ID of the engine, or the name of an import.
    fn chain_name(&self) -> &str {
        self.engine_id.as_deref().unwrap_or(&self.name)
    }
}

/// Reason of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Events from before the first session with the engine.
    FirstContact,
    /// The engine cannot be reached, and it is not known yet whether anything is missing.
    Disconnected,
    /// The engine lost its backlog, or another engine now answers at the host.
    EngineRestart,
    /// More events happened than the backlog keeps.
    Overrun,
    /// Events arrived faster than they could be stored, and the recorder's buffer was full.
    BufferFull,
    /// The engine counted more events than it sent.
    DroppedByEngine,
    /// The store file was moved, deleted or replaced; or two merged stores both lack the period.
    StoreFailed,
}

impl GapReason {
    /// All reasons.
    pub const ALL: [GapReason; 7] = [
        GapReason::FirstContact,
        GapReason::Disconnected,
        GapReason::EngineRestart,
        GapReason::Overrun,
        GapReason::BufferFull,
        GapReason::DroppedByEngine,
        GapReason::StoreFailed,
    ];

    /// Returns the reason with this name, as `gaps` prints it.
    pub fn from_name(name: &str) -> Option<GapReason> {
        GapReason::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Returns the name that `gaps` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            GapReason::FirstContact => "first-contact",
            GapReason::Disconnected => "disconnected",
            GapReason::EngineRestart => "engine-restart",
            GapReason::Overrun => "overrun",
            GapReason::BufferFull => "buffer-full",
            GapReason::DroppedByEngine => "dropped-by-engine",
            GapReason::StoreFailed => "store-failed",
        }
    }
}

/// Period in which events are missing or may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRow {
    /// Name of the source.
    pub source: String,
    /// Start of the gap, in nanoseconds since the epoch; `None` if no event was seen before it.
    pub from_nano: Option<i64>,
    /// End of the gap, in nanoseconds since the epoch; `None` while it lasts.
    pub to_nano: Option<i64>,
    /// Reason: [`GapReason::as_str`], or a name that a newer version wrote.
    pub reason: String,
    /// More information for people.
    pub detail: Option<String>,
}

/// Rejected line: bytes of a stream or file that are not an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Name of the source.
    pub source: String,
    /// Time of arrival, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// Reason why the bytes were rejected.
    pub error: String,
    /// The bytes, cut at 64 KiB.
    pub bytes: Vec<u8>,
}

/// Error of the store.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum StoreError {
    #[error("cannot open {}: there is no such file", path.display())]
    NotFound { path: PathBuf },
    #[error("cannot open {}: it is a directory", path.display())]
    IsDirectory { path: PathBuf },
    #[error("cannot open {}: it is not a regular file", path.display())]
    NotRegularFile { path: PathBuf },
    #[error("cannot create {}: there is no directory {}", path.display(), directory.display())]
    DirectoryNotFound { path: PathBuf, directory: PathBuf },
    #[error("cannot open {}: it is not an SQLite database", path.display())]
    NotADatabase { path: PathBuf },
    #[error("cannot open {}: it is the database of another program", path.display())]
    ForeignDatabase { path: PathBuf },
    #[error("cannot open {}: its schema version is {found}, and this program supports at most {known}", path.display())]
    SchemaTooNew { path: PathBuf, found: i64, known: i64 },
    #[error("cannot read {}: its schema version is {found}, and this program reads version {known}", path.display())]
    SchemaTooOld { path: PathBuf, found: i64, known: i64 },
    #[error("cannot write {}: the file is read-only", path.display())]
    ReadOnly { path: PathBuf },
    #[error("cannot record into {}: another recorder{} is using the file", path.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    AlreadyRecording { path: PathBuf, pid: Option<u32> },
    #[error("cannot write {}: {}", path.display(), if *itself { "it is the store itself" } else { "the file already exists" })]
    AlreadyExists { path: PathBuf, itself: bool },
    #[error("cannot write {}: not enough space: {bytes} bytes are needed, and {free} are free", path.display())]
    NoSpace { path: PathBuf, bytes: u64, free: u64 },
    #[error("cannot {operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot {operation} {}", path.display())]
    Sqlite { operation: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error("cannot migrate {} to the newest schema", path.display())]
    Migrate { path: PathBuf, source: Box<rusqlite_migration::Error> },
}

impl StoreError {
    /// Returns a remedy for the user, if there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            StoreError::NotFound { .. } => "run `events record` first, or pass a path with --db or EVENTS_DB".into(),
            StoreError::IsDirectory { path } => format!("pass a file path, e.g. {}", path.join("events.db").display()),
            StoreError::DirectoryNotFound { directory, .. } => format!("run `mkdir -p {}`", directory.display()),
            StoreError::NotRegularFile { .. }
            | StoreError::NotADatabase { .. }
            | StoreError::ForeignDatabase { .. } => "pass another path with --db; this file was not changed".into(),
            StoreError::SchemaTooNew { .. } => "use a newer version of events; the file was not changed".into(),
            StoreError::SchemaTooOld { .. } => "run `events record` to migrate the file".into(),
            StoreError::ReadOnly { path } => format!("run `chmod u+w {}`, or pass another --db path", path.display()),
            StoreError::AlreadyExists { itself: true, .. } | StoreError::NoSpace { .. } => "pass another path".into(),
            StoreError::AlreadyExists { itself: false, .. } => {
                "pass another path, or use --force to replace the file".into()
            }
            StoreError::AlreadyRecording { .. } => {
                "pass another path with --db, or add this host to that recorder".into()
            }
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "run as the user who owns the file".into()
            }
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                "pass a path on a writable filesystem with --db".into()
            }
            StoreError::Io { .. } | StoreError::Sqlite { .. } | StoreError::Migrate { .. } => return None,
        })
    }

    /// Returns true if another connection has locked the file.
    pub fn is_busy(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        matches!(self, StoreError::Sqlite { source, .. }
            if matches!(source.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked)))
    }
}
