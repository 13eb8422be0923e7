//! `demo` does the real thing.

use crate::support::command::Folder;
use crate::support::fixture;

#[test]
fn the_demo_shows_what_its_recording_holds() {
    let folder = Folder::new();
    let ran = folder.run(&["demo"]).exited(0);
    let printed = ran.lines();
    let started: Vec<String> = fixture::lines("docker-28.5.2.ndjson")
        .into_iter()
        .filter(|line| line.contains(r#""Type":"container","Action":"start""#))
        .collect();
    let at = printed.iter().position(|line| line == "$ events query --type container --action start").unwrap();
    assert_eq!(printed[at + 1..at + 1 + started.len()], started);
    assert!(printed.iter().any(|line| line.contains("(248 events, ")), "{}", ran.report());
    assert!(!crate::support::command::exists(&folder.db()), "the demo has a store of its own");
}
