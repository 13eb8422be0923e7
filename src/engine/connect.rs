//! One connection to an engine, whatever it goes over.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use hyperlocal::UnixConnector;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tower_service::Service;

use super::Endpoint;

/// A peer that is gone without a word is found within a minute.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(20)).with_interval(Duration::from_secs(10)).with_retries(3);

/// The same where something was sent: keep-alive only begins when all is acknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(50);

/// Bytes both ways. Other ways to an engine join here by being one too.
pub(super) trait Socket: Read + Write + Send + Unpin {}
impl<T: Read + Write + Send + Unpin> Socket for T {}

/// Opens a new connection. A unix socket is opened by its path each time: the engine binds a new one when it starts.
pub(super) async fn connect(endpoint: &Endpoint) -> io::Result<Box<dyn Socket>> {
    match endpoint {
        Endpoint::Unix(path) => connect_unix(path.clone()).await,
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let socket = SockRef::from(&stream);
            socket.set_tcp_keepalive(&KEEPALIVE)?;
            socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
            Ok(Box::new(TokioIo::new(stream)))
        }
    }
}

async fn connect_unix(path: PathBuf) -> io::Result<Box<dyn Socket>> {
    let uri: hyper::Uri = hyperlocal::Uri::new(path, "/").into();
    Ok(Box::new(UnixConnector.call(uri).await?))
}
