//! The flags that select events, the same for every command that does.

use crate::query::{Filter, Selection, time};

use super::{Failure, now_nano};
use crate::store::Reader;

/// Which events.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Filters (as the engine's; values of one key OR, keys AND, labels AND)")]
pub(super) struct Filters {
    /// Let through what matches; keys: config container daemon event image label network node plugin scope secret
    /// service type volume
    #[arg(short, long = "filter", value_name = "K=V")]
    filter: Vec<String>,
    /// Take away what matches, in the same grammar; each by itself
    #[arg(long, value_name = "K=V")]
    exclude: Vec<String>,
    /// Leave out the exec events of containers' own health checks, known by the command in their configuration
    #[arg(long)]
    no_healthchecks: bool,
    /// --filter type=V: container, image, network, volume, daemon, …
    #[arg(long = "type", value_name = "V")]
    kind: Vec<String>,
    /// --filter event=V: start, die, exec_create, …
    #[arg(long, value_name = "V")]
    action: Vec<String>,
    /// --filter container=V: the beginning of an ID or of a name
    #[arg(long, value_name = "V")]
    container: Vec<String>,
    /// --filter image=V: with or without tag
    #[arg(long, value_name = "V")]
    image: Vec<String>,
    /// --filter label=V: KEY or KEY=VALUE, any attribute of the actor
    #[arg(long, value_name = "V")]
    label: Vec<String>,
    /// --filter network=V
    #[arg(long, value_name = "V")]
    network: Vec<String>,
    /// --filter volume=V
    #[arg(long, value_name = "V")]
    volume: Vec<String>,
    /// --filter scope=V: local or swarm
    #[arg(long, value_name = "V")]
    scope: Vec<String>,
}

/// From when to when.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Window")]
pub(super) struct Window {
    /// No earlier than: a date or time (RFC 3339 or a part of it, local without a zone), unix seconds, a duration
    /// back from now (10m, 1h30m, 7d), now
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// No later than; the same forms
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
}

/// Which events of history: filters, a window, a source.
#[derive(Debug, Default, clap::Args)]
pub(super) struct History {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    window: Window,
    /// Of this source alone
    #[arg(long, value_name = "NAME", help_heading = "Window")]
    pub source: Option<String>,
}

impl History {
    /// The selection that these flags make, of any number.
    pub(super) fn selection(&self) -> Result<Selection, Failure> {
        self.window.narrow(self.filters.selection()?, now_nano())
    }
}

impl Filters {
    /// The selection that these flags make, of any time and number.
    pub(super) fn selection(&self) -> Result<Selection, Failure> {
        let mut filter = Filter::default();
        self.filter.iter().try_for_each(|words| filter.add(words))?;
        for (key, values) in [
            ("type", &self.kind),
            ("event", &self.action),
            ("container", &self.container),
            ("image", &self.image),
            ("label", &self.label),
            ("network", &self.network),
            ("volume", &self.volume),
            ("scope", &self.scope),
        ] {
            values.iter().try_for_each(|value| filter.add(&format!("{key}={value}")))?;
        }
        let mut excludes = Vec::new();
        for words in &self.exclude {
            let mut exclude = Filter::default();
            exclude.add(words)?;
            excludes.push(exclude);
        }
        for kind in excludes.iter().chain([&filter]).flat_map(Filter::unknown_types) {
            tracing::warn!("no engine tells events of the type '{kind}': is it misspelt?");
        }
        Ok(Selection { filter, excludes, no_healthchecks: self.no_healthchecks, ..Selection::default() })
    }
}

impl Window {
    /// Narrows a selection to this window.
    pub(super) fn narrow(&self, selection: Selection, now: i64) -> Result<Selection, Failure> {
        // An empty one is none, as for the docker client: scripts fill in variables.
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let read = |text| given(text).map(|text| time::parse_time(&text, now)).transpose();
        Ok(selection.between(read(&self.since)?, read(&self.until)?)?)
    }
}

/// Says of which events a reading could not tell whether they are of health checks, if it was to leave these out; once.
pub(super) fn say_untold(reader: &Reader, said: &mut bool) {
    let untold = reader.untold();
    if !untold.is_none() && !std::mem::replace(said, true) {
        tracing::warn!("{untold}");
    }
}

/// The same of files, in which no configuration stands.
pub(super) fn say_all_untold(selection: &Selection) {
    if selection.no_healthchecks {
        tracing::warn!(
            "how containers check their health does not stand in files of events: nothing is left out of them"
        );
    }
}

/// The source that a user names: its row and its name.
pub(super) fn find_source(reader: &Reader, name: &str) -> Result<(i64, String), Failure> {
    let sources = reader.sources()?;
    if let Some(source) = sources.iter().find(|s| s.name == name || s.engine_id.as_deref() == Some(name)) {
        return Ok((source.id, source.name.clone()));
    }
    let names: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
    let hint = if names.is_empty() { "it has none yet".into() } else { format!("it has {}", names.join(", ")) };
    Err(Failure::failed(format!("{} has no source '{name}'", reader.path().display())).hint(hint))
}
