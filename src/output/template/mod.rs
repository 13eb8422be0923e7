//! Go templates as in `docker events --format`: the output is the docker client's, byte for byte.
//!
//! The modules follow Go's lexer, parser, executor and fmt package, for the one data type `events.Message`. The work
//! for one event is bounded, so a template cannot run or print without end.

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

/// A parsed template that was tried on an empty event.
#[derive(Debug)]
pub struct Template {
    text: String,
    tree: Tree,
}

/// An error of a template, with Go's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

/// The empty event that a template is tried on, as in the docker client.
const EMPTY_EVENT: &str = r#"{"Type":"","Action":"","Actor":{"ID":""},"time":0}"#;

impl Template {
    /// Parses a template and tries it on an empty event.
    ///
    /// # Errors
    /// The template is invalid, or uses a field that events do not have.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let tree = parse(text).map_err(|e| {
            let line = 1 + text[..e.offset].matches('\n').count();
            TemplateError(format!("template: :{line}: {}", e.message))
        })?;
        let template = Template { text: text.into(), tree };
        let empty_event = Event::parse(EMPTY_EVENT.as_bytes()).expect("the empty event is valid");
        template.execute(&Message { event: &empty_event, is_trial: true }, &mut Vec::new())?;
        Ok(template)
    }

    /// Executes the template for an event and appends to `out`. After an error, `out` contains the output up to it.
    ///
    /// # Errors
    /// The template fails on this event.
    pub fn apply(&self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<(), TemplateError> {
        self.execute(&Message { event, is_trial: false }, out)
    }

    fn execute(&self, message: &Message<'_>, out: &mut Vec<u8>) -> Result<(), TemplateError> {
        execute(&self.text, &self.tree, Value::Message(message), out).map_err(|e| {
            let before = &self.text[..e.span.offset];
            let line = 1 + before.matches('\n').count();
            let column = before.len() - before.rfind('\n').map_or(0, |index| index + 1);
            let part = &self.text[e.span.from..e.span.to];
            TemplateError(format!("template: :{line}:{column}: executing \"\" at <{part}>: {}", e.message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIE: &str = r#"{"status":"die","id":"c1","from":"busybox","Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"exitCode":"137","image":"busybox","l":"<&>\u2028","name":"web"}},"scope":"local","time":1795535605,"timeNano":1795535605311574272}"#;

    fn render(template: &str, event: &str) -> Result<String, String> {
        let template = Template::parse(template).map_err(|e| e.to_string())?;
        let mut out = Vec::new();
        template.apply(&Event::parse(event.as_bytes()).unwrap(), &mut out).map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    fn render_die(template: &str) -> String {
        render(template, DIE).unwrap_or_else(|e| panic!("{template}: {e}"))
    }

    #[test]
    fn common_templates_are_rendered() {
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
            assert_eq!(render_die(template), line, "{template}");
        }
    }

    #[test]
    fn the_whole_event_has_the_fields_of_the_docker_client() {
        let reload = r#"{"Type":"daemon","Action":"reload","Actor":{"ID":"x"},"time":7,"new":1}"#;
        assert_eq!(render("{{.}}", reload).unwrap(), "{   daemon reload {x map[]}  7 0}");
        assert_eq!(
            render("{{json .}}", reload).unwrap(),
            r#"{"Type":"daemon","Action":"reload","Actor":{"ID":"x","Attributes":null},"time":7}"#
        );
        // Engines omit these fields since API 1.52, unless a client requests a lower version. Templates still get them.
        let minimal =
            r#"{"Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"image":"busybox"}},"time":7}"#;
        assert_eq!(render("{{.Status}} {{.ID}} {{.From}}", minimal).unwrap(), "die c1 busybox");
    }

    #[test]
    fn errors_match_go() {
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
            assert_eq!(render(template, DIE), Err(line.into()), "{template}");
        }
    }

    #[test]
    fn unbounded_templates_are_stopped() {
        for template in [
            "{{range 9223372036854775807}}{{end}}".to_owned(),
            r#"{{define "a"}}{{template "a"}}{{end}}{{template "a"}}"#.into(),
            r#"{{pad "a" 9223372036854775807 0}}"#.into(),
            format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000)),
            "{{if 1}}".repeat(100_000),
        ] {
            assert!(Template::parse(&template).is_err(), "{}", &template[..30]);
        }
        // A width of a gigabyte is rejected.
        assert!(render(r#"{{printf "%999999999d" 1}}"#, DIE).unwrap().starts_with("%!"));
    }

    /// Random sequences of pieces of templates.
    fn template_like_text() -> impl Strategy<Value = String> {
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
        fn templates_never_panic(text in template_like_text(), inside: bool) {
            let text = if inside { format!("{{{{{text}}}}}") } else { text };
            let _ = render(&text, DIE);
        }
    }
}
