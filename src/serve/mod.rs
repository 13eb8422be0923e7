//! An HTTP server that behaves as a Docker Engine: `/_ping`, `/version`, `/info` and `/events`, from recorded events.
//!
//! The server is read-only: it never writes to a store. It rejects every request that would change something, and other
//! endpoints of an engine are not found.

mod api_version;
mod archive;
mod events;
mod fault;
mod feed;
mod identity;
mod playback;
mod request_target;

use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, LOCATION, SERVER};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::watch;

pub use archive::Archive;
use events::ResponseBody;
pub use fault::{FaultKind, Faults, ParseFaultError};
pub use feed::Feed;
pub use identity::EngineIdentity;
pub use playback::{ParseSpeedError, Playback, Speed};
use request_target::PlusMode;

use crate::engine::ApiVersion;
use crate::http::{self, Address, Flushed, ListenError, Server, Tls};

const TEXT_PLAIN: &str = "text/plain; charset=utf-8";
/// Maximum number of connections. Each subscriber uses one.
const MAX_CONNECTIONS: usize = 4_096;

/// Source of the events that an engine serves.
#[derive(Clone, Debug)]
pub enum History {
    /// Events in memory, in order of arrival; more can be added.
    Feed(Feed),
    /// A store, and the events that are being recorded into it.
    Archive(Archive),
    /// A recording. Each subscriber gets it from its first event.
    Playback(Playback),
}

/// An engine that serves recorded events.
#[derive(Debug)]
pub struct Engine {
    /// Identity of the engine, unless its history has one.
    identity: Arc<EngineIdentity>,
    history: History,
    faults: Faults,
    /// Number of subscribers to events.
    subscribers: watch::Sender<usize>,
}

impl Engine {
    /// Returns an engine that serves this history.
    pub fn new(history: History) -> Engine {
        Engine { identity: Arc::default(), history, faults: Faults::default(), subscribers: watch::channel(0).0 }
    }

    /// Sets the identity of the engine. A store has its own, which is used instead.
    #[must_use]
    pub fn with_identity(self, identity: EngineIdentity) -> Engine {
        Engine { identity: Arc::new(identity), ..self }
    }

    /// Sets the faults of the streams.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Engine {
        Engine { faults, ..self }
    }

    /// Returns a channel with the number of subscribers to events.
    pub fn subscribers(&self) -> watch::Receiver<usize> {
        self.subscribers.subscribe()
    }

    /// Listens on an address. The returned server answers while it is polled; clients can connect from now on.
    ///
    /// # Errors
    /// The server cannot listen on the address.
    pub fn listen(self: Arc<Self>, address: &Address, tls: Option<&Tls>) -> Result<Server, ListenError> {
        let handler = move |request: &Request<()>, flushed: &Flushed| {
            self.handle(request).map(|body| body.with_flush_notify(flushed))
        };
        http::listen(address, tls.cloned(), MAX_CONNECTIONS, Arc::new(handler))
    }

    fn identity(&self) -> Arc<EngineIdentity> {
        match &self.history {
            History::Archive(archive) => archive.identity(),
            History::Feed(_) | History::Playback(_) => self.identity.clone(),
        }
    }

    fn handle(&self, request: &Request<()>) -> Response<ResponseBody> {
        if let Some(reason) = http::malformed_reason(request) {
            return self.full_response(StatusCode::BAD_REQUEST, TEXT_PLAIN, format!("400 Bad Request{reason}"));
        }
        let Ok(path) = request_target::percent_decode(request.uri().path(), PlusMode::Literal) else {
            return self.full_response(StatusCode::BAD_REQUEST, TEXT_PLAIN, "400 Bad Request".into());
        };
        if let Some(clean) = request_target::clean_path(&path) {
            return redirect(&clean, request.uri().query());
        }
        let (version, path) = request_target::split_version(&path);
        if let Some(response) = version.and_then(|(version, text)| self.check_version(version, text)) {
            return response;
        }
        let version = version.map(|(version, _)| version);
        let method = request.method();
        let is_get = match *method {
            Method::GET => true,
            Method::HEAD => false,
            Method::OPTIONS => return self.empty_response(StatusCode::OK),
            Method::POST | Method::PUT | Method::DELETE | Method::PATCH => {
                let message = "this server is read-only: it serves recorded events";
                return self.error_response(StatusCode::FORBIDDEN, message);
            }
            _ => return self.error_response(StatusCode::NOT_FOUND, "page not found"),
        };
        match path {
            // HEAD gets this response too.
            "/_ping" => {
                let mut response = self.full_response(StatusCode::OK, TEXT_PLAIN, "OK".into());
                let headers = response.headers_mut();
                headers.insert("Cache-Control", HeaderValue::from_static("no-cache, no-store, must-revalidate"));
                headers.insert("Pragma", HeaderValue::from_static("no-cache"));
                headers.insert("Swarm", HeaderValue::from_static("inactive"));
                response
            }
            "/version" if is_get => {
                self.full_response(StatusCode::OK, "application/json", format!("{}\n", self.version_json()))
            }
            "/info" if is_get => self.json_response(StatusCode::OK, &self.info_json()),
            "/events" if is_get => self.events_response(request, version),
            // Clients of events request these lists too.
            "/containers/json" | "/images/json" if is_get => self.json_response(StatusCode::OK, &serde_json::json!([])),
            "/networks" if is_get => self.json_response(StatusCode::OK, &serde_json::json!([])),
            "/volumes" if is_get => {
                self.json_response(StatusCode::OK, &serde_json::json!({"Volumes": [], "Warnings": null}))
            }
            _ => self.error_response(StatusCode::NOT_FOUND, "page not found"),
        }
    }

    fn events_response(&self, request: &Request<()>, version: Option<ApiVersion>) -> Response<ResponseBody> {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let prefers_jsonl = version.unwrap_or(self.identity().api) >= ApiVersion(1, 52);
        let content_type = match accept {
            Some("application/jsonl") => "application/jsonl",
            Some("application/x-ndjson") => "application/x-ndjson",
            Some("application/json-seq") => "application/json-seq",
            _ if prefers_jsonl => "application/jsonl",
            _ => "application/json",
        };
        let query = request.uri().query().unwrap_or_default();
        match events::Subscription::from_query(query, version, content_type == "application/json-seq") {
            Ok(subscription) => {
                let body = subscription.into_body(self.history.clone(), &self.faults, &self.subscribers);
                self.with_headers(StatusCode::OK, content_type, body)
            }
            Err(error) => self.error_response(error.status, &error.message),
        }
    }

    fn check_version(&self, version: ApiVersion, text: &str) -> Option<Response<ResponseBody>> {
        let EngineIdentity { api, oldest_api, .. } = *self.identity();
        let message = if version > api {
            format!("client version {text} is too new. Maximum supported API version is {api}")
        } else if version < oldest_api {
            format!(
                "client version {text} is too old. Minimum supported API version is {oldest_api}, please upgrade your client to a newer version"
            )
        } else {
            return None;
        };
        // Clients this old do not parse JSON here.
        Some(if version < ApiVersion(1, 24) {
            self.full_response(StatusCode::BAD_REQUEST, TEXT_PLAIN, format!("{message}\n"))
        } else {
            self.error_response(StatusCode::BAD_REQUEST, &message)
        })
    }

    fn version_json(&self) -> String {
        let identity = self.identity();
        let EngineIdentity { api, oldest_api, version, version_response, .. } = &*identity;
        if let Some(response) = version_response {
            return response.clone();
        }
        let default_response = serde_json::json!({
            "Platform": {"Name": "events"},
            "Components": [],
            "Version": version,
            "ApiVersion": api.to_string(),
            "MinAPIVersion": oldest_api.to_string(),
            "GoVersion": "",
            "Os": "linux",
            "Arch": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        });
        default_response.to_string()
    }

    fn info_json(&self) -> serde_json::Value {
        let identity = self.identity();
        serde_json::json!({
            "ID": identity.id,
            "Name": identity.name,
            "ServerVersion": identity.version,
            "OSType": "linux",
            // Consistent with the empty lists of containers and images.
            "Containers": 0,
            "Images": 0,
            "Debug": false,
        })
    }

    fn json_response(&self, status: StatusCode, value: &serde_json::Value) -> Response<ResponseBody> {
        self.full_response(status, "application/json", format!("{value}\n"))
    }

    fn error_response(&self, status: StatusCode, message: &str) -> Response<ResponseBody> {
        self.json_response(status, &serde_json::json!({ "message": message }))
    }

    fn full_response(&self, status: StatusCode, content_type: &'static str, body: String) -> Response<ResponseBody> {
        self.with_headers(status, content_type, ResponseBody::Full(Bytes::from(body).into()))
    }

    fn empty_response(&self, status: StatusCode) -> Response<ResponseBody> {
        let mut response = self.full_response(status, TEXT_PLAIN, String::new());
        response.headers_mut().remove(CONTENT_TYPE);
        response
    }

    /// Returns a response with the headers that Docker 28 sends.
    fn with_headers(
        &self,
        status: StatusCode,
        content_type: &'static str,
        body: ResponseBody,
    ) -> Response<ResponseBody> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let api = HeaderValue::try_from(self.identity().api.to_string()).expect("a version is ASCII");
        headers.insert("Api-Version", api);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
        headers.insert("Ostype", HeaderValue::from_static("linux"));
        headers.insert(SERVER, HeaderValue::from_static(concat!("events/", env!("CARGO_PKG_VERSION"))));
        response
    }
}

/// Redirects a client to another path.
fn redirect(path: &str, query: Option<&str>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Full(Bytes::new().into()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let location = HeaderValue::try_from(format!("{}{query}", request_target::percent_encode(path)));
    response.headers_mut().insert(LOCATION, location.expect("an encoded path is a valid header value"));
    response
}

/// Counts a subscriber until it is dropped.
struct SubscriberGuard(watch::Sender<usize>);

impl SubscriberGuard {
    fn new(count: &watch::Sender<usize>) -> SubscriberGuard {
        count.send_modify(|count| *count += 1);
        SubscriberGuard(count.clone())
    }
}

impl Drop for SubscriberGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
