//! The house rules that a machine can check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file, with the stage it belongs to.
fn sources() -> Vec<(String, String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let src = root().join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).expect("it is in src").display().to_string();
            let stage = name.split('/').next().expect("a name").trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).expect("a source is UTF-8");
            (name, stage, text)
        })
        .collect()
}

/// A stage imports only what stands before it.
#[test]
fn the_data_flows_one_way() {
    let may: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("error", &[][..]),
        ("event", &[]),
        ("engine", &[]),
        ("stream", &["event"]),
        ("store", &["event"]),
        ("query", &["event", "store"]),
        ("output", &["event", "query"]),
        ("serve", &["event", "engine", "store", "query"]),
        ("testing", &["stream", "serve"]),
        ("commands", &["event", "engine", "stream", "store", "query", "output", "serve"]),
        ("lib", &[]),
        ("main", &[]),
    ]);
    for (name, stage, text) in sources() {
        let allowed = may.get(stage.as_str()).unwrap_or_else(|| panic!("{name}: where does {stage} stand?"));
        for (at, _) in text.match_indices("crate::") {
            let imported: String =
                text[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert!(
                imported == stage || imported == "error" || allowed.contains(&imported.as_str()),
                "{name} imports {imported}"
            );
        }
    }
}

#[test]
fn each_library_is_named_where_it_belongs() {
    for (library, stages) in [
        ("rusqlite", &["store"][..]),
        ("hyper", &["engine", "serve"]),
        ("httparse", &["serve"]),
        ("clap", &["commands"]),
        ("prometheus_client", &["commands"]),
        ("tokio", &["engine", "serve", "testing", "commands", "store"]),
    ] {
        for (name, stage, text) in sources() {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<String>();
            let named = code.contains(&format!("{library}::"));
            assert!(!named || stages.contains(&stage.as_str()), "{name} names {library}");
        }
    }
}

#[test]
fn a_module_opens_with_what_it_is_for() {
    for (name, _, text) in sources() {
        assert!(text.starts_with("//! "), "{name}");
    }
}

/// A migration that has landed is in people's files: it is never changed, another one is added.
#[test]
fn the_migrations_are_those_that_landed() {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("migrations")).expect("migrations") {
        let path = entry.expect("an entry").path();
        let digest: String =
            Sha256::digest(fs::read(&path).expect("a migration")).iter().take(8).map(|b| format!("{b:02x}")).collect();
        found.push(format!("{} {digest}", path.file_name().expect("a name").to_string_lossy()));
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
