//! Details of gaps: the changes of the engine's containers during a gap, and the events that the engine dropped.

use crate::support::command::{Running, TestDir};
use crate::support::engine::{Engine, container_id, event, event_time, events, start_engine};
use crate::support::metrics_server::MetricsServer;
use serde_json::{Value, json};

const OVERRUN: &str = "the last event seen is not among the 256 events of the engine's backlog";

/// Sets the containers that the engine lists, each with its state and the response to an inspect request.
fn set_containers(engine: &Engine, containers: &[(&str, &str, Value)]) {
    let listed: Vec<Value> = containers
        .iter()
        .map(|(name, state, _)| {
            json!({"Id": container_id(name), "Names": [format!("/{name}")], "State": state, "Image": "x"})
        })
        .collect();
    engine.set_response("/containers/json", &json!(listed).to_string());
    for (name, _, response) in containers {
        engine.set_response(&format!("/containers/{}/json", container_id(name)), &response.to_string());
    }
}

fn inspect_response(created: &str, started: &str, finished: &str, exit_code: i64) -> Value {
    let time_or_zero = |text: &str| if text.is_empty() { "0001-01-01T00:00:00Z".to_owned() } else { text.to_owned() };
    let state =
        json!({"StartedAt": time_or_zero(started), "FinishedAt": time_or_zero(finished), "ExitCode": exit_code});
    json!({"Created": time_or_zero(created), "State": state})
}

/// Waits until the list of containers is stored.
fn wait_for_stored_containers(test_dir: &TestDir) {
    test_dir.eventually("the list of containers is stored", || {
        let db = rusqlite::Connection::open(test_dir.db()).map_err(|e| e.to_string())?;
        db.query_row("SELECT containers FROM snapshot", [], |row| row.get::<_, String>(0)).map_err(|e| e.to_string())
    });
}

/// Returns the gaps after the one of the first session.
fn gaps_after_first(test_dir: &TestDir) -> Vec<Value> {
    test_dir.json(&["gaps"]).split_off(1)
}

/// Waits until the newest gap has this detail.
fn eventually_has_detail(test_dir: &TestDir, recorder: &Running, expected: &str) {
    test_dir.eventually("the gap has the detail", || {
        let gaps = gaps_after_first(test_dir);
        let detail = gaps.last().and_then(|gap| gap["detail"].as_str()).unwrap_or_default();
        if detail == expected { Ok(()) } else { Err(format!("{detail}\n{}", recorder.log())) }
    });
}

/// Records the first event with these containers, stops, and pushes that event out of the backlog.
fn cause_overrun(test_dir: &TestDir, engine: &Engine, args: &[&str], before: &[(&str, &str, Value)]) {
    set_containers(engine, before);
    let recorder = test_dir.record(&engine.host(), args);
    engine.emit(&event(0));
    test_dir.eventually_lines(&["query"], &events(0..1));
    wait_for_stored_containers(test_dir);
    recorder.stop();
    events(1..300).iter().for_each(|event| engine.emit(event));
}

#[test]
fn a_gap_lists_the_container_changes_during_it() {
    let (test_dir, engine) = start_engine();
    let before = |started: &str| inspect_response("2026-01-01T00:00:00Z", started, "", 0);
    cause_overrun(
        &test_dir,
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
    let mut after = vec![
        ("web", "exited", inspect_response(&event_time(0), "2026-01-01T00:00:01Z", &event_time(5), 137)),
        ("db", "running", inspect_response(&event_time(0), &event_time(7), &event_time(6), 0)),
        ("job", "exited", inspect_response(&event_time(0), &event_time(8), &event_time(9), 3)),
        ("calm", "running", before("2026-01-01T00:00:01Z")),
        ("new", "running", inspect_response(&event_time(10), &event_time(11), "", 0)),
        ("box", "running", before("2026-01-01T00:00:01Z")),
        ("idle", "created", before("")),
    ];
    after[2].2["State"]["OOMKilled"] = json!(true);
    set_containers(&engine, &after);
    let recorder = test_dir.record(&engine.host(), &[]);
    let short = |name: &str| container_id(name)[..12].to_owned();
    eventually_has_detail(
        &test_dir,
        &recorder,
        &format!(
            "{OVERRUN}; in the gap: web ({}) exited with 137 at {}; db ({}) exited at {} and was started at {}; \
             job ({}) was started at {} and exited with 3 (out of memory) at {}; \
             new ({}) was created at {} and was started at {}; box ({}) is no longer paused; old ({}) was removed",
            short("web"),
            event_time(5),
            short("db"),
            event_time(6),
            event_time(7),
            short("job"),
            event_time(8),
            event_time(9),
            short("new"),
            event_time(10),
            event_time(11),
            short("box"),
            short("old"),
        ),
    );
    let gap = gaps_after_first(&test_dir).remove(0);
    assert_eq!(
        (&gap["reason"], &gap["from"], &gap["to"]),
        (&json!("overrun"), &json!(event_time(0)), &json!(event_time(44)))
    );
    recorder.stop();
    // The detail is stored once, and no event is made up for it.
    test_dir.record_backlog(&engine.host(), &[]);
    assert_eq!(gaps_after_first(&test_dir), [gap]);
    assert_eq!(test_dir.lines(&["query", "-q"]).len(), 257);
}

#[test]
fn a_change_with_a_recorded_event_is_not_listed() {
    let (test_dir, engine) = start_engine();
    // In the generated events container 20 is created and destroyed in events 80 to 83, after the gap; 74 still exists
    // at the end.
    let generated_id = |n: u64| format!("{n:064x}");
    let set_list = |ids: &[(u64, &str)]| {
        let all: Vec<Value> = ids
            .iter()
            .map(|(n, state)| json!({"Id": generated_id(*n), "Names": [format!("/box-{n}")], "State": state}))
            .collect();
        engine.set_response("/containers/json", &json!(all).to_string());
    };
    set_list(&[(20, "running"), (60, "running")]);
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(&["query"], &events(0..1));
    wait_for_stored_containers(&test_dir);
    recorder.stop();
    events(1..298).iter().for_each(|event| engine.emit(event));
    // The engine sets its times slightly before it sends the events. Container 74 has not died yet.
    set_list(&[(74, "running")]);
    let just_before = |n: u64| event_time(n - 1).replace(".000000000Z", ".999000000Z");
    let response = inspect_response(&just_before(296), &just_before(297), "", 0);
    engine.set_response(&format!("/containers/{}/json", generated_id(74)), &response.to_string());
    let recorder = test_dir.record(&engine.host(), &[]);
    test_dir.eventually("the new list of containers is stored", || {
        let db = rusqlite::Connection::open(test_dir.db()).unwrap();
        let containers: String = db.query_row("SELECT containers FROM snapshot", [], |row| row.get(0)).unwrap();
        if containers.contains("box-74") { Ok(()) } else { Err(containers) }
    });
    recorder.stop();
    let gap = gaps_after_first(&test_dir).remove(0);
    assert_eq!((&gap["reason"], &gap["detail"]), (&json!("overrun"), &json!(OVERRUN)));
}

#[test]
fn with_a_filter_only_certain_changes_are_listed() {
    let (test_dir, engine) = start_engine();
    let before = inspect_response("2026-01-01T00:00:00Z", "", "", 0);
    cause_overrun(
        &test_dir,
        &engine,
        &["--action", "create"],
        &[("web", "created", before.clone()), ("old", "created", before)],
    );
    set_containers(
        &engine,
        &[
            ("web", "running", inspect_response("2026-01-01T00:00:00Z", &event_time(5), "", 0)),
            ("late", "running", inspect_response("2026-01-01T00:00:00Z", &event_time(100), "", 0)),
        ],
    );
    let recorder = test_dir.record(&engine.host(), &["--action", "create"]);
    let web = &container_id("web")[..12];
    let detail = format!("{OVERRUN}; in the gap: web ({web}) was started at {}", event_time(5));
    eventually_has_detail(&test_dir, &recorder, &detail);
    recorder.stop();
}

#[test]
fn without_a_container_list_the_detail_has_no_changes() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(&["query"], &events(0..1));
    recorder.stop();
    events(1..300).iter().for_each(|event| engine.emit(event));
    let recorder = test_dir.record(&engine.host(), &["-v"]);
    recorder.eventually_logs("DEBUG cannot report on the containers of sim");
    eventually_has_detail(&test_dir, &recorder, OVERRUN);
    recorder.stop();
}

/// Waits until one more backlog check has run from start to end.
fn wait_for_backlog_check(test_dir: &TestDir, counter: &MetricsServer) {
    let before = counter.request_count();
    // Each check reads the counter twice, and one check may be running already.
    test_dir.eventually("one more backlog check has run", || {
        if counter.request_count() >= before + 4 { Ok(()) } else { Err(counter.request_count()) }
    });
}

#[test]
fn events_the_engine_counted_and_did_not_send_are_a_gap() {
    let (test_dir, engine) = start_engine();
    let counter = MetricsServer::start();
    let emit = |numbers: std::ops::Range<u64>, is_sent: bool| {
        for event in events(numbers) {
            counter.add_events(1);
            if is_sent { engine.emit(&event) } else { engine.emit_to_backlog(&event) }
        }
    };
    // The counter does not start at zero.
    counter.add_events(1000);
    let args = ["--engine-metrics", &counter.url(), "--look-again", "1s"];
    let recorder = test_dir.record(&engine.host(), &args);
    emit(0..1, true);
    test_dir.eventually_lines(&["query"], &events(0..1));
    wait_for_backlog_check(&test_dir, &counter);

    // 300 dropped events, then 300 that are sent: the dropped ones are no longer in the backlog.
    emit(1..301, false);
    emit(301..601, true);
    let gap =
        test_dir.eventually("the gap is found", || gaps_after_first(&test_dir).pop().ok_or_else(|| recorder.log()));
    assert_eq!(
        gap,
        json!({"source": "sim", "from": event_time(0), "to": event_time(600), "reason": "dropped-by-engine",
            "detail": "the engine counted 600 events, 300 arrived"})
    );

    // Events found in the backlog are no gap; neither is a cut stream.
    emit(601..604, false);
    emit(604..606, true);
    engine.cut_connections();
    emit(606..610, true);
    let all: Vec<u64> = std::iter::once(0).chain(301..610).collect();
    test_dir.eventually_lines(&["query", "-q"], &events(all));
    wait_for_backlog_check(&test_dir, &counter);
    wait_for_backlog_check(&test_dir, &counter);
    assert_eq!(gaps_after_first(&test_dir), [gap]);
    recorder.stop();
}

#[test]
fn an_unreachable_metrics_page_is_logged_once_and_recording_continues() {
    let (test_dir, engine) = start_engine();
    let closed_url = { MetricsServer::start().url() };
    let recorder = test_dir.record(&engine.host(), &["--engine-metrics", &closed_url, "--look-again", "20ms"]);
    for n in 0..5 {
        engine.emit_to_backlog(&event(2 * n));
        engine.emit(&event(2 * n + 1));
        test_dir.eventually_lines(&["query"], &events(0..2 * n + 2));
    }
    assert_eq!(recorder.log().matches("until it can read the engine's counter").count(), 1, "{}", recorder.log());
    recorder.stop();
}
