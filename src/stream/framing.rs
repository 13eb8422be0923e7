//! Cuts a stream of bytes into lines, each byte looked at once.
//!
//! A line ends at LF, which may not stand raw inside JSON. Holds at most one unfinished line, and never more of it than
//! the bound set.

/// The longest line taken unless told otherwise: 16 MiB.
pub const DEFAULT_LINE_LIMIT: usize = 16 * 1024 * 1024;

/// How much of an overlong line is kept to show, in bytes.
const HEAD: usize = super::REJECTED_LIMIT;

/// One line of a stream, without its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole line; may be empty.
    Line(&'a [u8]),
    /// A line longer than the bound: its beginning, and how long it was.
    TooLong {
        /// The first bytes of the line.
        head: &'a [u8],
        /// The length of the whole line in bytes.
        length: u64,
    },
}

/// Cuts bytes into lines.
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    /// The unfinished line; of an overlong one, its beginning.
    line: Vec<u8>,
    /// Bytes of the unfinished line that were let go because it is overlong; 0 while it is not.
    let_go: u64,
}

impl Splitter {
    /// A splitter for lines of at most `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Splitter { limit, line: Vec::new(), let_go: 0 }
    }

    /// Takes the next bytes and calls `each` with every line that they end.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let tail = &bytes[..end];
            bytes = &bytes[end + 1..];
            if self.line.is_empty() && self.let_go == 0 && tail.len() <= self.limit {
                each(Piece::Line(tail));
            } else {
                self.extend(tail);
                self.finish(&mut each);
            }
        }
        self.extend(bytes);
    }

    /// The stream has ended: calls `each` with the unfinished line, if there is one.
    pub fn finish(&mut self, mut each: impl FnMut(Piece<'_>)) {
        if self.let_go > 0 {
            each(Piece::TooLong { head: &self.line, length: self.line.len() as u64 + self.let_go });
        } else if !self.line.is_empty() {
            each(Piece::Line(&self.line));
        }
        self.let_go = 0;
        self.line.clear();
        // One long line should not hold its memory for the rest of a quiet stream.
        self.line.shrink_to(HEAD);
    }

    /// How many bytes of an unfinished line are held.
    pub fn held(&self) -> usize {
        self.line.len()
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.let_go == 0 && self.line.len() + bytes.len() <= self.limit {
            self.line.extend_from_slice(bytes);
            return;
        }
        let head = HEAD.min(self.limit);
        if self.line.len() > head {
            self.let_go += (self.line.len() - head) as u64;
            self.line.truncate(head);
        }
        let (kept, rest) = bytes.split_at(bytes.len().min(head - self.line.len()));
        self.line.extend_from_slice(kept);
        self.let_go += rest.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Owned {
        Line(Vec<u8>),
        TooLong(Vec<u8>, u64),
    }

    fn run<'a>(limit: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
        let mut out = Vec::new();
        let mut keep = |piece: Piece<'_>| {
            out.push(match piece {
                Piece::Line(line) => Owned::Line(line.to_vec()),
                Piece::TooLong { head, length } => Owned::TooLong(head.to_vec(), length),
            });
        };
        let mut splitter = Splitter::with_limit(limit);
        for chunk in chunks {
            splitter.push(chunk, &mut keep);
        }
        splitter.finish(&mut keep);
        out
    }

    #[test]
    fn a_line_ends_at_lf() {
        let lines = |text: &str| run(9, [text.as_bytes()]);
        let line = |text: &str| Owned::Line(text.into());
        assert_eq!(lines("a\nb\n"), [line("a"), line("b")]);
        assert_eq!(lines("\x1ea\r\n\nb"), [line("\x1ea\r"), line(""), line("b")]);
        assert_eq!(lines(""), []);
    }

    #[test]
    fn an_overlong_line_is_cut_and_the_next_one_found_wherever_the_chunks_end() {
        let text = b"12345\n123456\n1234567890\nabc\n123456";
        for size in 1..=text.len() {
            let got = run(5, text.chunks(size));
            assert_eq!(
                got,
                [
                    Owned::Line(b"12345".into()),
                    Owned::TooLong(b"12345".into(), 6),
                    Owned::TooLong(b"12345".into(), 10),
                    Owned::Line(b"abc".into()),
                    Owned::TooLong(b"12345".into(), 6),
                ],
                "chunks of {size}"
            );
        }
    }

    #[test]
    fn memory_stays_bounded_whatever_comes() {
        let mut splitter = Splitter::with_limit(1 << 20);
        let chunk = vec![b'x'; 1 << 16];
        for _ in 0..100 {
            splitter.push(&chunk, |_| panic!("no line ended"));
            assert!(splitter.held() <= 1 << 20);
        }
        let mut seen = Vec::new();
        splitter.push(b"\n", |piece| {
            if let Piece::TooLong { head, length } = piece {
                seen.push((head.len(), length));
            }
        });
        assert_eq!(seen, [(HEAD, 100 << 16)]);
    }
}
