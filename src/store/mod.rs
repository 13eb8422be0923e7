//! The SQLite file: its schema, its one writer, its readers. The only place that names rusqlite.
//!
//! Events are stored as the bytes they came as; whatever stands beside them only serves to find them. A reader never
//! writes, never waits for the writer, and never makes a file.

mod backup;
mod chain;
mod counters;
mod disk;
mod file;
mod healthcheck;
mod held;
mod keep;
pub mod layout;
mod lines;
mod lock;
mod migrate;
mod order;
mod place;
mod plan;
mod prune;
mod queue;
mod reader;
mod recent;
mod rows;
mod stretch;
mod sweep;
mod verify;
mod writer;

use std::path::PathBuf;

pub use backup::Copied;
pub use chain::{Head, NoHead};
pub use counters::{Counted, Counters, Kind};
pub use disk::{room, unsafe_disk};
pub use file::{APPLICATION_ID, Store, is_database};
pub use healthcheck::Untold;
pub use keep::Keep;
pub use layout::varies;
pub use lock::{HostState, RecorderLock, RecorderState, recorder};
pub use place::Place;
pub use plan::{Actions, ActorPasses, ActorTest, Ask};
pub use prune::{Pruned, Sealed};
pub use queue::{Full, Progress, Queue};
pub use reader::{GapKnown, Judge, Order, Reader, Snapshot, Stored};
pub use verify::{Fault, Verified};
pub use writer::{
    Delivery, GapChange, Limits, Outcome, REJECTED_ROWS, Rejection, SourceKey, Stored as Written, WriteFailed,
    spawn_writer,
};

use crate::event::Identity;

/// A source of events: an engine, or a name under which files were imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRow {
    /// The row.
    pub id: i64,
    /// The engine's own ID; `None` for imports.
    pub engine_id: Option<String>,
    /// The name users call it by.
    pub name: String,
    /// Where it was last reached; `None` for imports.
    pub host: Option<String>,
    /// How many events are stored.
    pub events: u64,
    /// How many lines that are no event are stored.
    pub rejected: u64,
    /// The instant of the earliest event stored, in nanoseconds since the epoch.
    pub first_nano: Option<i64>,
    /// The instant of the latest event stored.
    pub last_nano: Option<i64>,
    /// The last event seen, stored or not.
    pub last_seen: Option<Identity>,
    /// When it was last reached, in nanoseconds since the epoch.
    pub contacted_nano: Option<i64>,
    /// How far the engine's clock was ahead of the recorder's when it was last reached, in nanoseconds.
    pub skew_nano: Option<i64>,
    /// What the engine said of itself on `/version`, as JSON.
    pub version: Option<String>,
    /// How many events of health checks were not stored.
    pub healthchecks_left_out: u64,
}

impl SourceRow {
    /// What the hash chain calls it: the engine's own ID, or the name of an import.
    fn chain_name(&self) -> &str {
        self.engine_id.as_deref().unwrap_or(&self.name)
    }
}

/// Why the record is blind somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// What happened before the engine was first reached.
    FirstContact,
    /// The engine cannot be reached, and whether anything is missed is not known yet.
    Disconnected,
    /// The engine's memory began anew.
    EngineRestart,
    /// More happened than the engine's memory holds.
    Overrun,
    /// More came than the recorder's own memory was allowed to hold.
    BufferFull,
    /// The engine counted more events than it sent.
    DroppedByEngine,
    /// The file that was recorded into is not there any more.
    StoreFailed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 7] = [
        Reason::FirstContact,
        Reason::Disconnected,
        Reason::EngineRestart,
        Reason::Overrun,
        Reason::BufferFull,
        Reason::DroppedByEngine,
        Reason::StoreFailed,
    ];

    /// By the name that `gaps` prints.
    pub fn named(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// The name that `gaps` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::FirstContact => "first-contact",
            Reason::Disconnected => "disconnected",
            Reason::EngineRestart => "engine-restart",
            Reason::Overrun => "overrun",
            Reason::BufferFull => "buffer-full",
            Reason::DroppedByEngine => "dropped-by-engine",
            Reason::StoreFailed => "store-failed",
        }
    }
}

/// A stretch of time that the record does not cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRow {
    /// The name of the source.
    pub source: String,
    /// From this instant, in nanoseconds since the epoch; `None` where nothing was seen before.
    pub from_nano: Option<i64>,
    /// To this instant; `None` while it lasts.
    pub to_nano: Option<i64>,
    /// [`Reason::as_str`], or what a later version wrote.
    pub reason: String,
    /// What more is known of it.
    pub detail: Option<String>,
}

/// Bytes that came down a stream and are no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// The name of the source.
    pub source: String,
    /// When, in nanoseconds since the epoch.
    pub received_nano: i64,
    /// What is wrong with them.
    pub error: String,
    /// The bytes, cut at 64 KiB.
    pub bytes: Vec<u8>,
}

/// What can go wrong with the file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum StoreError {
    #[error("cannot open {}: there is no such file", path.display())]
    Missing { path: PathBuf },
    #[error("cannot open {}: it is a directory", path.display())]
    IsDirectory { path: PathBuf },
    #[error("cannot open {}: it is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("cannot make {}: there is no directory {}", path.display(), directory.display())]
    NoDirectory { path: PathBuf, directory: PathBuf },
    #[error("cannot open {}: it is not an SQLite database", path.display())]
    NotADatabase { path: PathBuf },
    #[error("cannot open {}: it is the database of another program", path.display())]
    Foreign { path: PathBuf },
    #[error("cannot open {}: its schema is version {found}, this program knows versions up to {known}", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("cannot read {}: its schema is version {found}, this program reads version {known}", path.display())]
    Older { path: PathBuf, found: i64, known: i64 },
    #[error("cannot write {}: the file is read-only", path.display())]
    ReadOnly { path: PathBuf },
    #[error("cannot record into {}: a recorder{} does so already", path.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Recorded { path: PathBuf, pid: Option<u32> },
    #[error("cannot write {}: {}", path.display(), if *itself { "it is the store itself" } else { "there is a file already" })]
    Exists { path: PathBuf, itself: bool },
    #[error("cannot write {}: {bytes} bytes are needed, and {free} are free", path.display())]
    NoRoom { path: PathBuf, bytes: u64, free: u64 },
    #[error("cannot {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot {doing} {}", path.display())]
    Sqlite { doing: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error("cannot bring {} to the newest schema", path.display())]
    Migrate { path: PathBuf, source: Box<rusqlite_migration::Error> },
}

impl StoreError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            StoreError::Missing { .. } => "`events record` makes it; --db or EVENTS_DB names another".into(),
            StoreError::IsDirectory { path } => format!("name a file in it, as {}", path.join("events.db").display()),
            StoreError::NoDirectory { directory, .. } => format!("mkdir -p {}", directory.display()),
            StoreError::NotAFile { .. } | StoreError::NotADatabase { .. } | StoreError::Foreign { .. } => {
                "name another file with --db; this one is left as it is".into()
            }
            StoreError::Newer { .. } => "use a newer version of events; the file is left as it is".into(),
            StoreError::Older { .. } => "`events record` brings it to the newest version".into(),
            StoreError::ReadOnly { path } => format!("chmod u+w {}, or name another file with --db", path.display()),
            StoreError::Exists { itself: true, .. } | StoreError::NoRoom { .. } => "name another file".into(),
            StoreError::Exists { itself: false, .. } => "name another file, or --force".into(),
            StoreError::Recorded { .. } => "name another file with --db, or give that recorder this host too".into(),
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "run as the user it belongs to".into()
            }
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                "name another file with --db".into()
            }
            StoreError::Io { .. } | StoreError::Sqlite { .. } | StoreError::Migrate { .. } => return None,
        })
    }

    /// Whether another connection holds the file just now.
    pub fn is_busy(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        matches!(self, StoreError::Sqlite { source, .. }
            if matches!(source.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked)))
    }
}
