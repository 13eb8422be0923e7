//! A store returns each event byte for byte, however unusual it is.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::support::fixture;
use events::event::Event;
use events::store::{Delivery, EventPredicate, Limits, Order, Query, Queue, Reader, SourceKey, Store, spawn_writer};
use proptest::prelude::*;

/// Stores lines under one source, `per_delivery` in each delivery; returns the number of events stored.
fn store(path: &Path, lines: &[String], per_delivery: usize) -> u64 {
    let source =
        Arc::new(SourceKey { engine_id: Some("e".into()), name: "e".into(), overrides_name: false, host: None });
    let queue = Arc::new(Queue::new(1 << 30));
    let writer = spawn_writer(Store::open_or_create(path).unwrap(), queue.clone(), Limits::default());
    for (at, lines) in lines.chunks(per_delivery).enumerate() {
        let mut delivery = Delivery::new(source.clone(), 1_800_000_000_000_000_000 + at as i64);
        delivery.events = lines.iter().map(|line| Event::parse(line.as_bytes()).unwrap()).collect();
        assert!(queue.push(delivery).is_ok());
    }
    queue.close();
    let outcome = writer.join().unwrap();
    assert!(outcome.error.is_none());
    outcome.stored.events
}

/// Reads all stored lines, each with the time at which it was received.
fn read_all(path: &Path, order: Order) -> Vec<(String, i64)> {
    let reader = Reader::open(path).unwrap();
    let mut lines = Vec::new();
    let snapshot = reader.snapshot(0).unwrap();
    let read = reader.events(&Query::default(), snapshot, order, EventPredicate::All, |stored| {
        lines.push((String::from_utf8(stored.raw.to_vec()).unwrap(), stored.received_nano));
        ControlFlow::<()>::Continue(())
    });
    assert!(read.unwrap().is_continue());
    lines
}

fn time(line: &str) -> i64 {
    Event::parse(line.as_bytes()).unwrap().time_nano
}

#[test]
fn recordings_of_every_engine_are_stored_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    let names = ["docker-20.10.24", "docker-26.1.5", "docker-28.5.2", "docker-29.7.2"];
    let lines: Vec<String> = names.iter().flat_map(|name| fixture::lines(&format!("{name}.ndjson"))).collect();
    assert_eq!(store(&path, &lines, 100), lines.len() as u64);
    assert_eq!(store(&path, &lines, 7), 0, "all are stored already");
    let arrived = read_all(&path, Order::Arrival);
    assert_eq!(arrived.iter().map(|(line, _)| line.clone()).collect::<Vec<_>>(), lines);
    let received: Vec<i64> = (0..lines.len() as i64).map(|at| 1_800_000_000_000_000_000 + at / 100).collect();
    assert_eq!(arrived.iter().map(|(_, received)| *received).collect::<Vec<_>>(), received);
    // The recording of 29 at an older API version is left out: its events have other bytes, and some times are rounded.
    let mut sorted = lines.clone();
    sorted.sort_by_key(|line| time(line));
    assert_eq!(read_all(&path, Order::Time).into_iter().map(|(line, _)| line).collect::<Vec<_>>(), sorted);
    sorted.reverse();
    assert_eq!(read_all(&path, Order::TimeReversed).len(), sorted.len());
    let db = rusqlite::Connection::open(&path).unwrap();
    let verbatim: i64 = db.query_row("SELECT count(*) FROM verbatim", [], |row| row.get(0)).unwrap();
    assert_eq!(verbatim, 0, "no event of an engine is stored verbatim");
}

/// Generates a JSON string, written in one of several ways.
fn text() -> impl Strategy<Value = String> {
    let plain = proptest::sample::select(vec![
        "",
        "a",
        "web",
        "exitCode",
        "name",
        "execID",
        "é☃🐳",
        "a<b>&c",
        "tab\there",
        "q\"uote\\",
        "\u{2028}",
        "\u{7f}",
        "0",
        "007",
        "-1",
        "99999999999999999999",
        "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff",
    ]);
    (plain, 0..3u8).prop_map(|(plain, how)| match how {
        0 => serde_json::to_string(plain).unwrap(),
        // As Go writes it.
        1 => serde_json::to_string(plain)
            .unwrap()
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\u{2028}', "\\u2028"),
        _ => {
            let escaped: String = plain.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            format!("\"{escaped}\"")
        }
    })
}

fn attributes() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        text(),
        proptest::sample::select(vec![
            "\"container\"",
            "\"execID\"",
            "\"exitCode\"",
            "\"image\"",
            "\"name\"",
            "\"signal\"",
            "\"zz\""
        ])
        .prop_map(str::to_owned),
    ];
    let value = prop_oneof![8 => text(), 1 => Just("1.50".to_owned()), 1 => Just("{\"a\": [null]}".to_owned())];
    let pairs = proptest::collection::vec((key, value), 0..6);
    (pairs, any::<bool>()).prop_map(|(mut pairs, sorted)| {
        if sorted {
            pairs.sort();
        }
        let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
        format!("{{{}}}", pairs.join(","))
    })
}

/// Generates an event with its members in any order, some twice, and with unknown members.
fn odd_event() -> impl Strategy<Value = String> {
    let actor = (
        text(),
        prop_oneof![8 => attributes().prop_map(Some), 1 => Just(Some("null".to_owned())), 1 => Just(None)],
        any::<bool>(),
    )
        .prop_map(|(id, attributes, id_last)| match (attributes, id_last) {
            (None, _) => format!("{{\"ID\":{id}}}"),
            (Some(attributes), false) => format!("{{\"ID\":{id},\"Attributes\":{attributes}}}"),
            (Some(attributes), true) => format!("{{\"Attributes\":{attributes}, \"ID\":{id}}}"),
        });
    let instant = prop_oneof![
        (0..50i64).prop_map(|n| format!("\"time\":{},\"timeNano\":{}", n / 10, n * 100_000_000)),
        (0..50i64).prop_map(|n| format!("\"time\":{n}")),
        (-50..50i64).prop_map(|n| format!("\"timeNano\":{n}")),
        Just("\"time\":1.0,\"timeNano\":1".to_owned()),
        Just("\"time\":1e3,\"timeNano\":-0".to_owned()),
    ];
    let extra = proptest::sample::select(vec![
        "",
        "\"scope\":\"local\"",
        "\"scope\":\"swarm\"",
        "\"from\":\"web\"",
        "\"x\":[1,{\"y\":null}]",
        "\"id\":\"a\"",
        "\"Type\":\"twice\"",
        "\"big\":1e999",
        "\"status\":\"a\"",
    ]);
    (text(), text(), actor, instant, proptest::collection::vec(extra, 0..4), any::<u64>(), any::<bool>()).prop_map(
        |(kind, action, actor, instant, extra, seed, spaced)| {
            let mut members =
                vec![format!("\"Type\":{kind}"), format!("\"Action\":{action}"), format!("\"Actor\":{actor}"), instant];
            members.extend(extra.into_iter().filter(|member| !member.is_empty()).map(str::to_owned));
            if seed % 3 != 0 {
                fastrand::Rng::with_seed(seed).shuffle(&mut members);
            }
            format!("{{{}}}", members.join(if spaced { " , " } else { "," }))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn odd_events_are_stored_byte_for_byte(
        lines in proptest::collection::vec(odd_event(), 1..40),
        per_delivery in 1usize..40,
        per_delivery_again in 1usize..40,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let mut expected: Vec<String> = Vec::new();
        for line in &lines {
            let event = Event::parse(line.as_bytes()).expect("the line is an event");
            if !expected.iter().any(|known| Event::parse(known.as_bytes()).unwrap().is_same(&event)) {
                expected.push(line.clone());
            }
        }
        prop_assert_eq!(store(&path, &lines, per_delivery), expected.len() as u64);
        prop_assert_eq!(store(&path, &lines, per_delivery_again), 0);
        let lines = |order| read_all(&path, order).into_iter().map(|(line, _)| line).collect::<Vec<_>>();
        prop_assert_eq!(lines(Order::Arrival), expected.clone());
        expected.sort_by_key(|line| time(line));
        prop_assert_eq!(lines(Order::Time), expected.clone());
        expected.reverse();
        prop_assert_eq!(lines(Order::TimeReversed), expected);
    }
}
