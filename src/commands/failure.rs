//! How a command fails: one line on stderr that says what, where, and what to try; and the exit code.

use std::io;
use std::process::ExitCode;

use super::LogFormat;
use super::logging::is_journal;
use crate::engine::{EngineError, HostError, MetricsPageError, TlsError};
use crate::error::chain;
use crate::event::RedactionError;
use crate::output::{PrintError, TemplateError};
use crate::query::time::TimeError;
use crate::query::{FilterError, SelectionError};
use crate::serve::ListenError;
use crate::store::{StoreError, WriteFailed};
use crate::stream::ReadError;

/// What the program tells its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it did what was asked; nothing found is that too.
    Done,
    /// 1: it failed.
    Failed,
    /// 2: the words were wrong.
    Usage,
    /// A command that was run ended so.
    Status(u8),
}

impl From<ReadError> for Failure {
    fn from(e: ReadError) -> Failure {
        let failure = Failure::failed(chain(&e));
        if e.is_directory() { failure.hint("name the files in it") } else { failure }
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
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Status(status) => status,
        })
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    /// `None` where there is nobody to tell.
    line: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// The words were wrong.
    pub fn usage(line: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, line: Some(line.into()), hint: None }
    }

    /// It failed.
    pub fn failed(line: impl Into<String>) -> Failure {
        Failure { exit: Exit::Failed, line: Some(line.into()), hint: None }
    }

    /// A command that was run failed, and has said itself why.
    pub fn status(code: i32) -> Failure {
        Failure { exit: Exit::Status(u8::try_from(code).unwrap_or(1)), line: None, hint: None }
    }

    /// What to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The line, without what to try.
    pub(super) fn line(&self) -> &str {
        self.line.as_deref().unwrap_or_default()
    }

    /// What to try.
    pub(super) fn to_try(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Tells the user in one line, and gives the code to end with.
    pub fn report(self, format: LogFormat) -> Exit {
        if let Some(line) = self.line {
            let hint = self.hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            match format {
                // If stderr is gone too, the exit code still says it.
                LogFormat::Text => {
                    let begin = if is_journal() { "<3>" } else { "events: " };
                    let _ = io::Write::write_all(&mut io::stderr(), format!("{begin}{line}{hint}\n").as_bytes());
                }
                LogFormat::Json => tracing::error!("{line}{hint}"),
            }
        }
        self.exit
    }
}

/// clap's error, which is several lines, as one.
pub(super) fn usage(error: &clap::Error) -> Failure {
    use clap::error::ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand};
    if matches!(error.kind(), DisplayHelpOnMissingArgumentOrSubcommand | MissingSubcommand) {
        return Failure::usage("a command is missing").hint("`events --help` lists them");
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let line = paragraphs.next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(&line).to_owned();
    let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: ").map(str::to_owned));
    Failure::usage(line).hint(tip.unwrap_or_else(|| "--help says more".into()))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure { exit: Exit::Failed, line: Some(chain(&error)), hint: error.hint() }
    }
}

impl From<WriteFailed> for Failure {
    fn from(error: WriteFailed) -> Failure {
        Failure::failed(chain(&error))
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        Failure { exit: Exit::Failed, line: Some(chain(&error)), hint: error.hint() }
    }
}

impl From<MetricsPageError> for Failure {
    fn from(error: MetricsPageError) -> Failure {
        Failure::usage(error.to_string())
            .hint("write http://host:9323, dockerd's metrics-addr, with NAME= before it if there are several hosts")
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
            FilterError::Form(_) => failure.hint("as type=container or label=app=web"),
            FilterError::Key(_) | FilterError::Wire => failure,
        }
    }
}

impl From<RedactionError> for Failure {
    fn from(error: RedactionError) -> Failure {
        Failure::usage(error.to_string()).hint("--redact takes exec, or an expression such as 'password=[^ ]+'")
    }
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Failure {
        let fields = "Status ID From Type Action Actor.ID Actor.Attributes.NAME Scope Time TimeNano";
        // A template may have several lines, and the error show one that is wrong.
        let line = error.to_string().replace('\n', "\\n");
        Failure::usage(format!("--format is no template: {line}")).hint(format!("the fields are {fields}"))
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
        Failure::usage(error.to_string()).hint("a duration counts back from now: 2h is before 1h")
    }
}

impl From<io::Error> for Failure {
    /// An error of our own output. A reader that has seen enough (`| head`) is no error.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { exit: Exit::Done, line: None, hint: None },
            _ => Failure::failed(format!("cannot write the output: {}", chain(&error))),
        }
    }
}
