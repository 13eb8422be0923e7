//! Starts the async runtimes of commands.

use tokio::runtime::{Builder, Runtime};

use super::Failure;

/// Starts a runtime with one thread, for commands that mostly wait.
pub(super) fn current_thread() -> Result<Runtime, Failure> {
    start(&mut Builder::new_current_thread())
}

/// Starts a runtime with a thread for each core, for commands that serve many clients.
pub(super) fn multi_thread() -> Result<Runtime, Failure> {
    start(&mut Builder::new_multi_thread())
}

fn start(builder: &mut Builder) -> Result<Runtime, Failure> {
    builder.enable_all().build().map_err(|e| Failure::failed(format!("cannot start the async runtime: {e}")))
}
