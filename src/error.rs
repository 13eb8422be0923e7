//! Texts that every module formats the same way: errors with their causes, counted nouns, and hexadecimal digits.

use std::error::Error;

/// Formats an error and its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    // The text of a system error is enough; its number is for programs.
    let message = |error: &dyn Error| error.to_string().split(" (os error ").next().unwrap_or_default().to_owned();
    let mut line = message(error);
    let mut next = error.source();
    while let Some(cause) = next {
        let text = message(cause);
        // Errors of some libraries already contain their cause, and SQLite's have a second cause with only a number.
        if !line.ends_with(&text) && !text.starts_with("Error code ") {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line.replace('\n', " ")
}

/// Formats bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).expect("four bits are a digit");
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
        text
    })
}

/// Formats a count with its noun, such as `1 gap` or `2 gaps`.
pub fn count_noun(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}
