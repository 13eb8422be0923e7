//! The hash chain: a head is written in one way; and a store of which bytes were changed is read to its end, and if it
//! no longer says the same then `verify` names a fault, or the file cannot be read at all.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use events::event::Event;
use events::query::{Filter, Selection};
use events::store::{
    Delivery, GapChange, GapRow, Head, Judge, Limits, Order, Queue, Reader, Reason, RejectedRow, Rejection, Snapshot,
    SourceKey, Store, StoreError, spawn_writer,
};

/// How many changes of the input are made.
const CHANGES: usize = 16;

pub(crate) fn check(input: &[u8]) {
    a_head_reads_back(input);
    let mut file = STORE.file.clone();
    for change in input.chunks_exact(4).take(CHANGES) {
        let [low, high, how, value] = *change.as_array().expect("four bytes");
        let at = u16::from_le_bytes([low, high]);
        // Most of a file is empty: beside what is not.
        let at = STORE.used[(usize::from(at) * STORE.used.len()) >> 16] + usize::from(how >> 6);
        let Some(byte) = file.get_mut(at) else { continue };
        *byte = match how & 3 {
            0 => value,
            1 => byte.wrapping_add(value),
            _ => *byte ^ value,
        };
    }
    if file != STORE.file {
        a_change_is_found(&file);
    }
}

fn a_head_reads_back(input: &[u8]) {
    if let Some(head) = std::str::from_utf8(input).ok().and_then(|text| text.parse::<Head>().ok()) {
        // A number may have zeros before it.
        let text = String::from_utf8_lossy(input);
        assert_eq!(format!("{:0>1$}", head.to_string(), text.len()), text);
    }
    if let Some((seq, hash)) = input.split_first_chunk().and_then(|(seq, rest)| Some((seq, rest.first_chunk()?))) {
        let head = Head { seq: i64::from_le_bytes(*seq) & i64::MAX, hash: *hash };
        assert_eq!(head.to_string().parse(), Ok(head));
    }
}

fn a_change_is_found(file: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.db");
    fs::write(&path, file).expect("a file is written");
    let said = said(&path);
    let mut faults = Vec::new();
    let verified = Reader::open(&path).and_then(|reader| reader.verify(&[STORE.head], |fault| faults.push(fault)));
    if let Ok(verified) = verified {
        assert_eq!(verified.faults, faults.len() as u64);
        if faults.is_empty() {
            assert_eq!(verified.head, STORE.head);
            let said = said.expect("what is proven can be read");
            assert!(said == STORE.said, "{said:#?}\nis not what was stored:\n{:#?}", STORE.said);
        }
    }
}

/// All that `query`, `gaps` and `rejected` print.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    names: Vec<(i64, String)>,
    /// For each selection, in each order: sequence, source, when it was read, and the line.
    events: Vec<Vec<(i64, i64, i64, String)>>,
    gaps: Vec<GapRow>,
    rejected: Vec<RejectedRow>,
}

fn said(path: &Path) -> Result<Said, StoreError> {
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
        let passes = |event: &Event<'_>| selection.passes(event);
        for order in [Order::Time, Order::TimeReversed, Order::Arrival] {
            let judge = if wire.is_empty() { Judge::All } else { Judge::Alike(&passes) };
            let mut found = Vec::new();
            let all = Snapshot { after: 0, to: reader.snapshot(0)?.to.saturating_add(1_000_000) };
            let _ = reader.events(&selection.ask(None), all, order, judge, |stored| {
                let line = String::from_utf8_lossy(stored.raw).into_owned();
                found.push((stored.seq, stored.source, stored.received_nano, line));
                ControlFlow::<()>::Continue(())
            })?;
            events.push(found);
        }
    }
    let mut rejected = Vec::new();
    let _ = reader.rejected(|row| {
        rejected.push(row);
        ControlFlow::<()>::Continue(())
    })?;
    let names = reader.sources()?.into_iter().map(|source| (source.id, source.name)).collect();
    Ok(Said { names, events, gaps: reader.gaps()?, rejected })
}

/// A store as it was written.
struct Written {
    file: Vec<u8>,
    /// Where the file holds something.
    used: Vec<usize>,
    head: Head,
    said: Said,
}

static STORE: LazyLock<Written> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("x.db");
    let queue = Arc::new(Queue::new(usize::MAX));
    let key = |id: &str, name: &str, renamed| {
        Arc::new(SourceKey { engine_id: Some(id.into()), name: name.into(), renamed, host: None })
    };
    let (one, other) = (key("one", "web", false), key("other", "web", false));
    let event = |line: &'static str| Event::parse(line.as_bytes()).expect("an event");
    let fixture = include_str!("../../../fixtures/docker-28.5.2.ndjson");
    let odd =
        r#"{"time":1,"Type":"container","Action":"od\u0064","Actor":{"ID":"a","Attributes":{"image":"busybox"}}}"#;

    let mut first = Delivery::new(one.clone(), 1_800_000_000_000_000_000);
    first.gap = Some(GapChange::Blind { from: None, to: Some(1), reason: Reason::FirstContact, detail: None });
    first.events = fixture.lines().step_by(8).map(event).collect();
    let mut second = Delivery::new(other, 1_800_000_001_000_000_000);
    second.events = [odd].into_iter().chain(fixture.lines().skip(100).take(4)).map(event).collect();
    second.rejected = vec![Rejection { bytes: b"garbage"[..].into(), error: "no JSON".into() }];
    let mut third = Delivery::new(key("one", "api", true), 1_800_000_002_000_000_000);
    let detail = Some("more".into());
    third.gap = Some(GapChange::Blind { from: Some(2), to: None, reason: Reason::Overrun, detail });
    third.events = fixture.lines().skip(200).filter(|line| line.contains("exec")).take(6).map(event).collect();
    for delivery in [first, second, third] {
        queue.push(delivery).expect("there is room");
    }
    queue.close();
    let outcome = spawn_writer(Store::open_or_create(&path).expect("a store"), queue, Limits::default()).join();
    assert!(outcome.expect("the writer ends").failed.is_none());

    let verified = Reader::open(&path).and_then(|reader| reader.verify(&[], |fault| panic!("{fault}")));
    let said = said(&path).expect("the store is read");
    let file = fs::read(&path).expect("the file is read");
    let used = file.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
    Written { file, used, head: verified.expect("it is verified").head, said }
});
