//! Checks that the store can be written, and that its disk is suitable and has space.

use std::io;
use std::path::Path;

use super::findings::Findings;
use crate::cli::Failure;
use crate::cli::args::format_size;
use crate::error::count_noun;
use crate::store::{self, Reader, Store, free_bytes, unsafe_filesystem};

/// Smallest free space, in bytes, that passes. With less, a recorder soon fills the disk.
const MIN_FREE_BYTES: u64 = 256 << 20;

/// Checks the store, then the disk under it. Changes nothing.
pub(super) fn check(path: &Path, findings: &mut Findings) -> io::Result<()> {
    match store::recorder_state(path) {
        Some(recorder) => findings.pass(&format!("a recorder writes to the store (pid {})", recorder.pid))?,
        None => {
            let text = |exists: &bool| {
                if *exists { "the store can be written" } else { "the store can be created" }.to_owned()
            };
            findings.report(Store::check_writable(path), text)?;
        }
    }
    if path.exists() {
        let events = Reader::open(path).and_then(|reader| reader.sources());
        findings.report(events, |sources| {
            format!("the store contains {}", count_noun(sources.iter().map(|source| source.events).sum(), "event"))
        })?;
    }
    // The nearest directory that exists, if that of the store does not exist yet.
    let Some(existing_dir) = path.ancestors().skip(1).map(dir_or_current).find(|dir| dir.exists()) else {
        return Ok(());
    };
    if let Some(filesystem) = unsafe_filesystem(existing_dir) {
        findings
            .fail(&Failure::failed(format!("the store is on {filesystem}")).hint(
                "pass a path on a local disk with --db: SQLite's locks and WAL are not safe on this filesystem",
            ))?;
    }
    let free_bytes = free_bytes(existing_dir).map_err(|e| {
        Failure::failed(format!(
            "cannot read the free space on the disk of {}: {}",
            existing_dir.display(),
            crate::error::chain(&e)
        ))
    });
    let free_bytes = free_bytes.and_then(|free_bytes| {
        if free_bytes < MIN_FREE_BYTES { Err(low_space_failure(free_bytes)) } else { Ok(free_bytes) }
    });
    findings.report(free_bytes, |free_bytes| format!("free space on the disk: {}", format_size(*free_bytes)))?;
    Ok(())
}

fn dir_or_current(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn low_space_failure(free_bytes: u64) -> Failure {
    Failure::failed(format!("the disk has only {} free", format_size(free_bytes)))
        .hint("delete the oldest events with `events prune --max-size`")
}
