//! A few pages of plain text over HTTP: what a program that serves nothing else shows to who watches it.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::events::Answer;
use super::listen::{self, Address, ListenError, Listening};

/// How many connections are held at once: those who watch are few, and what is watched needs its open files itself.
const CONNECTIONS: usize = 64;

/// What is shown.
#[derive(Clone, Debug)]
pub struct Page {
    /// Whether what it says is good: else its status is 503.
    pub good: bool,
    /// Its Content-Type.
    pub kind: &'static str,
    /// Its text.
    pub text: String,
}

/// Makes the page at a path, for who accepts this (the `Accept` header); `None` if there is none.
pub type Pages = dyn Fn(&str, &str) -> Option<Page> + Send + Sync;

/// Shows pages at an address for as long as what is returned is polled. It listens when this returns.
///
/// # Errors
/// It cannot be listened there.
pub fn show(address: &Address, pages: Arc<Pages>) -> Result<Listening, ListenError> {
    listen::listen(address, None, CONNECTIONS, Arc::new(move |request| answer(&request, &*pages)))
}

fn answer(request: &Request<()>, pages: &Pages) -> Response<Answer> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".into());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let accepted: Vec<&str> =
        request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    match pages(request.uri().path(), &accepted.join(",")) {
        Some(page) => {
            let status = if page.good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let mut response = plain(status, page.text);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(page.kind));
            response
        }
        None => plain(StatusCode::NOT_FOUND, "page not found\n".into()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
