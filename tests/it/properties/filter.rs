//! Filters as the command line and requests have them: read without panic, and what they ask of the store holds all
//! that they let through.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use events::event::{Event, Events};
use events::query::{Filter, Selection};
use events::store::{
    Actions, Ask, Delivery, Judge, Limits, Order, Queue, Reader, Snapshot, SourceKey, Store, spawn_writer,
};

/// How many lines of the input are taken.
const LINES: usize = 8;

/// One event of each type, action and set of attributes that engines sent, and some that they did not.
static SENT: LazyLock<Vec<String>> = LazyLock::new(|| {
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

static EVENTS: LazyLock<Vec<Event<'static>>> =
    LazyLock::new(|| SENT.iter().map(|line| Event::parse(line.as_bytes()).expect("an event")).collect());

thread_local! {
    static STORED: (tempfile::TempDir, Reader) = {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.db");
        let source = SourceKey { engine_id: Some("e".into()), name: "e".into(), renamed: false, host: None };
        let mut delivery = Delivery::new(Arc::new(source), 1);
        delivery.events = EVENTS.iter().cloned().collect::<Events>();
        let queue = Arc::new(Queue::new(usize::MAX));
        queue.push(delivery).expect("there is room");
        queue.close();
        let store = Store::open_or_create(&path).expect("a store");
        let outcome = spawn_writer(store, queue, Limits::default()).join().expect("the writer ends");
        assert!(outcome.failed.is_none());
        let reader = Reader::open(&path).expect("the store");
        (folder, reader)
    };
}

/// Each line is one filter of the command line, or one of a request, or nothing.
pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut words = Filter::default();
    for line in text.lines().filter(|line| !line.is_empty()).take(LINES) {
        if words.add(line).is_err()
            && let Ok(filter) = Filter::from_wire(line)
        {
            loses_nothing(filter);
        }
    }
    if !words.is_empty() {
        loses_nothing(words);
    }
}

fn loses_nothing(filter: Filter) {
    let mut ask = Ask::default();
    filter.narrow(&mut ask);
    let mut passing: Vec<&Event<'_>> = EVENTS.iter().filter(|event| filter.matches(event)).collect();
    if filter.is_empty() {
        assert_eq!(passing.len(), EVENTS.len());
    }
    for event in &passing {
        assert!(may_answer(&ask, event), "{filter:?} asks {ask:?}, and {} would be lost", event.text);
    }
    passing.sort_by_key(|event| event.time_nano);
    let selection = Selection { filter, ..Selection::default() };
    let passes = |event: &Event<'_>| selection.passes(event);
    let judge = if selection.looks_at_varying() { Judge::Each(&passes) } else { Judge::Alike(&passes) };
    let mut found = Vec::new();
    // The end is open, for of few events none is looked for in the small tables.
    let snapshot = Snapshot { after: 0, to: i64::MAX };
    let read = STORED.with(|(_, reader)| {
        reader.events(&ask, snapshot, Order::Time, judge, |stored| {
            found.push(String::from_utf8(stored.raw.to_vec()).expect("events are text"));
            ControlFlow::<()>::Continue(())
        })
    });
    assert!(read.is_ok_and(|flow| flow.is_continue()));
    assert!(found.iter().eq(passing.iter().map(|event| event.text)), "{selection:?}: {found:#?} for {passing:#?}");
}

/// What the store makes of an ask, without the store.
fn may_answer(ask: &Ask, event: &Event<'_>) -> bool {
    let begins = |text: &str, prefixes: &[String]| prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()));
    let action = match &ask.actions {
        Actions::Any => true,
        Actions::Exactly(actions) => actions.contains(&event.action.to_string()),
        Actions::BeginningWith(prefixes) => begins(&event.action, prefixes),
    };
    let name = event.attribute("name").unwrap_or_default();
    let test = ask.test.as_ref().is_none_or(|test| {
        let values: Vec<Option<&str>> = test.keys.iter().map(|key| event.attribute(key)).collect();
        (test.passes)(&event.actor_id, &values)
    });
    let actor = ask.actors.iter().all(|prefixes| begins(&event.actor_id, prefixes) || begins(name, prefixes));
    (ask.types.is_empty() || ask.types.contains(&event.kind.to_string())) && action && actor && test
}
