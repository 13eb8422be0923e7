//! Warnings about windows that overlap a gap or the pruned part of the record.

use crate::cli::Failure;
use crate::query::Selection;
use crate::query::time::rfc3339;
use crate::store::{GapReason, GapRow, Reader};

/// Warning about the gaps that overlap the window. A `first-contact` gap counts only if the window was set to include
/// that time.
pub(super) fn gap_warning(gaps: &[GapRow], selection: &Selection, source: Option<&str>) -> Option<String> {
    let overlapping: Vec<&GapRow> = gaps
        .iter()
        .filter(|gap| source.is_none_or(|name| name == gap.source))
        .filter(|gap| {
            let window_is_before = gap.to_nano.zip(selection.until).is_some_and(|(to, until)| until < to);
            gap.reason != GapReason::FirstContact.as_str() || selection.since.is_some() || window_is_before
        })
        .filter(|gap| gap.from_nano.zip(selection.until).is_none_or(|(from, until)| from <= until))
        .filter(|gap| gap.to_nano.zip(selection.since).is_none_or(|(to, since)| to > since))
        .collect();
    let newest = overlapping.last()?;
    let from = newest.from_nano.map_or_else(|| "the beginning".into(), rfc3339);
    let to = newest.to_nano.map_or_else(|| "now".into(), rfc3339);
    let count_text = match overlapping.len() {
        1 => "a gap".to_owned(),
        n => format!("{n} gaps, the newest"),
    };
    Some(format!(
        "this window overlaps {count_text} in the record of {}: from {from} to {to} ({}); `events gaps` shows all",
        newest.source, newest.reason
    ))
}

/// Warning about a window that was set to include a time from which events were pruned.
pub(super) fn pruned_warning(
    reader: &Reader,
    selection: &Selection,
    source: Option<i64>,
) -> Result<Option<String>, Failure> {
    if reader.latest_checkpoint()?.is_none() {
        return Ok(None);
    }
    let rows = reader.sources()?.into_iter().filter(|row| source.is_none_or(|id| id == row.id));
    let Some(oldest_nano) = rows.filter_map(|row| row.first_nano).min() else {
        return Ok(Some("events were pruned, and none are left".into()));
    };
    let starts_before = selection.since.or(selection.until).is_some_and(|start| start < oldest_nano);
    Ok(starts_before.then(|| {
        format!(
            "this window begins in the pruned part of the record: the oldest event left is from {}",
            rfc3339(oldest_nano)
        )
    }))
}
