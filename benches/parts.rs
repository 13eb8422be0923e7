//! Benchmarks of each step from bytes to rows and back: `cargo bench`.
//!
//! The input is a recording of a real engine in `fixtures/`. The throughput is in events.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use events::event::{Event, EventBatch};
use events::query::Filter;
use events::store::layout::{Actor, LineTemplate, VaryingAttributes, extract_template, is_varying};
use events::stream::{Decoder, LineSplitter};

fn fixture() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/docker-28.5.2.ndjson");
    std::fs::read_to_string(path).expect("the recording is in the repository")
}

fn actor(event: &Event<'_>) -> Actor {
    let constant = event.attributes.iter().filter(|(key, _)| !is_varying(key));
    Actor::new(&event.actor_id, constant.map(|(key, value)| (&**key, &**value)))
}

fn parts(criterion: &mut Criterion) {
    let text = fixture();
    let events: Vec<Event<'_>> =
        text.lines().map(|line| Event::parse(line.as_bytes()).expect("the line is an event")).collect();
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Elements(events.len() as u64));

    group.bench_function("splitter", |b| {
        let mut splitter = LineSplitter::with_limit(1 << 20);
        b.iter(|| {
            text.as_bytes().chunks(16 * 1024).for_each(|chunk| splitter.push(chunk, |piece| _ = black_box(piece)));
        });
    });
    group.bench_function("splitter and parser", |b| {
        let mut decoder = Decoder::default();
        b.iter(|| {
            text.as_bytes().chunks(16 * 1024).for_each(|chunk| decoder.push(chunk, |item| drop(black_box(item))));
        });
    });
    group.bench_function("parser", |b| {
        b.iter(|| text.lines().for_each(|line| drop(black_box(Event::parse(line.as_bytes())))));
    });
    group.bench_function("parser of serde_json, into a tree", |b| {
        b.iter(|| text.lines().for_each(|line| drop(black_box(serde_json::from_str::<serde_json::Value>(line)))));
    });
    group.bench_function("copy into a list, with digest", |b| {
        b.iter(|| {
            let mut list = EventBatch::default();
            events.iter().for_each(|event| list.push(event));
            list
        });
    });
    group.bench_function("encode", |b| {
        let mut template = String::new();
        b.iter(|| {
            for event in &events {
                extract_template(event, &mut template);
                black_box((&template, VaryingAttributes::from_event(event)));
            }
        });
    });
    group.bench_function("decode", |b| {
        let mut template = String::new();
        let encoded: Vec<_> = events
            .iter()
            .map(|event| {
                extract_template(event, &mut template);
                (event, LineTemplate::parse(&template), actor(event), VaryingAttributes::from_event(event))
            })
            .collect();
        b.iter_batched_ref(
            || Vec::with_capacity(text.len()),
            |out| {
                for (event, template, actor, varying) in &encoded {
                    template.render(&event.kind, &event.action, actor, varying, event.time_nano, out);
                }
            },
            BatchSize::LargeInput,
        );
    });
    for (name, arguments) in [
        ("filter: type and action", &["type=container", "event=start"][..]),
        ("filter: container, image and label", &["container=web", "image=busybox", "label=a=b"]),
    ] {
        let mut filter = Filter::default();
        arguments.iter().for_each(|argument| filter.add(argument).expect("a filter key"));
        group.bench_function(name, |b| b.iter(|| events.iter().filter(|event| filter.matches(event)).count()));
    }
}

criterion_group!(benches, parts);
criterion_main!(benches);
