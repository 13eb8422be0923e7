//! What the fuzzer began with, and every input it ever failed with, goes through the same properties again.

mod properties;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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
