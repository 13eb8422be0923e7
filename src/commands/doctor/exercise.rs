//! The whole way of a container: created, seen, started, its events in a store, its logs read, removed.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::findings::Findings;
use crate::commands::Failure;
use crate::commands::record::{Plan, record};
use crate::engine::{Client, EngineError, Host, Wanted};
use crate::error::chain;
use crate::event::Event;
use crate::query::{Filter, Selection};
use crate::store::{self, Order, Reader, StoreError};
use crate::stream::multiplexed::{Frames, Output};

/// How long the events of a container may take into the store, and its command to its end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long its logs may take.
const READING: Duration = Duration::from_secs(10);

/// What the command writes and ends with, so that each is told from the others.
const COMMAND: &str = "echo this is stdout; echo this is stderr >&2; exit 7";
const EXIT_CODE: i64 = 7;

/// Whose containers these are.
const LABEL: &str = "events.doctor";

/// Goes the whole way at one engine. What was created is removed, whatever fails, and when `stopped` comes.
pub(super) async fn check(
    host: &Host,
    client: &Client,
    image: &str,
    db: &Path,
    stopped: impl Future<Output = ()>,
    findings: &mut Findings,
) -> io::Result<()> {
    let mut made = Vec::new();
    let ended = {
        let way = pin!(go(host, client, image, db, &mut made, findings));
        tokio::select! {
            done = way => Some(done),
            () = stopped => None,
        }
    };
    for id in made {
        findings.note(client.remove(&id).await, |()| format!("the container {} is removed", short(&id)))?;
    }
    match ended {
        Some(done) => done,
        None => findings.fails(&Failure::failed("it was stopped before it had gone the whole way")),
    }
}

/// Goes on from step to step for as long as they hold.
async fn go(
    host: &Host,
    client: &Client,
    image: &str,
    db: &Path,
    made: &mut Vec<String>,
    findings: &mut Findings,
) -> io::Result<()> {
    let listed = |containers: &Vec<_>| format!("it lists its containers: {}", containers.len());
    if findings.note(client.containers().await, listed)?.is_none() {
        return Ok(());
    }
    let Some(watched) = findings.note(Watched::begin(host, db).await, Watched::said)? else { return Ok(()) };
    for tty in [false, true] {
        let kind = if tty { "with a terminal" } else { "without a terminal" };
        let created = client.create(&name(), &wanted(image, tty)).await.map_err(|e| without_image(e, image));
        let said = |id: &String| format!("a container {kind} is created: {}", short(id));
        let Some(id) = findings.note(created, said)? else { break };
        made.push(id.clone());
        let inspected = client.times(&id).await.map_err(Failure::from);
        let inspected = inspected.and_then(|times| times.ok_or_else(|| Failure::failed("it cannot be inspected")));
        findings.note(inspected, |_| "it can be inspected".into())?;
        let ran = run(client, &id).await;
        let said = |code: &i64| format!("it is started, and ends with {code} as it should");
        if findings.note(ran, said)?.is_none() {
            break;
        }
        let said = |actions: &Vec<String>| format!("its {} are in the store", actions.join(", "));
        findings.note(watched.events_of(&id).await, said)?;
        let said = if tty { "its logs are one raw stream" } else { "its logs are told apart into stdout and stderr" };
        findings.note(read_logs(client, &id, tty).await, |()| said.into())?;
    }
    watched.end().await;
    Ok(())
}

fn name() -> String {
    format!("events-doctor-{:08x}", fastrand::u32(..))
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn wanted(image: &str, tty: bool) -> Wanted {
    Wanted {
        image: image.into(),
        cmd: ["sh", "-c", COMMAND].map(String::from).into(),
        tty,
        labels: BTreeMap::from([(LABEL.into(), "1".into())]),
        network_disabled: true,
    }
}

fn without_image(error: EngineError, image: &str) -> Failure {
    let missing = matches!(&error, EngineError::Status { status, .. } if status.as_u16() == 404);
    let failure = Failure::failed(chain(&error));
    if missing { failure.hint(format!("nothing is pulled here: `docker pull {image}`")) } else { failure }
}

/// Starts a container, and waits until it has ended as it should.
async fn run(client: &Client, id: &str) -> Result<i64, Failure> {
    client.start(id).await.map_err(|e| Failure::failed(chain(&e)).hint("the image needs `sh`, as busybox has it"))?;
    match client.wait(id, PATIENCE).await? {
        EXIT_CODE => Ok(EXIT_CODE),
        code => Err(Failure::failed(format!("it ended with {code}, and should with {EXIT_CODE}"))
            .hint(format!("`sh -c '{COMMAND}'` in this image does not what it should"))),
    }
}

/// Reads what a container wrote, which must be what its command writes.
async fn read_logs(client: &Client, id: &str, tty: bool) -> Result<(), Failure> {
    let (mut out, mut err, mut frames) = (Vec::new(), Vec::new(), Frames::default());
    let reading = async {
        let mut logs = client.logs(id).await?;
        while let Some(bytes) = logs.next().await? {
            if tty {
                out.extend_from_slice(&bytes);
                continue;
            }
            let each = |output, bytes: &[u8]| match output {
                Output::Stderr => err.extend_from_slice(bytes),
                Output::Stdout | Output::Stdin => out.extend_from_slice(bytes),
            };
            frames.push(&bytes, each).map_err(|e| Failure::failed(format!("its logs are no frames: {e}")))?;
        }
        frames.end().map_err(|e| Failure::failed(format!("its logs are broken: {e}")))
    };
    timeout(READING, reading).await.map_err(|_| Failure::failed("its logs do not end"))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let expected = match tty {
        true => ["this is stdout\nthis is stderr\n", ""],
        false => ["this is stdout\n", "this is stderr\n"],
    };
    let told = [text(&out), text(&err)];
    if told == expected {
        return Ok(());
    }
    Err(Failure::failed(format!("its logs say {told:?}, and should say {expected:?}"))
        .hint("does the engine's logging driver keep logs? `docker info --format '{{.LoggingDriver}}'`"))
}

/// A store that is being recorded into: that of the recorder that runs, or one of our own for as long as this takes.
enum Watched {
    Theirs(PathBuf),
    Ours(PathBuf, oneshot::Sender<()>, tokio::task::JoinHandle<()>, tempfile::TempDir),
}

impl Watched {
    /// Finds a recorder of this host, or starts one beside the store, which it does not touch.
    async fn begin(host: &Host, db: &Path) -> Result<Watched, Failure> {
        let recorder = store::recorder(db);
        if recorder.is_some_and(|state| state.hosts.iter().any(|known| known.connected && known.host == host.url())) {
            return Ok(Watched::Theirs(db.into()));
        }
        let folder = tempfile::Builder::new()
            .prefix("events-doctor-")
            .tempdir()
            .map_err(|e| Failure::failed(format!("cannot make a folder for a store: {e}")))?;
        let path = folder.path().join("events.db");
        let plan = Plan::new(vec![host.clone()], path.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let recording = tokio::spawn(async move {
            let told = async {
                let _ = stopped.await;
            };
            if let Err(e) = record(plan, told).await {
                e.report(crate::commands::LogFormat::Text);
            }
        });
        let until = Instant::now() + PATIENCE;
        while !store::recorder(&path).is_some_and(|state| state.hosts.iter().any(|host| host.connected)) {
            if Instant::now() > until || recording.is_finished() {
                return Err(Failure::failed("a recorder does not reach the engine"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Watched::Ours(path, stop, recording, folder))
    }

    fn said(&self) -> String {
        match self {
            Watched::Theirs(path) => format!("a recorder stores its events in {}", path.display()),
            Watched::Ours(..) => "it is recorded into a store of its own for this".into(),
        }
    }

    /// Waits until the events of a container are stored, and gives their actions.
    async fn events_of(&self, id: &str) -> Result<Vec<String>, Failure> {
        let (Watched::Theirs(path) | Watched::Ours(path, ..)) = self;
        let wanted = ["create", "start", "die"];
        let until = Instant::now() + PATIENCE;
        loop {
            let actions = actions(path, id)?;
            if wanted.iter().all(|wanted| actions.iter().any(|action| action == wanted)) {
                return Ok(wanted.map(String::from).into());
            }
            if Instant::now() > until {
                let failure = format!("of its create, start and die only [{}] are in the store", actions.join(", "));
                return Err(Failure::failed(failure).hint("does the recorder run with a --filter?"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        if let Watched::Ours(_, stop, recording, _folder) = self {
            let _ = stop.send(());
            let _ = recording.await;
        }
    }
}

/// What the store holds of a container, by time.
fn actions(path: &Path, id: &str) -> Result<Vec<String>, StoreError> {
    let mut filter = Filter::default();
    filter.add(&format!("container={id}")).expect("a container is a key");
    let selection = Selection { filter, ..Selection::default() };
    let reader = Reader::open(path)?;
    let mut actions = Vec::new();
    let passes = |event: &Event<'_>| selection.passes(event);
    let _ = reader.events::<()>(
        &selection.ask(None),
        reader.snapshot(0)?,
        Order::Time,
        selection.judge(&passes),
        |stored| {
            actions.extend(Event::parse(stored.raw).map(|event| event.action.to_string()));
            ControlFlow::Continue(())
        },
    )?;
    Ok(actions)
}
