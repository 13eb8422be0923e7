//! Serves a few text pages over HTTP, such as the metrics and the health of a recorder.
//!
//! The handler determines the content; this module only implements HTTP.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::address::Address;
use super::listener::{self, ListenError, Server};

/// Maximum number of connections. Few clients monitor a program, and it needs its file descriptors for other work.
const MAX_CONNECTIONS: usize = 64;

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// True for status 200, false for status 503.
    pub healthy: bool,
    /// Content-Type of the page.
    pub content_type: &'static str,
    /// Body of the page.
    pub body: String,
}

/// Returns the page for a path and an `Accept` header, or `None` if no such page exists.
pub type PageHandler = dyn Fn(&str, &str) -> Option<Page> + Send + Sync;

/// Serves pages at an address while the returned server is polled. Clients can connect as soon as this returns.
///
/// # Errors
/// The server cannot listen on the address.
pub fn serve_pages(address: &Address, pages: Arc<PageHandler>) -> Result<Server, ListenError> {
    listener::listen(address, None, MAX_CONNECTIONS, Arc::new(move |request, _| respond(request, &*pages)))
}

fn respond(request: &Request<()>, pages: &PageHandler) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let accepted: Vec<&str> =
        request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    match pages(request.uri().path(), &accepted.join(",")) {
        Some(page) => {
            let status = if page.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let mut response = text_response(status, page.body);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
            response
        }
        None => text_response(StatusCode::NOT_FOUND, "page not found\n".into()),
    }
}

fn text_response(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
