//! One connection to an engine, whatever it goes over.

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

/// A peer that is gone without a word is found within a minute.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(20)).with_interval(Duration::from_secs(10)).with_retries(3);

/// The same where something was sent: keep-alive only begins when all is acknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(50);

/// Bytes both ways. Other ways to an engine join here by being one too.
pub(super) trait Socket: Read + Write + Send + Unpin {}
impl<T: Read + Write + Send + Unpin> Socket for T {}

/// What carries the bytes, TLS or ssh, did not get there or was sent away, and says why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Refusal {
    why: String,
    hint: &'static str,
}

impl Refusal {
    /// Why, and what to try; an empty hint is none.
    pub(super) fn new(why: String, hint: &'static str) -> Refusal {
        Refusal { why, hint }
    }

    /// What to try.
    pub(super) fn hint(&self) -> Option<String> {
        Some(self.hint.to_owned()).filter(|hint| !hint.is_empty())
    }

    /// The one behind an error, if there is one.
    pub(super) fn behind(error: &(dyn Error + 'static)) -> Option<Refusal> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                let own = io.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>());
                return own.cloned().or_else(|| tls::refusal(io));
            }
            next = error.source();
        }
        None
    }
}

/// Opens a new connection. A unix socket is opened by its path each time: the engine binds a new one when it starts.
pub(super) async fn connect(to: &Host) -> io::Result<Box<dyn Socket>> {
    match &to.endpoint {
        Endpoint::Unix(path) => connect_unix(path.clone()).await,
        Endpoint::Tcp { host, port } => {
            let stream = connect_tcp(host, *port).await?;
            Ok(match &to.tls {
                None => Box::new(TokioIo::new(stream)),
                Some(tls) => Box::new(TokioIo::new(tls.wrap(stream, host).await?)),
            })
        }
        Endpoint::Ssh(ssh) => Ok(Box::new(TokioIo::new(ssh.dial(&to.processes)?))),
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
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}
