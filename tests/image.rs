//! The image of the recorder: built from the release binary with nothing pulled from anywhere, and run on a real engine.

#[path = "support/command.rs"]
#[allow(dead_code)]
mod command;
#[path = "support/docker.rs"]
#[allow(dead_code)]
mod docker;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use command::{Folder, eventually, run};
use docker::Engine;

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/docker").join(name)
}

/// What users run, which is not what is tested otherwise.
fn release() -> PathBuf {
    let debug = Path::new(env!("CARGO_BIN_EXE_events"));
    let release = debug.ancestors().nth(2).expect("a folder of builds").join("release/events");
    assert!(release.exists(), "{} is built by `cargo build --release`", release.display());
    release
}

#[test]
fn both_images_are_the_same_but_for_where_they_come_from() {
    let last = |name: &str| {
        let text = std::fs::read_to_string(contrib(name)).unwrap();
        let stage = text.split("FROM scratch\n").nth(1).expect("a stage from nothing").to_owned();
        stage.lines().filter(|line| !line.starts_with("COPY")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(last("Dockerfile"), last("binary.Dockerfile"));
}

#[test]
#[ignore = "needs a Docker Engine, which tests/engine starts"]
fn the_image_records_the_engine_it_runs_on_as_nobody() {
    let engine = Engine::start("26");
    let folder = Folder::new();
    let root = folder.path("root");
    let mut made = Command::new(contrib("root"));
    made.arg(release()).arg(&root);
    run(made).succeeded();
    let mut build = engine.client(&["build", "-q", "-t", "events", "-f"]);
    build.arg(contrib("binary.Dockerfile")).arg(&root).env("DOCKER_BUILDKIT", "0");
    run(build).exited(0);
    let size: u64 = engine.docker(&["image", "inspect", "-f", "{{.Size}}", "events"]).trim().parse().unwrap();
    assert!(size < 40_000_000, "{size}");

    let socket = engine.host.strip_prefix("unix://").unwrap();
    let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(socket).unwrap()).to_string();
    let directory = format!("{}:/host/run:ro", Path::new(socket).parent().unwrap().display());
    // As the compose file says.
    let safe = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--tmpfs", "/tmp"];
    let words =
        ["run", "-d", "--name", "recorder", "--network", "none", "-v", "store:/var/lib/events", "-v", &directory];
    engine.docker(&[&words[..], &["--group-add", &group], &safe, &["events"]].concat());
    let said = || {
        let status = engine.docker_however(&["exec", "recorder", "/usr/local/bin/events", "status", "--json"]);
        let logs = || engine.docker_however(&["logs", "recorder"]).report();
        serde_json::from_slice::<Value>(&status.stdout).map_err(|_| format!("{}\n{}", status.report(), logs()))
    };
    eventually("it is connected", || {
        let status = said()?;
        if status["sources"][0]["connected"] == true { Ok(()) } else { Err(status.to_string()) }
    });
    let top = engine.docker(&["top", "recorder", "-o", "pid,uid,args"]);
    assert!(top.lines().any(|line| line.split_whitespace().nth(1) == Some("65532")), "{top}");

    engine.docker_however(&["run", "--name", "job", "--network", "none", "busybox", "sh", "-c", "exit 7"]).exited(7);
    let asked = ["exec", "recorder", "/usr/local/bin/events", "query", "-q", "--container", "job", "--action", "die"];
    eventually("it is recorded", || {
        let line = engine.docker(&asked);
        if line.contains("\"exitCode\":\"7\"") && line.lines().count() == 1 { Ok(()) } else { Err(line) }
    });
    // It ends as it should, and what it has stored is there for the next one.
    engine.docker(&["stop", "recorder"]);
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.ExitCode}}", "recorder"]), "0");
    engine.docker(&["start", "recorder"]);
    eventually("it goes on", || {
        let status = said()?;
        let source = &status["sources"][0];
        if source["connected"] == true && source["gaps"] == 0 { Ok(()) } else { Err(status.to_string()) }
    });
    assert!(engine.docker(&asked).contains("\"exitCode\":\"7\""));
}
