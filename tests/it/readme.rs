//! What the README shows is what happens.

use crate::support::engine::Engine;
use crate::support::fixture;

fn readme() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(path).expect("the README")
}

/// The commands in the console blocks, each with the lines it prints.
fn examples(readme: &str) -> Vec<(String, Vec<String>)> {
    let mut examples: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match (inside, line) {
            (_, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ events "), examples.last_mut()) {
                (Some(words), _) => examples.push((words.into(), Vec::new())),
                (None, Some((_, printed))) => printed.push(line.into()),
                (None, None) => panic!("a console block begins with {line}"),
            },
            (false, _) => {}
        }
    }
    examples
}

#[test]
fn the_examples_print_what_the_readme_shows() {
    let folder = crate::support::command::Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    engine.is_called("d2bd29c2-305b-449c-b173-d684a54510b6", "vm");
    fixture::lines("docker-28.5.2.ndjson").iter().for_each(|line| engine.happens(line));
    folder.run(&["record", "-H", &engine.host(), "--until", "now", "-q"]).succeeded();
    let examples = examples(&readme());
    assert!(examples.len() >= 7, "{examples:?}");
    for (words, printed) in examples {
        let words: Vec<&str> = words.split(' ').collect();
        assert_eq!(folder.lines(&words), printed, "$ events {}", words.join(" "));
    }
}

#[test]
fn the_questions_in_sql_are_answered() {
    let folder = fixture::recorded(&fixture::lines("docker-28.5.2.ndjson"));
    let db = rusqlite::Connection::open(folder.db()).unwrap();
    let readme = readme();
    let block = readme.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of SQL");
    let questions: Vec<&str> = block.split(';').map(str::trim).filter(|sql| !sql.is_empty()).collect();
    let answers = |sql: &str| {
        let mut statement = db.prepare(sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        std::iter::from_fn(move || rows.next().unwrap().map(|_| ())).count()
    };
    assert_eq!(questions.into_iter().map(answers).collect::<Vec<_>>(), [13, 10, 8]);
}

/// Every long flag that `--help` shows, of a command or of all.
fn flags(help: &str) -> Vec<String> {
    let starts = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let long = starts.filter_map(|line| {
        let flag = line.split([' ', ',', '[']).find(|word| word.starts_with("--"))?;
        Some(flag.trim_end_matches("...").to_owned())
    });
    long.collect()
}

#[test]
fn every_command_and_every_flag_stand_in_the_readme() {
    let folder = crate::support::command::Folder::new();
    let readme = readme();
    for command in folder.commands() {
        assert!(readme.contains(&format!("events {command}")), "{command}");
        let help = folder.run(&[&command, "--help"]).succeeded().lines().join("\n");
        for flag in flags(&help) {
            let usual = ["--help", "--verbose", "--quiet"].contains(&flag.as_str());
            assert!(usual || readme.contains(&flag), "{command} {flag} is not in the README");
        }
    }
}

#[test]
fn the_test_command_of_the_readme_is_the_one_that_ci_runs() {
    let ci = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run");
    let ci = std::fs::read_to_string(ci).expect(".ci/run");
    assert!(readme().lines().any(|line| line.starts_with("cargo test ")));
    assert!(ci.lines().any(|line| line == "run cargo test"), "{ci}");
    assert!(ci.contains("cargo test --test real -- --test-threads=1"), "{ci}");
}
