//! Errors of the store: each names the file, the problem and, where there is one, the remedy.

use std::path::{Path, PathBuf};

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

/// Returns a function that converts an error of SQLite into a [`StoreError`].
pub(in crate::store) fn sqlite_error<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl Fn(rusqlite::Error) -> StoreError + 'a {
    move |source| StoreError::Sqlite { operation, path: path.into(), source }
}
