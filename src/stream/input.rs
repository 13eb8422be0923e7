//! Files of events: NDJSON or json-seq, as they are or compressed, or standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Decoder, Item};

/// How much is read at once, in bytes.
const READ: usize = 1 << 20;

/// Something to read.
pub struct Input {
    name: String,
    reader: Box<dyn Read>,
    size: Option<u64>,
    done: Arc<AtomicU64>,
}

/// Something that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {name}")]
pub struct ReadError {
    name: String,
    source: io::Error,
}

impl ReadError {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.source.kind() == io::ErrorKind::IsADirectory
    }
}

impl Input {
    /// Opens a file; `-` is standard input. What is compressed with gzip or zstd, which its beginning tells, is
    /// decompressed as it is read.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Input, ReadError> {
        if path == Path::new("-") {
            return Input::of("standard input".into(), io::stdin().lock(), None);
        }
        let name = path.display().to_string();
        let cannot_read = |source| ReadError { name: name.clone(), source };
        let file = File::open(path).map_err(cannot_read)?;
        let metadata = file.metadata().map_err(cannot_read)?;
        if metadata.is_dir() {
            return Err(cannot_read(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")));
        }
        Input::of(name, file, metadata.is_file().then_some(metadata.len()))
    }

    fn of(name: String, reader: impl Read + 'static, size: Option<u64>) -> Result<Input, ReadError> {
        let done = Arc::<AtomicU64>::default();
        let mut reader = Counted { reader, done: done.clone() };
        let mut beginning = Vec::new();
        let cannot_read = |source| ReadError { name: name.clone(), source };
        (&mut reader).take(4).read_to_end(&mut beginning).map_err(cannot_read)?;
        let (gzip, zstd) =
            (beginning.starts_with(b"\x1f\x8b"), beginning == zstd::zstd_safe::MAGICNUMBER.to_le_bytes());
        let reader = io::Cursor::new(beginning).chain(reader);
        let reader: Box<dyn Read> = match (gzip, zstd) {
            (true, _) => Box::new(flate2::read::MultiGzDecoder::new(reader)),
            (_, true) => Box::new(zstd::Decoder::new(reader).map_err(cannot_read)?),
            _ => Box::new(reader),
        };
        Ok(Input { name, reader, size, done })
    }

    /// How many bytes it has, compressed if it is; `None` where that is not known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// How many of them are read, as it goes on.
    pub fn done(&self) -> Arc<AtomicU64> {
        self.done.clone()
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls `each` with what is in it, and `block` after each block of it, until `block` gives `false`.
    ///
    /// # Errors
    /// It cannot be read to its end.
    pub fn read<T>(
        mut self,
        of: &mut T,
        mut each: impl FnMut(&mut T, Item<'_>),
        mut block: impl FnMut(&mut T) -> bool,
    ) -> Result<(), ReadError> {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; READ];
        loop {
            let read = match self.reader.read(&mut bytes) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|source| ReadError { name: self.name.clone(), source })?,
            };
            if read == 0 {
                decoder.finish(|item| each(of, item));
            } else {
                decoder.push(&bytes[..read], |item| each(of, item));
            }
            if !block(of) || read == 0 {
                return Ok(());
            }
        }
    }
}

/// Counts the bytes that are read.
struct Counted<R> {
    reader: R,
    done: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// All events of some files with their instants, in the order of those, then as they stand there.
///
/// # Errors
/// A file cannot be read.
pub fn fixtures(paths: &[impl AsRef<Path>]) -> Result<Vec<(i64, Bytes)>, ReadError> {
    let mut events = Vec::new();
    for path in paths {
        let input = Input::open(path.as_ref())?;
        let name = input.name.clone();
        let mut rejected = 0;
        let each = |events: &mut Vec<(i64, Bytes)>, item: Item<'_>| match item {
            Item::Event(event) => events.push((event.time_nano, Bytes::copy_from_slice(event.raw()))),
            Item::Rejected(_) => rejected += 1,
        };
        input.read(&mut events, each, |_| true)?;
        if rejected > 0 {
            tracing::warn!("{rejected} lines of {name} are no events, and left out");
        }
    }
    events.sort_by_key(|(instant, _)| *instant);
    Ok(events)
}
