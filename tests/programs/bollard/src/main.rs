//! Requests events from an engine with bollard. tests/real/clients.rs describes the arguments.

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
    for arg in std::env::args().skip(1) {
        let query: Value = serde_json::from_str(&arg)?;
        let text = |key: &str| query[key].as_str().map(str::to_owned);
        let filters: HashMap<String, Vec<String>> = serde_json::from_value(query["filters"].clone())?;
        let options = EventsOptions { since: text("since"), until: text("until"), filters: Some(filters) };
        let mut events = docker.events(Some(options));
        while let Some(event) = events.next().await {
            match event {
                // A `Value` has its keys in alphabetical order.
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
