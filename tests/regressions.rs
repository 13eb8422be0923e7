//! What the fuzzer began with, and every input it ever failed with, goes through the same properties again.

mod properties;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A property, and the name that its target, its seeds and its regressions have.
const PROPERTIES: [(&str, fn(&[u8])); 7] = [
    ("parser", properties::parser::check),
    ("stream", properties::stream::check),
    ("layout", properties::layout::check),
    ("store", properties::store::check),
    ("filter", properties::filter::check),
    ("time", properties::time::check),
    ("chain", properties::chain::check),
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
        properties::filter::check(serde_json::json!({ key: values }).to_string().as_bytes());
    }
}

/// An event with a megabyte or two of one thing takes seconds where it is looked at again and again.
#[test]
fn nothing_takes_longer_the_more_there_is_of_it() {
    let event = |attributes: &str, more: &str| {
        format!(r#"{{"Type":"t","Action":"a","Actor":{{"ID":"x","Attributes":{{{attributes}}}}},"time":1{more}}}"#)
    };
    let many = |each: &dyn Fn(usize) -> String| (0..100_000).map(each).collect::<Vec<_>>().join(",");
    for (what, line) in [
        ("nested arrays", event("", &format!(",\"a\":{}{}", "[".repeat(500_000), "]".repeat(500_000)))),
        ("arrays that do not end", "[".repeat(1_000_000)),
        ("objects that do not end", "{\"a\":".repeat(300_000)),
        ("attributes", event(&many(&|n| format!("\"{n}\":\"v\"")), "")),
        ("attributes in no order", event(&many(&|n| format!("\"{}\":\"v\"", n * 7919 % 100_000)), "")),
        ("the same attribute", event(&many(&|n| format!("\"exitCode\":\"{n}\"")), "")),
        ("members", event("", &format!(",{}", many(&|n| format!("\"{n}\":[]"))))),
        ("the same member", event("", &format!(",{}", many(&|n| format!("\"Type\":\"{n}\""))))),
        ("actors", event("", &format!(",{}", many(&|_| "\"Actor\":{\"ID\":\"y\"}".into())))),
        ("escapes", event(&format!("\"a\":\"{}\"", "\\ud83d\\udc33".repeat(100_000)), "")),
        ("backslashes", event(&format!("\"a\":\"{}\"", "\\\\".repeat(500_000)), "")),
        ("digits", event("", &format!(",\"timeNano\":{}", "1".repeat(1_000_000)))),
        ("separators", "\u{1e}".repeat(1_000_000) + &event("", "")),
        ("records", (event("", "") + "\u{1e}").repeat(10_000)),
        ("lines", "x\n".repeat(500_000)),
    ] {
        for (name, check) in PROPERTIES {
            let begun = Instant::now();
            // What says how a stream is cut, or what time it is.
            check(&[&[0; 8], line.as_bytes()].concat());
            check(line.as_bytes());
            let took = begun.elapsed();
            println!("{what}: {name} {took:?}");
            assert!(took < Duration::from_secs(20), "{what}: {name} took {took:?}");
        }
    }
}
