//! Pages of the file and of the WAL: how many there are, and how they return to the filesystem.

use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use crate::store::file::open::BUSY_TIMEOUT;

/// Number of free pages returned to the filesystem in one step.
pub(super) const VACUUM_STEP_PAGES: u64 = 1_000;

/// Size of the file without its free pages, in bytes.
pub(super) fn used_bytes(db: &Connection) -> rusqlite::Result<u64> {
    Ok((pages(db)? - free_pages(db)?) * read_pragma(db, "page_size")?)
}

/// Number of pages.
pub(super) fn pages(db: &Connection) -> rusqlite::Result<u64> {
    read_pragma(db, "page_count")
}

/// Number of free pages.
pub(super) fn free_pages(db: &Connection) -> rusqlite::Result<u64> {
    read_pragma(db, "freelist_count")
}

fn read_pragma(db: &Connection, pragma: &str) -> rusqlite::Result<u64> {
    db.prepare_cached(&format!("PRAGMA {pragma}"))?.query_row([], |row| row.get(0))
}

/// Returns some of the free pages to the filesystem.
pub(super) fn incremental_vacuum(db: &Connection, pages: u64) -> rusqlite::Result<()> {
    let mut vacuum = db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    Ok(())
}

/// Truncates the WAL, which contains the deleted texts until it is overwritten. Returns false if a reader is using it.
pub(super) fn truncate_wal(db: &Connection) -> rusqlite::Result<bool> {
    // Waiting for a reader here would delay the writer.
    db.busy_timeout(Duration::ZERO)?;
    let busy = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    db.busy_timeout(BUSY_TIMEOUT)?;
    match busy {
        Ok(busy) => Ok(!busy),
        Err(e) if matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}
