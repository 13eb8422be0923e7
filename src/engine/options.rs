//! Which engines are meant: flags, environment, the docker client's contexts, in the docker client's own order. The one
//! place that decides it (docker/cli 28.5: `cli/flags/options.go`, `cli/command/cli.go`, `cli/context/docker/load.go`).
//!
//! `--host` > `--context` > `DOCKER_HOST` > `DOCKER_CONTEXT` > the current context > the engine of this machine. The flags
//! and variables of TLS are for hosts; a context has certificates of its own.

use std::path::{Path, PathBuf};

use super::context::{self, Context, DEFAULT};
use super::host::{DEFAULT_SOCKET, Host, HostError};
use super::tls::{Files, Tls};

/// Where the docker client looks when TLS is asked for and no host is named.
const DEFAULT_TLS_HOST: &str = "tcp://localhost:2376";

/// What a user says of the engines that are meant, as to the docker client.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Hosts, as URLs or `NAME=URL`.
    pub hosts: Vec<String>,
    /// The docker client's name for one.
    pub context: Option<String>,
    /// Whether to speak TLS, whoever answers.
    pub tls: Option<bool>,
    /// Whether to speak TLS, and to be sure who answers.
    pub tls_verify: Option<bool>,
    /// Who may have signed an engine's certificate.
    pub tls_ca: Option<PathBuf>,
    /// Our own certificate.
    pub tls_cert: Option<PathBuf>,
    /// The key of it.
    pub tls_key: Option<PathBuf>,
}

impl ClientOptions {
    /// The hosts that are meant; what they need can be read.
    ///
    /// # Errors
    /// [`HostError`]: words that cannot be a host, a context that is not there, certificates that cannot be used.
    pub fn hosts(&self, env: impl Fn(&str) -> Option<String>) -> Result<Vec<Host>, HostError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let folder = context::folder(env);
        let chosen = match (&self.context, &self.hosts[..]) {
            (Some(_), [_, ..]) => return Err(HostError::HostAndContext),
            (None, [_, ..]) => None,
            (given, []) => context::chosen(given.as_deref(), env, folder.as_deref()),
        };
        let hosts = match chosen.filter(|(name, _)| name != DEFAULT) {
            Some((name, named_by)) => vec![self.of_context(&name, named_by, folder.as_deref(), env)?],
            None => self.of_flags(env, folder.as_deref())?,
        };
        for tls in hosts.iter().filter_map(|host| host.tls.as_ref()) {
            tls.config()?;
        }
        Ok(hosts)
    }

    fn of_context(
        &self,
        name: &str,
        named_by: &'static str,
        folder: Option<&Path>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Host, HostError> {
        if let Some(flag) = self.tls_flag() {
            return Err(HostError::TlsOfContext { flag, name: name.into() });
        }
        let Context { host, tls } = Context::load(name, named_by, folder)?;
        let host = match host.as_str() {
            "" => local(env),
            url => url.parse::<Host>().map_err(|e| match e {
                HostError::Url { why, .. } => HostError::Context { name: name.into(), why: format!("{url}: {why}") },
                other => other,
            })?,
        };
        encrypted(host, tls)
    }

    fn of_flags(&self, env: impl Fn(&str) -> Option<String>, folder: Option<&Path>) -> Result<Vec<Host>, HostError> {
        let tls = self.tls(&env, folder)?;
        let hosts = match &self.hosts[..] {
            [] => match env("DOCKER_HOST").filter(|host| !host.trim().is_empty()) {
                Some(host) => vec![host.trim().parse()?],
                None if tls.is_some() => vec![DEFAULT_TLS_HOST.parse()?],
                None => vec![local(&env)],
            },
            given => given.iter().map(|text| text.parse()).collect::<Result<Vec<Host>, _>>()?,
        };
        // Nothing but their scheme says so.
        let implied = hosts.iter().any(|host| host.scheme() == "https");
        if let Some(flag) = self.tls_flag().filter(|_| tls.is_none() && !implied && self.tls != Some(false)) {
            return Err(HostError::NoTls { flag });
        }
        let https = || self.files(true, &env, folder);
        hosts
            .into_iter()
            .map(|host| match (host.scheme(), &tls) {
                ("https", None) => encrypted(host, Some(https()?.into())),
                (_, tls) => encrypted(host, tls.clone()),
            })
            .collect()
    }

    /// How TLS is spoken to hosts that do not say it themselves, if it is.
    fn tls(&self, env: &impl Fn(&str) -> Option<String>, folder: Option<&Path>) -> Result<Option<Tls>, HostError> {
        let verify = self.tls_verify.unwrap_or_else(|| env("DOCKER_TLS_VERIFY").is_some());
        let wanted = verify || self.tls_verify.is_some() || self.tls.unwrap_or_else(|| env("DOCKER_TLS").is_some());
        if !wanted {
            return Ok(None);
        }
        // Who names an authority means it to be asked, though the docker client would not.
        let verify = verify || (self.tls_ca.is_some() && self.tls_verify.is_none());
        let mut files = self.files(verify, env, folder)?;
        if verify && files.authorities.is_none() {
            files.authorities = certificates(env, folder).map(|folder| folder.join("ca.pem"));
        }
        Ok(Some(files.into()))
    }

    /// The files that are named, else those that are where the docker client keeps them.
    fn files(
        &self,
        verify: bool,
        env: &impl Fn(&str) -> Option<String>,
        folder: Option<&Path>,
    ) -> Result<Files, HostError> {
        let folder = certificates(env, folder);
        let usual = |name: &str| folder.as_ref().map(|folder| folder.join(name)).filter(|path| path.exists());
        let certificate = self.tls_cert.clone().or_else(|| usual("cert.pem"));
        let key = self.tls_key.clone().or_else(|| usual("key.pem"));
        let identity = match (certificate, key) {
            (Some(_), None) if self.tls_cert.is_some() => {
                return Err(HostError::HalfAPair { given: "--tlscert", missing: "--tlskey" });
            }
            (None, Some(_)) if self.tls_key.is_some() => {
                return Err(HostError::HalfAPair { given: "--tlskey", missing: "--tlscert" });
            }
            (certificate, key) => certificate.zip(key),
        };
        let authorities = self.tls_ca.clone().or_else(|| usual("ca.pem"));
        Ok(Files { verify, authorities: authorities.filter(|_| verify), identity })
    }

    /// A flag of TLS that was given.
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

/// Where the docker client keeps certificates for hosts.
fn certificates(env: impl Fn(&str) -> Option<String>, folder: Option<&Path>) -> Option<PathBuf> {
    env("DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| folder.map(Path::to_owned))
}

/// The engine of this machine.
fn local(env: impl Fn(&str) -> Option<String>) -> Host {
    Host::local(Path::new(DEFAULT_SOCKET), env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("docker.sock")))
}

/// A host under TLS, where that has a meaning: not on a socket of this machine, and ssh encrypts by itself.
fn encrypted(host: Host, tls: Option<Tls>) -> Result<Host, HostError> {
    match (tls, host.scheme()) {
        (Some(tls), "tcp" | "https") => Ok(host.under(tls)),
        (Some(_), "http") => Err(HostError::InClear { url: host.url().into() }),
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

    /// A home with the contexts `blue` (current), `red` and `safe` (with a certificate to trust).
    fn home() -> TempDir {
        let home = tempfile::tempdir().unwrap();
        let docker = home.path().join(".docker");
        for (name, host) in [("blue", "unix:///blue"), ("red", "tcp://red:1"), ("safe", "tcp://safe")] {
            let folder = docker.join("contexts/meta").join(id(name));
            fs::create_dir_all(&folder).unwrap();
            let meta = format!(r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
            fs::write(folder.join("meta.json"), meta).unwrap();
        }
        let certificates = docker.join("contexts/tls").join(id("safe")).join("docker");
        fs::create_dir_all(&certificates).unwrap();
        fs::write(certificates.join("ca.pem"), certificate()).unwrap();
        fs::write(docker.join("config.json"), r#"{"auths":{},"currentContext":"blue"}"#).unwrap();
        home
    }

    /// As the docker client computes it.
    fn id(name: &str) -> &'static str {
        match name {
            "blue" => "16477688c0e00699c6cfa4497a3612d7e83c532062b64b250fed8908128ed548",
            "red" => "b1f51a511f1da0cd348b8f8598db32e61cb963e5fc69e2b41485bf99590ed75a",
            "safe" => "8b3369944dd2a3fab39e32d1aeb1f763946a458ae3e6368a46432adc8f3a0860",
            _ => unreachable!(),
        }
    }

    fn certificate() -> String {
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn options(words: &str) -> ClientOptions {
        let mut options = ClientOptions::default();
        for word in words.split_whitespace() {
            match word.split_once(' ').unwrap_or((word, "")).0.split_once('=') {
                Some(("-H", url)) => options.hosts.push(url.into()),
                Some(("--context", name)) => options.context = Some(name.into()),
                Some(("--tlscacert", path)) => options.tls_ca = Some(path.into()),
                Some(("--tlscert", path)) => options.tls_cert = Some(path.into()),
                Some(("--tlskey", path)) => options.tls_key = Some(path.into()),
                Some(("--tlsverify", value)) => options.tls_verify = value.parse().ok(),
                None if word == "--tls" => options.tls = Some(true),
                None if word == "--tlsverify" => options.tls_verify = Some(true),
                _ => panic!("{word}"),
            }
        }
        options
    }

    /// The hosts for these flags and variables; of each its URL and how TLS is spoken.
    fn found(home: &Path, flags: &str, variables: &str) -> Result<Vec<String>, String> {
        let set: Vec<(&str, &str)> = variables.split_whitespace().map(|word| word.split_once('=').unwrap()).collect();
        let env = |name: &str| match name {
            "HOME" => Some(home.display().to_string()),
            _ => set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
        };
        let shown = |host: &Host| {
            let port = match &host.endpoint {
                Endpoint::Tcp { port, .. } => format!(" {port}"),
                _ => String::new(),
            };
            let tls = host.tls.as_ref().map_or(String::new(), |tls| {
                let Files { verify, authorities, identity } = tls.files();
                let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
                let authorities = authorities.as_deref().map_or("-".into(), name);
                let identity = identity.as_ref().map_or("-".into(), |(one, two)| name(one) + "+" + &name(two));
                format!(" {} {authorities} {identity}", if *verify { "verified" } else { "anyone" })
            });
            format!("{host}{port}{tls}")
        };
        options(flags).hosts(env).map(|hosts| hosts.iter().map(shown).collect()).map_err(|e| chain(&e))
    }

    #[test]
    fn the_order_is_that_of_the_docker_client() {
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
            let found = found(home.path(), flags, variables).map(|hosts| hosts.join("|"));
            assert_eq!(found, Ok(expected.to_owned()), "{flags} {variables}");
        }
    }

    #[test]
    fn tls_is_spoken_where_the_docker_client_speaks_it() {
        let home = home();
        let folder = home.path().join(".docker");
        let ca = folder.join("ca.pem");
        fs::write(&ca, certificate()).unwrap();
        let named = format!("--tlscacert={}", ca.display());
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
            let found = found(home.path(), &flags.replace('@', &named), variables).map(|hosts| hosts.join("|"));
            assert_eq!(found, Ok(expected), "{flags} {variables}");
        }
    }

    #[test]
    fn what_cannot_be_meant_says_why() {
        let home = home();
        let docker = home.path().join(".docker");
        let shown = docker.display();
        fs::write(docker.join("key.pem"), "no key").unwrap();
        for (flags, variables, expected) in [
            ("-H=unix:///a --context=red", "", "--host and --context exclude each other".to_owned()),
            ("--context=green", "", "there is no context 'green', which --context names".into()),
            ("", "DOCKER_CONTEXT=green", "there is no context 'green', which DOCKER_CONTEXT names".into()),
            (
                "--context=red --tlsverify",
                "",
                "--tlsverify has no meaning with the context 'red', which has certificates of its own".into(),
            ),
            ("-H=tcp://a --tlscacert=/x", "", "--tlscacert has no meaning where TLS is not spoken".into()),
            ("-H=http://a --tls", "", "http://a is not encrypted, and TLS is asked for".into()),
            ("-H=tcp://a --tls --tlscert=/x --tlskey=/y", "", "cannot read /x: ".into()),
            ("-H=tcp://a --tlsverify", "", format!("cannot read {shown}/ca.pem: ")),
            ("-H=tcp://a --tlsverify", "DOCKER_CERT_PATH=/nowhere", "cannot read /nowhere/ca.pem: ".into()),
            (
                "-H=tcp://a --tls --tlscert=/x",
                "DOCKER_CERT_PATH=/nowhere",
                "--tlscert has no meaning without --tlskey".into(),
            ),
            ("-H=tcp://a --tls --tlskey=/x", "", "--tlskey has no meaning without --tlscert".into()),
        ] {
            let error = found(home.path(), flags, variables).unwrap_err();
            assert!(error.starts_with(&expected) && !error.contains('\n'), "{flags} {variables}: {error}");
        }
        fs::write(docker.join("contexts/meta").join(id("red")).join("meta.json"), "{").unwrap();
        let error = found(home.path(), "--context=red", "").unwrap_err();
        assert!(error.starts_with("the context 'red' cannot be used: "), "{error}");
        fs::write(docker.join("config.json"), "{").unwrap();
        assert_eq!(found(home.path(), "", ""), Ok(vec![format!("unix://{DEFAULT_SOCKET}")]));
    }
}
