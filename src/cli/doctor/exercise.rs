//! Exercises an engine: creates containers, inspects and starts them, waits for their events in a store, reads their
//! logs and removes them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use super::findings::Findings;
use super::recorded_store::RecordedStore;
use crate::cli::Failure;
use crate::engine::{Client, ContainerSpec, EngineError, Host};
use crate::error::chain;
use crate::stream::multiplexed::{FrameDecoder, StdStream};

/// Time limit for the events of a container to be stored, and for its command to exit.
pub(super) const CONTAINER_TIMEOUT: Duration = Duration::from_secs(20);

/// Time limit for reading the logs of a container.
const LOGS_TIMEOUT: Duration = Duration::from_secs(10);

/// Command of the containers. It writes different texts to stdout and stderr and exits with an unusual code, so that
/// each result can be checked.
const COMMAND: &str = "echo this is stdout; echo this is stderr >&2; exit 7";
const EXIT_CODE: i64 = 7;

/// Label of the containers.
const LABEL: &str = "events.doctor";

/// Exercises one engine. Removes the containers that it created, also after a failure or when `shutdown` resolves.
pub(super) async fn check(
    host: &Host,
    client: &Client,
    image: &str,
    db: &Path,
    shutdown: impl Future<Output = ()>,
    findings: &mut Findings,
) -> io::Result<()> {
    let mut container_ids = Vec::new();
    let outcome = {
        let steps = pin!(run_steps(host, client, image, db, &mut container_ids, findings));
        tokio::select! {
            result = steps => Some(result),
            () = shutdown => None,
        }
    };
    for id in container_ids {
        findings.report(client.remove_container(&id).await, |()| format!("removed the container {}", short_id(&id)))?;
    }
    match outcome {
        Some(result) => result,
        None => findings.fail(&Failure::failed("the exercise was interrupted")),
    }
}

/// Runs the steps in order until one fails.
async fn run_steps(
    host: &Host,
    client: &Client,
    image: &str,
    db: &Path,
    container_ids: &mut Vec<String>,
    findings: &mut Findings,
) -> io::Result<()> {
    let list_text = |containers: &Vec<_>| format!("the engine lists its containers: {}", containers.len());
    if findings.report(client.list_containers().await, list_text)?.is_none() {
        return Ok(());
    }
    let Some(recording) = findings.report(RecordedStore::find_or_start(host, db).await, RecordedStore::description)?
    else {
        return Ok(());
    };
    for tty in [false, true] {
        let kind = if tty { "with a terminal" } else { "without a terminal" };
        let created = client
            .create_container(&container_name(), &container_config(image, tty))
            .await
            .map_err(|e| create_failure(e, image));
        let text = |id: &String| format!("created a container {kind}: {}", short_id(id));
        let Some(id) = findings.report(created, text)? else { break };
        container_ids.push(id.clone());
        let inspected = client.container_times(&id).await.map_err(Failure::from);
        let inspected = inspected.and_then(|times| {
            times.ok_or_else(|| Failure::failed("cannot inspect the container: the engine does not have it"))
        });
        findings.report(inspected, |_| "inspected the container".into())?;
        let exit_code = run_container(client, &id).await;
        let text = |code: &i64| format!("ran the container; it exited with {code}, as expected");
        if findings.report(exit_code, text)?.is_none() {
            break;
        }
        let text = |actions: &Vec<String>| format!("found its events in the store: {}", actions.join(", "));
        findings.report(recording.wait_for_events(&id).await, text)?;
        let text = if tty { "read its logs, one raw stream" } else { "read its logs, stdout and stderr separately" };
        findings.report(read_logs(client, &id, tty).await, |()| text.into())?;
    }
    recording.stop().await;
    Ok(())
}

fn container_name() -> String {
    format!("events-doctor-{:08x}", fastrand::u32(..))
}

fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn container_config(image: &str, tty: bool) -> ContainerSpec {
    ContainerSpec {
        image: image.into(),
        cmd: ["sh", "-c", COMMAND].map(String::from).into(),
        tty,
        labels: BTreeMap::from([(LABEL.into(), "1".into())]),
        network_disabled: true,
    }
}

fn create_failure(error: EngineError, image: &str) -> Failure {
    let missing = matches!(&error, EngineError::Status { status, .. } if status.as_u16() == 404);
    let failure = Failure::failed(chain(&error));
    if missing { failure.hint(format!("pull the image first: `docker pull {image}`")) } else { failure }
}

/// Starts a container and waits until it exits with the expected code.
async fn run_container(client: &Client, id: &str) -> Result<i64, Failure> {
    client
        .start_container(id)
        .await
        .map_err(|e| Failure::failed(chain(&e)).hint("use an image with `sh`, such as busybox"))?;
    match client.wait_container(id, CONTAINER_TIMEOUT).await? {
        EXIT_CODE => Ok(EXIT_CODE),
        code => Err(Failure::failed(format!("the container exited with {code} instead of {EXIT_CODE}"))
            .hint(format!("run `sh -c '{COMMAND}'` in this image to see why"))),
    }
}

/// Reads the logs of a container and compares them with the output of its command.
async fn read_logs(client: &Client, id: &str, tty: bool) -> Result<(), Failure> {
    let (mut out, mut err, mut frames) = (Vec::new(), Vec::new(), FrameDecoder::default());
    let read_frames = async {
        let mut logs = client.container_logs(id).await?;
        while let Some(bytes) = logs.next().await? {
            if tty {
                out.extend_from_slice(&bytes);
                continue;
            }
            let on_frame = |output, bytes: &[u8]| match output {
                StdStream::Stderr => err.extend_from_slice(bytes),
                StdStream::Stdout | StdStream::Stdin => out.extend_from_slice(bytes),
            };
            frames
                .push(&bytes, on_frame)
                .map_err(|e| Failure::failed(format!("cannot split the logs into frames: {e}")))?;
        }
        frames.finish().map_err(|e| Failure::failed(format!("the logs are incomplete: {e}")))
    };
    timeout(LOGS_TIMEOUT, read_frames).await.map_err(|_| Failure::failed("the logs did not end in time"))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let expected = match tty {
        true => ["this is stdout\nthis is stderr\n", ""],
        false => ["this is stdout\n", "this is stderr\n"],
    };
    let actual = [text(&out), text(&err)];
    if actual == expected {
        return Ok(());
    }
    Err(Failure::failed(format!("the logs are {actual:?} instead of {expected:?}"))
        .hint("check that the logging driver keeps logs: `docker info --format '{{.LoggingDriver}}'`"))
}
