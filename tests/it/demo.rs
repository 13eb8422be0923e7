//! `demo` records its fixture with the real program, queries it, and fits on one screen.

use std::fs::File;
use std::io::Read;
use std::process::Command;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::command::{self, TestDir};
use crate::support::fixture;

const QUERY: &str = "query --action start --action die --action oom --action health_status --format table";

/// Name, action and first attribute of each event in the table.
const EXPECTED_ROWS: [&str; 24] = [
    "db start image=shop/db:16",
    "api start image=shop/api:2.0",
    "worker start image=shop/worker:1.1",
    "web start image=shop/web:1.4",
    "web health_status: healthy image=shop/web:1.4",
    "web die exitCode=0",
    "web start image=shop/web:1.5",
    "web health_status: healthy image=shop/web:1.5",
    "api oom image=shop/api:2.0",
    "api die exitCode=137",
    "api start image=shop/api:2.0",
    "api oom image=shop/api:2.0",
    "api die exitCode=137",
    "worker die exitCode=1",
    "worker start image=shop/worker:1.1",
    "worker die exitCode=1",
    "worker start image=shop/worker:1.1",
    "worker die exitCode=1",
    "web health_status: unhealthy image=shop/web:1.5",
    "web die exitCode=0",
    "web start image=shop/web:1.4",
    "api start image=shop/api:2.0",
    "worker start image=shop/worker:1.1",
    "web health_status: healthy image=shop/web:1.4",
];

/// Runs a command whose stdout and stderr are a terminal of this width; returns its output.
fn on_terminal(mut command: Command, columns: u16) -> String {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let path = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(path).unwrap();
    tcsetwinsize(&terminal, Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    command.env("TERM", "xterm").stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut written = Vec::new();
    // Linux reports the end of a terminal as EIO.
    let _ = File::from(controller).read_to_end(&mut written);
    assert!(child.wait().unwrap().success());
    String::from_utf8(written).unwrap().replace("\r\n", "\n")
}

#[test]
fn the_demo_shows_the_failed_deployment_in_under_forty_lines() {
    let test_dir = TestDir::new();
    let temporary = test_dir.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut demo = test_dir.command(&["demo"]);
    demo.env("TMPDIR", &temporary);
    let output = command::run(demo).assert_success();
    let printed = output.lines();
    assert!(printed.len() < 40, "{}", output.report());
    assert_eq!(printed[0], "A small shop on Docker 28.5.2: 128 events, played by an embedded engine.");
    assert!(printed[1].ends_with(" ms: 25 from the engine's backlog, 103 live."), "{}", output.report());
    assert_eq!(printed[2], "Verified: the hash chain is intact, and the record has no gaps.");

    let at = printed.iter().position(|line| line.starts_with("$ events ")).expect("the output contains a command");
    let shown = format!("{}{}", printed[at].trim_end_matches('\\'), printed[at + 1].trim_start());
    assert_eq!(shown, format!("$ events {QUERY}"));
    let table = &printed[at + 2..at + 3 + EXPECTED_ROWS.len()];
    let arguments: Vec<&str> = QUERY.split(' ').collect();
    let queried = fixture::imported_store("shop.ndjson").lines(&arguments);
    assert_eq!(table, queried, "the query prints the same outside the demo");
    let column = |name| table[0].find(name).unwrap();
    let (action, id, name, attributes) = (column("ACTION"), column("ID"), column("NAME"), column("ATTRIBUTES"));
    let rows: Vec<String> = table[1..]
        .iter()
        .map(|row| {
            let first = row[attributes..].split(", ").next().unwrap();
            format!("{} {} {first}", row[name..attributes].trim(), row[action..id].trim())
        })
        .collect();
    assert_eq!(rows, EXPECTED_ROWS);

    let end = [
        "",
        "Try next, on a machine with a Docker Engine:",
        "  events record &",
        "  events query --since 1h --format table",
    ];
    assert_eq!(printed[at + 3 + EXPECTED_ROWS.len()..], end);
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "the demo leaves no files");
    assert!(!command::exists(&test_dir.db()), "the demo uses its own store");
}

#[test]
fn the_demo_fits_the_terminal_and_is_colored() {
    let test_dir = TestDir::new();
    let demo = || test_dir.command(&["demo"]);
    for columns in [80, 100, 140] {
        let written = on_terminal(demo(), columns);
        let plain = anstream::adapter::strip_str(&written).to_string();
        assert!(plain.lines().count() < 40, "{plain}");
        assert!(plain.lines().all(|line| line.chars().count() <= columns.into()), "{columns}: {plain}");
        let count = |text: &str| written.lines().filter(|line| line.contains(text)).count();
        let status = if columns < 120 { "" } else { "health_status: " };
        assert_eq!(count("\x1b[31moom\x1b[0m "), 2, "{written}");
        assert_eq!(count("\x1b[31mdie\x1b[0m "), 5, "{written}");
        assert_eq!(count("\x1b[32mstart\x1b[0m "), 11, "{written}");
        assert_eq!(count(&format!("\x1b[31m{status}unhealthy\x1b[0m ")), 1, "{written}");
        assert_eq!(count(&format!("\x1b[32m{status}healthy\x1b[0m ")), 3, "{written}");
        assert_eq!(plain.matches("  image=shop/web:1.5").count(), 3, "{plain}");
        assert_eq!(plain.matches("  exitCode=137,").count(), 2, "{plain}");
    }
    let mut uncolored = demo();
    uncolored.env("NO_COLOR", "1");
    assert!(!on_terminal(uncolored, 100).contains('\x1b'));
}
