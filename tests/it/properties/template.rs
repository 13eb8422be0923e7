//! Templates, and what they make of an event: no text makes the program panic, run on, or print without end.

use events::event::Event;
use events::output::Template;

const EVENT: &str = r#"{"status":"die","id":"c1","from":"busybox","Type":"container","Action":"die","Actor":{"ID":"c1","Attributes":{"exitCode":"1","image":"busybox","name":"w\u00e9b\u0007"}},"scope":"local","time":1795535605,"timeNano":1795535605311574272}"#;

pub(crate) fn check(input: &[u8]) {
    let text = &*String::from_utf8_lossy(input);
    let event = Event::parse(EVENT.as_bytes()).expect("it is an event");
    match Template::parse(text) {
        Ok(template) => {
            let (mut once, mut again) = (Vec::new(), Vec::new());
            let done = template.apply(&event, &mut once);
            assert_eq!((template.apply(&event, &mut again), &again), (done, &once), "{text}");
            // A text without actions is itself.
            assert!(text.contains("{{") || once == text.as_bytes(), "{text}");
        }
        Err(e) => {
            assert!(text.contains("{{"), "{text}");
            assert!(e.to_string().starts_with("template: :"), "{e}");
        }
    }
}
