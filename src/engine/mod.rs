//! Where an engine is and how to ask it: hosts, connections, requests, the version to speak.
//!
//! Knows HTTP; knows nothing of what the bytes of `/events` mean. Every request opens a connection of its own, by
//! path or by name: a socket that was bound anew at the same path, or an engine that moved, is found again.

mod connect;
mod containers;
mod context;
mod exercise;
mod host;
mod metrics;
mod options;
mod ssh;
pub(crate) mod tls;

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

pub use containers::{Listed, Times};
pub use exercise::Wanted;
pub use host::{DEFAULT_SOCKET, Endpoint, Host, HostError};
pub use metrics::{MetricsPage, MetricsPageError};
pub use options::ClientOptions;
pub use ssh::Ssh;
pub use tls::TlsError;

use connect::Refusal;

/// The newest version of the API that this client knows.
const NEWEST_API: ApiVersion = ApiVersion(1, 51);

/// How long connecting and the answer to a small request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the answer to `/events` may take to begin.
const EVENTS_PATIENCE: Duration = Duration::from_secs(30);

/// How large an answer that is no stream may be: `/info` of a large host has some 10 KB, a list of ten thousand
/// containers some 10 MB.
const ANSWER_LIMIT: usize = 32 * 1024 * 1024;

/// What can go wrong between us and an engine.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum EngineError {
    #[error("cannot connect to {host}")]
    Connect { host: String, source: std::io::Error },
    #[error("{host} does not answer {path}: no answer within {} s", after.as_secs())]
    Silent { host: String, path: String, after: Duration },
    #[error("{host} does not answer {path} in HTTP")]
    Http { host: String, path: String, source: hyper::Error },
    #[error("{host} answers {path} with {status}: {message}")]
    Status { host: String, path: String, status: StatusCode, message: String },
    #[error("{host} answers {path} with {what}")]
    Nonsense { host: String, path: String, what: String },
    #[error("{host} does not end its answer to {path}")]
    Endless { host: String, path: String },
    #[error("{host} broke off its answer to {path}")]
    BrokenOff { host: String, path: String, source: hyper::Error },
}

impl EngineError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        if let Some(refusal) = Refusal::behind(self) {
            return refusal.hint();
        }
        let (host, source) = match self {
            EngineError::Connect { host, source } => (host, source),
            EngineError::Status { message, .. } if message.contains("HTTP request to an HTTPS server") => {
                return Some("it speaks TLS: --tlsverify with --tlscacert FILE, or --tls".into());
            }
            EngineError::Silent { host, .. } | EngineError::Status { host, .. } | EngineError::Endless { host, .. } => {
                return Some(format!("is that a Docker Engine? `docker -H {host} version`"));
            }
            _ => return None,
        };
        match source.kind() {
            NotFound | ConnectionRefused => {
                Some(format!("is a Docker Engine running there? `docker -H {host} version`"))
            }
            PermissionDenied => Some("the socket belongs to a group: add this user to it, or run as root".into()),
            _ => None,
        }
    }
}

/// A version of the engine's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u32, pub u32);

impl std::str::FromStr for ApiVersion {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        Ok(ApiVersion(major.parse().map_err(|_| ())?, minor.parse().map_err(|_| ())?))
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Who an engine says it is: `/info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Info {
    /// The engine's identity; it stays when the engine moves or restarts.
    #[serde(rename = "ID", default)]
    pub id: String,
    /// The name of its machine.
    #[serde(rename = "Name", default)]
    pub name: String,
    /// What its clock says, in RFC 3339; empty where it does not tell.
    #[serde(rename = "SystemTime", default)]
    pub system_time: String,
    /// Where it keeps what it has.
    #[serde(rename = "DockerRootDir", default)]
    pub root: String,
}

impl Info {
    /// An ID for an engine that makes up another each time it is asked, as Podman does: of its machine and its storage,
    /// which is each user's own.
    fn of_its_storage(&self) -> String {
        let digest = Sha256::digest(format!("podman\0{}\0{}", self.name, self.root));
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Asks one engine.
#[derive(Clone, Debug)]
pub struct Client {
    host: Host,
    /// The version to ask at; `None` where the engine named none.
    api: Option<ApiVersion>,
    /// Whether it is Podman that answers as an engine.
    podman: bool,
}

impl Client {
    /// Reaches an engine and agrees with it on a version.
    ///
    /// # Errors
    /// Whatever keeps it from answering `/_ping`.
    pub async fn negotiate(host: &Host) -> Result<Client, EngineError> {
        let mut client = Client { host: host.clone(), api: None, podman: false };
        let answer = client.get("/_ping", PATIENCE).await?;
        client.podman = answer.headers().contains_key("Libpod-Api-Version");
        let offered = answer.headers().get("Api-Version").and_then(|v| v.to_str().ok()?.parse().ok());
        client.api = offered.map(|version: ApiVersion| version.min(NEWEST_API));
        Ok(client)
    }

    /// The version agreed on, if the engine named one.
    pub fn api(&self) -> Option<ApiVersion> {
        self.api
    }

    /// Asks whether the engine is there.
    ///
    /// # Errors
    /// [`EngineError`]; no answer within `patience` is [`EngineError::Silent`].
    pub async fn ping(&self, patience: Duration) -> Result<(), EngineError> {
        self.get("/_ping", patience).await.map(|_| ())
    }

    /// Asks the engine who it is.
    ///
    /// # Errors
    /// [`EngineError`]; an engine without an ID is [`EngineError::Nonsense`].
    pub async fn info(&self) -> Result<Info, EngineError> {
        let mut info: Info = self.json("/info").await?;
        if self.podman {
            info.id = info.of_its_storage();
        }
        if info.id.is_empty() {
            return Err(self.nonsense("/info", "no ID".into()));
        }
        Ok(info)
    }

    /// Asks the engine for its version, and gives the JSON it answers.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn version(&self) -> Result<String, EngineError> {
        let version: serde_json::Value = self.json("/version").await?;
        Ok(version.to_string())
    }

    /// Asks for something at the version agreed on, and reads the whole answer.
    async fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let path = self.versioned(path);
        let body = self.whole(&path).await?;
        self.parsed(&path, &body)
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, EngineError> {
        serde_json::from_slice(body).map_err(|e| self.nonsense(path, format!("no engine's JSON ({e})")))
    }

    /// The path at the version agreed on.
    fn versioned(&self, path: &str) -> String {
        match self.api {
            Some(version) => format!("/v{version}{path}"),
            None => path.to_owned(),
        }
    }

    /// The whole answer to a small question.
    async fn whole(&self, path: &str) -> Result<Bytes, EngineError> {
        let body = self.get(path, PATIENCE).await?.into_body();
        let collected = tokio::time::timeout(PATIENCE, self.collected(path, body)).await;
        collected.unwrap_or_else(|_| Err(self.silent(path, PATIENCE)))
    }

    async fn collected(&self, path: &str, body: Answer) -> Result<Bytes, EngineError> {
        let collected = Limited::new(body, ANSWER_LIMIT).collect().await;
        collected.map(|body| body.to_bytes()).map_err(|e| self.nonsense(path, format!("a broken answer ({e})")))
    }

    fn nonsense(&self, path: &str, what: String) -> EngineError {
        EngineError::Nonsense { host: self.host.to_string(), path: path.into(), what }
    }

    /// Opens the stream of events from the beginning of the engine's memory on, without end.
    ///
    /// Unversioned, because a version below 1.52 makes Docker 29 round the instants; unfiltered, because continuity is
    /// proven by events that need not be stored.
    ///
    /// # Errors
    /// [`EngineError`]; anything but a 200 that can be a stream of events.
    pub async fn events(&self) -> Result<Chunks, EngineError> {
        self.stream("/events?since=0", EVENTS_PATIENCE).await
    }

    /// Asks for the engine's memory alone: at most 256 events, of Podman its whole log; then a clean end. The answer
    /// begins within `patience`.
    ///
    /// # Errors
    /// As [`events`](Self::events).
    pub async fn memory(&self, patience: Duration) -> Result<Chunks, EngineError> {
        // To Podman, `until=0` is an instant before all others.
        let bounds = if self.podman { "since=0&stream=false" } else { "since=0&until=0" };
        self.stream(&format!("/events?{bounds}"), patience.min(EVENTS_PATIENCE)).await
    }

    async fn stream(&self, path: &str, patience: Duration) -> Result<Chunks, EngineError> {
        let answer = self.get(path, patience).await?;
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if kind.starts_with("text/html") {
            let what = format!("{kind}, which is no stream of events");
            return Err(self.nonsense(path, what));
        }
        Ok(Chunks { host: self.host.to_string(), path: path.into(), answer: answer.into_body() })
    }

    /// Sends a GET on a new connection; an answer other than 200 is an error.
    async fn get(&self, path: &str, patience: Duration) -> Result<Response<Answer>, EngineError> {
        let answer = self.send(Method::GET, path, Bytes::new(), patience).await?;
        if answer.status() == StatusCode::OK { Ok(answer) } else { Err(self.refusal(path, answer).await) }
    }

    /// Sends a request on a new connection, with a body of JSON or none; an answer that is no success is an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Answer>, EngineError> {
        let exchanged = tokio::time::timeout(patience, self.exchange(method, path, body)).await;
        let answer = exchanged.unwrap_or_else(|_| Err(self.silent(path, patience)))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refusal(path, answer).await) }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Answer>, EngineError> {
        let host = || self.host.to_string();
        let http = |source: hyper::Error| match Refusal::behind(&source).or_else(|| self.silently_refused(&source)) {
            Some(refusal) => EngineError::Connect { host: host(), source: std::io::Error::other(refusal) },
            None => EngineError::Http { host: host(), path: path.into(), source },
        };
        let socket =
            connect::connect(&self.host).await.map_err(|source| EngineError::Connect { host: host(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(socket).await.map_err(http)?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(e) = connection.await {
                tracing::trace!("connection ended: {e}");
            }
        });
        let mut request = Request::builder().method(method).uri(self.host.path(path));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .header(HOST, self.host.authority())
            .header(USER_AGENT, concat!("events/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*")
            .body(Full::new(body))
            .map_err(|e| EngineError::Nonsense { host: host(), path: path.into(), what: e.to_string() })?;
        let response = sender.send_request(request).await.map_err(http)?;
        Ok(response.map(|body| Answer { body, _connection: task }))
    }

    /// What an engine says in its refusal.
    async fn refusal(&self, path: &str, answer: Response<Answer>) -> EngineError {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), 16 * 1024).collect();
        let message = match tokio::time::timeout(PATIENCE, body).await {
            Ok(Ok(body)) => message(&body.to_bytes()),
            _ => String::new(),
        };
        EngineError::Status { host: self.host.to_string(), path: path.into(), status, message }
    }

    /// Under TLS 1.3 an engine that wants a certificate says so after the handshake, or not at all.
    fn silently_refused(&self, error: &hyper::Error) -> Option<Refusal> {
        let shows_none = self.host.tls.as_ref().is_some_and(|tls| !tls.shows_one());
        let why = || "it ends the connection without an answer, as if it wanted a certificate".into();
        (shows_none && !error.is_parse()).then(|| Refusal::new(why(), tls::SHOW_ONE))
    }

    fn silent(&self, path: &str, after: Duration) -> EngineError {
        EngineError::Silent { host: self.host.to_string(), path: path.into(), after }
    }
}

/// The one line in an engine's refusal, `{"message":"…"}`, or whatever stands there.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    let text = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    if line.is_empty() { "no reason given".into() } else { line }
}

/// The bytes of an answer as they come; dropping it closes the connection.
#[derive(Debug)]
pub struct Chunks {
    host: String,
    path: String,
    answer: Answer,
}

impl Chunks {
    /// The error that the answer does not end.
    pub fn endless(&self) -> EngineError {
        EngineError::Endless { host: self.host.clone(), path: self.path.clone() }
    }

    /// The next bytes; `None` at a clean end.
    ///
    /// # Errors
    /// [`EngineError::BrokenOff`] when the connection ends without the last chunk.
    pub async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
        loop {
            return match self.answer.frame().await {
                None => Ok(None),
                Some(Err(source)) => {
                    Err(EngineError::BrokenOff { host: self.host.clone(), path: self.path.clone(), source })
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(_trailers) => continue,
                },
            };
        }
    }
}

/// A body, and the task that drives its connection.
#[derive(Debug)]
struct Answer {
    body: Incoming,
    _connection: JoinSet<()>,
}

impl Answer {
    async fn frame(&mut self) -> Option<Result<hyper::body::Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}
