//! How the recorder is doing, as who watches it sees it: its metrics, its health, the service manager, `status`.

use crate::support::watching::{Manager, ask, contrib, figures, folder_and_engine, get, much_happens, record, sum};
use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::SocketAddr;

use crate::support::command::{Folder, eventually, run};
use crate::support::engine::{Manner, event, instant};
use crate::support::fixture::imported;

#[test]
fn the_metrics_and_status_say_the_same() {
    let (folder, engine) = folder_and_engine();
    let (recorder, socket) = record(&folder, &engine, &[]);
    much_happens(&folder, &engine);
    let same = || {
        let status = folder.json(&["status", "--json"]).remove(0);
        let (source, shown) = (&status["sources"][0], figures(&socket));
        let said = |key: &str| source[key].as_u64().unwrap() as f64;
        let gaps =
            sum(&shown, "events_gaps_total") - shown[r#"events_gaps_total{source="sim",reason="first-contact"}"#];
        let last =
            events::query::time::rfc3339((shown[r#"events_last_event_timestamp_seconds{source="sim"}"#] * 1e9) as i64);
        let pairs = [
            (said("events"), 11.0, sum(&shown, "events_stored_total")),
            (said("rejected"), 1.0, sum(&shown, "events_rejected_total")),
            (said("gaps"), 1.0, gaps),
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
    let shown = eventually("status and the metrics agree", same);
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
    engine.goes_away();
    eventually("it is not connected", || {
        let shown = figures(&socket);
        if sum(&shown, "events_connected") == 0.0 { Ok(()) } else { Err(shown) }
    });
    recorder.stop();
    assert!(!crate::support::command::exists(&socket));
}

#[test]
fn a_page_comes_in_the_form_that_is_asked_for() {
    let (folder, engine) = folder_and_engine();
    let (recorder, socket) = record(&folder, &engine, &[]);
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
fn there_is_nothing_else_to_see_and_nothing_to_change() {
    let (folder, engine) = folder_and_engine();
    let (recorder, socket) = record(&folder, &engine, &[]);
    assert_eq!(get(&socket, "/", "*/*").unwrap().status, 404);
    let post =
        ask(&socket, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(post.status, 405);
    let head = ask(&socket, "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((head.status, &*head.body), (200, ""));
    recorder.stop();
}

#[test]
fn the_journal_is_told_the_level_of_each_line() {
    let folder = imported("docker-28.5.2.ndjson");
    let said = |words: &[&str], at: &str| {
        let file = std::fs::File::create(folder.path(at)).unwrap();
        let (stream, mut command) = (file.metadata().unwrap(), folder.command(words));
        command.env("JOURNAL_STREAM", format!("{}:{}", stream.dev(), stream.ino())).stderr(file);
        command.status().unwrap();
        std::fs::read_to_string(folder.path(at)).unwrap()
    };
    let warning = "no engine tells events of the type 'pot': is it misspelt?\n";
    assert_eq!(said(&["query", "--type", "pot"], "journal"), format!("<4>{warning}"));
    assert_eq!(said(&["query", "--since", "soon", "-q"], "journal").split("'soon'").next(), Some("<3>"));
    // Somebody else's stderr is not the journal.
    let mut command = folder.command(&["query", "--type", "pot"]);
    command.env("JOURNAL_STREAM", "1:2");
    assert_eq!(run(command).stderr, warning);
}

#[test]
fn it_is_ready_when_an_engine_was_tried_and_the_store_can_be_written() {
    let (folder, engine) = folder_and_engine();
    engine.answers(Manner { hangs: true, ..Manner::default() });
    let socket = folder.path("metrics.sock");
    let shown = format!("unix://{}", socket.display());
    let recorder = folder.start(&["record", "-H", &engine.host(), "--metrics", &shown]);
    let says = |path: &str, status: u16, line: &str| {
        eventually(&format!("{path} says {line}"), || {
            let answer = get(&socket, path, "*/*").ok_or_else(|| recorder.log())?;
            let body = answer.body;
            if answer.status == status && body == format!("{line}\n") {
                Ok(())
            } else {
                Err(format!("{} {body}", answer.status))
            }
        });
    };
    says("/readyz", 503, "no engine was tried yet");
    says("/healthz", 200, "ok");
    engine.goes_on();
    says("/readyz", 200, "ok");

    // Another program holds the file: what comes waits, and is not lost; the writer is not stuck.
    let other = rusqlite::Connection::open(folder.db()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    engine.happens(&event(0));
    says("/readyz", 503, &format!("{} cannot be written just now", folder.db().display()));
    assert_eq!(get(&socket, "/healthz", "*/*").unwrap().status, 200);
    let shown = figures(&socket);
    assert!(shown["events_lag_seconds"] > 0.0 && shown["events_buffered"] == 1.0, "{shown:#?}");
    assert_eq!(shown["events_store_writable"], 0.0);
    other.execute_batch("ROLLBACK").unwrap();
    says("/readyz", 200, "ok");
    folder.eventually_lines(&["query", "-q"], &[event(0)]);
    recorder.stop();
}

#[test]
fn the_service_manager_is_told_when_it_is_ready_how_it_stands_that_it_lives_and_that_it_ends() {
    let (folder, engine) = folder_and_engine();
    let path = folder.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap(), path.display().to_string());
    let recorder = manager.start(&folder, &["record", "-H", &engine.host()], "200000");
    let ready = manager.told_until(|told| told.starts_with("READY=1"));
    assert!(ready.iter().rev().skip(1).all(|told| told == "WATCHDOG=1"), "{ready:?}");
    assert_eq!(ready.last().unwrap(), "READY=1\nSTATUS=1 of 1 engine connected, 0 events stored, 0 gaps");
    manager.told_until(|told| told == "WATCHDOG=1");
    manager.told_until(|told| told == "WATCHDOG=1");
    engine.goes_away();
    manager.told_until(|told| told.starts_with("STATUS=0 of 1 engine connected"));
    recorder.stop();
    let last = manager.told_until(|told| told.starts_with("STOPPING=1"));
    assert!(last.iter().all(|told| !told.starts_with("READY")), "{last:?}");
}

/// Also where no engine is: what depends on the recorder should not wait for that.
#[test]
fn it_is_ready_without_an_engine_and_tells_an_abstract_socket_too() {
    let folder = Folder::new();
    let name = format!("events-{}", fastrand::u64(..));
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap(), format!("@{name}"));
    let host = format!("unix://{}", folder.path("nothing.sock").display());
    let recorder = manager.start(&folder, &["record", "-H", &host], "");
    let ready = manager.told();
    assert_eq!(ready, "READY=1\nSTATUS=0 of 1 engine connected, 0 events stored, 0 gaps");
    recorder.stop();
    assert!(manager.told().starts_with("STOPPING=1"));
}

#[test]
fn the_dashboard_and_the_alerts_name_nothing_that_is_not_there() {
    let (folder, engine) = folder_and_engine();
    let (recorder, socket) = record(&folder, &engine, &[]);
    engine.happens(&event(0));
    folder.eventually_lines(&["query", "-q"], &[event(0)]);
    let shown = figures(&socket);
    for file in ["grafana/events.json", "prometheus/events.yml"] {
        let text = std::fs::read_to_string(contrib(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<&str> =
            words.filter(|word| word.starts_with("events_") || word.ends_with("_seconds")).collect();
        assert!(named.len() > 3, "{named:?}");
        for name in named {
            assert!(shown.keys().any(|shown| shown.split('{').next() == Some(name)), "{file} names {name}");
        }
    }
    recorder.stop();
}

/// What `status` shows, without the path of the store and its size.
fn shown(folder: &Folder, environment: &[(&str, &str)]) -> String {
    let mut command = folder.command(&["status"]);
    command.envs(environment.iter().copied());
    let text = run(command).succeeded().lines().join("\n");
    let pid = text.find("pid ").map_or(String::new(), |at| text[at..].split(',').next().unwrap().to_owned());
    let size = text.rfind(" events, ").map_or(String::new(), |at| text[at..].split(')').next().unwrap().to_owned());
    let text =
        text.replace(&folder.db().display().to_string(), "DB").replace(&folder.path("").display().to_string(), "");
    let text = if pid.is_empty() { text } else { text.replace(&pid, "pid N") };
    text.replace(&size, " events, SIZE")
}

#[test]
fn a_person_sees_at_a_glance_whether_all_is_well_and_what_happened() {
    let (folder, engine) = folder_and_engine();
    let recorder = folder.record(&engine.host(), &["--look-again", "50ms"]);
    much_happens(&folder, &engine);
    let (first, last, gap) = (instant(0), instant(10), instant(9));
    let rest = format!(
        "  engine    7a5c1ed0-0000-4000-8000-000000000001\n  events    11, {first} to {last}\n  \
         gaps      1  (`events gaps`)\n  the last  engine-restart, {gap} to {last}\n  rejected  1  (`events rejected`)"
    );
    let well = format!(
        "● recording 1 engine\n  store     DB (11 events, SIZE)\n  recorder  pid N, 0 events waiting\n\n\
         ● sim  connected to unix://docker.sock\n{rest}"
    );
    eventually("all is well", || {
        let shown = shown(&folder, &[]);
        if shown == well { Ok(()) } else { Err(shown) }
    });
    engine.goes_away();
    let away = "● recording, but no engine is connected\n  store     DB (11 events, SIZE)\n  recorder  pid N, 0 events waiting\n  \
                away      cannot connect to unix://docker.sock: ";
    eventually("the engine is away", || {
        let shown = shown(&folder, &[]);
        let is_told = shown.starts_with(away) && shown.contains("● sim  not connected to unix://docker.sock\n");
        if is_told && shown.contains("disconnected") { Ok(()) } else { Err(shown) }
    });
    recorder.stop();
    assert!(shown(&folder, &[]).starts_with("● not recording\n  store "));
    // Colours are for terminals, and for who insists; NO_COLOR is the last word.
    assert!(shown(&folder, &[("CLICOLOR_FORCE", "1")]).starts_with("\x1b[31m●"));
    assert!(shown(&folder, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).starts_with("●"));
}
