//! Whether a path still leads to the file that was there: files are moved, deleted and replaced while they are open.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    /// The file that is at `path` now.
    ///
    /// # Errors
    /// There is none, or it cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Place> {
        let found = path.metadata()?;
        Ok(Place { path: path.into(), device: found.dev(), inode: found.ino() })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to it. While the file is held open no other can be mistaken for it.
    pub fn is_kept(&self) -> bool {
        match self.path.metadata() {
            Ok(found) => (found.dev(), found.ino()) == (self.device, self.inode),
            // What cannot be looked at just now is not gone.
            Err(e) => !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }

    /// Whether nothing is at the path any more.
    pub fn is_empty(&self) -> bool {
        !self.path.exists()
    }

    /// Removes the name, if it still leads to the file.
    pub(super) fn clear(&self) {
        if Place::of(&self.path).is_ok_and(|found| found == *self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_more_than_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        let file = std::fs::File::create(&here).unwrap();
        let place = Place::of(&here).unwrap();
        assert!(place.is_kept());
        std::fs::rename(&here, &there).unwrap();
        assert!(!place.is_kept() && place.is_empty());
        std::fs::write(&here, "another").unwrap();
        assert!(!place.is_kept() && !place.is_empty());
        place.clear();
        assert!(here.exists(), "another's name is left alone");
        std::fs::rename(&there, &here).unwrap();
        assert!(place.is_kept());
        place.clear();
        assert!(!here.exists());
        drop(file);
    }
}
