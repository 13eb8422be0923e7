//! Reads events from files or standard input: NDJSON or json-seq, plain or compressed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Decoder, Item};

/// Size of the read buffer in bytes.
const READ_BUFFER_LEN: usize = 1 << 20;

/// A file of events, or standard input.
pub struct Input {
    name: String,
    reader: Box<dyn Read>,
    size: Option<u64>,
    bytes_read: Arc<AtomicU64>,
}

/// An input that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {name}")]
pub struct ReadError {
    name: String,
    source: io::Error,
}

impl ReadError {
    /// Returns true if the input is a directory.
    pub fn is_directory(&self) -> bool {
        self.source.kind() == io::ErrorKind::IsADirectory
    }
}

impl Input {
    /// Opens a file, or standard input for `-`. Decompresses gzip and zstd, which it recognizes by their first bytes.
    ///
    /// # Errors
    /// [`ReadError`] if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Input, ReadError> {
        if path == Path::new("-") {
            return Input::from_reader("standard input".into(), io::stdin().lock(), None);
        }
        let name = path.display().to_string();
        let cannot_read = |source| ReadError { name: name.clone(), source };
        let file = File::open(path).map_err(cannot_read)?;
        let metadata = file.metadata().map_err(cannot_read)?;
        if metadata.is_dir() {
            return Err(cannot_read(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")));
        }
        Input::from_reader(name, file, metadata.is_file().then_some(metadata.len()))
    }

    fn from_reader(name: String, reader: impl Read + 'static, size: Option<u64>) -> Result<Input, ReadError> {
        let bytes_read = Arc::<AtomicU64>::default();
        let mut reader = CountingReader { reader, bytes_read: bytes_read.clone() };
        let mut magic = Vec::new();
        let cannot_read = |source| ReadError { name: name.clone(), source };
        (&mut reader).take(4).read_to_end(&mut magic).map_err(cannot_read)?;
        let (gzip, zstd) = (magic.starts_with(b"\x1f\x8b"), magic == zstd::zstd_safe::MAGICNUMBER.to_le_bytes());
        let reader = io::Cursor::new(magic).chain(reader);
        let reader: Box<dyn Read> = match (gzip, zstd) {
            (true, _) => Box::new(flate2::read::MultiGzDecoder::new(reader)),
            (_, true) => Box::new(zstd::Decoder::new(reader).map_err(cannot_read)?),
            _ => Box::new(reader),
        };
        Ok(Input { name, reader, size, bytes_read })
    }

    /// Size in bytes, before decompression; `None` if unknown.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Counter of the bytes read so far, before decompression. It is updated while the input is read.
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        self.bytes_read.clone()
    }

    /// Name of the input for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls `on_item` with each item, and `on_chunk` after each chunk, until `on_chunk` returns false.
    ///
    /// # Errors
    /// [`ReadError`] if the input cannot be read to its end.
    pub fn read<T>(
        mut self,
        state: &mut T,
        mut on_item: impl FnMut(&mut T, Item<'_>),
        mut on_chunk: impl FnMut(&mut T) -> bool,
    ) -> Result<(), ReadError> {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; READ_BUFFER_LEN];
        loop {
            let read_len = match self.reader.read(&mut bytes) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|source| ReadError { name: self.name.clone(), source })?,
            };
            if read_len == 0 {
                decoder.finish(|item| on_item(state, item));
            } else {
                decoder.push(&bytes[..read_len], |item| on_item(state, item));
            }
            if !on_chunk(state) || read_len == 0 {
                return Ok(());
            }
        }
    }
}

/// Counts the bytes read through it.
struct CountingReader<R> {
    reader: R,
    bytes_read: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Loads all events of the files with their times, ordered by time, then by position.
///
/// # Errors
/// [`ReadError`] if a file cannot be read.
pub fn load_events(paths: &[impl AsRef<Path>]) -> Result<Vec<(i64, Bytes)>, ReadError> {
    let mut events = Vec::new();
    for path in paths {
        let input = Input::open(path.as_ref())?;
        let name = input.name.clone();
        let mut rejected = 0;
        let on_item = |events: &mut Vec<(i64, Bytes)>, item: Item<'_>| match item {
            Item::Event(event) => events.push((event.time_nano, Bytes::copy_from_slice(event.raw()))),
            Item::Rejected(_) => rejected += 1,
        };
        input.read(&mut events, on_item, |_| true)?;
        if rejected > 0 {
            tracing::warn!("skipped {rejected} lines of {name} that are not events");
        }
    }
    events.sort_by_key(|(instant, _)| *instant);
    Ok(events)
}
