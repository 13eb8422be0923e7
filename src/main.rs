//! The `events` program. Calls [`events::commands::main`] and exits with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    events::commands::main(std::env::args_os()).into()
}
