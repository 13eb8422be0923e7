//! Requests to an engine: hosts, connections, HTTP, version negotiation.
//!
//! Handles HTTP, and does not interpret the bytes of `/events`. Each request opens its own connection, by path or by
//! name. So it finds a socket that was bound again at the same path, or an engine that moved.

mod connect;
mod containers;
mod context;
mod host;
mod lifecycle;
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

pub use containers::{ContainerSummary, ContainerTimes};
pub use host::{DEFAULT_SOCKET, Endpoint, Host, HostError};
pub use lifecycle::ContainerSpec;
pub use metrics::{MetricsEndpoint, MetricsEndpointError};
pub use options::ClientOptions;
pub use ssh::SshEndpoint;
pub use tls::TlsError;

use connect::TransportError;

use crate::error::hex;

/// Newest API version that this client supports.
const MAX_API_VERSION: ApiVersion = ApiVersion(1, 51);

/// Timeout for connecting and for the response to a small request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for the start of the response to `/events`.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum size of a response that is not a stream.
///
/// `/info` of a large host has some 10 KB, and a list of ten thousand containers some 10 MB.
const MAX_RESPONSE_LEN: usize = 32 * 1024 * 1024;

/// Error of a request to an engine.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum EngineError {
    #[error("cannot connect to {host}")]
    Connect { host: String, source: std::io::Error },
    #[error("{host} did not respond to {path} within {} s", after.as_secs())]
    Timeout { host: String, path: String, after: Duration },
    #[error("{host} did not respond to {path} with valid HTTP")]
    Http { host: String, path: String, source: hyper::Error },
    #[error("{host} responded to {path} with {status}: {message}")]
    Status { host: String, path: String, status: StatusCode, message: String },
    #[error("{host} responded to {path} with {what}")]
    InvalidResponse { host: String, path: String, what: String },
    #[error("{host} did not end its response to {path}")]
    Unterminated { host: String, path: String },
    #[error("{host} interrupted its response to {path}")]
    Interrupted { host: String, path: String, source: hyper::Error },
}

impl EngineError {
    /// Hint for the user.
    pub fn hint(&self) -> Option<String> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        if let Some(refusal) = TransportError::find_in(self) {
            return refusal.hint();
        }
        let (host, source) = match self {
            EngineError::Connect { host, source } => (host, source),
            EngineError::Status { message, .. } if message.contains("HTTP request to an HTTPS server") => {
                return Some("the engine uses TLS: pass --tlsverify with --tlscacert FILE, or --tls".into());
            }
            EngineError::Timeout { host, .. }
            | EngineError::Status { host, .. }
            | EngineError::Unterminated { host, .. } => {
                return Some(format!("check that the host is a Docker Engine: `docker -H {host} version`"));
            }
            _ => return None,
        };
        match source.kind() {
            NotFound | ConnectionRefused => {
                Some(format!("check that a Docker Engine is running there: `docker -H {host} version`"))
            }
            PermissionDenied => Some("add this user to the group of the socket, or run as root".into()),
            _ => None,
        }
    }
}

/// Version of the engine's API.
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

/// Identity and settings of an engine, from `/info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct EngineInfo {
    /// ID of the engine. It stays the same when the engine moves or restarts.
    #[serde(rename = "ID", default)]
    pub id: String,
    /// Name of the engine's machine.
    #[serde(rename = "Name", default)]
    pub name: String,
    /// Time of the engine's clock in RFC 3339; empty if the engine does not report it.
    #[serde(rename = "SystemTime", default)]
    pub system_time: String,
    /// Storage directory of the engine.
    #[serde(rename = "DockerRootDir", default)]
    pub root_dir: String,
}

impl EngineInfo {
    /// Computes an ID from the machine and its storage directory, which is separate for each user.
    ///
    /// Podman needs it, because it reports a new random ID with each response.
    fn storage_id(&self) -> String {
        let digest = Sha256::digest(format!("podman\0{}\0{}", self.name, self.root_dir));
        hex(&digest[..16])
    }
}

/// Client of one engine.
#[derive(Clone, Debug)]
pub struct Client {
    host: Host,
    /// API version for requests; `None` if the engine offered none.
    api_version: Option<ApiVersion>,
    /// True if the engine is Podman.
    is_podman: bool,
}

impl Client {
    /// Connects to an engine and negotiates an API version.
    ///
    /// # Errors
    /// [`EngineError`] if the request for `/_ping` fails.
    pub async fn negotiate(host: &Host) -> Result<Client, EngineError> {
        let mut client = Client { host: host.clone(), api_version: None, is_podman: false };
        let response = client.get("/_ping", REQUEST_TIMEOUT).await?;
        client.is_podman = response.headers().contains_key("Libpod-Api-Version");
        let max_version = response.headers().get("Api-Version").and_then(|v| v.to_str().ok()?.parse().ok());
        client.api_version = max_version.map(|version: ApiVersion| version.min(MAX_API_VERSION));
        Ok(client)
    }

    /// Negotiated API version, if the engine offered one.
    pub fn api_version(&self) -> Option<ApiVersion> {
        self.api_version
    }

    /// Sends a ping to the engine.
    ///
    /// # Errors
    /// [`EngineError`]. Without a response within `timeout`, it is [`EngineError::Timeout`].
    pub async fn ping(&self, timeout: Duration) -> Result<(), EngineError> {
        self.get("/_ping", timeout).await.map(|_| ())
    }

    /// Fetches the identity of the engine.
    ///
    /// # Errors
    /// [`EngineError`]. An engine without an ID is [`EngineError::InvalidResponse`].
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        let mut info: EngineInfo = self.get_json("/info").await?;
        if self.is_podman {
            info.id = info.storage_id();
        }
        if info.id.is_empty() {
            return Err(self.invalid_response("/info", "no engine ID".into()));
        }
        Ok(info)
    }

    /// Fetches the version of the engine as JSON.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn version(&self) -> Result<String, EngineError> {
        let version: serde_json::Value = self.get_json("/version").await?;
        Ok(version.to_string())
    }

    /// Sends a GET at the negotiated version, and parses the JSON response.
    async fn get_json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        let path = self.versioned_path(path);
        let body = self.get_body(&path).await?;
        self.parse_json(&path, &body)
    }

    fn parse_json<T: serde::de::DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, EngineError> {
        serde_json::from_slice(body).map_err(|e| self.invalid_response(path, format!("unexpected JSON ({e})")))
    }

    /// Adds the negotiated version to a path.
    fn versioned_path(&self, path: &str) -> String {
        match self.api_version {
            Some(version) => format!("/v{version}{path}"),
            None => path.to_owned(),
        }
    }

    /// Sends a GET and reads the whole response, which must be small.
    async fn get_body(&self, path: &str) -> Result<Bytes, EngineError> {
        let body = self.get(path, REQUEST_TIMEOUT).await?.into_body();
        let body = tokio::time::timeout(REQUEST_TIMEOUT, self.read_body(path, body)).await;
        body.unwrap_or_else(|_| Err(self.timeout_error(path, REQUEST_TIMEOUT)))
    }

    async fn read_body(&self, path: &str, body: ResponseBody) -> Result<Bytes, EngineError> {
        let collected = Limited::new(body, MAX_RESPONSE_LEN).collect().await;
        collected
            .map(|body| body.to_bytes())
            .map_err(|e| self.invalid_response(path, format!("an incomplete response ({e})")))
    }

    fn invalid_response(&self, path: &str, what: String) -> EngineError {
        EngineError::InvalidResponse { host: self.host.to_string(), path: path.into(), what }
    }

    /// Opens the event stream from the start of the backlog, without an end.
    ///
    /// The request has no version, because Docker 29 rounds times below API 1.52. It has no filter, because events that
    /// are not stored also prove continuity.
    ///
    /// # Errors
    /// [`EngineError`]. Any response but a 200 that can be an event stream is an error.
    pub async fn events(&self) -> Result<ByteStream, EngineError> {
        self.get_stream("/events?since=0", EVENTS_TIMEOUT).await
    }

    /// Requests the backlog alone: at most 256 events, or the whole log of Podman. The response ends after it.
    ///
    /// The response must begin within `timeout`.
    ///
    /// # Errors
    /// [`EngineError`], as for [`events`](Self::events).
    pub async fn backlog(&self, timeout: Duration) -> Result<ByteStream, EngineError> {
        // Podman treats `until=0` as a time before all others.
        let bounds = if self.is_podman { "since=0&stream=false" } else { "since=0&until=0" };
        self.get_stream(&format!("/events?{bounds}"), timeout.min(EVENTS_TIMEOUT)).await
    }

    async fn get_stream(&self, path: &str, timeout: Duration) -> Result<ByteStream, EngineError> {
        let response = self.get(path, timeout).await?;
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if content_type.starts_with("text/html") {
            let what = format!("{content_type}, which is not an event stream");
            return Err(self.invalid_response(path, what));
        }
        Ok(ByteStream { host: self.host.to_string(), path: path.into(), body: response.into_body() })
    }

    /// Sends a GET on a new connection. Any status other than 200 is an error.
    async fn get(&self, path: &str, timeout: Duration) -> Result<Response<ResponseBody>, EngineError> {
        let response = self.send(Method::GET, path, Bytes::new(), timeout).await?;
        if response.status() == StatusCode::OK { Ok(response) } else { Err(self.status_error(path, response).await) }
    }

    /// Sends a request on a new connection, with a JSON body or none. A status that is not a success is an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Response<ResponseBody>, EngineError> {
        let result = tokio::time::timeout(timeout, self.exchange(method, path, body)).await;
        let response = result.unwrap_or_else(|_| Err(self.timeout_error(path, timeout)))?;
        if response.status().is_success() { Ok(response) } else { Err(self.status_error(path, response).await) }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Response<ResponseBody>, EngineError> {
        let host = || self.host.to_string();
        let http_error = |source: hyper::Error| match TransportError::find_in(&source)
            .or_else(|| self.missing_client_certificate(&source))
        {
            Some(refusal) => EngineError::Connect { host: host(), source: std::io::Error::other(refusal) },
            None => EngineError::Http { host: host(), path: path.into(), source },
        };
        let socket =
            connect::connect(&self.host).await.map_err(|source| EngineError::Connect { host: host(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(socket).await.map_err(http_error)?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(e) = connection.await {
                tracing::trace!("connection ended: {e}");
            }
        });
        let mut request = Request::builder().method(method).uri(self.host.request_path(path));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .header(HOST, self.host.authority())
            .header(USER_AGENT, concat!("events/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*")
            .body(Full::new(body))
            .map_err(|e| EngineError::InvalidResponse { host: host(), path: path.into(), what: e.to_string() })?;
        let response = sender.send_request(request).await.map_err(http_error)?;
        Ok(response.map(|body| ResponseBody { body, _connection: task }))
    }

    /// Builds the error for an unsuccessful response, with the message of the engine.
    async fn status_error(&self, path: &str, response: Response<ResponseBody>) -> EngineError {
        let status = response.status();
        let body = Limited::new(response.into_body(), 16 * 1024).collect();
        let message = match tokio::time::timeout(REQUEST_TIMEOUT, body).await {
            Ok(Ok(body)) => error_message(&body.to_bytes()),
            _ => String::new(),
        };
        EngineError::Status { host: self.host.to_string(), path: path.into(), status, message }
    }

    /// Returns the error for a connection that closed probably because of a missing client certificate.
    ///
    /// With TLS 1.3, an engine that requires a certificate reports it after the handshake, or not at all.
    fn missing_client_certificate(&self, error: &hyper::Error) -> Option<TransportError> {
        let has_no_certificate = self.host.tls.as_ref().is_some_and(|tls| !tls.has_client_certificate());
        let reason =
            || "the server closed the connection without a response, and may require a client certificate".into();
        (has_no_certificate && !error.is_parse()).then(|| TransportError::new(reason(), tls::CLIENT_CERTIFICATE_HINT))
    }

    fn timeout_error(&self, path: &str, after: Duration) -> EngineError {
        EngineError::Timeout { host: self.host.to_string(), path: path.into(), after }
    }
}

/// Returns the message in an error response, `{"message":"…"}`, or else the start of its body, on one line.
fn error_message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct ErrorResponse {
        message: String,
    }
    let text = match serde_json::from_slice::<ErrorResponse>(body) {
        Ok(response) => response.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    if line.is_empty() { "no reason given".into() } else { line }
}

/// Bytes of a response as they arrive. Dropping it closes the connection.
#[derive(Debug)]
pub struct ByteStream {
    host: String,
    path: String,
    body: ResponseBody,
}

impl ByteStream {
    /// Returns the error for a response that does not end.
    pub fn unterminated_error(&self) -> EngineError {
        EngineError::Unterminated { host: self.host.clone(), path: self.path.clone() }
    }

    /// Returns the next bytes; `None` at a clean end.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] if the connection ends before the last chunk.
    pub async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
        loop {
            return match self.body.frame().await {
                None => Ok(None),
                Some(Err(source)) => {
                    Err(EngineError::Interrupted { host: self.host.clone(), path: self.path.clone(), source })
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(_trailers) => continue,
                },
            };
        }
    }
}

/// Body of a response, with the task that drives its connection.
#[derive(Debug)]
struct ResponseBody {
    body: Incoming,
    _connection: JoinSet<()>,
}

impl ResponseBody {
    async fn frame(&mut self) -> Option<Result<hyper::body::Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}
