//! A TCP proxy to an engine that can drop all traffic.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A TCP proxy. While it is a black hole, it accepts connections and keeps them open, but forwards nothing.
pub(crate) struct TcpProxy {
    port: u16,
    is_blackholed: Arc<AtomicBool>,
}

impl TcpProxy {
    /// Starts a proxy that forwards each connection to a new one of `connect`.
    pub(crate) fn start<Upstream: ProxyStream>(
        connect: impl Fn() -> io::Result<Upstream> + Send + 'static,
    ) -> TcpProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, is_blackholed) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let blackhole_flag = is_blackholed.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(engine) = connect() else { continue };
                let (client_writer, engine_reader) = (client.duplicate().unwrap(), engine.duplicate().unwrap());
                forward(client, engine, blackhole_flag.clone());
                forward(engine_reader, client_writer, blackhole_flag.clone());
            }
        });
        TcpProxy { port, is_blackholed }
    }

    pub(crate) fn host(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    pub(crate) fn blackhole(&self) {
        self.is_blackholed.store(true, Ordering::SeqCst);
    }

    /// Forwards new connections again. Connections that were open stay dead.
    pub(crate) fn restore(&self) {
        self.is_blackholed.store(false, Ordering::SeqCst);
    }
}

/// A connection whose write direction can be closed.
pub(crate) trait ProxyStream: Read + Write + Send + Sized + 'static {
    fn duplicate(&self) -> io::Result<Self>;
    fn shutdown_write(&self);
}

impl ProxyStream for TcpStream {
    fn duplicate(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn shutdown_write(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl ProxyStream for UnixStream {
    fn duplicate(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn shutdown_write(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

fn forward(mut from: impl ProxyStream, mut to: impl ProxyStream, is_blackholed: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            // A connection that was open during the black hole stays open and never forwards anything again.
            if is_blackholed.load(Ordering::SeqCst) {
                std::mem::forget((from, to));
                return;
            }
            if read == 0 || to.write_all(&buffer[..read]).is_err() {
                return to.shutdown_write();
            }
        }
    });
}
