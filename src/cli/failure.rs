//! Failure of a command: one line on stderr with the problem and a hint, and the exit code.

use std::io;
use std::process::ExitCode;

use super::LogFormat;
use super::logging::is_journal;
use crate::engine::{EngineError, HostError, MetricsEndpointError, TlsError};
use crate::error::chain;
use crate::event::RedactionError;
use crate::http::ListenError;
use crate::output::{PrintError, TemplateError};
use crate::query::time::TimeError;
use crate::query::{FilterError, SelectionError};
use crate::recorder::RecorderError;
use crate::store::{StoreError, WriteError};
use crate::stream::ReadError;

/// Exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: success, including no matches.
    Success,
    /// 1: failure.
    Failed,
    /// 2: usage error.
    Usage,
    /// Exit code of the command that `replay` ran.
    Status(u8),
}

impl From<ReadError> for Failure {
    fn from(e: ReadError) -> Failure {
        let failure = Failure::failed(chain(&e));
        if e.is_directory() { failure.hint("pass the files in it") } else { failure }
    }
}

impl From<ListenError> for Failure {
    fn from(e: ListenError) -> Failure {
        Failure::failed(chain(&e))
    }
}

impl From<TlsError> for Failure {
    fn from(e: TlsError) -> Failure {
        Failure::failed(chain(&e))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Success => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Status(status) => status,
        })
    }
}

/// Reason why a command failed.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    /// `None` if nothing is printed: stdout is closed, or a child process printed its own error.
    message: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// Creates a usage error.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, message: Some(message.into()), hint: None }
    }

    /// Creates a failure.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Failed, message: Some(message.into()), hint: None }
    }

    /// Creates a silent failure with the exit code of a child process.
    pub fn status(code: i32) -> Failure {
        Failure { exit: Exit::Status(u8::try_from(code).unwrap_or(1)), message: None, hint: None }
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The problem, without the hint.
    pub(super) fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }

    /// The hint.
    pub(super) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Prints the failure on one line, and returns the exit code.
    pub fn report(self, format: LogFormat) -> Exit {
        if let Some(message) = self.message {
            let hint = self.hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            match format {
                // If stderr is closed, the exit code still reports the failure.
                LogFormat::Text => {
                    let prefix = if is_journal() { "<3>" } else { "events: " };
                    let _ = io::Write::write_all(&mut io::stderr(), format!("{prefix}{message}{hint}\n").as_bytes());
                }
                LogFormat::Json => tracing::error!("{message}{hint}"),
            }
        }
        self.exit
    }
}

/// Converts an error of clap, which has several lines, to one line.
pub(super) fn from_clap_error(error: &clap::Error) -> Failure {
    use clap::error::ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand};
    if matches!(error.kind(), DisplayHelpOnMissingArgumentOrSubcommand | MissingSubcommand) {
        return Failure::usage("a command is missing").hint("run `events --help` for a list");
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: ").map(str::to_owned));
    Failure::usage(message).hint(tip.unwrap_or_else(|| "see --help".into()))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure { exit: Exit::Failed, message: Some(chain(&error)), hint: error.hint() }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        Failure::failed(chain(&error))
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        Failure { exit: Exit::Failed, message: Some(chain(&error)), hint: error.hint() }
    }
}

impl From<RecorderError> for Failure {
    fn from(error: RecorderError) -> Failure {
        Failure { exit: Exit::Failed, message: Some(chain(&error)), hint: error.hint() }
    }
}

impl From<MetricsEndpointError> for Failure {
    fn from(error: MetricsEndpointError) -> Failure {
        Failure::usage(error.to_string())
            .hint("pass dockerd's metrics-addr as http://host:9323, or as NAME=http://host:9323 with several hosts")
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Failure {
        Failure::usage(chain(&error)).hint(error.hint())
    }
}

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Failure {
        let failure = Failure::usage(error.to_string());
        match error {
            FilterError::Syntax(_) => failure.hint("write a filter such as type=container or label=app=web"),
            FilterError::UnknownKey(_) | FilterError::Json => failure,
        }
    }
}

impl From<RedactionError> for Failure {
    fn from(error: RedactionError) -> Failure {
        Failure::usage(error.to_string()).hint("pass exec or a regular expression such as 'password=[^ ]+'")
    }
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Failure {
        let fields = "Status ID From Type Action Actor.ID Actor.Attributes.NAME Scope Time TimeNano";
        // A template may have several lines, and the error may quote them.
        let message = error.to_string().replace('\n', "\\n");
        Failure::usage(format!("--format is not a template: {message}")).hint(format!("use the fields {fields}"))
    }
}

impl From<PrintError> for Failure {
    fn from(error: PrintError) -> Failure {
        match error {
            PrintError::Io(error) => error.into(),
            error => Failure::failed(chain(&error).replace('\n', "\\n")),
        }
    }
}

impl From<TimeError> for Failure {
    fn from(error: TimeError) -> Failure {
        Failure::usage(error.to_string()).hint(error.hint())
    }
}

impl From<SelectionError> for Failure {
    fn from(error: SelectionError) -> Failure {
        Failure::usage(error.to_string()).hint("durations count back from now: 2h is before 1h")
    }
}

impl From<io::Error> for Failure {
    /// Converts an error of stdout. A closed pipe, as with `| head`, is a success.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { exit: Exit::Success, message: None, hint: None },
            _ => Failure::failed(format!("cannot write to stdout: {}", chain(&error))),
        }
    }
}
