//! Prometheus metrics and health endpoints, served by `--metrics`.
//!
//! The recorder counts these values even without `--metrics`. Each request encodes a new page.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::health::Health;
use crate::clock::now_nano;
use crate::http::{Page, PageHandler};
use crate::store::{GapReason, Progress, SourceCounters};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Time limit for one attempt to write. If the store is locked, an attempt gives up after a few seconds.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the handler of all pages.
pub(in crate::recorder) fn pages(health: Arc<Health>) -> Arc<PageHandler> {
    Arc::new(move |path, accepted| {
        let response = |result: Result<(), String>| Page {
            healthy: result.is_ok(),
            content_type: PLAIN_TEXT,
            body: result.map_or_else(|reason| reason, |()| "ok".into()) + "\n",
        };
        Some(match path {
            "/metrics" => page(&health, prefers_openmetrics(accepted)),
            "/healthz" => response(health.check_writer(WRITE_TIMEOUT)),
            "/readyz" => response(health.check_ready()),
            _ => return None,
        })
    })
}

fn page(health: &Arc<Health>, openmetrics: bool) -> Page {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(RecorderMetrics(health.clone())));
    let mut page = String::new();
    let (kind, written) = if openmetrics {
        (OPENMETRICS, text::encode(&mut page, &registry))
    } else {
        (prometheus_text::CONTENT_TYPE, prometheus_text::encode(&mut page, &registry))
    };
    written.expect("writing to a String does not fail");
    Page { healthy: true, content_type: kind, body: page }
}

/// Returns true if an `Accept` header prefers OpenMetrics to Prometheus' older text format.
fn prefers_openmetrics(accepted: &str) -> bool {
    let quality = |media_type: &str| {
        let ranges = accepted.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_match = parts.next()?.eq_ignore_ascii_case(media_type);
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            is_match.then_some(quality)
        });
        ranges.fold(0.0, f64::max)
    };
    let openmetrics = quality("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= quality("text/plain")
}

/// Collector that reads the figures when a page is requested.
#[derive(Debug)]
struct RecorderMetrics(Arc<Health>);

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for RecorderMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let health = &*self.0;
        let mut writer = MetricsWriter { encoder: &mut encoder };
        let labels = vec![("version", env!("CARGO_PKG_VERSION"))];
        writer.gauge("events_build_info", "Version of the recorder", None, [(labels, 1.0)])?;
        let started = health.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        writer.single_gauge(
            "process_start_time",
            "Start time of the recorder since the Unix epoch",
            Some(Unit::Seconds),
            started,
        )?;
        writer.sources(health)?;
        writer.store(health)
    }
}

/// Writer of the metrics of one page.
struct MetricsWriter<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl MetricsWriter<'_, '_> {
    fn sources(&mut self, health: &Health) -> fmt::Result {
        let all = health.counters.snapshot();
        let sources = || all.iter().map(|(name, counted)| (vec![("source", &**name)], counted));
        let per_source =
            |figure: fn(&SourceCounters) -> u64| sources().map(move |(labels, counted)| (labels, figure(counted)));
        let stored = sources().flat_map(|(labels, counted)| {
            counted.stored.iter().map(move |((kind, action), number)| {
                ([&labels[..], &[("type", &**kind), ("action", &**action)]].concat(), *number)
            })
        });
        self.counter("events_stored", "Events stored", stored)?;
        self.counter("events_known", "Events that arrived and were already stored", per_source(|it| it.duplicates))?;
        self.counter(
            "events_healed",
            "Events missing from the stream that the backlog check found",
            per_source(|it| it.recovered),
        )?;
        let help = "Health check events excluded by --no-healthchecks";
        self.counter("events_healthchecks_left_out", help, per_source(|it| it.excluded_healthchecks))?;
        self.counter("events_rejected", "Lines that were not events", per_source(|it| it.rejected))?;
        let reasons =
            GapReason::ALL.into_iter().filter(|reason| *reason != GapReason::Disconnected).map(GapReason::as_str);
        let gaps = sources().flat_map(|(labels, counted)| {
            let count = |reason| counted.gaps.get(reason).copied().unwrap_or(0);
            reasons.clone().map(move |reason| ([&labels[..], &[("reason", reason)]].concat(), count(reason)))
        });
        self.counter("events_gaps", "Gaps reported", gaps)?;
        let last = sources().filter_map(|(labels, counted)| Some((labels, counted.last_nano? as f64 / 1e9)));
        let help = "Time of the newest stored event, by the engine's clock";
        self.gauge("events_last_event_timestamp", help, Some(Unit::Seconds), last)?;
        let hosts = health.status.hosts();
        let connected = hosts.iter().map(|host| {
            let source = all.iter().find(|(_, it)| it.engine_id.is_some() && it.engine_id == host.engine_id);
            let source = source.map_or("", |(name, _)| name);
            (vec![("host", &*host.host), ("source", source)], bool_value(host.connected))
        });
        self.gauge("events_connected", "1 if the stream of the engine is open", None, connected)
    }

    fn store(&mut self, health: &Health) -> fmt::Result {
        let progress = health.progress();
        let Progress { events, bytes, oldest_nano, failing, .. } = progress.unwrap_or_default();
        let lag = oldest_nano.map_or(0.0, |read| (now_nano() - read).max(0) as f64 / 1e9);
        let help = "Time since the oldest unstored event was read; 0 if all are stored";
        self.single_gauge("events_lag", help, Some(Unit::Seconds), lag)?;
        let writable = bool_value(progress.is_some() && !failing);
        self.single_gauge("events_store_writable", "1 if the store is open and can be written", None, writable)?;
        let size = health.store_bytes() as f64;
        self.single_gauge("events_store_size", "Size of the store with its WAL", Some(Unit::Bytes), size)?;
        self.single_gauge("events_buffered", "Events read but not yet stored", None, events as f64)?;
        self.single_gauge(
            "events_buffer",
            "Memory used by events read but not yet stored",
            Some(Unit::Bytes),
            bytes as f64,
        )?;
        let limit = health.buffer_limit as f64;
        self.single_gauge(
            "events_buffer_limit",
            "Memory limit for events read but not yet stored",
            Some(Unit::Bytes),
            limit,
        )
    }

    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_counter::<Labels<'_>, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn single_gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
    }
}

fn bool_value(value: bool) -> f64 {
    f64::from(u8::from(value))
}

#[cfg(test)]
mod tests {
    use super::prefers_openmetrics;

    #[test]
    fn openmetrics_is_used_when_preferred() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert!(prefers_openmetrics(prometheus));
        assert!(prefers_openmetrics("Application/OpenMetrics-Text; version=1.0.0"));
        for accepted in [
            "",
            "*/*",
            "text/plain",
            "text/plain, application/openmetrics-text;q=0.9",
            "application/openmetrics-text;q=0",
        ] {
            assert!(!prefers_openmetrics(accepted), "{accepted}");
        }
    }
}
