//! Hosts as users write them: `unix:///var/run/docker.sock`, `tcp://host:2375`, `https://host`, `ssh://user@host`,
//! `NAME=URL`. Which of them are meant is decided in `options.rs`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::ssh::{Processes, Ssh};
use super::tls::{Files, Tls, TlsError};

/// Where an engine listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// The port of `tcp://` without one.
const TCP_PORT: u16 = 2375;

/// The same under TLS, as dockerd's documentation has it. The docker client takes 2375, and 443 for a context.
const TLS_PORT: u16 = 2376;

/// Where one engine is to be reached.
#[derive(Clone, Debug)]
pub struct Host {
    /// The name the user gives the source, if any.
    pub name: Option<String>,
    /// Where to connect.
    pub endpoint: Endpoint,
    /// How TLS is spoken there, if it is.
    pub(super) tls: Option<Tls>,
    /// What runs to reach it.
    pub(super) processes: Processes,
    /// The URL as the user wrote it, without the name.
    url: String,
    /// What stands before every path asked for there; without a slash at its end.
    base: String,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket, by path.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A machine's docker client, through ssh.
    Ssh(Ssh),
}

/// Words from which no host can be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum HostError {
    #[error("'{text}' cannot be a host: {why}")]
    Url { text: String, why: String },
    #[error("--host and --context exclude each other")]
    HostAndContext,
    #[error("there is no context '{name}', which {named_by} names")]
    NoContext { name: String, named_by: &'static str },
    #[error("the context '{name}' cannot be used: {why}")]
    Context { name: String, why: String },
    #[error("{flag} has no meaning with the context '{name}', which has certificates of its own")]
    TlsOfContext { flag: &'static str, name: String },
    #[error("{flag} has no meaning where TLS is not spoken")]
    NoTls { flag: &'static str },
    #[error("{given} has no meaning without {missing}")]
    HalfAPair { given: &'static str, missing: &'static str },
    #[error("{url} is not encrypted, and TLS is asked for")]
    InClear { url: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl HostError {
    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            HostError::Url { .. } => {
                "write unix:///path/to/docker.sock or tcp://host:2375, with NAME= before it to name the source"
            }
            HostError::HostAndContext => "leave out one of them",
            HostError::NoContext { .. } => "`docker context ls` lists those in ~/.docker, or $DOCKER_CONFIG",
            HostError::Context { .. } => "`docker context inspect` shows it",
            HostError::TlsOfContext { .. } => "leave it out, or name the engine by --host",
            HostError::NoTls { .. } => "add --tlsverify",
            HostError::HalfAPair { .. } => "a certificate and its key go together",
            HostError::InClear { .. } => "write https:// or tcp://",
            HostError::Tls(TlsError::File { .. } | TlsError::Pem { .. }) => {
                "--tlscacert, --tlscert and --tlskey name the files; \
                 else they are ca.pem, cert.pem and key.pem in $DOCKER_CERT_PATH, or ~/.docker"
            }
            HostError::Tls(TlsError::Encrypted { .. }) => "`openssl pkey -in KEY -out FILE` takes the passphrase away",
            HostError::Tls(TlsError::Pair { .. }) => "is that the key of that certificate?",
            HostError::Tls(TlsError::Authorities { .. }) => "they are to be in PEM",
            HostError::Tls(TlsError::NoAuthority { .. }) => {
                "--tlscacert FILE names one, and Debian's ca-certificates are the usual ones"
            }
        }
    }
}

impl Host {
    /// The engine of this machine: that of a user alone where there is no other.
    pub(super) fn local(usual: &Path, rootless: Option<PathBuf>) -> Host {
        match rootless {
            Some(rootless) if !usual.exists() && rootless.exists() => Host::unix(rootless),
            _ => Host::unix(usual),
        }
    }

    /// The engine that listens on a unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Host {
        let path = path.into();
        let url = format!("unix://{}", path.display());
        Host::new(None, Endpoint::Unix(path), url, String::new())
    }

    fn new(name: Option<String>, endpoint: Endpoint, url: String, base: String) -> Host {
        Host { name, endpoint, tls: None, processes: Processes::default(), url, base }
    }

    /// What stands before `://`.
    pub(super) fn scheme(&self) -> &str {
        self.url.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// The same under TLS; where no port was written, at the one that is usual then.
    pub(super) fn under(mut self, tls: Tls) -> Host {
        if let Some(rest) = self.url.strip_prefix("tcp://")
            && let Ok((endpoint, _)) = tcp(rest, TLS_PORT)
        {
            self.endpoint = endpoint;
        }
        self.tls = Some(tls);
        self
    }

    /// Waits until nothing runs any more that was started to reach it: ssh, behind connections that were dropped.
    pub async fn closed(&self) {
        self.processes.ended().await;
    }

    /// The URL as the user wrote it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> String {
        match &self.endpoint {
            // What a unix socket is called does not matter, but a proxy in front of it may want a valid name.
            Endpoint::Unix(_) | Endpoint::Ssh(_) => "localhost".into(),
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    /// The path to ask for.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Host, HostError> {
        let error = |why: &str| HostError::Url { text: without_password(text), why: why.into() };
        let (name, url) = match text.split_once('=') {
            Some((name, url)) if !name.contains([':', '/']) => (Some(name.trim()), url),
            _ => (None, text),
        };
        if name == Some("") {
            return Err(error("the name before '=' is empty"));
        }
        let name = name.map(str::to_owned);
        let (scheme, rest) = url.split_once("://").ok_or_else(|| error("it has no unix:// or tcp:// before it"))?;
        let (endpoint, base) = match scheme {
            "unix" if rest.is_empty() => return Err(error("the path of the socket is missing")),
            "unix" => (Endpoint::Unix(rest.into()), String::new()),
            "tcp" => tcp(rest, TCP_PORT).map_err(|why| error(&why))?,
            "http" => tcp(rest, 80).map_err(|why| error(&why))?,
            "https" => tcp(rest, 443).map_err(|why| error(&why))?,
            "ssh" => (Endpoint::Ssh(Ssh::parse(rest).map_err(|why| error(&why))?), String::new()),
            "npipe" | "fd" => return Err(error(&format!("{scheme}:// is not for a client on this system"))),
            _ => return Err(error(&format!("{scheme}:// is not known"))),
        };
        let tls = (scheme == "https").then(|| Files { verify: true, ..Files::default() }.into());
        Ok(Host { tls, ..Host::new(name, endpoint, url.into(), base) })
    }
}

/// Words to be shown, without the password of a user in them.
fn without_password(text: &str) -> String {
    let at = text.find("://").map_or(0, |at| at + 3);
    let end = text[at..].find('/').map_or(text.len(), |end| at + end);
    let password = text[at..end].rfind('@').and_then(|user| Some((at + text[at..at + user].find(':')? + 1, at + user)));
    password.map_or_else(|| text.into(), |(from, to)| format!("{}…{}", &text[..from], &text[to..]))
}

fn tcp(rest: &str, default_port: u16) -> Result<(Endpoint, String), String> {
    let uri: hyper::Uri = format!("http://{rest}").parse().map_err(|e| format!("{e}"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let authority = uri.authority().map_or("", |a| a.as_str());
    if host.is_empty() {
        return Err("the name of the machine is missing".into());
    }
    if authority.contains('@') {
        return Err("a user has no meaning there".into());
    }
    if uri.query().is_some() {
        return Err("a query has no meaning there".into());
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let port = match uri.port_u16() {
        Some(0) => return Err("there is no port 0".into()),
        Some(port) => port,
        None if has_port => return Err("the port is not a number up to 65535".into()),
        None => default_port,
    };
    Ok((Endpoint::Tcp { host, port }, uri.path().trim_end_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    fn ssh(user: Option<&str>, host: &str, port: Option<u16>, socket: Option<&str>) -> Endpoint {
        let (user, socket) = (user.map(str::to_owned), socket.map(str::to_owned));
        Endpoint::Ssh(Ssh { user, host: host.into(), port, socket })
    }

    #[test]
    fn hosts_as_users_write_them() {
        for (text, name, endpoint, authority, path) in [
            ("unix:///run/d.sock", None, Endpoint::Unix("/run/d.sock".into()), "localhost", "/x"),
            ("unix:///run/a=b.sock", None, Endpoint::Unix("/run/a=b.sock".into()), "localhost", "/x"),
            ("web=unix:///d", Some("web"), Endpoint::Unix("/d".into()), "localhost", "/x"),
            ("tcp://10.0.0.7:2375", None, tcp("10.0.0.7", 2375), "10.0.0.7:2375", "/x"),
            ("tcp://box", None, tcp("box", 2375), "box:2375", "/x"),
            ("a b=http://box/sub/", Some("a b"), tcp("box", 80), "box:80", "/sub/x"),
            ("tcp://[::1]:99", None, tcp("::1", 99), "[::1]:99", "/x"),
            ("tcp://[::1]", None, tcp("::1", 2375), "[::1]:2375", "/x"),
            ("https://box", None, tcp("box", 443), "box:443", "/x"),
            ("vm=ssh://me@box:22/d", Some("vm"), ssh(Some("me"), "box", Some(22), Some("/d")), "localhost", "/x"),
        ] {
            let host: Host = text.parse().unwrap();
            assert_eq!(host.name.as_deref(), name, "{text}");
            assert_eq!(host.endpoint, endpoint, "{text}");
            assert_eq!((host.authority().as_str(), host.path("/x").as_str()), (authority, path), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_host_says_why() {
        for text in [
            "",
            "box",
            "box:2375",
            "/run/docker.sock",
            "unix://",
            "tcp://",
            "tcp://:2375",
            "tcp://box:99999",
            "tcp://box:x",
            "tcp://box:",
            "tcp://box:0",
            "tcp://u@box:1",
            "tcp://a b",
            "ftp://box",
            "npipe:////./pipe/docker_engine",
            "ssh://",
            "ssh://me@",
            "ssh://me:secret@box",
            "ssh://-oProxyCommand=x",
            "ssh://box:0",
            "ssh://box:",
            "ssh://box:x",
            "ssh://[::1]x",
            "ssh://box?x",
            "ssh://box/%ff",
            "https://",
            "https://u@box",
            "=unix:///d",
            "tcp://box?x",
        ] {
            let error = text.parse::<Host>().unwrap_err().to_string();
            let shown = text.replace("secret", "…");
            assert!(error.starts_with(&format!("'{shown}' cannot be a host: ")), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    /// A host in any form, and what it must be read as.
    fn any_host() -> impl Strategy<Value = (Option<String>, String, Endpoint)> {
        let machine = || prop_oneof!["[a-z][a-z0-9.-]{0,20}", Just("10.0.0.7".to_owned()), Just("::1".to_owned())];
        let port = || prop::option::of(1u16..);
        let place = |host: &str, port: Option<u16>| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            port.map_or(host.clone(), |port| format!("{host}:{port}"))
        };
        let over_tcp = (prop_oneof![Just(("tcp", 2375)), Just(("http", 80)), Just(("https", 443))], machine(), port());
        let over_ssh =
            (prop::option::of("[a-z][a-z0-9_-]{0,9}"), machine(), port(), prop::option::of("(/[a-z .']{1,8}){1,3}"));
        let endpoint = prop_oneof![
            "/[a-zA-Z0-9/._=-]{1,30}".prop_map(|path| (format!("unix://{path}"), Endpoint::Unix(path.into()))),
            over_tcp.prop_map(move |((scheme, usual), host, port)| {
                (format!("{scheme}://{}", place(&host, port)), tcp(&host, port.unwrap_or(usual)))
            }),
            over_ssh.prop_map(move |(user, host, port, socket)| {
                let before = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let behind = socket.as_deref().unwrap_or_default();
                let url = format!("ssh://{before}{}{behind}", place(&host, port));
                (url, ssh(user.as_deref(), &host, port, socket.as_deref()))
            }),
        ];
        (prop::option::of("[a-zA-Z][a-zA-Z0-9 _-]{0,8}[a-z]"), endpoint)
            .prop_map(|(name, (url, endpoint))| (name, url, endpoint))
    }

    proptest! {
        #[test]
        fn what_is_shown_of_a_host_is_that_host((name, url, endpoint) in any_host()) {
            let text = name.as_ref().map_or(url.clone(), |name| format!("{name}={url}"));
            let host: Host = text.parse().map_err(|e| TestCaseError::fail(format!("{e}")))?;
            prop_assert_eq!((&host.name, &host.endpoint), (&name, &endpoint));
            let again: Host = host.to_string().parse().map_err(|e| TestCaseError::fail(format!("{e}")))?;
            prop_assert_eq!((&again.endpoint, again.to_string()), (&endpoint, url));
        }

        #[test]
        fn no_words_are_too_odd(text in ".{0,40}", scheme in prop_oneof!["ssh://", "tcp://", "https://", "unix://", ""]) {
            if let Ok(host) = format!("{scheme}{text}").parse::<Host>() {
                prop_assert!(host.to_string().parse::<Host>().is_ok());
            }
        }
    }

    #[test]
    fn a_rootless_engine_is_found_where_there_is_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (usual, rootless) = (folder.path().join("usual"), folder.path().join("rootless"));
        let found = || Host::local(&usual, Some(rootless.clone())).endpoint;
        assert_eq!(found(), Endpoint::Unix(usual.clone()));
        std::fs::write(&rootless, "").unwrap();
        assert_eq!(found(), Endpoint::Unix(rootless.clone()));
        std::fs::write(&usual, "").unwrap();
        assert_eq!(found(), Endpoint::Unix(usual.clone()));
    }
}
