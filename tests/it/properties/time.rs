//! Times and durations: a printed time parses to itself, and times that chrono parses are parsed alike.

use chrono::{DateTime, Timelike};
use events::query::time::{parse_duration, parse_time, parse_unix_time, rfc3339};

pub(crate) fn check(input: &[u8]) {
    let Some((now, text)) = input.split_first_chunk() else { return };
    let now = i64::from_le_bytes(*now);
    assert_eq!(parse_time(&rfc3339(now), 0), Ok(now), "{}", rfc3339(now));

    let text = &*String::from_utf8_lossy(text);
    let time = parse_time(text, now);
    if let Ok(nanos) = time {
        assert_eq!(parse_time(&rfc3339(nanos), 0), Ok(nanos), "{text}");
    }
    if let Ok(duration) = parse_duration(text) {
        let nanos = i64::try_from(duration.as_nanos()).expect("Go's durations have 63 bits");
        assert!(text == "0" || time == Ok(now.saturating_sub(nanos)), "{text}");
        let written = format!("{}w{}ns", nanos / 604_800_000_000_000, nanos % 604_800_000_000_000);
        assert_eq!(parse_duration(&written).map(|same| same.as_nanos()), Ok(nanos as u128), "{text}");
    }
    if let Some(instant) = parse_unix_time(text) {
        assert_eq!(time.clone().ok(), instant, "{text}");
    }
    // chrono also accepts lower case letters, a space and leap seconds.
    if let Ok(chrono_time) = DateTime::parse_from_rfc3339(text)
        && chrono_time.nanosecond() < 1_000_000_000
        && !text.contains(['t', 'z', ' '])
    {
        let clamped = if chrono_time.timestamp() < 0 { i64::MIN } else { i64::MAX };
        assert_eq!(time, Ok(chrono_time.timestamp_nanos_opt().unwrap_or(clamped)), "{text}");
    }
}
