//! Rules about the source that a test can check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Reads every source file; returns its path below `src/`, its stage and its text.
fn sources() -> Vec<(String, String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("the source folder is readable") {
            let path = entry.expect("the entry is readable").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let src = root().join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).expect("the file is below src").display().to_string();
            let stage = name.split('/').next().expect("a path has a first part").trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            (name, stage, text)
        })
        .collect()
}

#[test]
fn each_stage_imports_only_earlier_stages() {
    let allowed_imports: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("cache", &[][..]),
        ("clock", &[]),
        ("error", &[]),
        ("event", &[]),
        ("engine", &[]),
        ("stream", &["event"]),
        ("store", &["event"]),
        ("query", &["event", "store"]),
        ("http", &["engine"]),
        ("recorder", &["event", "engine", "stream", "store", "query", "http"]),
        ("output", &["event", "query"]),
        ("serve", &["event", "engine", "store", "query", "http"]),
        ("testing", &["stream", "http", "serve"]),
        ("cli", &["event", "engine", "stream", "store", "query", "http", "recorder", "output", "serve"]),
        ("lib", &[]),
        ("main", &[]),
    ]);
    for (name, stage, text) in sources() {
        let allowed = allowed_imports
            .get(stage.as_str())
            .unwrap_or_else(|| panic!("{name}: the test lists no imports for stage {stage}"));
        for (at, _) in text.match_indices("crate::") {
            let imported: String =
                text[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert!(
                imported == stage
                    || imported == "error"
                    || ["clock", "cache"].contains(&imported.as_str())
                    || allowed.contains(&imported.as_str()),
                "{name} imports {imported}"
            );
        }
    }
}

#[test]
fn each_library_is_used_only_in_its_stages() {
    for (library, stages) in [
        ("rusqlite", &["store"][..]),
        ("hyper", &["engine", "http", "serve"]),
        ("httparse", &["http"]),
        ("clap", &["cli"]),
        ("prometheus_client", &["recorder"]),
        ("tokio", &["engine", "http", "recorder", "serve", "testing", "cli", "store"]),
    ] {
        for (name, stage, text) in sources() {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<String>();
            let is_used = code.contains(&format!("{library}::"));
            assert!(!is_used || stages.contains(&stage.as_str()), "{name} uses {library}");
        }
    }
}

#[test]
fn every_module_starts_with_module_docs() {
    for (name, _, text) in sources() {
        assert!(text.starts_with("//! "), "{name}");
    }
}

/// Users' stores depend on landed migrations: a change of the schema is a new migration.
#[test]
fn landed_migrations_are_unchanged() {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("migrations")).expect("the folder of migrations is readable") {
        let path = entry.expect("the entry is readable").path();
        let text = fs::read(&path).expect("the file is readable");
        let digest: String = Sha256::digest(text).iter().take(8).map(|b| format!("{b:02x}")).collect();
        found.push(format!("{} {digest}", path.file_name().expect("the path has a file name").to_string_lossy()));
    }
    found.sort();
    assert_eq!(
        found,
        [
            "0001_record.sql 1a0059e44f50f22d",
            "0002_interned.sql dd22964dff5f89a9",
            "0003_evidence.sql 356a3e6129e5bd03",
            "0004_healthchecks.sql 3516a59daf9618ab",
            "0005_texts.sql dada29856739d630"
        ]
    );
}
