//! HTTP by hand to `serve`: each chunk as it came.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::command::{DEADLINE, Folder, Running, eventually};

/// An answer as it came: its head, and each chunk of its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub head: String,
    pub chunks: Vec<Vec<u8>>,
    /// Whether the last chunk came.
    pub whole: bool,
}

/// A connection that a request was sent down.
pub(crate) struct Asked {
    pub head: String,
    pub from: BufReader<UnixStream>,
}

/// Sends a request, and waits for the head of the answer.
pub(crate) fn ask(socket: &Path, request: &str) -> Asked {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut from = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(from.read_line(&mut head).unwrap() > 0, "{head}");
    }
    Asked { head, from }
}

/// The whole answer to a GET.
pub(crate) fn get(socket: &Path, target: &str) -> Answer {
    ask(socket, &format!("GET {target} HTTP/1.1\r\nHost: docker\r\n\r\n")).all()
}

impl Asked {
    /// Whether nothing comes for a tenth of a second, and the connection stays.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let stream = self.from.get_ref();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let came = self.from.fill_buf().map(<[u8]>::len).map_err(|e| e.kind());
        self.from.get_ref().set_read_timeout(Some(DEADLINE)).unwrap();
        matches!(came, Err(ErrorKind::WouldBlock))
    }

    /// The next chunk; `None` at the last one, or where the stream is cut.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        self.from.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim_end(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        self.from.read_exact(&mut chunk).ok()?;
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        Some(chunk)
    }

    pub(crate) fn all(mut self) -> Answer {
        let mut chunks = Vec::new();
        if let Some((_, length)) = self.head.split_once("Content-Length: ") {
            let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
            self.from.read_exact(&mut body).unwrap();
            return Answer { head: self.head, chunks: vec![body], whole: true };
        }
        while let Some(chunk) = self.chunk() {
            if chunk.is_empty() {
                return Answer { head: self.head, chunks, whole: true };
            }
            chunks.push(chunk);
        }
        Answer { head: self.head, chunks, whole: false }
    }
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.chunks.concat()).unwrap()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        assert!(self.whole);
        self.text().lines().map(str::to_owned).collect()
    }
}

/// Starts `events serve` on a unix socket of the folder, and more words; it listens when this returns.
pub(crate) fn serve(folder: &Folder, more: &[&str]) -> (Running, PathBuf) {
    serve_from(folder, more, Stdio::null())
}

/// The same, with this to read.
pub(crate) fn serve_from(folder: &Folder, more: &[&str], stdin: Stdio) -> (Running, PathBuf) {
    let socket = folder.path("serve.sock");
    let listen = format!("unix://{}", socket.display());
    let mut command = folder.command(&[&["serve", "--listen", &listen], more].concat());
    command.stdin(stdin);
    let server = folder.start_command(command);
    eventually("it listens", || UnixStream::connect(&socket).map_err(|e| format!("{e}: {}", server.log())));
    (server, socket)
}

/// Percent-encodes all that could mean something.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).into() } else { format!("%{byte:02X}") })
        .collect()
}
