//! Sizes in options and output.

use crate::cli::Failure;

/// Parses a size: a number of bytes, or a number with a unit, such as `64MiB`, `64MB` or `64m`.
pub(in crate::cli) fn parse_size(flag: &str, text: &str) -> Result<usize, Failure> {
    let invalid =
        || Failure::usage(format!("{flag} '{text}' is not a size")).hint("write a size such as 64MiB, 500kB or 1GiB");
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
        _ => return Err(invalid()),
    };
    let number: usize = number.parse().map_err(|_| invalid())?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(invalid)
}

/// Formats a number of bytes for people.
pub(in crate::cli) fn format_size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_decimal_and_binary_units() {
        for (text, bytes) in [("1", 1), ("64MiB", 64 << 20), ("64m", 64 << 20), ("500kB", 500_000), ("1 GiB", 1 << 30)]
        {
            assert_eq!(parse_size("--buffer", text).unwrap(), bytes, "{text}");
        }
        for text in ["", "0", "MiB", "-1", "1.5MiB", "1TiB", "99999999999GiB"] {
            assert!(parse_size("--buffer", text).is_err(), "{text}");
        }
    }
}
