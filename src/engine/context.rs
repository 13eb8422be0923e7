//! Reads the docker client's contexts: names for engines, in files under `~/.docker` (docker/cli `cli/context/store`).
//!
//! `config.json` names the current context. `contexts/meta/ID/meta.json` contains the URL of its engine, and
//! `contexts/tls/ID/docker/` its certificates. The ID is the SHA-256 of the name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::host::HostError;
use super::tls::{TlsClient, TlsFiles};
use crate::error::hex;

/// Name that stands for no context: flags and environment then select the engine.
pub(super) const DEFAULT_CONTEXT: &str = "default";

/// Configuration directory of the docker client; `None` without a home directory.
pub(super) fn config_dir(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = || env("HOME").map(|home| Path::new(&home).join(".docker"));
    env("DOCKER_CONFIG").map(PathBuf::from).or_else(home)
}

/// Returns the context to use if no host is given, and the setting that names it.
pub(super) fn selected_context(
    flag: Option<&str>,
    env: impl Fn(&str) -> Option<String>,
    config_dir: Option<&Path>,
) -> Option<(String, &'static str)> {
    if let Some(name) = flag {
        return Some((name.into(), "--context"));
    }
    let from_env = env("DOCKER_CONTEXT").map(|name| (name, "DOCKER_CONTEXT"));
    if env("DOCKER_HOST").is_some() {
        if from_env.is_some_and(|(name, _)| name != DEFAULT_CONTEXT) {
            tracing::warn!("DOCKER_HOST overrides DOCKER_CONTEXT");
        }
        return None;
    }
    from_env.or_else(|| {
        current_context(&config_dir?.join("config.json")).map(|name| (name, "the docker client's config.json"))
    })
}

/// Reads the current context. As in the docker client, an unreadable file only causes a warning.
fn current_context(path: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "currentContext", default)]
        current_context: String,
    }
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!("cannot read {}: {e}; the file is ignored", path.display());
            }
            return None;
        }
    };
    match serde_json::from_slice::<Config>(&text) {
        Ok(config) => Some(config.current_context).filter(|name| !name.is_empty()),
        Err(e) => {
            tracing::warn!("cannot read {}: {e}; the file is ignored", path.display());
            None
        }
    }
}

/// Endpoint of a context's engine.
#[derive(Debug)]
pub(super) struct Context {
    /// URL; empty for the local engine.
    pub(super) host: String,
    pub(super) tls: Option<TlsClient>,
}

#[derive(Deserialize)]
struct ContextMetadata {
    #[serde(rename = "Endpoints", default)]
    endpoints: ContextEndpoints,
}

#[derive(Default, Deserialize)]
struct ContextEndpoints {
    docker: Option<DockerEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEndpoint {
    #[serde(default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

impl Context {
    /// Reads the context with this name.
    ///
    /// # Errors
    /// [`HostError`] if the context does not exist or is invalid.
    pub(super) fn load(name: &str, named_by: &'static str, config_dir: Option<&Path>) -> Result<Context, HostError> {
        let missing = || HostError::ContextNotFound { name: name.into(), named_by };
        let invalid = |reason: String| HostError::InvalidContext { name: name.into(), reason };
        let contexts = config_dir.ok_or_else(missing)?.join("contexts");
        let id = hex(&Sha256::digest(name));
        let path = contexts.join("meta").join(&id).join("meta.json");
        let text = fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => invalid(format!("cannot read {}: {e}", path.display())),
        })?;
        let meta: ContextMetadata =
            serde_json::from_slice(&text).map_err(|e| invalid(format!("{}: {e}", path.display())))?;
        let docker = meta.endpoints.docker.ok_or_else(|| invalid("the context has no Docker endpoint".into()))?;
        let tls = load_tls(&contexts.join("tls").join(&id).join("docker"), docker.skip_tls_verify);
        Ok(Context { host: docker.host, tls })
    }
}

/// Loads the certificates in a context's directory.
///
/// The connection uses TLS if there are any files, or if the context skips verification.
fn load_tls(dir: &Path, skip_verify: bool) -> Option<TlsClient> {
    let existing = |name: &str| Some(dir.join(name)).filter(|path| path.exists());
    let (ca, certificate, key) = (existing("ca.pem"), existing("cert.pem"), existing("key.pem"));
    let use_tls = skip_verify || ca.is_some() || certificate.is_some() || key.is_some();
    let files = TlsFiles { verify: !skip_verify, ca: ca.filter(|_| !skip_verify), identity: certificate.zip(key) };
    use_tls.then(|| files.into())
}
