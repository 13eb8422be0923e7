//! `--redact`: the redacted text is not in the store, not in its WAL and not in the log.

use crate::support::command::TestDir;
use crate::support::engine::{event, start_engine};

const ALL: &[&str] = &["query"];
const SECRET: &str = "hunter2";

/// The `n`th event: a command with a password runs in a container.
fn exec(n: u64) -> String {
    event(n).replace(
        &format!("\"{}\"", ["create", "start", "die", "destroy"][(n % 4) as usize]),
        &format!("\"exec_create: mysql -p{SECRET} \\u003c \\\"{n}\\\"\""),
    )
}

fn execs(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(exec).collect()
}

/// The same events as `--redact exec` stores them.
fn redacted(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|n| exec(n).replace(&format!("mysql -p{SECRET} \\u003c \\\"{n}\\\""), "[redacted]"))
        .collect()
}

/// The same events as `--redact 'p[^ ]*2'` stores them.
fn partly_redacted(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| exec(n).replace(&format!("p{SECRET}"), "[redacted]")).collect()
}

/// Checks that no file in the directory contains the secret.
fn assert_secret_nowhere(test_dir: &TestDir) {
    for entry in std::fs::read_dir(test_dir.path("")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[test]
fn a_redacted_secret_is_in_no_file_at_any_time() {
    let (test_dir, engine) = start_engine();
    execs(0..3).iter().for_each(|event| engine.emit(event));
    let recorder = test_dir.record(&engine.host(), &["--redact", "exec", "-vv", "--look-again", "50ms"]);
    execs(3..6).iter().for_each(|event| engine.emit(event));
    test_dir.eventually_lines(ALL, &redacted(0..6));
    // The backlog check finds event 6; a line that is not an event is redacted too.
    engine.emit_to_backlog(&exec(6));
    engine.emit(&exec(7));
    engine.send_raw(format!("{}\n", &exec(8)[..200]).as_bytes());
    test_dir.eventually_lines(ALL, &redacted(0..8));
    let rejected = test_dir.eventually("the line is rejected", || test_dir.json(&["rejected"]).pop().ok_or("none"));
    assert_eq!(rejected["bytes"], "W3JlZGFjdGVkXQ==", "[redacted]");
    assert!(rejected["error"].as_str().is_some_and(|error| error.starts_with("not JSON: ")), "{rejected}");
    assert_secret_nowhere(&test_dir);
    let path = test_dir.path("events.db-wal");
    assert!(path.metadata().unwrap().len() > 0, "there is a WAL to search");
    recorder.stop();
    assert_secret_nowhere(&test_dir);
    let record_once = ["record", "-H", &engine.host(), "--until", "now", "-q", "--redact", "exec"];
    test_dir.run(&record_once).assert_success();
    assert_eq!(test_dir.lines(ALL), redacted(0..8));
}

#[test]
fn continuity_is_established_from_unredacted_events() {
    let (test_dir, engine) = start_engine();
    let redact = ["--redact", "exec", "--redact", "box"];
    for round in 0..3u64 {
        let recorder = test_dir.record(&engine.host(), &redact);
        execs(round * 10..round * 10 + 10).iter().for_each(|event| engine.emit(event));
        test_dir.eventually_lines(&["query", "--count"], &[(round * 10 + 10).to_string()]);
        recorder.kill();
    }
    assert_eq!(test_dir.gap_reasons(), ["first-contact"]);
    assert!(test_dir.lines(ALL)[0].contains("\"name\":\"[redacted]-0\""));
}

#[test]
fn a_changed_redaction_stores_no_event_again() {
    let (test_dir, engine) = start_engine();
    let record_once = |extra_args: &[&str]| {
        let host = engine.host();
        let args = ["record", "-H", &host, "--until", "now", "-q"];
        test_dir.run(&[&args[..], extra_args].concat()).assert_success();
    };
    let mut expected = Vec::new();
    let mut next = 0;
    type Redacted = fn(std::ops::Range<u64>) -> Vec<String>;
    let rounds: [(&[&str], Redacted); 7] = [
        (&[], |n| execs(n)),
        (&["--redact", "exec"], |n| redacted(n)),
        (&["--redact", "p[^ ]*2"], |n| partly_redacted(n)),
        (&["--redact", "exec", "--redact", "p[^ ]*2"], |n| redacted(n)),
        (&[], |n| execs(n)),
        (&["--redact", "p[^ ]*2"], |n| partly_redacted(n)),
        (&["--redact", "exec"], |n| redacted(n)),
    ];
    for (args, redacted) in rounds {
        // Two events have each time, so that they are distinguished by more than the time.
        let numbers = next..next + 3;
        next += 3;
        for n in numbers.clone() {
            engine.emit(&exec(n));
            engine.emit(&exec(n).replace("exec_create", "exec_start"));
        }
        for line in redacted(numbers) {
            expected.push(line.clone());
            expected.push(line.replace("exec_create", "exec_start"));
        }
        record_once(args);
        assert_eq!(test_dir.lines(ALL), expected, "{args:?}");
        record_once(args);
        assert_eq!(test_dir.lines(ALL), expected, "{args:?} again");
    }
    assert_eq!(test_dir.json(&["gaps"]).len(), 1);
}

#[test]
fn filters_match_unredacted_events() {
    let (test_dir, engine) = start_engine();
    execs(0..8).iter().for_each(|event| engine.emit(event));
    let filter_args = ["--filter", "container=box-1", "--redact", "box-1", "--redact", "exec"];
    test_dir
        .run(&[&["record", "-H", &engine.host(), "--until", "now", "-q"][..], &filter_args].concat())
        .assert_success();
    let expected: Vec<String> = redacted(4..8).iter().map(|line| line.replace("box-1", "[redacted]")).collect();
    assert_eq!(test_dir.lines(ALL), expected);
}

#[test]
fn import_redacts_too() {
    let test_dir = TestDir::new();
    let lines = execs(0..4).join("\n") + "\n" + &exec(5)[..150];
    let file = test_dir.path("file");
    std::fs::write(&file, lines).unwrap();
    test_dir.run(&["import", "-q", "--redact", "exec", &file.display().to_string()]).assert_success();
    std::fs::remove_file(file).unwrap();
    assert_eq!(test_dir.lines(ALL), redacted(0..4));
    assert_secret_nowhere(&test_dir);
}

#[test]
fn an_invalid_expression_is_a_usage_error() {
    let test_dir = TestDir::new();
    let hint = "(hint: pass exec or a regular expression such as 'password=[^ ]+')";
    for command in ["record", "import"] {
        test_dir
            .run(&[command, "--redact", "exec", "--redact", "pass("])
            .assert_failure(2, &format!("'pass(' is not a valid regular expression: unclosed group {hint}"));
    }
    assert!(!test_dir.db().exists());
}
