//! What containers an engine has, since when, and how they check their health: `/containers/json` and
//! `/containers/{id}/json`.
//!
//! Fields that are not asked for are passed over, and those that an engine leaves out are empty: Podman answers the same
//! questions a little differently.

use chrono::DateTime;
use hyper::StatusCode;
use serde::Deserialize;

use super::{Client, EngineError};

/// A container as the list of all shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// Its ID.
    #[serde(rename = "Id")]
    pub id: String,
    #[serde(rename = "Names", default)]
    names: Option<Vec<String>>,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    #[serde(rename = "State", default)]
    pub state: String,
}

impl Listed {
    /// Its own name, without the slash before it; the names that others link to it by have two.
    pub fn name(&self) -> &str {
        let names = self.names.as_deref().unwrap_or_default();
        let own = names.iter().find(|name| !name.trim_start_matches('/').contains('/')).or(names.first());
        own.map_or("", |name| name.trim_start_matches('/'))
    }
}

/// A container's own times. Instants are nanoseconds since the epoch, `None` for what never was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// When it was created.
    pub created: Option<i64>,
    /// When it was last started.
    pub started: Option<i64>,
    /// When it last ended.
    pub finished: Option<i64>,
    /// What it ended with; an engine forgets it when it starts the container again.
    pub exit_code: i64,
    /// Whether it ended because it had no more memory.
    pub out_of_memory: bool,
}

/// How a container checks its health, as its configuration says; what it has from its image stands there too.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Configured {
    #[serde(rename = "Config")]
    config: Option<Config>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    healthcheck: Option<Healthcheck>,
    /// What a command is run by that is given as a text.
    shell: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Healthcheck {
    test: Option<Vec<String>>,
}

/// What an engine runs a text by if the container does not say (moby `daemon/health.go`).
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl Configured {
    /// The command as it stands in the container's exec events; `None` if there is none.
    fn command(self) -> Option<String> {
        let config = self.config?;
        let test = config.healthcheck?.test?;
        let (kind, words) = test.split_first()?;
        let mut command: Vec<String> = match kind.as_str() {
            "CMD" => Vec::new(),
            "CMD-SHELL" => {
                config.shell.filter(|shell| !shell.is_empty()).unwrap_or_else(|| SHELL.map(str::to_owned).into())
            }
            _ => return None,
        };
        command.extend_from_slice(words);
        match command.as_slice() {
            [] => None,
            // Between the program and its arguments stands a space, also where there are none.
            [program, arguments @ ..] => Some(format!("{program} {}", arguments.join(" "))),
        }
    }
}

#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "Created", default)]
    created: String,
    #[serde(rename = "State", default)]
    state: State,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct State {
    started_at: String,
    finished_at: String,
    exit_code: i64,
    #[serde(rename = "OOMKilled")]
    out_of_memory: bool,
}

impl From<Inspected> for Times {
    fn from(inspected: Inspected) -> Times {
        let Inspected { created, state } = inspected;
        Times {
            created: instant(&created),
            started: instant(&state.started_at),
            finished: instant(&state.finished_at),
            exit_code: state.exit_code,
            out_of_memory: state.out_of_memory,
        }
    }
}

/// An instant as engines write it; what never was is the first of January of the year one.
fn instant(text: &str) -> Option<i64> {
    let instant = DateTime::parse_from_rfc3339(text).ok()?;
    instant.timestamp_nanos_opt().filter(|nanos| *nanos > 0)
}

impl Client {
    /// All containers, also those that do not run.
    ///
    /// # Errors
    /// [`EngineError`]; a proxy that lets through `/events` alone answers with a status.
    pub async fn containers(&self) -> Result<Vec<Listed>, EngineError> {
        self.json("/containers/json?all=1").await
    }

    /// A container's own times; `None` if it is not there any more.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn times(&self, id: &str) -> Result<Option<Times>, EngineError> {
        Ok(self.inspect::<Inspected>(id).await?.map(Times::from))
    }

    /// The command with which a container checks its health, as its exec events repeat it; `Some(None)` if it does not,
    /// `None` if it is not there any more.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn healthcheck(&self, id: &str) -> Result<Option<Option<String>>, EngineError> {
        Ok(self.inspect::<Configured>(id).await?.map(Configured::command))
    }

    async fn inspect<T: serde::de::DeserializeOwned>(&self, id: &str) -> Result<Option<T>, EngineError> {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        match self.json(&format!("/containers/{id}/json")).await {
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
    fn a_health_check_runs_the_command_that_its_exec_events_repeat() {
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
            let configured: Configured = serde_json::from_str(&format!(r#"{{"Id":"c1","Config":{config}}}"#)).unwrap();
            assert_eq!(configured.command().unwrap_or_default(), command, "{config}");
        }
    }

    #[test]
    fn what_docker_and_podman_answer_is_read() {
        let docker = r#"[{"Id":"c1","Names":["/other/alias","/web"],"Image":"busybox","State":"running","Created":1,"Ports":[]},
            {"Id":"c2","Names":null,"State":"exited","Status":"Exited (137) 3 minutes ago"}]"#;
        let listed: Vec<Listed> = serde_json::from_str(docker).unwrap();
        assert_eq!(
            listed.iter().map(|c| (c.name(), &*c.state)).collect::<Vec<_>>(),
            [("web", "running"), ("", "exited")]
        );

        let docker = r#"{"Id":"c1","Created":"2026-11-24T15:53:24.802090542Z","State":{"Status":"exited","Running":false,
            "OOMKilled":true,"ExitCode":137,"StartedAt":"2026-11-24T15:53:25Z","FinishedAt":"0001-01-01T00:00:00Z"}}"#;
        let times: Times = serde_json::from_str::<Inspected>(docker).unwrap().into();
        assert_eq!(
            times,
            Times {
                created: Some(1_795_535_604_802_090_542),
                started: Some(1_795_535_605_000_000_000),
                finished: None,
                exit_code: 137,
                out_of_memory: true
            }
        );
        let podman =
            r#"{"Created":"2026-11-24T17:53:24.5+02:00","State":{"ExitCode":0,"StartedAt":"","Restarting":false}}"#;
        let times: Times = serde_json::from_str::<Inspected>(podman).unwrap().into();
        assert_eq!((times.created, times.started), (Some(1_795_535_604_500_000_000), None));
    }
}
