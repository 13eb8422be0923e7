//! Requests the containers of an engine, their times and their health checks: `/containers/json` and
//! `/containers/{id}/json`.
//!
//! Other fields are ignored. A field that the engine omits is empty, because the responses of Podman differ a little.

use chrono::DateTime;
use hyper::StatusCode;
use serde::Deserialize;

use super::{Client, EngineError};

/// A container in the list of all containers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ContainerSummary {
    /// ID of the container.
    #[serde(rename = "Id")]
    pub id: String,
    #[serde(rename = "Names", default)]
    names: Option<Vec<String>>,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    #[serde(rename = "State", default)]
    pub state: String,
}

impl ContainerSummary {
    /// Own name, without its leading slash. Names for links from other containers have a second slash.
    pub fn name(&self) -> &str {
        let names = self.names.as_deref().unwrap_or_default();
        let own = names.iter().find(|name| !name.trim_start_matches('/').contains('/')).or(names.first());
        own.map_or("", |name| name.trim_start_matches('/'))
    }
}

/// Times of a container, in nanoseconds since the Unix epoch; `None` for what never happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerTimes {
    /// Time of creation.
    pub created: Option<i64>,
    /// Time of the last start.
    pub started: Option<i64>,
    /// Time of the last exit.
    pub finished: Option<i64>,
    /// Exit code of the last exit. The engine resets it when it starts the container again.
    pub exit_code: i64,
    /// True if the container was killed because it ran out of memory.
    pub oom_killed: bool,
}

/// Response with the health check of a container. It includes a health check that the image defines.
#[derive(Default, Deserialize)]
#[serde(default)]
struct InspectedConfig {
    #[serde(rename = "Config")]
    config: Option<ContainerConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ContainerConfig {
    healthcheck: Option<Healthcheck>,
    /// Shell for a command in shell form.
    shell: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Healthcheck {
    test: Option<Vec<String>>,
}

/// Shell that an engine uses if the container defines none (moby `daemon/health.go`).
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl InspectedConfig {
    /// Returns the command as in the container's exec events; `None` without a health check.
    fn healthcheck_command(self) -> Option<String> {
        let config = self.config?;
        let test = config.healthcheck?.test?;
        let (kind, args) = test.split_first()?;
        let mut command: Vec<String> = match kind.as_str() {
            "CMD" => Vec::new(),
            "CMD-SHELL" => config
                .shell
                .filter(|shell| !shell.is_empty())
                .unwrap_or_else(|| DEFAULT_SHELL.map(str::to_owned).into()),
            _ => return None,
        };
        command.extend_from_slice(args);
        match command.as_slice() {
            [] => None,
            // The engine puts a space after the program, also without arguments.
            [program, arguments @ ..] => Some(format!("{program} {}", arguments.join(" "))),
        }
    }
}

#[derive(Deserialize)]
struct InspectedState {
    #[serde(rename = "Created", default)]
    created: String,
    #[serde(rename = "State", default)]
    state: ContainerState,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ContainerState {
    started_at: String,
    finished_at: String,
    exit_code: i64,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
}

impl From<InspectedState> for ContainerTimes {
    fn from(inspected: InspectedState) -> ContainerTimes {
        let InspectedState { created, state } = inspected;
        ContainerTimes {
            created: parse_time(&created),
            started: parse_time(&state.started_at),
            finished: parse_time(&state.finished_at),
            exit_code: state.exit_code,
            oom_killed: state.oom_killed,
        }
    }
}

/// Parses a time from an engine. Engines send January 1st of year 1 for what never happened; that is `None`.
fn parse_time(text: &str) -> Option<i64> {
    let instant = DateTime::parse_from_rfc3339(text).ok()?;
    instant.timestamp_nanos_opt().filter(|nanos| *nanos > 0)
}

impl Client {
    /// Lists all containers, including those that are not running.
    ///
    /// # Errors
    /// [`EngineError`]. A proxy that only allows `/events` responds with an error status.
    pub async fn list_containers(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        self.get_json("/containers/json?all=1").await
    }

    /// Returns the times of a container; `None` if it does not exist any more.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn container_times(&self, id: &str) -> Result<Option<ContainerTimes>, EngineError> {
        Ok(self.inspect::<InspectedState>(id).await?.map(ContainerTimes::from))
    }

    /// Returns the health-check command of a container, as its exec events contain it.
    ///
    /// The result is `Some(None)` without a health check, and `None` if the container does not exist any more.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn healthcheck_command(&self, id: &str) -> Result<Option<Option<String>>, EngineError> {
        Ok(self.inspect::<InspectedConfig>(id).await?.map(InspectedConfig::healthcheck_command))
    }

    async fn inspect<T: serde::de::DeserializeOwned>(&self, id: &str) -> Result<Option<T>, EngineError> {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        match self.get_json(&format!("/containers/{id}/json")).await {
            Ok(inspected) => Ok(Some(inspected)),
            Err(EngineError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_healthcheck_command_matches_its_exec_events() {
        for (config, command) in [
            (
                r#"{"Healthcheck":{"Test":["CMD-SHELL","test -f /ok || exit 1"],"Interval":1}}"#,
                "/bin/sh -c test -f /ok || exit 1",
            ),
            (
                r#"{"Healthcheck":{"Test":["CMD-SHELL","id"]},"Shell":["/bin/bash","-eo","pipefail","-c"]}"#,
                "/bin/bash -eo pipefail -c id",
            ),
            (r#"{"Healthcheck":{"Test":["CMD-SHELL","id"]},"Shell":[]}"#, "/bin/sh -c id"),
            (
                r#"{"Healthcheck":{"Test":["CMD","curl","-f","http://localhost/"]},"Shell":["bash"]}"#,
                "curl -f http://localhost/",
            ),
            (r#"{"Healthcheck":{"Test":["CMD","/healthy"]}}"#, "/healthy "),
            (r#"{"Healthcheck":{"Test":["NONE"]}}"#, ""),
            (r#"{"Healthcheck":{"Test":["CMD"]}}"#, ""),
            (r#"{"Healthcheck":{"Test":[]}}"#, ""),
            (r#"{"Healthcheck":{}}"#, ""),
            (r#"{"Healthcheck":null,"Shell":null}"#, ""),
            ("{}", ""),
            ("null", ""),
        ] {
            let configured: InspectedConfig =
                serde_json::from_str(&format!(r#"{{"Id":"c1","Config":{config}}}"#)).unwrap();
            assert_eq!(configured.healthcheck_command().unwrap_or_default(), command, "{config}");
        }
    }

    #[test]
    fn docker_and_podman_responses_are_parsed() {
        let docker = r#"[{"Id":"c1","Names":["/other/alias","/web"],"Image":"busybox","State":"running","Created":1,"Ports":[]},
            {"Id":"c2","Names":null,"State":"exited","Status":"Exited (137) 3 minutes ago"}]"#;
        let listed: Vec<ContainerSummary> = serde_json::from_str(docker).unwrap();
        assert_eq!(
            listed.iter().map(|c| (c.name(), &*c.state)).collect::<Vec<_>>(),
            [("web", "running"), ("", "exited")]
        );

        let docker = r#"{"Id":"c1","Created":"2026-11-24T15:53:24.802090542Z","State":{"Status":"exited","Running":false,
            "OOMKilled":true,"ExitCode":137,"StartedAt":"2026-11-24T15:53:25Z","FinishedAt":"0001-01-01T00:00:00Z"}}"#;
        let times: ContainerTimes = serde_json::from_str::<InspectedState>(docker).unwrap().into();
        assert_eq!(
            times,
            ContainerTimes {
                created: Some(1_795_535_604_802_090_542),
                started: Some(1_795_535_605_000_000_000),
                finished: None,
                exit_code: 137,
                oom_killed: true
            }
        );
        let podman =
            r#"{"Created":"2026-11-24T17:53:24.5+02:00","State":{"ExitCode":0,"StartedAt":"","Restarting":false}}"#;
        let times: ContainerTimes = serde_json::from_str::<InspectedState>(podman).unwrap().into();
        assert_eq!((times.created, times.started), (Some(1_795_535_604_500_000_000), None));
    }
}
