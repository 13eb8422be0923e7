//! Templates and their output for an event: no text causes a panic, an endless loop or endless output.

use events::event::Event;
use events::output::Template;

const EVENT: &str = r#"{"status":"die","id":"c1","from":"busybox","Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"exitCode":"1","image":"busybox","name":"w\u00e9b\u0007"}},"scope":"local","time":1795535605,"timeNano":1795535605311574272}"#;

pub(crate) fn check(input: &[u8]) {
    let text = &*String::from_utf8_lossy(input);
    let event = Event::parse(EVENT.as_bytes()).expect("the line is an event");
    match Template::parse(text) {
        Ok(template) => {
            let (mut once, mut again) = (Vec::new(), Vec::new());
            let result = template.apply(&event, &mut once);
            assert_eq!((template.apply(&event, &mut again), &again), (result, &once), "{text}");
            // A text without actions is printed unchanged.
            assert!(text.contains("{{") || once == text.as_bytes(), "{text}");
        }
        Err(e) => {
            assert!(text.contains("{{"), "{text}");
            assert!(e.to_string().starts_with("template: :"), "{e}");
        }
    }
}
