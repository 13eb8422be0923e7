//! What the fuzzer began with, and every input it ever failed with, goes through the same properties again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Panics where it does not hold.
type Check = fn(&[u8]);

/// A property, and the name that its target, its seeds and its regressions have.
const PROPERTIES: [(&str, Check); 8] = [
    ("parser", crate::properties::parser::check),
    ("stream", crate::properties::stream::check),
    ("layout", crate::properties::layout::check),
    ("store", crate::properties::store::check),
    ("filter", crate::properties::filter::check),
    ("time", crate::properties::time::check),
    ("template", crate::properties::template::check),
    ("chain", crate::properties::chain::check),
];

fn fuzz(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder)
}

/// What is in a folder, by name; nothing if there is none.
fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

fn hold(folder: &str) -> usize {
    let mut inputs = 0;
    for (name, check) in PROPERTIES {
        for path in entries(&fuzz(folder).join(name)) {
            println!("{}", path.display()); // Shown if it fails.
            check(&fs::read(&path).expect("an input"));
            inputs += 1;
        }
    }
    inputs
}

#[test]
fn the_seeds_hold() {
    assert!(hold("seeds") >= PROPERTIES.len());
}

#[test]
fn what_once_failed_holds() {
    let inputs: usize = entries(&fuzz("regressions")).iter().map(|folder| entries(folder).len()).sum();
    assert_eq!(hold("regressions"), inputs, "each is of a property");
}

#[test]
fn each_property_has_a_target_and_seeds() {
    let names = |folder: &str| -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
        entries(&fuzz(folder)).into_iter().map(stem).collect()
    };
    let properties = BTreeSet::from(PROPERTIES.map(|(name, _)| name.to_owned()));
    assert_eq!(names("targets"), properties);
    assert_eq!(names("seeds"), properties);
}

#[test]
fn a_filter_may_have_any_number_of_values() {
    for key in ["event", "type", "container", "image", "label"] {
        let values: Vec<String> = (0..40_000).map(|n| format!("{n}")).collect();
        crate::properties::filter::check(serde_json::json!({ key: values }).to_string().as_bytes());
    }
}

/// What is looked at again and again takes sixteen times as long when there is four times as much of it.
#[test]
fn nothing_takes_longer_and_longer_the_more_there_is_of_it() {
    fn event(attributes: &str, more: &str) -> String {
        format!(r#"{{"Type":"t","Action":"a","Actor":{{"ID":"x","Attributes":{{{attributes}}}}},"time":1{more}}}"#)
    }
    fn many(number: usize, each: impl Fn(usize) -> String) -> String {
        (0..number).map(each).collect::<Vec<_>>().join(",")
    }
    type Made = fn(usize) -> String;
    let kinds: [(&str, Made); 15] = [
        ("nested arrays", |n| event("", &format!(",\"a\":{}{}", "[".repeat(4 * n), "]".repeat(4 * n)))),
        ("arrays that do not end", |n| "[".repeat(8 * n)),
        ("objects that do not end", |n| "{\"a\":".repeat(4 * n)),
        ("attributes", |n| event(&many(n, |n| format!("\"{n}\":\"v\"")), "")),
        ("attributes in no order", |n| event(&many(n, |at| format!("\"{}\":\"v\"", at * 7919 % n)), "")),
        ("the same attribute", |n| event(&many(n, |n| format!("\"exitCode\":\"{n}\"")), "")),
        ("members", |n| event("", &format!(",{}", many(n, |n| format!("\"{n}\":[]"))))),
        ("the same member", |n| event("", &format!(",{}", many(n, |n| format!("\"Type\":\"{n}\""))))),
        ("actors", |n| event("", &format!(",{}", many(n, |_| "\"Actor\":{\"ID\":\"y\"}".into())))),
        ("escapes", |n| event(&format!("\"a\":\"{}\"", "\\ud83d\\udc33".repeat(n)), "")),
        ("backslashes", |n| event(&format!("\"a\":\"{}\"", "\\\\".repeat(4 * n)), "")),
        ("digits", |n| event("", &format!(",\"timeNano\":{}", "1".repeat(8 * n)))),
        ("separators", |n| "\u{1e}".repeat(8 * n) + &event("", "")),
        ("records", |n| (event("", "") + "\u{1e}").repeat(n / 8)),
        ("lines", |n| "x\n".repeat(4 * n)),
    ];
    let took = |check: Check, input: &[u8]| {
        let begun = Instant::now();
        check(input);
        begun.elapsed()
    };
    for (what, made) in kinds {
        // The first bytes say how a stream is cut, or what time it is.
        let [less, more] = [12_500, 50_000].map(|n| [&[0; 8], made(n).as_bytes()].concat());
        for (name, check) in PROPERTIES {
            for input in [(&less[..], &more[..]), (&less[8..], &more[8..])] {
                // What is over at once is not measured, and a machine that was busy is asked again.
                let fair = || {
                    let long = took(check, input.1);
                    long < Duration::from_millis(500) || long < took(check, input.0) * 10
                };
                assert!((0..3).any(|_| fair()), "{name}: {what}");
            }
        }
    }
}
