//! Parses hosts: `unix:///var/run/docker.sock`, `tcp://host:2375`, `https://host`, `ssh://user@host`, `NAME=URL`.
//!
//! Does not select a host; `options.rs` does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio_util::task::TaskTracker;

use super::ssh::SshEndpoint;
use super::tls::{TlsClient, TlsError, TlsFiles};

/// Default path of an engine's socket.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Default port of `tcp://`.
const DEFAULT_TCP_PORT: u16 = 2375;

/// Default port of `tcp://` with TLS, as in dockerd's documentation.
///
/// The docker client uses 2375 instead, and 443 for a context.
const DEFAULT_TLS_PORT: u16 = 2376;

/// Address of one engine.
#[derive(Clone, Debug)]
pub struct Host {
    /// Name of the source, if the user gave one.
    pub name: Option<String>,
    /// Endpoint to connect to.
    pub endpoint: Endpoint,
    /// TLS settings; `None` without TLS.
    pub(super) tls: Option<TlsClient>,
    /// Tasks that supervise the ssh processes of this host.
    pub(super) processes: TaskTracker,
    /// URL as the user wrote it, without the name.
    url: String,
    /// Prefix of each request path, without a trailing slash.
    base_path: String,
}

/// Endpoint of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket, by path.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// Host name or IP address.
        host: String,
        /// Port number.
        port: u16,
    },
    /// The docker client on another machine, through ssh.
    Ssh(SshEndpoint),
}

/// Host options that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum HostError {
    #[error("'{text}' is not a valid host: {reason}")]
    InvalidUrl { text: String, reason: String },
    #[error("--host and --context cannot be used together")]
    HostAndContext,
    #[error("context '{name}', set by {named_by}, does not exist")]
    ContextNotFound { name: String, named_by: &'static str },
    #[error("cannot use context '{name}': {reason}")]
    InvalidContext { name: String, reason: String },
    #[error("{flag} cannot be used with context '{name}', which has its own certificates")]
    TlsFlagWithContext { flag: &'static str, name: String },
    #[error("{flag} has no effect without TLS")]
    TlsFlagWithoutTls { flag: &'static str },
    #[error("{given} requires {missing}")]
    IncompleteKeyPair { given: &'static str, missing: &'static str },
    #[error("{url} is not encrypted, but the TLS options require it")]
    Unencrypted { url: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl HostError {
    /// Hint for the user.
    pub fn hint(&self) -> &'static str {
        match self {
            HostError::InvalidUrl { .. } => {
                "use unix:///path/to/docker.sock or tcp://host:2375, with NAME= in front to name the source"
            }
            HostError::HostAndContext => "omit one of them",
            HostError::ContextNotFound { .. } => {
                "run `docker context ls` to list the contexts in ~/.docker or $DOCKER_CONFIG"
            }
            HostError::InvalidContext { .. } => "check the context with `docker context inspect`",
            HostError::TlsFlagWithContext { .. } => "omit the flag, or name the engine with --host",
            HostError::TlsFlagWithoutTls { .. } => "add --tlsverify",
            HostError::IncompleteKeyPair { .. } => "pass both the certificate and its key",
            HostError::Unencrypted { .. } => "use https:// or tcp://",
            HostError::Tls(TlsError::File { .. } | TlsError::Pem { .. }) => {
                "name the files with --tlscacert, --tlscert and --tlskey; \
                 the defaults are ca.pem, cert.pem and key.pem in $DOCKER_CERT_PATH or ~/.docker"
            }
            HostError::Tls(TlsError::EncryptedKey { .. }) => {
                "remove the passphrase with `openssl pkey -in KEY -out FILE`"
            }
            HostError::Tls(TlsError::KeyMismatch { .. }) => "pass the key that belongs to the certificate",
            HostError::Tls(TlsError::InvalidCa { .. }) => "pass a file with certificates in PEM",
            HostError::Tls(TlsError::NoTrustedCa { .. }) => {
                "pass a CA with --tlscacert FILE, or install the system's CAs, such as the Debian package ca-certificates"
            }
        }
    }
}

impl Host {
    /// Returns the local engine. The rootless socket is used only if the default socket does not exist.
    pub(super) fn local(default_socket: &Path, rootless: Option<PathBuf>) -> Host {
        match rootless {
            Some(rootless) if !default_socket.exists() && rootless.exists() => Host::unix(rootless),
            _ => Host::unix(default_socket),
        }
    }

    /// Returns the host of a unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Host {
        let path = path.into();
        let url = format!("unix://{}", path.display());
        Host::new(None, Endpoint::Unix(path), url, String::new())
    }

    fn new(name: Option<String>, endpoint: Endpoint, url: String, base_path: String) -> Host {
        Host { name, endpoint, tls: None, processes: TaskTracker::default(), url, base_path }
    }

    /// Scheme of the URL.
    pub(super) fn scheme(&self) -> &str {
        self.url.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// Enables TLS. If the URL has no port, this also changes the port to the default with TLS.
    pub(super) fn with_tls(mut self, tls: TlsClient) -> Host {
        if let Some(rest) = self.url.strip_prefix("tcp://")
            && let Ok((endpoint, _)) = parse_tcp(rest, DEFAULT_TLS_PORT)
        {
            self.endpoint = endpoint;
        }
        self.tls = Some(tls);
        self
    }

    /// Waits until all ssh processes of this host have exited, including those of dropped connections.
    pub async fn wait_closed(&self) {
        self.processes.close();
        self.processes.wait().await;
    }

    /// URL as the user wrote it, without the name.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Value of the `Host` header.
    pub(super) fn authority(&self) -> String {
        match &self.endpoint {
            // The name of a unix socket does not matter, but a proxy in front of it may require a valid name.
            Endpoint::Unix(_) | Endpoint::Ssh(_) => "localhost".into(),
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    /// Full path of a request.
    pub(super) fn request_path(&self, path: &str) -> String {
        format!("{}{path}", self.base_path)
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
        let error = |reason: &str| HostError::InvalidUrl { text: mask_password(text), reason: reason.into() };
        let (name, url) = match text.split_once('=') {
            Some((name, url)) if !name.contains([':', '/']) => (Some(name.trim()), url),
            _ => (None, text),
        };
        if name == Some("") {
            return Err(error("the name before '=' is empty"));
        }
        let name = name.map(str::to_owned);
        let (scheme, rest) = url.split_once("://").ok_or_else(|| error("the scheme is missing"))?;
        let (endpoint, base_path) = match scheme {
            "unix" if rest.is_empty() => return Err(error("the path of the socket is missing")),
            "unix" => (Endpoint::Unix(rest.into()), String::new()),
            "tcp" => parse_tcp(rest, DEFAULT_TCP_PORT).map_err(|reason| error(&reason))?,
            "http" => parse_tcp(rest, 80).map_err(|reason| error(&reason))?,
            "https" => parse_tcp(rest, 443).map_err(|reason| error(&reason))?,
            "ssh" => (Endpoint::Ssh(SshEndpoint::parse(rest).map_err(|reason| error(&reason))?), String::new()),
            "npipe" | "fd" => return Err(error(&format!("{scheme}:// is not supported on this system"))),
            _ => return Err(error(&format!("{scheme}:// is not supported"))),
        };
        let tls = (scheme == "https").then(|| TlsFiles { verify: true, ..TlsFiles::default() }.into());
        Ok(Host { tls, ..Host::new(name, endpoint, url.into(), base_path) })
    }
}

/// Masks the password of a user in a text, so that the text can be shown.
fn mask_password(text: &str) -> String {
    let at = text.find("://").map_or(0, |at| at + 3);
    let end = text[at..].find('/').map_or(text.len(), |end| at + end);
    let password = text[at..end].rfind('@').and_then(|user| Some((at + text[at..at + user].find(':')? + 1, at + user)));
    password.map_or_else(|| text.into(), |(from, to)| format!("{}…{}", &text[..from], &text[to..]))
}

fn parse_tcp(rest: &str, default_port: u16) -> Result<(Endpoint, String), String> {
    let uri: hyper::Uri = format!("http://{rest}").parse().map_err(|e| format!("{e}"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let authority = uri.authority().map_or("", |a| a.as_str());
    if host.is_empty() {
        return Err("the host name is missing".into());
    }
    if authority.contains('@') {
        return Err("a user is not allowed with this scheme".into());
    }
    if uri.query().is_some() {
        return Err("a query is not allowed".into());
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let port = match uri.port_u16() {
        Some(0) => return Err("port 0 is not valid".into()),
        Some(port) => port,
        None if has_port => return Err("the port is not a number from 1 to 65535".into()),
        None => default_port,
    };
    Ok((Endpoint::Tcp { host, port }, uri.path().trim_end_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp_endpoint(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    fn ssh_endpoint(user: Option<&str>, host: &str, port: Option<u16>, socket: Option<&str>) -> Endpoint {
        let (user, socket) = (user.map(str::to_owned), socket.map(str::to_owned));
        Endpoint::Ssh(SshEndpoint { user, host: host.into(), port, socket })
    }

    #[test]
    fn host_urls_are_parsed() {
        for (text, name, endpoint, authority, path) in [
            ("unix:///run/d.sock", None, Endpoint::Unix("/run/d.sock".into()), "localhost", "/x"),
            ("unix:///run/a=b.sock", None, Endpoint::Unix("/run/a=b.sock".into()), "localhost", "/x"),
            ("web=unix:///d", Some("web"), Endpoint::Unix("/d".into()), "localhost", "/x"),
            ("tcp://10.0.0.7:2375", None, tcp_endpoint("10.0.0.7", 2375), "10.0.0.7:2375", "/x"),
            ("tcp://box", None, tcp_endpoint("box", 2375), "box:2375", "/x"),
            ("a b=http://box/sub/", Some("a b"), tcp_endpoint("box", 80), "box:80", "/sub/x"),
            ("tcp://[::1]:99", None, tcp_endpoint("::1", 99), "[::1]:99", "/x"),
            ("tcp://[::1]", None, tcp_endpoint("::1", 2375), "[::1]:2375", "/x"),
            ("https://box", None, tcp_endpoint("box", 443), "box:443", "/x"),
            (
                "vm=ssh://me@box:22/d",
                Some("vm"),
                ssh_endpoint(Some("me"), "box", Some(22), Some("/d")),
                "localhost",
                "/x",
            ),
        ] {
            let host: Host = text.parse().unwrap();
            assert_eq!(host.name.as_deref(), name, "{text}");
            assert_eq!(host.endpoint, endpoint, "{text}");
            assert_eq!((host.authority().as_str(), host.request_path("/x").as_str()), (authority, path), "{text}");
        }
    }

    #[test]
    fn invalid_hosts_are_rejected_with_a_reason() {
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
            assert!(error.starts_with(&format!("'{shown}' is not a valid host: ")), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    /// Generates a host in any form, and its expected name and endpoint.
    fn any_host() -> impl Strategy<Value = (Option<String>, String, Endpoint)> {
        let machine = || prop_oneof!["[a-z][a-z0-9.-]{0,20}", Just("10.0.0.7".to_owned()), Just("::1".to_owned())];
        let port = || prop::option::of(1u16..);
        let authority = |host: &str, port: Option<u16>| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            port.map_or(host.clone(), |port| format!("{host}:{port}"))
        };
        let over_tcp = (prop_oneof![Just(("tcp", 2375)), Just(("http", 80)), Just(("https", 443))], machine(), port());
        let over_ssh =
            (prop::option::of("[a-z][a-z0-9_-]{0,9}"), machine(), port(), prop::option::of("(/[a-z .']{1,8}){1,3}"));
        let endpoint = prop_oneof![
            "/[a-zA-Z0-9/._=-]{1,30}".prop_map(|path| (format!("unix://{path}"), Endpoint::Unix(path.into()))),
            over_tcp.prop_map(move |((scheme, default_port), host, port)| {
                (format!("{scheme}://{}", authority(&host, port)), tcp_endpoint(&host, port.unwrap_or(default_port)))
            }),
            over_ssh.prop_map(move |(user, host, port, socket)| {
                let user_prefix = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let path = socket.as_deref().unwrap_or_default();
                let url = format!("ssh://{user_prefix}{}{path}", authority(&host, port));
                (url, ssh_endpoint(user.as_deref(), &host, port, socket.as_deref()))
            }),
        ];
        (prop::option::of("[a-zA-Z][a-zA-Z0-9 _-]{0,8}[a-z]"), endpoint)
            .prop_map(|(name, (url, endpoint))| (name, url, endpoint))
    }

    proptest! {
        #[test]
        fn a_displayed_host_parses_to_the_same_endpoint((name, url, endpoint) in any_host()) {
            let text = name.as_ref().map_or(url.clone(), |name| format!("{name}={url}"));
            let host: Host = text.parse().map_err(|e| TestCaseError::fail(format!("{e}")))?;
            prop_assert_eq!((&host.name, &host.endpoint), (&name, &endpoint));
            let reparsed: Host = host.to_string().parse().map_err(|e| TestCaseError::fail(format!("{e}")))?;
            prop_assert_eq!((&reparsed.endpoint, reparsed.to_string()), (&endpoint, url));
        }

        #[test]
        fn any_accepted_url_parses_again_when_displayed(text in ".{0,40}", scheme in prop_oneof!["ssh://", "tcp://", "https://", "unix://", ""]) {
            if let Ok(host) = format!("{scheme}{text}").parse::<Host>() {
                prop_assert!(host.to_string().parse::<Host>().is_ok());
            }
        }
    }

    #[test]
    fn the_rootless_socket_is_used_only_without_a_default_socket() {
        let dir = tempfile::tempdir().unwrap();
        let (default_socket, rootless) = (dir.path().join("usual"), dir.path().join("rootless"));
        let endpoint = || Host::local(&default_socket, Some(rootless.clone())).endpoint;
        assert_eq!(endpoint(), Endpoint::Unix(default_socket.clone()));
        std::fs::write(&rootless, "").unwrap();
        assert_eq!(endpoint(), Endpoint::Unix(rootless.clone()));
        std::fs::write(&default_socket, "").unwrap();
        assert_eq!(endpoint(), Endpoint::Unix(default_socket.clone()));
    }
}
