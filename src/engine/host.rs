//! Hosts as users write them: `unix:///var/run/docker.sock`, `tcp://host:2375`, `http://host`, `NAME=URL`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where an engine listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// The port that the docker client takes for `tcp://` without one.
const TCP_PORT: u16 = 2375;

/// Where one engine is to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name the user gives the source, if any.
    pub name: Option<String>,
    /// Where to connect.
    pub endpoint: Endpoint,
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
}

/// Some words that cannot be a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' cannot be a host: {why}")]
pub struct HostError {
    text: String,
    pub(super) why: String,
}

impl HostError {
    /// What a host looks like.
    pub fn hint(&self) -> String {
        "write unix:///path/to/docker.sock or tcp://host:2375, with NAME= before it to name the source".into()
    }
}

impl Host {
    /// The hosts to take: those given, or else `DOCKER_HOST`, or else the engine of this machine.
    ///
    /// # Errors
    /// The first that cannot be a host.
    pub fn all(given: &[String], env: impl Fn(&str) -> Option<String>) -> Result<Vec<Host>, HostError> {
        if !given.is_empty() {
            return given.iter().map(|text| text.parse()).collect();
        }
        if let Some(host) = env("DOCKER_HOST").filter(|host| !host.trim().is_empty()) {
            return Ok(vec![host.trim().parse()?]);
        }
        let rootless = env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("docker.sock"));
        Ok(vec![Host::local(Path::new(DEFAULT_SOCKET), rootless)])
    }

    /// The engine of this machine: that of a user alone where there is no other.
    fn local(usual: &Path, rootless: Option<PathBuf>) -> Host {
        match rootless {
            Some(rootless) if !usual.exists() && rootless.exists() => Host::unix(rootless),
            _ => Host::unix(usual),
        }
    }

    /// The engine that listens on a unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Host {
        let path = path.into();
        let url = format!("unix://{}", path.display());
        Host { name: None, endpoint: Endpoint::Unix(path), url, base: String::new() }
    }

    /// The URL as the user wrote it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The value of the `Host` header.
    pub(super) fn authority(&self) -> String {
        match &self.endpoint {
            // What a unix socket is called does not matter, but a proxy in front of it may want a valid name.
            Endpoint::Unix(_) => "localhost".into(),
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
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Host, HostError> {
        let error = |why: &str| HostError { text: text.into(), why: why.into() };
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
            "https" | "ssh" | "npipe" | "fd" => return Err(error(&format!("{scheme}:// is not supported yet"))),
            _ => return Err(error(&format!("{scheme}:// is not known"))),
        };
        Ok(Host { name, endpoint, url: url.into(), base })
    }
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

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
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
            "ssh://box",
            "=unix:///d",
            "tcp://box?x",
        ] {
            let error = text.parse::<Host>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{text}' cannot be a host: ")), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_order_is_flags_then_environment_then_default() {
        let env = |name: &str| (name == "DOCKER_HOST").then(|| "tcp://env:1".to_owned());
        let urls = |hosts: Vec<Host>| hosts.iter().map(Host::to_string).collect::<Vec<_>>();
        let given = ["tcp://a:1".to_owned(), "tcp://b:1".to_owned()];
        assert_eq!(urls(Host::all(&given, env).unwrap()), ["tcp://a:1", "tcp://b:1"]);
        assert_eq!(urls(Host::all(&[], env).unwrap()), ["tcp://env:1"]);
        assert_eq!(urls(Host::all(&[], |_| Some(String::new())).unwrap()), ["unix:///var/run/docker.sock"]);
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
