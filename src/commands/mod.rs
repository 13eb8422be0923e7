//! The commands, one file each, named as the user types it: the only place where the stages meet.

mod backup;
mod demo;
mod doctor;
mod failure;
mod gaps;
mod hosts;
mod import;
mod install_docs;
mod interrupt;
mod kept;
mod logging;
mod progress;
mod prune;
mod query;
pub mod record;
mod redact;
mod rejected;
mod replay;
mod select;
mod serve;
mod status;
mod verify;

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

pub use failure::{Exit, Failure};

/// Records what Docker Engines tell on /events, says where it was blind, and answers in the engine's own language.
#[derive(Debug, Parser)]
#[command(name = "events", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// The flags that every command shares.
#[derive(Debug, clap::Args)]
pub struct Shared {
    /// The SQLite file [default: $XDG_STATE_HOME/events/events.db, for root /var/lib/events/events.db]
    #[arg(long, value_name = "PATH", env = "EVENTS_DB", hide_env_values = true, global = true)]
    db: Option<PathBuf>,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// The form of what is logged to stderr
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,
}

/// The form of what is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record engines into an SQLite file, for as long as it runs
    Record(record::Args),
    /// Filter what was recorded and print it
    Query(query::Args),
    /// Put files of events into the store
    Import(import::Args),
    /// Answer as an engine, with the history of a store or of files
    Serve(serve::Args),
    /// Play history or files at their own pace, to stdout or as an engine to a command
    Replay(replay::Args),
    /// Show the engines, counts, gaps and the recorder
    Status(status::Args),
    /// Print where the record is blind, and why, as NDJSON
    Gaps(gaps::Args),
    /// Print what came down a stream and was no event, as NDJSON
    Rejected(rejected::Args),
    /// Prove that nothing stored was edited, removed or put in between
    Verify(verify::Args),
    /// Let go of the oldest part of the record
    Prune(prune::Args),
    /// Copy the store while it is recorded into
    Backup(backup::Args),
    /// Check an engine and the store step by step, and say what to do
    Doctor(doctor::Args),
    /// Play a recording through all of it, with nothing installed
    Demo(demo::Args),
    /// Put the man pages and the shells' completions where they are found
    InstallDocs(install_docs::Args),
}

/// Runs the program with these words, the first of which is its name.
pub fn main(words: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return match e.print() {
                Ok(()) => Exit::Done,
                Err(e) => Failure::from(e).report(LogFormat::Text),
            };
        }
        Err(e) => return failure::usage(&e).report(LogFormat::Text),
    };
    // Doctor and demo print their own results: what they run logs only warnings.
    let usual = if matches!(cli.command, Command::Doctor(_) | Command::Demo(_)) {
        LevelFilter::WARN
    } else {
        LevelFilter::INFO
    };
    logging::start(&cli.shared, matches!(cli.command, Command::Record(_)), usual);
    let done = match &cli.command {
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
    done.map_or_else(|failure| failure.report(cli.shared.log_format), |()| Exit::Done)
}

impl Shared {
    /// The store that was named, or else the usual one.
    fn db(&self) -> Result<PathBuf, Failure> {
        match &self.db {
            Some(path) if !path.as_os_str().is_empty() => Ok(path.clone()),
            _ => default_db(rustix::process::geteuid().is_root(), |name| std::env::var_os(name)).ok_or_else(|| {
                Failure::usage("there is no home directory to keep the store in").hint("name a file with --db")
            }),
        }
    }

    /// Makes the directory that the usual store is in. A path that a user chose is left to the user.
    fn make_own_directory(&self) -> Result<(), Failure> {
        if self.db.as_ref().is_some_and(|path| !path.as_os_str().is_empty()) {
            return Ok(());
        }
        let path = self.db()?;
        let Some(directory) = path.parent() else { return Ok(()) };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| {
            Failure::failed(format!("cannot make the directory {}: {}", directory.display(), crate::error::chain(&e)))
        })
    }
}

/// Reads a size: bytes, or with a unit as `64MiB`, `64MB`, `64m`.
fn size(flag: &str, text: &str) -> Result<usize, Failure> {
    let wrong = || Failure::usage(format!("{flag} '{text}' is no size")).hint("write it as 64MiB, 500kB or 1GiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: usize = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// A number of bytes, for people.
fn size_text(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Prints a value as one line of JSON.
fn print_json(out: &mut impl std::io::Write, value: &impl serde::Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Now, in nanoseconds since the Unix epoch.
fn now_nano() -> i64 {
    chrono::Utc::now().timestamp_nanos_opt().expect("the clock is before the year 2262")
}

fn default_db(root: bool, env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if root {
        return Some("/var/lib/events/events.db".into());
    }
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("events/events.db"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_usual_store_is_where_such_files_live() {
        let db = |root, set: &[(&str, &str)]| {
            let env = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            default_db(root, env)
        };
        let home = [("HOME", "/home/a")];
        assert_eq!(db(true, &home), Some("/var/lib/events/events.db".into()));
        assert_eq!(db(false, &home), Some("/home/a/.local/state/events/events.db".into()));
        assert_eq!(db(false, &[("XDG_STATE_HOME", "/s"), home[0]]), Some("/s/events/events.db".into()));
        assert_eq!(db(false, &[("XDG_STATE_HOME", ""), home[0]]), Some("/home/a/.local/state/events/events.db".into()));
        assert_eq!(db(false, &[]), None);
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("1", 1), ("64MiB", 64 << 20), ("64m", 64 << 20), ("500kB", 500_000), ("1 GiB", 1 << 30)]
        {
            assert_eq!(size("--buffer", text).unwrap(), bytes, "{text}");
        }
        for text in ["", "0", "MiB", "-1", "1.5MiB", "1TiB", "99999999999GiB"] {
            assert!(size("--buffer", text).is_err(), "{text}");
        }
    }
}
