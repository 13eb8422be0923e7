//! A metrics page with the event counter of an engine, as dockerd serves it at `metrics-addr`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Server of the metrics page; stops on drop.
pub(crate) struct MetricsServer {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    events_total: AtomicU64,
    requests: AtomicU64,
    stopped: AtomicBool,
}

impl MetricsServer {
    pub(crate) fn start() -> MetricsServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("the listener is bound"));
        let shared = Arc::new(Shared::default());
        let state = shared.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if state.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let _ = respond(&connection, &state);
            }
        });
        MetricsServer { url, shared }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Increases the counter.
    pub(crate) fn add_events(&self, events: u64) {
        self.shared.events_total.fetch_add(events, Ordering::SeqCst);
    }

    /// Number of requests for the page.
    pub(crate) fn request_count(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

fn respond(mut connection: &TcpStream, state: &Shared) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    assert!(request.starts_with("GET /metrics "), "{request}");
    let body = format!(
        "# HELP engine_daemon_events_total The number of events logged\n\
         # TYPE engine_daemon_events_total counter\n\
         engine_daemon_events_total {}\n",
        state.events_total.load(Ordering::SeqCst)
    );
    state.requests.fetch_add(1, Ordering::SeqCst);
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
