//! Where an engine listens: unix sockets, TCP, TCP under TLS; and what every connection is held to, whatever is asked.
//!
//! The head of the first request is read before HTTP is spoken, within a bound and a time: what is too long gets an
//! answer that a client can read, and who never ends it is cut off. Who takes nothing of what is sent is cut off too.

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

use super::events::Answer;
use crate::engine::{TlsError, tls};

/// How long the head of a request may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long a client may take nothing of what waits for it.
const TAKING_PATIENCE: Duration = Duration::from_secs(20);

/// The longest request line that is taken; an engine's clients send some kilobytes.
const REQUEST_LINE: usize = 60 * 1024;

/// How much of a request's head, and of what waits for a client, is held for a connection.
const HELD: usize = 128 * 1024;

/// The most headers that a request may have: hyper's own bound.
const HEADERS: usize = 100;

/// When a silent TCP client is asked whether it is there: as an engine does.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(15)).with_retries(9);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, by path.
    Unix(PathBuf),
    /// A TCP address, as `127.0.0.1:2375`.
    Tcp(SocketAddr),
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address to listen at: write unix:///path or tcp://127.0.0.1:2375")]
pub struct NoAddress(String);

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let wrong = || NoAddress(text.into());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Address::Unix(path.into())) };
        }
        let address = text.strip_prefix("tcp://").ok_or_else(wrong)?;
        let address = address.replacen("localhost:", "127.0.0.1:", 1);
        address.parse().map(Address::Tcp).map_err(|_| wrong())
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
    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp(address) => address.ip().is_loopback(),
        }
    }
}

/// It cannot be listened there.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum ListenError {
    #[error("cannot listen on {address}")]
    Io { address: Address, source: io::Error },
    #[error("cannot listen on {address}: somebody does so already")]
    Taken { address: Address },
    #[error("cannot listen on {address}: there is a file that is no socket")]
    NoSocket { address: Address },
}

/// What makes a TCP address one that only the right people read.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// With a certificate and its key; with authorities, only clients that show a certificate of theirs are answered.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(certificate: &Path, key: &Path, authorities: Option<&Path>) -> Result<Tls, TlsError> {
        let (chain, secret) = (tls::certificates(certificate)?, tls::key(key)?);
        let builder = ServerConfig::builder();
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong = |why: String| TlsError::Authorities { path: path.into(), why };
                let roots = Arc::new(tls::authorities(path)?);
                let verifier = WebPkiClientVerifier::builder(roots).build().map_err(|e| wrong(e.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(chain, secret).map_err(|source| TlsError::Pair {
            certificate: certificate.into(),
            key: key.into(),
            source,
        })?;
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }
}

/// Answers requests.
pub(super) type Answers = dyn Fn(Request<()>) -> Response<Answer> + Send + Sync;

/// Where it is listened, and what answers there for as long as it is polled.
pub struct Listening {
    at: Address,
    answering: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Listening {
    /// The address, with the port that the system chose if it was to.
    pub fn at(&self) -> &Address {
        &self.at
    }
}

impl Future for Listening {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.answering.as_mut().poll(cx)
    }
}

/// Listens, and answers so many connections at once. TLS is for TCP alone.
pub(super) fn listen(
    address: &Address,
    tls: Option<Tls>,
    connections: usize,
    answers: Arc<Answers>,
) -> Result<Listening, ListenError> {
    let io = |source| ListenError::Io { address: address.clone(), source };
    let mut at = address.clone();
    let (listener, file, tls) = match address {
        Address::Unix(path) => {
            let (listener, file) = bind_unix(path, address)?;
            (Listener::Unix(listener), Some(file), None)
        }
        Address::Tcp(wanted) => {
            let listener = std::net::TcpListener::bind(wanted).map_err(|e| match e.kind() {
                io::ErrorKind::AddrInUse => ListenError::Taken { address: address.clone() },
                _ => io(e),
            })?;
            listener.set_nonblocking(true).map_err(io)?;
            at = Address::Tcp(listener.local_addr().map_err(io)?);
            (Listener::Tcp(TcpListener::from_std(listener).map_err(io)?), None, tls)
        }
    };
    let answering = Box::pin(async move {
        let _file = file;
        accept(&listener, tls, connections, answers).await;
    });
    Ok(Listening { at, answering })
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
            Listener::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                // Who is gone already is found by reading. A machine that is gone without a word, by asking it.
                let _ = stream.set_nodelay(true);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
                Box::new(stream)
            }
        })
    }
}

/// A socket's file, gone when it is dropped.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A socket that its owner and group may use. One that was left behind by a process that is gone is replaced.
fn bind_unix(path: &Path, address: &Address) -> Result<(UnixListener, SocketFile), ListenError> {
    let io = |source| ListenError::Io { address: address.clone(), source };
    let listener = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if !std::fs::symlink_metadata(path).map_err(io)?.file_type().is_socket() {
                return Err(ListenError::NoSocket { address: address.clone() });
            }
            match std::os::unix::net::UnixStream::connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                _ => return Err(ListenError::Taken { address: address.clone() }),
            }
            std::fs::remove_file(path).map_err(io)?;
            UnixListener::bind(path).map_err(io)?
        }
        other => other.map_err(io)?,
    };
    let file = SocketFile(path.into());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io)?;
    Ok((listener, file))
}

async fn accept(listener: &Listener, tls: Option<Tls>, most: usize, answers: Arc<Answers>) {
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok(stream) => {
                    failing = false;
                    let (tls, answers) = (tls.clone(), answers.clone());
                    connections.spawn(async move {
                        if let Err(e) = begin(stream, tls, answers).await {
                            tracing::debug!("a connection ended: {e}");
                        }
                    });
                }
                Err(e) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("cannot accept a connection: {e}; it is tried again");
                    }
                    // As a rule there are too many open files, and not for long.
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn begin(stream: Box<dyn Stream>, tls: Option<Tls>, answers: Arc<Answers>) -> io::Result<()> {
    match tls {
        None => converse(stream, answers).await,
        Some(Tls(acceptor)) => converse(timeout(HEAD_PATIENCE, acceptor.accept(stream)).await??, answers).await,
    }
}

/// One connection, to its end.
async fn converse(mut stream: impl Stream, answers: Arc<Answers>) -> io::Result<()> {
    let head = timeout(HEAD_PATIENCE, read_head(&mut stream)).await??;
    if head.is_empty() {
        return Ok(());
    }
    if let Some((kind, body)) = refusal(&head) {
        return refuse(&mut stream, kind, body).await;
    }
    let flushed = Arc::new(Notify::new());
    let stream = Patient { head: head.into(), stream, waiting: None, flushed: flushed.clone() };
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, mut body) = request.into_parts();
        let writes = !matches!(parts.method, Method::GET | Method::HEAD);
        let answer = answers(Request::from_parts(parts, ())).map(|answer| answer.on(&flushed));
        async move {
            if writes {
                // Nothing of it is wanted; but a client that cannot send all it has may never look at the answer.
                let sent = async { while body.frame().await.is_some_and(|frame| frame.is_ok()) {} };
                let _ = timeout(HEAD_PATIENCE, sent).await;
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .title_case_headers(true)
        .max_buf_size(HELD)
        .header_read_timeout(HEAD_PATIENCE * 6)
        .serve_connection(TokioIo::new(stream), service);
    served.await.map_err(io::Error::other)
}

/// Reads until the head of a request is whole, or too large. Ends early where the stream does.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(4096);
    while head.len() < HELD {
        let searched = head.len().saturating_sub(3);
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
        let new = &head[searched..];
        if memchr::memmem::find(new, b"\n\r\n").is_some() || memchr::memmem::find(new, b"\n\n").is_some() {
            break;
        }
    }
    Ok(head)
}

/// What a request is told that hyper would refuse without a word: the type of the body, and the body.
fn refusal(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let too_long = Some(("application/json", "{\"message\":\"the request is too long\"}\n"));
    let line = memchr::memchr(b'\n', head).unwrap_or(head.len());
    if line > REQUEST_LINE || head.len() >= HELD {
        return too_long;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Err(httparse::Error::TooManyHeaders) => too_long,
        Ok(_) if request.path.is_none_or(|path| path.parse::<Uri>().is_ok()) => None,
        // As an engine says it.
        Ok(_) | Err(_) => Some(("text/plain; charset=utf-8", "400 Bad Request")),
    }
}

/// A request that is refused is read to its end all the same, so that the answer can be.
async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), kind: &str, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 400 Bad Request\r\nContent-Type: {kind}\r\nConnection: close\r\n");
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    stream.shutdown().await?;
    let drain = async {
        let mut block = vec![0; 64 * 1024];
        while stream.read(&mut block).await.is_ok_and(|read| read > 0) {}
    };
    let _ = timeout(Duration::from_secs(2), drain).await;
    Ok(())
}

/// A stream whose head was read already, and that does not wait for ever for a client that takes nothing.
struct Patient<S> {
    head: Bytes,
    stream: S,
    /// Runs while something waits to be taken.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Told when all is written.
    flushed: Arc<Notify>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let taken = self.head.len().min(into.remaining());
        into.put_slice(&self.head.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_too_long(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.flushed.notify_waiters();
        }
        self.or_too_long(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.or_too_long(cx, shut)
    }
}

impl<S> Patient<S> {
    fn or_too_long<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        let until = Instant::now() + TAKING_PATIENCE;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(waiting.as_mut().poll(cx));
        let seconds = TAKING_PATIENCE.as_secs();
        tracing::warn!("a client took nothing of what waited for it for {seconds} s: it is cut off");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_is_waited_for_ten_seconds() {
        let (mut client, stream) = tokio::io::duplex(64);
        let answered = Arc::new(AtomicUsize::new(0));
        let count = answered.clone();
        let answers: Arc<Answers> = Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Response::new(Answer::Whole(Bytes::new().into()))
        });
        let begin = Instant::now();
        let conversation = tokio::spawn(async move { (converse(stream, answers).await, begin.elapsed()) });
        let sending = tokio::spawn(async move {
            // Each byte is one more, and none is the last.
            while client.write_all(b"G").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let (ended, taken) = timeout(HEAD_PATIENCE * 2, conversation).await.expect("it is cut off").unwrap();
        assert_eq!((ended.unwrap_err().kind(), taken), (io::ErrorKind::TimedOut, HEAD_PATIENCE));
        sending.await.unwrap();
        assert_eq!(answered.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_off_and_who_is_slow_is_not() {
        let (mut client, stream) = tokio::io::duplex(64);
        let mut patient = Patient { head: Bytes::new(), stream, waiting: None, flushed: Arc::default() };
        let begin = Instant::now();
        let slow = tokio::spawn(async move {
            let mut some = [0; 64];
            for _ in 0..10 {
                sleep(TAKING_PATIENCE - Duration::from_secs(1)).await;
                client.read_exact(&mut some).await.unwrap();
            }
            client
        });
        patient.write_all(&[7; 64 * 11]).await.unwrap();
        let _client = slow.await.unwrap();
        assert_eq!(begin.elapsed(), (TAKING_PATIENCE - Duration::from_secs(1)) * 10);
        let begin = Instant::now();
        let cut = timeout(TAKING_PATIENCE * 2, patient.write_all(&[7])).await.expect("it is cut off").unwrap_err();
        assert_eq!((cut.kind(), begin.elapsed().as_secs()), (io::ErrorKind::TimedOut, TAKING_PATIENCE.as_secs()));
    }
}
