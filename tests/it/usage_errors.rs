//! Everything a person can get wrong gets one clear line and the right exit code, and changes nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::command::{Folder, exists};
use crate::support::engine::events;
use crate::support::fixture;

const KEYS: &str =
    "config, container, daemon, event, image, label, network, node, plugin, scope, secret, service, type, volume";

#[test]
fn words_that_are_wrong_are_exit_2() {
    let folder = Folder::new();
    let time = "(hint: write 2026-11-24T15:04:05Z or a part of it, seconds since 1970, a duration back from now as 1h30m or 7d, or now)";
    let host = "(hint: write unix:///path/to/docker.sock or tcp://host:2375, with NAME= before it to name the source)";
    let metrics =
        "(hint: write http://host:9323, dockerd's metrics-addr, with NAME= before it if there are several hosts)";
    let window =
        "--since is after --until: no time lies between them (hint: a duration counts back from now: 2h is before 1h)";
    let fields = "(hint: the fields are Status ID From Type Action Actor.ID Actor.Attributes.NAME Scope Time TimeNano)";
    let envelope =
        "--envelope has no place in what the docker client prints (hint: it goes with --format json, table and csv)";
    for (words, line) in [
        ("query --filter name=x", format!("the filter key 'name' is not known; the keys are {KEYS}")),
        (
            "record --metrics tcp://0.0.0.0:9324",
            "--metrics tcp://0.0.0.0:9324 can be reached from other machines, by anybody (hint: --allow-remote if that is meant)"
                .into(),
        ),
        (
            "record --metrics box",
            "invalid value 'box' for '--metrics <ADDRESS>': 'box' is no address to listen at: write unix:///path or \
             tcp://127.0.0.1:2375 (hint: --help says more)"
                .into(),
        ),
        ("query --exclude name=x", format!("the filter key 'name' is not known; the keys are {KEYS}")),
        ("record --filter name=x", format!("the filter key 'name' is not known; the keys are {KEYS}")),
        ("query --filter type", "the filter 'type' is not KEY=VALUE (hint: as type=container or label=app=web)".into()),
        ("query --since yesterday", format!("'yesterday' is no time {time}")),
        ("query --until 2026-13-01", format!("'2026-13-01' is no time {time}")),
        ("query --since 99999999999999999999", format!("the time '99999999999999999999' is out of range {time}")),
        (
            "replay --fault cut@1",
            "--fault breaks the streams of an engine, and stdout is none (hint: name a command to play to: -- CMD)".into(),
        ),
        ("query --since 2 --until 1", window.into()),
        ("query --since now --until 1h", window.into()),
        (
            "query --limit 1 --last 1",
            "the argument '--limit <N>' cannot be used with '--last <N>' (hint: --help says more)".into(),
        ),
        (
            "query --follow --reverse",
            "the argument '--follow' cannot be used with '--reverse' (hint: --help says more)".into(),
        ),
        (
            "query --follow --count",
            "the argument '--follow' cannot be used with '--count' (hint: --help says more)".into(),
        ),
        (
            "query --limit x",
            "invalid value 'x' for '--limit <N>': invalid digit found in string (hint: --help says more)".into(),
        ),
        ("query --limit -1", "unexpected argument '-1' found (hint: --help says more)".into()),
        (
            "query --frmat text",
            "unexpected argument '--frmat' found (hint: a similar argument exists: '--format')".into(),
        ),
        (
            "query --format jsn",
            "the format 'jsn' is not known (hint: it is json, text, table, csv, or a template as '{{.Actor.ID}}')"
                .into(),
        ),
        (
            "query --format {{.Nope}}",
            format!("--format is no template: template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type *events.Message {fields}"),
        ),
        ("query --format {{.ID", format!("--format is no template: template: :1: unclosed action {fields}")),
        (
            "query --format a\n{{nope}}",
            format!("--format is no template: template: :2: function \"nope\" not defined {fields}"),
        ),
        ("query --envelope --format text", envelope.into()),
        ("query --envelope --format {{.ID}}", envelope.into()),
        (
            "qeury",
            "unrecognized subcommand 'qeury' (hint: some similar subcommands exist: 'verify', 'query')".into(),
        ),
        ("record -H box", format!("'box' cannot be a host: it has no unix:// or tcp:// before it {host}")),
        (
            "record -H tcp://box:99999",
            format!("'tcp://box:99999' cannot be a host: the port is not a number up to 65535 {host}"),
        ),
        (
            "record -H ssh://me:secret@box",
            format!("'ssh://me:…@box' cannot be a host: a password has no meaning there; ssh takes keys {host}"),
        ),
        (
            "record --context box",
            "there is no context 'box', which --context names \
             (hint: `docker context ls` lists those in ~/.docker, or $DOCKER_CONFIG)"
                .into(),
        ),
        ("record -H tcp://a --context b", "--host and --context exclude each other (hint: leave out one of them)".into()),
        (
            "record -H tcp://a --tlscacert x",
            "--tlscacert has no meaning where TLS is not spoken (hint: add --tlsverify)".into(),
        ),
        (
            "record -H tcp://a --tlsverify --tlscacert /nowhere/ca.pem",
            "cannot read /nowhere/ca.pem: No such file or directory \
             (hint: --tlscacert, --tlscert and --tlskey name the files; else they are ca.pem, cert.pem and key.pem in $DOCKER_CERT_PATH, or ~/.docker)"
                .into(),
        ),
        ("record -H ftp://box", format!("'ftp://box' cannot be a host: ftp:// is not known {host}")),
        (
            "record --until 1h",
            "--until 1h is over already (hint: a duration counts back from now: --until=-1h is to come; now: take what the engine remembers, and stop)".into(),
        ),
        ("record --look-again often", "'often' is no duration (hint: write it as 250ms, 10s, 1h30m, 7d or 2w)".into()),
        (
            "record --engine-metrics box:9323",
            format!("'box:9323' cannot be a page of metrics: it has no http:// before it {metrics}"),
        ),
        (
            "record --engine-metrics http://box:x",
            format!("'http://box:x' cannot be a page of metrics: the port is not a number up to 65535 {metrics}"),
        ),
        (
            "record -H a=tcp://a -H b=tcp://b --engine-metrics http://box:9323",
            "--engine-metrics http://box:9323: of which of 2 hosts? (hint: write NAME=http://box:9323, and -H NAME=URL)"
                .into(),
        ),
        (
            "record -H a=tcp://a --engine-metrics b=http://box:9323",
            "--engine-metrics b=http://box:9323: no host is called b (hint: name it: -H b=URL)".into(),
        ),
        (
            "record --look-again 0 --engine-metrics http://box:9323",
            "--engine-metrics compares at each --look-again, which is 0 (hint: leave --look-again out, or --engine-metrics)"
                .into(),
        ),
        ("record --buffer lots", "--buffer 'lots' is no size (hint: write it as 64MiB, 500kB or 1GiB)".into()),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let ran = folder.run(&words);
        assert_eq!(ran.stderr.trim_end(), format!("events: {line}"), "{}", ran.report());
        ran.exited(2);
        assert!(!exists(&folder.db()), "{words:?} made a file");
    }
}

#[test]
fn a_host_from_the_environment_is_checked_too() {
    let folder = Folder::new();
    let mut command = folder.command(&["record"]);
    command.env("DOCKER_HOST", "nonsense");
    let ran = crate::support::command::run(command).exited(2);
    assert!(ran.stderr.starts_with("events: 'nonsense' cannot be a host: "), "{}", ran.report());
}

#[test]
fn a_reader_of_a_missing_file_makes_none() {
    let folder = Folder::new();
    let path = folder.db();
    for words in [&["query"][..], &["query", "--follow"], &["gaps"], &["rejected"], &["status"], &["status", "--json"]]
    {
        let line = format!(
            "cannot open {}: there is no such file (hint: `events record` makes it; --db or EVENTS_DB names another)",
            path.display()
        );
        folder.run(words).failed(1, &line);
        assert!(!exists(&path));
    }
}

/// Runs a reader and the recorder on a file; both must refuse it, and leave it and its folder as they are.
fn refused(folder: &Folder, path: &Path, reading: &str, writing: &str) {
    let before = (listing(folder), fs::read(path).ok());
    let db = path.display().to_string();
    for (words, line) in
        [(&["query", "--db", &db][..], reading), (&["record", "-H", "unix:///nowhere", "--db", &db], writing)]
    {
        folder.run(words).failed(1, &line.replace("PATH", &db));
        assert_eq!((listing(folder), fs::read(path).ok()), before, "{words:?}");
    }
}

fn listing(folder: &Folder) -> Vec<(String, u64, u32)> {
    let mut names: Vec<_> = fs::read_dir(folder.path(""))
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
fn files_that_are_no_store_are_refused_and_left_as_they_are() {
    let folder = Folder::new();
    let line =
        |what: &str| format!("cannot open PATH: {what} (hint: name another file with --db; this one is left as it is)");

    let path = folder.path("notes.txt");
    fs::write(
        &path,
        "Dear diary, today I was no database, and I was longer than a hundred bytes, to be sure of it.".repeat(2),
    )
    .unwrap();
    let not_a_database = line("it is not an SQLite database");
    refused(&folder, &path, &not_a_database, &not_a_database);

    let path = folder.path("short");
    fs::write(&path, "x").unwrap();
    refused(&folder, &path, &not_a_database, &not_a_database);

    let path = folder.path("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    drop(other);
    let foreign = line("it is the database of another program");
    refused(&folder, &path, &foreign, &foreign);

    let path = folder.path("folder.db");
    fs::create_dir(&path).unwrap();
    let directory =
        format!("cannot open PATH: it is a directory (hint: name a file in it, as {}/events.db)", path.display());
    refused(&folder, &path, &directory, &directory);
}

#[test]
fn a_file_of_a_newer_schema_is_refused_and_left_as_it_is() {
    let folder = fixture::recorded(&events(0..3));
    let db = rusqlite::Connection::open(folder.db()).unwrap();
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let line = format!(
        "cannot open PATH: its schema is version 99, this program knows versions up to {version} (hint: use a newer version of events; the file is left as it is)"
    );
    refused(&folder, &folder.db(), &line, &line);
}

#[test]
fn a_file_without_write_permission_can_be_read_and_not_recorded_into() {
    let folder = fixture::recorded(&events(0..3));
    fs::set_permissions(folder.db(), Permissions::from_mode(0o400)).unwrap();
    let before = (listing(&folder), fs::read(folder.db()).unwrap());
    let line = format!(
        "cannot write {0}: the file is read-only (hint: chmod u+w {0}, or name another file with --db)",
        folder.db().display()
    );
    folder.run(&["record", "-H", "unix:///nowhere"]).failed(1, &line);
    assert_eq!((listing(&folder), fs::read(folder.db()).unwrap()), before);
    assert_eq!(folder.lines(&["query"]), events(0..3));
}

#[test]
fn a_store_in_a_folder_that_is_not_there_says_how_to_make_it() {
    let folder = Folder::new();
    let db = folder.path("no/such/events.db").display().to_string();
    let line =
        format!("cannot make {db}: there is no directory {0} (hint: mkdir -p {0})", folder.path("no/such").display());
    folder.run(&["record", "-H", "unix:///nowhere", "--db", &db]).failed(1, &line);
    let line = format!(
        "cannot open {db}: there is no such file (hint: `events record` makes it; --db or EVENTS_DB names another)"
    );
    folder.run(&["query", "--db", &db]).failed(1, &line);
}

#[test]
fn a_source_that_is_not_there_is_named_with_those_that_are() {
    let folder = fixture::recorded(&events(0..3));
    let line = format!("{} has no source 'nope' (hint: it has events)", folder.db().display());
    folder.run(&["query", "--source", "nope"]).failed(1, &line);
}

#[test]
fn a_name_that_means_something_to_sqlite_is_a_file_like_any_other() {
    let folder = Folder::new();
    let engine = events::testing::Engine::start().unwrap();
    engine.push(crate::support::engine::event(0));
    folder.run(&["record", "-H", &engine.docker_host(), "--until", "now", "-q", "--db", ":memory:"]).succeeded();
    assert_eq!(folder.lines(&["query", "--db", ":memory:"]), events(0..1));
}

#[test]
fn as_many_filters_as_anybody_likes_are_taken() {
    let folder = fixture::recorded(&events(0..3));
    let many: Vec<String> = (0..600).map(|n| format!("--container=box-{n}")).collect();
    let words: Vec<&str> = std::iter::once("query").chain(many.iter().map(String::as_str)).collect();
    assert_eq!(folder.lines(&words), events(0..3));
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let folder = fixture::recorded(&events(0..3));
    fs::remove_file(folder.path("events.db.lock")).unwrap();
    let mut bytes = fs::read(folder.db()).unwrap();
    bytes.truncate(5000);
    fs::write(folder.db(), &bytes).unwrap();
    let before = listing(&folder);
    folder.run(&["record", "-H", "unix:///nowhere"]).exited(1);
    assert_eq!(listing(&folder), before);
}

#[test]
fn nothing_found_is_done() {
    let folder = fixture::recorded(&events(0..3));
    let ran = folder.run(&["query", "--type", "nothing"]).exited(0);
    assert!(
        ran.stdout.is_empty() && ran.stderr.contains("no engine tells events of the type 'nothing'"),
        "{}",
        ran.report()
    );
    folder.run(&["query", "--type", "pod"]).succeeded();
}

#[test]
fn help_and_version_are_no_errors() {
    let folder = Folder::new();
    for words in [&["--help"][..], &["-h"], &["query", "--help"], &["record", "-h"], &["--version"]] {
        assert!(!folder.run(words).succeeded().stdout.is_empty());
    }
    folder.run(&[]).failed(2, "a command is missing (hint: `events --help` lists them)");
}
