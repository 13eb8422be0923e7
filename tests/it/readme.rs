//! The examples and flags of the README and of docs/ match the program.

use std::path::Path;

use crate::support::engine::Engine;
use crate::support::fixture;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns the pages for users: their names and texts.
fn pages() -> Vec<(String, String)> {
    let docs = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).expect("docs/ is readable");
    let names = docs.map(|entry| format!("docs/{}", entry.expect("an entry").file_name().to_string_lossy()));
    let pages = names.filter(|name| name.ends_with(".md")).chain(["README.md".to_owned()]);
    pages.map(|name| (name.clone(), read(&name))).collect()
}

/// Returns the commands in the console blocks, each with its output.
fn examples(page: &str) -> Vec<(String, Vec<String>)> {
    let mut examples: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line) {
            (_, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ events "), examples.last_mut()) {
                (Some(args), _) => examples.push((args.into(), Vec::new())),
                (None, Some((_, printed))) => printed.push(line.into()),
                (None, None) => panic!("a console block starts with {line}, not with a command"),
            },
            (false, _) => {}
        }
    }
    examples
}

#[test]
fn the_examples_print_what_the_pages_show() {
    let test_dir = crate::support::command::TestDir::new();
    let engine = Engine::start(test_dir.path("docker.sock"));
    engine.set_identity("d2bd29c2-305b-449c-b173-d684a54510b6", "vm");
    fixture::lines("docker-28.5.2.ndjson").iter().for_each(|line| engine.emit(line));
    test_dir.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).assert_success();
    let examples: Vec<_> = pages().iter().flat_map(|(_, page)| examples(page)).collect();
    assert!(examples.len() >= 8, "{examples:?}");
    for (args, printed) in examples {
        let args: Vec<&str> = args.split(' ').collect();
        assert_eq!(test_dir.lines(&args), printed, "$ events {}", args.join(" "));
    }
}

#[test]
fn the_sql_examples_return_rows() {
    let test_dir = fixture::recorded_store(&fixture::lines("docker-28.5.2.ndjson"));
    let db = rusqlite::Connection::open(test_dir.db()).unwrap();
    let page = read("docs/sqlite.md");
    let block = page.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of SQL");
    let statements: Vec<&str> = block.split(';').map(str::trim).filter(|sql| !sql.is_empty()).collect();
    let row_count = |sql: &str| {
        let mut statement = db.prepare(sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        std::iter::from_fn(move || rows.next().unwrap().map(|_| ())).count()
    };
    assert_eq!(statements.into_iter().map(row_count).collect::<Vec<_>>(), [13, 10, 8]);
}

/// Returns every long flag in a help text.
fn flags(help: &str) -> Vec<String> {
    let starts = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let long = starts.filter_map(|line| {
        let flag = line.split([' ', ',', '[']).find(|word| word.starts_with("--"))?;
        Some(flag.trim_end_matches("...").to_owned())
    });
    long.collect()
}

#[test]
fn every_command_and_flag_is_documented() {
    let test_dir = crate::support::command::TestDir::new();
    let text: String = pages().into_iter().map(|(_, page)| page).collect();
    for command in test_dir.command_names() {
        assert!(text.contains(&format!("events {command}")), "{command}");
        let help = test_dir.run(&[&command, "--help"]).assert_success().lines().join("\n");
        for flag in flags(&help) {
            let is_common = ["--help", "--verbose", "--quiet"].contains(&flag.as_str());
            assert!(is_common || text.contains(&flag), "{command} {flag} is not documented");
        }
    }
}

#[test]
fn the_readme_has_the_test_command_that_ci_runs() {
    let ci = read(".ci/run");
    assert!(read("README.md").lines().any(|line| line.starts_with("cargo test ")));
    assert!(ci.lines().any(|line| line == "run cargo test"), "{ci}");
    assert!(ci.contains("cargo test --test real -- --test-threads=12"), "{ci}");
}

/// Returns the targets of the links in a page that lead to files of the repository.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).map(|target| target.split('#').next().unwrap_or_default())
}

#[test]
fn every_link_leads_to_a_file() {
    let design = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design")).expect("docs/design");
    let design = design.map(|entry| format!("docs/design/{}", entry.expect("an entry").file_name().to_string_lossy()));
    let others = ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "fixtures/README.md"];
    let names = design.chain(others.map(str::to_owned));
    for (name, page) in pages().into_iter().chain(names.map(|name| (name.clone(), read(&name)))) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name).parent().expect("a folder").to_owned();
        for target in links(&page).filter(|target| !target.is_empty()) {
            assert!(dir.join(target).exists(), "{name} links to {target}");
        }
    }
}
