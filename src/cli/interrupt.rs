//! SIGINT and SIGTERM for a command that cleans up before it exits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use super::Failure;

/// Flag that SIGINT or SIGTERM sets.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Returns true if a signal was received.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts to catch the signals: they set the flag and no longer end the process.
pub(super) fn watch() -> Result<Interrupt, Failure> {
    let signal_error = |e| Failure::failed(format!("cannot listen for signals: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(signal_error)?;
    let (mut sigterm, mut sigint) = {
        let _guard = runtime.enter();
        (signal(SignalKind::terminate()).map_err(signal_error)?, signal(SignalKind::interrupt()).map_err(signal_error)?)
    };
    let interrupt = Interrupt(Arc::default());
    let flag = interrupt.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = sigterm.recv() => {}
                    _ = sigint.recv() => {}
                }
            });
            flag.0.store(true, Ordering::Relaxed);
        })
        .map_err(signal_error)?;
    Ok(interrupt)
}
