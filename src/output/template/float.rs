//! Formats floating-point numbers as Go's strconv does.

/// Formats a number with the fewest digits that identify it, in the format `e`, `f` or `g`.
pub(super) fn format_shortest(number: f64, format: char) -> String {
    if !number.is_finite() {
        return non_finite(number).into();
    }
    let scientific = format!("{number:e}");
    match format {
        'e' => go_scientific(&scientific),
        'f' => format!("{number}"),
        // Go decides this as if the precision were six.
        _ if (-4..6).contains(&decimal_exponent(&scientific)) => format!("{number}"),
        _ => go_scientific(&scientific),
    }
}

/// Formats a number with a precision: digits after the point for `e` and `f`, significant digits for `g`.
pub(super) fn format_with_precision(number: f64, format: char, precision: usize) -> String {
    if !number.is_finite() {
        return non_finite(number).into();
    }
    let digits = precision.min(MAX_DIGITS);
    let zeros = || "0".repeat(precision - digits);
    match format {
        'e' => {
            let scientific = format!("{number:.digits$e}");
            let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            go_scientific(&format!("{mantissa}{}e{power}", zeros()))
        }
        'f' => format!("{number:.digits$}") + &zeros(),
        _ => {
            let significant_digits = digits.max(1);
            let scientific = format!("{number:.*e}", significant_digits - 1);
            let power = decimal_exponent(&scientific);
            if power < -4 || power >= significant_digits as i32 {
                let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
                return go_scientific(&format!("{}e{power}", trim_zeros(mantissa)));
            }
            trim_zeros(&format!("{number:.*}", (significant_digits as i32 - 1 - power) as usize)).to_owned()
        }
    }
}

/// More digits than any number has before its trailing zeros. Rust formats at most some ten thousand digits.
const MAX_DIGITS: usize = 1_100;

/// Returns the exponent of a number in Rust's scientific format.
fn decimal_exponent(scientific: &str) -> i32 {
    scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0)
}

/// Removes trailing zeros after the decimal point.
fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn non_finite(number: f64) -> &'static str {
    match number {
        number if number.is_nan() => "NaN",
        number if number > 0.0 => "+Inf",
        _ => "-Inf",
    }
}

/// Converts Rust's `1e-7` to Go's `1e-07`.
fn go_scientific(scientific: &str) -> String {
    let (mantissa, power) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
    format!("{mantissa}e{sign}{power:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_formatted_like_go() {
        let render = |numbers: &[f64]| numbers.iter().map(|number| format_shortest(*number, 'g')).collect::<Vec<_>>();
        assert_eq!(
            render(&[0.0, 1.0, 0.1, 100_000.0, 1e6, -1_234_567.5]),
            ["0", "1", "0.1", "100000", "1e+06", "-1.2345675e+06"]
        );
        assert_eq!(render(&[1e20, 1e100, 1e-4, 1e-5]), ["1e+20", "1e+100", "0.0001", "1e-05"]);
        assert_eq!(
            [
                format_with_precision(12345.678, 'g', 3),
                format_with_precision(1.5, 'g', 4),
                format_with_precision(0.0, 'g', 6)
            ],
            ["1.23e+04", "1.5", "0"]
        );
        assert_eq!([format_with_precision(1.005, 'f', 2), format_with_precision(1234.5, 'e', 1)], ["1.00", "1.2e+03"]);
    }
}
