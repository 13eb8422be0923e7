//! Go templates: `query` prints the same from a store as the docker client prints from `serve`.
//!
//! `.ci/run` installs the clients: `cargo test --test real templates`.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::command::{Output, Running, TestDir, eventually, run};

/// Templates that both accept.
const TEMPLATES: [&str; 94] = [
    "{{.ID}}",
    "{{.Status}}",
    "{{.From}}",
    "{{.Type}}",
    "{{.Action}}",
    "{{.Actor.ID}}",
    "{{.Scope}}",
    "{{.Time}}",
    "{{.TimeNano}}",
    "{{.}}",
    "{{.Actor}}",
    "{{.Actor.Attributes}}",
    "{{.Actor.Attributes.name}}",
    r#"{{index .Actor.Attributes "name"}}"#,
    r#"{{index .Actor.Attributes "exitCode"}}"#,
    "{{json .}}",
    "{{upper .Status}} {{lower .From}} {{title .Status}} {{upper .Actor.ID}}",
    r#"{{split .From ":"}}"#,
    "{{if .Actor.Attributes.exitCode}}{{.Actor.Attributes.name}} exited with {{.Actor.Attributes.exitCode}}{{else}}-{{end}}",
    "{{ .Type -}} / {{- .Action }}",
    "{{/* nothing */}}{{.Type}}",
    r#"{{ (index .Actor.Attributes "image") | printf "%-30s|" }}"#,
    r#"{{range $key, $value := .Actor.Attributes}}{{printf "%s=%q " $key $value}}{{end}}"#,
    r#"{{printf "%.12s" .Actor.ID}}  {{printf "%-10s" .Type}}{{.Action}}"#,
    "{{1e5}} {{1e6}} {{123456789.0}} {{1234567.5}} {{1e20}} {{1e-4}} {{1e-5}} {{100000.0}} {{0.1}}",
    r#"{{printf "%v %g %G %e %f %.2f %.3g %8.2f|%6.1e %s %d" 1e6 1e6 1e-7 1.5 1.5 1.005 12345.678 3.14159 1234.5 1.5 1.5}}"#,
    "{{json 1e6}} {{json 1e21}} {{json 1e-7}} {{json 1.5}} {{json 1e20}}",
    r#"{{printf "%5s|%-5s|%.2s|%q|%x|%X|% x|%#x|%+q" "ab" "ab" "abc" "é\n" "ab" "ab" "abc" "ab" "é"}}"#,
    r#"{{printf "%05s" "ab"}}"#,
    r#"{{printf "%5t|%v|%d" true false true}}"#,
    r#"{{printf "%5q|%x|%s|%10v|%-10v|" (split "a,b" ",") (split "a,b" ",") (split "a,b" ",") (split "a,b" ",") (split "a,b" ",")}}"#,
    r#"{{printf "%d %d" 1}} {{printf "%d" 1 2}} {{printf "%z" 1}} {{printf "%"}} {{printf "%!"}} {{printf "%[2]d %[1]d" 1 2}} {{printf "%*d" 5 1}} {{printf "%[3]d" 1}} {{printf "%.*f" 2 1.2345}}"#,
    r#"{{printf "%c %U %#U %q %o %#o %O %b %#b %#x %x" 233 233 233 233 8 8 8 5 5 255 -255}}"#,
    r#"{{printf "%v %+v %#v %T" nil nil nil nil}} {{printf "%s" nil}}"#,
    r#"{{printf "%#v %#v %#v %#v %#v" "a" 1 1.0 true (split "a" ",")}}"#,
    r#"{{printf "%v|%+v|%#v" . . .}}"#,
    r#"{{or .Actor.Attributes.foo "x"}} {{and .Actor.Attributes.foo "x"}} {{print .Actor.Attributes.foo}} {{eq .Actor.Attributes.foo "x"}} {{ne .Actor.Attributes.foo "x"}}"#,
    r#"{{printf "%+d % d %+.1f %05d %-5d| %x" 1 2 1.55 -3 4 "é"}}"#,
    "{{.ID |}}",
    "{{eq .Actor.Attributes nil}}",
    r#"{{printf "%s" .}}"#,
    r#"{{printf "%6.2f|%-8.3s|%08.3f" 3.14159 "abcdef" -3.14159}}"#,
    r#"{{printf "%v" (index "abc" 1)}} {{index "abc" 1}} {{printf "%T %#v %s" (index "abc" 1) (index "abc" 1) (index "abc" 1)}}"#,
    r#"{{json (index "abc" 1)}} {{json true}} {{json "<é\u2028>"}} {{json "\x01\b\f"}} {{json (truncate "é" 1)}}"#,
    r#"{{title "hello wORLD foo-bar a_b é1 éa"}} {{upper "ßé"}} {{lower "İÉ"}}"#,
    r#"{{len (split "" "")}} {{len (split "aé" "")}} {{join (split "a b c" " ") "-"}}"#,
    "{{range $i := 3}}{{$i}}{{end}}",
    r#"{{range $i, $e := split "a,b" ","}}{{$i}}:{{$e}} {{else}}x{{end}}"#,
    "{{range .Actor.Attributes.foo}}a{{else}}none{{end}}",
    "{{range .Actor.Attributes}}{{.}},{{break}}{{end}}",
    "{{$x := 1}}{{if true}}{{$x = 2}}{{$x := 3}}{{end}}{{$x}}",
    r#"{{if eq .Type "container"}}C{{else if eq .Type "builder"}}B{{else}}O{{end}}"#,
    "{{with .From}}{{.}}{{else with .Scope}}{{.}}{{end}}",
    "{{- .ID -}}  x  {{- /* c */ -}}  y",
    r#"{{"\x41\u00e9\101\n"}}{{`a\n`}}"#,
    r#"{{(index .Actor.Attributes "name")}} {{(.Actor).ID}} {{$.Actor.ID}}"#,
    r#"{{1 | printf "%d"}}"#,
    r#"{{slice "abcdef" 1 3}} {{slice "abcdef" 2}} {{html "<a>&\"'"}} {{js "it's <b>=\u00a0é"}} {{urlquery "a b&c/é~"}}"#,
    r#"{{printf "%v" 1_000}} {{0b11}} {{0o17}} {{017}} {{0x1F}} {{-5}} {{+5}}"#,
    r#"{{printf "%6d|%-6d|%06d|%x|%X|% d" .Time .Time 42 .Time .Time 5}}"#,
    r#"{{not true}} {{not nil}} {{le 1 1}} {{ge 2 1}} {{gt "b" "a"}} {{eq true true}}"#,
    "{{println}}x",
    "{{print}}x",
    r#"{{printf "%s %v" .Actor.Attributes .Actor.Attributes}} {{printf "%q" .Actor.Attributes}}"#,
    r#"{{define "x"}}[{{.ID}}]{{end}}{{template "x" .}}{{template "x"}}"#,
    r#"{{define "x"}}[{{.}}]{{end}}{{template "x"}}"#,
    "{{range 2}}{{continue}}a{{end}}|",
    r#"{{index .Actor.Attributes "name" | upper | printf "%q %x"}}"#,
    r#"{{printf "%v" "a" | len}} {{"abc" | printf "%s-%s" "x"}}"#,
    r#"{{ne 1 2}} {{lt 1.5 2.5}} {{lt "a" "b"}} {{le "a" "a"}} {{gt 1 2}} {{ge 1 2}}"#,
    r#"{{join nil "b"}}|"#,
    r#"{{pad .ID 2 3}}| {{pad "" 2 3}}|"#,
    r#"{{truncate .Actor.ID 4}}|{{truncate "é" 1 | printf "%q"}}|{{truncate "ab" 9}}"#,
    r#"{{printf "%[1]q %[1]s %[x]d %[9]d" "a"}}"#,
    r#"{{printf "%-8q|%8q|%08q|%#q|%# x|%+v" "a" "b" "c" "d`e" "fg" "h"}}"#,
    r#"{{printf "%08d|%+08d|%-08d|%x|%#X|%#o|%.3d|%8.3d|%.0d|" -42 42 42 255 255 8 5 5 0}}"#,
    r#"{{printf "%t %t" true "x"}} {{printf "%s|%10s|%-10s|" true true true}} {{printf "%v|%6v|%-6v|" true true true}}"#,
    r#"{{printf "%e %E %g %G" 123456.789 123456.789 0.00001234 123456789.0}} {{printf "%10.3e|%-10.2f|%+g|% g|%010.2f" 1.5 1.5 1.5 1.5 -1.5}}"#,
    r#"{{printf "%x %X %c %q %U" "hi" "hi" 128051 128051 128051}}"#,
    r#"{{printf "%d%%" 5}} {{printf "%5%|%-5%|"}}"#,
    r#"{{print "a" 1 2 "b" 3.5 true nil .Time}} {{println "a" 1 nil}}"#,
    "{{print .Actor .Type}}",
    r#"{{html .Actor.Attributes}} {{js .}} {{urlquery 5 "a"}}"#,
    "{{json .Actor.Attributes}} {{json .Actor}} {{json .Time}} {{json .Type}} {{json .Actor.ID}}",
    "{{range $k, $v := .Actor.Attributes}}{{$k}}={{json $v}};{{end}}",
    r#"{{range $k, $v := .Actor.Attributes}}{{if eq $k "name"}}{{$v}}{{break}}{{end}}{{else}}no{{end}}"#,
    "{{with .Actor}}{{.ID}} {{$.Type}} {{with .Attributes}}{{.name}}{{end}}{{end}}",
    "{{with $a := .Actor}}{{$a.ID}}{{end}}",
    "{{$a := .Actor}}{{$a.Attributes.name}} {{$a.ID}}",
    "{{.Actor.Attributes.name}}	{{.Action}}",
    r#"{{printf "%-12.12s %-10s %s" .Actor.ID .Type .Action}}"#,
    r#"{{if and (eq .Type "container") (ne .Action "die")}}yes{{end}}"#,
    "{{.Time}}.{{.TimeNano}} {{.Scope}}{{.Status}}{{.From}}{{.ID}}",
    r#"plain text \n \t {{"\t"}}|"#,
];

/// Templates that clients up to Docker 24 accept, where types and actions are plain strings. Newer clients reject them.
const TEMPLATES_20: [&str; 5] = [
    "{{upper .Type}} {{title .Action}}",
    r#"{{split .Action ":"}}"#,
    "{{truncate .Type 3}} {{pad .Action 1 1}}|",
    r#"{{printf "%T" .Type}}"#,
    r#"{{join (split .Action " ") "_"}}"#,
];

/// Templates that both reject with the same message.
const INVALID_TEMPLATES: [&str; 60] = [
    "{{.ID | | json}}",
    r#"{{lt .Actor.Attributes.foo "x"}}"#,
    r#"{{lt 1 "x"}}"#,
    r#"{{eq .Actor.Attributes "x"}}"#,
    r#"{{pad "a" -1 1}}"#,
    r#"{{truncate "abc" -1}}"#,
    "{{range .ID}}a{{end}}",
    "{{.ID | 1}}",
    r#"{{"x"}}{{.ID.foo}}"#,
    "{{.actor}}",
    "{{true.x}}",
    "{{nil.x}}",
    "{{1e}}",
    r#"{{template "x" .}}{{define "x"}}{{define "y"}}{{end}}{{end}}"#,
    "{{if}}",
    "{{.ID .Type}}",
    "{{.Actor.ID.Foo}}",
    "{{nil}}",
    "{{$x}}",
    "{{$x := .ID}}{{$x.Foo}}",
    r#"{{range $i, $e, $f := split "a" ","}}{{end}}"#,
    "{{$i, $e := .ID}}",
    "{{range $i, 3}}{{end}}",
    "{{break}}",
    "{{upper .Actor.Attributes.name}}",
    "{{upper 5}}",
    "{{upper}}",
    "{{index .Actor.Attributes 5}}",
    r#"{{index .ID "a"}}"#,
    "{{index nil 1}}",
    "{{len 3}}",
    "{{call nil}}",
    "{{.}x",
    "{{.ID",
    r#"{{"a}}"#,
    "{{`a}}",
    "{{'ab'}}",
    "{{.ID}}{{end}}",
    "{{else}}",
    "{{if .ID}}a{{else}}b{{else}}c{{end}}",
    "{{if .ID}}a{{else with .ID}}c{{end}}",
    "{{/* a }}",
    "{{/* a */ x}}",
    "{{(.ID}}",
    "{{.ID)}}",
    "{{.ID :x}}",
    "{{☃}}",
    "{{if .ID}}a",
    "{{and}}",
    "{{and 1 0 (index .ID 100)}} {{or 0 2 (index .ID 100)}} {{and true .Time}} {{or}}",
    r#"{{eq 1 2 1}} {{eq 1 "a"}}"#,
    "{{eq 1}}",
    "{{lt true false}}",
    r#"{{slice "abc" 5}}"#,
    r#"{{slice "abc" 2 1}}"#,
    r#"{{slice "abc" 1 2 3}}"#,
    r#"{{slice (split "a,b,c" ",") 1 2 3}} {{slice (split "a,b,c" ",") 1}} {{slice nil}}"#,
    "{{split .ID 5}}",
    r#"{{join "a" "b"}}"#,
    r#"{{printf "%s" (index .ID 0)}}"#,
];

/// Templates that both reject, with different messages.
const INVALID_WITH_OTHER_MESSAGE: [&str; 6] = [
    "{{eq .Actor .Actor}}",
    r#"{{template "x"}}"#,
    "{{len nil}}",
    "{{len .Actor.Attributes.foo}}",
    "{{call .ID}}",
    "{{.ID é ☃}}",
];

/// A time after the last event of the recordings.
const UNTIL: &str = "1795540000";

/// A store of recordings, and a server of the store.
struct ServedRecordings {
    test_dir: TestDir,
    host: String,
    _server: Running,
}

impl ServedRecordings {
    fn start() -> ServedRecordings {
        let test_dir = TestDir::new();
        // Recordings of the newest engine and an old one, and two unusual events.
        let recording = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
            let text = std::fs::read_to_string(path).expect("a recording");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut lines = [recording("docker-29.7.2.ndjson"), recording("docker-20.10.24.ndjson")].concat();
        // Old API versions do not send `create` events of images.
        lines.retain(|line| !line.contains(r#""Type":"image","Action":"create""#));
        lines.push(r#"{"Type":"container","Action":"exec_start: sh -c \"<a>\u2028\u0007\"","Actor":{"ID":"c1","Attributes":{"a b":"\ud83d\udc33 é","name":"","ünï":"x\ty"}},"time":1795535600,"timeNano":1795535600000000001}"#.into());
        lines.push(r#"{"Type":"daemon","Action":"reload","Actor":{"ID":""},"time":1795535600}"#.into());
        let file = test_dir.path("recordings.ndjson");
        std::fs::write(&file, lines.join("\n")).expect("a file");
        test_dir.run(&["import", "-q", &file.display().to_string()]).assert_exit_code(0);
        let socket = test_dir.path("serve.sock");
        let host = format!("unix://{}", socket.display());
        let server = test_dir.start(&["serve", "--listen", &host]);
        eventually("the server listens", || UnixStream::connect(&socket).map_err(|e| format!("{e}: {}", server.log())));
        ServedRecordings { test_dir, host, _server: server }
    }

    /// Runs the docker client and `query` with a template.
    fn print_both(&self, version: &str, template: &str) -> [Output; 2] {
        let args = ["events", "--since", "0", "--until", UNTIL, "--format", template];
        let mut client = Command::new("tests/setup/engine.sh");
        client.args(["client", version]);
        let mut docker = Command::new(&run(client).assert_exit_code(0).lines()[0]);
        // Without the user's configuration, which could set another output format.
        docker.env_clear().env("HOME", "/nonexistent").args(["-H", &self.host]).args(args).stdin(Stdio::null());
        [run(docker), self.test_dir.run(&["query", "-q", "--until", UNTIL, "--format", template])]
    }

    fn assert_same_output(&self, version: &str, template: &str) {
        let [docker, query] = self.print_both(version, template);
        let (docker, query) = (docker.assert_success(), query.assert_success());
        assert!(docker.stdout.iter().filter(|byte| **byte == b'\n').count() > 400, "{}", docker.report());
        if docker.stdout != query.stdout {
            let stdout_text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
            let (docker, query) = (stdout_text(&docker), stdout_text(&query));
            let difference = docker.lines().zip(query.lines()).find(|(docker, query)| docker != query);
            panic!("{template}\nthe client and query print: {difference:#?}");
        }
    }

    fn assert_both_reject(&self, template: &str) -> [String; 2] {
        let [docker, query] = self.print_both("26", template);
        let docker = docker.assert_exit_code(64);
        let (docker, query) = (docker.stderr, query.assert_exit_code(2));
        assert!(query.stdout.is_empty(), "{}", query.report());
        assert_eq!(query.stderr.lines().count(), 1, "{}", query.report());
        let message = docker.strip_prefix("Error parsing format: ").expect("the client rejects the template");
        [message.trim_end().to_owned(), query.stderr]
    }
}

#[test]
fn query_prints_what_the_docker_client_prints() {
    let served = ServedRecordings::start();
    TEMPLATES.iter().for_each(|template| served.assert_same_output("26", template));
    TEMPLATES_20.iter().for_each(|template| served.assert_same_output("20", template));
}

#[test]
fn query_rejects_what_the_docker_client_rejects() {
    let served = ServedRecordings::start();
    for template in INVALID_TEMPLATES {
        let [docker, query] = served.assert_both_reject(template);
        assert!(query.contains(&docker), "{template}\n{docker}\n{query}");
    }
    INVALID_WITH_OTHER_MESSAGE.iter().for_each(|template| drop(served.assert_both_reject(template)));
}

#[test]
fn an_event_on_which_a_template_fails_stops_both() {
    let [docker, query] = ServedRecordings::start().print_both("26", "{{.Type}} {{.Actor.Attributes.name.x}}");
    let (docker, query) = (docker.assert_exit_code(1), query.assert_exit_code(1));
    assert_eq!(docker.stdout, query.stdout, "{}\n{}", docker.report(), query.report());
    assert!(query.stderr.contains(docker.stderr.trim_end()), "{}\n{}", docker.report(), query.report());
}
