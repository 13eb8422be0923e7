//! Limits for every connection, whatever it requests.
//!
//! The head of the first request is read before hyper sees it, with a size limit and a time limit. A head that is too
//! long gets a response with a reason. A client that does not finish the head is disconnected, and so is a client that
//! accepts no data.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::HOST;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, timeout};

/// Time limit for the head of a request.
pub(super) const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which a client that accepts no data is disconnected.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum length of a request line. Clients of engines send a few kilobytes.
const MAX_REQUEST_LINE_LEN: usize = 60 * 1024;

/// Maximum size of a request head, and of a connection's buffers in hyper.
const MAX_BUFFER_LEN: usize = 128 * 1024;

/// Maximum number of headers of a request, which is hyper's own limit.
const MAX_HEADERS: usize = 100;

/// Notified whenever all data of a connection is written.
pub(crate) type Flushed = Arc<Notify>;

/// Handler of requests. It also gets the notification of the connection that all its data is written.
pub(crate) type RequestHandler<B> = dyn Fn(&Request<()>, &Flushed) -> Response<B> + Send + Sync;

/// Body of a response.
pub(crate) trait ResponseBody:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static
{
}
impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static> ResponseBody for B {}

/// A bidirectional byte stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Serves one connection until it ends.
pub(super) async fn serve_connection<B: ResponseBody>(
    mut stream: impl Stream,
    handler: Arc<RequestHandler<B>>,
) -> io::Result<()> {
    let head = timeout(REQUEST_HEAD_TIMEOUT, read_head(&mut stream)).await??;
    if head.is_empty() {
        return Ok(());
    }
    if let Some((content_type, body)) = head_error(&head) {
        return send_error(&mut stream, content_type, body).await;
    }
    let flushed = Arc::new(Notify::new());
    let stream = StallGuard { head: head.into(), stream, stall_timer: None, flushed: flushed.clone() };
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, mut body) = request.into_parts();
        let has_body = !matches!(parts.method, Method::GET | Method::HEAD);
        let response = handler(&Request::from_parts(parts, ()), &flushed);
        async move {
            if has_body {
                // The body is ignored, but some clients read the response only after sending all of the body.
                let drain = async { while body.frame().await.is_some_and(|frame| frame.is_ok()) {} };
                let _ = timeout(REQUEST_HEAD_TIMEOUT, drain).await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .title_case_headers(true)
        .max_buf_size(MAX_BUFFER_LEN)
        .header_read_timeout(REQUEST_HEAD_TIMEOUT * 6)
        .serve_connection(TokioIo::new(stream), service);
    connection.await.map_err(io::Error::other)
}

/// Reads until the head of a request is complete or too large, or the stream ends.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(4096);
    while head.len() < MAX_BUFFER_LEN {
        let search_start = head.len().saturating_sub(3);
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
        let new = &head[search_start..];
        if memchr::memmem::find(new, b"\n\r\n").is_some() || memchr::memmem::find(new, b"\n\n").is_some() {
            break;
        }
    }
    Ok(head)
}

/// Returns content type and body of the response to a request that hyper would reject without a body.
fn head_error(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let too_long = Some(("application/json", "{\"message\":\"the request is too long\"}\n"));
    let line = memchr::memchr(b'\n', head).unwrap_or(head.len());
    if line > MAX_REQUEST_LINE_LEN || head.len() >= MAX_BUFFER_LEN {
        return too_long;
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Err(httparse::Error::TooManyHeaders) => too_long,
        Ok(_) if request.path.is_none_or(|path| path.parse::<Uri>().is_ok()) => None,
        // The response of an engine.
        Ok(_) | Err(_) => Some(("text/plain; charset=utf-8", "400 Bad Request")),
    }
}

/// Sends an error response, then reads the request to its end, so that the client can read the response.
async fn send_error(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    content_type: &str,
    body: &str,
) -> io::Result<()> {
    let head = format!("HTTP/1.1 400 Bad Request\r\nContent-Type: {content_type}\r\nConnection: close\r\n");
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    stream.shutdown().await?;
    let drain = async {
        let mut block = vec![0; 64 * 1024];
        while stream.read(&mut block).await.is_ok_and(|read| read > 0) {}
    };
    let _ = timeout(Duration::from_secs(2), drain).await;
    Ok(())
}

/// A stream whose head was already read. It fails if the client accepts no data for [`WRITE_STALL_TIMEOUT`].
struct StallGuard<S> {
    head: Bytes,
    stream: S,
    /// Timer that runs while data waits for the client.
    stall_timer: Option<Pin<Box<Sleep>>>,
    /// Notified when all data is written.
    flushed: Arc<Notify>,
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.head.len().min(buffer.remaining());
        buffer.put_slice(&self.head.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.check_stall(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.flushed.notify_waiters();
        }
        self.check_stall(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.check_stall(cx, shutdown)
    }
}

impl<S> StallGuard<S> {
    fn check_stall<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stall_timer = None;
            return result;
        }
        let deadline = Instant::now() + WRITE_STALL_TIMEOUT;
        let stall_timer = self.stall_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(stall_timer.as_mut().poll(cx));
        let seconds = WRITE_STALL_TIMEOUT.as_secs();
        tracing::warn!("a client accepted no data for {seconds} s: the server disconnects it");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Checks what Docker's HTTP server, which is Go's, rejects before it calls a handler. Returns its text after
/// "400 Bad Request".
pub(crate) fn malformed_reason(request: &Request<()>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => Some(": missing required Host header"),
        (Some(host), None) if !host.as_bytes().iter().all(is_host_byte) => Some(": malformed Host header"),
        (Some(_), Some(_)) => Some(""),
        _ if request.uri().path().is_empty() => Some(""),
        _ => None,
    }
}

fn is_host_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_head_times_out_after_ten_seconds() {
        let (mut client, stream) = tokio::io::duplex(64);
        let request_count = Arc::new(AtomicUsize::new(0));
        let count = request_count.clone();
        let handler: Arc<RequestHandler<Full<Bytes>>> = Arc::new(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Response::new(Full::default())
        });
        let start = Instant::now();
        let connection = tokio::spawn(async move { (serve_connection(stream, handler).await, start.elapsed()) });
        let sending = tokio::spawn(async move {
            // The head grows by one byte a second and never ends.
            while client.write_all(b"G").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let (result, elapsed) =
            timeout(REQUEST_HEAD_TIMEOUT * 2, connection).await.expect("the connection times out").unwrap();
        assert_eq!((result.unwrap_err().kind(), elapsed), (io::ErrorKind::TimedOut, REQUEST_HEAD_TIMEOUT));
        sending.await.unwrap();
        assert_eq!(request_count.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_clients_are_cut_off_and_slow_clients_are_not() {
        let (mut client, stream) = tokio::io::duplex(64);
        let mut guarded = StallGuard { head: Bytes::new(), stream, stall_timer: None, flushed: Arc::default() };
        let start = Instant::now();
        let slow = tokio::spawn(async move {
            let mut buffer = [0; 64];
            for _ in 0..10 {
                sleep(WRITE_STALL_TIMEOUT - Duration::from_secs(1)).await;
                client.read_exact(&mut buffer).await.unwrap();
            }
            client
        });
        guarded.write_all(&[7; 64 * 11]).await.unwrap();
        let _client = slow.await.unwrap();
        assert_eq!(start.elapsed(), (WRITE_STALL_TIMEOUT - Duration::from_secs(1)) * 10);
        let start = Instant::now();
        let error =
            timeout(WRITE_STALL_TIMEOUT * 2, guarded.write_all(&[7])).await.expect("the write fails").unwrap_err();
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, WRITE_STALL_TIMEOUT.as_secs()));
    }
}
