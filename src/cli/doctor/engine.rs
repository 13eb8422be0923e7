//! Checks that an engine can be reached and provides what a recorder needs.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::findings::Findings;
use crate::cli::Failure;
use crate::engine::{Client, Endpoint, EngineInfo, Host};
use crate::error::count_noun;
use crate::recorder::{Timeouts, fetch_backlog, measure_clock};
use crate::stream::DEFAULT_LINE_LIMIT;

/// Largest difference between the clocks, in nanoseconds, that passes. With a larger one, times of several machines are
/// hard to compare.
const MAX_CLOCK_SKEW_NANOS: u64 = 1_000_000_000;

/// Time limits for reading the backlog.
const BACKLOG_TIMEOUTS: Timeouts = Timeouts { total: Duration::from_secs(10), idle: Duration::from_secs(2) };

/// Checks an engine from its socket to its events. Returns the client if the engine answers.
pub(super) async fn check(host: &Host, findings: &mut Findings) -> io::Result<Option<Client>> {
    if let Endpoint::Unix(path) = &host.endpoint
        && (findings.report(check_socket_exists(path), |()| "the socket exists".into())?.is_none()
            || findings.report(check_socket_connects(path), |()| "the socket accepts connections".into())?.is_none())
    {
        findings.skip("the engine")?;
        return Ok(None);
    }
    let api_text = |client: &Client| match client.api_version() {
        Some(api) => format!("the engine answers, with API version {api}"),
        None => "the engine answers, but reports no API version".into(),
    };
    let Some(client) = findings.report(Client::negotiate(host).await, api_text)? else {
        findings.skip("version, clock and events")?;
        return Ok(None);
    };
    findings.report(client.version().await, |version| version_text(version))?;
    let info_and_skew = measure_clock(&client).await;
    let identity_text = |(info, _): &(EngineInfo, _)| format!("the engine is {} ({})", info.name, info.id);
    if let Some((_, skew)) = findings.report(info_and_skew, identity_text)? {
        match skew.map(|skew| skew.nano) {
            Some(nano) if nano.unsigned_abs() > MAX_CLOCK_SKEW_NANOS => findings.fail(
                &Failure::failed(format!("the engine's clock is {} this machine's", skew_text(nano)))
                    .hint("run NTP on both machines: the engine's clock sets the times of events"),
            )?,
            Some(nano) => findings.pass(&format!("the engine's clock is {} this machine's", skew_text(nano)))?,
            None => findings.pass("the engine does not report its time")?,
        }
    }
    findings.report(client.events().await, |_| "the event stream opens".into())?;
    findings.report(backlog_len(&client).await, |events| {
        format!("the backlog contains {}", count_noun(*events as u64, "event"))
    })?;
    Ok(Some(client))
}

fn check_socket_exists(path: &Path) -> Result<(), Failure> {
    let hint = "run `systemctl start docker`; the socket of a rootless engine is in $XDG_RUNTIME_DIR";
    match path.metadata() {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(_) => Err(Failure::failed(format!("{} is not a socket", path.display()))
            .hint("pass the path of a socket; in a container, mount the directory of the socket")),
        Err(e) => {
            Err(Failure::failed(format!("cannot find the socket {}: {}", path.display(), crate::error::chain(&e)))
                .hint(hint))
        }
    }
}

fn check_socket_connects(path: &Path) -> Result<(), Failure> {
    let Err(e) = UnixStream::connect(path) else { return Ok(()) };
    let failure = Failure::failed(format!("cannot connect to {}: {}", path.display(), crate::error::chain(&e)));
    Err(match e.kind() {
        ErrorKind::PermissionDenied => {
            let group = path.metadata().map_or_else(|_| "GROUP".into(), |metadata| group_name(metadata.gid()));
            failure.hint(format!("run `sudo usermod -aG {group} $USER` to join the group {group}, then log in again"))
        }
        ErrorKind::ConnectionRefused => {
            failure.hint("no process listens on the socket: run `systemctl restart docker`")
        }
        _ => failure,
    })
}

/// Name of a group, or its ID if `/etc/group` does not contain it.
fn group_name(gid: u32) -> String {
    let gid_text = gid.to_string();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid_text).then(|| name.to_owned())
    });
    name.unwrap_or(gid_text)
}

fn version_text(version: &str) -> String {
    let version: Value = serde_json::from_str(version).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!(
        "the engine has version {}, API versions {} to {}",
        text(&version["Version"]),
        text(&version["MinAPIVersion"]),
        text(&version["ApiVersion"])
    )
}

fn skew_text(skew_nano: i64) -> String {
    let direction = if skew_nano > 0 { "ahead of" } else { "behind" };
    format!("{:.3} s {direction}", skew_nano.unsigned_abs() as f64 / 1e9)
}

/// Number of events in the backlog. A line that is not an event is an error.
async fn backlog_len(client: &Client) -> Result<usize, Failure> {
    let backlog = fetch_backlog(client, DEFAULT_LINE_LIMIT, BACKLOG_TIMEOUTS).await?;
    if let Some(endless) = backlog.incomplete {
        return Err(endless.into());
    }
    if let Some(rejected) = backlog.rejected.first() {
        return Err(Failure::failed(format!("the backlog contains a line that is not an event: {}", rejected.error))
            .hint("run `events rejected` to print such lines after `events record` has stored them"));
    }
    Ok(backlog.events.len())
}
