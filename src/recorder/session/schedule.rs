//! The requests that a session sends at certain times: the engine's version and clock, pings, and gap reports.

use std::time::{Duration, Instant};

use super::{Action, Session};
use crate::engine::{EngineError, EngineInfo};
use crate::error::chain;
use crate::recorder::clock_skew::{self, Skew};
use crate::recorder::config::Config;
use crate::store::Delivery;

/// Delay from opening the stream to requesting the engine's version. If the stream ends immediately, no request is
/// needed.
const SETTLE_DELAY: Duration = Duration::from_millis(300);

/// Interval between checks whether the stored list of containers is too old.
const CONTAINER_REFRESH_INTERVAL: Duration = Duration::from_secs(3600);

/// Number of consecutive failed pings after which the engine counts as lost.
const MAX_FAILED_PINGS: u32 = 2;

/// Times of the requests of a session.
#[derive(Debug)]
pub(super) struct Schedule {
    version_at: Option<Instant>,
    clock_at: Option<Instant>,
    ping_at: Option<Instant>,
    ping_interval: Duration,
    failed_pings: u32,
    /// True if a gap report is due.
    is_report_due: bool,
    /// True while a gap report is being created.
    is_report_pending: bool,
    containers_requested_at: Instant,
}

impl Schedule {
    /// Creates the schedule of a session that starts at `now`.
    ///
    /// The backlog check finds a dead engine too. Pings are for recordings in which that check is off or rare.
    pub(super) fn new(config: &Config, now: Instant) -> Schedule {
        let has_frequent_checks = config.backlog_check_interval.is_some_and(|every| every <= config.ping_interval);
        Schedule {
            version_at: Some(now + SETTLE_DELAY),
            clock_at: None,
            ping_at: (!has_frequent_checks).then(|| now + config.ping_interval),
            ping_interval: config.ping_interval,
            failed_pings: 0,
            is_report_due: false,
            is_report_pending: false,
            containers_requested_at: now,
        }
    }

    /// Returns the times at which something is due.
    pub(super) fn deadlines(&self) -> [Option<Instant>; 3] {
        [self.version_at, self.clock_at, self.ping_at]
    }

    /// Returns the requests that are due.
    pub(super) fn due_requests(&mut self, now: Instant) -> impl Iterator<Item = Action> {
        let take_due = |at: &mut Option<Instant>, action| at.take_if(|at| *at <= now).map(|_| action);
        let due = [
            take_due(&mut self.version_at, Action::FetchVersion),
            take_due(&mut self.clock_at, Action::CompareClocks),
            take_due(&mut self.ping_at, Action::Ping),
        ];
        due.into_iter().flatten()
    }

    /// Makes a gap report due.
    pub(super) fn set_report_due(&mut self) {
        self.is_report_due = true;
    }

    /// Makes a gap report due if the last one was long ago. It renews the list of containers.
    pub(super) fn refresh_containers(&mut self, now: Instant) {
        self.is_report_due |= now.saturating_duration_since(self.containers_requested_at) > CONTAINER_REFRESH_INTERVAL;
    }

    /// Returns true if a gap report must be created now.
    pub(super) fn take_due_report(&mut self, now: Instant) -> bool {
        if !self.is_report_due || self.is_report_pending {
            return false;
        }
        (self.is_report_due, self.is_report_pending, self.containers_requested_at) = (false, true, now);
        true
    }

    /// Records that the gap report is ready.
    pub(super) fn set_report_answered(&mut self) {
        self.is_report_pending = false;
    }
}

impl Session {
    pub(super) fn on_version(&mut self, reply: Result<String, EngineError>) {
        self.schedule.clock_at = Some(self.now.instant + clock_skew::CHECK_INTERVAL);
        match reply {
            Ok(version) => {
                let delivery = Delivery { version: Some(version), ..self.outbox.empty_delivery(self.now) };
                self.actions.push(Action::DeliverIfRoom(Box::new(delivery)));
            }
            Err(e) => tracing::debug!("{}", chain(&e)),
        }
    }

    pub(super) fn on_clock(&mut self, reply: Result<(EngineInfo, Option<Skew>), EngineError>) {
        self.schedule.clock_at = Some(self.now.instant + clock_skew::CHECK_INTERVAL);
        match reply {
            Ok((info, Some(skew))) => {
                self.engine.skew_warning.update(&info.name, Some(skew));
                let delivery = Delivery { skew_nano: Some(skew.nano), ..self.outbox.empty_delivery(self.now) };
                self.actions.push(Action::DeliverIfRoom(Box::new(delivery)));
            }
            Ok((_, None)) => {}
            Err(e) => tracing::debug!("{}", chain(&e)),
        }
    }

    pub(super) fn on_pong(&mut self, reply: Result<(), EngineError>) {
        self.schedule.ping_at = Some(self.now.instant + self.schedule.ping_interval);
        match reply {
            Ok(()) => self.schedule.failed_pings = 0,
            Err(e) => {
                tracing::debug!("{}", chain(&e));
                self.schedule.failed_pings += 1;
                if self.schedule.failed_pings >= MAX_FAILED_PINGS {
                    self.end(Err(e));
                }
            }
        }
    }
}
