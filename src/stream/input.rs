//! Files of events: NDJSON or json-seq, as they are or compressed, or standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;

use super::{Decoder, Item};

/// How much is read at once, in bytes.
const READ: usize = 1 << 20;

/// Something to read.
pub struct Input {
    name: String,
    reader: Box<dyn Read>,
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
    /// Opens a file; `-` is standard input. What ends in `.gz`, `.zst` or `.zstd` is decompressed as it is read.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Input, ReadError> {
        if path == Path::new("-") {
            return Ok(Input { name: "standard input".into(), reader: Box::new(io::stdin().lock()) });
        }
        let name = path.display().to_string();
        let cannot_read = |source| ReadError { name: name.clone(), source };
        let file = File::open(path).map_err(cannot_read)?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(cannot_read(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory")));
        }
        let reader: Box<dyn Read> = match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Some("zst" | "zstd") => Box::new(zstd::Decoder::new(file).map_err(cannot_read)?),
            _ => Box::new(file),
        };
        Ok(Input { name, reader })
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
        mut each: impl FnMut(&mut T, Item),
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
        let each = |events: &mut Vec<(i64, Bytes)>, item: Item| match item {
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
