//! `backup` during recording: the copy is complete, shows one moment, and is the only new file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::command::{TestDir, exists};
use crate::support::engine::{Engine, event, events};
use crate::support::fixture::store_with_events;
use events::store::Reader;

/// Names of the files in the directory, without the logs of commands.
fn file_names(test_dir: &TestDir) -> Vec<String> {
    let names = fs::read_dir(test_dir.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("stderr-")).collect();
    names.sort();
    names
}

#[test]
fn backups_during_recording_are_complete_and_verifiable() {
    let test_dir = store_with_events(&events(0..30_000));
    let engine = Arc::new(Engine::start(test_dir.path("docker.sock")));
    let recorder = test_dir.record(&engine.host(), &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let emitter = std::thread::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        move || {
            let mut number = 100_000;
            while !stop.load(Ordering::Relaxed) {
                engine.emit(&event(number));
                number += 1;
                std::thread::park_timeout(std::time::Duration::from_micros(200));
            }
            number
        }
    });
    let count = || test_dir.lines(&["query", "-q", "--count"])[0].parse::<usize>().unwrap();
    for round in 0..3 {
        let before =
            test_dir.eventually("events are stored", || if count() > 30_000 + round { Ok(count()) } else { Err(()) });
        let output = test_dir.run(&["backup", "copy.db", "--force"]).assert_exit_code(0);
        let head = output.stderr.trim().rsplit(' ').next().unwrap().to_owned();
        let after = count();
        assert_eq!(fs::metadata(test_dir.path("copy.db")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(test_dir.verify(&["--db", "copy.db", "--head", &head]), head);
        let copied = test_dir.lines(&["query", "-q", "--db", "copy.db"]);
        assert!((before..=after).contains(&copied.len()), "{before} {} {after}", copied.len());
        assert_eq!(copied[..30_000], events(0..30_000));
        assert_eq!(copied[30_000..], events(100_000..70_000 + copied.len() as u64));
        let names = file_names(&test_dir);
        assert!(names.iter().all(|name| !name.contains("copy.db-") && !name.starts_with('.')), "{names:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let last = emitter.join().unwrap();
    test_dir
        .eventually("all events are stored", || if count() as u64 == last - 70_000 { Ok(()) } else { Err(count()) });
    recorder.stop();
    test_dir.verify(&[]);
}

#[test]
fn a_copy_shows_one_moment_despite_concurrent_writes() {
    let test_dir = store_with_events(&events(0..60_000));
    let other = rusqlite::Connection::open(test_dir.db()).unwrap();
    let (mut steps, mut last) = (0, 0);
    let reader = Reader::open(&test_dir.db()).unwrap();
    let copied = reader.copy_to(&test_dir.path("copy.db"), false, |copied, all| {
        other.execute("INSERT INTO label (key, value) VALUES ('written', ?1)", [steps]).unwrap();
        assert!(copied > last && copied <= all, "the copy never restarts");
        (steps, last) = (steps + 1, copied);
        true
    });
    let copied = copied.unwrap().unwrap();
    assert!(steps > 3 && steps <= copied.bytes / (1 << 20) + 1, "{steps} {}", copied.bytes);
    let count = |db: &rusqlite::Connection| {
        db.query_row("SELECT count(*) FROM label WHERE key = 'written'", [], |row| row.get::<_, u64>(0)).unwrap()
    };
    assert_eq!(count(&other), steps);
    assert_eq!(count(&rusqlite::Connection::open(test_dir.path("copy.db")).unwrap()), 0);
    // A cancelled copy leaves no files.
    let before = file_names(&test_dir);
    let mut calls = 0;
    let stopped = reader.copy_to(&test_dir.path("second.db"), false, |_, _| {
        calls += 1;
        calls < 2
    });
    assert_eq!(stopped.unwrap(), None);
    assert_eq!(file_names(&test_dir), before);
}

#[test]
fn an_interrupted_backup_leaves_no_files() {
    let test_dir = store_with_events(&events(0..60_000));
    let before = file_names(&test_dir);
    for _ in 0..5 {
        let backup = test_dir.start(&["backup", "copy.db"]);
        test_dir
            .eventually("the backup has started", || if file_names(&test_dir) == before { Err(()) } else { Ok(()) });
        backup.signal("INT");
        let output = backup.wait();
        if output.status.success() {
            // The copy was already complete.
            fs::remove_file(test_dir.path("copy.db")).unwrap();
        } else {
            output.assert_failure(1, "interrupted: no copy was made");
        }
        assert_eq!(file_names(&test_dir), before);
    }
}

#[test]
fn existing_files_are_kept_without_force() {
    let test_dir = store_with_events(&events(0..10));
    fs::write(test_dir.path("there"), "mine").unwrap();
    let line =
        "cannot write there: the file already exists (hint: pass another path, or use --force to replace the file)";
    test_dir.run(&["backup", "there"]).assert_failure(1, line);
    assert_eq!(fs::read(test_dir.path("there")).unwrap(), b"mine");
    let db = test_dir.db().display().to_string();
    let line = format!("cannot write {db}: it is the store itself (hint: pass another path)");
    test_dir.run(&["backup", &db, "--force"]).assert_failure(1, &line);
    test_dir
        .run(&["backup", "no/copy.db"])
        .assert_failure(1, "cannot create no/copy.db: there is no directory no (hint: run `mkdir -p no`)");
    fs::create_dir(test_dir.path("dir")).unwrap();
    test_dir
        .run(&["backup", "dir"])
        .assert_failure(1, "cannot open dir: it is a directory (hint: pass a file path, e.g. dir/events.db)");
    test_dir.run(&["backup"]).assert_exit_code(2);
    test_dir.run(&["backup", "copy.db", "--db", "missing.db"]).assert_exit_code(1);
    assert!(!exists(&test_dir.path("copy.db")));
    test_dir.run(&["backup", "-q", "there", "--force"]).assert_success();
    assert_eq!(test_dir.lines(&["query", "--db", "there"]), events(0..10));
}
