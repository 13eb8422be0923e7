//! Man pages and completions, installed below a temporary folder.

use std::path::Path;
use std::process::Command;

use crate::support::command::{Folder, exists};

pub(crate) fn installed() -> Folder {
    let folder = Folder::new();
    let prefix = folder.path("usr");
    for path in folder.lines(&["install-docs", "--prefix", &prefix.display().to_string()]) {
        assert!(path.starts_with(&*prefix.to_string_lossy()) && exists(path.as_ref()), "{path}");
    }
    folder
}

/// A program on what was installed, with nothing of the environment.
pub(crate) fn reader(folder: &Folder, program: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    // fish completes only what it finds.
    let events = Path::new(env!("CARGO_BIN_EXE_events")).parent().expect("it is in a folder");
    let path = format!("{}:{}", events.display(), std::env::var("PATH").unwrap_or_default());
    command.args(words).env_clear().env("PATH", path);
    command
        .env("HOME", folder.path(""))
        .env("XDG_DATA_DIRS", folder.path("usr/share"))
        .current_dir(folder.path("usr/share"));
    command
}
