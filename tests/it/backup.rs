//! `backup` during recording: the copy is complete, shows one moment, and is the only new file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::command::{TestDir, exists};
use crate::support::engine::{Engine, event, events};
use crate::support::fixture::store_with_events;
use events::store::Reader;

/// Names of the files in the folder, without the logs of commands.
fn file_names(folder: &TestDir) -> Vec<String> {
    let names = fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("stderr-")).collect();
    names.sort();
    names
}

#[test]
fn backups_during_recording_are_complete_and_verifiable() {
    let folder = store_with_events(&events(0..30_000));
    let engine = Arc::new(Engine::start(folder.path("docker.sock")));
    let recorder = folder.record(&engine.host(), &[]);
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
    let count = || folder.lines(&["query", "-q", "--count"])[0].parse::<usize>().unwrap();
    for round in 0..3 {
        let before =
            folder.eventually("events are stored", || if count() > 30_000 + round { Ok(count()) } else { Err(()) });
        let output = folder.run(&["backup", "copy.db", "--force"]).assert_exit_code(0);
        let head = output.stderr.trim().rsplit(' ').next().unwrap().to_owned();
        let after = count();
        assert_eq!(fs::metadata(folder.path("copy.db")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.verify(&["--db", "copy.db", "--head", &head]), head);
        let copied = folder.lines(&["query", "-q", "--db", "copy.db"]);
        assert!((before..=after).contains(&copied.len()), "{before} {} {after}", copied.len());
        assert_eq!(copied[..30_000], events(0..30_000));
        assert_eq!(copied[30_000..], events(100_000..70_000 + copied.len() as u64));
        let names = file_names(&folder);
        assert!(names.iter().all(|name| !name.contains("copy.db-") && !name.starts_with('.')), "{names:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let last = emitter.join().unwrap();
    folder.eventually("all events are stored", || if count() as u64 == last - 70_000 { Ok(()) } else { Err(count()) });
    recorder.stop();
    folder.verify(&[]);
}

#[test]
fn a_copy_shows_one_moment_despite_concurrent_writes() {
    let folder = store_with_events(&events(0..60_000));
    let other = rusqlite::Connection::open(folder.db()).unwrap();
    let (mut steps, mut last) = (0, 0);
    let reader = Reader::open(&folder.db()).unwrap();
    let copied = reader.copy_to(&folder.path("copy.db"), false, |copied, all| {
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
    assert_eq!(count(&rusqlite::Connection::open(folder.path("copy.db")).unwrap()), 0);
    // A cancelled copy leaves no files.
    let before = file_names(&folder);
    let mut calls = 0;
    let stopped = reader.copy_to(&folder.path("second.db"), false, |_, _| {
        calls += 1;
        calls < 2
    });
    assert_eq!(stopped.unwrap(), None);
    assert_eq!(file_names(&folder), before);
}

#[test]
fn an_interrupted_backup_leaves_no_files() {
    let folder = store_with_events(&events(0..60_000));
    let before = file_names(&folder);
    for _ in 0..5 {
        let backup = folder.start(&["backup", "copy.db"]);
        folder.eventually("the backup has started", || if file_names(&folder) == before { Err(()) } else { Ok(()) });
        backup.signal("INT");
        let output = backup.wait();
        if output.status.success() {
            // The copy was already complete.
            fs::remove_file(folder.path("copy.db")).unwrap();
        } else {
            output.assert_failure(1, "interrupted: no copy was made");
        }
        assert_eq!(file_names(&folder), before);
    }
}

#[test]
fn existing_files_are_kept_without_force() {
    let folder = store_with_events(&events(0..10));
    fs::write(folder.path("there"), "mine").unwrap();
    let line =
        "cannot write there: the file already exists (hint: pass another path, or use --force to replace the file)";
    folder.run(&["backup", "there"]).assert_failure(1, line);
    assert_eq!(fs::read(folder.path("there")).unwrap(), b"mine");
    let db = folder.db().display().to_string();
    let line = format!("cannot write {db}: it is the store itself (hint: pass another path)");
    folder.run(&["backup", &db, "--force"]).assert_failure(1, &line);
    folder
        .run(&["backup", "no/copy.db"])
        .assert_failure(1, "cannot create no/copy.db: there is no directory no (hint: run `mkdir -p no`)");
    fs::create_dir(folder.path("dir")).unwrap();
    folder
        .run(&["backup", "dir"])
        .assert_failure(1, "cannot open dir: it is a directory (hint: pass a file path, e.g. dir/events.db)");
    folder.run(&["backup"]).assert_exit_code(2);
    folder.run(&["backup", "copy.db", "--db", "missing.db"]).assert_exit_code(1);
    assert!(!exists(&folder.path("copy.db")));
    folder.run(&["backup", "-q", "there", "--force"]).assert_success();
    assert_eq!(folder.lines(&["query", "--db", "there"]), events(0..10));
}
