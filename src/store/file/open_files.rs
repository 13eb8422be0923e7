//! Open-file registry: the files that this process has open through SQLite.
//!
//! A process that closes any descriptor of a file loses all its POSIX locks on that file, including those of other
//! threads. SQLite handles this for its own connections only. So no other code may open a file while a connection has
//! it open. Without the lock, another program that closes the file would take itself for the last user and remove the
//! WAL that is still being written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::identity::DeviceInode;

/// Number of connections for each open file.
static OPEN_FILES: Mutex<BTreeMap<DeviceInode, usize>> = Mutex::new(BTreeMap::new());

/// Lock of the registry. While it is held, no other thread opens or closes a store.
pub(in crate::store) struct RegistryLock(MutexGuard<'static, BTreeMap<DeviceInode, usize>>);

/// Registration of a file that a connection has open. Drop it after the connection.
#[derive(Debug)]
pub(in crate::store) struct OpenFile(Option<DeviceInode>);

impl RegistryLock {
    pub(in crate::store) fn acquire() -> RegistryLock {
        RegistryLock(OPEN_FILES.lock().expect("no thread panics while it holds this lock"))
    }

    /// Returns true if a connection of this process has the file at `path` open. Then no other code may open it.
    pub(in crate::store) fn is_open(&self, path: &Path) -> bool {
        DeviceInode::of(path).is_ok_and(|inode| self.0.contains_key(&inode))
    }

    /// Registers the file at `path`, which a connection has opened.
    pub(in crate::store) fn register(&mut self, path: &Path) -> OpenFile {
        let inode = DeviceInode::of(path).ok();
        if let Some(inode) = inode {
            *self.0.entry(inode).or_insert(0) += 1;
        }
        OpenFile(inode)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let Some(inode) = self.0 else { return };
        let mut open_files = OPEN_FILES.lock().expect("no thread panics while it holds this lock");
        if let Some(count) = open_files.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                open_files.remove(&inode);
            }
        }
    }
}
