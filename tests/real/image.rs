//! The image of the recorder: built from the release binary with nothing pulled from anywhere, and run on a real engine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::command::{Folder, Ran, eventually, run};
use crate::support::docker::Engine;

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

/// The compose file in a folder of its own, started as the README says, for an engine whose socket is elsewhere.
struct Project<'a> {
    engine: &'a Engine,
    folder: Folder,
}

impl Project<'_> {
    fn new(engine: &Engine) -> Project<'_> {
        let folder = Folder::new();
        let socket = engine.host.strip_prefix("unix://").unwrap();
        let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(socket).unwrap());
        let directory = Path::new(socket).parent().unwrap().display();
        std::fs::copy(contrib("compose.yaml"), folder.path("compose.yaml")).unwrap();
        let env = format!("DOCKER_GID={group}\nEVENTS_FLAGS=--retain 90d --max-size 2GiB\n");
        std::fs::write(folder.path(".env"), env).unwrap();
        let here = format!("services: {{ recorder: {{ volumes: [\"{directory}:/host/run:ro\"] }} }}\n");
        std::fs::write(folder.path("compose.override.yaml"), here).unwrap();
        Project { engine, folder }
    }

    fn compose(&self, words: &[&str]) -> Ran {
        let mut compose = Command::new(self.engine.client_program().with_file_name("docker-compose"));
        compose.env_clear().env("DOCKER_HOST", &self.engine.host).env("HOME", self.folder.path("home"));
        compose.args(words).current_dir(self.folder.path("")).stdin(Stdio::null());
        run(compose)
    }

    /// What `events` says there.
    fn events(&self, words: &[&str]) -> Ran {
        self.compose(&[&["exec", "-T", "recorder", "events"], words].concat())
    }

    /// The source, once it is connected.
    fn connected(&self) -> Value {
        eventually("it is connected", || {
            let said = self.events(&["status", "--json"]);
            let status: Value = serde_json::from_slice(&said.stdout)
                .map_err(|_| format!("{}\n{}", said.report(), self.compose(&["logs"]).report()))?;
            let source = &status["sources"][0];
            if source["connected"] == true { Ok(source.clone()) } else { Err(status.to_string()) }
        })
    }

    /// Runs a container that fails, and waits until that is recorded.
    fn records(&self, job: &str) {
        let words = ["run", "--name", job, "--network", "none", "busybox", "sh", "-c", "exit 7"];
        self.engine.docker_however(&words).exited(7);
        eventually("it is recorded", || if self.has(job) { Ok(()) } else { Err(self.compose(&["logs"]).report()) });
    }

    /// Read in the volume: an engine that has begun anew in other namespaces cannot `exec`.
    fn has(&self, job: &str) -> bool {
        let store = self.engine.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}/events.db", "events_store"]);
        let lines = self.folder.lines(&["query", "--db", &store, "-q", "--container", job, "--action", "die"]);
        lines.len() == 1 && lines[0].contains("\"exitCode\":\"7\"")
    }

    fn inspect(&self, what: &str) -> String {
        self.engine.docker(&["inspect", "-f", what, "events-recorder-1"])
    }
}

#[test]
fn the_image_records_the_engine_it_runs_on_as_nobody() {
    // A group that nobody is in, and an engine whose containers go on without it.
    let words = ["--group", "4321", "--live-restore"];
    let engine = Engine::start_with("26", &words);
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

    let project = Project::new(&engine);
    project.compose(&["up", "-d", "--no-build"]).exited(0);
    project.connected();
    let top = engine.docker(&["top", "events-recorder-1", "-o", "pid,uid,args"]);
    assert!(top.lines().any(|line| line.split_whitespace().nth(1) == Some("65532")), "{top}");
    // What the image runs by itself, and the flags of .env.
    let image = engine.docker(&["image", "inspect", "-f", "{{join .Config.Cmd \" \"}}", "events"]);
    assert_eq!(project.inspect("{{join .Args \" \"}}"), format!("{image} --retain 90d --max-size 2GiB"));
    let near = engine.near();
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--noproxy", "*", "http://127.0.0.1:9324/readyz"]);
    assert_eq!(run(curl).succeeded().lines(), ["ok"]);
    drop(near);
    project.records("job");

    // It ends as it should, and what it has stored is there for the next one.
    project.compose(&["stop"]).exited(0);
    assert_eq!(project.inspect("{{.State.ExitCode}}"), "0");
    project.compose(&["down"]).exited(0);
    project.compose(&["up", "-d", "--no-build"]).exited(0);
    assert_eq!(project.connected()["gaps"], 0);
    assert!(project.has("job"));

    // The engine's next socket is another file in the same directory.
    let started = project.inspect("{{.State.StartedAt}}");
    engine.kill();
    engine.start_again(&words);
    project.records("next-job");
    assert_eq!(project.inspect("{{.State.StartedAt}}"), started);
}
