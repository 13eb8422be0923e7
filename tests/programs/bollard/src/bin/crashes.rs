use bollard::{Docker, errors::Error, query_parameters::EventsOptionsBuilder};
use futures_util::StreamExt;
use std::collections::{BTreeMap, HashMap};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let docker = Docker::connect_with_defaults()?;
    let filters = HashMap::from([("event", vec!["die"])]);
    let mut died = BTreeMap::new();
    'reconnect: loop {
        let options = EventsOptionsBuilder::new().since("0").filters(&filters).build();
        let mut events = docker.events(Some(options));
        while let Some(event) = events.next().await {
            let Ok(event) = event else { continue 'reconnect }; // no event counts twice
            let container = event.actor.unwrap_or_default();
            let code = container.attributes.unwrap_or_default().remove("exitCode");
            died.insert((event.time_nano, container.id), code.unwrap_or_default());
        }
        break;
    }
    let failed = died.values().filter(|code| *code != "0").count();
    println!("{} containers died, {failed} of them failed", died.len());
    Ok(())
}
