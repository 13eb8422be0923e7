//! A copy of the store while it is recorded into: whole, of one moment, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::command::{Folder, exists};
use crate::support::engine::{Engine, event, events};
use events::store::Reader;

fn imported(events: std::ops::Range<u64>) -> Folder {
    let folder = Folder::new();
    fs::write(folder.path("events.ndjson"), crate::support::engine::events(events).join("\n")).unwrap();
    folder.run(&["import", "-q", "events.ndjson"]).succeeded();
    fs::remove_file(folder.path("events.ndjson")).unwrap();
    folder
}

fn names(folder: &Folder) -> Vec<String> {
    let names = fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("stderr-")).collect();
    names.sort();
    names
}

#[test]
fn a_copy_is_taken_while_events_come() {
    let folder = imported(0..30_000);
    let engine = Arc::new(Engine::start(folder.path("docker.sock")));
    let recorder = folder.record(&engine.host(), &[]);
    let enough = Arc::new(AtomicBool::new(false));
    let happening = std::thread::spawn({
        let (engine, enough) = (engine.clone(), enough.clone());
        move || {
            let mut number = 100_000;
            while !enough.load(Ordering::Relaxed) {
                engine.happens(&event(number));
                number += 1;
                std::thread::park_timeout(std::time::Duration::from_micros(200));
            }
            number
        }
    });
    let count = || folder.lines(&["query", "-q", "--count"])[0].parse::<usize>().unwrap();
    for round in 0..3 {
        let before =
            folder.eventually("more is stored", || if count() > 30_000 + round { Ok(count()) } else { Err(()) });
        let ran = folder.run(&["backup", "copy.db", "--force"]).exited(0);
        let said = ran.stderr.trim().rsplit(' ').next().unwrap().to_owned();
        let after = count();
        assert_eq!(fs::metadata(folder.path("copy.db")).unwrap().permissions().mode() & 0o777, 0o600);
        let verified = folder.run(&["verify", "-q", "--db", "copy.db", "--head", &said]).succeeded();
        assert_eq!(verified.lines(), [format!("head {said}")]);
        let copied = folder.lines(&["query", "-q", "--db", "copy.db"]);
        assert!((before..=after).contains(&copied.len()), "{before} {} {after}", copied.len());
        assert_eq!(copied[..30_000], events(0..30_000));
        assert_eq!(copied[30_000..], events(100_000..70_000 + copied.len() as u64));
        let names = names(&folder);
        assert!(names.iter().all(|name| !name.contains("copy.db-") && !name.starts_with('.')), "{names:?}");
    }
    enough.store(true, Ordering::Relaxed);
    let last = happening.join().unwrap();
    folder.eventually("all is stored", || if count() as u64 == last - 70_000 { Ok(()) } else { Err(count()) });
    recorder.stop();
    folder.run(&["verify", "-q"]).exited(0);
}

#[test]
fn it_is_one_moment_however_much_is_written_meanwhile() {
    let folder = imported(0..60_000);
    let other = rusqlite::Connection::open(folder.db()).unwrap();
    let (mut steps, mut last) = (0, 0);
    let reader = Reader::open(&folder.db()).unwrap();
    let copied = reader.copy_to(&folder.path("copy.db"), false, |copied, all| {
        other.execute("INSERT INTO label (key, value) VALUES ('written', ?1)", [steps]).unwrap();
        assert!(copied > last && copied <= all, "it never begins anew");
        (steps, last) = (steps + 1, copied);
        true
    });
    let copied = copied.unwrap().unwrap();
    assert!(steps > 3 && steps <= copied.bytes / (1 << 20) + 1, "{steps} {}", copied.bytes);
    let count = |db: &rusqlite::Connection| {
        db.query_row("SELECT count(*) FROM label WHERE key = 'written'", [], |row| row.get::<_, u64>(0)).unwrap()
    };
    assert_eq!(count(&other), steps);
    assert_eq!(count(&rusqlite::Connection::open(folder.path("copy.db")).unwrap()), 0);
    // And told to end it leaves nothing.
    let before = names(&folder);
    let mut calls = 0;
    let stopped = reader.copy_to(&folder.path("second.db"), false, |_, _| {
        calls += 1;
        calls < 2
    });
    assert_eq!(stopped.unwrap(), None);
    assert_eq!(names(&folder), before);
}

#[test]
fn an_interrupted_one_leaves_nothing_behind() {
    let folder = imported(0..60_000);
    let before = names(&folder);
    for _ in 0..5 {
        let backup = folder.start(&["backup", "copy.db"]);
        folder.eventually("it has begun", || if names(&folder) == before { Err(()) } else { Ok(()) });
        backup.signal("INT");
        let ran = backup.ended();
        if ran.status.success() {
            // It was whole already.
            fs::remove_file(folder.path("copy.db")).unwrap();
        } else {
            ran.failed(1, "interrupted: no copy was made");
        }
        assert_eq!(names(&folder), before);
    }
}

#[test]
fn nothing_that_is_there_is_lost() {
    let folder = imported(0..10);
    fs::write(folder.path("there"), "mine").unwrap();
    let line = "cannot write there: there is a file already (hint: name another file, or --force)";
    folder.run(&["backup", "there"]).failed(1, line);
    assert_eq!(fs::read(folder.path("there")).unwrap(), b"mine");
    let db = folder.db().display().to_string();
    let line = format!("cannot write {db}: it is the store itself (hint: name another file)");
    folder.run(&["backup", &db, "--force"]).failed(1, &line);
    folder
        .run(&["backup", "no/copy.db"])
        .failed(1, "cannot make no/copy.db: there is no directory no (hint: mkdir -p no)");
    fs::create_dir(folder.path("dir")).unwrap();
    folder
        .run(&["backup", "dir"])
        .failed(1, "cannot open dir: it is a directory (hint: name a file in it, as dir/events.db)");
    folder.run(&["backup"]).exited(2);
    folder.run(&["backup", "copy.db", "--db", "missing.db"]).exited(1);
    assert!(!exists(&folder.path("copy.db")));
    folder.run(&["backup", "-q", "there", "--force"]).succeeded();
    assert_eq!(folder.lines(&["query", "--db", "there"]), events(0..10));
}
