//! A minimal HTTP client for `serve`, which keeps each chunk as received.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::command::{Running, TIMEOUT, TestDir, eventually};

/// A response as received: the head, and each chunk of the body.
#[derive(Debug)]
pub(crate) struct Response {
    pub head: String,
    pub chunks: Vec<Vec<u8>>,
    /// True if the last chunk was received.
    pub is_complete: bool,
}

/// A response whose head was read, and whose body was not.
pub(crate) struct ResponseStream {
    pub head: String,
    pub reader: BufReader<UnixStream>,
}

/// Sends a request, and reads the head of the response.
pub(crate) fn send_request(socket: &Path, request: &str) -> ResponseStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    ResponseStream { head, reader }
}

/// Sends a GET request, and reads the complete response.
pub(crate) fn get(socket: &Path, target: &str) -> Response {
    send_request(socket, &format!("GET {target} HTTP/1.1\r\nHost: docker\r\n\r\n")).read_to_end()
}

/// Opens a live stream of events.
pub(crate) fn subscribe(socket: &Path) -> ResponseStream {
    send_request(socket, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
}

impl ResponseStream {
    /// Returns true if nothing arrives for a tenth of a second and the connection stays open.
    pub(crate) fn is_idle(&mut self) -> bool {
        let stream = self.reader.get_ref();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let received = self.reader.fill_buf().map(<[u8]>::len).map_err(|e| e.kind());
        self.reader.get_ref().set_read_timeout(Some(TIMEOUT)).unwrap();
        matches!(received, Err(ErrorKind::WouldBlock))
    }

    /// Reads the next chunk, which is empty at the end of the body. Returns `None` if the stream is cut.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        self.reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim_end(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).ok()?;
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        Some(chunk)
    }

    pub(crate) fn read_to_end(mut self) -> Response {
        let mut chunks = Vec::new();
        if let Some((_, length)) = self.head.split_once("Content-Length: ") {
            let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
            self.reader.read_exact(&mut body).unwrap();
            return Response { head: self.head, chunks: vec![body], is_complete: true };
        }
        while let Some(chunk) = self.chunk() {
            if chunk.is_empty() {
                return Response { head: self.head, chunks, is_complete: true };
            }
            chunks.push(chunk);
        }
        Response { head: self.head, chunks, is_complete: false }
    }
}

impl Response {
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
        assert!(self.is_complete);
        self.text().lines().map(str::to_owned).collect()
    }
}

/// Starts `events serve` on a Unix socket in `test_dir`, and waits until it listens.
pub(crate) fn serve(test_dir: &TestDir, extra_args: &[&str]) -> (Running, PathBuf) {
    serve_with_stdin(test_dir, extra_args, Stdio::null())
}

/// Starts `events serve` with this standard input, and waits until it listens.
pub(crate) fn serve_with_stdin(test_dir: &TestDir, extra_args: &[&str], stdin: Stdio) -> (Running, PathBuf) {
    let socket = test_dir.path("serve.sock");
    let listen = format!("unix://{}", socket.display());
    let mut command = test_dir.command(&[&["serve", "--listen", &listen], extra_args].concat());
    command.stdin(stdin);
    let server = test_dir.start_command(command);
    eventually("the server listens", || UnixStream::connect(&socket).map_err(|e| format!("{e}: {}", server.log())));
    (server, socket)
}

/// Percent-encodes all bytes except ASCII letters and digits.
pub(crate) fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).into() } else { format!("%{byte:02X}") })
        .collect()
}
