//! The command line: one file for each command, named as the user types it.
//!
//! Only this module combines the other modules of the library, and only it uses clap. It contains no SQL.

mod args;
mod backup;
mod demo;
mod doctor;
mod failure;
mod gaps;
mod import;
mod install_docs;
mod interrupt;
mod logging;
mod paths;
mod progress;
mod prune;
mod query;
pub mod record;
mod rejected;
mod replay;
mod runtime;
mod serve;
mod status;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

pub use failure::{Exit, Failure};

/// Record Docker Engine events in SQLite, report gaps, and query or replay events
#[derive(Debug, Parser)]
#[command(name = "events", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// The options of every command.
#[derive(Debug, clap::Args)]
pub struct Shared {
    /// Path of the store, an SQLite file
    ///
    /// The default is $XDG_STATE_HOME/events/events.db, usually ~/.local/state/events/events.db. For root it is
    /// /var/lib/events/events.db.
    #[arg(long, value_name = "PATH", env = "EVENTS_DB", hide_env_values = true, global = true)]
    db: Option<PathBuf>,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Log debug messages; `-vv` also logs trace messages
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Format of the log on stderr
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text, one line per message
    Text,
    /// JSON, one object per line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record events of Docker Engines until stopped
    ///
    /// Stores the backlog of each engine, its last 256 events, then follows its event stream. After a restart it
    /// resumes, stores each event once, and reports missed periods as gaps. Stop it with SIGINT or SIGTERM.
    Record(record::Args),
    /// Print recorded events
    ///
    /// Prints the selected events, oldest first. By default, each line is the JSON that the engine sent. Warns on stderr
    /// if the time window overlaps a gap. Exits with 0 even if no event matches.
    Query(query::Args),
    /// Import events from files or from another store
    ///
    /// Skips events that are already stored, so an import can be repeated. Verifies another store before importing it.
    Import(import::Args),
    /// Serve recorded events as a read-only Docker Engine
    ///
    /// Clients read /events as they do from an engine, without its limit of 256 past events. The server sends new events
    /// as they are recorded. Example: `events serve --listen unix:///run/events.sock`.
    Serve(serve::Args),
    /// Replay recorded events at their original pace
    ///
    /// Plays the store or files to stdout. With `-- CMD`, runs CMD with DOCKER_HOST set to a private engine that plays
    /// the events, and exits with the status of CMD. Example: `events replay --since 7d --speed max -- pytest tests/`.
    Replay(replay::Args),
    /// Show the state of the recorder and of each source
    Status(status::Args),
    /// Print the gaps in the record as NDJSON
    ///
    /// A gap is a period in which events are missing or may be missing. Each line has the keys source, from, to, reason
    /// and detail.
    Gaps(gaps::Args),
    /// Print rejected lines as NDJSON
    ///
    /// A rejected line is a line of a stream or file that is not an event. Each line of output has the keys source,
    /// received, error and bytes (in Base64).
    Rejected(rejected::Args),
    /// Verify the hash chain of the store
    ///
    /// Prints each entry that was edited, removed, inserted or moved, then the head of the chain. Exits with 1 if it
    /// finds any.
    Verify(verify::Args),
    /// Delete the oldest events from the store
    ///
    /// Can run while `events record` is running. Needs `--retain` or `--max-size`.
    Prune(prune::Args),
    /// Make a consistent copy of the store
    ///
    /// Can run while `events record` is running. Logs the head of the hash chain of the copy.
    Backup(backup::Args),
    /// Check engines and the store, and suggest fixes
    ///
    /// Checks each step from the socket of an engine to the disk under the store, and prints a fix for each failure.
    /// Exits with 1 if a check failed. Changes nothing without `--exercise`.
    Doctor(doctor::Args),
    /// Record and query sample events, without a Docker Engine
    ///
    /// Plays a recorded deployment from an embedded engine, records it into a temporary store, and queries that store.
    Demo(demo::Args),
    /// Install man pages and shell completions
    InstallDocs(install_docs::Args),
}

/// Runs the program with these arguments. The first is the name of the program.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return match e.print() {
                Ok(()) => Exit::Success,
                Err(e) => Failure::from(e).report(LogFormat::Text),
            };
        }
        Err(e) => return failure::from_clap_error(&e).report(LogFormat::Text),
    };
    // `doctor` and `demo` print their own results, so the recorder that they run logs only warnings.
    let default_level = if matches!(cli.command, Command::Doctor(_) | Command::Demo(_)) {
        LevelFilter::WARN
    } else {
        LevelFilter::INFO
    };
    logging::init(&cli.shared, matches!(cli.command, Command::Record(_)), default_level);
    let result = match &cli.command {
        Command::Record(args) => record::run(&cli.shared, args),
        Command::Query(args) => query::run(&cli.shared, args),
        Command::Import(args) => import::run(&cli.shared, args),
        Command::Status(args) => status::run(&cli.shared, args),
        Command::Gaps(args) => gaps::run(&cli.shared, args),
        Command::Rejected(args) => rejected::run(&cli.shared, args),
        Command::Verify(args) => verify::run(&cli.shared, args),
        Command::Prune(args) => prune::run(&cli.shared, args),
        Command::Backup(args) => backup::run(&cli.shared, args),
        Command::Serve(args) => serve::run(&cli.shared, args),
        Command::Replay(args) => replay::run(&cli.shared, args),
        Command::Doctor(args) => doctor::run(&cli.shared, args),
        Command::Demo(args) => demo::run(&cli.shared, args),
        Command::InstallDocs(args) => install_docs::run(args, Cli::command()),
    };
    result.map_or_else(|failure| failure.report(cli.shared.log_format), |()| Exit::Success)
}

/// Prints a value as one line of JSON.
fn print_json(out: &mut impl std::io::Write, value: &impl serde::Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }
}
