//! `events prune`: deletes the oldest part of the record.

use std::time::Duration;

use super::args::RetentionArgs;
use super::{Failure, Shared};
use crate::clock::now_nano;
use crate::store::Store;

/// Pause between two steps, in which a recorder can write.
const STEP_DELAY: Duration = Duration::from_millis(20);

/// The options of `prune`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).multiple(true).args(["retain", "max_size"])))]
pub(super) struct Args {
    #[command(flatten)]
    retention: RetentionArgs,
    /// Print how many events would be deleted, and delete nothing
    #[arg(long, help_heading = "Retention options")]
    dry_run: bool,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let now = now_nano();
    let retention = args.retention.retention()?;
    let (cutoff_nano, max_bytes) = (retention.cutoff_nano(now), retention.max_bytes.unwrap_or(u64::MAX));
    let path = shared.db_path()?;
    let mut store = Store::open(&path)?;
    let used_before = store.used_bytes()?;
    if args.dry_run {
        let by_age = store.prunable(cutoff_nano)?.map_or(0, |pruned| pruned.events);
        let total: u64 = store.sources()?.iter().map(|source| source.events).sum();
        // The number for a size is known only afterwards. Events are similar in size, so it can be estimated.
        let excess = used_before.saturating_sub(max_bytes);
        let by_size = (u128::from(total) * u128::from(excess)).div_ceil(u128::from(used_before.max(1))) as u64;
        let about = if by_size > by_age { "about " } else { "" };
        let block_note = "; prune deletes whole groups of 64 entries, so a few older events may remain";
        let note = if retention.max_age.is_some() && by_size <= by_age { block_note } else { "" };
        tracing::info!("{about}{} of {total} events would be deleted{note}", by_age.max(by_size));
        return Ok(());
    }
    let pause = || std::thread::sleep(STEP_DELAY);
    let mut events = 0;
    loop {
        // Unused texts go first, so that no more events are deleted than necessary.
        if store.used_bytes()? > max_bytes && store.needs_garbage_collection()? {
            store.collect_garbage(now, pause)?;
        }
        let Some(pruned) = store.prune(cutoff_nano, max_bytes, now)? else { break };
        events += pruned.events;
        pause();
    }
    store.collect_garbage(now, pause)?;
    let used_after = store.used_bytes()?;
    tracing::info!("deleted {events} events; the file uses {used_after} bytes, {used_before} before");
    if used_after > max_bytes {
        return Err(Failure::failed(format!("the file still uses {used_after} bytes, more than --max-size"))
            .hint("raise --max-size: prune never deletes the newest entries"));
    }
    Ok(())
}
