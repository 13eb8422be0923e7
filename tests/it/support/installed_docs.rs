//! Man pages and completions, installed in a temporary directory.

use std::path::Path;
use std::process::Command;

use crate::support::command::{TestDir, exists};

pub(crate) fn install() -> TestDir {
    let folder = TestDir::new();
    let prefix = folder.path("usr");
    for path in folder.lines(&["install-docs", "--prefix", &prefix.display().to_string()]) {
        assert!(path.starts_with(&*prefix.to_string_lossy()) && exists(path.as_ref()), "{path}");
    }
    folder
}

/// Command that runs a program on the installed files, with a cleared environment.
pub(crate) fn docs_command(folder: &TestDir, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // fish only completes commands that are in PATH.
    let binary_dir = Path::new(env!("CARGO_BIN_EXE_events")).parent().expect("the binary is in a directory");
    let path = format!("{}:{}", binary_dir.display(), std::env::var("PATH").unwrap_or_default());
    command.args(args).env_clear().env("PATH", path);
    command
        .env("HOME", folder.path(""))
        .env("XDG_DATA_DIRS", folder.path("usr/share"))
        .current_dir(folder.path("usr/share"));
    command
}
