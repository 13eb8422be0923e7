//! What is stored comes out again, byte for byte and once, and no filter that narrows loses any of it.

use std::ops::ControlFlow;
use std::sync::Arc;

use events::event::Event;
use events::query::{Filter, Selection};
use events::store::{
    Delivery, Judge, Limits, Order, Queue, Reader, Rejection, Snapshot, SourceKey, Store, spawn_writer,
};
use serde_json::json;

/// How many lines of the input are taken, and of how many events the own filters are asked.
const LINES: usize = 100;
const ASKED: usize = 4;

/// All there is. The end of a snapshot is open, for of few events none is looked for in the small tables.
const ALL: Snapshot = Snapshot { after: 0, to: i64::MAX };

/// The lines are events, filters as requests have them, and what is neither; a blank line ends a delivery.
pub(crate) fn check(input: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.db");
    let mut expected: Vec<Event<'_>> = Vec::new();
    let (mut rejected, mut filters): (Vec<&[u8]>, Vec<Filter>) = (Vec::new(), Vec::new());
    let source = Arc::new(SourceKey { engine_id: Some("e".into()), name: "e".into(), renamed: false, host: None });
    let queue = Arc::new(Queue::new(usize::MAX));
    let mut delivery = Delivery::new(source.clone(), 1);
    for line in input.split(|byte| *byte == b'\n').take(LINES) {
        if line.is_empty() {
            let next = Delivery::new(source.clone(), delivery.received_nano + 1);
            queue.push(std::mem::replace(&mut delivery, next)).expect("there is room");
        } else if let Ok(event) = Event::parse(line) {
            delivery.events.push(&event);
            if !expected.iter().any(|known| known.is_same(&event)) {
                expected.push(event);
            }
        } else if let Some(filter) = std::str::from_utf8(line).ok().and_then(|text| Filter::from_wire(text).ok()) {
            filters.push(filter);
        } else {
            delivery.rejected.push(Rejection { bytes: line.into(), error: "e".into() });
            rejected.push(line);
        }
    }
    queue.push(delivery).expect("there is room");
    queue.close();
    let store = Store::open_or_create(&path).expect("a store");
    let outcome = spawn_writer(store, queue, Limits::default()).join().expect("the writer ends");
    assert!(outcome.failed.is_none(), "{:?}", outcome.failed);
    assert_eq!(outcome.stored.events, expected.len() as u64);

    let reader = Reader::open(&path).expect("the store");
    let mut kept = Vec::new();
    let read = reader.rejected(|row| {
        kept.push(row.bytes);
        ControlFlow::<()>::Continue(())
    });
    assert!(read.is_ok());
    assert_eq!(kept, rejected);
    let everything = Selection::default();
    assert_eq!(found(&reader, &everything, Order::Arrival), texts(expected.iter()));
    for event in expected.iter().take(ASKED) {
        for filter in filters_of(event) {
            assert!(filter.matches(event), "{filter:?}");
            filters.push(filter);
        }
    }
    expected.sort_by_key(|event| event.time_nano);
    for filter in filters {
        let selection = Selection { filter, ..Selection::default() };
        let passing = texts(expected.iter().filter(|event| selection.passes(event)));
        assert_eq!(found(&reader, &selection, Order::Time), passing, "{selection:?}");
    }
}

fn texts<'a>(events: impl Iterator<Item = &'a Event<'a>>) -> Vec<String> {
    events.map(|event| event.text.to_owned()).collect()
}

/// What a selection finds, as `query` goes about it.
fn found(reader: &Reader, selection: &Selection, order: Order) -> Vec<String> {
    let passes = |event: &Event<'_>| selection.passes(event);
    let judge = if selection.looks_at_varying() { Judge::Each(&passes) } else { Judge::Alike(&passes) };
    let mut found = Vec::new();
    let read = reader.events(&selection.ask(None), ALL, order, judge, |stored| {
        found.push(String::from_utf8(stored.raw.to_vec()).expect("events are text"));
        ControlFlow::<()>::Continue(())
    });
    assert!(read.is_ok_and(|flow| flow.is_continue()));
    found
}

/// Filters that let an event through.
fn filters_of(event: &Event<'_>) -> Vec<Filter> {
    let image = event.attribute(if event.kind == "image" { "name" } else { "image" });
    let labels: Vec<String> = event
        .attributes
        .iter()
        .filter(|(key, _)| !key.contains('='))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let begin = |text: &str| text.chars().take(3).collect::<String>();
    let all = json!({
        "type": [event.kind],
        "event": [event.action],
        "scope": [event.scope],
        "container": [begin(&event.actor_id)],
        "network": [begin(event.attribute("name").unwrap_or_default())],
        "image": [image.unwrap_or_default()],
        "label": labels,
    });
    let each = all.as_object().expect("an object").iter().map(|(key, values)| json!({ key: values }));
    each.chain([all.clone()]).map(|wire| Filter::from_wire(&wire.to_string()).expect("a filter")).collect()
}
