//! A stream decodes to the same items however its chunks are cut, and the decoder buffers no more than its limit.

use events::stream::{DEFAULT_LINE_LIMIT, Decoder, Item, REJECTED_LIMIT, RejectReason, Rejected, StreamEnd};

use super::parser::is_event;

/// Number of bytes at the start of an input that determine the chunk sizes; the first one determines the line limit.
const CUT_HEADER_LEN: usize = 8;

/// A decoded item, without the reason of a rejected line.
#[derive(Debug, PartialEq, Eq)]
enum Decoded {
    Event(Vec<u8>),
    Rejected(Vec<u8>),
    TooLong(Vec<u8>, u64),
    Cut(Vec<u8>),
}

pub(crate) fn check(input: &[u8]) {
    let Some((cuts, bytes)) = input.split_at_checked(CUT_HEADER_LEN) else { return };
    let limit = if cuts[0] == 0 { DEFAULT_LINE_LIMIT } else { usize::from(cuts[0]) * 8 };
    let expected = reference_decode(bytes, limit);
    let mut sizes = cuts[1..].iter().cycle().map(|cut| usize::from(*cut) + 1);
    assert_eq!(decode_in_chunks(bytes, limit, || usize::MAX), expected, "whole");
    assert_eq!(decode_in_chunks(bytes, limit, || 1), expected, "byte by byte");
    assert_eq!(decode_in_chunks(bytes, limit, || sizes.next().unwrap_or(1)), expected, "cut");
}

fn decode_in_chunks(mut bytes: &[u8], limit: usize, mut next_size: impl FnMut() -> usize) -> (Vec<Decoded>, StreamEnd) {
    let mut decoded = Vec::new();
    let mut push_item = |item: Item<'_>| {
        decoded.push(match item {
            Item::Event(event) => Decoded::Event(event.raw().into()),
            Item::Rejected(Rejected { bytes, reason, .. }) => match reason {
                RejectReason::InvalidEvent(_) => Decoded::Rejected(bytes.into()),
                RejectReason::TooLong(length) => Decoded::TooLong(bytes.into(), length),
                RejectReason::Truncated => Decoded::Cut(bytes.into()),
            },
        });
    };
    let mut decoder = Decoder::with_limit(limit);
    while !bytes.is_empty() {
        let (chunk, rest) = bytes.split_at(next_size().min(bytes.len()));
        bytes = rest;
        decoder.push(chunk, &mut push_item);
        assert!(decoder.buffered_len() <= limit, "{} bytes are buffered", decoder.buffered_len());
    }
    let end = decoder.finish(&mut push_item);
    assert_eq!(decoder.buffered_len(), 0);
    assert_eq!(decoder.finish(|_| panic!("the decoder had finished")), StreamEnd::Clean);
    (decoded, end)
}

/// Expected items of a stream, decoded from all bytes without regard to speed.
fn reference_decode(bytes: &[u8], limit: usize) -> (Vec<Decoded>, StreamEnd) {
    let mut decoded = Vec::new();
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let last = lines.pop().unwrap_or_default();
    lines.into_iter().for_each(|line| reference_decode_line(line, limit, &mut decoded));
    let last_start = decoded.len();
    reference_decode_line(last, limit, &mut decoded);
    // A last record that is the start of a JSON value was cut, unless another record follows it.
    let mut end = StreamEnd::Clean;
    if let Some(Decoded::Rejected(record)) = decoded[last_start..].last()
        && is_incomplete_json(record)
    {
        end = StreamEnd::Truncated;
        let record = record.clone();
        *decoded.last_mut().expect("there is a last item") = Decoded::Cut(record);
    }
    (decoded, end)
}

fn reference_decode_line(line: &[u8], limit: usize, decoded: &mut Vec<Decoded>) {
    if line.len() > limit {
        let head = &line[..limit.min(REJECTED_LIMIT)];
        decoded.push(Decoded::TooLong(head.into(), line.len() as u64));
        return;
    }
    let line = line.strip_prefix(b"\x1e").unwrap_or(line).trim_json_whitespace();
    let truncate = |bytes: &[u8]| bytes[..bytes.len().min(REJECTED_LIMIT)].to_vec();
    let records: Vec<&[u8]> = line.split(|byte| *byte == 0x1E).map(TrimJson::trim_json_whitespace).collect();
    if line.is_empty() {
    } else if records.iter().any(|record| is_event(record)) {
        decoded.extend(records.into_iter().filter(|record| !record.is_empty()).map(|record| {
            if is_event(record) { Decoded::Event(record.into()) } else { Decoded::Rejected(truncate(record)) }
        }));
    } else {
        decoded.push(Decoded::Rejected(truncate(line)));
    }
}

/// Returns true if the line is the start of a JSON value: serde_json would continue with more input.
fn is_incomplete_json(line: &[u8]) -> bool {
    // A replacement character stands for a character that is cut at the end of the line.
    let text = &*match std::str::from_utf8(line) {
        Err(e) if e.error_len().is_some() => return false,
        _ => String::from_utf8_lossy(line),
    };
    let parse = |text: &str| serde_json::from_str::<&serde_json::value::RawValue>(text).map(drop);
    parse(text).is_err_and(|e| match () {
        // For an incomplete \u escape, serde_json reports the end before it has checked the digits that are there.
        () if e.to_string().starts_with("EOF while parsing a string") => {
            parse(&format!("{text}ffff")).is_err_and(|e| e.is_eof())
        }
        // For a number without its next digit, serde_json does not report the end of the input.
        () => e.is_eof() || !parse(&format!("{text}0")).is_err_and(|e| !e.is_eof()),
    })
}

trait TrimJson {
    /// Removes JSON white space at both ends.
    fn trim_json_whitespace(&self) -> &[u8];
}

impl TrimJson for [u8] {
    fn trim_json_whitespace(&self) -> &[u8] {
        let is_whitespace = |byte: &u8| b" \t\r\n".contains(byte);
        let start = self.iter().take_while(|byte| is_whitespace(byte)).count();
        let end = self.iter().rev().take_while(|byte| is_whitespace(byte)).count();
        self.get(start..self.len() - end).unwrap_or_default()
    }
}
