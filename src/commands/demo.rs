//! `events demo`: the whole way with nothing installed. An embedded engine plays a recording over a real socket; the
//! real client, parser and store record it; the real query reads it back.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::record::{Plan, record};
use super::{Exit, Failure, Shared};
use crate::engine::Host;
use crate::serve::{Address, Engine, Feed, History, Identity};
use crate::store::Reader;

/// A session recorded from Docker 28.5.2; see `fixtures/README.md`.
const RECORDING: &str = include_str!("../../fixtures/docker-28.5.2.ndjson");

/// How many of its events the engine remembers when the recorder first comes; the rest happens before its eyes.
const REMEMBERED: usize = 200;

/// How long the recorder may take; it takes a fraction of a second.
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

    let db = db.into_os_string();
    say("")?;
    say("Now the record is asked what a person would ask first:")?;
    same_program(&db, &["query", "--type", "container", "--action", "start"])?;
    say("")?;
    say("the newest three of any kind, as `docker events` prints them:")?;
    same_program(&db, &["query", "--last", "3", "--format", "text"])?;
    say("")?;
    say("and how it is doing:")?;
    same_program(&db, &["status"])?;
    say("")?;
    say("With a Docker Engine of your own: `events record`, and the same queries without --db.")?;
    Ok(())
}

/// The engine plays, the recorder records, until all is stored.
async fn play(socket: &Path, db: &Path) -> Result<(), Failure> {
    let lines: Vec<&str> = RECORDING.lines().collect();
    let id = "d3m00000-0000-4000-8000-000000000000".into();
    let identity = Identity { id, name: "demo".into(), ..Identity::default() };
    let feed = Feed::default();
    let engine = Arc::new(Engine::new(History::Feed(feed.clone())).with_identity(identity));
    let (remembered, later) = lines.split_at(REMEMBERED);
    remembered.iter().for_each(|line| feed.push(line.as_bytes()));
    let answering = engine
        .clone()
        .listen(&Address::Unix(socket.into()), None)
        .map_err(|e| Failure::failed(crate::error::chain(&e)))?;
    let answering = tokio::spawn(answering);
    say(&format!(
        "An engine is made of {} events recorded from Docker 28.5.2; it listens on\n  {}",
        lines.len(),
        socket.display()
    ))?;

    let started = Instant::now();
    let (stop, stopped) = oneshot::channel::<()>();
    let plan = Plan::new(vec![Host::unix(socket)], db.into());
    let recorder = tokio::spawn(record(plan, async move {
        let _ = stopped.await;
    }));
    say(&format!(
        "A recorder is started, as by\n  events record -H unix://{} --db {}",
        socket.display(),
        db.display()
    ))?;
    wait_for(db, remembered.len() as u64).await?;
    say(&format!("  {} events that the engine remembered are stored", remembered.len()))?;
    later.iter().for_each(|line| feed.push(line.as_bytes()));
    wait_for(db, lines.len() as u64).await?;
    say(&format!(
        "  {} more that happened since are stored; {} ms in all, each commit on the disk",
        later.len(),
        started.elapsed().as_millis()
    ))?;
    let _ = stop.send(());
    recorder.await.expect("the recorder does not panic")?;
    answering.abort();
    say("The recorder is stopped, the engine too.")?;
    Ok(())
}

/// Waits until the store holds so many events, as a reader sees it.
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

/// Shows a command and runs it, in this process but from its words on.
fn same_program(db: &OsString, words: &[&str]) -> Result<(), Failure> {
    say(&format!("$ events {}", words.join(" ")))?;
    let all = ["events", "--db"].into_iter().map(OsString::from).chain([db.clone()]);
    match super::main(all.chain(words.iter().map(OsString::from))) {
        Exit::Done => Ok(()),
        _ => Err(Failure::failed("that should have worked")),
    }
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
