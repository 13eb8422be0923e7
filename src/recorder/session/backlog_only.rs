//! A session that reads only the backlog, for `--until now`: fetch the backlog, ask for the containers of its exec
//! events, deliver, report on the gap, end.

use std::time::{Duration, Instant};

use super::{Action, Input, Now, Phase, Session, SessionEnd, SessionStart};
use crate::engine::EngineError;
use crate::recorder::backlog::Backlog;

/// Time limit for requests about containers.
const CONTAINERS_TIMEOUT: Duration = Duration::from_secs(20);

/// Progress of the session.
#[derive(Debug)]
pub(super) struct BacklogOnly {
    stage: Stage,
    /// Error if the backlog did not end.
    incomplete: Option<EngineError>,
}

#[derive(Debug)]
enum Stage {
    /// The backlog was requested.
    Fetching,
    /// The containers were requested.
    Inspecting { backlog: Box<Backlog>, deadline: Instant },
    /// The events were delivered.
    Delivering,
    /// The gap report was requested.
    Reporting { deadline: Instant },
    /// The report was delivered.
    Finishing,
}

impl BacklogOnly {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Inspecting { deadline, .. } | Stage::Reporting { deadline } => Some(deadline),
            Stage::Fetching | Stage::Delivering | Stage::Finishing => None,
        }
    }
}

impl Session {
    /// Starts a session that reads only the backlog.
    pub(in crate::recorder) fn backlog_only(start: SessionStart, now: Now) -> Session {
        let backlog_only = Some(BacklogOnly { stage: Stage::Fetching, incomplete: None });
        Session { backlog_only, ..Session::new(start, now) }
    }

    pub(super) fn on_backlog_only_input(&mut self, input: Input) {
        match input {
            Input::Backlog(reply) => match reply.backlog {
                Ok(backlog) => self.inspect_containers(backlog),
                Err(e) => self.end(Err(e)),
            },
            Input::Container(reply) => {
                self.engine.healthcheck_gate.on_reply(reply);
                self.request_containers();
                if self.engine.healthcheck_gate.has_all_replies() {
                    self.deliver_inspected();
                }
            }
            Input::GapReport(reply) => {
                self.set_stage(Stage::Finishing);
                self.on_gap_report(*reply);
                if self.actions.is_empty() {
                    self.complete();
                }
            }
            Input::DeadlineReached if self.is_inspecting() => {
                tracing::debug!("requests about the containers of {} timed out", self.source.name);
                self.deliver_inspected();
            }
            Input::DeadlineReached => self.complete(),
            // Nothing else was requested.
            _ => {}
        }
    }

    /// Requests the configuration of the containers that have exec events.
    fn inspect_containers(&mut self, mut backlog: Backlog) {
        let incomplete = backlog.incomplete.take();
        self.engine.healthcheck_gate.request_containers(&backlog.events);
        let deadline = self.now.instant + CONTAINERS_TIMEOUT;
        let stage = Stage::Inspecting { backlog: Box::new(backlog), deadline };
        self.backlog_only = Some(BacklogOnly { stage, incomplete });
        self.request_containers();
        if self.engine.healthcheck_gate.has_all_replies() {
            self.deliver_inspected();
        }
    }

    fn is_inspecting(&self) -> bool {
        matches!(self.backlog_only, Some(BacklogOnly { stage: Stage::Inspecting { .. }, .. }))
    }

    fn set_stage(&mut self, stage: Stage) -> Option<Stage> {
        self.backlog_only.as_mut().map(|progress| std::mem::replace(&mut progress.stage, stage))
    }

    /// Determines the outcome, and delivers the backlog.
    fn deliver_inspected(&mut self) {
        if !self.is_inspecting() {
            return;
        }
        let Some(Stage::Inspecting { backlog, .. }) = self.set_stage(Stage::Delivering) else { return };
        let Phase::Opening(opening) = &mut self.phase else { return };
        let last_seen = self.engine.last_seen;
        let known_index = backlog.identities.iter().position(|identity| Some(*identity) == last_seen);
        backlog.identities.iter().for_each(|identity| opening.record_event(*identity));
        if let Some(last) = backlog.identities.last() {
            self.outbox.set_last_event(*last);
        }
        opening.record_backlog(backlog.identities, true, self.now.instant);
        self.outbox.prepend_backlog(&mut self.engine.healthcheck_gate, backlog.events, known_index, true);
        backlog.rejected.into_iter().for_each(|rejected| self.outbox.add_rejected(rejected));
        self.conclude();
        let delivery = self.outbox.take(&mut self.engine.healthcheck_gate, self.now);
        if delivery.is_empty() {
            self.request_report();
        } else {
            self.deliver(delivery);
        }
    }

    fn request_report(&mut self) {
        self.set_stage(Stage::Reporting { deadline: self.now.instant + CONTAINERS_TIMEOUT });
        self.actions.push(Action::ReportGap(self.engine.pending_gap.clone()));
    }

    /// Goes on after a delivery was queued.
    pub(super) fn on_backlog_only_queued(&mut self) {
        match self.backlog_only.as_ref().map(|progress| &progress.stage) {
            Some(Stage::Delivering) => self.request_report(),
            Some(Stage::Finishing) => self.complete(),
            _ => {}
        }
    }

    fn complete(&mut self) {
        let incomplete = self.backlog_only.as_mut().and_then(|progress| progress.incomplete.take());
        self.end(incomplete.map_or(Ok(SessionEnd::Completed), Err));
    }
}
