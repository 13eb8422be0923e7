//! Tells the service manager how the recorder is doing, as systemd wants it (sd_notify(3)): READY once the store is open
//! and an engine was tried, STATUS, WATCHDOG while the writer moves, STOPPING.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::watched::Watched;

/// How often it is looked whether there is something to tell.
const TICK: Duration = Duration::from_secs(1);

/// A line of status is told no sooner after another, unless an engine came or went.
const STATUS: Duration = Duration::from_secs(10);

/// Who started the recorder as a service, if anybody did.
#[derive(Clone, Debug, Default)]
pub struct Service {
    manager: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// So often it wants to hear that all is well.
    watchdog: Option<Duration>,
}

impl Service {
    /// As the environment tells.
    pub fn of(env: impl Fn(&str) -> Option<String>) -> Service {
        let Some(name) = env("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Service::default() };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        let manager = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not listen should not keep the streams from being read.
            socket.set_nonblocking(true)?;
            Ok(Arc::new((socket, address)))
        });
        let manager = manager.inspect_err(|e| tracing::warn!("cannot tell {name} how the service is doing: {e}")).ok();
        let ours = env("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let every = env("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|every| ours && *every > 0);
        Service { manager, watchdog: every.map(Duration::from_micros) }
    }

    /// The recorder is about to end.
    pub(super) fn is_stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=storing what was read");
    }

    /// Tells how it is doing, for as long as it is polled.
    pub(super) async fn attend(&self, watched: &Watched) {
        if self.manager.is_none() {
            return;
        }
        let tick = self.watchdog.map_or(TICK, |every| TICK.min(every / 2));
        let mut ready = false;
        let mut said = (String::new(), Instant::now());
        let mut alive: Option<Instant> = None;
        loop {
            let line = watched.line();
            if !ready && watched.board.was_tried() {
                ready = self.tell(&format!("READY=1\nSTATUS={line}"));
                said = (line, Instant::now());
            } else if ready && said.0 != line && (engines(&said.0) != engines(&line) || said.1.elapsed() >= STATUS) {
                self.tell(&format!("STATUS={line}"));
                said = (line, Instant::now());
            }
            if let Some(every) = self.watchdog
                && alive.is_none_or(|at| at.elapsed() + tick > every / 2)
                && watched.moves(every).is_ok()
                && self.tell("WATCHDOG=1")
            {
                alive = Some(Instant::now());
            }
            sleep(tick).await;
        }
    }

    /// Whether the manager was told.
    fn tell(&self, text: &str) -> bool {
        let Some(manager) = &self.manager else { return false };
        let (socket, address) = &**manager;
        let sent = socket.send_to_addr(text.as_bytes(), address);
        sent.inspect_err(|e| tracing::debug!("cannot tell the service manager {text:?}: {e}")).is_ok()
    }
}

/// How many engines are connected, by a line of status.
fn engines(line: &str) -> Option<&str> {
    line.split(' ').next()
}
