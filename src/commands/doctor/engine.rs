//! Whether an engine can be reached, and tells what a recorder needs.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::findings::Findings;
use crate::commands::Failure;
use crate::commands::record::clock;
use crate::commands::record::memory::{self, Patience};
use crate::engine::{Client, Endpoint, Host, Info};
use crate::error::number;
use crate::stream::DEFAULT_LINE_LIMIT;

/// A clock that is off by more, in nanoseconds, makes instants of several machines hard to compare.
const TOLERATED: u64 = 1_000_000_000;

/// How long the engine's memory may take.
const PATIENCE: Patience = Patience { whole: Duration::from_secs(10), idle: Duration::from_secs(2) };

/// Goes from the socket to the events; the client if the engine answers.
pub(super) async fn check(host: &Host, findings: &mut Findings) -> io::Result<Option<Client>> {
    if let Endpoint::Unix(path) = &host.endpoint
        && (findings.note(is_there(path), |()| "its socket is there".into())?.is_none()
            || findings.note(opens(path), |()| "and may be opened".into())?.is_none())
    {
        findings.left_out("what answers there")?;
        return Ok(None);
    }
    let spoken = |client: &Client| match client.api() {
        Some(api) => format!("it speaks HTTP, and version {api} of the API is agreed on"),
        None => "it speaks HTTP, and names no version of the API".into(),
    };
    let Some(client) = findings.note(Client::negotiate(host).await, spoken)? else {
        findings.left_out("its version, its clock, its events")?;
        return Ok(None);
    };
    findings.note(client.version().await, |version| version_of(version))?;
    let compared = clock::compared(&client).await;
    let named = |(info, _): &(Info, _)| format!("it is {} ({})", info.name, info.id);
    if let Some((_, skew)) = findings.note(compared, named)? {
        match skew.map(|skew| skew.nano) {
            Some(nano) if nano.unsigned_abs() > TOLERATED => findings.fails(
                &Failure::failed(format!("its clock is {} this machine's", off(nano)))
                    .hint("NTP on both machines; events bear the engine's time"),
            )?,
            Some(nano) => findings.holds(&format!("its clock is {} ours", off(nano)))?,
            None => findings.holds("it does not tell its clock")?,
        }
    }
    findings.note(client.events().await, |_| "its stream of events opens".into())?;
    findings.note(remembered(&client).await, |events| format!("it remembers {}", number(*events as u64, "event")))?;
    Ok(Some(client))
}

fn is_there(path: &Path) -> Result<(), Failure> {
    let hint = "is the engine running? `systemctl start docker`; a rootless one has its socket in $XDG_RUNTIME_DIR";
    match path.metadata() {
        Ok(found) if found.file_type().is_socket() => Ok(()),
        Ok(_) => Err(Failure::failed(format!("{} is no socket", path.display()))
            .hint("a container that mounts the socket before the engine made it gets a folder: mount its directory")),
        Err(e) => Err(Failure::failed(format!("{}: {}", path.display(), crate::error::chain(&e))).hint(hint)),
    }
}

fn opens(path: &Path) -> Result<(), Failure> {
    let Err(e) = UnixStream::connect(path) else { return Ok(()) };
    let failure = Failure::failed(format!("{} cannot be opened: {}", path.display(), crate::error::chain(&e)));
    Err(match e.kind() {
        ErrorKind::PermissionDenied => {
            let group = path.metadata().map_or_else(|_| "its group".into(), |found| group(found.gid()));
            failure.hint(format!("it belongs to {group}: `sudo usermod -aG {group} $USER`, then log in anew"))
        }
        ErrorKind::ConnectionRefused => failure.hint("nobody listens there any more: `systemctl restart docker`"),
        _ => failure,
    })
}

/// The name of a group, or its number if this machine's list does not have it.
fn group(gid: u32) -> String {
    let number = gid.to_string();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    name.unwrap_or(number)
}

fn version_of(version: &str) -> String {
    let version: Value = serde_json::from_str(version).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!(
        "it is version {}, with the API from {} to {}",
        text(&version["Version"]),
        text(&version["MinAPIVersion"]),
        text(&version["ApiVersion"])
    )
}

fn off(nano: i64) -> String {
    let side = if nano > 0 { "ahead of" } else { "behind" };
    format!("{:.3} s {side}", nano.unsigned_abs() as f64 / 1e9)
}

/// How many events the engine remembers; what is no event is an error.
async fn remembered(client: &Client) -> Result<usize, Failure> {
    let memory = memory::take(client, DEFAULT_LINE_LIMIT, PATIENCE).await?;
    if let Some(endless) = memory.endless {
        return Err(endless.into());
    }
    if let Some(rejected) = memory.rejected.first() {
        return Err(Failure::failed(format!("its memory holds what is no event: {}", rejected.error))
            .hint("`events record` keeps such lines, and `events rejected` shows them"));
    }
    Ok(memory.events.len())
}
