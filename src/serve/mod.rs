//! Answers as a Docker Engine: `/_ping`, `/version`, `/info` and `/events`, from events held in memory.
//!
//! Reads only: everything that would change something is refused, as is everything else an engine can do.

mod events;
mod feed;

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use events::Answer;
pub use feed::Feed;

use crate::engine::ApiVersion;

/// Who the engine says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The engine's ID.
    pub id: String,
    /// The name of its machine.
    pub name: String,
    /// The newest version of the API it answers.
    pub api: ApiVersion,
}

/// The oldest version of the API that is answered.
const OLDEST_API: ApiVersion = ApiVersion(1, 24);

/// An engine made of events that were recorded.
#[derive(Debug)]
pub struct Engine {
    identity: Identity,
    feed: Feed,
}

impl Engine {
    /// An engine that remembers all that is in `feed`.
    pub fn new(identity: Identity, feed: Feed) -> Engine {
        Engine { identity, feed }
    }

    /// What it remembers; what is added is told to whoever listens.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Listens on a unix socket, and answers for as long as it is polled. The socket is there when this returns.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(self: Arc<Self>, socket: &Path) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let listener = UnixListener::bind(socket)?;
        Ok(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => drop(connections.spawn(self.clone().converse(TokioIo::new(stream)))),
                        Err(e) => tracing::warn!("cannot accept a connection: {e}"),
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        })
    }

    async fn converse(self: Arc<Self>, stream: impl hyper::rt::Read + hyper::rt::Write + Unpin) {
        let service = service_fn(|request| {
            let answer = self.answer(&request);
            async { Ok::<_, Infallible>(answer) }
        });
        let served =
            hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(stream, service);
        if let Err(e) = served.await {
            tracing::debug!("a connection ended: {e}");
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Answer> {
        let (version, path) = split_version(request.uri().path());
        let get = request.method() == Method::GET;
        if let Some(version) = version
            && let Some(refusal) = self.refuse_version(version)
        {
            return refusal;
        }
        match path {
            "/_ping" if get || request.method() == Method::HEAD => {
                self.whole(StatusCode::OK, "text/plain; charset=utf-8", "OK".into())
            }
            "/version" if get => self.json(StatusCode::OK, &self.version()),
            "/info" if get => self.json(StatusCode::OK, &self.info()),
            "/events" if get => self.events(request.uri().query().unwrap_or_default()),
            _ => self.refuse(StatusCode::NOT_FOUND, "page not found"),
        }
    }

    fn events(&self, query: &str) -> Response<Answer> {
        match events::Subscription::from_query(query) {
            Ok(subscription) => {
                let answer = subscription.answer(self.feed.clone());
                self.with_headers(StatusCode::OK, "application/json", answer)
            }
            Err(refusal) => self.refuse(refusal.status, &refusal.message),
        }
    }

    fn refuse_version(&self, version: ApiVersion) -> Option<Response<Answer>> {
        let message = if version > self.identity.api {
            format!("client version {version} is too new. Maximum supported API version is {}", self.identity.api)
        } else if version < OLDEST_API {
            format!(
                "client version {version} is too old. Minimum supported API version is {OLDEST_API}, please upgrade your client to a newer version"
            )
        } else {
            return None;
        };
        Some(self.refuse(StatusCode::BAD_REQUEST, &message))
    }

    fn version(&self) -> serde_json::Value {
        serde_json::json!({
            "Platform": {"Name": "events"},
            "Version": env!("CARGO_PKG_VERSION"),
            "ApiVersion": self.identity.api.to_string(),
            "MinAPIVersion": OLDEST_API.to_string(),
            "Os": "linux",
            "Arch": std::env::consts::ARCH,
        })
    }

    fn info(&self) -> serde_json::Value {
        serde_json::json!({
            "ID": self.identity.id,
            "Name": self.identity.name,
            "ServerVersion": env!("CARGO_PKG_VERSION"),
            "OSType": "linux",
        })
    }

    fn json(&self, status: StatusCode, value: &serde_json::Value) -> Response<Answer> {
        self.whole(status, "application/json", format!("{value}\n"))
    }

    fn refuse(&self, status: StatusCode, message: &str) -> Response<Answer> {
        self.json(status, &serde_json::json!({ "message": message }))
    }

    fn whole(&self, status: StatusCode, kind: &'static str, body: String) -> Response<Answer> {
        self.with_headers(status, kind, Answer::Whole(Bytes::from(body).into()))
    }

    /// The headers that Docker 28 sends.
    fn with_headers(&self, status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let api = HeaderValue::try_from(self.identity.api.to_string()).expect("a version is ASCII");
        headers.insert("Api-Version", api);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
        headers.insert("Ostype", HeaderValue::from_static("linux"));
        headers.insert(SERVER, HeaderValue::from_static(concat!("events/", env!("CARGO_PKG_VERSION"))));
        response
    }
}

/// `/v1.41/events` → 1.41 and `/events`.
fn split_version(path: &str) -> (Option<ApiVersion>, &str) {
    let split = || {
        let (version, rest) = path.strip_prefix("/v")?.split_once('/')?;
        let version = version.parse().ok()?;
        Some((Some(version), &path[path.len() - rest.len() - 1..]))
    };
    split().unwrap_or((None, path))
}
