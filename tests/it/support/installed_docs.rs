//! Man pages and completions, installed in a temporary directory.

use std::path::Path;
use std::process::Command;

use crate::support::command::{TestDir, exists};

pub(crate) fn install() -> TestDir {
    let test_dir = TestDir::new();
    let prefix = test_dir.path("usr");
    for path in test_dir.lines(&["install-docs", "--prefix", &prefix.display().to_string()]) {
        assert!(path.starts_with(&*prefix.to_string_lossy()) && exists(path.as_ref()), "{path}");
    }
    test_dir
}

/// Command that runs a program on the installed files, with a cleared environment.
pub(crate) fn docs_command(test_dir: &TestDir, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // fish only completes commands that are in PATH.
    let binary_dir = Path::new(env!("CARGO_BIN_EXE_events")).parent().expect("the binary is in a directory");
    let path = format!("{}:{}", binary_dir.display(), std::env::var("PATH").unwrap_or_default());
    command.args(args).env_clear().env("PATH", path);
    command
        .env("HOME", test_dir.path(""))
        .env("XDG_DATA_DIRS", test_dir.path("usr/share"))
        .current_dir(test_dir.path("usr/share"));
    command
}
