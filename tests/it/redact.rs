//! What must not be stored is not: not in the store, not in its WAL, not in the log.

use crate::support::command::Folder;
use crate::support::engine::{Engine, event};

const ALL: &[&str] = &["query"];
const SECRET: &str = "hunter2";

/// The `n`th event: someone runs something with a password in a container.
fn exec(n: u64) -> String {
    event(n).replace(
        &format!("\"{}\"", ["create", "start", "die", "destroy"][(n % 4) as usize]),
        &format!("\"exec_create: mysql -p{SECRET} \\u003c \\\"{n}\\\"\""),
    )
}

fn execs(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(exec).collect()
}

/// The same as `--redact exec` leaves them.
fn redacted(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|n| exec(n).replace(&format!("mysql -p{SECRET} \\u003c \\\"{n}\\\""), "[redacted]"))
        .collect()
}

/// The same as `--redact 'p[^ ]*2'` leaves them.
fn partly(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|n| exec(n).replace(&format!("p{SECRET}"), "[redacted]")).collect()
}

fn folder_and_engine() -> (Folder, Engine) {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    (folder, engine)
}

/// No file in the folder holds the secret.
fn assert_secret_nowhere(folder: &Folder) {
    for entry in std::fs::read_dir(folder.path("")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[test]
fn a_secret_is_in_no_file_at_any_time() {
    let (folder, engine) = folder_and_engine();
    execs(0..3).iter().for_each(|event| engine.happens(event));
    let recorder = folder.record(&engine.host(), &["--redact", "exec", "-vv", "--look-again", "50ms"]);
    execs(3..6).iter().for_each(|event| engine.happens(event));
    folder.eventually_lines(ALL, &redacted(0..6));
    // From the second look; and what is no event.
    engine.happens_unheard(&exec(6));
    engine.happens(&exec(7));
    engine.sends(format!("{}\n", &exec(8)[..200]).as_bytes());
    folder.eventually_lines(ALL, &redacted(0..8));
    let rejected = folder.eventually("it is rejected", || folder.json(&["rejected"]).pop().ok_or("none"));
    assert_eq!(rejected["bytes"], "W3JlZGFjdGVkXQ==", "[redacted]");
    assert!(rejected["error"].as_str().is_some_and(|error| error.starts_with("not JSON: ")), "{rejected}");
    assert_secret_nowhere(&folder);
    let path = folder.path("events.db-wal");
    assert!(path.metadata().unwrap().len() > 0, "the WAL was looked at");
    recorder.stop();
    assert_secret_nowhere(&folder);
    let once = ["record", "-H", &engine.host(), "--until", "now", "-q", "--redact", "exec"];
    folder.run(&once).succeeded();
    assert_eq!(folder.lines(ALL), redacted(0..8));
}

#[test]
fn continuity_is_proven_by_what_the_engine_sent() {
    let (folder, engine) = folder_and_engine();
    let redact = ["--redact", "exec", "--redact", "box"];
    for round in 0..3u64 {
        let recorder = folder.record(&engine.host(), &redact);
        execs(round * 10..round * 10 + 10).iter().for_each(|event| engine.happens(event));
        folder.eventually_lines(&["query", "--count"], &[(round * 10 + 10).to_string()]);
        recorder.kill();
    }
    // Of the gaps there is only the first contact's.
    assert_eq!(folder.json(&["gaps"]).len(), 1);
    assert!(folder.lines(ALL)[0].contains("\"name\":\"[redacted]-0\""));
}

#[test]
fn what_is_stored_already_is_not_stored_again_when_the_redaction_changes() {
    let (folder, engine) = folder_and_engine();
    let once = |more: &[&str]| {
        let host = engine.host();
        let words = ["record", "-H", &host, "--until", "now", "-q"];
        folder.run(&[&words[..], more].concat()).succeeded();
    };
    let mut expected = Vec::new();
    let mut next = 0;
    type Form = fn(std::ops::Range<u64>) -> Vec<String>;
    let rounds: [(&[&str], Form); 7] = [
        (&[], |n| execs(n)),
        (&["--redact", "exec"], |n| redacted(n)),
        (&["--redact", "p[^ ]*2"], |n| partly(n)),
        (&["--redact", "exec", "--redact", "p[^ ]*2"], |n| redacted(n)),
        (&[], |n| execs(n)),
        (&["--redact", "p[^ ]*2"], |n| partly(n)),
        (&["--redact", "exec"], |n| redacted(n)),
    ];
    for (words, form) in rounds {
        // Two events at each instant, so that one is told from the other.
        let numbers = next..next + 3;
        next += 3;
        for n in numbers.clone() {
            engine.happens(&exec(n));
            engine.happens(&exec(n).replace("exec_create", "exec_start"));
        }
        for line in form(numbers) {
            expected.push(line.clone());
            expected.push(line.replace("exec_create", "exec_start"));
        }
        once(words);
        assert_eq!(folder.lines(ALL), expected, "{words:?}");
        once(words);
        assert_eq!(folder.lines(ALL), expected, "{words:?} again");
    }
    assert_eq!(folder.json(&["gaps"]).len(), 1);
}

#[test]
fn a_filter_judges_what_the_engine_sent() {
    let (folder, engine) = folder_and_engine();
    execs(0..8).iter().for_each(|event| engine.happens(event));
    let only = ["--filter", "container=box-1", "--redact", "box-1", "--redact", "exec"];
    folder.run(&[&["record", "-H", &engine.host(), "--until", "now", "-q"][..], &only].concat()).succeeded();
    let expected: Vec<String> = redacted(4..8).iter().map(|line| line.replace("box-1", "[redacted]")).collect();
    assert_eq!(folder.lines(ALL), expected);
}

#[test]
fn an_import_can_be_redacted_too() {
    let folder = Folder::new();
    let lines = execs(0..4).join("\n") + "\n" + &exec(5)[..150];
    let file = folder.path("file");
    std::fs::write(&file, lines).unwrap();
    folder.run(&["import", "-q", "--redact", "exec", &file.display().to_string()]).succeeded();
    std::fs::remove_file(file).unwrap();
    assert_eq!(folder.lines(ALL), redacted(0..4));
    assert_secret_nowhere(&folder);
}

#[test]
fn a_bad_expression_is_a_wrong_word() {
    let folder = Folder::new();
    let hint = "(hint: --redact takes exec, or an expression such as 'password=[^ ]+')";
    for command in ["record", "import"] {
        folder
            .run(&[command, "--redact", "exec", "--redact", "pass("])
            .failed(2, &format!("'pass(' is no regular expression: unclosed group {hint}"));
    }
    assert!(!folder.db().exists());
}
