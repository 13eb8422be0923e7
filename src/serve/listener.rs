//! Listens on Unix sockets, TCP and TLS, and enforces limits on every connection.
//!
//! The head of the first request is read before hyper sees it, with a size limit and a time limit. A head that is too
//! long gets a response with a reason. A client that does not finish the head is disconnected, and so is a client that
//! accepts no data. The limits do not depend on the request.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::events::ResponseBody;
use crate::engine::{TlsError, tls};

/// Time limit for the head of a request.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which a client that accepts no data is disconnected.
const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum length of a request line. Clients of engines send a few kilobytes.
const MAX_REQUEST_LINE_LEN: usize = 60 * 1024;

/// Maximum size of a request head, and of a connection's buffers in hyper.
const MAX_BUFFER_LEN: usize = 128 * 1024;

/// Maximum number of headers of a request, which is hyper's own limit.
const MAX_HEADERS: usize = 100;

/// TCP keepalive, with the intervals of an engine.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(15)).with_retries(9);

/// Address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Path of a Unix socket.
    Unix(PathBuf),
    /// TCP address such as `127.0.0.1:2375`.
    Tcp(SocketAddr),
}

/// A text that is not a listen address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid listen address '{0}': write unix:///path or tcp://127.0.0.1:2375")]
pub struct ParseAddressError(String);

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let invalid = || ParseAddressError(text.into());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.is_empty() { Err(invalid()) } else { Ok(Address::Unix(path.into())) };
        }
        let address = text.strip_prefix("tcp://").ok_or_else(invalid)?;
        let address = address.replacen("localhost:", "127.0.0.1:", 1);
        address.parse().map(Address::Tcp).map_err(|_| invalid())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Address {
    /// Returns true if only this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp(address) => address.ip().is_loopback(),
        }
    }
}

/// The server cannot listen on an address.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum ListenError {
    #[error("cannot listen on {address}")]
    Io { address: Address, source: io::Error },
    #[error("cannot listen on {address}: the address is in use")]
    InUse { address: Address },
    #[error("cannot listen on {address}: the path exists and is not a socket")]
    NotASocket { address: Address },
}

/// TLS configuration of a TCP address.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Loads a certificate and its key. With authorities, only clients with a certificate of these are accepted.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(certificate: &Path, key: &Path, authorities: Option<&Path>) -> Result<Tls, TlsError> {
        let (chain, private_key) = (tls::load_certificates(certificate)?, tls::load_key(key)?);
        let builder = ServerConfig::builder();
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let authorities_error = |reason: String| TlsError::InvalidCa { path: path.into(), reason };
                let roots = Arc::new(tls::load_ca(path)?);
                let verifier =
                    WebPkiClientVerifier::builder(roots).build().map_err(|e| authorities_error(e.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(chain, private_key).map_err(|source| TlsError::KeyMismatch {
            certificate: certificate.into(),
            key: key.into(),
            source,
        })?;
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }
}

/// Handler of requests.
pub(super) type RequestHandler = dyn Fn(Request<()>) -> Response<ResponseBody> + Send + Sync;

/// A listening server. It serves clients while it is polled.
pub struct Server {
    address: Address,
    accept_loop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Server {
    /// Address of the server. Port 0 is replaced by the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Future for Server {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.accept_loop.as_mut().poll(cx)
    }
}

/// Listens on an address, with a maximum number of connections. TLS applies only to TCP.
pub(super) fn listen(
    address: &Address,
    tls: Option<Tls>,
    max_connections: usize,
    handler: Arc<RequestHandler>,
) -> Result<Server, ListenError> {
    let io_error = |source| ListenError::Io { address: address.clone(), source };
    let mut bound_address = address.clone();
    let (listener, file, tls) = match address {
        Address::Unix(path) => {
            let (listener, file) = bind_unix(path, address)?;
            (Listener::Unix(listener), Some(file), None)
        }
        Address::Tcp(requested) => {
            let listener = std::net::TcpListener::bind(requested).map_err(|e| match e.kind() {
                io::ErrorKind::AddrInUse => ListenError::InUse { address: address.clone() },
                _ => io_error(e),
            })?;
            listener.set_nonblocking(true).map_err(io_error)?;
            bound_address = Address::Tcp(listener.local_addr().map_err(io_error)?);
            (Listener::Tcp(TcpListener::from_std(listener).map_err(io_error)?), None, tls)
        }
    };
    let accept_loop = Box::pin(async move {
        let _file = file;
        accept(&listener, tls, max_connections, handler).await;
    });
    Ok(Server { address: bound_address, accept_loop })
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A bidirectional byte stream.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
            Listener::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // Reading detects a client that disconnected. Keepalive detects a machine that disappeared.
                let _ = stream.set_nodelay(true);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
                Box::new(stream)
            }
        })
    }
}

/// File of a socket, deleted on drop.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds a socket for its owner and group. Replaces a stale socket, which no process listens on.
fn bind_unix(path: &Path, address: &Address) -> Result<(UnixListener, SocketFile), ListenError> {
    let io_error = |source| ListenError::Io { address: address.clone(), source };
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if !std::fs::symlink_metadata(path).map_err(io_error)?.file_type().is_socket() {
                return Err(ListenError::NotASocket { address: address.clone() });
            }
            match std::os::unix::net::UnixStream::connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                _ => return Err(ListenError::InUse { address: address.clone() }),
            }
            std::fs::remove_file(path).map_err(io_error)?;
            UnixListener::bind(path).map_err(io_error)?
        }
        other => other.map_err(io_error)?,
    };
    let file = SocketFile(path.into());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io_error)?;
    Ok((listener, file))
}

async fn accept(listener: &Listener, tls: Option<Tls>, max_connections: usize, handler: Arc<RequestHandler>) {
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < max_connections => match accepted {
                Ok(stream) => {
                    failing = false;
                    let (tls, handler) = (tls.clone(), handler.clone());
                    connections.spawn(async move {
                        if let Err(e) = handle_connection(stream, tls, handler).await {
                            tracing::debug!("a connection failed: {e}");
                        }
                    });
                }
                Err(e) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("cannot accept a connection: {e}; the server retries every 100 ms");
                    }
                    // The usual cause is too many open files, for a short time.
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn handle_connection(stream: Box<dyn Stream>, tls: Option<Tls>, handler: Arc<RequestHandler>) -> io::Result<()> {
    match tls {
        None => serve_http(stream, handler).await,
        Some(Tls(acceptor)) => {
            serve_http(timeout(REQUEST_HEAD_TIMEOUT, acceptor.accept(stream)).await??, handler).await
        }
    }
}

/// Serves one connection until it ends.
async fn serve_http(mut stream: impl Stream, handler: Arc<RequestHandler>) -> io::Result<()> {
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
        let response = handler(Request::from_parts(parts, ())).map(|response| response.with_flush_notify(&flushed));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_head_times_out_after_ten_seconds() {
        let (mut client, stream) = tokio::io::duplex(64);
        let request_count = Arc::new(AtomicUsize::new(0));
        let count = request_count.clone();
        let handler: Arc<RequestHandler> = Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Response::new(ResponseBody::Full(Bytes::new().into()))
        });
        let start = Instant::now();
        let connection = tokio::spawn(async move { (serve_http(stream, handler).await, start.elapsed()) });
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
