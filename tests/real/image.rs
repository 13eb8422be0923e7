//! The recorder's image, built from the release binary without pulling anything, and run on a real engine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::command::{Output, TestDir, eventually, run};
use crate::support::docker::Engine;

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/docker").join(name)
}

/// Path of the release binary, which users run; other tests use the debug binary.
fn release_binary() -> PathBuf {
    let debug = Path::new(env!("CARGO_BIN_EXE_events"));
    let binary = debug.ancestors().nth(2).expect("the target directory").join("release/events");
    assert!(binary.exists(), "{} does not exist: run `cargo build --release`", binary.display());
    binary
}

/// The compose file in a directory of its own, adapted to an engine whose socket is at another path.
struct Project<'a> {
    engine: &'a Engine,
    test_dir: TestDir,
}

impl Project<'_> {
    fn new(engine: &Engine) -> Project<'_> {
        let test_dir = TestDir::new();
        let socket = engine.host.strip_prefix("unix://").unwrap();
        let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(socket).unwrap());
        let directory = Path::new(socket).parent().unwrap().display();
        std::fs::copy(contrib("compose.yaml"), test_dir.path("compose.yaml")).unwrap();
        let env = format!("DOCKER_GID={group}\nEVENTS_FLAGS=--retain 90d --max-size 2GiB\n");
        std::fs::write(test_dir.path(".env"), env).unwrap();
        let overrides = format!("services: {{ recorder: {{ volumes: [\"{directory}:/host/run:ro\"] }} }}\n");
        std::fs::write(test_dir.path("compose.override.yaml"), overrides).unwrap();
        Project { engine, test_dir }
    }

    fn compose(&self, args: &[&str]) -> Output {
        let mut compose = Command::new(self.engine.client_path().with_file_name("docker-compose"));
        compose.env_clear().env("DOCKER_HOST", &self.engine.host).env("HOME", self.test_dir.path("home"));
        compose.args(args).current_dir(self.test_dir.path("")).stdin(Stdio::null());
        run(compose)
    }

    /// Runs `events` in the recorder's container.
    fn events(&self, args: &[&str]) -> Output {
        self.compose(&[&["exec", "-T", "recorder", "events"], args].concat())
    }

    /// Waits until the source is connected, and returns its status.
    fn wait_until_connected(&self) -> Value {
        eventually("the recorder is connected", || {
            let output = self.events(&["status", "--json"]);
            let status: Value = serde_json::from_slice(&output.stdout)
                .map_err(|_| format!("{}\n{}", output.report(), self.compose(&["logs"]).report()))?;
            let source = &status["sources"][0];
            if source["connected"] == true { Ok(source.clone()) } else { Err(status.to_string()) }
        })
    }

    /// Runs a container that fails, and waits until its events are recorded.
    fn run_job(&self, job: &str) {
        let args = ["run", "--name", job, "--network", "none", "busybox", "sh", "-c", "exit 7"];
        self.engine.docker_unchecked(&args).assert_exit_code(7);
        eventually("the job is stored", || {
            if self.is_recorded(job) { Ok(()) } else { Err(self.compose(&["logs"]).report()) }
        });
    }

    /// Returns true if the job's `die` event is stored. Reads the store in the volume, because an engine that was
    /// started again, in new namespaces, cannot `exec`.
    fn is_recorded(&self, job: &str) -> bool {
        let store = self.engine.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}/events.db", "events_store"]);
        let lines = self.test_dir.lines(&["query", "--db", &store, "-q", "--container", job, "--action", "die"]);
        lines.len() == 1 && lines[0].contains("\"exitCode\":\"7\"")
    }

    fn inspect(&self, what: &str) -> String {
        self.engine.docker(&["inspect", "-f", what, "events-recorder-1"])
    }
}

#[test]
fn the_image_records_its_engine_as_an_unprivileged_user() {
    // A group without members, and an engine whose containers keep running when the engine stops.
    let args = ["--group", "4321", "--live-restore"];
    let engine = Engine::start_with("26", &args);
    let test_dir = TestDir::new();
    let root = test_dir.path("root");
    let mut build_root = Command::new(contrib("root"));
    build_root.arg(release_binary()).arg(&root);
    run(build_root).assert_success();
    let mut build = engine.client(&["build", "-q", "-t", "events", "-f"]);
    build.arg(contrib("binary.Dockerfile")).arg(&root).env("DOCKER_BUILDKIT", "0");
    run(build).assert_exit_code(0);
    let size: u64 = engine.docker(&["image", "inspect", "-f", "{{.Size}}", "events"]).trim().parse().unwrap();
    assert!(size < 40_000_000, "{size}");

    let project = Project::new(&engine);
    project.compose(&["up", "-d", "--no-build"]).assert_exit_code(0);
    project.wait_until_connected();
    let top = engine.docker(&["top", "events-recorder-1", "-o", "pid,uid,args"]);
    assert!(top.lines().any(|line| line.split_whitespace().nth(1) == Some("65532")), "{top}");
    // The image's own command, followed by the flags in .env.
    let image = engine.docker(&["image", "inspect", "-f", "{{join .Config.Cmd \" \"}}", "events"]);
    assert_eq!(project.inspect("{{join .Args \" \"}}"), format!("{image} --retain 90d --max-size 2GiB"));
    let network_guard = engine.enter_network();
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--noproxy", "*", "http://127.0.0.1:9324/readyz"]);
    assert_eq!(run(curl).assert_success().lines(), ["ok"]);
    drop(network_guard);
    project.run_job("job");

    // The recorder exits with 0, and the next one finds its store.
    project.compose(&["stop"]).assert_exit_code(0);
    assert_eq!(project.inspect("{{.State.ExitCode}}"), "0");
    project.compose(&["down"]).assert_exit_code(0);
    project.compose(&["up", "-d", "--no-build"]).assert_exit_code(0);
    assert_eq!(project.wait_until_connected()["gaps"], 0);
    assert!(project.is_recorded("job"));

    // A restarted engine binds a new socket in the same directory.
    let started = project.inspect("{{.State.StartedAt}}");
    engine.kill();
    engine.start_again(&args);
    project.run_job("next-job");
    assert_eq!(project.inspect("{{.State.StartedAt}}"), started);
}
