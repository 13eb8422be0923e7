//! Times and durations as users write them: whatever the docker client takes, and `d`, `w` and `now` besides.
//!
//! A time without a zone is local, with the offset that the zone had on that date. (The docker client takes today's
//! offset, which is an hour off for half of the year.) Instants are nanoseconds since the Unix epoch.

use std::time::Duration;

use chrono::{DateTime, Local, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike};

const SECOND: i64 = 1_000_000_000;

/// A text that is no time, or no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// No form of a time.
    #[error("'{0}' is no time")]
    Time(String),
    /// Seconds that do not fit into 64 bits.
    #[error("the time '{0}' is out of range")]
    Range(String),
    /// No duration.
    #[error("'{0}' is no duration")]
    Duration(String),
}

impl TimeError {
    /// What is taken.
    pub fn hint(&self) -> &'static str {
        match self {
            TimeError::Time(_) | TimeError::Range(_) => {
                "write 2026-11-24T15:04:05Z or a part of it, seconds since 1970, a duration back from now as 1h30m or 7d, or now"
            }
            TimeError::Duration(_) => "write it as 250ms, 10s, 1h30m, 7d or 2w",
        }
    }
}

/// Reads a time, given what time it is now.
///
/// # Errors
/// [`TimeError::Time`] and [`TimeError::Range`].
pub fn parse_time(text: &str, now: i64) -> Result<i64, TimeError> {
    parse_time_in(text, now, &Local)
}

fn parse_time_in<Z: TimeZone>(text: &str, now: i64, zone: &Z) -> Result<i64, TimeError> {
    if text == "now" {
        return Ok(now);
    }
    if text != "0"
        && let Some(back) = duration_nanos(text)
    {
        return Ok(nearest(i128::from(now) - back));
    }
    if let Some(instant) = unix_time(text.strip_prefix('+').unwrap_or(text)) {
        return instant.ok_or_else(|| TimeError::Range(text.into()));
    }
    let (local, offset) = calendar_time(text).ok_or_else(|| TimeError::Time(text.into()))?;
    let seconds = match offset {
        Some(east) => local.and_utc().timestamp() - east,
        None => from_local(local, zone).map_or(local.and_utc().timestamp(), |instant| instant.timestamp()),
    };
    Ok(nearest(i128::from(seconds) * i128::from(SECOND) + i128::from(local.nanosecond())))
}

/// The nearest instant that 64 bits of nanoseconds hold, in the years 1677 to 2262: nothing was recorded outside.
fn nearest(nanos: i128) -> i64 {
    nanos.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Reads unix seconds with a fraction, as an engine reads them: the outer `None` is what is no number, the inner what
/// does not fit. The fraction counts as if padded on the right to nine digits, and longer ones are cut.
pub fn unix_time(text: &str) -> Option<Option<i64>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let instant = || Some(unix_instant(whole.parse().ok()?, fraction.parse().ok()?, fraction.len()));
    Some(instant())
}

/// The instant of whole seconds and a fraction of so many digits.
pub fn unix_instant(seconds: i64, fraction: i64, digits: usize) -> i64 {
    let scale = 10f64.powi(9 - i32::try_from(digits).unwrap_or(i32::MAX));
    let nanos = (fraction as f64 * scale) as i64;
    nearest(i128::from(seconds) * i128::from(SECOND) + i128::from(nanos))
}

/// RFC 3339, and the parts of it that the docker client takes: a date, with hours, minutes, seconds, a fraction, each
/// with a zone or without. The time as it is written, and how many seconds its zone is east, if it has one.
fn calendar_time(text: &str) -> Option<(NaiveDateTime, Option<i64>)> {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let date = text.get(..10).filter(|date| plain(date))?; // chrono would take spaces and signs.
    let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let rest = &text[10..];
    let offset_at = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, offset) = rest.split_at(offset_at);
    let time = match clock.strip_prefix('T') {
        Some(clock) => clock_time(clock)?,
        None if clock.is_empty() => NaiveTime::MIN,
        None => return None,
    };
    let east = match offset {
        "" => None,
        "Z" => Some(0),
        _ => {
            let (hours, minutes) = offset[1..].split_once(':')?;
            // Up to 24 and 60, as Go takes them.
            let seconds = i64::from(two_digits(hours, 24)?) * 3600 + i64::from(two_digits(minutes, 60)?) * 60;
            Some(if offset.starts_with('-') { -seconds } else { seconds })
        }
    };
    Some((date.and_time(time), east))
}

/// `15`, `15:04`, `15:04:05`, `15:04:05.999`; the hour also with one digit, the fraction also behind a comma.
fn clock_time(text: &str) -> Option<NaiveTime> {
    let (clock, fraction) =
        text.split_once(['.', ',']).map_or((text, None), |(clock, fraction)| (clock, Some(fraction)));
    let mut parts = clock.split(':');
    let hour = parts.next()?;
    let hour = if hour.len() == 1 { two_digits(&format!("0{hour}"), 23)? } else { two_digits(hour, 23)? };
    let minute = parts.next().map_or(Some(0), |part| two_digits(part, 59))?;
    let second = parts.next();
    let nanos = match fraction {
        None => 0,
        Some(digits) => {
            second?;
            let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            good.then(|| format!("{digits:0<9.9}").parse::<u32>().ok())??
        }
    };
    let second = second.map_or(Some(0), |part| two_digits(part, 59))?;
    if parts.next().is_some() {
        return None;
    }
    NaiveTime::from_hms_nano_opt(hour.into(), minute.into(), second.into(), nanos)
}

fn two_digits(text: &str, most: u8) -> Option<u8> {
    let good = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|value| good && *value <= most)
}

/// The instant of a local time. Of one that comes twice the earlier is taken; one that a clock change skips is read
/// with the offset that was valid before the change.
fn from_local<Z: TimeZone>(local: NaiveDateTime, zone: &Z) -> Option<DateTime<Z>> {
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(instant) | MappedLocalTime::Ambiguous(instant, _) => Some(instant),
        MappedLocalTime::None => {
            let day_before = zone.from_local_datetime(&(local - TimeDelta::days(1))).earliest()?;
            Some(day_before + TimeDelta::days(1))
        }
    }
}

/// Reads a duration as Go writes them (`1h30m`, `1.5s`, `250ms`), and with `d` and `w`; not negative.
///
/// # Errors
/// [`TimeError::Duration`].
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    duration_nanos(text)
        .and_then(|nanos| u64::try_from(nanos).ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| TimeError::Duration(text.into()))
}

/// A duration in nanoseconds; may be negative.
fn duration_nanos(text: &str) -> Option<i128> {
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
        let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
        total += digits(whole)? * unit + digits(fraction)? * unit / 10i128.pow(fraction.len() as u32);
        rest = tail;
    }
    i64::try_from(total).ok()?; // As Go: what does not fit is no duration.
    Some(if negative { -total } else { total })
}

/// RFC 3339 in UTC with nine digits: how instants are printed.
pub fn rfc3339(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).format("%Y-%m-%dT%H:%M:%S%.9fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::FixedOffset;
    use proptest::prelude::*;

    const NOW: i64 = 1_795_536_545_920_401_530;

    fn at(text: &str) -> Result<i64, TimeError> {
        parse_time_in(text, NOW, &FixedOffset::east_opt(2 * 3600).unwrap())
    }

    #[test]
    fn every_form_of_a_time() {
        let day = 1_795_478_400 * SECOND; // 2026-11-24T00:00:00Z
        let hours = 3600 * SECOND;
        for (text, expected) in [
            ("now", NOW),
            ("0", 0),
            ("1795536545", 1_795_536_545 * SECOND),
            ("1795536545.920401530", NOW),
            ("1795536545.5", 1_795_536_545 * SECOND + SECOND / 2),
            ("1.9204015300000000000", SECOND + 920_401_530),
            ("10m", NOW - 600 * SECOND),
            ("-10m", NOW + 600 * SECOND),
            ("1h30m", NOW - 5400 * SECOND),
            ("1.5h", NOW - 5400 * SECOND),
            ("1d", NOW - 86_400 * SECOND),
            ("1w1d", NOW - 8 * 86_400 * SECOND),
            ("0s", NOW),
            ("2026-11-24", day - 2 * hours),
            ("2026-11-24Z", day),
            ("2026-11-24+01:00", day - hours),
            ("2026-11-24-01:30", day + hours + hours / 2),
            ("2026-11-24T15", day + 13 * hours),
            ("2026-11-24T15Z", day + 15 * hours),
            ("2026-11-24T15:04", day + 13 * hours + 240 * SECOND),
            ("2026-11-24T15:04:05", day + 13 * hours + 245 * SECOND),
            ("2026-11-24T15:04:05.25", day + 13 * hours + 245 * SECOND + SECOND / 4),
            ("2026-11-24T15:04:05.123456789Z", day + 15 * hours + 245 * SECOND + 123_456_789),
            ("2026-11-24T15:04:05-07:00", day + 22 * hours + 245 * SECOND),
            // What Go takes besides.
            ("2026-11-24T5", day + 3 * hours),
            ("2026-11-24T5:04:05Z", day + 5 * hours + 245 * SECOND),
            ("2026-11-24T15:04:05,25Z", day + 15 * hours + 245 * SECOND + SECOND / 4),
            ("2026-11-24T15:04:05+24:00", day - 9 * hours + 245 * SECOND),
            ("+1795536545", 1_795_536_545 * SECOND),
            // What no 64 bits of nanoseconds hold is as far as they go.
            ("0001-01-01", i64::MIN),
            ("9999-12-31T23:59:59Z", i64::MAX),
            ("9223372037", i64::MAX),
        ] {
            assert_eq!(at(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_said_to_be_none() {
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
            assert!(matches!(at(text), Err(TimeError::Time(_))), "{text}: {:?}", at(text));
        }
        for text in ["99999999999999999999", "9223372036854775808", "1.99999999999999999999"] {
            assert!(matches!(at(text), Err(TimeError::Range(_))), "{text}: {:?}", at(text));
        }
    }

    #[test]
    fn a_local_time_has_the_offset_of_its_date() {
        // Europe/Berlin by hand: chrono's own zone database is the system's, which a test cannot set.
        #[derive(Clone)]
        struct Berlin;
        impl TimeZone for Berlin {
            type Offset = FixedOffset;
            fn from_offset(_: &FixedOffset) -> Self {
                Berlin
            }
            fn offset_from_local_date(&self, _: &NaiveDate) -> MappedLocalTime<FixedOffset> {
                unreachable!("dates are asked for as times")
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
                unreachable!("dates are asked for as times")
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
            assert_eq!(parse_time_in(local, NOW, &Berlin), at(utc), "{local}");
        }
    }

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("0", 0),
            ("10s", 10 * SECOND as u64),
            ("1h30m", 5400 * SECOND as u64),
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
        fn what_is_printed_reads_back(nanos: i64) {
            prop_assume!((-9_000_000_000_000_000_000..9_000_000_000_000_000_000).contains(&nanos));
            prop_assert_eq!(at(&rfc3339(nanos)), Ok(nanos));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,30}|[0-9TZ:.+hmsdw-]{0,30}") {
            let _ = at(&text);
            let _ = parse_duration(&text);
        }
    }
}
