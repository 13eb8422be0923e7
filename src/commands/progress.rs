//! A bar that shows how far a long command is, where somebody watches: on a terminal, and not with `-q`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{LogFormat, Shared};

/// How often it is drawn at most, and at least while nothing happens.
const DRAWN: Duration = Duration::from_millis(100);

/// How far a command is, in bytes.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Of so many bytes; `None` where it is not known.
    pub(super) fn of_bytes(shared: &Shared, all: Option<u64>) -> Progress {
        // indicatif draws nothing where stderr is no terminal.
        let shown = !shared.quiet && shared.log_format == LogFormat::Text;
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(all, target);
        let form = if all == Some(0) { ONGOING } else { BAR };
        bar.set_style(ProgressStyle::with_template(form).expect("the form is sound"));
        if !bar.is_hidden() {
            bar.enable_steady_tick(DRAWN);
        }
        Progress(bar)
    }

    /// There are so many.
    pub(super) fn all_are(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    /// So many are done.
    pub(super) fn are_done(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Says something beside it.
    pub(super) fn say(&self, text: String) {
        if !self.0.is_hidden() {
            self.0.set_message(text);
        }
    }

    /// It is taken away.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// What it looks like.
const BAR: &str = "{bar:40} {percent:>3} % {binary_bytes} of {binary_total_bytes}, {eta} left {msg}";

/// Where it is not known how much there is.
const ONGOING: &str = "{spinner} {binary_bytes}, {elapsed} {msg}";
