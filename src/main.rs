//! The `events` program. Calls [`events::cli::main`] and exits with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    events::cli::main(std::env::args_os()).into()
}
