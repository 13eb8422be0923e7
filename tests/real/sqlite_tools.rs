//! The store read by other programs during recording: the sqlite3 shell, DuckDB and Datasette.
//!
//! `.ci/run` installs them; `SQLITE_TOOLS` names the directory of the Python that has DuckDB and Datasette.

use std::process::Command;

use crate::support::command::{Running, TestDir, run};
use crate::support::engine::{event, events};
use crate::support::fixture;
use events::testing::Engine;

/// Starts a recorder, whose store contains 200 events.
fn start_recorder() -> (TestDir, Engine, Running) {
    let test_dir = TestDir::new();
    let engine = Engine::start().unwrap();
    events(0..200).iter().for_each(|event| engine.push(event));
    let recorder = test_dir.record(&engine.docker_host(), &[]);
    test_dir.eventually_lines(&["query"], &events(0..200));
    (test_dir, engine, recorder)
}

/// Asserts that the recorder still records after the other program has read the store.
fn assert_still_recording((test_dir, engine, recorder): (TestDir, Engine, Running)) {
    engine.push(event(200));
    test_dir.eventually_lines(&["query"], &events(0..201));
    recorder.stop();
}

fn tool(name: &str) -> Command {
    let dir = std::env::var("SQLITE_TOOLS").expect("SQLITE_TOOLS names the directory of the tools");
    Command::new(std::path::Path::new(&dir).join(name))
}

const DIE_COUNT_SQL: &str =
    "SELECT count(*) FROM events WHERE type = 'container' AND action = 'die' AND (attributes ->> 'image') = 'busybox'";

#[test]
fn the_sqlite3_shell_queries_and_backs_up_the_store() {
    let setup = start_recorder();
    let test_dir = &setup.0;
    let shell = |args: &[&str]| {
        let mut command = Command::new("sqlite3");
        command.arg(test_dir.db()).args(args);
        run(command).assert_success().lines().join("\n")
    };
    assert_eq!(shell(&[DIE_COUNT_SQL]), "50");
    let copy = test_dir.path("copy.db").display().to_string();
    shell(&[&format!(".backup {copy}")]);
    let mut check = Command::new("sqlite3");
    check.args([&copy, "PRAGMA integrity_check"]);
    assert_eq!(run(check).assert_success().lines(), ["ok"]);
    assert_eq!(test_dir.lines(&["query", "--db", &copy]), events(0..200));
    assert_still_recording(setup);
}

#[test]
fn duckdb_scans_the_store() {
    let setup = start_recorder();
    let script = format!(
        "import duckdb\nfrom duckdb_extensions import import_extension\nimport_extension('sqlite_scanner')\n\
         db = duckdb.connect()\ndb.execute('LOAD sqlite_scanner')\ndb.execute('SET sqlite_all_varchar = true')\n\
         db.execute(\"CREATE VIEW events AS SELECT * FROM sqlite_scan('{}', 'events')\")\n\
         print(db.execute(\"{DIE_COUNT_SQL}\").fetchone()[0])",
        setup.0.db().display()
    );
    let mut python = tool("python");
    python.args(["-c", &script]);
    assert_eq!(run(python).assert_success().lines(), ["50"]);
    assert_still_recording(setup);
}

#[test]
fn datasette_serves_the_store() {
    let setup = start_recorder();
    let mut datasette = tool("datasette");
    datasette
        .arg(setup.0.db())
        .arg("--get")
        .arg(format!("/events.json?_shape=arrayfirst&sql={}", DIE_COUNT_SQL.replace(' ', "+")));
    let response = run(datasette).assert_exit_code(0).lines().join("");
    assert_eq!(response, "[50]");
    assert_still_recording(setup);
}

#[test]
fn the_sqlite3_shell_reads_the_same_rows_from_the_csv_as_from_the_view() {
    let test_dir = fixture::recorded_store(&fixture::lines("docker-28.5.2.ndjson"));
    let csv = test_dir.run(&["query", "--format", "csv", "--envelope"]).assert_success().stdout;
    std::fs::write(test_dir.path("events.csv"), csv).unwrap();
    let columns = "seq, source, time, type, action, actor_id, ifnull(name, ''), ifnull(image, ''), time_nano";
    let typed_columns =
        "CAST(seq AS INTEGER), source, time, type, action, actor_id, name, image, CAST(time_nano AS INTEGER)";
    let pairs = |column: &str| {
        format!("(SELECT json_group_array(key || value) FROM (SELECT * FROM json_each({column}) ORDER BY key))")
    };
    let mut shell = Command::new("sqlite3");
    shell.current_dir(test_dir.path("")).args([":memory:", "-cmd", ".import --csv events.csv csv", "-cmd"]);
    shell.arg(format!("ATTACH '{}' AS store", test_dir.db().display()));
    shell.arg(format!(
        "SELECT count(*) FROM csv;
         SELECT count(*) FROM (SELECT {typed_columns} FROM csv EXCEPT SELECT {columns} FROM store.events);
         SELECT count(*) FROM csv JOIN store.events AS e ON e.seq = csv.seq WHERE {} <> {}",
        pairs("csv.attributes"),
        pairs("e.attributes")
    ));
    // The CSV has all rows, and none differs.
    assert_eq!(run(shell).assert_success().lines(), ["248", "0", "0"]);
}
