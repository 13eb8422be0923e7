//! `serve` with TLS: client certificates, and server certificates that cannot be used.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use crate::support::command::{TIMEOUT, eventually};
use crate::support::fixture::imported_store;
use crate::support::http::{get, serve};
use rcgen::{Certificate, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Sends a request over TLS, with or without a client certificate; returns the response.
fn get_over_tls(port: u16, trusted: &Certificate, client: Option<(&Certificate, &KeyPair)>) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            config.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
        }
    };
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

#[test]
fn tls_requires_a_trusted_client_certificate() {
    let test_dir = imported_store("docker-28.5.2.ndjson");
    let self_signed = || {
        let generated = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (generated.cert, generated.signing_key)
    };
    let ((cert, key), (client, client_key), (untrusted, untrusted_key)) = (self_signed(), self_signed(), self_signed());
    for (name, text) in [
        ("cert", cert.pem()),
        ("key", key.serialize_pem()),
        ("ca", client.pem()),
        ("other", untrusted_key.serialize_pem()),
    ] {
        fs::write(test_dir.path(name), text).unwrap();
    }
    fs::write(test_dir.path("empty"), "").unwrap();
    let tls = ["--tls-cert", "cert", "--tls-key", "key", "--tls-ca", "ca", "--listen", "tcp://127.0.0.1:0"];
    let (server, socket) = serve(&test_dir, &tls);
    // The log contains the port that the system chose.
    let port = eventually("the port is logged", || {
        let log = server.log();
        let port = log.split("serving on tcp://127.0.0.1:").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        port.filter(|port: &u16| *port != 0).ok_or(log)
    });
    let response = get_over_tls(port, &cert, Some((&client, &client_key))).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(get_over_tls(port, &cert, None).is_err());
    assert!(get_over_tls(port, &cert, Some((&untrusted, &untrusted_key))).is_err());
    // A plain HTTP connection is closed. A unix socket never uses TLS.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.set_read_timeout(Some(TIMEOUT)).unwrap();
    plain.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut response = Vec::new();
    let ended = plain.read_to_end(&mut response).map_err(|e| e.kind());
    assert!(ended != Err(io::ErrorKind::WouldBlock) && !response.starts_with(b"HTTP"), "{ended:?}");
    assert_eq!(get(&socket, "/_ping").status(), 200);
    for (cert, key, ca) in [
        ("missing", "key", "ca"),
        ("empty", "key", "ca"),
        ("cert", "cert", "ca"),
        ("cert", "other", "ca"),
        ("cert", "key", "empty"),
    ] {
        let args = ["serve", "--listen", "tcp://127.0.0.1:0", "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca];
        let output = test_dir.run(&args).assert_exit_code(1);
        let is_one_line = output.stderr.lines().count() == 1;
        assert!(output.stderr.starts_with("events: cannot ") && is_one_line, "{}", output.report());
    }
}
