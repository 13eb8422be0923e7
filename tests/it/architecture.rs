//! Rules about the source that a test can check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
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

/// Stages whose files still import each other in a circle. Remove a stage from this list once its circle is untied.
const STAGES_WITH_CYCLES: &[&str] = &["cli", "engine", "output", "recorder", "serve"];

#[test]
fn no_import_cycles_within_a_stage() {
    let modules = Modules::read();
    for stage in modules.stages().into_iter().filter(|stage| !STAGES_WITH_CYCLES.contains(&stage.as_str())) {
        let imports = modules.imports_within(&stage);
        let cycle = find_cycle(&imports);
        assert!(cycle.is_none(), "files of {stage} import each other: {}", cycle.unwrap_or_default().join(" → "));
        // A folder of the stage counts as one file, so that its folders have an order too.
        let folder = |file: &str| file.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in imports.iter().flat_map(|(from, all)| all.iter().map(move |to| (folder(from), folder(to)))) {
            if from != to {
                folders.entry(from).or_default().insert(to);
            }
        }
        let cycle = find_cycle(&folders);
        assert!(cycle.is_none(), "folders of {stage} import each other: {}", cycle.unwrap_or_default().join(" → "));
    }
}

/// The list must not keep a stage that has no cycle any more.
#[test]
fn each_stage_listed_with_cycles_has_one() {
    let modules = Modules::read();
    for stage in STAGES_WITH_CYCLES {
        assert!(find_cycle(&modules.imports_within(stage)).is_some(), "{stage} has no import cycle: unlist it");
    }
}

/// All modules of the crate by path, such as `store::read::merge`.
struct Modules(BTreeMap<Vec<String>, Module>);

struct Module {
    /// Path of the file below `src/`.
    file: String,
    /// Paths that its code names, as they are written.
    paths: Vec<Vec<String>>,
    /// Paths that it re-exports, by name.
    exports: BTreeMap<String, Vec<String>>,
}

impl Modules {
    fn read() -> Modules {
        let modules = sources().into_iter().map(|(file, _, text)| {
            let path = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').map(str::to_owned).collect();
            (path, Module::parse(file, &text))
        });
        Modules(modules.collect())
    }

    fn stages(&self) -> BTreeSet<String> {
        self.0.keys().map(|path| path[0].clone()).collect()
    }

    /// Returns the imports between the files of a stage.
    fn imports_within(&self, stage: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut imports = BTreeMap::new();
        for (path, module) in self.0.iter().filter(|(path, _)| path[0] == stage) {
            let targets = module.paths.iter().filter_map(|named| self.resolve(path, named));
            let targets = targets.filter_map(|target| self.definition(&target, 0));
            let files = targets.filter(|target| target[0] == stage && target != path).map(|t| self.0[&t].file.clone());
            imports.insert(module.file.clone(), files.collect());
        }
        imports
    }

    /// Returns the path from the root of the crate; `None` if the path leads to another crate.
    fn resolve(&self, module: &[String], named: &[String]) -> Option<Vec<String>> {
        let supers = named.iter().take_while(|segment| *segment == "super").count();
        let (base, rest) = match named[0].as_str() {
            "crate" => (&[][..], &named[1..]),
            "self" => (module, &named[1..]),
            "super" => (&module[..module.len().checked_sub(supers)?], &named[supers..]),
            _ => (module, named),
        };
        let path = [base, rest].concat();
        let is_local = ["crate", "self", "super"].contains(&named[0].as_str());
        (is_local || self.0.contains_key(&path[..=base.len()])).then_some(path)
    }

    /// Returns the module that defines an item, through the re-exports of the modules on the way.
    fn definition(&self, path: &[String], depth: usize) -> Option<Vec<String>> {
        assert!(depth < 16, "{path:?} is re-exported in a circle");
        let at = (1..=path.len()).rev().find(|at| self.0.contains_key(&path[..*at]))?;
        let (module, item) = path.split_at(at);
        let exported = item.first().and_then(|name| self.0[module].exports.get(name));
        match exported.and_then(|exported| self.resolve(module, exported)) {
            Some(exported) => self.definition(&[&exported, &item[1..]].concat(), depth + 1),
            None => Some(module.to_vec()),
        }
    }
}

impl Module {
    fn parse(file: String, text: &str) -> Module {
        // Tests may import anything.
        let text = text.split("\n#[cfg(test)]\nmod ").next().expect("a split has a first part");
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(String::new(), |mut code, line| {
                code.push_str(line);
                code.push('\n');
                code
            });
        let (mut paths, mut exports) = (Vec::new(), BTreeMap::new());
        let use_statement = Regex::new(r"(?m)^\s*(pub(?:\([^)]*\))? )?use ([^;]+);").expect("the pattern is valid");
        for found in use_statement.captures_iter(&code) {
            for (name, path) in expand_use(&found[2]) {
                // A module that re-exports an item of its child does not depend on the child.
                match found.get(1).is_some() && file.ends_with("mod.rs") {
                    true => drop(exports.insert(name, path)),
                    false => paths.push(path),
                }
            }
        }
        let rest = use_statement.replace_all(&code, "");
        let inline_path = Regex::new(r"\b[a-z_]+(?:::\w+)+").expect("the pattern is valid");
        paths.extend(inline_path.find_iter(&rest).map(|path| segments(path.as_str())));
        Module { file, paths, exports }
    }
}

/// Splits `a::{b, c::{self, d as e}}` into paths, each with the name that it gets.
fn expand_use(tree: &str) -> Vec<(String, Vec<String>)> {
    let Some((prefix, list)) = tree.split_once('{') else {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, tree.rsplit("::").next().unwrap_or(tree)));
        return vec![(name.trim().to_owned(), segments(path))];
    };
    let list = list.trim_end().strip_suffix('}').expect("the braces are balanced");
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("there is a part").push(c);
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(|part| match part.trim() {
            "self" => expand_use(prefix.trim_end_matches("::")),
            part => match part.strip_prefix("self as ") {
                Some(name) => expand_use(&format!("{} as {name}", prefix.trim_end_matches("::"))),
                None => expand_use(&format!("{prefix}{part}")),
            },
        })
        .collect()
}

fn segments(path: &str) -> Vec<String> {
    path.trim().split("::").map(|segment| segment.trim().to_owned()).collect()
}

/// Returns a cycle, which begins and ends with the same node.
fn find_cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        node: &str,
        edges: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|earlier| earlier == node) {
            return Some([&path[start..], &[node.to_owned()]].concat());
        }
        if !done.insert(node.to_owned()) {
            return None;
        }
        path.push(node.to_owned());
        let cycle = edges.get(node).into_iter().flatten().find_map(|next| visit(next, edges, path, done));
        path.pop();
        cycle
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|node| visit(node, edges, &mut Vec::new(), &mut done))
}

#[test]
fn the_search_for_import_cycles_finds_them() {
    let module = |file: &str, text: &str| {
        let path = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').map(str::to_owned).collect();
        (path, Module::parse(file.into(), text))
    };
    let cycle_of = |files: &[(&str, &str)]| {
        let modules = Modules(files.iter().map(|(file, text)| module(file, text)).collect());
        find_cycle(&modules.imports_within("a")).map(|cycle| cycle.join(" → "))
    };
    // Through a re-export of the parent, nested braces and a rename.
    let parent = ("a/mod.rs", "pub use b::{c::{C, self as d}, B};\nmod b;\n");
    let b = ("a/b.rs", "use crate::a::{x, y::{self, Z}};\nuse super::C;\n");
    let c = ("a/b/c.rs", "pub(super) fn f() { super::super::B::new() }\n");
    assert_eq!(cycle_of(&[parent, b, c]).as_deref(), Some("a/b.rs → a/b/c.rs → a/b.rs"));
    let c = (
        "a/b/c.rs",
        "// use super::super::B;\n#[derive(Debug)]\nstruct C;\n\n#[cfg(test)]\nmod tests { use super::super::B; }\n",
    );
    assert_eq!(cycle_of(&[parent, b, c]), None);
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
