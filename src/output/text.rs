//! Prints the lines of `docker events` (docker/cli `cli/command/system/events.go`).

use std::io::{self, Write};

use chrono::{DateTime, TimeZone};

use crate::event::Event;

/// Writes `2026-11-24T16:04:10.123456789+01:00 container start ID (image=busybox, name=web)`.
pub(super) fn write_line<Z: TimeZone>(event: &Event<'_>, zone: &Z, out: &mut impl Write) -> io::Result<()>
where
    Z::Offset: std::fmt::Display,
{
    if event.time_nano != 0 {
        write!(out, "{} ", format_time(event.time_nano, zone))?;
    }
    write!(out, "{} {} {}", event.kind, event.action, event.actor_id)?;
    for (index, (key, value)) in event.attributes.iter().enumerate() {
        write!(out, "{}{key}={value}", if index == 0 { " (" } else { ", " })?;
    }
    out.write_all(if event.attributes.is_empty() { b"\n" } else { b")\n" })
}

/// Formats an instant in a time zone, with nine digits.
pub(super) fn format_time<Z: TimeZone>(nano: i64, zone: &Z) -> impl std::fmt::Display
where
    Z::Offset: std::fmt::Display,
{
    let instant = DateTime::from_timestamp_nanos(nano).with_timezone(zone);
    // Go writes a zero offset as Z.
    let is_utc = instant.fixed_offset().offset().local_minus_utc() == 0;
    instant.format(if is_utc { "%Y-%m-%dT%H:%M:%S%.9fZ" } else { "%Y-%m-%dT%H:%M:%S%.9f%:z" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{FixedOffset, Utc};

    fn render<Z: TimeZone>(json: &str, zone: &Z) -> String
    where
        Z::Offset: std::fmt::Display,
    {
        let mut out = Vec::new();
        write_line(&Event::parse(json.as_bytes()).unwrap(), zone, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_match_the_docker_client() {
        let json = r#"{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"name":"web","exitCode":"5"}},"timeNano":1795537009220737344}"#;
        assert_eq!(render(json, &Utc), "2026-11-24T16:16:49.220737344Z container die c1 (exitCode=5, name=web)\n");
        assert_eq!(
            render(json, &FixedOffset::east_opt(-12600).unwrap()),
            "2026-11-24T12:46:49.220737344-03:30 container die c1 (exitCode=5, name=web)\n"
        );
        let bare = r#"{"Type":"daemon","Action":"reload","Actor":{"ID":""},"time":0}"#;
        assert_eq!(render(bare, &Utc), "daemon reload \n");
    }
}
