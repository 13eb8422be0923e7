//! Filters of the command line and of requests: they are parsed without a panic, and what they request from the store
//! contains everything that they match.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use events::event::{Event, EventBatch};
use events::query::{Filter, Selection};
use events::store::{
    Actions, Delivery, EventPredicate, Limits, Order, Query, Queue, Reader, Snapshot, SourceKey, Store, spawn_writer,
};

/// Maximum number of lines of an input.
const MAX_LINES: usize = 8;

/// One event of each type, action and set of attributes in the recording, and some that no engine sent.
static SAMPLE_LINES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut lines: Vec<String> =
        include_str!("../../../fixtures/docker-28.5.2.ndjson").lines().map(str::to_owned).collect();
    let kind = |line: &String| {
        let event = Event::parse(line.as_bytes()).expect("an event");
        let keys: Vec<String> = event.attributes.iter().map(|(key, _)| key.to_string()).collect();
        (event.kind.to_string(), event.action.chars().take(12).collect::<String>(), keys)
    };
    lines.sort_by_key(kind);
    lines.dedup_by_key(|line| kind(line));
    lines.extend([
        r#"{"Type":"","Action":"","Actor":{"ID":""},"time":0}"#.into(),
        r#"{"Type":"t","Action":"exec_create: a","Actor":{"ID":"\ud800\udbff\udfff","Attributes":{"a":"","":"b","=":"="}},"time":1}"#.into(),
        r#"{"Type":"image","Action":"tag","Actor":{"ID":"i","Attributes":{"name":"localhost:5000/a/b:c","image":"x","a":"b"}},"time":2}"#.into(),
        r#"{"Type":"container","Action":"die","Actor":{"ID":"c","Attributes":{"name":"web","image":"web:1","a":"b","exitCode":1,"signal":null}},"scope":"swarm","time":3}"#.into(),
    ]);
    lines
});

static SAMPLE_EVENTS: LazyLock<Vec<Event<'static>>> =
    LazyLock::new(|| SAMPLE_LINES.iter().map(|line| Event::parse(line.as_bytes()).expect("an event")).collect());

thread_local! {
    static SAMPLE_STORE: (tempfile::TempDir, Reader) = {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("x.db");
        let source = SourceKey { engine_id: Some("e".into()), name: "e".into(), overrides_name: false, host: None };
        let mut delivery = Delivery::new(Arc::new(source), 1);
        delivery.events = SAMPLE_EVENTS.iter().cloned().collect::<EventBatch>();
        let queue = Arc::new(Queue::new(usize::MAX));
        queue.push(delivery).expect("the queue has space");
        queue.close();
        let store = Store::open_or_create(&path).expect("a store");
        let outcome = spawn_writer(store, queue, Limits::default()).join().expect("the writer does not panic");
        assert!(outcome.error.is_none());
        let reader = Reader::open(&path).expect("the store");
        (dir, reader)
    };
}

/// Checks an input. Each line is a filter of the command line, a filter of a request, or ignored.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut combined = Filter::default();
    for line in text.lines().filter(|line| !line.is_empty()).take(MAX_LINES) {
        if combined.add(line).is_err()
            && let Ok(filter) = Filter::from_wire(line)
        {
            check_no_match_is_lost(filter);
        }
    }
    if !combined.is_empty() {
        check_no_match_is_lost(combined);
    }
}

fn check_no_match_is_lost(filter: Filter) {
    let mut query = Query::default();
    filter.narrow(&mut query);
    let mut passing: Vec<&Event<'_>> = SAMPLE_EVENTS.iter().filter(|event| filter.matches(event)).collect();
    if filter.is_empty() {
        assert_eq!(passing.len(), SAMPLE_EVENTS.len());
    }
    for event in &passing {
        assert!(may_match(&query, event), "{filter:?} requests {query:?}, which loses {}", event.text);
    }
    passing.sort_by_key(|event| event.time_nano);
    let selection = Selection { filter, ..Selection::default() };
    let passes = |event: &Event<'_>| selection.matches(event);
    let predicate = if selection.uses_per_event_attributes() {
        EventPredicate::PerEvent(&passes)
    } else {
        EventPredicate::PerKindAndActor(&passes)
    };
    let mut found = Vec::new();
    // The end is open: a search among few events does not use the small tables.
    let snapshot = Snapshot { after: 0, to: i64::MAX };
    let result = SAMPLE_STORE.with(|(_, reader)| {
        reader.events(&query, snapshot, Order::Time, predicate, |stored| {
            found.push(String::from_utf8(stored.raw.to_vec()).expect("events are text"));
            ControlFlow::<()>::Continue(())
        })
    });
    assert!(result.is_ok_and(|flow| flow.is_continue()));
    assert!(found.iter().eq(passing.iter().map(|event| event.text)), "{selection:?}: {found:#?} for {passing:#?}");
}

/// Returns true if the store may return this event for a query; computed without the store.
fn may_match(query: &Query, event: &Event<'_>) -> bool {
    let starts_with_any =
        |text: &str, prefixes: &[String]| prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()));
    let action = match &query.actions {
        Actions::Any => true,
        Actions::Exact(actions) => actions.contains(&event.action.to_string()),
        Actions::Prefix(prefixes) => starts_with_any(&event.action, prefixes),
    };
    let name = event.attribute("name").unwrap_or_default();
    let test = query.actor_test.as_ref().is_none_or(|test| {
        let values: Vec<Option<&str>> = test.keys.iter().map(|key| event.attribute(key)).collect();
        (test.matches)(&event.actor_id, &values)
    });
    let actor = query
        .actors
        .iter()
        .all(|prefixes| starts_with_any(&event.actor_id, prefixes) || starts_with_any(name, prefixes));
    (query.types.is_empty() || query.types.contains(&event.kind.to_string())) && action && actor && test
}
