//! `events doctor`: checks each step from an engine to the store, and prints what to do about each failure.

mod engine;
mod exercise;
mod findings;
mod recorded_store;
mod store;

use tokio::signal::unix::{SignalKind, signal};

use super::args::HostArgs;
use super::{Failure, Shared, runtime};
use findings::Findings;

/// The options of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    hosts: HostArgs,
    /// Also check each engine by running containers of this image
    ///
    /// Creates two containers on each engine, waits for their events in a store, reads their logs and removes them. The
    /// image must be present and have `sh`. Example: `--exercise busybox`.
    #[arg(long, value_name = "IMAGE", help_heading = "Check options")]
    exercise: Option<String>,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let hosts = args.hosts.resolve()?;
    let path = shared.db_path()?;
    let runtime = runtime::current_thread()?;
    let mut findings = Findings::new(shared.quiet);
    runtime.block_on(async {
        for host in &hosts {
            findings.section(host.url())?;
            let client = engine::check(host, &mut findings).await?;
            if let Some(image) = &args.exercise {
                match client {
                    Some(client) => {
                        exercise::check(host, &client, image, &path, shutdown_signal(), &mut findings).await?;
                    }
                    None => findings.skip("exercise with containers")?,
                }
            }
        }
        findings.section(&path.display().to_string())?;
        store::check(&path, &mut findings)
    })?;
    runtime.shutdown_background();
    findings.result()
}

/// Resolves on SIGTERM or SIGINT.
async fn shutdown_signal() {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    let [Ok(mut sigterm), Ok(mut sigint)] = kinds.map(signal) else { return std::future::pending().await };
    tokio::select! {
        _ = sigterm.recv() => {}
        _ = sigint.recv() => {}
    }
}
