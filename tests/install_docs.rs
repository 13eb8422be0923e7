//! Man pages and completions: installed by one command, and taken by what reads them.
//!
//! zsh, fish and mandoc are installed by `.ci/run`: `cargo test --test install_docs -- --ignored`.

mod support;

use std::path::Path;
use std::process::Command;

use support::command::{Folder, exists, run};

fn installed() -> Folder {
    let folder = Folder::new();
    let prefix = folder.path("usr");
    for path in folder.lines(&["install-docs", "--prefix", &prefix.display().to_string()]) {
        assert!(path.starts_with(&*prefix.to_string_lossy()) && exists(path.as_ref()), "{path}");
    }
    folder
}

/// A program on what was installed, with nothing of the environment.
fn reader(folder: &Folder, program: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    // fish completes only what it finds.
    let events = Path::new(env!("CARGO_BIN_EXE_events")).parent().expect("it is in a folder");
    let path = format!("{}:{}", events.display(), std::env::var("PATH").unwrap_or_default());
    command.args(words).env_clear().env("PATH", path);
    command
        .env("HOME", folder.path(""))
        .env("XDG_DATA_DIRS", folder.path("usr/share"))
        .current_dir(folder.path("usr/share"));
    command
}

#[test]
fn every_command_has_a_man_page_that_shows_its_flags() {
    let folder = installed();
    let page = |name: &str| {
        let page = std::fs::read_to_string(folder.path(&format!("usr/share/man/man1/{name}.1"))).expect(name);
        assert!(page.contains(&format!(".TH {name} 1 ")), "{page}");
        page.replace("\\-", "-")
    };
    let all = page("events");
    let commands = folder.commands();
    assert!(commands.len() >= 13, "{commands:?}");
    for command in &commands {
        assert!(all.contains(&format!("events-{command}(1)")), "{all}");
        let page = page(&format!("events-{command}"));
        assert!(page.contains("--db") && page.contains(&format!("events {command}")), "{page}");
    }
    assert!(page("events-query").contains("--envelope"));
    let replay = page("events-replay");
    assert!(replay.contains(".SH SYNOPSIS\nevents replay [OPTIONS] [FIXTURE]... [-- <CMD>...]\n"), "{replay}");
    let pages = std::fs::read_dir(folder.path("usr/share/man/man1")).expect("pages").count();
    assert_eq!(pages, commands.len() + 1);
}

#[test]
fn bash_completes() {
    let folder = installed();
    let completed = |words: &str| {
        let script = format!(
            "source bash-completion/completions/events; complete -p events >&2 || exit; \
             COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _events events \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let ran = run(reader(&folder, "bash", &["--norc", "-c", &script])).exited(0);
        assert!(ran.stderr.contains("-F _events"), "{}", ran.report());
        ran.lines()
    };
    assert_eq!(completed("events qu"), ["query"]);
    assert_eq!(completed("events query --env"), ["--envelope"]);
    assert_eq!(completed("events query --format ''"), ["json", "text", "table", "csv"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = Folder::new();
    std::fs::write(folder.path("file"), "").unwrap();
    let prefix = folder.path("file").display().to_string();
    let line =
        format!("cannot write {prefix}/share/man/man1/events.1: Not a directory (hint: --prefix names another folder)");
    folder.run(&["install-docs", "--prefix", &prefix]).failed(1, &line);
}

#[test]
#[ignore = "needs zsh, fish and mandoc"]
fn zsh_and_fish_complete_and_the_man_pages_are_sound() {
    let folder = installed();
    let script = "fpath=($PWD/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D; \
                  print ${_comps[events]}; autoload +X _events && print loaded";
    assert_eq!(run(reader(&folder, "zsh", &["-fc", script])).succeeded().lines(), ["_events", "loaded"]);
    let fish = |line: &str| {
        let script = format!("complete -C '{line}'");
        let lines = run(reader(&folder, "fish", &["-c", &script])).exited(0).lines();
        lines.iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(fish("events qu"), ["query"]);
    assert_eq!(fish("events query --format "), ["csv", "json", "table", "text"]);
    for page in std::fs::read_dir(folder.path("usr/share/man/man1")).expect("pages") {
        let page = page.expect("a page").path().display().to_string();
        run(reader(&folder, "mandoc", &["-T", "lint", "-W", "error", &page])).succeeded();
    }
}
