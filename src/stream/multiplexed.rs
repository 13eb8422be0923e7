//! Decodes the logs of a container without a terminal: stdout and stderr as frames of one stream.
//!
//! A frame has a header of eight bytes and a payload. The header is a byte for the stream (0 stdin, 1 stdout,
//! 2 stderr), three zero bytes, and the length of the payload as a big-endian `u32`. Chunks may end at any byte. Only
//! the header is buffered, so a frame may have any length.

/// Standard stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdStream {
    /// Standard input, which engines do not send.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Error in a stream of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes are not a frame header. A container with a terminal, for example, sends a raw stream.
    #[error("no frame header at byte {at}")]
    InvalidHeader {
        /// Offset of the bytes in the stream.
        at: u64,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// Decodes the stream chunk by chunk.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    header: Vec<u8>,
    /// Stream of the current frame, and the number of its bytes that are missing.
    frame: Option<(StdStream, usize)>,
    consumed: u64,
}

impl FrameDecoder {
    /// Calls `on_data` with the payload in the next bytes, in order, separated by stream.
    ///
    /// # Errors
    /// [`FrameError::InvalidHeader`]. `on_data` has been called with the payload before that header.
    pub fn push(&mut self, mut bytes: &[u8], mut on_data: impl FnMut(StdStream, &[u8])) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            let consumed = match &mut self.frame {
                Some((output, remaining)) => {
                    let consumed = bytes.len().min(*remaining);
                    on_data(*output, &bytes[..consumed]);
                    *remaining -= consumed;
                    consumed
                }
                None => {
                    let consumed = bytes.len().min(8 - self.header.len());
                    self.header.extend_from_slice(&bytes[..consumed]);
                    if let Ok(header) = <[u8; 8]>::try_from(&*self.header) {
                        let at = self.consumed + consumed as u64 - 8;
                        self.frame = Some(parse_header(header).ok_or(FrameError::InvalidHeader { at })?);
                        self.header.clear();
                    }
                    consumed
                }
            };
            if matches!(self.frame, Some((_, 0))) {
                self.frame = None;
            }
            self.consumed += consumed as u64;
            bytes = &bytes[consumed..];
        }
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if it ended inside a frame.
    pub fn finish(self) -> Result<(), FrameError> {
        if self.frame.is_none() && self.header.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

fn parse_header([output, zeros @ .., a, b, c, d]: [u8; 8]) -> Option<(StdStream, usize)> {
    let output = match output {
        0 => StdStream::Stdin,
        1 => StdStream::Stdout,
        2 => StdStream::Stderr,
        _ => return None,
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    (zeros == [0; 3]).then_some((output, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(output: u8, text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[output, 0, 0, 0][..], &length, text].concat()
    }

    #[test]
    fn stdout_and_stderr_are_separated_at_every_split() {
        let stream = [frame(1, b"out\n"), frame(2, b"err\n"), frame(1, b""), frame(1, "grün\n".as_bytes())].concat();
        for split in 0..=stream.len() {
            let (mut out, mut err, mut decoder) = (Vec::new(), Vec::new(), FrameDecoder::default());
            for piece in [&stream[..split], &stream[split..]] {
                let on_data = |output, bytes: &[u8]| match output {
                    StdStream::Stderr => err.extend_from_slice(bytes),
                    _ => out.extend_from_slice(bytes),
                };
                decoder.push(piece, on_data).unwrap();
            }
            assert_eq!((&*out, &*err, decoder.finish()), ("out\ngrün\n".as_bytes(), &b"err\n"[..], Ok(())), "{split}");
        }
        let boundaries = [0, 12, 24, 32, stream.len()];
        for cut in 0..=stream.len() {
            let mut decoder = FrameDecoder::default();
            decoder.push(&stream[..cut], |_, _| {}).unwrap();
            assert_eq!(decoder.finish().is_ok(), boundaries.contains(&cut), "{cut}");
        }
    }

    #[test]
    fn an_invalid_header_is_reported_with_its_offset() {
        for (junk, at) in
            [("a raw stream", 0), ("\u{1}\0\0\u{1}\0\0\0\0", 0), ("\u{1}\0\0\0\0\0\0\u{1}x\u{3}\0\0\0\0\0\0\0", 9)]
        {
            for split in 0..=junk.len() {
                let mut decoder = FrameDecoder::default();
                let (first, rest) = junk.as_bytes().split_at(split);
                let result = decoder.push(first, |_, _| {}).and_then(|()| decoder.push(rest, |_, _| {}));
                assert_eq!(result, Err(FrameError::InvalidHeader { at }), "{junk:?} at {split}");
            }
        }
    }
}
