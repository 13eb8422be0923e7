//! The line that `docker events` prints (docker/cli `cli/command/system/events.go`).

use std::io::{self, Write};

use chrono::{DateTime, TimeZone};

use crate::event::Event;

/// `2026-11-24T16:04:10.123456789+01:00 container start ID (image=busybox, name=web)`.
pub(super) fn print<Z: TimeZone>(event: &Event<'_>, zone: &Z, out: &mut impl Write) -> io::Result<()>
where
    Z::Offset: std::fmt::Display,
{
    if event.time_nano != 0 {
        write!(out, "{} ", time(event.time_nano, zone))?;
    }
    write!(out, "{} {} {}", event.kind, event.action, event.actor_id)?;
    for (at, (key, value)) in event.attributes.iter().enumerate() {
        write!(out, "{}{key}={value}", if at == 0 { " (" } else { ", " })?;
    }
    out.write_all(if event.attributes.is_empty() { b"\n" } else { b")\n" })
}

/// An instant in a time zone, with all of its digits.
pub(super) fn time<Z: TimeZone>(nano: i64, zone: &Z) -> impl std::fmt::Display
where
    Z::Offset: std::fmt::Display,
{
    let instant = DateTime::from_timestamp_nanos(nano).with_timezone(zone);
    // Go writes no offset as Z.
    let utc = instant.fixed_offset().offset().local_minus_utc() == 0;
    instant.format(if utc { "%Y-%m-%dT%H:%M:%S%.9fZ" } else { "%Y-%m-%dT%H:%M:%S%.9f%:z" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{FixedOffset, Utc};

    fn printed<Z: TimeZone>(json: &str, zone: &Z) -> String
    where
        Z::Offset: std::fmt::Display,
    {
        let mut out = Vec::new();
        print(&Event::parse(json.as_bytes()).unwrap(), zone, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_the_docker_client_prints_it() {
        let json = r#"{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"name":"web","exitCode":"5"}},"timeNano":1795537009220737344}"#;
        assert_eq!(printed(json, &Utc), "2026-11-24T16:16:49.220737344Z container die c1 (exitCode=5, name=web)\n");
        assert_eq!(
            printed(json, &FixedOffset::east_opt(-12600).unwrap()),
            "2026-11-24T12:46:49.220737344-03:30 container die c1 (exitCode=5, name=web)\n"
        );
        let bare = r#"{"Type":"daemon","Action":"reload","Actor":{"ID":""},"time":0}"#;
        assert_eq!(printed(bare, &Utc), "daemon reload \n");
    }
}
