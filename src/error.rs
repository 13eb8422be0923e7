//! What every stage says in the same words: errors with what caused them, and numbers of things.

use std::error::Error;

/// An error and what caused it, on one line.
pub fn chain(error: &dyn Error) -> String {
    // The system's own words are enough; its number is for programs.
    let words = |error: &dyn Error| error.to_string().split(" (os error ").next().unwrap_or_default().to_owned();
    let mut line = words(error);
    let mut next = error.source();
    while let Some(cause) = next {
        let text = words(cause);
        // Some libraries' errors say their cause themselves, and SQLite's comes with a number that says it again.
        if !line.ends_with(&text) && !text.starts_with("Error code ") {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line.replace('\n', " ")
}

/// So many of something, as `1 gap` or `2 gaps`.
pub fn number(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
