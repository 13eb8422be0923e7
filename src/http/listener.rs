//! Listens on Unix sockets, TCP and TLS, and accepts connections up to a maximum number.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::address::Address;
use super::guard::{self, REQUEST_HEAD_TIMEOUT, RequestHandler, ResponseBody, Stream};
use crate::engine::{TlsError, tls};

/// TCP keepalive, with the intervals of an engine.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(15)).with_retries(9);

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
pub(crate) fn listen<B: ResponseBody>(
    address: &Address,
    tls: Option<Tls>,
    max_connections: usize,
    handler: Arc<RequestHandler<B>>,
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

async fn accept<B: ResponseBody>(
    listener: &Listener,
    tls: Option<Tls>,
    max_connections: usize,
    handler: Arc<RequestHandler<B>>,
) {
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

async fn handle_connection<B: ResponseBody>(
    stream: Box<dyn Stream>,
    tls: Option<Tls>,
    handler: Arc<RequestHandler<B>>,
) -> io::Result<()> {
    match tls {
        None => guard::serve_connection(stream, handler).await,
        Some(Tls(acceptor)) => {
            let stream = timeout(REQUEST_HEAD_TIMEOUT, acceptor.accept(stream)).await??;
            guard::serve_connection(stream, handler).await
        }
    }
}
