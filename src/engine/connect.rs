//! Opens one connection to an engine, over a unix socket, TCP, TLS or ssh.
//!
//! Handles bytes only, without access to HTTP.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use hyperlocal::UnixConnector;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tower_service::Service;

use super::host::{Endpoint, Host};
use super::tls;

/// TCP keep-alive, which finds a peer that disappeared within a minute.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(20)).with_interval(Duration::from_secs(10)).with_retries(3);

/// Limit for unacknowledged data. TCP keep-alive starts only when all sent data is acknowledged.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(50);

/// Bidirectional byte stream to an engine. Each kind of connection implements it.
pub(super) trait Socket: Read + Write + Send + Unpin {}
impl<T: Read + Write + Send + Unpin> Socket for T {}

/// Error of the transport, TLS or ssh: it could not connect, or the other side rejected the connection.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct TransportError {
    reason: String,
    hint: &'static str,
}

impl TransportError {
    /// Creates an error from its reason and hint. An empty hint means none.
    pub(super) fn new(reason: String, hint: &'static str) -> TransportError {
        TransportError { reason, hint }
    }

    /// Hint for the user.
    pub(super) fn hint(&self) -> Option<String> {
        Some(self.hint.to_owned()).filter(|hint| !hint.is_empty())
    }

    /// Finds the transport error among the causes of an error.
    pub(super) fn find_in(error: &(dyn Error + 'static)) -> Option<TransportError> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                let found = io.get_ref().and_then(|inner| inner.downcast_ref::<TransportError>());
                return found.cloned().or_else(|| tls::transport_error(io));
            }
            next = error.source();
        }
        None
    }
}

/// Opens a new connection.
///
/// A unix socket is opened by its path each time, because a restarted engine binds a new socket.
pub(super) async fn connect(target: &Host) -> io::Result<Box<dyn Socket>> {
    match &target.endpoint {
        Endpoint::Unix(path) => connect_unix(path.clone()).await,
        Endpoint::Tcp { host, port } => {
            let stream = connect_tcp(host, *port).await?;
            Ok(match &target.tls {
                None => Box::new(TokioIo::new(stream)),
                Some(tls) => Box::new(TokioIo::new(tls.connect(stream, host).await?)),
            })
        }
        Endpoint::Ssh(ssh) => Ok(Box::new(TokioIo::new(ssh.dial(&target.processes)?))),
    }
}

async fn connect_unix(path: PathBuf) -> io::Result<Box<dyn Socket>> {
    let uri: hyper::Uri = hyperlocal::Uri::new(path, "/").into();
    Ok(Box::new(UnixConnector.call(uri).await?))
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(stream)
}
