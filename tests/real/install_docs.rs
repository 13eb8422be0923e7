//! Man pages and completions, read by the programs that use them.

use crate::support::installed_docs::{docs_command, install};

use crate::support::command::run;

#[test]
fn zsh_and_fish_complete_and_the_man_pages_have_no_errors() {
    let test_dir = install();
    let script = "fpath=($PWD/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D; \
                  print ${_comps[events]}; autoload +X _events && print loaded";
    assert_eq!(run(docs_command(&test_dir, "zsh", &["-fc", script])).assert_success().lines(), ["_events", "loaded"]);
    let fish = |line: &str| {
        let script = format!("complete -C '{line}'");
        let lines = run(docs_command(&test_dir, "fish", &["-c", &script])).assert_exit_code(0).lines();
        lines.iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(fish("events qu"), ["query"]);
    assert_eq!(fish("events query --format "), ["csv", "json", "table", "text"]);
    for page in std::fs::read_dir(test_dir.path("usr/share/man/man1")).expect("pages") {
        let page = page.expect("a page").path().display().to_string();
        run(docs_command(&test_dir, "mandoc", &["-T", "lint", "-W", "error", &page])).assert_success();
    }
}
