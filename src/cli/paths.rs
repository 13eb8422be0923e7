//! The path of the store, and its default directory.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::{Failure, Shared};

impl Shared {
    /// Path of the store: `--db`, `$EVENTS_DB`, or the default.
    pub(super) fn db_path(&self) -> Result<PathBuf, Failure> {
        match &self.db {
            Some(path) if !path.as_os_str().is_empty() => Ok(path.clone()),
            _ => {
                default_db_path(rustix::process::geteuid().is_root(), |name| std::env::var_os(name)).ok_or_else(|| {
                    Failure::usage("cannot find a home directory for the store").hint("pass a file path with --db")
                })
            }
        }
    }

    /// Creates the directory of the default store. The directory of a path that the user passed must exist.
    pub(super) fn create_default_dir(&self) -> Result<(), Failure> {
        if self.db.as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
            return Ok(());
        }
        let path = self.db_path()?;
        let Some(dir) = path.parent() else { return Ok(()) };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| {
            Failure::failed(format!("cannot create the directory {}: {}", dir.display(), crate::error::chain(&e)))
        })
    }
}

fn default_db_path(is_root: bool, env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if is_root {
        return Some("/var/lib/events/events.db".into());
    }
    let absolute_path = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state_dir = absolute_path("XDG_STATE_HOME").or_else(|| Some(absolute_path("HOME")?.join(".local/state")))?;
    Some(state_dir.join("events/events.db"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_store_is_in_the_state_directory() {
        let db = |root, set: &[(&str, &str)]| {
            let env = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            default_db_path(root, env)
        };
        let home = [("HOME", "/home/a")];
        assert_eq!(db(true, &home), Some("/var/lib/events/events.db".into()));
        assert_eq!(db(false, &home), Some("/home/a/.local/state/events/events.db".into()));
        assert_eq!(db(false, &[("XDG_STATE_HOME", "/s"), home[0]]), Some("/s/events/events.db".into()));
        assert_eq!(db(false, &[("XDG_STATE_HOME", ""), home[0]]), Some("/home/a/.local/state/events/events.db".into()));
        assert_eq!(db(false, &[]), None);
    }
}
