//! What a gap says: what must have happened in it to the engine's containers, and how much the engine dropped.

use crate::support::command::{Folder, Running};
use crate::support::counter::Counter;
use crate::support::engine::{Engine, event, events, instant};
use serde_json::{Value, json};

const OVERRUN: &str = "the engine remembers 256 events, and the last one seen is not among them";

fn folder_and_engine() -> (Folder, Engine) {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    (folder, engine)
}

fn id(name: &str) -> String {
    name.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect()
}

/// What the engine shows: containers with their state, and what else is known of each.
fn shows(engine: &Engine, containers: &[(&str, &str, Value)]) {
    let listed: Vec<Value> = containers
        .iter()
        .map(|(name, state, _)| json!({"Id": id(name), "Names": [format!("/{name}")], "State": state, "Image": "x"}))
        .collect();
    engine.shows("/containers/json", &json!(listed).to_string());
    for (name, _, inspected) in containers {
        engine.shows(&format!("/containers/{}/json", id(name)), &inspected.to_string());
    }
}

fn inspected(created: &str, started: &str, finished: &str, exit_code: i64) -> Value {
    let never = |text: &str| if text.is_empty() { "0001-01-01T00:00:00Z".to_owned() } else { text.to_owned() };
    let state = json!({"StartedAt": never(started), "FinishedAt": never(finished), "ExitCode": exit_code});
    json!({"Created": never(created), "State": state})
}

/// Waits until it is stored which containers there are.
fn containers_are_known(folder: &Folder) {
    folder.eventually("the containers are stored", || {
        let db = rusqlite::Connection::open(folder.db()).map_err(|e| e.to_string())?;
        db.query_row("SELECT containers FROM snapshot", [], |row| row.get::<_, String>(0)).map_err(|e| e.to_string())
    });
}

/// The gaps but for the one at the first contact.
fn gaps(folder: &Folder) -> Vec<Value> {
    folder.json(&["gaps"]).split_off(1)
}

fn eventually_says(folder: &Folder, recorder: &Running, detail: &str) {
    folder.eventually("the gap says what happened", || {
        let gaps = gaps(folder);
        let said = gaps.last().and_then(|gap| gap["detail"].as_str()).unwrap_or_default();
        if said == detail { Ok(()) } else { Err(format!("{said}\n{}", recorder.log())) }
    });
}

/// Records the first event with these containers, and lets the engine forget it while nobody records.
fn overrun(folder: &Folder, engine: &Engine, words: &[&str], before: &[(&str, &str, Value)]) {
    shows(engine, before);
    let recorder = folder.record(&engine.host(), words);
    engine.happens(&event(0));
    folder.eventually_lines(&["query"], &events(0..1));
    containers_are_known(folder);
    recorder.stop();
    events(1..300).iter().for_each(|event| engine.happens(event));
}

#[test]
fn a_gap_says_what_must_have_happened_to_the_containers() {
    let (folder, engine) = folder_and_engine();
    let before = |started: &str| inspected("2026-01-01T00:00:00Z", started, "", 0);
    overrun(
        &folder,
        &engine,
        &[],
        &[
            ("web", "running", before("2026-01-01T00:00:01Z")),
            ("db", "running", before("2026-01-01T00:00:01Z")),
            ("job", "exited", before("")),
            ("calm", "running", before("2026-01-01T00:00:01Z")),
            ("old", "running", before("")),
            ("box", "paused", before("2026-01-01T00:00:01Z")),
            ("idle", "created", before("")),
        ],
    );
    let mut shown = vec![
        ("web", "exited", inspected(&instant(0), "2026-01-01T00:00:01Z", &instant(5), 137)),
        ("db", "running", inspected(&instant(0), &instant(7), &instant(6), 0)),
        ("job", "exited", inspected(&instant(0), &instant(8), &instant(9), 3)),
        ("calm", "running", before("2026-01-01T00:00:01Z")),
        ("new", "running", inspected(&instant(10), &instant(11), "", 0)),
        ("box", "running", before("2026-01-01T00:00:01Z")),
        ("idle", "created", before("")),
    ];
    shown[2].2["State"]["OOMKilled"] = json!(true);
    shows(&engine, &shown);
    let recorder = folder.record(&engine.host(), &[]);
    let short = |name: &str| id(name)[..12].to_owned();
    eventually_says(
        &folder,
        &recorder,
        &format!(
            "{OVERRUN}; meanwhile: web ({}) exited with 137 at {}; db ({}) ended at {} and was started at {}; \
             job ({}) was started at {} and exited with 3 (out of memory) at {}; \
             new ({}) came, created {} and was started at {}; box ({}) is not paused any more; old ({}) is gone",
            short("web"),
            instant(5),
            short("db"),
            instant(6),
            instant(7),
            short("job"),
            instant(8),
            instant(9),
            short("new"),
            instant(10),
            instant(11),
            short("box"),
            short("old"),
        ),
    );
    let gap = gaps(&folder).remove(0);
    assert_eq!(
        (&gap["reason"], &gap["from"], &gap["to"]),
        (&json!("overrun"), &json!(instant(0)), &json!(instant(44)))
    );
    recorder.stop();
    // Told once, and no event is made of it.
    folder.record(&engine.host(), &[]).stop();
    assert_eq!(gaps(&folder), [gap]);
    assert_eq!(folder.lines(&["query", "-q"]).len(), 257);
}

#[test]
fn what_an_event_tells_is_not_said_again() {
    let (folder, engine) = folder_and_engine();
    // Of the made-up life: container 20 is born and dies in events 80 to 83, behind the gap; 74 is alive at its end.
    let of_life = |n: u64| format!("{n:064x}");
    let listed = |ids: &[(u64, &str)]| {
        let all: Vec<Value> = ids
            .iter()
            .map(|(n, state)| json!({"Id": of_life(*n), "Names": [format!("/box-{n}")], "State": state}))
            .collect();
        engine.shows("/containers/json", &json!(all).to_string());
    };
    listed(&[(20, "running"), (60, "running")]);
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(&["query"], &events(0..1));
    containers_are_known(&folder);
    recorder.stop();
    events(1..298).iter().for_each(|event| engine.happens(event));
    // Noted a little before the events tell it; and 74 has not died yet.
    listed(&[(74, "running")]);
    let early = |n: u64| instant(n - 1).replace(".000000000Z", ".999000000Z");
    engine.shows(&format!("/containers/{}/json", of_life(74)), &inspected(&early(296), &early(297), "", 0).to_string());
    let recorder = folder.record(&engine.host(), &[]);
    folder.eventually("the containers are known anew", || {
        let db = rusqlite::Connection::open(folder.db()).unwrap();
        let known: String = db.query_row("SELECT containers FROM snapshot", [], |row| row.get(0)).unwrap();
        if known.contains("box-74") { Ok(()) } else { Err(known) }
    });
    recorder.stop();
    let gap = gaps(&folder).remove(0);
    assert_eq!((&gap["reason"], &gap["detail"]), (&json!("overrun"), &json!(OVERRUN)));
}

#[test]
fn where_not_all_is_recorded_only_what_is_certain_is_said() {
    let (folder, engine) = folder_and_engine();
    let before = inspected("2026-01-01T00:00:00Z", "", "", 0);
    overrun(
        &folder,
        &engine,
        &["--action", "create"],
        &[("web", "created", before.clone()), ("old", "created", before)],
    );
    shows(
        &engine,
        &[
            ("web", "running", inspected("2026-01-01T00:00:00Z", &instant(5), "", 0)),
            ("late", "running", inspected("2026-01-01T00:00:00Z", &instant(100), "", 0)),
        ],
    );
    let recorder = folder.record(&engine.host(), &["--action", "create"]);
    let web = &id("web")[..12];
    eventually_says(&folder, &recorder, &format!("{OVERRUN}; meanwhile: web ({web}) was started at {}", instant(5)));
    recorder.stop();
}

#[test]
fn an_engine_that_does_not_tell_of_its_containers_leaves_the_gap_as_it_is() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &[]);
    engine.happens(&event(0));
    folder.eventually_lines(&["query"], &events(0..1));
    recorder.stop();
    events(1..300).iter().for_each(|event| engine.happens(event));
    let recorder = folder.record(&engine.host(), &["-v"]);
    folder.eventually("it says so", || {
        let log = recorder.log();
        if log.contains("DEBUG what containers sim has is not known") { Ok(()) } else { Err(log) }
    });
    eventually_says(&folder, &recorder, OVERRUN);
    recorder.stop();
}

/// Waits until the engine has been looked at anew, from beginning to end.
fn another_look(folder: &Folder, counter: &Counter) {
    let before = counter.asked();
    // The counter is read twice a look; the first of them may have begun already.
    folder.eventually("there is another look", || {
        if counter.asked() >= before + 4 { Ok(()) } else { Err(counter.asked()) }
    });
}

#[test]
fn what_the_engine_counted_and_did_not_send_is_a_gap() {
    let (folder, engine) = folder_and_engine();
    let counter = Counter::start();
    let happen = |numbers: std::ops::Range<u64>, heard: bool| {
        for event in events(numbers) {
            counter.counts(1);
            if heard { engine.happens(&event) } else { engine.happens_unheard(&event) }
        }
    };
    // It has counted before.
    counter.counts(1000);
    let words = ["--engine-metrics", &counter.url(), "--look-again", "1s"];
    let recorder = folder.record(&engine.host(), &words);
    happen(0..1, true);
    folder.eventually_lines(&["query"], &events(0..1));
    another_look(&folder, &counter);

    // So many are heard behind those that are not that the memory cannot tell.
    happen(1..301, false);
    happen(301..601, true);
    let gap = folder.eventually("the gap is found", || gaps(&folder).pop().ok_or_else(|| recorder.log()));
    assert_eq!(
        gap,
        json!({"source": "sim", "from": instant(0), "to": instant(600), "reason": "dropped-by-engine",
            "detail": "the engine counted 600 events, 300 came"})
    );

    // What the memory heals is none; nor is a stream that was cut.
    happen(601..604, false);
    happen(604..606, true);
    engine.cuts_connections();
    happen(606..610, true);
    let all: Vec<u64> = std::iter::once(0).chain(301..610).collect();
    folder.eventually_lines(&["query", "-q"], &events(all));
    another_look(&folder, &counter);
    another_look(&folder, &counter);
    assert_eq!(gaps(&folder), [gap]);
    recorder.stop();
}

#[test]
fn a_page_that_cannot_be_read_is_said_once_and_the_record_goes_on() {
    let (folder, engine) = folder_and_engine();
    let nowhere = { Counter::start().url() };
    let recorder = folder.record(&engine.host(), &["--engine-metrics", &nowhere, "--look-again", "20ms"]);
    for n in 0..5 {
        engine.happens_unheard(&event(2 * n));
        engine.happens(&event(2 * n + 1));
        folder.eventually_lines(&["query"], &events(0..2 * n + 2));
    }
    assert_eq!(recorder.log().matches("what the engine counts").count(), 1, "{}", recorder.log());
    recorder.stop();
}
