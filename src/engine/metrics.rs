//! Reads the event counter of an engine from dockerd's `metrics-addr`, in the Prometheus text format.

use super::{Client, EngineError, Host};

/// Path of the metrics in dockerd.
const DEFAULT_PATH: &str = "/metrics";

/// Metric with the number of events published since the engine started (moby `daemon/events/metrics.go`).
const EVENTS_TOTAL: &str = "engine_daemon_events_total";

/// Endpoint for the metrics of one engine.
#[derive(Clone, Debug)]
pub struct MetricsEndpoint {
    /// Name of the host that the metrics belong to, if given.
    pub name: Option<String>,
    client: Client,
    path: &'static str,
}

/// A text that is not a valid metrics URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid metrics URL: {reason}")]
pub struct MetricsEndpointError {
    text: String,
    reason: String,
}

impl std::str::FromStr for MetricsEndpoint {
    type Err = MetricsEndpointError;

    /// Parses `[NAME=]http://host:port[/path]`.
    fn from_str(text: &str) -> Result<MetricsEndpoint, MetricsEndpointError> {
        let error = |reason: String| MetricsEndpointError { text: text.into(), reason };
        if !text.contains("http://") {
            return Err(error("the scheme http:// is missing".into()));
        }
        let host: Host = text.parse().map_err(|e| match e {
            super::HostError::InvalidUrl { reason, .. } => error(reason),
            other => error(other.to_string()),
        })?;
        let path = if host.request_path("").is_empty() { DEFAULT_PATH } else { "" };
        Ok(MetricsEndpoint {
            name: host.name.clone(),
            client: Client { host, api_version: None, is_podman: false },
            path,
        })
    }
}

impl std::fmt::Display for MetricsEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.client.host.url(), self.path)
    }
}

impl MetricsEndpoint {
    /// Fetches the number of events that the engine has published since it started.
    ///
    /// # Errors
    /// [`EngineError`]. A page without that counter is [`EngineError::InvalidResponse`].
    pub async fn events_total(&self) -> Result<u64, EngineError> {
        let page = self.client.get_body(self.path).await?;
        let page = String::from_utf8_lossy(&page);
        page.lines().find_map(parse_counter).ok_or_else(|| {
            let path = self.client.host.request_path(self.path);
            self.client.invalid_response(&path, format!("no metric {EVENTS_TOTAL}"))
        })
    }
}

/// Returns the value of the event counter if the line contains it.
fn parse_counter(line: &str) -> Option<u64> {
    let rest = line.strip_prefix(EVENTS_TOTAL)?;
    let rest = match rest.strip_prefix('{') {
        Some(labelled) => labelled.split_once('}')?.1,
        None => rest.starts_with([' ', '\t']).then_some(rest)?,
    };
    // Go writes a million as 1e+06. A double represents each possible count exactly.
    let count: f64 = rest.split_whitespace().next()?.parse().ok()?;
    ((0.0..9e15).contains(&count) && count.fract() == 0.0).then_some(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_counter_is_parsed() {
        for (line, count) in [
            ("engine_daemon_events_total 42", Some(42)),
            ("engine_daemon_events_total 1.234567e+06", Some(1_234_567)),
            ("engine_daemon_events_total{a=\"b\"} 7 1795535604802", Some(7)),
            ("# TYPE engine_daemon_events_total counter", None),
            ("engine_daemon_events_total_more 3", None),
            ("engine_daemon_events_total NaN", None),
            ("engine_daemon_events_total", None),
        ] {
            assert_eq!(parse_counter(line), count, "{line}");
        }
    }

    #[test]
    fn a_metrics_url_is_http_with_an_optional_path() {
        let request_path =
            |text: &str| text.parse::<MetricsEndpoint>().map(|page| page.client.host.request_path(page.path));
        assert_eq!(request_path("http://127.0.0.1:9323").unwrap(), "/metrics");
        assert_eq!(request_path("vm=http://box:9323/").unwrap(), "/metrics");
        assert_eq!(request_path("http://box:9323/engine/metrics").unwrap(), "/engine/metrics");
        for text in ["", "box:9323", "unix:///run/d.sock", "tcp://box:9323", "https://box"] {
            let error = request_path(text).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
