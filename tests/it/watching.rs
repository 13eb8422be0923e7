//! Monitoring of the recorder: metrics, health endpoints, the service manager, `status`.

use crate::support::watching::{Manager, contrib, exercise_metrics, get, record, scrape, send, sum};
use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::SocketAddr;

use crate::support::command::{TestDir, eventually, run};
use crate::support::engine::{Behavior, event, event_time, start_engine};
use crate::support::fixture::imported_store;

#[test]
fn metrics_and_status_agree() {
    let (test_dir, engine) = start_engine();
    let (recorder, socket) = record(&test_dir, &engine, &[]);
    exercise_metrics(&test_dir, &engine);
    let compare = || {
        let status = test_dir.json(&["status", "--json"]).remove(0);
        let (source, shown) = (&status["sources"][0], scrape(&socket));
        let count = |key: &str| source[key].as_u64().unwrap() as f64;
        let gaps =
            sum(&shown, "events_gaps_total") - shown[r#"events_gaps_total{source="sim",reason="first-contact"}"#];
        let last =
            events::query::time::rfc3339((shown[r#"events_last_event_timestamp_seconds{source="sim"}"#] * 1e9) as i64);
        let pairs = [
            (count("events"), 11.0, sum(&shown, "events_stored_total")),
            (count("rejected"), 1.0, sum(&shown, "events_rejected_total")),
            (count("gaps"), 1.0, gaps),
            (f64::from(u8::from(source["connected"] == true)), 1.0, sum(&shown, "events_connected")),
            (
                status["db"]["bytes"].as_f64().unwrap(),
                status["db"]["bytes"].as_f64().unwrap(),
                shown["events_store_size_bytes"],
            ),
            (status["recorder"]["buffered"].as_f64().unwrap(), 0.0, shown["events_buffered"]),
        ];
        let agree = pairs.iter().all(|(status, expected, metrics)| status == expected && status == metrics);
        if agree && source["last"] == *last { Ok(shown) } else { Err((status, last, shown)) }
    };
    let shown = eventually("status and the metrics agree", compare);
    for (name, number) in [
        (r#"events_stored_total{source="sim",type="container",action="create"}"#, 3.0),
        (r#"events_stored_total{source="sim",type="container",action="destroy"}"#, 2.0),
        (r#"events_healed_total{source="sim"}"#, 1.0),
        (r#"events_gaps_total{source="sim",reason="engine-restart"}"#, 1.0),
        (r#"events_gaps_total{source="sim",reason="overrun"}"#, 0.0),
        ("events_buffer_limit_bytes", f64::from(64 << 20)),
        ("events_store_writable", 1.0),
        ("events_lag_seconds", 0.0),
        (concat!("events_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
    ] {
        assert_eq!(shown.get(name), Some(&number), "{name} of {shown:#?}");
    }
    assert!(
        shown.contains_key(&format!("events_connected{{host=\"{}\",source=\"sim\"}}", engine.host())),
        "{shown:#?}"
    );
    engine.stop();
    eventually("the engine is not connected", || {
        let shown = scrape(&socket);
        if sum(&shown, "events_connected") == 0.0 { Ok(()) } else { Err(shown) }
    });
    recorder.stop();
    assert!(!crate::support::command::exists(&socket));
}

#[test]
fn the_metrics_page_has_the_requested_format() {
    let (test_dir, engine) = start_engine();
    let (recorder, socket) = record(&test_dir, &engine, &[]);
    let page = |accept: &str| get(&socket, "/metrics", accept).unwrap();
    let plain = page("text/plain");
    assert!(plain.head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{}", plain.head);
    assert!(plain.body.contains("\n# TYPE events_healed_total counter\n"), "{}", plain.body);
    let open = page("application/openmetrics-text; version=1.0.0");
    let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(open.head.contains(kind), "{}", open.head);
    assert!(open.body.contains("\n# TYPE events_healed counter\n"), "{}", open.body);
    assert!(open.body.ends_with("\n# EOF\n"), "{}", open.body);
    recorder.stop();
}

#[test]
fn other_paths_and_methods_are_refused() {
    let (test_dir, engine) = start_engine();
    let (recorder, socket) = record(&test_dir, &engine, &[]);
    assert_eq!(get(&socket, "/", "*/*").unwrap().status, 404);
    let post =
        send(&socket, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(post.status, 405);
    let head = send(&socket, "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((head.status, &*head.body), (200, ""));
    recorder.stop();
}

#[test]
fn lines_in_the_journal_start_with_their_level() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let journal = |args: &[&str], name: &str| {
        let file = std::fs::File::create(test_dir.path(name)).unwrap();
        let (stream, mut command) = (file.metadata().unwrap(), test_dir.command(args));
        command.env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino())).stderr(file);
        command.status().unwrap();
        std::fs::read_to_string(test_dir.path(name)).unwrap()
    };
    let warning = "no engine sends events of the type 'pot': check the spelling\n";
    assert_eq!(journal(&["query", "--type", "pot"], "journal"), format!("<4>{warning}"));
    let error = journal(&["query", "--since", "soon", "-q"], "journal");
    assert!(error.starts_with("<3>invalid time 'soon'"), "{error}");
    // JOURNAL_STREAM of another process does not describe this stderr.
    let mut command = test_dir.command(&["query", "--type", "pot"]);
    command.env("JOURNAL_STREAM", "1:2");
    assert_eq!(run(command).stderr, warning);
}

#[test]
fn the_recorder_is_ready_once_an_engine_was_tried_and_the_store_is_writable() {
    let (test_dir, engine) = start_engine();
    engine.set_behavior(Behavior { hang_requests: true, ..Behavior::default() });
    let socket = test_dir.path("metrics.sock");
    let shown = format!("unix://{}", socket.display());
    let recorder = test_dir.start(&["record", "-H", &engine.host(), "--metrics", &shown]);
    let eventually_returns = |path: &str, status: u16, line: &str| {
        eventually(&format!("{path} returns {line}"), || {
            let response = get(&socket, path, "*/*").ok_or_else(|| recorder.log())?;
            let body = response.body;
            if response.status == status && body == format!("{line}\n") {
                Ok(())
            } else {
                Err(format!("{} {body}", response.status))
            }
        });
    };
    eventually_returns("/readyz", 503, "no engine has been tried yet");
    eventually_returns("/healthz", 200, "ok");
    engine.resume();
    eventually_returns("/readyz", 200, "ok");

    // The session has its outcome, so the next event comes from the stream alone.
    test_dir.eventually_gap_reasons(&["first-contact"]);
    // Another program holds the write lock: events wait and are not lost, and the writer is not stuck.
    let blocker = rusqlite::Connection::open(test_dir.db()).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    engine.emit(&event(0));
    eventually_returns("/readyz", 503, &format!("{} cannot be written", test_dir.db().display()));
    assert_eq!(get(&socket, "/healthz", "*/*").unwrap().status, 200);
    let shown = scrape(&socket);
    assert!(shown["events_lag_seconds"] > 0.0 && shown["events_buffered"] == 1.0, "{shown:#?}");
    assert_eq!(shown["events_store_writable"], 0.0);
    blocker.execute_batch("ROLLBACK").unwrap();
    eventually_returns("/readyz", 200, "ok");
    test_dir.eventually_lines(&["query", "-q"], &[event(0)]);
    recorder.stop();
}

#[test]
fn the_service_manager_gets_ready_status_watchdog_and_stopping() {
    let (test_dir, engine) = start_engine();
    let path = test_dir.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap(), path.display().to_string());
    let recorder = manager.start(&test_dir, &["record", "-H", &engine.host()], "200000");
    let ready = manager.messages_until(|message| message.starts_with("READY=1"));
    assert!(ready.iter().rev().skip(1).all(|message| message == "WATCHDOG=1"), "{ready:?}");
    assert_eq!(ready.last().unwrap(), "READY=1\nSTATUS=1 of 1 engine connected, 0 events stored, 0 gaps");
    manager.messages_until(|message| message == "WATCHDOG=1");
    manager.messages_until(|message| message == "WATCHDOG=1");
    engine.stop();
    manager.messages_until(|message| message.starts_with("STATUS=0 of 1 engine connected"));
    recorder.stop();
    let last = manager.messages_until(|message| message.starts_with("STOPPING=1"));
    assert!(last.iter().all(|message| !message.starts_with("READY")), "{last:?}");
}

/// Units that depend on the recorder should not wait for an engine. The socket is an abstract one here.
#[test]
fn the_recorder_is_ready_without_an_engine() {
    let test_dir = TestDir::new();
    let name = format!("events-{}", fastrand::u64(..));
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap(), format!("@{name}"));
    let host = format!("unix://{}", test_dir.path("nothing.sock").display());
    let recorder = manager.start(&test_dir, &["record", "-H", &host], "");
    let ready = manager.next_message();
    assert_eq!(ready, "READY=1\nSTATUS=0 of 1 engine connected, 0 events stored, 0 gaps");
    recorder.stop();
    assert!(manager.next_message().starts_with("STOPPING=1"));
}

#[test]
fn the_dashboard_and_the_alerts_use_only_existing_metrics() {
    let (test_dir, engine) = start_engine();
    let (recorder, socket) = record(&test_dir, &engine, &[]);
    engine.emit(&event(0));
    test_dir.eventually_lines(&["query", "-q"], &[event(0)]);
    let samples = scrape(&socket);
    for file in ["grafana/events.json", "prometheus/events.yml"] {
        let text = std::fs::read_to_string(contrib(file)).unwrap();
        let names = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let used: BTreeSet<&str> =
            names.filter(|word| word.starts_with("events_") || word.ends_with("_seconds")).collect();
        assert!(used.len() > 3, "{used:?}");
        for name in used {
            assert!(samples.keys().any(|sample| sample.split('{').next() == Some(name)), "{file} uses {name}");
        }
    }
    recorder.stop();
}

/// Returns the output of `status` without the path and the size of the store.
fn status_text(test_dir: &TestDir, environment: &[(&str, &str)]) -> String {
    let mut command = test_dir.command(&["status"]);
    command.envs(environment.iter().copied());
    let text = run(command).assert_success().lines().join("\n");
    let pid = text.find("pid ").map_or(String::new(), |at| text[at..].split(',').next().unwrap().to_owned());
    let size = text.rfind(" events, ").map_or(String::new(), |at| text[at..].split(')').next().unwrap().to_owned());
    let text =
        text.replace(&test_dir.db().display().to_string(), "DB").replace(&test_dir.path("").display().to_string(), "");
    let text = if pid.is_empty() { text } else { text.replace(&pid, "pid N") };
    text.replace(&size, " events, SIZE")
}

#[test]
fn status_shows_the_recorder_the_connection_and_the_last_gap() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &["--look-again", "50ms"]);
    exercise_metrics(&test_dir, &engine);
    let (first, last, gap) = (event_time(0), event_time(10), event_time(9));
    let rest = format!(
        "  engine    7a5c1ed0-0000-4000-8000-000000000001\n  events    11, {first} to {last}\n  \
         gaps      1  (`events gaps`)\n  last gap  engine-restart, {gap} to {last}\n  rejected  1  (`events rejected`)"
    );
    let connected = format!(
        "● recording 1 engine\n  store     DB (11 events, SIZE)\n  recorder  pid N, 0 events waiting\n\n\
         ● sim  connected to unix://docker.sock\n{rest}"
    );
    eventually("status shows the connection", || {
        let shown = status_text(&test_dir, &[]);
        if shown == connected { Ok(()) } else { Err(shown) }
    });
    engine.stop();
    let offline = "● recording, but no engine is connected\n  store     DB (11 events, SIZE)\n  recorder  pid N, 0 events waiting\n  \
                offline   cannot connect to unix://docker.sock: ";
    eventually("status shows the lost connection", || {
        let shown = status_text(&test_dir, &[]);
        let is_shown = shown.starts_with(offline) && shown.contains("● sim  not connected to unix://docker.sock\n");
        if is_shown && shown.contains("disconnected") { Ok(()) } else { Err(shown) }
    });
    recorder.stop();
    assert!(status_text(&test_dir, &[]).starts_with("● not recording\n  store "));
    // Colors are for terminals and for CLICOLOR_FORCE; NO_COLOR overrides both.
    assert!(status_text(&test_dir, &[("CLICOLOR_FORCE", "1")]).starts_with("\x1b[31m●"));
    assert!(status_text(&test_dir, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).starts_with("●"));
}
