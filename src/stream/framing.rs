//! Splits a byte stream into lines, and scans each byte once.
//!
//! A line ends at LF, which JSON does not allow unescaped inside a value. At most one unfinished line is buffered, and
//! never more of it than the limit.

/// Default limit for the length of a line: 16 MiB.
pub const DEFAULT_LINE_LIMIT: usize = 16 * 1024 * 1024;

/// Number of bytes kept from the start of an overlong line, to show it.
const MAX_HEAD_LEN: usize = super::REJECTED_LIMIT;

/// One line of a stream, without its line end.
#[derive(Debug, PartialEq, Eq)]
pub enum RawLine<'a> {
    /// A complete line; may be empty.
    Complete(&'a [u8]),
    /// A line longer than the limit: its start and its length.
    TooLong {
        /// The first bytes of the line.
        head: &'a [u8],
        /// The length of the whole line in bytes.
        length: u64,
    },
}

/// Splits bytes into lines.
#[derive(Debug)]
pub struct LineSplitter {
    limit: usize,
    /// The unfinished line, or the start of an overlong one.
    buffer: Vec<u8>,
    /// Number of bytes of the unfinished line that were discarded; 0 unless the line is overlong.
    discarded: u64,
}

impl LineSplitter {
    /// Creates a splitter for lines of at most `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        LineSplitter { limit, buffer: Vec::new(), discarded: 0 }
    }

    /// Adds bytes, and calls `on_line` with each line that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut on_line: impl FnMut(RawLine<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let tail = &bytes[..end];
            bytes = &bytes[end + 1..];
            if self.buffer.is_empty() && self.discarded == 0 && tail.len() <= self.limit {
                on_line(RawLine::Complete(tail));
            } else {
                self.extend(tail);
                self.finish(&mut on_line);
            }
        }
        self.extend(bytes);
    }

    /// Ends the stream, and calls `on_line` with the unfinished line if there is one.
    pub fn finish(&mut self, mut on_line: impl FnMut(RawLine<'_>)) {
        if self.discarded > 0 {
            on_line(RawLine::TooLong { head: &self.buffer, length: self.buffer.len() as u64 + self.discarded });
        } else if !self.buffer.is_empty() {
            on_line(RawLine::Complete(&self.buffer));
        }
        self.discarded = 0;
        self.buffer.clear();
        // One long line should not occupy memory for the rest of a quiet stream.
        self.buffer.shrink_to(MAX_HEAD_LEN);
    }

    /// Number of buffered bytes of an unfinished line.
    pub fn buffered_len(&self) -> usize {
        self.buffer.len()
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.discarded == 0 && self.buffer.len() + bytes.len() <= self.limit {
            self.buffer.extend_from_slice(bytes);
            return;
        }
        let head = MAX_HEAD_LEN.min(self.limit);
        if self.buffer.len() > head {
            self.discarded += (self.buffer.len() - head) as u64;
            self.buffer.truncate(head);
        }
        let (head_part, rest) = bytes.split_at(bytes.len().min(head - self.buffer.len()));
        self.buffer.extend_from_slice(head_part);
        self.discarded += rest.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum OwnedLine {
        Complete(Vec<u8>),
        TooLong(Vec<u8>, u64),
    }

    fn split<'a>(limit: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<OwnedLine> {
        let mut out = Vec::new();
        let mut collect = |piece: RawLine<'_>| {
            out.push(match piece {
                RawLine::Complete(line) => OwnedLine::Complete(line.to_vec()),
                RawLine::TooLong { head, length } => OwnedLine::TooLong(head.to_vec(), length),
            });
        };
        let mut splitter = LineSplitter::with_limit(limit);
        for chunk in chunks {
            splitter.push(chunk, &mut collect);
        }
        splitter.finish(&mut collect);
        out
    }

    #[test]
    fn lines_are_split_at_lf() {
        let lines = |text: &str| split(9, [text.as_bytes()]);
        let line = |text: &str| OwnedLine::Complete(text.into());
        assert_eq!(lines("a\nb\n"), [line("a"), line("b")]);
        assert_eq!(lines("\x1ea\r\n\nb"), [line("\x1ea\r"), line(""), line("b")]);
        assert_eq!(lines(""), []);
    }

    #[test]
    fn overlong_lines_are_truncated_at_every_chunk_size() {
        let text = b"12345\n123456\n1234567890\nabc\n123456";
        for size in 1..=text.len() {
            let lines = split(5, text.chunks(size));
            assert_eq!(
                lines,
                [
                    OwnedLine::Complete(b"12345".into()),
                    OwnedLine::TooLong(b"12345".into(), 6),
                    OwnedLine::TooLong(b"12345".into(), 10),
                    OwnedLine::Complete(b"abc".into()),
                    OwnedLine::TooLong(b"12345".into(), 6),
                ],
                "chunks of {size}"
            );
        }
    }

    #[test]
    fn an_overlong_line_does_not_grow_the_buffer_past_the_limit() {
        let mut splitter = LineSplitter::with_limit(1 << 20);
        let chunk = vec![b'x'; 1 << 16];
        for _ in 0..100 {
            splitter.push(&chunk, |_| panic!("no line ended"));
            assert!(splitter.buffered_len() <= 1 << 20);
        }
        let mut truncated = Vec::new();
        splitter.push(b"\n", |piece| {
            if let RawLine::TooLong { head, length } = piece {
                truncated.push((head.len(), length));
            }
        });
        assert_eq!(truncated, [(MAX_HEAD_LEN, 100 << 16)]);
    }
}
