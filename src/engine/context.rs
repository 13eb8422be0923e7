//! The docker client's contexts: names for engines, in files under `~/.docker` (docker/cli `cli/context/store`).
//!
//! `config.json` says which is the current one; `contexts/meta/ID/meta.json` where its engine is, and
//! `contexts/tls/ID/docker/` holds its certificates. The ID is the SHA-256 of the name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::host::HostError;
use super::tls::{Files, Tls};

/// The context that is none: flags and environment say where the engine is.
pub(super) const DEFAULT: &str = "default";

/// Where the docker client keeps its files; `None` without a home.
pub(super) fn folder(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = || env("HOME").map(|home| Path::new(&home).join(".docker"));
    env("DOCKER_CONFIG").map(PathBuf::from).or_else(home)
}

/// The name of the context to use where no host is given, and what names it.
pub(super) fn chosen(
    given: Option<&str>,
    env: impl Fn(&str) -> Option<String>,
    folder: Option<&Path>,
) -> Option<(String, &'static str)> {
    if let Some(name) = given {
        return Some((name.into(), "--context"));
    }
    let by_environment = env("DOCKER_CONTEXT").map(|name| (name, "DOCKER_CONTEXT"));
    if env("DOCKER_HOST").is_some() {
        if by_environment.is_some_and(|(name, _)| name != DEFAULT) {
            tracing::warn!("DOCKER_HOST is taken, not the context that DOCKER_CONTEXT names");
        }
        return None;
    }
    by_environment
        .or_else(|| current(&folder?.join("config.json")).map(|name| (name, "the docker client's config.json")))
}

/// The current context. As to the docker client, a file that cannot be read is a warning.
fn current(path: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "currentContext", default)]
        current_context: String,
    }
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!("cannot read {}: {e}; it is passed over", path.display());
            }
            return None;
        }
    };
    match serde_json::from_slice::<Config>(&text) {
        Ok(config) => Some(config.current_context).filter(|name| !name.is_empty()),
        Err(e) => {
            tracing::warn!("cannot read {}: {e}; it is passed over", path.display());
            None
        }
    }
}

/// Where a context's engine is.
#[derive(Debug)]
pub(super) struct Context {
    /// A URL; empty for the engine of this machine.
    pub(super) host: String,
    pub(super) tls: Option<Tls>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "Endpoints", default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<Docker>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    #[serde(default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

impl Context {
    /// Reads the context of that name.
    ///
    /// # Errors
    /// It is not there, or not as it should be.
    pub(super) fn load(name: &str, named_by: &'static str, folder: Option<&Path>) -> Result<Context, HostError> {
        let missing = || HostError::NoContext { name: name.into(), named_by };
        let wrong = |why: String| HostError::Context { name: name.into(), why };
        let contexts = folder.ok_or_else(missing)?.join("contexts");
        let id: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
        let path = contexts.join("meta").join(&id).join("meta.json");
        let text = fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => wrong(format!("cannot read {}: {e}", path.display())),
        })?;
        let meta: Meta = serde_json::from_slice(&text).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
        let docker = meta.endpoints.docker.ok_or_else(|| wrong("it is not for a Docker Engine".into()))?;
        let tls = certificates(&contexts.join("tls").join(&id).join("docker"), docker.skip_tls_verify);
        Ok(Context { host: docker.host, tls })
    }
}

/// The certificates in a context's folder. There is TLS where there are any, or where none are to be verified.
fn certificates(folder: &Path, skip_verify: bool) -> Option<Tls> {
    let there = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    let (authorities, certificate, key) = (there("ca.pem"), there("cert.pem"), there("key.pem"));
    let any = skip_verify || authorities.is_some() || certificate.is_some() || key.is_some();
    let files = Files {
        verify: !skip_verify,
        authorities: authorities.filter(|_| !skip_verify),
        identity: certificate.zip(key),
    };
    any.then(|| files.into())
}
