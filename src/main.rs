//! The binary: parse, run, error → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    events::commands::main(std::env::args_os()).into()
}
