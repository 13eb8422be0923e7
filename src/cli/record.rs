//! `events record`: reads the streams of engines and stores their events until it is stopped.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::{FilterArgs, HostArgs, RedactionArgs, RetentionArgs, parse_size};
use super::{Failure, Shared, runtime};
use crate::clock::now_nano;
use crate::engine::{Host, MetricsEndpoint};
use crate::http::Address;
use crate::query::time;
use crate::recorder::{Config, DEFAULT_PING_INTERVAL, Notifier, Recorder, Telemetry, Until};
use crate::store::{DEFAULT_MAX_REJECTED, Limits};

/// Arguments of `record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    hosts: HostArgs,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten, next_help_heading = "Recording options")]
    redact: RedactionArgs,
    /// Stop at this time; `now` stores the backlog and stops
    ///
    /// Takes the same formats as `events query --until`. A negative duration is in the future: `--until=-1h`.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, help_heading = "Recording options")]
    until: Option<String>,
    /// Interval of the backlog check, which finds events missing from the stream
    ///
    /// For example 30s; 0 disables the check.
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Recording options")]
    look_again: String,
    /// URL of dockerd's metrics, to detect dropped events; repeatable
    ///
    /// http://host:port, as set by `metrics-addr` in daemon.json. With several hosts, NAME=URL for the host of that name.
    #[arg(long, value_name = "URL", help_heading = "Recording options")]
    engine_metrics: Vec<String>,
    /// Memory limit for events that are read but not yet stored
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Recording options")]
    buffer: String,
    /// Maximum length of an event; longer lines are rejected
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Recording options")]
    max_event: String,
    /// Maximum number of rejected lines to store for each engine
    ///
    /// Further rejected lines are only counted.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_REJECTED, help_heading = "Recording options")]
    rejected_limit: u64,
    #[command(flatten)]
    retention: RetentionArgs,
    /// Serve Prometheus metrics and health checks on this address
    ///
    /// tcp://127.0.0.1:9324 or unix:///path. The paths are /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS", help_heading = "Monitoring options")]
    metrics: Option<Address>,
    /// Allow other machines to read `--metrics`
    #[arg(long, requires = "metrics", help_heading = "Monitoring options")]
    allow_remote: bool,
}

pub(super) fn run(shared: &Shared, args: &Args) -> Result<(), Failure> {
    let config = args.config(shared.db_path()?)?;
    shared.create_default_dir()?;
    let runtime = runtime::current_thread()?;
    runtime.block_on(async {
        let signal_error = |e| Failure::failed(format!("cannot listen for signals: {e}"));
        let mut sigterm = signal(SignalKind::terminate()).map_err(signal_error)?;
        let mut sigint = signal(SignalKind::interrupt()).map_err(signal_error)?;
        let shutdown = CancellationToken::new();
        let stop = async {
            tokio::select! {
                _ = sigterm.recv() => {}
                _ = sigint.recv() => {}
            }
            shutdown.cancel();
            std::future::pending().await
        };
        tokio::select! {
            summary = Recorder::run(config, shutdown.clone()) => summary.map(|_| ()).map_err(Failure::from),
            never = stop => never,
        }
    })
}

impl Args {
    fn config(&self, path: PathBuf) -> Result<Config, Failure> {
        let until = match self.until.as_deref() {
            None => Until::Stopped,
            Some("now") => Until::BacklogRead,
            Some(text) => {
                let now = now_nano();
                let instant = time::parse_time(text, now)?;
                if instant <= now {
                    let hint = match time::parse_duration(text) {
                        Ok(_) => format!("use --until=-{text} for a time in the future, or `now` to"),
                        Err(_) => "use `now` to".into(),
                    };
                    return Err(Failure::usage(format!("--until {text} is in the past"))
                        .hint(format!("{hint} record the backlog and stop")));
                }
                Until::Instant(instant)
            }
        };
        let backlog_check_interval =
            Some(time::parse_duration(&self.look_again)?).filter(|interval| !interval.is_zero());
        let hosts = self.hosts.resolve()?;
        let engine_metrics = self.parse_engine_metrics(&hosts)?;
        if backlog_check_interval.is_none() && !engine_metrics.is_empty() {
            return Err(Failure::usage("--engine-metrics needs the backlog check, which --look-again 0 turns off")
                .hint("omit --look-again or --engine-metrics"));
        }
        Ok(Config {
            telemetry: Telemetry {
                metrics_address: self.metrics_address()?,
                notifier: Notifier::from_env(|name| std::env::var(name).ok()),
            },
            hosts,
            engine_metrics,
            path,
            selection: self.filters.selection()?,
            redaction: self.redact.redaction()?,
            until,
            backlog_check_interval,
            ping_interval: DEFAULT_PING_INTERVAL,
            buffer: parse_size("--buffer", &self.buffer)?,
            max_event: parse_size("--max-event", &self.max_event)?,
            limits: Limits { max_rejected: self.rejected_limit, retention: self.retention.retention()? },
        })
    }

    fn metrics_address(&self) -> Result<Option<Address>, Failure> {
        match &self.metrics {
            Some(address) if !address.is_local() && !self.allow_remote => Err(Failure::usage(format!(
                "--metrics {address} can be reached from other machines without authentication"
            ))
            .hint("pass --allow-remote to allow it")),
            address => Ok(address.clone()),
        }
    }

    /// Assigns the metrics pages to the hosts, by index.
    fn parse_engine_metrics(&self, hosts: &[Host]) -> Result<BTreeMap<usize, MetricsEndpoint>, Failure> {
        let mut metrics = BTreeMap::new();
        for text in &self.engine_metrics {
            let page: MetricsEndpoint = text.parse()?;
            let host = match &page.name {
                Some(name) => hosts.iter().position(|host| host.name.as_ref() == Some(name)),
                None => (hosts.len() == 1).then_some(0),
            };
            let host = host.ok_or_else(|| match &page.name {
                Some(name) => Failure::usage(format!("--engine-metrics {text}: no host has the name {name}"))
                    .hint(format!("name the host with -H {name}=URL")),
                None => Failure::usage(format!(
                    "--engine-metrics {text}: with {} hosts, the URL needs the name of its host",
                    hosts.len()
                ))
                .hint(format!("write NAME={text}, and name the host with -H NAME=URL")),
            })?;
            if metrics.insert(host, page).is_some() {
                return Err(Failure::usage(format!("--engine-metrics {text}: the host already has a metrics URL")));
            }
        }
        Ok(metrics)
    }
}
