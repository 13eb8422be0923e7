//! Floating-point numbers as Go's strconv writes them.

/// With as few digits as tell it from others: in the form `e`, `f` or `g`.
pub(super) fn shortest(number: f64, form: char) -> String {
    if !number.is_finite() {
        return special(number).into();
    }
    let scientific = format!("{number:e}");
    match form {
        'e' => exponent(&scientific),
        'f' => format!("{number}"),
        // As if six digits were wanted.
        _ if (-4..6).contains(&power(&scientific)) => format!("{number}"),
        _ => exponent(&scientific),
    }
}

/// With a number of digits: behind the point for `e` and `f`, in all for `g`.
pub(super) fn precise(number: f64, form: char, wanted: usize) -> String {
    if !number.is_finite() {
        return special(number).into();
    }
    let digits = wanted.min(ALL_DIGITS);
    let zeros = || "0".repeat(wanted - digits);
    match form {
        'e' => {
            let scientific = format!("{number:.digits$e}");
            let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            exponent(&format!("{mantissa}{}e{power}", zeros()))
        }
        'f' => format!("{number:.digits$}") + &zeros(),
        _ => {
            let wanted = digits.max(1);
            let scientific = format!("{number:.*e}", wanted - 1);
            let power = power(&scientific);
            if power < -4 || power >= wanted as i32 {
                let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
                return exponent(&format!("{}e{power}", bare(mantissa)));
            }
            bare(&format!("{number:.*}", (wanted as i32 - 1 - power) as usize)).to_owned()
        }
    }
}

/// No number has more digits that are not zero; Rust writes no more than some ten thousand.
const ALL_DIGITS: usize = 1_100;

/// The exponent of what Rust wrote.
fn power(scientific: &str) -> i32 {
    scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0)
}

/// Without zeros at the end.
fn bare(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn special(number: f64) -> &'static str {
    match number {
        number if number.is_nan() => "NaN",
        number if number > 0.0 => "+Inf",
        _ => "-Inf",
    }
}

/// Rust's `1e-7` as Go's `1e-07`.
fn exponent(scientific: &str) -> String {
    let (mantissa, power) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
    format!("{mantissa}e{sign}{power:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        let written = |numbers: &[f64]| numbers.iter().map(|number| shortest(*number, 'g')).collect::<Vec<_>>();
        assert_eq!(
            written(&[0.0, 1.0, 0.1, 100_000.0, 1e6, -1_234_567.5]),
            ["0", "1", "0.1", "100000", "1e+06", "-1.2345675e+06"]
        );
        assert_eq!(written(&[1e20, 1e100, 1e-4, 1e-5]), ["1e+20", "1e+100", "0.0001", "1e-05"]);
        assert_eq!([precise(12345.678, 'g', 3), precise(1.5, 'g', 4), precise(0.0, 'g', 6)], ["1.23e+04", "1.5", "0"]);
        assert_eq!([precise(1.005, 'f', 2), precise(1234.5, 'e', 1)], ["1.00", "1.2e+03"]);
    }
}
