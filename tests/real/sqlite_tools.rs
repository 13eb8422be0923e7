//! The file in other programs' hands, while it is being recorded into: the sqlite3 shell, DuckDB, Datasette.
//!
//! They are installed by `.ci/run`; `SQLITE_TOOLS` names the folder of the Python that has DuckDB and Datasette.

use std::process::Command;

use crate::support::command::{Folder, Running, run};
use crate::support::engine::{event, events};
use crate::support::fixture;
use events::testing::Engine;

/// A recorder at work: a store of 200 events that grows.
fn at_work() -> (Folder, Engine, Running) {
    let folder = Folder::new();
    let engine = Engine::start().unwrap();
    events(0..200).iter().for_each(|event| engine.push(event));
    let recorder = folder.record(&engine.docker_host(), &[]);
    folder.eventually_lines(&["query"], &events(0..200));
    (folder, engine, recorder)
}

/// After whatever the other program did, the recorder goes on.
fn goes_on((folder, engine, recorder): (Folder, Engine, Running)) {
    engine.push(event(200));
    folder.eventually_lines(&["query"], &events(0..201));
    recorder.stop();
}

fn tool(name: &str) -> Command {
    let folder = std::env::var("SQLITE_TOOLS").expect("SQLITE_TOOLS names the folder of the tools");
    Command::new(std::path::Path::new(&folder).join(name))
}

const DIED: &str =
    "SELECT count(*) FROM events WHERE type = 'container' AND action = 'die' AND (attributes ->> 'image') = 'busybox'";

#[test]
fn the_sqlite3_shell_asks_and_makes_a_whole_copy() {
    let work = at_work();
    let folder = &work.0;
    let shell = |words: &[&str]| {
        let mut command = Command::new("sqlite3");
        command.arg(folder.db()).args(words);
        run(command).succeeded().lines().join("\n")
    };
    assert_eq!(shell(&[DIED]), "50");
    let copy = folder.path("copy.db").display().to_string();
    shell(&[&format!(".backup {copy}")]);
    let mut check = Command::new("sqlite3");
    check.args([&copy, "PRAGMA integrity_check"]);
    assert_eq!(run(check).succeeded().lines(), ["ok"]);
    assert_eq!(folder.lines(&["query", "--db", &copy]), events(0..200));
    goes_on(work);
}

#[test]
fn duckdb_scans_it() {
    let work = at_work();
    let script = format!(
        "import duckdb\nfrom duckdb_extensions import import_extension\nimport_extension('sqlite_scanner')\n\
         db = duckdb.connect()\ndb.execute('LOAD sqlite_scanner')\ndb.execute('SET sqlite_all_varchar = true')\n\
         db.execute(\"CREATE VIEW events AS SELECT * FROM sqlite_scan('{}', 'events')\")\n\
         print(db.execute(\"{DIED}\").fetchone()[0])",
        work.0.db().display()
    );
    let mut python = tool("python");
    python.args(["-c", &script]);
    assert_eq!(run(python).succeeded().lines(), ["50"]);
    goes_on(work);
}

#[test]
fn datasette_serves_it() {
    let work = at_work();
    let mut sql = tool("datasette");
    sql.arg(work.0.db()).arg("--get").arg(format!("/events.json?_shape=arrayfirst&sql={}", DIED.replace(' ', "+")));
    let answer = run(sql).exited(0).lines().join("");
    assert_eq!(answer, "[50]");
    goes_on(work);
}

#[test]
fn the_sqlite3_shell_reads_the_csv_as_the_view_shows_it() {
    let folder = fixture::recorded(&fixture::lines("docker-28.5.2.ndjson"));
    let csv = folder.run(&["query", "--format", "csv", "--envelope"]).succeeded().stdout;
    std::fs::write(folder.path("events.csv"), csv).unwrap();
    let columns = "seq, source, time, type, action, actor_id, ifnull(name, ''), ifnull(image, ''), time_nano";
    let typed = "CAST(seq AS INTEGER), source, time, type, action, actor_id, name, image, CAST(time_nano AS INTEGER)";
    let pairs =
        |of: &str| format!("(SELECT json_group_array(key || value) FROM (SELECT * FROM json_each({of}) ORDER BY key))");
    let mut shell = Command::new("sqlite3");
    shell.current_dir(folder.path("")).args([":memory:", "-cmd", ".import --csv events.csv csv", "-cmd"]);
    shell.arg(format!("ATTACH '{}' AS store", folder.db().display()));
    shell.arg(format!(
        "SELECT count(*) FROM csv;
         SELECT count(*) FROM (SELECT {typed} FROM csv EXCEPT SELECT {columns} FROM store.events);
         SELECT count(*) FROM csv JOIN store.events AS e ON e.seq = csv.seq WHERE {} <> {}",
        pairs("csv.attributes"),
        pairs("e.attributes")
    ));
    // All rows are there, none is another.
    assert_eq!(run(shell).succeeded().lines(), ["248", "0", "0"]);
}
