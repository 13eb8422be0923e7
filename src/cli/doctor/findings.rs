//! Prints the result of each check on a line: ✓ passed, ✗ failed (with a hint on the next line), – not tried.

use std::io::{self, Write};

use crate::cli::Failure;

/// Results so far.
#[derive(Debug)]
pub(super) struct Findings {
    /// Omit sections and passed checks.
    quiet: bool,
    has_section: bool,
    failures: usize,
}

impl Findings {
    pub(super) fn new(quiet: bool) -> Findings {
        Findings { quiet, has_section: false, failures: 0 }
    }

    /// Starts a section with this title.
    pub(super) fn section(&mut self, title: &str) -> io::Result<()> {
        let separator = if std::mem::replace(&mut self.has_section, true) { "\n" } else { "" };
        if self.quiet { Ok(()) } else { writeln!(io::stdout(), "{separator}{title}") }
    }

    /// Prints a passed check.
    pub(super) fn pass(&mut self, text: &str) -> io::Result<()> {
        if self.quiet { Ok(()) } else { writeln!(io::stdout(), "  ✓ {text}") }
    }

    /// Prints a failed check and its hint.
    pub(super) fn fail(&mut self, failure: &Failure) -> io::Result<()> {
        self.failures += 1;
        let mut out = io::stdout().lock();
        writeln!(out, "  ✗ {}", failure.message())?;
        failure.hint_text().map_or(Ok(()), |hint| writeln!(out, "    → {hint}"))
    }

    /// Prints a step that was not tried because an earlier one failed.
    pub(super) fn skip(&mut self, step: &str) -> io::Result<()> {
        writeln!(io::stdout(), "  – {step}: not tried")
    }

    /// Prints a check as passed or failed. Returns the value if it passed.
    pub(super) fn report<T>(
        &mut self,
        result: Result<T, impl Into<Failure>>,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<Option<T>> {
        match result {
            Ok(value) => self.pass(&text(&value)).map(|()| Some(value)),
            Err(e) => self.fail(&e.into()).map(|()| None),
        }
    }

    /// Returns an error if a check failed.
    pub(super) fn result(&self) -> Result<(), Failure> {
        match self.failures {
            0 => Ok(()),
            1 => Err(Failure::failed("1 check failed").hint("apply the fix after → below the ✗")),
            count => Err(Failure::failed(format!("{count} checks failed")).hint("apply the fix after → below each ✗")),
        }
    }
}
