//! Notifies systemd about the recorder (sd_notify(3)): READY once the store is open and an engine has been tried,
//! STATUS, WATCHDOG while the writer makes progress, and STOPPING.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::health::Health;

/// Interval between checks for something to send.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum interval between status lines, unless an engine connects or disconnects.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Connection to the service manager that started the recorder, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    manager: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// Time without a WATCHDOG message after which the manager restarts the service.
    watchdog_interval: Option<Duration>,
}

impl Notifier {
    /// Creates the notifier from the variables that a service manager sets.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Notifier {
        let Some(name) = env("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Notifier::default() };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        let manager = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not block the streams.
            socket.set_nonblocking(true)?;
            Ok(Arc::new((socket, address)))
        });
        let manager = manager.inspect_err(|e| tracing::warn!("cannot notify the service manager at {name}: {e}")).ok();
        let is_for_us = env("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let interval = env("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|every| is_for_us && *every > 0);
        Notifier { manager, watchdog_interval: interval.map(Duration::from_micros) }
    }

    /// Notifies the manager that the recorder stops.
    pub(in crate::recorder) fn notify_stopping(&self) {
        self.notify("STOPPING=1\nSTATUS=storing the remaining events");
    }

    /// Sends status lines and watchdog messages. Never returns if there is a manager.
    pub(in crate::recorder) async fn run(&self, health: &Health) {
        if self.manager.is_none() {
            return;
        }
        let tick = self.watchdog_interval.map_or(POLL_INTERVAL, |every| POLL_INTERVAL.min(every / 2));
        let mut is_ready = false;
        let mut last_status = (String::new(), Instant::now());
        let mut last_ping: Option<Instant> = None;
        loop {
            let status_line = health.summary();
            if !is_ready && health.status.has_attempted() {
                is_ready = self.notify(&format!("READY=1\nSTATUS={status_line}"));
                last_status = (status_line, Instant::now());
            } else if is_ready
                && last_status.0 != status_line
                && (connected_engines(&last_status.0) != connected_engines(&status_line)
                    || last_status.1.elapsed() >= STATUS_INTERVAL)
            {
                self.notify(&format!("STATUS={status_line}"));
                last_status = (status_line, Instant::now());
            }
            if let Some(interval) = self.watchdog_interval
                && last_ping.is_none_or(|at| at.elapsed() + tick > interval / 2)
                && health.check_writer(interval).is_ok()
                && self.notify("WATCHDOG=1")
            {
                last_ping = Some(Instant::now());
            }
            sleep(tick).await;
        }
    }

    /// Sends a message. Returns true if it was sent.
    fn notify(&self, text: &str) -> bool {
        let Some(manager) = &self.manager else { return false };
        let (socket, address) = &**manager;
        let sent = socket.send_to_addr(text.as_bytes(), address);
        sent.inspect_err(|e| tracing::debug!("cannot send {text:?} to the service manager: {e}")).is_ok()
    }
}

/// Returns the number of connected engines in a status line.
fn connected_engines(line: &str) -> Option<&str> {
    line.split(' ').next()
}
