//! Usage errors: each gives one clear line and the right exit code, and changes no file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::command::{TestDir, exists};
use crate::support::engine::events;
use crate::support::fixture;

const KEYS: &str =
    "config, container, daemon, event, image, label, network, node, plugin, scope, secret, service, type, volume";

#[test]
fn invalid_arguments_exit_with_2() {
    let test_dir = TestDir::new();
    let time = "(hint: write 2026-11-24T15:04:05Z or a part of it, Unix seconds, a duration before now such as 1h30m or 7d, or now)";
    let host = "(hint: use unix:///path/to/docker.sock or tcp://host:2375, with NAME= in front to name the source)";
    let metrics =
        "(hint: pass dockerd's metrics-addr as http://host:9323, or as NAME=http://host:9323 with several hosts)";
    let window = "--since is after --until: the window is empty (hint: durations count back from now: 2h is before 1h)";
    let fields = "(hint: use the fields Status ID From Type Action Actor.ID Actor.Attributes.NAME Scope Time TimeNano)";
    let envelope =
        "--envelope cannot be combined with --format text or a template (hint: use --format json, table or csv)";
    for (args, line) in [
        ("query --filter name=x", format!("unknown filter key 'name': expected one of {KEYS}")),
        (
            "record --metrics tcp://0.0.0.0:9324",
            "--metrics tcp://0.0.0.0:9324 can be reached from other machines without authentication (hint: pass --allow-remote to allow it)"
                .into(),
        ),
        (
            "record --metrics box",
            "invalid value 'box' for '--metrics <ADDRESS>': invalid listen address 'box': write unix:///path or \
             tcp://127.0.0.1:2375 (hint: see --help)"
                .into(),
        ),
        ("query --exclude name=x", format!("unknown filter key 'name': expected one of {KEYS}")),
        ("record --filter name=x", format!("unknown filter key 'name': expected one of {KEYS}")),
        (
            "query --filter type",
            "invalid filter 'type': expected KEY=VALUE (hint: write a filter such as type=container or label=app=web)".into(),
        ),
        ("query --since yesterday", format!("invalid time 'yesterday' {time}")),
        ("query --until 2026-13-01", format!("invalid time '2026-13-01' {time}")),
        ("query --since 99999999999999999999", format!("time '99999999999999999999' is out of range {time}")),
        (
            "replay --fault cut@1",
            "--fault needs a command: faults do not apply to stdout (hint: add a command after `--`)".into(),
        ),
        ("query --since 2 --until 1", window.into()),
        ("query --since now --until 1h", window.into()),
        (
            "query --limit 1 --last 1",
            "the argument '--limit <N>' cannot be used with '--last <N>' (hint: see --help)".into(),
        ),
        (
            "query --follow --reverse",
            "the argument '--follow' cannot be used with '--reverse' (hint: see --help)".into(),
        ),
        (
            "query --follow --count",
            "the argument '--follow' cannot be used with '--count' (hint: see --help)".into(),
        ),
        (
            "query --limit x",
            "invalid value 'x' for '--limit <N>': invalid digit found in string (hint: see --help)".into(),
        ),
        ("query --limit -1", "unexpected argument '-1' found (hint: see --help)".into()),
        (
            "query --frmat text",
            "unexpected argument '--frmat' found (hint: a similar argument exists: '--format')".into(),
        ),
        (
            "query --format jsn",
            "unknown format 'jsn' (hint: use json, text, table, csv, or a template such as '{{.Actor.ID}}')"
                .into(),
        ),
        (
            "query --format {{.Nope}}",
            format!("--format is not a template: template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type *events.Message {fields}"),
        ),
        ("query --format {{.ID", format!("--format is not a template: template: :1: unclosed action {fields}")),
        (
            "query --format a\n{{nope}}",
            format!("--format is not a template: template: :2: function \"nope\" not defined {fields}"),
        ),
        ("query --envelope --format text", envelope.into()),
        ("query --envelope --format {{.ID}}", envelope.into()),
        (
            "qeury",
            "unrecognized subcommand 'qeury' (hint: some similar subcommands exist: 'verify', 'query')".into(),
        ),
        ("record -H box", format!("'box' is not a valid host: the scheme is missing {host}")),
        (
            "record -H tcp://box:99999",
            format!("'tcp://box:99999' is not a valid host: the port is not a number from 1 to 65535 {host}"),
        ),
        (
            "record -H ssh://me:secret@box",
            format!("'ssh://me:…@box' is not a valid host: a password is not allowed; ssh uses keys {host}"),
        ),
        (
            "record --context box",
            "context 'box', set by --context, does not exist \
             (hint: run `docker context ls` to list the contexts in ~/.docker or $DOCKER_CONFIG)"
                .into(),
        ),
        (
            "record -H tcp://a --context b",
            "--host and --context cannot be used together (hint: omit one of them)".into()
        ),
        (
            "record -H tcp://a --tlscacert x",
            "--tlscacert has no effect without TLS (hint: add --tlsverify)".into(),
        ),
        (
            "record -H tcp://a --tlsverify --tlscacert /nowhere/ca.pem",
            "cannot read /nowhere/ca.pem: No such file or directory \
             (hint: name the files with --tlscacert, --tlscert and --tlskey; the defaults are ca.pem, cert.pem and key.pem in $DOCKER_CERT_PATH or ~/.docker)"
                .into(),
        ),
        ("record -H ftp://box", format!("'ftp://box' is not a valid host: ftp:// is not supported {host}")),
        (
            "record --until 1h",
            "--until 1h is in the past (hint: use --until=-1h for a time in the future, or `now` to record the backlog and stop)".into(),
        ),
        (
            "record --look-again often",
            "invalid duration 'often' (hint: write a duration such as 250ms, 10s, 1h30m, 7d or 2w)".into(),
        ),
        (
            "record --engine-metrics box:9323",
            format!("'box:9323' is not a valid metrics URL: the scheme http:// is missing {metrics}"),
        ),
        (
            "record --engine-metrics http://box:x",
            format!("'http://box:x' is not a valid metrics URL: the port is not a number from 1 to 65535 {metrics}"),
        ),
        (
            "record -H a=tcp://a -H b=tcp://b --engine-metrics http://box:9323",
            "--engine-metrics http://box:9323: with 2 hosts, the URL needs the name of its host (hint: write NAME=http://box:9323, and name the host with -H NAME=URL)"
                .into(),
        ),
        (
            "record -H a=tcp://a --engine-metrics b=http://box:9323",
            "--engine-metrics b=http://box:9323: no host has the name b (hint: name the host with -H b=URL)".into(),
        ),
        (
            "record --look-again 0 --engine-metrics http://box:9323",
            "--engine-metrics needs the backlog check, which --look-again 0 turns off (hint: omit --look-again or --engine-metrics)"
                .into(),
        ),
        ("record --buffer lots", "--buffer 'lots' is not a size (hint: write a size such as 64MiB, 500kB or 1GiB)".into()),
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        let output = test_dir.run(&args);
        assert_eq!(output.stderr.trim_end(), format!("events: {line}"), "{}", output.report());
        output.assert_exit_code(2);
        assert!(!exists(&test_dir.db()), "{args:?} created a file");
    }
}

#[test]
fn a_host_from_the_environment_is_checked_too() {
    let test_dir = TestDir::new();
    let mut command = test_dir.command(&["record"]);
    command.env("DOCKER_HOST", "nonsense");
    let output = crate::support::command::run(command).assert_exit_code(2);
    assert!(output.stderr.starts_with("events: 'nonsense' is not a valid host: "), "{}", output.report());
}

#[test]
fn a_reader_of_a_missing_file_creates_none() {
    let test_dir = TestDir::new();
    let path = test_dir.db();
    for args in [&["query"][..], &["query", "--follow"], &["gaps"], &["rejected"], &["status"], &["status", "--json"]] {
        let line = format!(
            "cannot open {}: there is no such file (hint: run `events record` first, or pass a path with --db or EVENTS_DB)",
            path.display()
        );
        test_dir.run(args).assert_failure(1, &line);
        assert!(!exists(&path));
    }
}

/// Runs a reader and the recorder on a file. Both must refuse it with these errors and leave the directory unchanged.
fn assert_refused(test_dir: &TestDir, path: &Path, reader_error: &str, recorder_error: &str) {
    let before = (listing(test_dir), fs::read(path).ok());
    let db = path.display().to_string();
    for (args, line) in [
        (&["query", "--db", &db][..], reader_error),
        (&["record", "-H", "unix:///nowhere", "--db", &db], recorder_error),
    ] {
        test_dir.run(args).assert_failure(1, &line.replace("PATH", &db));
        assert_eq!((listing(test_dir), fs::read(path).ok()), before, "{args:?}");
    }
}

/// Returns the name, size and mode of each file in the directory.
fn listing(test_dir: &TestDir) -> Vec<(String, u64, u32)> {
    let mut names: Vec<_> = fs::read_dir(test_dir.path(""))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            (entry.file_name().to_string_lossy().into_owned(), metadata.len(), metadata.permissions().mode())
        })
        .collect();
    names.sort();
    names
}

#[test]
fn files_that_are_not_stores_are_refused_and_unchanged() {
    let test_dir = TestDir::new();
    let line =
        |what: &str| format!("cannot open PATH: {what} (hint: pass another path with --db; this file was not changed)");

    let path = test_dir.path("notes.txt");
    fs::write(
        &path,
        "This text is not a database. It is longer than the 100 bytes of the header of a database.".repeat(2),
    )
    .unwrap();
    let not_a_database = line("it is not an SQLite database");
    assert_refused(&test_dir, &path, &not_a_database, &not_a_database);

    let path = test_dir.path("short");
    fs::write(&path, "x").unwrap();
    assert_refused(&test_dir, &path, &not_a_database, &not_a_database);

    let path = test_dir.path("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    drop(other);
    let foreign = line("it is the database of another program");
    assert_refused(&test_dir, &path, &foreign, &foreign);

    let path = test_dir.path("folder.db");
    fs::create_dir(&path).unwrap();
    let directory =
        format!("cannot open PATH: it is a directory (hint: pass a file path, e.g. {}/events.db)", path.display());
    assert_refused(&test_dir, &path, &directory, &directory);
}

#[test]
fn a_store_of_a_newer_schema_is_refused_and_unchanged() {
    let test_dir = fixture::recorded_store(&events(0..3));
    let db = rusqlite::Connection::open(test_dir.db()).unwrap();
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let line = format!(
        "cannot open PATH: its schema version is 99, and this program supports at most {version} (hint: use a newer version of events; the file was not changed)"
    );
    assert_refused(&test_dir, &test_dir.db(), &line, &line);
}

#[test]
fn a_read_only_file_can_be_queried_but_not_recorded_into() {
    let test_dir = fixture::recorded_store(&events(0..3));
    fs::set_permissions(test_dir.db(), Permissions::from_mode(0o400)).unwrap();
    let before = (listing(&test_dir), fs::read(test_dir.db()).unwrap());
    let line = format!(
        "cannot write {0}: the file is read-only (hint: run `chmod u+w {0}`, or pass another --db path)",
        test_dir.db().display()
    );
    test_dir.run(&["record", "-H", "unix:///nowhere"]).assert_failure(1, &line);
    assert_eq!((listing(&test_dir), fs::read(test_dir.db()).unwrap()), before);
    assert_eq!(test_dir.lines(&["query"]), events(0..3));
}

#[test]
fn a_missing_directory_is_reported_with_the_command_to_create_it() {
    let test_dir = TestDir::new();
    let db = test_dir.path("no/such/events.db").display().to_string();
    let line = format!(
        "cannot create {db}: there is no directory {0} (hint: run `mkdir -p {0}`)",
        test_dir.path("no/such").display()
    );
    test_dir.run(&["record", "-H", "unix:///nowhere", "--db", &db]).assert_failure(1, &line);
    let line = format!(
        "cannot open {db}: there is no such file (hint: run `events record` first, or pass a path with --db or EVENTS_DB)"
    );
    test_dir.run(&["query", "--db", &db]).assert_failure(1, &line);
}

#[test]
fn an_unknown_source_is_reported_with_the_known_ones() {
    let test_dir = fixture::recorded_store(&events(0..3));
    let line = format!("{} has no source 'nope' (hint: choose one of: events)", test_dir.db().display());
    test_dir.run(&["query", "--source", "nope"]).assert_failure(1, &line);
}

#[test]
fn a_special_name_of_sqlite_is_an_ordinary_file() {
    let test_dir = TestDir::new();
    let engine = events::testing::Engine::start().unwrap();
    engine.push(crate::support::engine::event(0));
    test_dir.run(&["record", "-H", &engine.docker_host(), "--until", "now", "-q", "--db", ":memory:"]).assert_success();
    assert_eq!(test_dir.lines(&["query", "--db", ":memory:"]), events(0..1));
}

#[test]
fn hundreds_of_filters_are_accepted() {
    let test_dir = fixture::recorded_store(&events(0..3));
    let many: Vec<String> = (0..600).map(|n| format!("--container=box-{n}")).collect();
    let args: Vec<&str> = std::iter::once("query").chain(many.iter().map(String::as_str)).collect();
    assert_eq!(test_dir.lines(&args), events(0..3));
}

#[test]
fn a_failed_start_leaves_no_files() {
    let test_dir = fixture::recorded_store(&events(0..3));
    fs::remove_file(test_dir.path("events.db.lock")).unwrap();
    let mut bytes = fs::read(test_dir.db()).unwrap();
    bytes.truncate(5000);
    fs::write(test_dir.db(), &bytes).unwrap();
    let before = listing(&test_dir);
    test_dir.run(&["record", "-H", "unix:///nowhere"]).assert_exit_code(1);
    assert_eq!(listing(&test_dir), before);
}

#[test]
fn no_matches_are_a_success() {
    let test_dir = fixture::recorded_store(&events(0..3));
    let output = test_dir.run(&["query", "--type", "nothing"]).assert_exit_code(0);
    assert!(
        output.stdout.is_empty() && output.stderr.contains("no engine sends events of the type 'nothing'"),
        "{}",
        output.report()
    );
    test_dir.run(&["query", "--type", "pod"]).assert_success();
}

#[test]
fn help_and_version_exit_with_0() {
    let test_dir = TestDir::new();
    for args in [&["--help"][..], &["-h"], &["query", "--help"], &["record", "-h"], &["--version"]] {
        assert!(!test_dir.run(args).assert_success().stdout.is_empty());
    }
    test_dir.run(&[]).assert_failure(2, "a command is missing (hint: run `events --help` for a list)");
}
