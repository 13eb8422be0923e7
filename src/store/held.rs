//! Which files this process has open through SQLite.
//!
//! A process that closes any descriptor of a file lets go of all its POSIX locks on it, whoever in the process took
//! them. SQLite minds that among its own connections; whatever else would open a file to look at it must not while one
//! of them is open. Without its lock another program that closes the file takes itself for the last one, and removes the
//! WAL that is still being written.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// Device and inode.
type Inode = (u64, u64);

/// How many connections each file has.
static OPEN: Mutex<BTreeMap<Inode, usize>> = Mutex::new(BTreeMap::new());

/// For as long as it lives no other thread opens or closes a file.
pub(super) struct Gate(MutexGuard<'static, BTreeMap<Inode, usize>>);

/// A file with a connection of this process. To be dropped after the connection.
#[derive(Debug)]
pub(super) struct Held(Option<Inode>);

impl Gate {
    pub(super) fn enter() -> Gate {
        Gate(OPEN.lock().expect("no holder of this lock panics"))
    }

    /// Whether a connection of this process has the file at a path open: then it may not be opened beside it.
    pub(super) fn holds(&self, path: &Path) -> bool {
        inode(path).is_some_and(|inode| self.0.contains_key(&inode))
    }

    /// A connection has opened the file at a path.
    pub(super) fn hold(&mut self, path: &Path) -> Held {
        let inode = inode(path);
        if let Some(inode) = inode {
            *self.0.entry(inode).or_insert(0) += 1;
        }
        Held(inode)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(inode) = self.0 else { return };
        let mut open = OPEN.lock().expect("no holder of this lock panics");
        if let Some(count) = open.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                open.remove(&inode);
            }
        }
    }
}

fn inode(path: &Path) -> Option<Inode> {
    path.metadata().ok().map(|found| (found.dev(), found.ino()))
}
