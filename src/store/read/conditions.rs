//! Conditions of a `WHERE` clause, with their values.

use rusqlite::types::Value;

/// Maximum number of values or prefixes in one condition. SQLite limits the depth of an expression and the number of
/// parameters. With more values, the condition is left out and all rows are tested.
const MAX_CONDITION_VALUES: usize = 200;

/// Conditions that must all hold, and their values.
#[derive(Default)]
pub(super) struct WhereClause {
    pub(super) conditions: Vec<String>,
    pub(super) values: Vec<Value>,
}

impl WhereClause {
    pub(super) fn add(&mut self, condition: &str, value: impl Into<Value>) {
        let condition = format!("{condition} {}", self.bind(value));
        self.conditions.push(condition);
    }

    pub(super) fn add_any_of(&mut self, column: &str, values: &[String]) {
        if values.len() > MAX_CONDITION_VALUES {
            return;
        }
        let list: Vec<String> = values.iter().map(|v| self.bind(v.clone())).collect();
        self.conditions.push(format!("{column} IN ({})", list.join(", ")));
    }

    /// Adds the condition that one of the columns begins with one of the prefixes, as ranges that an index can serve.
    pub(super) fn add_any_prefix(&mut self, columns: &[&str], prefixes: &[String]) {
        if prefixes.iter().any(String::is_empty) {
            return; // Every text begins with the empty prefix.
        }
        if prefixes.len() > MAX_CONDITION_VALUES {
            return;
        }
        let mut ranges = Vec::new();
        for column in columns {
            for prefix in prefixes {
                let from = self.bind(prefix.clone());
                ranges.push(match prefix_upper_bound(prefix) {
                    Some(end) => format!("({column} >= {from} AND {column} < {})", self.bind(end)),
                    None => format!("{column} >= {from}"),
                });
            }
        }
        self.conditions.push(format!("({})", ranges.join(" OR ")));
    }

    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("?{}", self.values.len())
    }
}

/// Returns the least text that sorts after every text beginning with `prefix`, bytewise; `None` if no text does.
fn prefix_upper_bound(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The order of UTF-8 bytes is the order of code points. No code point lies between U+D7FF and U+E000.
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            last => char::from_u32(last as u32 + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_range_contains_exactly_the_matching_texts(prefix in "\\PC{1,4}|[a\u{D7FF}\u{10FFFF}]{1,3}", text in "\\PC{0,4}", tail in "\\PC{0,3}") {
            let within = |text: &str| {
                text >= prefix.as_str() && prefix_upper_bound(&prefix).is_none_or(|end| text < end.as_str())
            };
            prop_assert_eq!(within(&text), text.starts_with(&prefix));
            let text = format!("{prefix}{tail}");
            prop_assert!(within(&text));
        }
    }
}
