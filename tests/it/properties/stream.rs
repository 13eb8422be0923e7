//! A stream gives the same items however its chunks are cut, and holds no more than its bound.

use events::stream::{DEFAULT_LINE_LIMIT, Decoder, End, Item, REJECTED_LIMIT, Reason, Rejected};

use super::parser::is_event;

/// How many bytes of the input say how the rest is cut; the first says how long a line may be.
const CUTS: usize = 8;

/// What a stream gave, apart from what is wrong with what was rejected.
#[derive(Debug, PartialEq, Eq)]
enum Given {
    Event(Vec<u8>),
    Rejected(Vec<u8>),
    TooLong(Vec<u8>, u64),
    Cut(Vec<u8>),
}

pub(crate) fn check(input: &[u8]) {
    let Some((cuts, bytes)) = input.split_at_checked(CUTS) else { return };
    let limit = if cuts[0] == 0 { DEFAULT_LINE_LIMIT } else { usize::from(cuts[0]) * 8 };
    let expected = expected(bytes, limit);
    let mut sizes = cuts[1..].iter().cycle().map(|cut| usize::from(*cut) + 1);
    assert_eq!(given(bytes, limit, || usize::MAX), expected, "whole");
    assert_eq!(given(bytes, limit, || 1), expected, "byte by byte");
    assert_eq!(given(bytes, limit, || sizes.next().unwrap_or(1)), expected, "cut");
}

fn given(mut bytes: &[u8], limit: usize, mut size: impl FnMut() -> usize) -> (Vec<Given>, End) {
    let mut all = Vec::new();
    let mut keep = |item: Item<'_>| {
        all.push(match item {
            Item::Event(event) => Given::Event(event.raw().into()),
            Item::Rejected(Rejected { bytes, reason, .. }) => match reason {
                Reason::NotAnEvent(_) => Given::Rejected(bytes.into()),
                Reason::TooLong(length) => Given::TooLong(bytes.into(), length),
                Reason::Cut => Given::Cut(bytes.into()),
            },
        });
    };
    let mut decoder = Decoder::with_limit(limit);
    while !bytes.is_empty() {
        let (chunk, rest) = bytes.split_at(size().min(bytes.len()));
        bytes = rest;
        decoder.push(chunk, &mut keep);
        assert!(decoder.held() <= limit, "{} bytes are held", decoder.held());
    }
    let end = decoder.finish(&mut keep);
    assert_eq!(decoder.held(), 0);
    assert_eq!(decoder.finish(|_| panic!("it had ended")), End::Clean);
    (all, end)
}

/// What a stream must give, read at leisure.
fn expected(bytes: &[u8], limit: usize) -> (Vec<Given>, End) {
    let mut all = Vec::new();
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let last = lines.pop().unwrap_or_default();
    lines.into_iter().for_each(|line| read(line, limit, &mut all));
    let before = all.len();
    read(last, limit, &mut all);
    // What is JSON up to the end of the stream, and not yet a whole, was cut; unless another record began behind it.
    let mut end = End::Clean;
    if let Some(Given::Rejected(record)) = all[before..].last()
        && is_begun(record)
    {
        end = End::Cut;
        let record = record.clone();
        *all.last_mut().expect("it is there") = Given::Cut(record);
    }
    (all, end)
}

fn read(line: &[u8], limit: usize, all: &mut Vec<Given>) {
    if line.len() > limit {
        let head = &line[..limit.min(REJECTED_LIMIT)];
        all.push(Given::TooLong(head.into(), line.len() as u64));
        return;
    }
    let line = line.strip_prefix(b"\x1e").unwrap_or(line).trim_ascii_json();
    let cut = |bytes: &[u8]| bytes[..bytes.len().min(REJECTED_LIMIT)].to_vec();
    let records: Vec<&[u8]> = line.split(|byte| *byte == 0x1E).map(TrimJson::trim_ascii_json).collect();
    if line.is_empty() {
    } else if records.iter().any(|record| is_event(record)) {
        all.extend(
            records.into_iter().filter(|record| !record.is_empty()).map(|record| {
                if is_event(record) { Given::Event(record.into()) } else { Given::Rejected(cut(record)) }
            }),
        );
    } else {
        all.push(Given::Rejected(cut(line)));
    }
}

/// Whether serde_json would read on if there were more.
fn is_begun(line: &[u8]) -> bool {
    // Any character stands for the one that the line may end in.
    let text = &*match std::str::from_utf8(line) {
        Err(e) if e.error_len().is_some() => return false,
        _ => String::from_utf8_lossy(line),
    };
    let read = |text: &str| serde_json::from_str::<&serde_json::value::RawValue>(text).map(drop);
    read(text).is_err_and(|e| match () {
        // Of an escape that wants digits it says so before it has looked at those that are there.
        () if e.to_string().starts_with("EOF while parsing a string") => {
            read(&format!("{text}ffff")).is_err_and(|e| e.is_eof())
        }
        // Of a number that wants a digit it does not say that it ends too early.
        () => e.is_eof() || !read(&format!("{text}0")).is_err_and(|e| !e.is_eof()),
    })
}

trait TrimJson {
    /// Without the white space of JSON around it.
    fn trim_ascii_json(&self) -> &[u8];
}

impl TrimJson for [u8] {
    fn trim_ascii_json(&self) -> &[u8] {
        let blank = |byte: &u8| b" \t\r\n".contains(byte);
        let start = self.iter().take_while(|byte| blank(byte)).count();
        let end = self.iter().rev().take_while(|byte| blank(byte)).count();
        self.get(start..self.len() - end).unwrap_or_default()
    }
}
