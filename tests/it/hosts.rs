//! TLS and ssh hosts: each problem is one clear line, and certificates changed on disk take effect.

use crate::support::hosts::{EVENT, Server, path_with_ssh, record_errors, text, with_path};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use crate::support::certificates::{Certificate, CertificateAuthority};
use crate::support::command::{TestDir, eventually, signal};

#[test]
fn each_certificate_problem_is_one_clear_line() {
    let test_dir = TestDir::new();
    let dir = test_dir.path("certificates");
    fs::create_dir(&dir).expect("the folder is new");
    let (ours, theirs) = (CertificateAuthority::new(&dir, "ours"), CertificateAuthority::new(&dir, "theirs"));
    let good = ours.issue(&dir, "good", &["127.0.0.1"], 30);
    let client = ours.issue(&dir, "client", &["client"], 30);
    let untrusted = theirs.issue(&dir, "stranger", &["client"], 30);
    let good = Server::start_with_tls(&test_dir, &good, &["--tls-ca", text(&ours.file)]);
    let expired = Server::start_with_tls(&test_dir, &ours.issue(&dir, "expired", &["127.0.0.1"], 1), &[]);
    let other_name = Server::start_with_tls(&test_dir, &ours.issue(&dir, "elsewhere", &["box.example"], 30), &[]);

    let closing = server_with_response("");
    let plain = server_with_response("HTTP/1.0 400 Bad Request\r\n\r\nThis is not TLS\n");

    let path_var = std::env::var("PATH").unwrap_or_default();
    let host_args =
        |server: &str, authority: &CertificateAuthority, client_certificate: Option<&Certificate>| -> Vec<String> {
            let (host, authority) = (format!("tcp://{server}"), text(&authority.file).to_owned());
            let mut args = vec!["-H".into(), host, "--tlsverify".into(), "--tlscacert".into(), authority];
            if let Some(client_certificate) = client_certificate {
                args.extend(
                    ["--tlscert", text(&client_certificate.file), "--tlskey", text(&client_certificate.key)]
                        .map(str::to_owned),
                );
            }
            args
        };
    let ca_hint = "(hint: pass the authority that signed it with --tlscacert FILE)";
    let client_hint = "(hint: pass --tlscert FILE and --tlskey FILE, or set DOCKER_CERT_PATH)";
    let renew_hint = "(hint: renew the certificate on the engine, or check the clock of this machine)";
    let name_hint = "(hint: connect with a name that the certificate contains)";
    let tls_hint = "(hint: check that the port uses TLS; for an engine without TLS, use tcp:// and omit --tls)";
    let cases = [
        (
            &good.address,
            host_args(&good.address, &theirs, Some(&client)),
            "the server certificate is not signed by a trusted authority",
            ca_hint,
        ),
        (&good.address, host_args(&good.address, &ours, None), "the server requires a client certificate", client_hint),
        (
            &good.address,
            host_args(&good.address, &ours, Some(&untrusted)),
            "the server rejects the client certificate, or requires one",
            client_hint,
        ),
        (
            &expired.address,
            host_args(&expired.address, &ours, None),
            "the server certificate expired at 20",
            renew_hint,
        ),
        (
            &other_name.address,
            host_args(&other_name.address, &ours, None),
            "the server certificate is for box.example, not for 127.0.0.1",
            name_hint,
        ),
        (
            &closing,
            host_args(&closing, &ours, None),
            "the server closed the connection during the TLS handshake",
            tls_hint,
        ),
        (&plain, host_args(&plain, &ours, None), "the response of the server is not TLS", tls_hint),
    ];
    let args: Vec<Vec<&str>> = cases.iter().map(|(_, args, ..)| args.iter().map(String::as_str).collect()).collect();
    let errors = record_errors(&test_dir, &args.iter().map(|args| (path_var.as_str(), &args[..])).collect::<Vec<_>>());
    for (line, (address, _, reason, hint)) in errors.iter().zip(&cases) {
        let prefix = format!("events: cannot connect to tcp://{address}: {reason}");
        assert!(line.starts_with(&prefix) && line.ends_with(hint), "{line}\ninstead of {prefix}… {hint}");
    }
    // Valid certificates are accepted, with --tlsverify and with --tls.
    let verified = host_args(&good.address, &ours, Some(&client));
    let (host, client_args) =
        ([&verified[0][..], &verified[1]], [&verified[5][..], &verified[6], &verified[7], &verified[8]]);
    for (db, args) in [
        ("verified", verified.iter().map(String::as_str).collect()),
        ("anyone", [&host[..], &["--tls"], &client_args].concat()),
    ] {
        let db = test_dir.path(db);
        test_dir.run(&[&["record", "-q", "--until", "now", "--db", text(&db)][..], &args].concat()).assert_success();
        assert_eq!(test_dir.lines(&["query", "-q", "--db", text(&db)]), [EVENT]);
    }
}

/// Starts a TCP server that sends one response to any request and closes the connection; returns its address.
fn server_with_response(response: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound").to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(response.as_bytes());
        }
    });
    address
}

#[test]
fn a_certificate_renewed_on_disk_is_used_without_a_restart() {
    let test_dir = TestDir::new();
    let dir = test_dir.path("certificates");
    fs::create_dir(&dir).expect("the folder is new");
    let (old, new) = (CertificateAuthority::new(&dir, "old"), CertificateAuthority::new(&dir, "new"));
    let server = Server::start_with_tls(&test_dir, &new.issue(&dir, "server", &["127.0.0.1"], 30), &[]);
    let trusted = test_dir.path("ca.pem");
    fs::copy(&old.file, &trusted).expect("the folder is writable");
    let host = format!("https://{}", server.address);
    let recorder = test_dir.start(&["record", "-H", &host, "--tlscacert", text(&trusted)]);
    recorder.eventually_logs("not signed by a trusted authority (hint: ");
    fs::copy(&new.file, &trusted).expect("the folder is writable");
    test_dir.eventually_lines(&["query", "-q"], &[EVENT.to_owned()]);
    let warnings = recorder.log().matches("the recorder retries until it succeeds").count();
    assert_eq!(warnings, 1, "{}", recorder.log());
    recorder.stop();
}

#[test]
fn an_error_message_of_ssh_is_the_error() {
    let test_dir = TestDir::new();
    let script = "echo 'Warning: of no meaning' >&2; echo 'ssh: Could not resolve hostname box: Unknown' >&2; exit 255";
    let fails_early = path_with_ssh(&test_dir, "fails-early", script);
    let fails_late = path_with_ssh(&test_dir, "fails-late", &format!("head -c 1 >/dev/null; {script}"));
    let no_docker = path_with_ssh(&test_dir, "no-docker", "echo 'sh: docker: not found' >&2; exit 127");
    let host: &[&str] = &["-H", "ssh://me@box"];
    let errors =
        record_errors(&test_dir, &[(&fails_early, host), (&fails_late, host), (&no_docker, host), ("/nowhere", host)]);
    let unknown = "ssh: Could not resolve hostname box: Unknown \
                   (hint: check that `ssh` connects without a password prompt and with a known host key)";
    let no_docker = "sh: docker: not found \
                     (hint: install the docker client on that machine, in the PATH of commands that ssh runs)";
    let expected = [unknown, unknown, no_docker, "the ssh program is not installed (hint: install openssh-client)"];
    assert_eq!(errors, expected.map(|reason| format!("events: cannot connect to ssh://me@box: {reason}")));
}

#[test]
fn an_ssh_that_ignores_sigterm_is_killed() {
    let test_dir = TestDir::new();
    let pids = test_dir.path("pids");
    let script = format!("trap '' TERM; echo $$ >> {}; exec sleep 1000", pids.display());
    let path = path_with_ssh(&test_dir, "stubborn", &script);
    let mut command = with_path(test_dir.command(&["record", "-q", "-H", "ssh://me@box"]), &path);
    let mut recorder = command.spawn().expect("the binary starts");
    let started_pids = || -> Vec<u32> {
        let text = fs::read_to_string(&pids).unwrap_or_default();
        text.lines().map(|line| line.parse().expect("each line is a pid")).collect()
    };
    eventually("ssh has started", || if started_pids().is_empty() { Err("not yet") } else { Ok(()) });
    assert!(signal(recorder.id(), "TERM"));
    assert!(recorder.wait().expect("the recorder is a child").success());
    for pid in started_pids() {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} still runs");
    }
}
