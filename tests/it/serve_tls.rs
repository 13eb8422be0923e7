//! `serve` under TLS: who is answered, and certificates that cannot be used.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use crate::support::command::{DEADLINE, eventually};
use crate::support::fixture::imported;
use crate::support::http::{get, serve};
use rcgen::{Certificate, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// What a client gets over TLS for a request; it may show a certificate.
fn over_tls(port: u16, trusted: &Certificate, shown: Option<(&Certificate, &KeyPair)>) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match shown {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            config.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
        }
    };
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn over_tls_only_the_right_people_are_answered() {
    let folder = imported("docker-28.5.2.ndjson");
    let signed = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (made.cert, made.signing_key)
    };
    let ((cert, key), (client, client_key), (stranger, stranger_key)) = (signed(), signed(), signed());
    for (name, text) in [
        ("cert", cert.pem()),
        ("key", key.serialize_pem()),
        ("ca", client.pem()),
        ("other", stranger_key.serialize_pem()),
    ] {
        fs::write(folder.path(name), text).unwrap();
    }
    fs::write(folder.path("empty"), "").unwrap();
    let tls = ["--tls-cert", "cert", "--tls-key", "key", "--tls-ca", "ca", "--listen", "tcp://127.0.0.1:0"];
    let (server, socket) = serve(&folder, &tls);
    // The port that the system chose is said.
    let port = eventually("it is said where", || {
        let log = server.log();
        let port = log.split("serving on tcp://127.0.0.1:").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        port.filter(|port: &u16| *port != 0).ok_or(log)
    });
    let answer = over_tls(port, &cert, Some((&client, &client_key))).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(over_tls(port, &cert, None).is_err());
    assert!(over_tls(port, &cert, Some((&stranger, &stranger_key))).is_err());
    // Plain HTTP is no TLS, and is let go of; a unix socket is never under it.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.set_read_timeout(Some(DEADLINE)).unwrap();
    plain.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let ended = plain.read_to_end(&mut answer).map_err(|e| e.kind());
    assert!(ended != Err(io::ErrorKind::WouldBlock) && !answer.starts_with(b"HTTP"), "{ended:?}");
    assert_eq!(get(&socket, "/_ping").status(), 200);
    for (cert, key, ca) in [
        ("missing", "key", "ca"),
        ("empty", "key", "ca"),
        ("cert", "cert", "ca"),
        ("cert", "other", "ca"),
        ("cert", "key", "empty"),
    ] {
        let words = ["serve", "--listen", "tcp://127.0.0.1:0", "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca];
        let ran = folder.run(&words).exited(1);
        assert!(ran.stderr.starts_with("events: cannot ") && ran.stderr.lines().count() == 1, "{}", ran.report());
    }
}
