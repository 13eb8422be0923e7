//! Answers as a Docker Engine: `/_ping`, `/version`, `/info` and `/events`, from events that were recorded.
//!
//! Reads only: everything that would change something is refused, as is everything else an engine can do.

mod archive;
mod events;
mod fault;
mod feed;
mod form;
mod identity;
mod listen;
mod pages;
mod play;
mod target;

use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, LOCATION, SERVER};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::watch;

pub use archive::Archive;
use events::Answer;
pub use fault::{FaultKind, Faults, NoFault};
pub use feed::Feed;
pub use identity::Identity;
pub use listen::{Address, ListenError, Listening, NoAddress, Tls};
pub use pages::{Page, Pages, show};
pub use play::{NoSpeed, Play, Speed};
use target::Plus;

use crate::engine::ApiVersion;

const PLAIN: &str = "text/plain; charset=utf-8";
/// How many connections are held at once; a subscriber is one.
const CONNECTIONS: usize = 4_096;

/// What an engine tells of.
#[derive(Clone, Debug)]
pub enum History {
    /// Events held in memory, in the order they came; more may come.
    Feed(Feed),
    /// A store, and what is being recorded into it.
    Archive(Archive),
    /// A recording, for each subscriber from its beginning.
    Play(Play),
}

/// An engine made of events that were recorded.
#[derive(Debug)]
pub struct Engine {
    /// Who it is where its history does not say.
    identity: Arc<Identity>,
    history: History,
    faults: Faults,
    /// How many listen to events.
    subscribers: watch::Sender<usize>,
}

impl Engine {
    /// An engine that remembers all of this.
    pub fn new(history: History) -> Engine {
        Engine { identity: Arc::default(), history, faults: Faults::default(), subscribers: watch::channel(0).0 }
    }

    /// The same as somebody; a store knows itself whose it is.
    #[must_use]
    pub fn with_identity(self, identity: Identity) -> Engine {
        Engine { identity: Arc::new(identity), ..self }
    }

    /// The same with streams that break.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Engine {
        Engine { faults, ..self }
    }

    /// How many listen to events.
    pub fn subscribers(&self) -> watch::Receiver<usize> {
        self.subscribers.subscribe()
    }

    /// Listens at an address, and answers for as long as it is polled. It listens when this returns.
    ///
    /// # Errors
    /// It cannot be listened there.
    pub fn listen(self: Arc<Self>, address: &Address, tls: Option<&Tls>) -> Result<Listening, ListenError> {
        listen::listen(address, tls.cloned(), CONNECTIONS, Arc::new(move |request| self.answer(&request)))
    }

    fn identity(&self) -> Arc<Identity> {
        match &self.history {
            History::Archive(archive) => archive.identity(),
            History::Feed(_) | History::Play(_) => self.identity.clone(),
        }
    }

    fn answer(&self, request: &Request<()>) -> Response<Answer> {
        if let Some(why) = malformed(request) {
            return self.whole(StatusCode::BAD_REQUEST, PLAIN, format!("400 Bad Request{why}"));
        }
        let Ok(path) = target::decoded(request.uri().path(), Plus::Plus) else {
            return self.whole(StatusCode::BAD_REQUEST, PLAIN, "400 Bad Request".into());
        };
        if let Some(clean) = target::cleaned(&path) {
            return moved(&clean, request.uri().query());
        }
        let (version, path) = target::split_version(&path);
        if let Some(refusal) = version.and_then(|(version, text)| self.refuse_version(version, text)) {
            return refusal;
        }
        let version = version.map(|(version, _)| version);
        let method = request.method();
        let get = match *method {
            Method::GET => true,
            Method::HEAD => false,
            Method::OPTIONS => return self.without_body(StatusCode::OK),
            Method::POST | Method::PUT | Method::DELETE | Method::PATCH => {
                let message = "this is a record of an engine: it can be read, and nothing else";
                return self.refuse(StatusCode::FORBIDDEN, message);
            }
            _ => return self.refuse(StatusCode::NOT_FOUND, "page not found"),
        };
        match path {
            // Also to HEAD.
            "/_ping" => {
                let mut pong = self.whole(StatusCode::OK, PLAIN, "OK".into());
                let headers = pong.headers_mut();
                headers.insert("Cache-Control", HeaderValue::from_static("no-cache, no-store, must-revalidate"));
                headers.insert("Pragma", HeaderValue::from_static("no-cache"));
                headers.insert("Swarm", HeaderValue::from_static("inactive"));
                pong
            }
            "/version" if get => self.whole(StatusCode::OK, "application/json", format!("{}\n", self.version())),
            "/info" if get => self.json(StatusCode::OK, &self.info()),
            "/events" if get => self.events(request, version),
            // What clients ask beside it.
            "/containers/json" | "/images/json" if get => self.json(StatusCode::OK, &serde_json::json!([])),
            "/networks" if get => self.json(StatusCode::OK, &serde_json::json!([])),
            "/volumes" if get => self.json(StatusCode::OK, &serde_json::json!({"Volumes": [], "Warnings": null})),
            _ => self.refuse(StatusCode::NOT_FOUND, "page not found"),
        }
    }

    fn events(&self, request: &Request<()>, version: Option<ApiVersion>) -> Response<Answer> {
        let accepted = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let lines = version.unwrap_or(self.identity().api) >= ApiVersion(1, 52);
        let kind = match accepted {
            Some("application/jsonl") => "application/jsonl",
            Some("application/x-ndjson") => "application/x-ndjson",
            Some("application/json-seq") => "application/json-seq",
            _ if lines => "application/jsonl",
            _ => "application/json",
        };
        let query = request.uri().query().unwrap_or_default();
        match events::Subscription::from_query(query, version, kind == "application/json-seq") {
            Ok(subscription) => {
                let answer = subscription.answer(self.history.clone(), &self.faults, &self.subscribers);
                self.with_headers(StatusCode::OK, kind, answer)
            }
            Err(refusal) => self.refuse(refusal.status, &refusal.message),
        }
    }

    fn refuse_version(&self, version: ApiVersion, text: &str) -> Option<Response<Answer>> {
        let Identity { api, oldest_api, .. } = *self.identity();
        let message = if version > api {
            format!("client version {text} is too new. Maximum supported API version is {api}")
        } else if version < oldest_api {
            format!(
                "client version {text} is too old. Minimum supported API version is {oldest_api}, please upgrade your client to a newer version"
            )
        } else {
            return None;
        };
        // Clients so old read no JSON here.
        Some(if version < ApiVersion(1, 24) {
            self.whole(StatusCode::BAD_REQUEST, PLAIN, format!("{message}\n"))
        } else {
            self.refuse(StatusCode::BAD_REQUEST, &message)
        })
    }

    fn version(&self) -> String {
        let identity = self.identity();
        let Identity { api, oldest_api, version, told, .. } = &*identity;
        if let Some(told) = told {
            return told.clone();
        }
        let usual = serde_json::json!({
            "Platform": {"Name": "events"},
            "Components": [],
            "Version": version,
            "ApiVersion": api.to_string(),
            "MinAPIVersion": oldest_api.to_string(),
            "GoVersion": "",
            "Os": "linux",
            "Arch": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        });
        usual.to_string()
    }

    fn info(&self) -> serde_json::Value {
        let identity = self.identity();
        serde_json::json!({
            "ID": identity.id,
            "Name": identity.name,
            "ServerVersion": identity.version,
            "OSType": "linux",
            // As the lists of both say, which are empty.
            "Containers": 0,
            "Images": 0,
            "Debug": false,
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

    fn without_body(&self, status: StatusCode) -> Response<Answer> {
        let mut response = self.whole(status, PLAIN, String::new());
        response.headers_mut().remove(CONTENT_TYPE);
        response
    }

    /// The headers that Docker 28 sends.
    fn with_headers(&self, status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let api = HeaderValue::try_from(self.identity().api.to_string()).expect("a version is ASCII");
        headers.insert("Api-Version", api);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
        headers.insert("Ostype", HeaderValue::from_static("linux"));
        headers.insert(SERVER, HeaderValue::from_static(concat!("events/", env!("CARGO_PKG_VERSION"))));
        response
    }
}

/// What Docker's server, which is Go's, refuses before it is asked anything: the words behind its "400 Bad Request".
fn malformed(request: &Request<()>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => Some(": missing required Host header"),
        (Some(host), None) if !host.as_bytes().iter().all(is_of_a_host) => Some(": malformed Host header"),
        (Some(_), Some(_)) => Some(""),
        _ if request.uri().path().is_empty() => Some(""),
        _ => None,
    }
}

fn is_of_a_host(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte)
}

/// Sends a client elsewhere.
fn moved(path: &str, query: Option<&str>) -> Response<Answer> {
    let mut moved = Response::new(Answer::Whole(Bytes::new().into()));
    *moved.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    let to = HeaderValue::try_from(format!("{}{query}", target::encoded(path)));
    moved.headers_mut().insert(LOCATION, to.expect("a part of a URI is a header's value"));
    moved
}

/// One subscriber, counted for as long as it is there.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(count: &watch::Sender<usize>) -> Counted {
        count.send_modify(|count| *count += 1);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
