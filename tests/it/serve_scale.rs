//! `serve` with many subscribers and much data: nothing is lost or duplicated, and memory stays bounded.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use crate::support::command::{TestDir, within};
use crate::support::engine::start_engine;
use crate::support::http::{ResponseStream, percent_encode, send_request, serve};

const MEGABYTE: u64 = 1 << 20;

/// Returns an event of one of fifty containers, with a unique time: about 400 bytes and a note.
fn event(n: usize, note: usize) -> String {
    let action = ["start", "die", "stop", "attach"][n / 50 % 4];
    container_event(n, action, &format!("c{}", n % 50), &format!("image{}", n % 7), note)
}

fn container_event(n: usize, action: &str, name: &str, image: &str, note: usize) -> String {
    let (id, time) = (format!("{:064x}", n % 50), 1_795_535_600 + n / 1_000);
    format!(
        r#"{{"status":"{action}","id":"{id}","from":"{image}","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"image":"{image}","name":"{name}","note":"{}"}}}},"scope":"local","time":{time},"timeNano":{}}}"#,
        "x".repeat(note),
        time * 1_000_000_000 + n % 1_000
    )
}

/// Returns the filter of a subscriber: a different one for each, and all match the last event.
fn filter(subscriber: usize) -> Vec<(&'static str, Vec<String>)> {
    let (first, second) = (subscriber % 50, (subscriber % 50 + 1 + subscriber / 50) % 50);
    let mut filter = vec![("container", vec![format!("c{first}"), format!("c{second}"), "end".into()])];
    if subscriber.is_multiple_of(3) {
        filter.push(("event", vec!["start".into(), "stop".into(), "destroy".into()]));
    }
    if subscriber.is_multiple_of(5) {
        filter.push(("image", vec![format!("image{}", subscriber % 7), "end-image".into()]));
    }
    filter
}

/// Opens a live stream of the events that match a filter.
fn subscribe(socket: &std::path::Path, filter: &[(&str, Vec<String>)]) -> ResponseStream {
    let filters: serde_json::Map<_, _> =
        filter.iter().map(|(key, values)| ((*key).into(), values.clone().into())).collect();
    let target = format!("/events?filters={}", percent_encode(&serde_json::Value::from(filters).to_string()));
    send_request(socket, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

#[test]
fn two_hundred_subscribers_get_their_events_and_one_that_reads_nothing_is_cut() {
    let (test_dir, engine) = start_engine();
    let recorder = test_dir.record(&engine.host(), &[]);
    let (server, socket) = serve(&test_dir, &[]);
    let idle = subscribe(&socket, &[]);
    let subscribers: Vec<_> = (0..199)
        .map(|number| {
            let mut stream = subscribe(&socket, &filter(number));
            std::thread::spawn(move || {
                let mut lines = Vec::new();
                while !lines.last().is_some_and(|line: &String| line.contains("end-image")) {
                    let chunk = stream.chunk().unwrap_or_else(|| panic!("{number} is cut after {}", lines.len()));
                    let line = String::from_utf8(chunk).unwrap();
                    lines.push(line.strip_suffix('\n').unwrap().to_owned());
                }
                (lines, stream)
            })
        })
        .collect();
    // No more events at a time than the backlog, so that nothing is lost even on a slow machine.
    for number in 1..=20 {
        (200 * (number - 1)..200 * number).for_each(|n| engine.emit(&event(n, 300)));
        let count = (200 * number).to_string();
        test_dir.eventually("all events are stored", || {
            let stored = test_dir.run(&["query", "-q", "--count"]).lines();
            if stored == [count.clone()] { Ok(()) } else { Err(stored) }
        });
    }
    engine.emit(&container_event(4_000, "destroy", "end", "end-image", 0));
    for (number, subscriber) in subscribers.into_iter().enumerate() {
        let (lines, mut stream) = subscriber.join().unwrap();
        let args: Vec<String> = filter(number)
            .iter()
            .flat_map(|(key, values)| values.iter().map(move |value| format!("--filter={key}={value}")))
            .collect();
        let args: Vec<&str> = ["query", "-q"].into_iter().chain(args.iter().map(String::as_str)).collect();
        let (mut lines, mut expected) = (lines, test_dir.lines(&args));
        lines.sort();
        expected.sort();
        assert!(lines == expected && lines.len() > 5, "{number}: {} of {}", lines.len(), expected.len());
        assert!(number % 50 > 0 || stream.is_idle());
    }
    // Events that the idle subscriber does not read use no memory: neither its stream nor the tail grows.
    let before = server.peak_memory().unwrap();
    let more_events: Vec<String> = (5_000..10_000).map(|n| event(n, 6_000) + "\n").collect();
    fs::write(test_dir.path("much"), more_events.concat()).unwrap();
    test_dir.run(&["import", "-q", "much"]).assert_success();
    let cut = || server.log().matches("a client accepted no data for 20 s: the server disconnects it").count();
    assert!(within(Duration::from_secs(40), || cut() == 1), "{}", server.log());
    let received = idle.read_to_end();
    assert!(!received.is_complete && !received.chunks.is_empty());
    let peak = server.peak_memory().unwrap();
    assert!(before < 48 * MEGABYTE && peak < before + 16 * MEGABYTE, "{before} bytes, then {peak}");
    recorder.stop();
    server.stop();
}

/// Reads the whole history; returns the number of chunks and the peak memory of `serve`.
fn read_history(test_dir: &TestDir) -> (usize, u64) {
    let (server, socket) = serve(test_dir, &[]);
    let mut stream = send_request(&socket, "GET /events?since=0&until=0 HTTP/1.1\r\nHost: x\r\n\r\n");
    let chunks = std::iter::from_fn(|| stream.chunk()).take_while(|chunk| !chunk.is_empty()).count();
    let peak = server.peak_memory().unwrap();
    server.stop();
    (chunks, peak)
}

/// The file of the store is mapped and counts as memory, so its size is subtracted.
#[test]
fn history_is_streamed_with_bounded_memory() {
    let test_dir = TestDir::new();
    let import = |from: usize, to: usize| -> io::Result<u64> {
        let mut file = BufWriter::new(fs::File::create(test_dir.path("some"))?);
        (from..to).try_for_each(|n| writeln!(file, "{}", event(n, 300)))?;
        file.into_inner()?;
        test_dir.run(&["import", "-q", "some"]).assert_success();
        Ok(fs::metadata(test_dir.db())?.len())
    };
    let few = import(0, 50_000).unwrap();
    let (chunks, peak_of_few) = read_history(&test_dir);
    assert_eq!(chunks, 50_000);
    let many = import(50_000, 200_000).unwrap();
    let (chunks, peak_of_many) = read_history(&test_dir);
    assert_eq!(chunks, 200_000);
    let (few, many) = (peak_of_few.saturating_sub(few), peak_of_many.saturating_sub(many));
    assert!(many < few + 8 * MEGABYTE, "{few} bytes of 50,000 events, {many} of 200,000");
}
