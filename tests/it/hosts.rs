//! TLS and ssh hosts: what is wrong is one clear line, and what changes on the disk takes effect.

use crate::support::hosts::{EVENT, Server, failures, path_with_ssh, text, with_path};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use crate::support::certificates::{Authority, Certificate};
use crate::support::command::{Folder, eventually, signal};

#[test]
fn what_is_wrong_with_a_certificate_is_one_clear_line() {
    let folder = Folder::new();
    let dir = folder.path("certificates");
    fs::create_dir(&dir).expect("a folder");
    let (ours, theirs) = (Authority::new(&dir, "ours"), Authority::new(&dir, "theirs"));
    let good = ours.signs(&dir, "good", &["127.0.0.1"], 30);
    let client = ours.signs(&dir, "client", &["client"], 30);
    let stranger = theirs.signs(&dir, "stranger", &["client"], 30);
    let good = Server::under_tls(&folder, &good, &["--tls-ca", text(&ours.file)]);
    let expired = Server::under_tls(&folder, &ours.signs(&dir, "expired", &["127.0.0.1"], 1), &[]);
    let elsewhere = Server::under_tls(&folder, &ours.signs(&dir, "elsewhere", &["box.example"], 30), &[]);

    let (closes, talks) = (answers(""), answers("HTTP/1.0 400 Bad Request\r\n\r\nThis is no TLS\n"));

    let usual = std::env::var("PATH").unwrap_or_default();
    let tried = |server: &str, authority: &Authority, own: Option<&Certificate>| -> Vec<String> {
        let (host, authority) = (format!("tcp://{server}"), text(&authority.file).to_owned());
        let mut words = vec!["-H".into(), host, "--tlsverify".into(), "--tlscacert".into(), authority];
        if let Some(own) = own {
            words.extend(["--tlscert", text(&own.file), "--tlskey", text(&own.key)].map(str::to_owned));
        }
        words
    };
    let names_file = "(hint: --tlscacert FILE names the authority that signed it)";
    let shows_one = "(hint: --tlscert FILE and --tlskey FILE, or DOCKER_CERT_PATH)";
    let renew = "(hint: renew it at the engine; or is the clock of this machine wrong?)";
    let in_name = "(hint: reach the engine by a name that stands in it)";
    let no_tls = "(hint: is TLS spoken on that port? An engine without TLS is at tcp://, without --tls)";
    let cases = [
        (
            &good.at,
            tried(&good.at, &theirs, Some(&client)),
            "its certificate is signed by nobody who is trusted here",
            names_file,
        ),
        (&good.at, tried(&good.at, &ours, None), "it wants a certificate of ours", shows_one),
        (
            &good.at,
            tried(&good.at, &ours, Some(&stranger)),
            "it does not take our certificate, or wants one",
            shows_one,
        ),
        (&expired.at, tried(&expired.at, &ours, None), "its certificate expired at 20", renew),
        (
            &elsewhere.at,
            tried(&elsewhere.at, &ours, None),
            "its certificate is for box.example, not for 127.0.0.1",
            in_name,
        ),
        (&closes, tried(&closes, &ours, None), "it ends the connection when TLS is spoken", no_tls),
        (&talks, tried(&talks, &ours, None), "what it answers is no TLS", no_tls),
    ];
    let words: Vec<Vec<&str>> = cases.iter().map(|(_, words, ..)| words.iter().map(String::as_str).collect()).collect();
    let said = failures(&folder, &words.iter().map(|words| (usual.as_str(), &words[..])).collect::<Vec<_>>());
    for (line, (at, _, why, hint)) in said.iter().zip(&cases) {
        let begins = format!("events: cannot connect to tcp://{at}: {why}");
        assert!(line.starts_with(&begins) && line.ends_with(hint), "{line}\ninstead of {begins}… {hint}");
    }
    // And what is right is taken, by whichever of the words.
    let verified = tried(&good.at, &ours, Some(&client));
    let (host, shown) =
        ([&verified[0][..], &verified[1]], [&verified[5][..], &verified[6], &verified[7], &verified[8]]);
    for (db, words) in [
        ("verified", verified.iter().map(String::as_str).collect()),
        ("anyone", [&host[..], &["--tls"], &shown].concat()),
    ] {
        let db = folder.path(db);
        folder.run(&[&["record", "-q", "--until", "now", "--db", text(&db)][..], &words].concat()).succeeded();
        assert_eq!(folder.lines(&["query", "-q", "--db", text(&db)]), [EVENT]);
    }
}

/// Somewhere that has one answer to whatever is sent, and ends the connection.
fn answers(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(answer.as_bytes());
        }
    });
    at
}

#[test]
fn a_certificate_renewed_on_the_disk_is_taken_without_a_restart() {
    let folder = Folder::new();
    let dir = folder.path("certificates");
    fs::create_dir(&dir).expect("a folder");
    let (old, new) = (Authority::new(&dir, "old"), Authority::new(&dir, "new"));
    let server = Server::under_tls(&folder, &new.signs(&dir, "server", &["127.0.0.1"], 30), &[]);
    let trusted = folder.path("ca.pem");
    fs::copy(&old.file, &trusted).expect("a file");
    let host = format!("https://{}", server.at);
    let recorder = folder.start(&["record", "-H", &host, "--tlscacert", text(&trusted)]);
    folder.eventually("it is said that it cannot be trusted", || {
        let log = recorder.log();
        if log.contains("nobody who is trusted here (hint: ") { Ok(()) } else { Err(log) }
    });
    fs::copy(&new.file, &trusted).expect("a file");
    folder.eventually_lines(&["query", "-q"], &[EVENT.to_owned()]);
    let said = recorder.log().matches("it is tried again until it works").count();
    assert_eq!(said, 1, "{}", recorder.log());
    recorder.stop();
}

#[test]
fn what_ssh_says_is_the_error() {
    let folder = Folder::new();
    let words = "echo 'Warning: of no meaning' >&2; echo 'ssh: Could not resolve hostname box: Unknown' >&2; exit 255";
    let at_once = path_with_ssh(&folder, "at-once", words);
    let asked = path_with_ssh(&folder, "asked", &format!("head -c 1 >/dev/null; {words}"));
    let no_docker = path_with_ssh(&folder, "no-docker", "echo 'sh: docker: not found' >&2; exit 127");
    let host: &[&str] = &["-H", "ssh://me@box"];
    let said = failures(&folder, &[(&at_once, host), (&asked, host), (&no_docker, host), ("/nowhere", host)]);
    let unknown = "ssh: Could not resolve hostname box: Unknown \
                   (hint: does `ssh` reach it by itself, with no password asked for and its host key known?)";
    let no_docker = "sh: docker: not found \
                     (hint: the docker client must be there, in the PATH of a command that ssh runs)";
    let expected = [unknown, unknown, no_docker, "there is no ssh program (hint: install it: openssh-client)"];
    assert_eq!(said, expected.map(|why| format!("events: cannot connect to ssh://me@box: {why}")));
}

#[test]
fn an_ssh_that_does_not_end_is_made_to() {
    let folder = Folder::new();
    let pids = folder.path("pids");
    let stubborn = format!("trap '' TERM; echo $$ >> {}; exec sleep 1000", pids.display());
    let path = path_with_ssh(&folder, "stubborn", &stubborn);
    let mut command = with_path(folder.command(&["record", "-q", "-H", "ssh://me@box"]), &path);
    let mut recorder = command.spawn().expect("it starts");
    let started = || -> Vec<u32> {
        let text = fs::read_to_string(&pids).unwrap_or_default();
        text.lines().map(|line| line.parse().expect("a pid")).collect()
    };
    eventually("ssh is started", || if started().is_empty() { Err("not yet") } else { Ok(()) });
    assert!(signal(recorder.id(), "TERM"));
    assert!(recorder.wait().expect("it can be waited for").success());
    for pid in started() {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    }
}
