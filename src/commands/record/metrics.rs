//! What Prometheus reads: `--metrics`. Every figure is one that is kept anyway; a page is made when it is asked for.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::watched::Watched;
use crate::commands::now_nano;
use crate::serve::{Page, Pages};
use crate::store::{Counted, Progress, Reason};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// How long one attempt at writing may take: it gives up by itself after a few seconds where the store is locked.
const PATIENCE: Duration = Duration::from_secs(30);

/// All pages that are shown.
pub(super) fn pages(watched: Arc<Watched>) -> Arc<Pages> {
    Arc::new(move |path, accepted| {
        let verdict = |verdict: Result<(), String>| Page {
            good: verdict.is_ok(),
            kind: PLAIN,
            text: verdict.map_or_else(|why| why, |()| "ok".into()) + "\n",
        };
        Some(match path {
            "/metrics" => page(&watched, prefers_openmetrics(accepted)),
            "/healthz" => verdict(watched.moves(PATIENCE)),
            "/readyz" => verdict(watched.is_ready()),
            _ => return None,
        })
    })
}

fn page(watched: &Arc<Watched>, openmetrics: bool) -> Page {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(watched.clone())));
    let mut page = String::new();
    let (kind, written) = if openmetrics {
        (OPENMETRICS, text::encode(&mut page, &registry))
    } else {
        (prometheus_text::CONTENT_TYPE, prometheus_text::encode(&mut page, &registry))
    };
    written.expect("a String takes all that is written");
    Page { good: true, kind, text: page }
}

/// Whether who accepts this would rather have OpenMetrics than Prometheus' older text.
fn prefers_openmetrics(accepted: &str) -> bool {
    let quality = |wanted: &str| {
        let ranges = accepted.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let same = parts.next()?.eq_ignore_ascii_case(wanted);
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            same.then_some(quality)
        });
        ranges.fold(0.0, f64::max)
    };
    let openmetrics = quality("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= quality("text/plain")
}

/// The figures as they are when they are asked for.
#[derive(Debug)]
struct Figures(Arc<Watched>);

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let watched = &*self.0;
        let mut page = Writing { encoder: &mut encoder };
        let labels = vec![("version", env!("CARGO_PKG_VERSION"))];
        page.gauge("events_build_info", "The version of the recorder", None, [(labels, 1.0)])?;
        let started = watched.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        page.number("process_start_time", "When the recorder was started", Some(Unit::Seconds), started)?;
        page.sources(watched)?;
        page.store(watched)
    }
}

/// A page in the making.
struct Writing<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl Writing<'_, '_> {
    fn sources(&mut self, watched: &Watched) -> fmt::Result {
        let all = watched.counters.read();
        let sources = || all.iter().map(|(name, counted)| (vec![("source", &**name)], counted));
        let each = |figure: fn(&Counted) -> u64| sources().map(move |(labels, counted)| (labels, figure(counted)));
        let stored = sources().flat_map(|(labels, counted)| {
            counted.stored.iter().map(move |((kind, action), number)| {
                ([&labels[..], &[("type", &**kind), ("action", &**action)]].concat(), *number)
            })
        });
        self.counter("events_stored", "Events stored", stored)?;
        self.counter("events_known", "Events that came and were stored already", each(|it| it.known))?;
        self.counter("events_healed", "Events stored that the engine's stream had left out", each(|it| it.healed))?;
        let help = "Events of health checks that were not stored, as was wanted";
        self.counter("events_healthchecks_left_out", help, each(|it| it.left_out))?;
        self.counter("events_rejected", "Lines that came down a stream and were no event", each(|it| it.rejected))?;
        let reasons = Reason::ALL.into_iter().filter(|reason| *reason != Reason::Disconnected).map(Reason::as_str);
        let gaps = sources().flat_map(|(labels, counted)| {
            let number = |reason| counted.gaps.get(reason).copied().unwrap_or(0);
            reasons.clone().map(move |reason| ([&labels[..], &[("reason", reason)]].concat(), number(reason)))
        });
        self.counter("events_gaps", "Gaps in the record that have become known", gaps)?;
        let last = sources().filter_map(|(labels, counted)| Some((labels, counted.last_nano? as f64 / 1e9)));
        let help = "The instant of the latest event stored, by the engine's clock";
        self.gauge("events_last_event_timestamp", help, Some(Unit::Seconds), last)?;
        let hosts = watched.board.hosts();
        let connected = hosts.iter().map(|host| {
            let source = all.iter().find(|(_, it)| it.engine_id.is_some() && it.engine_id == host.engine_id);
            let source = source.map_or("", |(name, _)| name);
            (vec![("host", &*host.host), ("source", source)], truth(host.connected))
        });
        self.gauge("events_connected", "Whether the engine's stream is open", None, connected)
    }

    fn store(&mut self, watched: &Watched) -> fmt::Result {
        let progress = watched.progress();
        let Progress { events, bytes, oldest_nano, failing, .. } = progress.unwrap_or_default();
        let lag = oldest_nano.map_or(0.0, |read| (now_nano() - read).max(0) as f64 / 1e9);
        let help = "How long the first of what is read and not yet stored has waited; 0 where nothing waits";
        self.number("events_lag", help, Some(Unit::Seconds), lag)?;
        let writable = truth(progress.is_some() && !failing);
        self.number("events_store_writable", "Whether the store is open and can be written", None, writable)?;
        let size = watched.bytes() as f64;
        self.number("events_store_size", "The size of the store, with its WAL", Some(Unit::Bytes), size)?;
        self.number("events_buffered", "Events that are read and not yet stored", None, events as f64)?;
        self.number("events_buffer", "The memory that these hold", Some(Unit::Bytes), bytes as f64)?;
        let limit = watched.budget as f64;
        self.number("events_buffer_limit", "The memory that these may hold", Some(Unit::Bytes), limit)
    }

    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        each: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, number) in each {
            metric.encode_family(&labels)?.encode_counter::<Labels<'_>, _, f64>(&number, None)?;
        }
        Ok(())
    }

    fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        each: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, number) in each {
            metric.encode_family(&labels)?.encode_gauge(&number)?;
        }
        Ok(())
    }

    fn number(&mut self, name: &str, help: &str, unit: Option<Unit>, number: f64) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&number)
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[cfg(test)]
mod tests {
    use super::prefers_openmetrics;

    #[test]
    fn the_form_is_the_one_that_is_liked_best() {
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
