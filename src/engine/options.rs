//! Selects the engines from flags, environment and contexts, in the docker client's order. No other module decides this
//! (docker/cli 28.5: `cli/flags/options.go`, `cli/command/cli.go`, `cli/context/docker/load.go`).
//!
//! The order is `--host` > `--context` > `DOCKER_HOST` > `DOCKER_CONTEXT` > the current context > the local engine. The
//! TLS flags and variables apply to hosts; a context has its own certificates.

use std::path::{Path, PathBuf};

use super::context::{self, Context, DEFAULT_CONTEXT};
use super::host::{DEFAULT_SOCKET, Host, HostError};
use super::tls::{TlsClient, TlsFiles};

/// Default host of the docker client with TLS options.
const DEFAULT_TLS_HOST: &str = "tcp://localhost:2376";

/// Options that select engines, as for the docker client.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Hosts, as URLs or `NAME=URL`.
    pub hosts: Vec<String>,
    /// Name of a context of the docker client.
    pub context: Option<String>,
    /// Use TLS without verifying the server.
    pub tls: Option<bool>,
    /// Use TLS and verify the server.
    pub tls_verify: Option<bool>,
    /// File with the certificate authorities that may sign the server certificate.
    pub tls_ca: Option<PathBuf>,
    /// File with the client certificate.
    pub tls_cert: Option<PathBuf>,
    /// File with the key of the client certificate.
    pub tls_key: Option<PathBuf>,
}

impl ClientOptions {
    /// Returns the selected hosts, after checking that their certificates can be loaded.
    ///
    /// # Errors
    /// [`HostError`] for an invalid host, a missing context or unusable certificates.
    pub fn resolve(&self, env: impl Fn(&str) -> Option<String>) -> Result<Vec<Host>, HostError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let config_dir = context::config_dir(env);
        let selected = match (&self.context, &self.hosts[..]) {
            (Some(_), [_, ..]) => return Err(HostError::HostAndContext),
            (None, [_, ..]) => None,
            (flag, []) => context::selected_context(flag.as_deref(), env, config_dir.as_deref()),
        };
        let hosts = match selected.filter(|(name, _)| name != DEFAULT_CONTEXT) {
            Some((name, named_by)) => vec![self.context_host(&name, named_by, config_dir.as_deref(), env)?],
            None => self.flag_hosts(env, config_dir.as_deref())?,
        };
        for tls in hosts.iter().filter_map(|host| host.tls.as_ref()) {
            tls.config()?;
        }
        Ok(hosts)
    }

    fn context_host(
        &self,
        name: &str,
        named_by: &'static str,
        config_dir: Option<&Path>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Host, HostError> {
        if let Some(flag) = self.tls_flag() {
            return Err(HostError::TlsFlagWithContext { flag, name: name.into() });
        }
        let Context { host, tls } = Context::load(name, named_by, config_dir)?;
        let host = match host.as_str() {
            "" => local_host(env),
            url => url.parse::<Host>().map_err(|e| match e {
                HostError::InvalidUrl { reason, .. } => {
                    HostError::InvalidContext { name: name.into(), reason: format!("{url}: {reason}") }
                }
                other => other,
            })?,
        };
        apply_tls(host, tls)
    }

    fn flag_hosts(
        &self,
        env: impl Fn(&str) -> Option<String>,
        config_dir: Option<&Path>,
    ) -> Result<Vec<Host>, HostError> {
        let tls = self.default_tls(&env, config_dir)?;
        let hosts = match &self.hosts[..] {
            [] => match env("DOCKER_HOST").filter(|host| !host.trim().is_empty()) {
                Some(host) => vec![host.trim().parse()?],
                None if tls.is_some() => vec![DEFAULT_TLS_HOST.parse()?],
                None => vec![local_host(&env)],
            },
            urls => urls.iter().map(|text| text.parse()).collect::<Result<Vec<Host>, _>>()?,
        };
        // Hosts with https:// use TLS without any TLS option.
        let is_https = hosts.iter().any(|host| host.scheme() == "https");
        if let Some(flag) = self.tls_flag().filter(|_| tls.is_none() && !is_https && self.tls != Some(false)) {
            return Err(HostError::TlsFlagWithoutTls { flag });
        }
        let https_files = || self.tls_files(true, &env, config_dir);
        hosts
            .into_iter()
            .map(|host| match (host.scheme(), &tls) {
                ("https", None) => apply_tls(host, Some(https_files()?.into())),
                (_, tls) => apply_tls(host, tls.clone()),
            })
            .collect()
    }

    /// TLS settings for hosts without `https://`; `None` without TLS.
    fn default_tls(
        &self,
        env: &impl Fn(&str) -> Option<String>,
        config_dir: Option<&Path>,
    ) -> Result<Option<TlsClient>, HostError> {
        let verify = self.tls_verify.unwrap_or_else(|| env("DOCKER_TLS_VERIFY").is_some());
        let enabled = verify || self.tls_verify.is_some() || self.tls.unwrap_or_else(|| env("DOCKER_TLS").is_some());
        if !enabled {
            return Ok(None);
        }
        // A named authority is used to verify the server. The docker client would not use it with --tls.
        let verify = verify || (self.tls_ca.is_some() && self.tls_verify.is_none());
        let mut files = self.tls_files(verify, env, config_dir)?;
        if verify && files.ca.is_none() {
            files.ca = cert_dir(env, config_dir).map(|dir| dir.join("ca.pem"));
        }
        Ok(Some(files.into()))
    }

    /// Returns the files from the flags, or else the docker client's default files if they exist.
    fn tls_files(
        &self,
        verify: bool,
        env: &impl Fn(&str) -> Option<String>,
        config_dir: Option<&Path>,
    ) -> Result<TlsFiles, HostError> {
        let cert_dir = cert_dir(env, config_dir);
        let default_file = |name: &str| cert_dir.as_ref().map(|dir| dir.join(name)).filter(|path| path.exists());
        let certificate = self.tls_cert.clone().or_else(|| default_file("cert.pem"));
        let key = self.tls_key.clone().or_else(|| default_file("key.pem"));
        let identity = match (certificate, key) {
            (Some(_), None) if self.tls_cert.is_some() => {
                return Err(HostError::IncompleteKeyPair { given: "--tlscert", missing: "--tlskey" });
            }
            (None, Some(_)) if self.tls_key.is_some() => {
                return Err(HostError::IncompleteKeyPair { given: "--tlskey", missing: "--tlscert" });
            }
            (certificate, key) => certificate.zip(key),
        };
        let ca = self.tls_ca.clone().or_else(|| default_file("ca.pem"));
        Ok(TlsFiles { verify, ca: ca.filter(|_| verify), identity })
    }

    /// Returns the first TLS flag that was given.
    fn tls_flag(&self) -> Option<&'static str> {
        [
            ("--tlscacert", self.tls_ca.is_some()),
            ("--tlscert", self.tls_cert.is_some()),
            ("--tlskey", self.tls_key.is_some()),
            ("--tlsverify", self.tls_verify.is_some()),
            ("--tls", self.tls.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }
}

/// Returns the docker client's directory with the certificates for hosts.
fn cert_dir(env: impl Fn(&str) -> Option<String>, config_dir: Option<&Path>) -> Option<PathBuf> {
    env("DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| config_dir.map(Path::to_owned))
}

/// Returns the local engine.
fn local_host(env: impl Fn(&str) -> Option<String>) -> Host {
    Host::local(Path::new(DEFAULT_SOCKET), env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("docker.sock")))
}

/// Applies TLS to a host if it can use TLS. Unix sockets do not need TLS, and ssh encrypts by itself.
fn apply_tls(host: Host, tls: Option<TlsClient>) -> Result<Host, HostError> {
    match (tls, host.scheme()) {
        (Some(tls), "tcp" | "https") => Ok(host.with_tls(tls)),
        (Some(_), "http") => Err(HostError::Unencrypted { url: host.url().into() }),
        _ => Ok(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Endpoint;
    use crate::error::chain;
    use std::fs;
    use tempfile::TempDir;

    /// Creates a home directory with the contexts `blue` (current), `red` and `safe` (with a trusted CA).
    fn home() -> TempDir {
        let home = tempfile::tempdir().unwrap();
        let docker = home.path().join(".docker");
        for (name, host) in [("blue", "unix:///blue"), ("red", "tcp://red:1"), ("safe", "tcp://safe")] {
            let dir = docker.join("contexts/meta").join(context_id(name));
            fs::create_dir_all(&dir).unwrap();
            let meta = format!(r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
            fs::write(dir.join("meta.json"), meta).unwrap();
        }
        let certificates = docker.join("contexts/tls").join(context_id("safe")).join("docker");
        fs::create_dir_all(&certificates).unwrap();
        fs::write(certificates.join("ca.pem"), ca_certificate()).unwrap();
        fs::write(docker.join("config.json"), r#"{"auths":{},"currentContext":"blue"}"#).unwrap();
        home
    }

    /// Context ID as the docker client computes it.
    fn context_id(name: &str) -> &'static str {
        match name {
            "blue" => "16477688c0e00699c6cfa4497a3612d7e83c532062b64b250fed8908128ed548",
            "red" => "b1f51a511f1da0cd348b8f8598db32e61cb963e5fc69e2b41485bf99590ed75a",
            "safe" => "8b3369944dd2a3fab39e32d1aeb1f763946a458ae3e6368a46432adc8f3a0860",
            _ => unreachable!(),
        }
    }

    fn ca_certificate() -> String {
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn options(flags: &str) -> ClientOptions {
        let mut options = ClientOptions::default();
        for flag in flags.split_whitespace() {
            match flag.split_once(' ').unwrap_or((flag, "")).0.split_once('=') {
                Some(("-H", url)) => options.hosts.push(url.into()),
                Some(("--context", name)) => options.context = Some(name.into()),
                Some(("--tlscacert", path)) => options.tls_ca = Some(path.into()),
                Some(("--tlscert", path)) => options.tls_cert = Some(path.into()),
                Some(("--tlskey", path)) => options.tls_key = Some(path.into()),
                Some(("--tlsverify", value)) => options.tls_verify = value.parse().ok(),
                None if flag == "--tls" => options.tls = Some(true),
                None if flag == "--tlsverify" => options.tls_verify = Some(true),
                _ => panic!("{flag}"),
            }
        }
        options
    }

    /// Resolves the hosts for these flags and variables, and describes each: its URL and its TLS settings.
    fn resolve(home: &Path, flags: &str, variables: &str) -> Result<Vec<String>, String> {
        let set: Vec<(&str, &str)> = variables.split_whitespace().map(|word| word.split_once('=').unwrap()).collect();
        let env = |name: &str| match name {
            "HOME" => Some(home.display().to_string()),
            _ => set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
        };
        let describe = |host: &Host| {
            let port = match &host.endpoint {
                Endpoint::Tcp { port, .. } => format!(" {port}"),
                _ => String::new(),
            };
            let tls = host.tls.as_ref().map_or(String::new(), |tls| {
                let TlsFiles { verify, ca: authorities, identity } = tls.files();
                let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
                let authorities = authorities.as_deref().map_or("-".into(), name);
                let identity =
                    identity.as_ref().map_or("-".into(), |(certificate, key)| name(certificate) + "+" + &name(key));
                format!(" {} {authorities} {identity}", if *verify { "verified" } else { "anyone" })
            });
            format!("{host}{port}{tls}")
        };
        options(flags).resolve(env).map(|hosts| hosts.iter().map(describe).collect()).map_err(|e| chain(&e))
    }

    #[test]
    fn engines_are_selected_in_the_docker_clients_order() {
        let home = home();
        let default = format!("unix://{DEFAULT_SOCKET}");
        for (flags, variables, expected) in [
            ("-H=tcp://flag:9 -H=unix:///x", "DOCKER_HOST=unix:///env DOCKER_CONTEXT=red", "tcp://flag:9 9|unix:///x"),
            ("--context=red", "DOCKER_HOST=unix:///env DOCKER_CONTEXT=blue", "tcp://red:1 1"),
            ("", "DOCKER_HOST=unix:///env DOCKER_CONTEXT=red", "unix:///env"),
            ("", "DOCKER_CONTEXT=red", "tcp://red:1 1"),
            ("", "DOCKER_HOST= DOCKER_CONTEXT=", "unix:///blue"),
            ("", "", "unix:///blue"),
            ("--context=default", "", &default),
            ("--context=default", "DOCKER_HOST=unix:///env", "unix:///env"),
            ("", "DOCKER_CONTEXT=default", &default),
            ("", "DOCKER_CONFIG=/nowhere", &default),
        ] {
            let resolved = resolve(home.path(), flags, variables).map(|hosts| hosts.join("|"));
            assert_eq!(resolved, Ok(expected.to_owned()), "{flags} {variables}");
        }
    }

    #[test]
    fn tls_is_used_where_the_docker_client_uses_it() {
        let home = home();
        let docker = home.path().join(".docker");
        let ca = docker.join("ca.pem");
        fs::write(&ca, ca_certificate()).unwrap();
        let ca_flag = format!("--tlscacert={}", ca.display());
        for (flags, variables, expected) in [
            ("-H=tcp://a", "", "tcp://a 2375".to_owned()),
            ("-H=tcp://a --tls", "", "tcp://a 2376 anyone - -".into()),
            ("-H=tcp://a --tlsverify", "", "tcp://a 2376 verified ca.pem -".into()),
            ("-H=tcp://a:7", "DOCKER_TLS_VERIFY=0", "tcp://a:7 7 verified ca.pem -".into()),
            ("-H=tcp://a", "DOCKER_TLS=1", "tcp://a 2376 anyone - -".into()),
            ("-H=tcp://a --tlsverify=false", "DOCKER_TLS_VERIFY=1", "tcp://a 2376 anyone - -".into()),
            ("-H=tcp://a --tls @", "", "tcp://a 2376 verified ca.pem -".into()),
            ("-H=tcp://a -H=unix:///b --tlsverify", "", "tcp://a 2376 verified ca.pem -|unix:///b".into()),
            ("-H=ssh://a --tlsverify", "", "ssh://a".into()),
            ("-H=https://a", "", "https://a 443 verified ca.pem -".into()),
            ("--tlsverify --context=default", "", "tcp://localhost:2376 2376 verified ca.pem -".into()),
            ("", "DOCKER_HOST=tcp://env DOCKER_TLS_VERIFY=1", "tcp://env 2376 verified ca.pem -".into()),
            ("--context=safe", "", "tcp://safe 2376 verified ca.pem -".into()),
            ("--context=red", "DOCKER_TLS_VERIFY=1", "tcp://red:1 1".into()),
        ] {
            let resolved = resolve(home.path(), &flags.replace('@', &ca_flag), variables).map(|hosts| hosts.join("|"));
            assert_eq!(resolved, Ok(expected), "{flags} {variables}");
        }
    }

    #[test]
    fn conflicting_or_invalid_options_are_rejected_with_a_reason() {
        let home = home();
        let docker = home.path().join(".docker");
        let shown = docker.display();
        fs::write(docker.join("key.pem"), "no key").unwrap();
        for (flags, variables, expected) in [
            ("-H=unix:///a --context=red", "", "--host and --context cannot be used together".to_owned()),
            ("--context=green", "", "context 'green', set by --context, does not exist".into()),
            ("", "DOCKER_CONTEXT=green", "context 'green', set by DOCKER_CONTEXT, does not exist".into()),
            (
                "--context=red --tlsverify",
                "",
                "--tlsverify cannot be used with context 'red', which has its own certificates".into(),
            ),
            ("-H=tcp://a --tlscacert=/x", "", "--tlscacert has no effect without TLS".into()),
            ("-H=http://a --tls", "", "http://a is not encrypted, but the TLS options require it".into()),
            ("-H=tcp://a --tls --tlscert=/x --tlskey=/y", "", "cannot read /x: ".into()),
            ("-H=tcp://a --tlsverify", "", format!("cannot read {shown}/ca.pem: ")),
            ("-H=tcp://a --tlsverify", "DOCKER_CERT_PATH=/nowhere", "cannot read /nowhere/ca.pem: ".into()),
            ("-H=tcp://a --tls --tlscert=/x", "DOCKER_CERT_PATH=/nowhere", "--tlscert requires --tlskey".into()),
            ("-H=tcp://a --tls --tlskey=/x", "", "--tlskey requires --tlscert".into()),
        ] {
            let error = resolve(home.path(), flags, variables).unwrap_err();
            assert!(error.starts_with(&expected) && !error.contains('\n'), "{flags} {variables}: {error}");
        }
        fs::write(docker.join("contexts/meta").join(context_id("red")).join("meta.json"), "{").unwrap();
        let error = resolve(home.path(), "--context=red", "").unwrap_err();
        assert!(error.starts_with("cannot use context 'red': "), "{error}");
        fs::write(docker.join("config.json"), "{").unwrap();
        assert_eq!(resolve(home.path(), "", ""), Ok(vec![format!("unix://{DEFAULT_SOCKET}")]));
    }
}
