//! `events demo`: records and queries a sample without a Docker Engine.
//!
//! Only the engine is embedded: it plays a fixture over a socket. The client, the parser, the store and the query are
//! those of the other commands.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anstyle::Style;
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, Shared, runtime};
use crate::engine::Host;
use crate::error::count_noun;
use crate::http::Address;
use crate::recorder::{Config, Recorder};
use crate::serve::{Engine, EngineIdentity, Feed, History};
use crate::store::{GapReason, Reader};

/// A failed deployment, recorded from Docker 28.5.2 by `fixtures/record-shop.sh`.
const RECORDING: &str = include_str!("../../fixtures/shop.ndjson");

/// Number of events in the backlog when the recorder connects: those before the deployment. The others arrive live.
const BACKLOG_EVENTS: usize = 25;

/// Query for the events that matter in the recording. It leaves out networks, volumes, images, and health checks that
/// did not change the status.
const QUERY: &str = "query --action start --action die --action oom \\
    --action health_status --format table";

/// Time limit for each step of the recorder, which needs a fraction of a second.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The options of `demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Shared, _: &Args) -> Result<(), Failure> {
    let dir = tempfile::Builder::new()
        .prefix("events-demo-")
        .tempdir()
        .map_err(|e| Failure::failed(format!("cannot create a temporary directory: {e}")))?;
    let (socket, db) = (dir.path().join("docker.sock"), dir.path().join("events.db"));
    let runtime = runtime::current_thread()?;
    runtime.block_on(record_sample(&socket, &db))?;
    verify(&db)?;

    print_line(
        "\nVersion 1.5 of web makes api run out of memory. Without api, worker crashes in\n\
         a loop and web becomes unhealthy, until version 1.4 is deployed again.\n",
    )?;
    run_in_process(db.as_os_str(), QUERY)?;
    print_line("\nTry next, on a machine with a Docker Engine:")?;
    print_command("  events record &")?;
    print_command("  events query --since 1h --format table")?;
    Ok(())
}

/// Plays the recording to a recorder until all events are stored.
async fn record_sample(socket: &Path, db: &Path) -> Result<(), Failure> {
    let lines: Vec<&str> = RECORDING.lines().collect();
    let id = "d3m00000-0000-4000-8000-000000000000".into();
    let identity = EngineIdentity { id, name: "demo".into(), ..EngineIdentity::default() };
    let feed = Feed::default();
    let engine = Arc::new(Engine::new(History::Feed(feed.clone())).with_identity(identity));
    let (backlog, live) = lines.split_at(BACKLOG_EVENTS);
    backlog.iter().for_each(|line| feed.push(line.as_bytes()));
    let server = engine
        .clone()
        .listen(&Address::Unix(socket.into()), None)
        .map_err(|e| Failure::failed(crate::error::chain(&e)))?;
    let server = tokio::spawn(server);
    print_line(&format!("A small shop on Docker 28.5.2: {} events, played by an embedded engine.", lines.len()))?;

    let started = Instant::now();
    let shutdown = CancellationToken::new();
    let config = Config::new(vec![Host::unix(socket)], db.into());
    let recorder = tokio::spawn(Recorder::run(config, shutdown.clone()));
    wait_for(db, backlog.len() as u64).await?;
    live.iter().for_each(|line| feed.push(line.as_bytes()));
    wait_for(db, lines.len() as u64).await?;
    print_line(&format!(
        "Recorded into SQLite in {} ms: {} from the engine's backlog, {} live.",
        started.elapsed().as_millis(),
        backlog.len(),
        live.len(),
    ))?;
    shutdown.cancel();
    recorder.await.expect("the recorder does not panic")?;
    server.abort();
    Ok(())
}

/// Checks the store as `events verify` and `events gaps` do.
fn verify(db: &Path) -> Result<(), Failure> {
    let reader = Reader::open(db)?;
    let faults = reader.verify(&[], |_| ())?.faults;
    let gaps = reader.gaps()?.into_iter().filter(|gap| gap.reason != GapReason::FirstContact.as_str()).count() as u64;
    if faults > 0 || gaps > 0 {
        let found = format!("{} in the hash chain, {}", count_noun(faults, "fault"), count_noun(gaps, "gap"));
        return Err(Failure::failed(format!("the store of the demo is damaged: {found}")));
    }
    Ok(print_line("Verified: the hash chain is intact, and the record has no gaps.")?)
}

/// Waits until the store contains this many events.
async fn wait_for(db: &Path, events: u64) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let stored = Reader::open(db).and_then(|reader| reader.sources());
        let stored: u64 = stored.iter().flatten().map(|source| source.events).sum();
        if stored >= events {
            return Ok(());
        }
        if started.elapsed() > TIMEOUT {
            return Err(Failure::failed(format!(
                "after {} s only {stored} of {events} events were stored",
                TIMEOUT.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Prints a command line and runs it in this process.
fn run_in_process(db: &OsStr, arguments: &str) -> Result<(), Failure> {
    print_command(&format!("$ events {arguments}"))?;
    let args = arguments.split_whitespace().filter(|arg| *arg != "\\").map(OsStr::new);
    let args = ["events", "--db"].map(OsStr::new).into_iter().chain([db]).chain(args);
    match super::main(args.map(OsStr::to_owned)) {
        Exit::Success => Ok(()),
        _ => Err(Failure::failed("the query failed")),
    }
}

/// Prints a command line, bold on a terminal.
fn print_command(line: &str) -> io::Result<()> {
    const BOLD: Style = Style::new().bold();
    writeln!(anstream::stdout(), "{BOLD}{line}{BOLD:#}")
}

fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
