//! The three events of a command that is run in a container: `exec_create: COMMAND`, `exec_start: COMMAND`, `exec_die`.
//!
//! An engine runs a health check as it runs what a person gives it, and nothing in the events tells the two apart but the
//! command. The last event does not repeat it: the attribute `execID` ties it to the others.

use super::Event;

/// The action of the event that a command has ended.
pub const EXEC_DIE: &str = "exec_die";

/// The command that an action of a container repeats: `/bin/sh -c id` of `exec_create: /bin/sh -c id`.
pub fn exec_command(action: &str) -> Option<&str> {
    action.strip_prefix("exec_create: ").or_else(|| action.strip_prefix("exec_start: "))
}

/// One of the three events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exec<'e> {
    /// Which of them: 0, 1, 2.
    pub step: u8,
    /// The attribute `execID`, which all three share.
    pub id: &'e str,
    /// The command; the last event has none.
    pub command: Option<&'e str>,
}

impl Event<'_> {
    /// What it tells of a command run in a container, if that is what it tells of.
    pub fn exec(&self) -> Option<Exec<'_>> {
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
        Some(Exec { step, id: self.attribute("execID")?, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_events_of_a_command() {
        let exec = |kind: &str, action: &str| {
            let json = format!(
                r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"c1","Attributes":{{"execID":"e1"}}}},"time":1}}"#
            );
            let event = Event::parse(json.as_bytes()).unwrap();
            event.exec().map(|exec| (exec.step, exec.id.to_owned(), exec.command.map(str::to_owned)))
        };
        assert_eq!(exec("container", "exec_create: sh -c id: x"), Some((0, "e1".into(), Some("sh -c id: x".into()))));
        assert_eq!(exec("container", "exec_start: sh "), Some((1, "e1".into(), Some("sh ".into()))));
        assert_eq!(exec("container", "exec_die"), Some((2, "e1".into(), None)));
        for (kind, action) in [("image", "exec_die"), ("container", "exec_detach"), ("container", "die")] {
            assert_eq!(exec(kind, action), None, "{action}");
        }
    }
}
