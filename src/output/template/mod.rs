//! Go templates, as `docker events --format` takes them: what the docker client prints is printed, byte for byte.
//!
//! It knows one kind of thing, an event, and no files, flags or other outputs.

mod constant;
mod exec;
mod float;
mod functions;
mod json;
mod lex;
mod parse;
mod print;
mod value;

use crate::event::Event;
use exec::execute;
use parse::{Tree, parse};
use value::{Message, Value};

/// A template that was read and tried.
#[derive(Debug)]
pub struct Template {
    text: String,
    tree: Tree,
}

/// What is wrong with a template, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

/// The event that a template is tried on, as the docker client does it: one of which nothing is known.
const NOTHING: &str = r#"{"Type":"","Action":"","Actor":{"ID":""},"time":0}"#;

impl Template {
    /// Reads a template, and tries it on an event without content.
    ///
    /// # Errors
    /// What is wrong with it; a field that events do not have, too.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let tree = parse(text).map_err(|e| {
            let line = 1 + text[..e.at].matches('\n').count();
            TemplateError(format!("template: :{line}: {}", e.what))
        })?;
        let template = Template { text: text.into(), tree };
        let nothing = Event::parse(NOTHING.as_bytes()).expect("it is an event");
        template.execute(&Message { event: &nothing, is_trial: true }, &mut Vec::new())?;
        Ok(template)
    }

    /// What it makes of an event, behind what is in `out`; also where it fails in the middle of it.
    ///
    /// # Errors
    /// What it cannot do with this event.
    pub fn apply(&self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<(), TemplateError> {
        self.execute(&Message { event, is_trial: false }, out)
    }

    fn execute(&self, message: &Message<'_>, out: &mut Vec<u8>) -> Result<(), TemplateError> {
        execute(&self.text, &self.tree, Value::Message(message), out).map_err(|e| {
            let before = &self.text[..e.span.at];
            let line = 1 + before.matches('\n').count();
            let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1);
            let part = &self.text[e.span.from..e.span.to];
            TemplateError(format!("template: :{line}:{column}: executing \"\" at <{part}>: {}", e.what))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIE: &str = r#"{"status":"die","id":"c1","from":"busybox","Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"exitCode":"137","image":"busybox","l":"<&>\u2028","name":"web"}},"scope":"local","time":1795535605,"timeNano":1795535605311574272}"#;

    fn made(template: &str, event: &str) -> Result<String, String> {
        let template = Template::parse(template).map_err(|e| e.to_string())?;
        let mut out = Vec::new();
        template.apply(&Event::parse(event.as_bytes()).unwrap(), &mut out).map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    fn of_die(template: &str) -> String {
        made(template, DIE).unwrap_or_else(|e| panic!("{template}: {e}"))
    }

    #[test]
    fn what_people_write() {
        for (template, line) in [
            ("{{.ID}} {{.Status}} {{.From}}", "c1 die busybox"),
            ("{{.Type}} {{.Action}} {{.Actor.ID}} {{.Scope}} {{.Time}}", "container die c1 local 1795535605"),
            (r#"{{.Actor.Attributes.name}} {{index .Actor.Attributes "name"}}"#, "web web"),
            (r#"{{.Actor.Attributes.x}}|{{index .Actor.Attributes "x"}}|"#, "<no value>||"),
            ("{{upper .Type}} {{lower .ID}} {{title .Action}}", "CONTAINER c1 Die"),
            (r#"{{join (split .From "y") "-"}} {{pad .ID 1 2}}| {{truncate .Type 3}}"#, "bus-box  c1  | con"),
            (r#"{{if eq .Action "die"}}{{with .Actor.Attributes.exitCode}}{{.}}{{end}}{{else}}-{{end}}"#, "137"),
            ("{{range $k, $v := .Actor.Attributes}}{{$k}};{{end}}", "exitCode;image;l;name;"),
            (r#"a {{- " b" }} {{/* c */ -}} d"#, "a b d"),
            (r#"{{printf "%-6s|%5.1f|%q" .ID 1.25 .Type}}"#, r#"c1    |  1.2|"container""#),
            (
                "{{json .Actor}}",
                "{\"ID\":\"c1\",\"Attributes\":{\"exitCode\":\"137\",\"image\":\"busybox\",\"l\":\"<&>\\u2028\",\"name\":\"web\"}}",
            ),
            (r"a\tb", r"a\tb"),
        ] {
            assert_eq!(of_die(template), line, "{template}");
        }
    }

    #[test]
    fn the_whole_event_is_what_the_client_knows_of_it() {
        let reload = r#"{"Type":"daemon","Action":"reload","Actor":{"ID":"x"},"time":7,"new":1}"#;
        assert_eq!(made("{{.}}", reload).unwrap(), "{   daemon reload {x map[]}  7 0}");
        assert_eq!(
            made("{{json .}}", reload).unwrap(),
            r#"{"Type":"daemon","Action":"reload","Actor":{"ID":"x","Attributes":null},"time":7}"#
        );
        // Engines from API 1.52 on say nothing twice; their clients ask for what older ones did.
        let lean =
            r#"{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"busybox"}},"time":7}"#;
        assert_eq!(made("{{.Status}} {{.ID}} {{.From}}", lean).unwrap(), "die c1 busybox");
    }

    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        for (template, line) in [
            (
                "{{.Nope}}",
                "template: :1:2: executing \"\" at <.Nope>: can't evaluate field Nope in type *events.Message",
            ),
            (
                "a\n b {{.Actor.ID.x}}",
                "template: :2:11: executing \"\" at <.Actor.ID.x>: can't evaluate field x in type string",
            ),
            ("{{nope}}", "template: :1: function \"nope\" not defined"),
            ("\n{{if .ID}}", "template: :2: unexpected EOF"),
            ("{{.ID", "template: :1: unclosed action"),
            ("{{upper 5}}", "template: :1:8: executing \"\" at <5>: expected string; found 5"),
            (
                "{{upper .Actor.Attributes.name}}",
                "template: :1:14: executing \"\" at <.Actor.Attributes.name>: invalid value; expected string",
            ),
        ] {
            assert_eq!(made(template, DIE), Err(line.into()), "{template}");
        }
    }

    #[test]
    fn what_would_never_end_ends() {
        for template in [
            "{{range 9223372036854775807}}{{end}}".to_owned(),
            r#"{{define "a"}}{{template "a"}}{{end}}{{template "a"}}"#.into(),
            r#"{{pad "a" 9223372036854775807 0}}"#.into(),
            format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000)),
            "{{if 1}}".repeat(100_000),
        ] {
            assert!(Template::parse(&template).is_err(), "{}", &template[..30]);
        }
        // A thousand widths make a gigabyte, and no more than one of them is made.
        assert!(made(r#"{{printf "%999999999d" 1}}"#, DIE).unwrap().starts_with("%!"));
    }

    /// Pieces of templates, put together at random.
    fn almost_a_template() -> impl Strategy<Value = String> {
        let pieces = "{{ }} {{- -}} /* */ . .ID .Actor .Attributes .name $ $x := = , | ( ) if else end range with define template \
                      block break continue \"a\" \"%5d|%-q|%[2]*x|%.3s\" `r` 'c' 'é 1 -2 0x1f 1.5e3 9223372036854775807 true nil printf print \
                      index len eq lt and or not slice split join pad truncate title upper json html js urlquery é \\ \" ' \n %"
            .split(' ')
            .collect::<Vec<_>>();
        let piece = proptest::sample::select(pieces);
        proptest::collection::vec((piece, proptest::bool::ANY), 0..24).prop_map(|pieces| {
            pieces.into_iter().map(|(piece, space)| format!("{piece}{}", if space { " " } else { "" })).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 8192, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_it_panic(text in almost_a_template(), inside: bool) {
            let text = if inside { format!("{{{{{text}}}}}") } else { text };
            let _ = made(&text, DIE);
        }
    }
}
