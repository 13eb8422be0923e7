//! Recognizes the three events of a command in a container: `exec_create: COMMAND`, `exec_start: COMMAND`, `exec_die`.
//!
//! Health checks and commands of users send the same events; only the command distinguishes them. The `exec_die` event
//! does not contain the command. The attribute `execID` links it to the other two.

use super::Event;

/// Action of the event for the end of a command.
pub const EXEC_DIE: &str = "exec_die";

/// Returns the command in an action: `/bin/sh -c id` for `exec_create: /bin/sh -c id`.
pub fn exec_command(action: &str) -> Option<&str> {
    action.strip_prefix("exec_create: ").or_else(|| action.strip_prefix("exec_start: "))
}

/// One of the three events of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecEvent<'e> {
    /// Position among the three events: 0, 1 or 2.
    pub step: u8,
    /// Attribute `execID`, which all three events share.
    pub id: &'e str,
    /// The command; `None` for `exec_die`.
    pub command: Option<&'e str>,
}

impl Event<'_> {
    /// Returns the exec details if this is one of the three events of a command in a container.
    pub fn exec_event(&self) -> Option<ExecEvent<'_>> {
        if self.kind != "container" || !self.action.starts_with("exec_") {
            return None;
        }
        let command = exec_command(&self.action);
        let step = match command {
            Some(_) if self.action.starts_with("exec_create") => 0,
            Some(_) => 1,
            None if self.action == EXEC_DIE => 2,
            None => return None,
        };
        Some(ExecEvent { step, id: self.attribute("execID")?, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_events_yield_step_id_and_command() {
        let exec = |kind: &str, action: &str| {
            let json = format!(
                r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"c1","Attributes":{{"execID":"e1"}}}},"time":1}}"#
            );
            let event = Event::parse(json.as_bytes()).unwrap();
            event.exec_event().map(|exec| (exec.step, exec.id.to_owned(), exec.command.map(str::to_owned)))
        };
        assert_eq!(exec("container", "exec_create: sh -c id: x"), Some((0, "e1".into(), Some("sh -c id: x".into()))));
        assert_eq!(exec("container", "exec_start: sh "), Some((1, "e1".into(), Some("sh ".into()))));
        assert_eq!(exec("container", "exec_die"), Some((2, "e1".into(), None)));
        for (kind, action) in [("image", "exec_die"), ("container", "exec_detach"), ("container", "die")] {
            assert_eq!(exec(kind, action), None, "{action}");
        }
    }
}
