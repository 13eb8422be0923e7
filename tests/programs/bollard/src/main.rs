//! Asks an engine for events with bollard; see tests/real/clients.rs for its arguments.

use std::collections::HashMap;
use std::io::Write;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let docker = Docker::connect_with_unix_defaults()?.negotiate_version().await?;
    let mut out = std::io::stdout();
    for word in std::env::args().skip(1) {
        let asked: Value = serde_json::from_str(&word)?;
        let text = |key: &str| asked[key].as_str().map(str::to_owned);
        let filters: HashMap<String, Vec<String>> = serde_json::from_value(asked["filters"].clone())?;
        let options = EventsOptions { since: text("since"), until: text("until"), filters: Some(filters) };
        let mut events = docker.events(Some(options));
        while let Some(event) = events.next().await {
            match event {
                // Through a value, which has its keys in order.
                Ok(event) => writeln!(out, "{}", serde_json::to_value(event)?)?,
                Err(Error::DockerResponseServerError { status_code, message }) => {
                    writeln!(out, "refused: {status_code} {message}")?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        writeln!(out)?;
    }
    Ok(())
}
