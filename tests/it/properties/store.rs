//! Every stored event is read back once and byte for byte, and no filter loses an event that it matches.

use std::ops::ControlFlow;
use std::sync::Arc;

use events::event::Event;
use events::query::{Filter, Selection};
use events::store::{
    Delivery, EventPredicate, Limits, Order, Queue, Reader, Rejection, Snapshot, SourceKey, Store, spawn_writer,
};
use serde_json::json;

/// Maximum number of lines of an input, and of events for which filters are generated.
const MAX_LINES: usize = 100;
const MAX_FILTERED_EVENTS: usize = 4;

/// A snapshot of all events. Its end is open: a search among few events does not use the small tables.
const FULL_SNAPSHOT: Snapshot = Snapshot { after: 0, to: i64::MAX };

/// Checks an input. Its lines are events, filters of requests, or neither. A blank line ends a delivery.
pub(crate) fn check(input: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("x.db");
    let mut expected: Vec<Event<'_>> = Vec::new();
    let (mut rejected, mut filters): (Vec<&[u8]>, Vec<Filter>) = (Vec::new(), Vec::new());
    let source =
        Arc::new(SourceKey { engine_id: Some("e".into()), name: "e".into(), overrides_name: false, host: None });
    let queue = Arc::new(Queue::new(usize::MAX));
    let mut delivery = Delivery::new(source.clone(), 1);
    for line in input.split(|byte| *byte == b'\n').take(MAX_LINES) {
        if line.is_empty() {
            let next = Delivery::new(source.clone(), delivery.received_nano + 1);
            queue.push(std::mem::replace(&mut delivery, next)).expect("the queue has space");
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
    queue.push(delivery).expect("the queue has space");
    queue.close();
    let store = Store::open_or_create(&path).expect("a store");
    let outcome = spawn_writer(store, queue, Limits::default()).join().expect("the writer does not panic");
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert_eq!(outcome.stored.events, expected.len() as u64);

    let reader = Reader::open(&path).expect("the store");
    let mut rejected_bytes = Vec::new();
    let result = reader.rejected(|row| {
        rejected_bytes.push(row.bytes);
        ControlFlow::<()>::Continue(())
    });
    assert!(result.is_ok());
    assert_eq!(rejected_bytes, rejected);
    let all_events = Selection::default();
    assert_eq!(query_lines(&reader, &all_events, Order::Arrival), texts(expected.iter()));
    for event in expected.iter().take(MAX_FILTERED_EVENTS) {
        for filter in filters_matching(event) {
            assert!(filter.matches(event), "{filter:?}");
            filters.push(filter);
        }
    }
    expected.sort_by_key(|event| event.time_nano);
    for filter in filters {
        let selection = Selection { filter, ..Selection::default() };
        let passing = texts(expected.iter().filter(|event| selection.matches(event)));
        assert_eq!(query_lines(&reader, &selection, Order::Time), passing, "{selection:?}");
    }
}

fn texts<'a>(events: impl Iterator<Item = &'a Event<'a>>) -> Vec<String> {
    events.map(|event| event.text.to_owned()).collect()
}

/// Lines that a selection finds, read as `query` reads them.
fn query_lines(reader: &Reader, selection: &Selection, order: Order) -> Vec<String> {
    let passes = |event: &Event<'_>| selection.matches(event);
    let predicate = if selection.uses_per_event_attributes() {
        EventPredicate::PerEvent(&passes)
    } else {
        EventPredicate::PerKindAndActor(&passes)
    };
    let mut lines = Vec::new();
    let result = reader.events(&selection.to_query(None), FULL_SNAPSHOT, order, predicate, |stored| {
        lines.push(String::from_utf8(stored.raw.to_vec()).expect("events are text"));
        ControlFlow::<()>::Continue(())
    });
    assert!(result.is_ok_and(|flow| flow.is_continue()));
    lines
}

/// Filters that match an event.
fn filters_matching(event: &Event<'_>) -> Vec<Filter> {
    let image = event.attribute(if event.kind == "image" { "name" } else { "image" });
    let labels: Vec<String> = event
        .attributes
        .iter()
        .filter(|(key, _)| !key.contains('='))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let prefix = |text: &str| text.chars().take(3).collect::<String>();
    let all = json!({
        "type": [event.kind],
        "event": [event.action],
        "scope": [event.scope],
        "container": [prefix(&event.actor_id)],
        "network": [prefix(event.attribute("name").unwrap_or_default())],
        "image": [image.unwrap_or_default()],
        "label": labels,
    });
    let each = all.as_object().expect("an object").iter().map(|(key, values)| json!({ key: values }));
    each.chain([all.clone()]).map(|wire| Filter::from_wire(&wire.to_string()).expect("a filter")).collect()
}
