//! `serve` with many subscribers, and with much to tell: nothing is lost or doubled, and memory stays bounded.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use crate::support::command::{Folder, within};
use crate::support::engine::Engine;
use crate::support::http::{Asked, ask, encoded, serve};

const MEGABYTE: u64 = 1 << 20;

/// What happens to one of fifty containers, at an instant of its own; some 400 bytes and a note.
fn event(n: usize, note: usize) -> String {
    let action = ["start", "die", "stop", "attach"][n / 50 % 4];
    told(n, action, &format!("c{}", n % 50), &format!("image{}", n % 7), note)
}

fn told(n: usize, action: &str, name: &str, image: &str, note: usize) -> String {
    let (id, time) = (format!("{:064x}", n % 50), 1_795_535_600 + n / 1_000);
    format!(
        r#"{{"status":"{action}","id":"{id}","from":"{image}","Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"image":"{image}","name":"{name}","note":"{}"}}}},"scope":"local","time":{time},"timeNano":{}}}"#,
        "x".repeat(note),
        time * 1_000_000_000 + n % 1_000
    )
}

/// A filter of its own for each subscriber, which the last event passes too.
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

fn subscribe(socket: &std::path::Path, filter: &[(&str, Vec<String>)]) -> Asked {
    let filters: serde_json::Map<_, _> =
        filter.iter().map(|(key, values)| ((*key).into(), values.clone().into())).collect();
    let target = format!("/events?filters={}", encoded(&serde_json::Value::from(filters).to_string()));
    ask(socket, &format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

#[test]
fn two_hundred_live_subscribers_get_what_their_filters_say_beside_one_that_reads_nothing() {
    let folder = Folder::new();
    let engine = Engine::start(folder.path("docker.sock"));
    let recorder = folder.record(&engine.host(), &[]);
    let (server, socket) = serve(&folder, &[]);
    let idle = subscribe(&socket, &[]);
    let subscribers: Vec<_> = (0..199)
        .map(|number| {
            let mut asked = subscribe(&socket, &filter(number));
            std::thread::spawn(move || {
                let mut lines = Vec::new();
                while !lines.last().is_some_and(|line: &String| line.contains("end-image")) {
                    let chunk = asked.chunk().unwrap_or_else(|| panic!("{number} is cut after {}", lines.len()));
                    let line = String::from_utf8(chunk).unwrap();
                    lines.push(line.strip_suffix('\n').unwrap().to_owned());
                }
                (lines, asked)
            })
        })
        .collect();
    // No more at a time than the engine remembers: so nothing is lost, however slow this machine is just now.
    for number in 1..=20 {
        (200 * (number - 1)..200 * number).for_each(|n| engine.happens(&event(n, 300)));
        let count = (200 * number).to_string();
        folder.eventually("all is recorded", || {
            let counted = folder.run(&["query", "-q", "--count"]).lines();
            if counted == [count.clone()] { Ok(()) } else { Err(counted) }
        });
    }
    engine.happens(&told(4_000, "destroy", "end", "end-image", 0));
    for (number, subscriber) in subscribers.into_iter().enumerate() {
        let (lines, mut asked) = subscriber.join().unwrap();
        let words: Vec<String> = filter(number)
            .iter()
            .flat_map(|(key, values)| values.iter().map(move |value| format!("--filter={key}={value}")))
            .collect();
        let words: Vec<&str> = ["query", "-q"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let (mut lines, mut expected) = (lines, folder.lines(&words));
        lines.sort();
        expected.sort();
        assert!(lines == expected && lines.len() > 5, "{number}: {} of {}", lines.len(), expected.len());
        assert!(number % 50 > 0 || asked.is_quiet());
    }
    // What it does not take is not held for it: neither by its stream, nor as the newest events, which are bounded.
    let before = server.peak().unwrap();
    let much: Vec<String> = (5_000..10_000).map(|n| event(n, 6_000) + "\n").collect();
    fs::write(folder.path("much"), much.concat()).unwrap();
    folder.run(&["import", "-q", "much"]).succeeded();
    let cut = || server.log().matches("a client took nothing of what waited for it for 20 s: it is cut off").count();
    assert!(within(Duration::from_secs(40), || cut() == 1), "{}", server.log());
    let told = idle.all();
    assert!(!told.whole && !told.chunks.is_empty());
    let peak = server.peak().unwrap();
    assert!(before < 48 * MEGABYTE && peak < before + 16 * MEGABYTE, "{before} bytes, then {peak}");
    recorder.stop();
    server.stop();
}

/// All chunks of an answer, and what `serve` held at most.
fn told_from_the_first(folder: &Folder) -> (usize, u64) {
    let (server, socket) = serve(folder, &[]);
    let mut asked = ask(&socket, "GET /events?since=0&until=0 HTTP/1.1\r\nHost: x\r\n\r\n");
    let chunks = std::iter::from_fn(|| asked.chunk()).take_while(|chunk| !chunk.is_empty()).count();
    let peak = server.peak().unwrap();
    server.stop();
    (chunks, peak)
}

/// The store's own file is mapped, and counts as memory.
#[test]
fn what_is_told_from_the_first_event_on_is_not_held() {
    let folder = Folder::new();
    let import = |from: usize, to: usize| -> io::Result<u64> {
        let mut file = BufWriter::new(fs::File::create(folder.path("some"))?);
        (from..to).try_for_each(|n| writeln!(file, "{}", event(n, 300)))?;
        file.into_inner()?;
        folder.run(&["import", "-q", "some"]).succeeded();
        Ok(fs::metadata(folder.db())?.len())
    };
    let few = import(0, 50_000).unwrap();
    let (chunks, peak_of_few) = told_from_the_first(&folder);
    assert_eq!(chunks, 50_000);
    let many = import(50_000, 200_000).unwrap();
    let (chunks, peak_of_many) = told_from_the_first(&folder);
    assert_eq!(chunks, 200_000);
    let (few, many) = (peak_of_few.saturating_sub(few), peak_of_many.saturating_sub(many));
    assert!(many < few + 8 * MEGABYTE, "{few} bytes of 50,000 events, {many} of 200,000");
}
