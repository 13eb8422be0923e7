//! A page on which an engine counts its events, as dockerd's `metrics-addr`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What stands on the page; it is gone when this is dropped.
pub(crate) struct Counter {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    counted: AtomicU64,
    asked: AtomicU64,
    over: AtomicBool,
}

impl Counter {
    pub(crate) fn start() -> Counter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let shared = Arc::new(Shared::default());
        let page = shared.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if page.over.load(Ordering::SeqCst) {
                    return;
                }
                let _ = answer(&connection, &page);
            }
        });
        Counter { url, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// So many events more.
    pub(crate) fn counts(&self, events: u64) {
        self.shared.counted.fetch_add(events, Ordering::SeqCst);
    }

    /// How often the page was read.
    pub(crate) fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn answer(mut connection: &TcpStream, page: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    assert!(request.starts_with("GET /metrics "), "{request}");
    let body = format!(
        "# HELP engine_daemon_events_total The number of events logged\n\
         # TYPE engine_daemon_events_total counter\n\
         engine_daemon_events_total {}\n",
        page.counted.load(Ordering::SeqCst)
    );
    page.asked.fetch_add(1, Ordering::SeqCst);
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
