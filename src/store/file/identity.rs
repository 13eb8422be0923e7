//! Identity of a file at a path, to detect that a file was moved, deleted or replaced while it is open.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode, which identify a file while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeviceInode {
    device: u64,
    inode: u64,
}

impl DeviceInode {
    pub(super) fn of(path: &Path) -> io::Result<DeviceInode> {
        let found = path.metadata()?;
        Ok(DeviceInode { device: found.dev(), inode: found.ino() })
    }
}

/// A file at a path, identified by device and inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    path: PathBuf,
    file: DeviceInode,
}

impl FileIdentity {
    /// Identifies the file that is at `path` now.
    ///
    /// # Errors
    /// The file does not exist, or its metadata cannot be read.
    pub fn of(path: &Path) -> io::Result<FileIdentity> {
        Ok(FileIdentity { path: path.into(), file: DeviceInode::of(path)? })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true if the path still leads to the file. While the file is open, no other file can have its inode.
    pub fn is_current(&self) -> bool {
        match DeviceInode::of(&self.path) {
            Ok(found) => found == self.file,
            // Any other error does not show that the file was removed.
            Err(e) => !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }

    /// Returns true if the path does not exist.
    pub fn is_missing(&self) -> bool {
        !self.path.exists()
    }

    /// Removes the name if it still leads to the file.
    pub(in crate::store) fn remove_if_current(&self) {
        if FileIdentity::of(&self.path).is_ok_and(|found| found == *self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_not_mistaken_for_the_original() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved_path) = (dir.path().join("here"), dir.path().join("there"));
        let file = std::fs::File::create(&path).unwrap();
        let identity = FileIdentity::of(&path).unwrap();
        assert!(identity.is_current());
        std::fs::rename(&path, &moved_path).unwrap();
        assert!(!identity.is_current() && identity.is_missing());
        std::fs::write(&path, "another").unwrap();
        assert!(!identity.is_current() && !identity.is_missing());
        identity.remove_if_current();
        assert!(path.exists(), "the name of another file is not removed");
        std::fs::rename(&moved_path, &path).unwrap();
        assert!(identity.is_current());
        identity.remove_if_current();
        assert!(!path.exists());
        drop(file);
    }
}
