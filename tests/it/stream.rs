//! Decoding: a stream gives the same events, byte for byte, wherever its bytes are split.

use crate::support::fixture;
use events::stream::{Decoder, Item, StreamEnd};
use proptest::prelude::*;

/// Decodes a stream in these pieces; returns the events, the reasons of rejected lines, and the end.
fn decode<'a>(limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, Vec<String>, StreamEnd) {
    let mut decoder = Decoder::with_limit(limit);
    let (mut events, mut rejected) = (Vec::new(), Vec::new());
    let mut each = |item: Item<'_>| match item {
        Item::Event(event) => events.push(event.text.to_owned()),
        Item::Rejected(r) => rejected.push(r.reason.to_string()),
    };
    for piece in pieces {
        decoder.push(piece, &mut each);
    }
    let end = decoder.finish(&mut each);
    (events, rejected, end)
}

/// Returns the body of a chunked response.
fn dechunk(wire: &[u8]) -> Vec<u8> {
    let text_at = |at: usize, end: &[u8]| at + memchr::memmem::find(&wire[at..], end).expect("the wire is complete");
    let mut at = text_at(0, b"\r\n\r\n") + 4;
    let mut body = Vec::new();
    while at < wire.len() {
        let end = text_at(at, b"\r\n");
        let size = usize::from_str_radix(std::str::from_utf8(&wire[at..end]).unwrap(), 16).unwrap();
        body.extend(&wire[end + 2..end + 2 + size]);
        at = end + 2 + size + 2;
    }
    body
}

const RECORDINGS: [&str; 5] = [
    "docker-20.10.24.ndjson",
    "docker-26.1.5.ndjson",
    "docker-28.5.2.ndjson",
    "docker-29.7.2.ndjson",
    "docker-29.7.2-api1.51.ndjson",
];

#[test]
fn every_recorded_line_is_decoded_byte_for_byte() {
    for name in RECORDINGS {
        let bytes = fixture::bytes(name);
        let lines = fixture::lines(name);
        assert_eq!(decode(1 << 20, [&bytes[..]]), (lines, vec![], StreamEnd::Clean), "{name}");
    }
}

#[test]
fn chunked_recordings_decode_to_the_events_as_lines_and_as_json_seq() {
    let body = dechunk(&fixture::bytes("docker-20.10.24.wire"));
    let (mut events, mut lines) = (decode(1 << 20, [&body[..]]).0, fixture::lines("docker-20.10.24.ndjson"));
    // The two files were recorded by two subscribers, which may receive concurrent events in different order.
    events.sort();
    lines.sort();
    assert!(events == lines);
    let body = dechunk(&fixture::bytes("docker-29.7.2-json-seq.wire"));
    let (events, rejected, end) = decode(1 << 20, [&body[..]]);
    assert!(rejected.is_empty() && end == StreamEnd::Clean);
    assert_eq!(events.len(), memchr::memchr_iter(0x1E, &body).count());
    assert!(events.iter().any(|event| event.len() > 100_000), "one of them is 200 KB long");
}

#[test]
fn a_split_at_any_offset_changes_nothing() {
    let text = "{\"Type\":\"volume\",\"Action\":\"create\",\"Actor\":{\"ID\":\"büc📦\",\"Attributes\":null},\"time\":1}\r\n\x1egarbage\n\n";
    let bytes = [text, &fixture::lines("docker-28.5.2.ndjson")[0]].concat().into_bytes();
    let whole = decode(1 << 20, [&bytes[..]]);
    assert_eq!((whole.0.len(), whole.1.len()), (2, 1));
    for at in 0..=bytes.len() {
        let (a, b) = bytes.split_at(at);
        assert_eq!(decode(1 << 20, [a, b]), whole, "split at {at}");
    }
}

#[test]
fn a_stream_cut_at_any_offset_is_reported_as_cut() {
    let odd =
        r#"{"Type":"é📦","Action":"\u00e9","Actor":{"ID":"","Attributes":null},"a":[true,false,-1.5e-7],"time":1}"#;
    for event in [fixture::lines("docker-28.5.2.ndjson")[0].clone(), odd.to_owned()] {
        for at in 0..=event.len() {
            let (events, rejected, end) = decode(1 << 20, [&event.as_bytes()[..at]]);
            if at == 0 {
                assert_eq!((events.len(), rejected.len(), end), (0, 0, StreamEnd::Clean));
            } else if at < event.len() {
                assert_eq!(rejected, ["the stream ended inside an event"], "cut at {at}: {event}");
                assert_eq!((events.len(), end), (0, StreamEnd::Truncated));
            } else {
                assert_eq!((events, rejected.len(), end), (vec![event.clone()], 0, StreamEnd::Clean));
            }
        }
    }
}

#[test]
fn an_invalid_line_before_the_end_is_not_a_cut() {
    let event = r#"{"Type":"t","Action":"a","Actor":{"ID":"x"},"time":1}"#;
    for (text, events) in [
        (format!("{}\u{1e}{event}", &event[..20]), 1),
        (format!("{event}\u{1e}{}\u{1e}{event}", &event[..20]), 2),
        // The error lies after the part of the line that is kept.
        (format!("{{\"a\":\"{}\" no}}", "x".repeat(100_000)), 0),
    ] {
        let (read, rejected, end) = decode(1 << 20, [text.as_bytes()]);
        assert_eq!((read.len(), end), (events, StreamEnd::Clean), "{text:.100}");
        assert!(rejected[0].starts_with("not JSON"), "{rejected:?}");
    }
}

#[test]
fn a_line_of_64_mib_in_pieces_of_4_kib_is_one_event() {
    // Scanning the whole line again for each piece would read 500 GB.
    let long = "x".repeat(64 << 20);
    let line = format!(r#"{{"Type":"t","Action":"a","Actor":{{"ID":"{long}"}},"time":1}}"#);
    let mut bytes = line.clone().into_bytes();
    bytes.push(b'\n');
    let (events, rejected, end) = decode(128 << 20, bytes.chunks(4096));
    assert!(events == [line] && rejected.is_empty() && end == StreamEnd::Clean);
}

const PIECES: &[&[u8]] = &[
    b"\n",
    b"\x1e",
    b"{",
    b"\xff",
    b"\0",
    b"garbage of some length",
    br#"{"Type":"t","Action":"a","Actor":{"ID":""},"time":1}"#,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_a_recording_gives_the_same_events(
        recording in 0..RECORDINGS.len(),
        sizes in proptest::collection::vec(prop_oneof![1usize..4, 1usize..600, 1usize..20_000], 1..400),
    ) {
        let bytes = fixture::bytes(RECORDINGS[recording]);
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        for size in sizes.iter().cycle() {
            let (piece, tail) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        let lines = fixture::lines(RECORDINGS[recording]);
        prop_assert_eq!(decode(1 << 20, pieces), (lines, vec![], StreamEnd::Clean));
    }

    #[test]
    fn any_bytes_in_any_pieces_decode_the_same(
        bytes in proptest::collection::vec(proptest::sample::select(PIECES), 0..60),
        at in 0usize..400,
        limit in 1usize..100,
    ) {
        let bytes = bytes.concat();
        let (a, b) = bytes.split_at(at.min(bytes.len()));
        let whole = decode(limit, [&bytes[..]]);
        prop_assert_eq!(decode(limit, [a, b]), whole.clone());
        prop_assert_eq!(decode(limit, bytes.chunks(1)), whole);
    }
}
