//! `events prune`: lets go of the oldest part of the record.

use std::time::Duration;

use super::kept::Kept;
use super::{Failure, Shared, now_nano};
use crate::store::Store;

/// Between two steps the recorder gets at the file.
const BREATH: Duration = Duration::from_millis(20);

/// The flags of `prune`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).multiple(true).args(["retain", "max_size"])))]
pub(super) struct Args {
    #[command(flatten)]
    kept: Kept,
    /// Say what would go, and let nothing go
    #[arg(long, help_heading = "Keeping")]
    dry_run: bool,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let now = now_nano();
    let keep = args.kept.keep()?;
    let (before, most) = (keep.oldest(now), keep.bytes.unwrap_or(u64::MAX));
    let path = shared.db()?;
    let mut store = Store::open(&path)?;
    let used = store.used_bytes()?;
    if args.dry_run {
        let by_age = store.prunable(before)?.map_or(0, |pruned| pruned.events);
        let all: u64 = store.sources()?.iter().map(|source| source.events).sum();
        // By size it is not known before it is done; events are much alike.
        let over = used.saturating_sub(most);
        let by_size = (u128::from(all) * u128::from(over)).div_ceil(u128::from(used.max(1))) as u64;
        let about = if by_size > by_age { "about " } else { "" };
        let whole = "; what goes ends at every 64th entry of the record, so a few that are older may stay";
        let why = if keep.age.is_some() && by_size <= by_age { whole } else { "" };
        tracing::info!("{about}{} of {all} events would go{why}", by_age.max(by_size));
        return Ok(());
    }
    let breathe = || std::thread::sleep(BREATH);
    let mut events = 0;
    loop {
        // Not more of the record than must.
        if store.used_bytes()? > most && store.has_many_unused_texts()? {
            store.sweep(now, breathe)?;
        }
        let Some(pruned) = store.prune(before, most, now)? else { break };
        events += pruned.events;
        breathe();
    }
    store.sweep(now, breathe)?;
    let left = store.used_bytes()?;
    tracing::info!("{events} events were let go of; {left} bytes are used, of {used} before");
    if left > most {
        return Err(Failure::failed(format!("the file still has {left} bytes, more than --max-size"))
            .hint("nothing more can go: what is left are the newest entries and what must stay"));
    }
    Ok(())
}
