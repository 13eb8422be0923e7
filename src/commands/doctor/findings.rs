//! What was found, a line each: ✓ it holds, ✗ it does not (and below it what to do), – it could not be tried.

use std::io::{self, Write};

use crate::commands::Failure;

/// What was found so far.
#[derive(Debug)]
pub(super) struct Findings {
    /// Only what does not hold is said.
    quiet: bool,
    begun: bool,
    wrong: usize,
}

impl Findings {
    pub(super) fn new(quiet: bool) -> Findings {
        Findings { quiet, begun: false, wrong: 0 }
    }

    /// What follows is about this.
    pub(super) fn about(&mut self, what: &str) -> io::Result<()> {
        let between = if std::mem::replace(&mut self.begun, true) { "\n" } else { "" };
        if self.quiet { Ok(()) } else { writeln!(io::stdout(), "{between}{what}") }
    }

    /// It holds.
    pub(super) fn holds(&mut self, what: &str) -> io::Result<()> {
        if self.quiet { Ok(()) } else { writeln!(io::stdout(), "  ✓ {what}") }
    }

    /// It does not hold.
    pub(super) fn fails(&mut self, failure: &Failure) -> io::Result<()> {
        self.wrong += 1;
        let mut out = io::stdout().lock();
        writeln!(out, "  ✗ {}", failure.line())?;
        failure.to_try().map_or(Ok(()), |hint| writeln!(out, "    → {hint}"))
    }

    /// It could not be tried, because of what failed before.
    pub(super) fn left_out(&mut self, what: &str) -> io::Result<()> {
        writeln!(io::stdout(), "  – {what}: not tried")
    }

    /// Says what holds, or what does not; gives it on if it holds.
    pub(super) fn note<T>(
        &mut self,
        found: Result<T, impl Into<Failure>>,
        what: impl FnOnce(&T) -> String,
    ) -> io::Result<Option<T>> {
        match found {
            Ok(found) => self.holds(&what(&found)).map(|()| Some(found)),
            Err(e) => self.fails(&e.into()).map(|()| None),
        }
    }

    /// Whether all of it holds.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match self.wrong {
            0 => Ok(()),
            1 => Err(Failure::failed("one thing is not as it should be").hint("the → below the ✗ says what to do")),
            more => Err(Failure::failed(format!("{more} things are not as they should be"))
                .hint("the → below each ✗ says what to do")),
        }
    }
}
