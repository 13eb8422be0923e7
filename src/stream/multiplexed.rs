//! The logs of a container without a terminal: stdout and stderr as frames of one stream.
//!
//! A frame is a byte for the stream (0 stdin, 1 stdout, 2 stderr), three zero bytes, a big-endian `u32` length, and so
//! many bytes. A chunk may end anywhere. Nothing is held but a frame's head, so a frame may be of any length.

/// Where a container wrote something to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// What was written to its stdin, which engines do not send.
    Stdin,
    /// Its stdout.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// Bytes that are no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFrames {
    /// What should be the head of a frame is none: a raw stream, as of a container with a terminal.
    #[error("byte {at} is not the head of a frame")]
    Head {
        /// How many bytes came before it.
        at: u64,
    },
    /// The stream ended within a frame.
    #[error("it ends inside a frame")]
    Cut,
}

/// Takes the stream apart, piece by piece.
#[derive(Debug, Default)]
pub struct Frames {
    head: Vec<u8>,
    /// Which frame is being read, and how much of it is yet to come.
    frame: Option<(Output, usize)>,
    taken: u64,
}

impl Frames {
    /// Calls `each` with the parts of what came that belong to one output, in order.
    ///
    /// # Errors
    /// [`NoFrames::Head`]; what came before it has been given.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Output, &[u8])) -> Result<(), NoFrames> {
        while !bytes.is_empty() {
            let taken = match &mut self.frame {
                Some((output, left)) => {
                    let taken = bytes.len().min(*left);
                    each(*output, &bytes[..taken]);
                    *left -= taken;
                    taken
                }
                None => {
                    let taken = bytes.len().min(8 - self.head.len());
                    self.head.extend_from_slice(&bytes[..taken]);
                    if let Ok(head) = <[u8; 8]>::try_from(&*self.head) {
                        let at = self.taken + taken as u64 - 8;
                        self.frame = Some(read_head(head).ok_or(NoFrames::Head { at })?);
                        self.head.clear();
                    }
                    taken
                }
            };
            if matches!(self.frame, Some((_, 0))) {
                self.frame = None;
            }
            self.taken += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`NoFrames::Cut`].
    pub fn end(self) -> Result<(), NoFrames> {
        if self.frame.is_none() && self.head.is_empty() { Ok(()) } else { Err(NoFrames::Cut) }
    }
}

fn read_head([output, zeros @ .., a, b, c, d]: [u8; 8]) -> Option<(Output, usize)> {
    let output = match output {
        0 => Output::Stdin,
        1 => Output::Stdout,
        2 => Output::Stderr,
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
    fn both_outputs_are_told_apart_wherever_the_stream_is_split() {
        let stream = [frame(1, b"out\n"), frame(2, b"err\n"), frame(1, b""), frame(1, "grün\n".as_bytes())].concat();
        for split in 0..=stream.len() {
            let (mut out, mut err, mut frames) = (Vec::new(), Vec::new(), Frames::default());
            for piece in [&stream[..split], &stream[split..]] {
                let each = |output, bytes: &[u8]| match output {
                    Output::Stderr => err.extend_from_slice(bytes),
                    _ => out.extend_from_slice(bytes),
                };
                frames.push(piece, each).unwrap();
            }
            assert_eq!((&*out, &*err, frames.end()), ("out\ngrün\n".as_bytes(), &b"err\n"[..], Ok(())), "{split}");
        }
        let whole = [0, 12, 24, 32, stream.len()];
        for cut in 0..=stream.len() {
            let mut frames = Frames::default();
            frames.push(&stream[..cut], |_, _| {}).unwrap();
            assert_eq!(frames.end().is_ok(), whole.contains(&cut), "{cut}");
        }
    }

    #[test]
    fn what_is_no_frame_is_named_by_its_place() {
        for (junk, at) in
            [("a raw stream", 0), ("\u{1}\0\0\u{1}\0\0\0\0", 0), ("\u{1}\0\0\0\0\0\0\u{1}x\u{3}\0\0\0\0\0\0\0", 9)]
        {
            for split in 0..=junk.len() {
                let mut frames = Frames::default();
                let (first, rest) = junk.as_bytes().split_at(split);
                let ended = frames.push(first, |_, _| {}).and_then(|()| frames.push(rest, |_, _| {}));
                assert_eq!(ended, Err(NoFrames::Head { at }), "{junk:?} at {split}");
            }
        }
    }
}
