//! The properties of the fuzzer, with its seeds and with every input that ever failed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Panics if the property does not hold for this input.
type Check = fn(&[u8]);

/// Each property, with the name of its fuzz target, seeds and regressions.
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

fn fuzz_dir(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(dir)
}

/// Returns the paths in a directory, sorted; none if the directory does not exist.
fn entries(dir: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeSet::new() };
    entries.map(|entry| entry.expect("the entry is readable").path()).collect()
}

/// Checks each property with its inputs; returns the number of inputs.
fn check_inputs(dir: &str) -> usize {
    let mut inputs = 0;
    for (name, check) in PROPERTIES {
        for path in entries(&fuzz_dir(dir).join(name)) {
            println!("{}", path.display()); // Printed if the check fails.
            check(&fs::read(&path).expect("the input is readable"));
            inputs += 1;
        }
    }
    inputs
}

#[test]
fn the_properties_hold_for_all_seeds() {
    assert!(check_inputs("seeds") >= PROPERTIES.len());
}

#[test]
fn the_properties_hold_for_all_past_failures() {
    let inputs: usize = entries(&fuzz_dir("regressions")).iter().map(|dir| entries(dir).len()).sum();
    assert_eq!(check_inputs("regressions"), inputs, "each regression belongs to a property");
}

#[test]
fn each_property_has_a_target_and_seeds() {
    let names = |dir: &str| -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().expect("the path has a file name").to_string_lossy().into_owned();
        entries(&fuzz_dir(dir)).into_iter().map(stem).collect()
    };
    let properties = BTreeSet::from(PROPERTIES.map(|(name, _)| name.to_owned()));
    assert_eq!(names("targets"), properties);
    assert_eq!(names("seeds"), properties);
}

#[test]
fn a_filter_accepts_any_number_of_values() {
    for key in ["event", "type", "container", "image", "label"] {
        let values: Vec<String> = (0..40_000).map(|n| format!("{n}")).collect();
        crate::properties::filter::check(serde_json::json!({ key: values }).to_string().as_bytes());
    }
}

/// Returns the CPU time of this thread, which does not depend on what else runs on the machine.
fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}

/// Quadratic work would take sixteen times as long for four times the input.
#[test]
fn no_property_takes_quadratic_time() {
    fn event(attributes: &str, more: &str) -> String {
        format!(r#"{{"Type":"t","Action":"a","Actor":{{"ID":"x","Attributes":{{{attributes}}}}},"time":1{more}}}"#)
    }
    fn join_generated(number: usize, generate_item: impl Fn(usize) -> String) -> String {
        (0..number).map(generate_item).collect::<Vec<_>>().join(",")
    }
    type Generator = fn(usize) -> String;
    let kinds: [(&str, Generator); 15] = [
        ("nested arrays", |n| event("", &format!(",\"a\":{}{}", "[".repeat(4 * n), "]".repeat(4 * n)))),
        ("arrays that do not end", |n| "[".repeat(8 * n)),
        ("objects that do not end", |n| "{\"a\":".repeat(4 * n)),
        ("attributes", |n| event(&join_generated(n, |n| format!("\"{n}\":\"v\"")), "")),
        ("attributes in no order", |n| event(&join_generated(n, |at| format!("\"{}\":\"v\"", at * 7919 % n)), "")),
        ("the same attribute", |n| event(&join_generated(n, |n| format!("\"exitCode\":\"{n}\"")), "")),
        ("members", |n| event("", &format!(",{}", join_generated(n, |n| format!("\"{n}\":[]"))))),
        ("the same member", |n| event("", &format!(",{}", join_generated(n, |n| format!("\"Type\":\"{n}\""))))),
        ("actors", |n| event("", &format!(",{}", join_generated(n, |_| "\"Actor\":{\"ID\":\"y\"}".into())))),
        ("escapes", |n| event(&format!("\"a\":\"{}\"", "\\ud83d\\udc33".repeat(n)), "")),
        ("backslashes", |n| event(&format!("\"a\":\"{}\"", "\\\\".repeat(4 * n)), "")),
        ("digits", |n| event("", &format!(",\"timeNano\":{}", "1".repeat(8 * n)))),
        ("separators", |n| "\u{1e}".repeat(8 * n) + &event("", "")),
        ("records", |n| (event("", "") + "\u{1e}").repeat(n / 8)),
        ("lines", |n| "x\n".repeat(4 * n)),
    ];
    let duration = |check: Check, input: &[u8]| {
        let start = thread_cpu_time();
        check(input);
        thread_cpu_time() - start
    };
    for (kind, generate) in kinds {
        // Some properties read parameters from the first bytes: where a stream is cut, or the time.
        let [less, more] = [12_500, 50_000].map(|n| [&[0; 8], generate(n).as_bytes()].concat());
        for (name, check) in PROPERTIES {
            for input in [(&less[..], &more[..]), (&less[8..], &more[8..])] {
                // Short times are not compared, and a slow run is repeated: caches can be cold.
                let is_fast = || {
                    let long = duration(check, input.1);
                    long < Duration::from_millis(500) || long < duration(check, input.0) * 10
                };
                assert!((0..3).any(|_| is_fast()), "{name}: {kind}");
            }
        }
    }
}
