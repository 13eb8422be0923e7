//! `events demo`: the whole path with nothing installed. An embedded engine plays a fixture over a real socket; the real
//! client, parser and store record it; the real query prints it.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anstyle::Style;
use tokio::sync::oneshot;

use super::record::{Plan, record};
use super::{Exit, Failure, Shared};
use crate::engine::Host;
use crate::error::number;
use crate::serve::{Address, Engine, Feed, History, Identity};
use crate::store::{Reader, Reason};

/// A failed deployment, recorded from Docker 28.5.2 by `fixtures/record-shop.sh`.
const RECORDING: &str = include_str!("../../fixtures/shop.ndjson");

/// Number of events in the backlog when the recorder connects: those before the deployment. The others arrive live.
const BACKLOG: usize = 25;

/// The events that matter in the recording: no networks, volumes, images, or health checks that changed nothing.
const QUERY: &str = "query --action start --action die --action oom \\
    --action health_status --format table";

/// Time limit for each step of the recorder, which needs a fraction of a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// The flags of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Shared, _: &Args) -> Result<(), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("events-demo-")
        .tempdir()
        .map_err(|e| Failure::failed(format!("cannot make a temporary folder: {e}")))?;
    let (socket, db) = (folder.path().join("docker.sock"), folder.path().join("events.db"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    runtime.block_on(play(&socket, &db))?;
    verify(&db)?;

    say("\nVersion 1.5 of web makes api run out of memory. Without api, worker crashes in\n\
         a loop and web becomes unhealthy, until version 1.4 is deployed again.\n")?;
    same_program(db.as_os_str(), QUERY)?;
    say("\nTry next, on a machine with a Docker Engine:")?;
    command("  events record &")?;
    command("  events query --since 1h --format table")?;
    Ok(())
}

/// Plays the recording to a recorder until all of it is stored.
async fn play(socket: &Path, db: &Path) -> Result<(), Failure> {
    let lines: Vec<&str> = RECORDING.lines().collect();
    let id = "d3m00000-0000-4000-8000-000000000000".into();
    let identity = Identity { id, name: "demo".into(), ..Identity::default() };
    let feed = Feed::default();
    let engine = Arc::new(Engine::new(History::Feed(feed.clone())).with_identity(identity));
    let (backlog, live) = lines.split_at(BACKLOG);
    backlog.iter().for_each(|line| feed.push(line.as_bytes()));
    let answering = engine
        .clone()
        .listen(&Address::Unix(socket.into()), None)
        .map_err(|e| Failure::failed(crate::error::chain(&e)))?;
    let answering = tokio::spawn(answering);
    say(&format!("A small shop on Docker 28.5.2: {} events, played by an embedded engine.", lines.len()))?;

    let started = Instant::now();
    let (stop, stopped) = oneshot::channel::<()>();
    let plan = Plan::new(vec![Host::unix(socket)], db.into());
    let recorder = tokio::spawn(record(plan, async move {
        let _ = stopped.await;
    }));
    wait_for(db, backlog.len() as u64).await?;
    live.iter().for_each(|line| feed.push(line.as_bytes()));
    wait_for(db, lines.len() as u64).await?;
    say(&format!(
        "Recorded into SQLite in {} ms: {} from the engine's backlog, {} live.",
        started.elapsed().as_millis(),
        backlog.len(),
        live.len(),
    ))?;
    let _ = stop.send(());
    recorder.await.expect("the recorder does not panic")?;
    answering.abort();
    Ok(())
}

/// Checks the store as `events verify` and `events gaps` do.
fn verify(db: &Path) -> Result<(), Failure> {
    let reader = Reader::open(db)?;
    let faults = reader.verify(&[], |_| ())?.faults;
    let gaps = reader.gaps()?.into_iter().filter(|gap| gap.reason != Reason::FirstContact.as_str()).count() as u64;
    if faults > 0 || gaps > 0 {
        let found = format!("{} in the hash chain, {}", number(faults, "fault"), number(gaps, "gap"));
        return Err(Failure::failed(format!("the demo's store is damaged: {found}")));
    }
    Ok(say("Verified: the hash chain is intact, and the record has no gaps.")?)
}

/// Waits until a reader finds this many events in the store.
async fn wait_for(db: &Path, events: u64) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let stored = Reader::open(db).and_then(|reader| reader.sources());
        let stored: u64 = stored.iter().flatten().map(|source| source.events).sum();
        if stored >= events {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure::failed(format!(
                "after {} s only {stored} of {events} events are stored",
                PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Prints a command and runs it in this process, from its arguments on.
fn same_program(db: &OsStr, arguments: &str) -> Result<(), Failure> {
    command(&format!("$ events {arguments}"))?;
    let words = arguments.split_whitespace().filter(|word| *word != "\\").map(OsStr::new);
    let all = ["events", "--db"].map(OsStr::new).into_iter().chain([db]).chain(words);
    match super::main(all.map(OsStr::to_owned)) {
        Exit::Done => Ok(()),
        _ => Err(Failure::failed("the query failed")),
    }
}

/// Prints a command line, bold on a terminal.
fn command(line: &str) -> io::Result<()> {
    const BOLD: Style = Style::new().bold();
    writeln!(anstream::stdout(), "{BOLD}{line}{BOLD:#}")
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
