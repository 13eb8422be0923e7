//! A way to an engine over TCP that can go dead.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// While it is dead connections stay open and are taken, and nothing comes any more.
pub(crate) struct Line {
    port: u16,
    dead: Arc<AtomicBool>,
}

impl Line {
    /// A line to wherever each connection is to end.
    pub(crate) fn to<End: Ending>(reach: impl Fn() -> io::Result<End> + Send + 'static) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, dead) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let line = dead.clone();
        std::thread::spawn(move || {
            // What goes dead stays open, for ever.
            for caller in listener.incoming().map_while(Result::ok) {
                let Ok(engine) = reach() else { continue };
                let (there, back) = (caller.another().unwrap(), engine.another().unwrap());
                forward(caller, engine, line.clone());
                forward(back, there, line.clone());
            }
        });
        Line { port, dead }
    }

    pub(crate) fn host(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    pub(crate) fn goes_dead(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// For new connections; those that were open stay dead.
    pub(crate) fn comes_back(&self) {
        self.dead.store(false, Ordering::SeqCst);
    }
}

/// A connection that can be ended from either side.
pub(crate) trait Ending: Read + Write + Send + Sized + 'static {
    fn another(&self) -> io::Result<Self>;
    fn ends(&self);
}

impl Ending for TcpStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn ends(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Ending for UnixStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }

    fn ends(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

fn forward(mut from: impl Ending, mut to: impl Ending, dead: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut block = [0; 4096];
        loop {
            let read = from.read(&mut block).unwrap_or(0);
            // A connection that was open while the line was dead never says anything again.
            if dead.load(Ordering::SeqCst) {
                std::mem::forget((from, to));
                return;
            }
            if read == 0 || to.write_all(&block[..read]).is_err() {
                return to.ends();
            }
        }
    });
}
