//! The parts of the way from bytes to rows and back, each on its own: `cargo bench`.
//!
//! Over the events of real engines in `fixtures/`; the throughput is in events.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use events::event::{Event, Events};
use events::query::Filter;
use events::store::layout::{Actor, Form, Varying, form_of, varies};
use events::stream::{Decoder, Splitter};

fn fixture() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/docker-28.5.2.ndjson");
    std::fs::read_to_string(path).expect("the recording is part of the project")
}

fn actor(event: &Event<'_>) -> Actor {
    let stay = event.attributes.iter().filter(|(key, _)| !varies(key));
    Actor::new(&event.actor_id, stay.map(|(key, value)| (&**key, &**value)))
}

fn parts(criterion: &mut Criterion) {
    let text = fixture();
    let events: Vec<Event<'_>> =
        text.lines().map(|line| Event::parse(line.as_bytes()).expect("an engine wrote it")).collect();
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Elements(events.len() as u64));

    group.bench_function("splitter", |b| {
        let mut splitter = Splitter::with_limit(1 << 20);
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
    group.bench_function("copy to hand on, with its digest", |b| {
        b.iter(|| {
            let mut list = Events::default();
            events.iter().for_each(|event| list.push(event));
            list
        });
    });
    group.bench_function("taking apart", |b| {
        let mut form = String::new();
        b.iter(|| {
            for event in &events {
                form_of(event, &mut form);
                black_box((&form, Varying::of(event)));
            }
        });
    });
    group.bench_function("putting together", |b| {
        let mut form = String::new();
        let kept: Vec<_> = events
            .iter()
            .map(|event| {
                form_of(event, &mut form);
                (event, Form::read(&form), actor(event), Varying::of(event))
            })
            .collect();
        b.iter_batched_ref(
            || Vec::with_capacity(text.len()),
            |out| {
                for (event, form, actor, varying) in &kept {
                    form.fill(&event.kind, &event.action, actor, varying, event.time_nano, out);
                }
            },
            BatchSize::LargeInput,
        );
    });
    for (name, words) in [
        ("filter: type and action", &["type=container", "event=start"][..]),
        ("filter: container, image and label", &["container=web", "image=busybox", "label=a=b"]),
    ] {
        let mut filter = Filter::default();
        words.iter().for_each(|word| filter.add(word).expect("a key that engines know"));
        group.bench_function(name, |b| b.iter(|| events.iter().filter(|event| filter.matches(event)).count()));
    }
}

criterion_group!(benches, parts);
criterion_main!(benches);
