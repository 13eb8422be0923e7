//! The hash chain: a head has exactly one spelling. A store with changed bytes is read without a panic. If its content
//! differs, `verify` reports a fault, or the file cannot be read.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use events::event::Event;
use events::query::{Filter, Selection};
use events::store::{
    Delivery, EventPredicate, GapChange, GapReason, GapRow, Head, Limits, Order, Queue, Reader, RejectedRow, Rejection,
    Snapshot, SourceKey, Store, StoreError, spawn_writer,
};

/// Maximum number of changes that an input makes.
const MAX_CHANGES: usize = 16;

pub(crate) fn check(input: &[u8]) {
    check_head_round_trip(input);
    let mut file = STORE.file.clone();
    for change in input.chunks_exact(4).take(MAX_CHANGES) {
        let [low, high, op, value] = *change.as_array().expect("four bytes");
        let offset = u16::from_le_bytes([low, high]);
        // Most of the file is zeros, so the change is near a byte that is not.
        let offset =
            STORE.nonzero_offsets[(usize::from(offset) * STORE.nonzero_offsets.len()) >> 16] + usize::from(op >> 6);
        let Some(byte) = file.get_mut(offset) else { continue };
        *byte = match op & 3 {
            0 => value,
            1 => byte.wrapping_add(value),
            _ => *byte ^ value,
        };
    }
    if file != STORE.file {
        check_tampering_is_detected(&file);
    }
}

fn check_head_round_trip(input: &[u8]) {
    if let Some(head) = std::str::from_utf8(input).ok().and_then(|text| text.parse::<Head>().ok()) {
        // The sequence may have leading zeros.
        let text = String::from_utf8_lossy(input);
        assert_eq!(format!("{:0>1$}", head.to_string(), text.len()), text);
    }
    if let Some((seq, hash)) = input.split_first_chunk().and_then(|(seq, rest)| Some((seq, rest.first_chunk()?))) {
        let head = Head { seq: i64::from_le_bytes(*seq) & i64::MAX, hash: *hash };
        assert_eq!(head.to_string().parse(), Ok(head));
    }
}

fn check_tampering_is_detected(file: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("x.db");
    fs::write(&path, file).expect("the file is written");
    let contents = read_contents(&path);
    let mut faults = Vec::new();
    let verified = Reader::open(&path).and_then(|reader| reader.verify(&[STORE.head], |fault| faults.push(fault)));
    if let Ok(verified) = verified {
        assert_eq!(verified.faults, faults.len() as u64);
        if faults.is_empty() {
            assert_eq!(verified.head, STORE.head);
            let contents = contents.expect("a verified store can be read");
            assert!(contents == STORE.contents, "{contents:#?}\ndiffers from what was stored:\n{:#?}", STORE.contents);
        }
    }
}

/// Everything that `query`, `gaps` and `rejected` print.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    names: Vec<(i64, String)>,
    /// For each selection, in each order: sequence, source, time of arrival, and line.
    events: Vec<Vec<(i64, i64, i64, String)>>,
    gaps: Vec<GapRow>,
    rejected: Vec<RejectedRow>,
}

fn read_contents(path: &Path) -> Result<Contents, StoreError> {
    let reader = Reader::open(path)?;
    let mut events = Vec::new();
    for wire in [
        "",
        r#"{"type":["network","image"]}"#,
        r#"{"event":["exec_create"]}"#,
        r#"{"event":["die","odd"]}"#,
        r#"{"label":["image"]}"#,
        r#"{"image":["busybox"]}"#,
        r#"{"container":["a","w"]}"#,
    ] {
        let filter = Filter::from_wire(wire).expect("a filter");
        let selection = Selection { filter, ..Selection::default() };
        let passes = |event: &Event<'_>| selection.matches(event);
        for order in [Order::Time, Order::TimeReversed, Order::Arrival] {
            let predicate =
                if wire.is_empty() { EventPredicate::All } else { EventPredicate::PerKindAndActor(&passes) };
            let mut rows = Vec::new();
            let snapshot = Snapshot { after: 0, to: reader.snapshot(0)?.to.saturating_add(1_000_000) };
            let _ = reader.events(&selection.to_query(None), snapshot, order, predicate, |stored| {
                let line = String::from_utf8_lossy(stored.raw).into_owned();
                rows.push((stored.seq, stored.source, stored.received_nano, line));
                ControlFlow::<()>::Continue(())
            })?;
            events.push(rows);
        }
    }
    let mut rejected = Vec::new();
    let _ = reader.rejected(|row| {
        rejected.push(row);
        ControlFlow::<()>::Continue(())
    })?;
    let names = reader.sources()?.into_iter().map(|source| (source.id, source.name)).collect();
    Ok(Contents { names, events, gaps: reader.gaps()?, rejected })
}

/// A store file, and what it contains.
struct StoredFile {
    file: Vec<u8>,
    /// Offsets of the bytes that are not zero.
    nonzero_offsets: Vec<usize>,
    head: Head,
    contents: Contents,
}

static STORE: LazyLock<StoredFile> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("x.db");
    let queue = Arc::new(Queue::new(usize::MAX));
    let key = |id: &str, name: &str, renamed| {
        Arc::new(SourceKey { engine_id: Some(id.into()), name: name.into(), overrides_name: renamed, host: None })
    };
    let (one, other) = (key("one", "web", false), key("other", "web", false));
    let event = |line: &'static str| Event::parse(line.as_bytes()).expect("an event");
    let fixture = include_str!("../../../fixtures/docker-28.5.2.ndjson");
    let odd =
        r#"{"time":1,"Type":"container","Action":"od\u0064","Actor":{"ID":"a","Attributes":{"image":"busybox"}}}"#;

    let mut first = Delivery::new(one.clone(), 1_800_000_000_000_000_000);
    first.gap = Some(GapChange::Reported { from: None, to: Some(1), reason: GapReason::FirstContact, detail: None });
    first.events = fixture.lines().step_by(8).map(event).collect();
    let mut second = Delivery::new(other, 1_800_000_001_000_000_000);
    second.events = [odd].into_iter().chain(fixture.lines().skip(100).take(4)).map(event).collect();
    second.rejected = vec![Rejection { bytes: b"garbage"[..].into(), error: "no JSON".into() }];
    let mut third = Delivery::new(key("one", "api", true), 1_800_000_002_000_000_000);
    let detail = Some("more".into());
    third.gap = Some(GapChange::Reported { from: Some(2), to: None, reason: GapReason::Overrun, detail });
    third.events = fixture.lines().skip(200).filter(|line| line.contains("exec")).take(6).map(event).collect();
    for delivery in [first, second, third] {
        queue.push(delivery).expect("the queue has space");
    }
    queue.close();
    let outcome = spawn_writer(Store::open_or_create(&path).expect("a store"), queue, Limits::default()).join();
    assert!(outcome.expect("the writer does not panic").error.is_none());

    let verified = Reader::open(&path).and_then(|reader| reader.verify(&[], |fault| panic!("{fault}")));
    let contents = read_contents(&path).expect("the store is read");
    let file = fs::read(&path).expect("the file is read");
    let nonzero_offsets = file.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(offset, _)| offset).collect();
    StoredFile { file, nonzero_offsets, head: verified.expect("the store is verified").head, contents }
});
