//! The page on which an engine counts what it does: `metrics-addr` of dockerd, in Prometheus' text form.

use super::{Client, EngineError, Host};

/// Where dockerd offers it.
const USUAL_PATH: &str = "/metrics";

/// How many events were published since the engine started (moby `daemon/events/metrics.go`).
const EVENTS_TOTAL: &str = "engine_daemon_events_total";

/// Where an engine's counters are to be read.
#[derive(Clone, Debug)]
pub struct MetricsPage {
    /// The name of the host whose engine counts there, if it was given.
    pub name: Option<String>,
    client: Client,
    path: &'static str,
}

/// Some words that cannot be a page of metrics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' cannot be a page of metrics: {why}")]
pub struct MetricsPageError {
    text: String,
    why: String,
}

impl std::str::FromStr for MetricsPage {
    type Err = MetricsPageError;

    /// Reads `[NAME=]http://host:port[/path]`.
    fn from_str(text: &str) -> Result<MetricsPage, MetricsPageError> {
        let error = |why: String| MetricsPageError { text: text.into(), why };
        if !text.contains("http://") {
            return Err(error("it has no http:// before it".into()));
        }
        let host: Host = text.parse().map_err(|e| match e {
            super::HostError::Url { why, .. } => error(why),
            other => error(other.to_string()),
        })?;
        let path = if host.path("").is_empty() { USUAL_PATH } else { "" };
        Ok(MetricsPage { name: host.name.clone(), client: Client { host, api: None, podman: false }, path })
    }
}

impl std::fmt::Display for MetricsPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.client.host.url(), self.path)
    }
}

impl MetricsPage {
    /// How many events the engine has published since it started.
    ///
    /// # Errors
    /// [`EngineError`]; a page without that counter is [`EngineError::Nonsense`].
    pub async fn events_total(&self) -> Result<u64, EngineError> {
        let page = self.client.whole(self.path).await?;
        let page = String::from_utf8_lossy(&page);
        page.lines().find_map(counter).ok_or_else(|| {
            let path = self.client.host.path(self.path);
            self.client.nonsense(&path, format!("no {EVENTS_TOTAL} in it"))
        })
    }
}

/// The count in a line, if it is the one.
fn counter(line: &str) -> Option<u64> {
    let rest = line.strip_prefix(EVENTS_TOTAL)?;
    let rest = match rest.strip_prefix('{') {
        Some(labelled) => labelled.split_once('}')?.1,
        None => rest.starts_with([' ', '\t']).then_some(rest)?,
    };
    // Go writes a million as 1e+06; a double holds every number of events exactly.
    let count: f64 = rest.split_whitespace().next()?.parse().ok()?;
    ((0.0..9e15).contains(&count) && count.fract() == 0.0).then_some(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_in_a_page() {
        for (line, count) in [
            ("engine_daemon_events_total 42", Some(42)),
            ("engine_daemon_events_total 1.234567e+06", Some(1_234_567)),
            ("engine_daemon_events_total{a=\"b\"} 7 1795535604802", Some(7)),
            ("# TYPE engine_daemon_events_total counter", None),
            ("engine_daemon_events_total_more 3", None),
            ("engine_daemon_events_total NaN", None),
            ("engine_daemon_events_total", None),
        ] {
            assert_eq!(counter(line), count, "{line}");
        }
    }

    #[test]
    fn a_page_is_at_http_with_or_without_a_path() {
        let asked = |text: &str| text.parse::<MetricsPage>().map(|page| page.client.host.path(page.path));
        assert_eq!(asked("http://127.0.0.1:9323").unwrap(), "/metrics");
        assert_eq!(asked("vm=http://box:9323/").unwrap(), "/metrics");
        assert_eq!(asked("http://box:9323/engine/metrics").unwrap(), "/engine/metrics");
        for text in ["", "box:9323", "unix:///run/d.sock", "tcp://box:9323", "https://box"] {
            let error = asked(text).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
