//! The options that select events. They are the same in every command that selects events.

use crate::query::{Filter, Selection, time};

use crate::cli::Failure;
use crate::clock::now_nano;
use crate::store::Reader;

/// Filters.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Filter options")]
pub(in crate::cli) struct FilterArgs {
    /// Select events that match, as `docker events --filter` does; repeatable
    ///
    /// Values of one key are alternatives (OR). Different keys must all match (AND), and so must all labels. Keys:
    /// config, container, daemon, event, image, label, network, node, plugin, scope, secret, service, type, volume.
    /// Example: `--filter type=container --filter event=die`.
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Exclude events that match; repeatable
    ///
    /// Takes the same keys and values as `--filter`. An event is excluded if it matches any of them.
    #[arg(long, value_name = "KEY=VALUE")]
    exclude: Vec<String>,
    /// Exclude the exec events of health checks
    ///
    /// An exec is a health check if it runs the health check command of the container's configuration.
    #[arg(long)]
    no_healthchecks: bool,
    /// Select by type: container, image, network, volume, daemon, …
    ///
    /// Short for `--filter type=VALUE`.
    #[arg(long = "type", value_name = "VALUE")]
    kind: Vec<String>,
    /// Select by action: start, die, exec_create, …
    ///
    /// Short for `--filter event=VALUE`.
    #[arg(long, value_name = "VALUE")]
    action: Vec<String>,
    /// Select by the beginning of a container's ID or name
    ///
    /// Short for `--filter container=VALUE`.
    #[arg(long, value_name = "VALUE")]
    container: Vec<String>,
    /// Select by image, with or without a tag or digest
    ///
    /// Short for `--filter image=VALUE`.
    #[arg(long, value_name = "VALUE")]
    image: Vec<String>,
    /// Select by a label or another attribute: KEY or KEY=VALUE
    ///
    /// Short for `--filter label=VALUE`. Example: `--label exitCode=137`.
    #[arg(long, value_name = "VALUE")]
    label: Vec<String>,
    /// Select by the beginning of a network's ID or name
    ///
    /// Short for `--filter network=VALUE`.
    #[arg(long, value_name = "VALUE")]
    network: Vec<String>,
    /// Select by the beginning of a volume's name
    ///
    /// Short for `--filter volume=VALUE`.
    #[arg(long, value_name = "VALUE")]
    volume: Vec<String>,
    /// Select by scope: local or swarm
    ///
    /// Short for `--filter scope=VALUE`.
    #[arg(long, value_name = "VALUE")]
    scope: Vec<String>,
}

/// Time window.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Selection options")]
pub(in crate::cli) struct WindowArgs {
    /// Select events at or after this time
    ///
    /// An RFC 3339 time or the beginning of one (local time if it has no zone), Unix seconds, a duration before now
    /// (10m, 1h30m, 7d), or `now`. Example: `--since 2026-11-24T15:04`.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Select events at or before this time
    ///
    /// Takes the same formats as `--since`. A negative duration is in the future: `--until=-10m`.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
}

/// Filters, a time window and a source.
#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct SelectionArgs {
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    window: WindowArgs,
    /// Select only events of this source, by name or engine ID
    #[arg(long, value_name = "NAME", help_heading = "Selection options")]
    pub source: Option<String>,
}

impl SelectionArgs {
    /// Builds the selection, without a limit on the number of events.
    pub(in crate::cli) fn selection(&self) -> Result<Selection, Failure> {
        self.window.narrow(self.filters.selection()?, now_nano())
    }
}

impl FilterArgs {
    /// Builds the selection, without a time window or a limit on the number of events.
    pub(in crate::cli) fn selection(&self) -> Result<Selection, Failure> {
        let mut filter = Filter::default();
        self.filter.iter().try_for_each(|expression| filter.add(expression))?;
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
        for expression in &self.exclude {
            let mut exclude = Filter::default();
            exclude.add(expression)?;
            excludes.push(exclude);
        }
        for kind in excludes.iter().chain([&filter]).flat_map(Filter::unknown_types) {
            tracing::warn!("no engine sends events of the type '{kind}': check the spelling");
        }
        Ok(Selection { filter, excludes, no_healthchecks: self.no_healthchecks, ..Selection::default() })
    }
}

impl WindowArgs {
    /// Narrows a selection to this window.
    pub(in crate::cli) fn narrow(&self, selection: Selection, now: i64) -> Result<Selection, Failure> {
        // An empty value sets no limit, as in the docker client: scripts pass variables that may be empty.
        let non_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let parse = |text| non_empty(text).map(|text| time::parse_time(&text, now)).transpose();
        Ok(selection.with_window(parse(&self.since)?, parse(&self.until)?)?)
    }
}

/// Warns about events that could not be checked for health checks, if these are left out. Warns only once.
pub(in crate::cli) fn warn_unknown_healthchecks(reader: &Reader, warned: &mut bool) {
    let unknown = reader.unknown_healthchecks();
    if !unknown.is_empty() && !std::mem::replace(warned, true) {
        tracing::warn!("{unknown}");
    }
}

/// Warns that health checks in files cannot be recognized: files contain no configurations of containers.
pub(in crate::cli) fn warn_healthchecks_in_files(selection: &Selection) {
    if selection.no_healthchecks {
        tracing::warn!(
            "--no-healthchecks has no effect on files: they do not contain the health check commands of containers"
        );
    }
}

/// Finds a source by its name or engine ID. Returns its row ID and its name.
pub(in crate::cli) fn find_source(reader: &Reader, name: &str) -> Result<(i64, String), Failure> {
    let sources = reader.sources()?;
    if let Some(source) = sources.iter().find(|s| s.name == name || s.engine_id.as_deref() == Some(name)) {
        return Ok((source.id, source.name.clone()));
    }
    let names: Vec<&str> = sources.iter().map(|s| s.name.as_str()).collect();
    let hint = if names.is_empty() {
        "the store has no sources yet".into()
    } else {
        format!("choose one of: {}", names.join(", "))
    };
    Err(Failure::failed(format!("{} has no source '{name}'", reader.path().display())).hint(hint))
}
