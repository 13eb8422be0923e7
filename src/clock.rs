//! The clock of this machine.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the current time, in nanoseconds since the Unix epoch.
pub(crate) fn now_nano() -> i64 {
    // A clock before 1970 is as wrong as one after the year 2262. Both give a time that every comparison accepts.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
