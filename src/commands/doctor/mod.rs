//! `events doctor`: goes from an engine to the store, step by step, and says at each whether it holds and what to do.

mod engine;
mod exercise;
mod findings;
mod store;

use tokio::signal::unix::{SignalKind, signal};

use super::hosts::Hosts;
use super::{Failure, Shared};
use findings::Findings;

/// The flags of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    hosts: Hosts,
    /// Create a container of this image at each engine, watch its events arrive in a store, read its logs, remove it; the
    /// image must be there and have `sh`
    #[arg(long, value_name = "IMAGE", help_heading = "Checking")]
    exercise: Option<String>,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let hosts = args.hosts.find()?;
    let path = shared.db()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let mut findings = Findings::new(shared.quiet);
    runtime.block_on(async {
        for host in &hosts {
            findings.about(host.url())?;
            let reached = engine::check(host, &mut findings).await?;
            if let Some(image) = &args.exercise {
                match reached {
                    Some(client) => exercise::check(host, &client, image, &path, stopped(), &mut findings).await?,
                    None => findings.left_out("the way of a container")?,
                }
            }
        }
        findings.about(&path.display().to_string())?;
        store::check(&path, &mut findings)
    })?;
    runtime.shutdown_background();
    findings.verdict()
}

/// Comes when the program is to stop.
async fn stopped() {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    let [Ok(mut terminated), Ok(mut interrupted)] = kinds.map(signal) else { return std::future::pending().await };
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
}
