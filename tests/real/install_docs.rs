//! Man pages and completions, read by the programs that use them.

use crate::support::installed_docs::{install, docs_command};

use crate::support::command::run;

#[test]
fn zsh_and_fish_complete_and_the_man_pages_have_no_errors() {
    let folder = install();
    let script = "fpath=($PWD/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D; \
                  print ${_comps[events]}; autoload +X _events && print loaded";
    assert_eq!(run(docs_command(&folder, "zsh", &["-fc", script])).assert_success().lines(), ["_events", "loaded"]);
    let fish = |line: &str| {
        let script = format!("complete -C '{line}'");
        let lines = run(docs_command(&folder, "fish", &["-c", &script])).assert_exit_code(0).lines();
        lines.iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(fish("events qu"), ["query"]);
    assert_eq!(fish("events query --format "), ["csv", "json", "table", "text"]);
    for page in std::fs::read_dir(folder.path("usr/share/man/man1")).expect("pages") {
        let page = page.expect("a page").path().display().to_string();
        run(docs_command(&folder, "mandoc", &["-T", "lint", "-W", "error", &page])).assert_success();
    }
}
