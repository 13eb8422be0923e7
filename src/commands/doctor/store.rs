//! Whether there is a place to record into.

use std::io;
use std::path::Path;

use super::findings::Findings;
use crate::commands::{Failure, size_text};
use crate::error::number;
use crate::store::{self, Reader, Store, room, unsafe_disk};

/// With less room, in bytes, a recorder soon stands still.
const LITTLE: u64 = 256 << 20;

/// From the file to the disk under it. Changes nothing.
pub(super) fn check(path: &Path, findings: &mut Findings) -> io::Result<()> {
    match store::recorder(path) {
        Some(recorder) => findings.holds(&format!("a recorder writes to it (pid {})", recorder.pid))?,
        None => {
            let what = |there: &bool| if *there { "it can be written" } else { "it can be made" }.to_owned();
            findings.note(Store::can_be_written(path), what)?;
        }
    }
    if path.exists() {
        let events = Reader::open(path).and_then(|reader| reader.sources());
        findings.note(events, |sources| {
            format!("it holds {}", number(sources.iter().map(|source| source.events).sum(), "event"))
        })?;
    }
    // The folder that is there already, if the store's own is yet to be made.
    let Some(folder) = path.ancestors().skip(1).map(folder).find(|folder| folder.exists()) else { return Ok(()) };
    if let Some(kind) = unsafe_disk(folder) {
        findings.fails(
            &Failure::failed(format!("it is on {kind}"))
                .hint("SQLite's locks and WAL are not safe there: name a file on a disk of this machine with --db"),
        )?;
    }
    let room = room(folder).map_err(|e| {
        Failure::failed(format!(
            "cannot tell the room on the disk of {}: {}",
            folder.display(),
            crate::error::chain(&e)
        ))
    });
    let room = room.and_then(|room| if room < LITTLE { Err(too_little(room)) } else { Ok(room) });
    findings.note(room, |room| format!("its disk has room: {}", size_text(*room)))?;
    Ok(())
}

fn folder(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn too_little(room: u64) -> Failure {
    Failure::failed(format!("its disk has only {} left", size_text(room)))
        .hint("`events prune --max-size` lets go of the oldest events")
}
