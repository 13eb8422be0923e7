//! Times and durations as users write them: what is printed reads back, and what chrono reads is read alike.

use chrono::{DateTime, Timelike};
use events::query::time::{parse_duration, parse_time, rfc3339, unix_time};

pub(crate) fn check(input: &[u8]) {
    let Some((now, text)) = input.split_first_chunk() else { return };
    let now = i64::from_le_bytes(*now);
    assert_eq!(parse_time(&rfc3339(now), 0), Ok(now), "{}", rfc3339(now));

    let text = &*String::from_utf8_lossy(text);
    let time = parse_time(text, now);
    if let Ok(nanos) = time {
        assert_eq!(parse_time(&rfc3339(nanos), 0), Ok(nanos), "{text}");
    }
    if let Ok(back) = parse_duration(text) {
        let back = i64::try_from(back.as_nanos()).expect("Go's durations have 63 bits");
        assert!(text == "0" || time == Ok(now.saturating_sub(back)), "{text}");
        let written = format!("{}w{}ns", back / 604_800_000_000_000, back % 604_800_000_000_000);
        assert_eq!(parse_duration(&written).map(|same| same.as_nanos()), Ok(back as u128), "{text}");
    }
    if let Some(instant) = unix_time(text) {
        assert_eq!(time.clone().ok(), instant, "{text}");
    }
    // chrono takes small letters, a space and leap seconds besides.
    if let Ok(theirs) = DateTime::parse_from_rfc3339(text)
        && theirs.nanosecond() < 1_000_000_000
        && !text.contains(['t', 'z', ' '])
    {
        let clamped = if theirs.timestamp() < 0 { i64::MIN } else { i64::MAX };
        assert_eq!(time, Ok(theirs.timestamp_nanos_opt().unwrap_or(clamped)), "{text}");
    }
}
