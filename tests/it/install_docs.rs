//! `install-docs` installs man pages and completions.

use crate::support::installed_docs::{docs_command, install};

use crate::support::command::{TestDir, run};

#[test]
fn every_command_has_a_man_page_with_its_flags() {
    let test_dir = install();
    let page = |name: &str| {
        let page = std::fs::read_to_string(test_dir.path(&format!("usr/share/man/man1/{name}.1"))).expect(name);
        assert!(page.contains(&format!(".TH {name} 1 ")), "{page}");
        page.replace("\\-", "-")
    };
    let all = page("events");
    let commands = test_dir.command_names();
    assert!(commands.len() >= 13, "{commands:?}");
    for command in &commands {
        assert!(all.contains(&format!("events-{command}(1)")), "{all}");
        let page = page(&format!("events-{command}"));
        assert!(page.contains("--db") && page.contains(&format!("events {command}")), "{page}");
    }
    assert!(page("events-query").contains("--envelope"));
    let replay = page("events-replay");
    assert!(replay.contains(".SH SYNOPSIS\nevents replay [OPTIONS] [FIXTURE]... [-- <CMD>...]\n"), "{replay}");
    let pages = std::fs::read_dir(test_dir.path("usr/share/man/man1")).expect("man1 is readable").count();
    assert_eq!(pages, commands.len() + 1);
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let test_dir = install();
    let completions = |line: &str| {
        let script = format!(
            "source bash-completion/completions/events; complete -p events >&2 || exit; \
             COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _events events \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = run(docs_command(&test_dir, "bash", &["--norc", "-c", &script])).assert_exit_code(0);
        assert!(output.stderr.contains("-F _events"), "{}", output.report());
        output.lines()
    };
    assert_eq!(completions("events qu"), ["query"]);
    assert_eq!(completions("events query --env"), ["--envelope"]);
    assert_eq!(completions("events query --format ''"), ["json", "text", "table", "csv"]);
}

#[test]
fn an_unwritable_directory_is_named() {
    let test_dir = TestDir::new();
    std::fs::write(test_dir.path("file"), "").unwrap();
    let prefix = test_dir.path("file").display().to_string();
    let line = format!(
        "cannot write {prefix}/share/man/man1/events.1: Not a directory (hint: pass another directory with --prefix)"
    );
    test_dir.run(&["install-docs", "--prefix", &prefix]).assert_failure(1, &line);
}
