//! Parses times and durations as users write them: every format of the docker client, plus `d`, `w` and `now`.
//!
//! A time without a zone is local and uses the offset of its own date. (The docker client uses today's offset, which is
//! an hour off for half of the year.) Instants are nanoseconds since the Unix epoch.

use std::time::Duration;

use chrono::{DateTime, Local, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike};

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// A text that is not a valid time or duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// The text has no known time format.
    #[error("invalid time '{0}'")]
    InvalidTime(String),
    /// Seconds that do not fit into 64 bits.
    #[error("time '{0}' is out of range")]
    OutOfRange(String),
    /// The text is not a duration, or is out of range.
    #[error("invalid duration '{0}'")]
    InvalidDuration(String),
}

impl TimeError {
    /// Describes the accepted formats.
    pub fn hint(&self) -> &'static str {
        match self {
            TimeError::InvalidTime(_) | TimeError::OutOfRange(_) => {
                "write 2026-11-24T15:04:05Z or a part of it, Unix seconds, a duration before now such as 1h30m or 7d, or now"
            }
            TimeError::InvalidDuration(_) => "write a duration such as 250ms, 10s, 1h30m, 7d or 2w",
        }
    }
}

/// Parses a time. Durations count back from `now`.
///
/// # Errors
/// [`TimeError::InvalidTime`] and [`TimeError::OutOfRange`].
pub fn parse_time(text: &str, now: i64) -> Result<i64, TimeError> {
    parse_time_in(text, now, &Local)
}

fn parse_time_in<Z: TimeZone>(text: &str, now: i64, zone: &Z) -> Result<i64, TimeError> {
    if text == "now" {
        return Ok(now);
    }
    if text != "0"
        && let Some(ago) = parse_duration_nanos(text)
    {
        return Ok(clamp_nanos(i128::from(now) - ago));
    }
    if let Some(instant) = parse_unix_time(text.strip_prefix('+').unwrap_or(text)) {
        return instant.ok_or_else(|| TimeError::OutOfRange(text.into()));
    }
    let (local, offset) = parse_calendar_time(text).ok_or_else(|| TimeError::InvalidTime(text.into()))?;
    let seconds = match offset {
        Some(utc_offset) => local.and_utc().timestamp() - utc_offset,
        None => resolve_local_time(local, zone).map_or(local.and_utc().timestamp(), |instant| instant.timestamp()),
    };
    Ok(clamp_nanos(i128::from(seconds) * i128::from(NANOS_PER_SECOND) + i128::from(local.nanosecond())))
}

/// Clamps to the instants that fit into 64 bits of nanoseconds, in the years 1677 to 2262. No event is outside them.
fn clamp_nanos(nanos: i128) -> i64 {
    nanos.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Parses Unix seconds with a fraction, as an engine does. The outer `None` means that the text is not a number, the
/// inner one that the number does not fit. A fraction counts as nine digits: shorter ones are padded, longer ones cut.
pub fn parse_unix_time(text: &str) -> Option<Option<i64>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let instant = || Some(unix_instant(whole.parse().ok()?, fraction.parse().ok()?, fraction.len()));
    Some(instant())
}

/// Returns the instant of whole seconds and a fraction with this number of digits.
pub fn unix_instant(seconds: i64, fraction: i64, digits: usize) -> i64 {
    let scale = 10f64.powi(9 - i32::try_from(digits).unwrap_or(i32::MAX));
    let nanos = (fraction as f64 * scale) as i64;
    clamp_nanos(i128::from(seconds) * i128::from(NANOS_PER_SECOND) + i128::from(nanos))
}

/// Parses RFC 3339 and the parts of it that the docker client accepts: a date, optionally with hours, minutes, seconds
/// and a fraction, each with or without a zone. Returns the time as written, and the seconds its zone is east of UTC.
fn parse_calendar_time(text: &str) -> Option<(NaiveDateTime, Option<i64>)> {
    let is_numeric_date = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let date = text.get(..10).filter(|date| is_numeric_date(date))?; // chrono would accept spaces and signs.
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let rest = &text[10..];
    let offset_at = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, offset) = rest.split_at(offset_at);
    let time = match clock.strip_prefix('T') {
        Some(clock) => parse_clock_time(clock)?,
        None if clock.is_empty() => NaiveTime::MIN,
        None => return None,
    };
    let utc_offset = match offset {
        "" => None,
        "Z" => Some(0),
        _ => {
            let (hours, minutes) = offset[1..].split_once(':')?;
            // Go accepts up to 24 and 60.
            let seconds =
                i64::from(parse_two_digits(hours, 24)?) * 3600 + i64::from(parse_two_digits(minutes, 60)?) * 60;
            Some(if offset.starts_with('-') { -seconds } else { seconds })
        }
    };
    Some((date.and_time(time), utc_offset))
}

/// Parses `15`, `15:04`, `15:04:05` or `15:04:05.999`. The hour may have one digit, and a comma may precede
/// the fraction.
fn parse_clock_time(text: &str) -> Option<NaiveTime> {
    let (clock, fraction) =
        text.split_once(['.', ',']).map_or((text, None), |(clock, fraction)| (clock, Some(fraction)));
    let mut parts = clock.split(':');
    let hour = parts.next()?;
    let hour = if hour.len() == 1 { parse_two_digits(&format!("0{hour}"), 23)? } else { parse_two_digits(hour, 23)? };
    let minute = parts.next().map_or(Some(0), |part| parse_two_digits(part, 59))?;
    let second = parts.next();
    let nanos = match fraction {
        None => 0,
        Some(digits) => {
            second?;
            let is_valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            is_valid.then(|| format!("{digits:0<9.9}").parse::<u32>().ok())??
        }
    };
    let second = second.map_or(Some(0), |part| parse_two_digits(part, 59))?;
    if parts.next().is_some() {
        return None;
    }
    NaiveTime::from_hms_nano_opt(hour.into(), minute.into(), second.into(), nanos)
}

fn parse_two_digits(text: &str, max: u8) -> Option<u8> {
    let is_valid = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|value| is_valid && *value <= max)
}

/// Returns the instant of a local time. For a time that occurs twice, returns the earlier instant. A time that a clock
/// change skips gets the offset from before the change.
fn resolve_local_time<Z: TimeZone>(local: NaiveDateTime, zone: &Z) -> Option<DateTime<Z>> {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(instant) | MappedLocalTime::Ambiguous(instant, _) => Some(instant),
        MappedLocalTime::None => {
            let day_before = zone.from_local_datetime(&(local - TimeDelta::days(1))).earliest()?;
            Some(day_before + TimeDelta::days(1))
        }
    }
}

/// Parses a duration in Go's syntax (`1h30m`, `1.5s`, `250ms`), plus `d` and `w`. It must not be negative.
///
/// # Errors
/// [`TimeError::InvalidDuration`].
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    parse_duration_nanos(text)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| TimeError::InvalidDuration(text.into()))
}

/// Parses a duration, which may be negative, and returns its nanoseconds.
fn parse_duration_nanos(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            "d" => 24 * 3_600 * 1_000_000_000,
            "w" => 7 * 24 * 3_600 * 1_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 18 {
            return None;
        }
        let fraction = &fraction[..fraction.len().min(18)];
        let parse_digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
        total += parse_digits(whole)? * unit + parse_digits(fraction)? * unit / 10i128.pow(fraction.len() as u32);
        rest = tail;
    }
    i64::try_from(total).ok()?; // As in Go, a duration that does not fit is invalid.
    Some(if negative { -total } else { total })
}

/// Formats an instant for output: RFC 3339 in UTC, with nine digits.
pub fn rfc3339(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).format("%Y-%m-%dT%H:%M:%S%.9fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::FixedOffset;
    use proptest::prelude::*;

    const NOW: i64 = 1_795_536_545_920_401_530;

    fn parse(text: &str) -> Result<i64, TimeError> {
        parse_time_in(text, NOW, &FixedOffset::east_opt(2 * 3600).unwrap())
    }

    #[test]
    fn every_time_format_is_parsed() {
        let day = 1_795_478_400 * NANOS_PER_SECOND; // 2026-11-24T00:00:00Z
        let hours = 3600 * NANOS_PER_SECOND;
        for (text, expected) in [
            ("now", NOW),
            ("0", 0),
            ("1795536545", 1_795_536_545 * NANOS_PER_SECOND),
            ("1795536545.920401530", NOW),
            ("1795536545.5", 1_795_536_545 * NANOS_PER_SECOND + NANOS_PER_SECOND / 2),
            ("1.9204015300000000000", NANOS_PER_SECOND + 920_401_530),
            ("10m", NOW - 600 * NANOS_PER_SECOND),
            ("-10m", NOW + 600 * NANOS_PER_SECOND),
            ("1h30m", NOW - 5400 * NANOS_PER_SECOND),
            ("1.5h", NOW - 5400 * NANOS_PER_SECOND),
            ("1d", NOW - 86_400 * NANOS_PER_SECOND),
            ("1w1d", NOW - 8 * 86_400 * NANOS_PER_SECOND),
            ("0s", NOW),
            ("2026-11-24", day - 2 * hours),
            ("2026-11-24Z", day),
            ("2026-11-24+01:00", day - hours),
            ("2026-11-24-01:30", day + hours + hours / 2),
            ("2026-11-24T15", day + 13 * hours),
            ("2026-11-24T15Z", day + 15 * hours),
            ("2026-11-24T15:04", day + 13 * hours + 240 * NANOS_PER_SECOND),
            ("2026-11-24T15:04:05", day + 13 * hours + 245 * NANOS_PER_SECOND),
            ("2026-11-24T15:04:05.25", day + 13 * hours + 245 * NANOS_PER_SECOND + NANOS_PER_SECOND / 4),
            ("2026-11-24T15:04:05.123456789Z", day + 15 * hours + 245 * NANOS_PER_SECOND + 123_456_789),
            ("2026-11-24T15:04:05-07:00", day + 22 * hours + 245 * NANOS_PER_SECOND),
            // Other formats that Go accepts.
            ("2026-11-24T5", day + 3 * hours),
            ("2026-11-24T5:04:05Z", day + 5 * hours + 245 * NANOS_PER_SECOND),
            ("2026-11-24T15:04:05,25Z", day + 15 * hours + 245 * NANOS_PER_SECOND + NANOS_PER_SECOND / 4),
            ("2026-11-24T15:04:05+24:00", day - 9 * hours + 245 * NANOS_PER_SECOND),
            ("+1795536545", 1_795_536_545 * NANOS_PER_SECOND),
            // Times that do not fit into 64 bits of nanoseconds are clamped.
            ("0001-01-01", i64::MIN),
            ("9999-12-31T23:59:59Z", i64::MAX),
            ("9223372037", i64::MAX),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn invalid_times_are_rejected() {
        for text in [
            "",
            "x",
            "yesterday",
            "1h30",
            "10 m",
            "2026-11",
            "2026-13-01",
            "2026-02-30",
            "2026-11-24T",
            "2026-11-24T24:00",
            "2026-11-24T15:04:05.",
            "2026-11-24T15:04.5",
            "2026-11-24 15:04",
            "2026-11-24T15:04:05z",
            "2026-11-24T15:04:05+0100",
            "1.2.3",
            "1.",
            ".5",
            "-5",
            "+2026-1-1",
            "NaN",
            "1e9",
            "Now",
            "2026-11-24T1:2:3",
            "2026-11-24T,5",
            "++5",
            "2026-11-24T15:04:05+25:00",
        ] {
            assert!(matches!(parse(text), Err(TimeError::InvalidTime(_))), "{text}: {:?}", parse(text));
        }
        for text in ["99999999999999999999", "9223372036854775808", "1.99999999999999999999"] {
            assert!(matches!(parse(text), Err(TimeError::OutOfRange(_))), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn local_times_use_the_offset_of_their_date() {
        // Europe/Berlin, written out: chrono uses the system's zone database, which a test cannot replace.
        #[derive(Clone)]
        struct Berlin;
        impl TimeZone for Berlin {
            type Offset = FixedOffset;
            fn from_offset(_: &FixedOffset) -> Self {
                Berlin
            }
            fn offset_from_local_date(&self, _: &NaiveDate) -> MappedLocalTime<FixedOffset> {
                unreachable!("offsets are requested for times only")
            }
            fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
                let (winter, summer) = (FixedOffset::east_opt(3600).unwrap(), FixedOffset::east_opt(7200).unwrap());
                let at = |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").unwrap();
                if *local < at("2026-03-29T02:00") || *local >= at("2026-10-25T03:00") {
                    MappedLocalTime::Single(winter)
                } else if *local < at("2026-03-29T03:00") {
                    MappedLocalTime::None
                } else if *local < at("2026-10-25T02:00") {
                    MappedLocalTime::Single(summer)
                } else {
                    MappedLocalTime::Ambiguous(summer, winter)
                }
            }
            fn offset_from_utc_date(&self, _: &NaiveDate) -> FixedOffset {
                unreachable!("offsets are requested for times only")
            }
            fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
                let at = |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").unwrap();
                let summer = *utc >= at("2026-03-29T01:00") && *utc < at("2026-10-25T01:00");
                FixedOffset::east_opt(if summer { 7200 } else { 3600 }).unwrap()
            }
        }
        for (local, utc) in [
            ("2026-01-15T12:00", "2026-01-15T11:00Z"),
            ("2026-07-15T12:00", "2026-07-15T10:00Z"),
            ("2026-03-29T02:30", "2026-03-29T01:30Z"),
            ("2026-10-25T02:30", "2026-10-25T00:30Z"),
        ] {
            assert_eq!(parse_time_in(local, NOW, &Berlin), parse(utc), "{local}");
        }
    }

    #[test]
    fn durations_are_parsed() {
        for (text, nanos) in [
            ("0", 0),
            ("10s", 10 * NANOS_PER_SECOND as u64),
            ("1h30m", 5400 * NANOS_PER_SECOND as u64),
            ("250ms", 250_000_000),
            ("1us1ns", 1001),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "-1s", "5", "s", ".s", "1.2.3s", "1x", "9999999999h", "1 s", "٣s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printed_times_parse_back(nanos: i64) {
            prop_assume!((-9_000_000_000_000_000_000..9_000_000_000_000_000_000).contains(&nanos));
            prop_assert_eq!(parse(&rfc3339(nanos)), Ok(nanos));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,30}|[0-9TZ:.+hmsdw-]{0,30}") {
            let _ = parse(&text);
            let _ = parse_duration(&text);
        }
    }
}
