//! Progress bar of a long command. Drawn only if stderr is a terminal, and not with `-q`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{LogFormat, Shared};

/// Interval between two draws.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Progress bar that counts bytes.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Creates a bar for this number of bytes; `None` if it is unknown.
    pub(super) fn new(shared: &Shared, total_bytes: Option<u64>) -> Progress {
        // indicatif itself draws nothing if stderr is not a terminal.
        let is_visible = !shared.quiet && shared.log_format == LogFormat::Text;
        let target = if is_visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total_bytes, target);
        let template = if total_bytes == Some(0) { SPINNER_TEMPLATE } else { BAR_TEMPLATE };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        if !bar.is_hidden() {
            bar.enable_steady_tick(DRAW_INTERVAL);
        }
        Progress(bar)
    }

    /// Sets the total number of bytes.
    pub(super) fn set_total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    /// Sets the number of bytes that are done.
    pub(super) fn set_position(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    /// Sets the text beside the bar.
    pub(super) fn set_message(&self, message: String) {
        if !self.0.is_hidden() {
            self.0.set_message(message);
        }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Template of the bar.
const BAR_TEMPLATE: &str = "{bar:40} {percent:>3} % {binary_bytes} of {binary_total_bytes}, {eta} left {msg}";

/// Template for an unknown total.
const SPINNER_TEMPLATE: &str = "{spinner} {binary_bytes}, {elapsed} {msg}";
