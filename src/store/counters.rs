//! What a recorder has stored since it began, counted for those who watch it. A bounded number of figures, whatever
//! engines say.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use super::{Reason, SourceRow};
use crate::event::Event;

/// How many sources are told apart; a recorder has a few.
const SOURCES: usize = 64;

/// How many kinds of event are told apart of a source; engines have some eighty.
const KINDS: usize = 128;

/// The longest type or action that is told apart, in bytes.
const LONGEST: usize = 64;

/// What all else is called.
const OTHER: &str = "other";

/// A type, and an action without what follows its colon.
pub type Kind = (String, String);

/// The figures of all sources, by their names.
#[derive(Debug, Default)]
pub struct Counters {
    sources: Mutex<BTreeMap<String, Counted>>,
}

/// The figures of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The engine's own ID.
    pub engine_id: Option<String>,
    /// Events stored, by kind.
    pub stored: BTreeMap<Kind, u64>,
    /// Events that came and were stored already.
    pub known: u64,
    /// Events stored that the engine's stream had left out.
    pub healed: u64,
    /// Events of health checks that were not stored, as was wanted.
    pub left_out: u64,
    /// Lines that were no event.
    pub rejected: u64,
    /// Gaps that have become known, by reason. While an engine is away it is not known yet whether there is one.
    pub gaps: BTreeMap<&'static str, u64>,
    /// The instant of the latest event stored, in nanoseconds since the epoch.
    pub last_nano: Option<i64>,
}

impl Counted {
    /// How many events were stored.
    pub fn events(&self) -> u64 {
        self.stored.values().sum()
    }
}

impl Counters {
    /// What is known of a source before anything came.
    pub fn begin(&self, row: &SourceRow) {
        let mut sources = self.sources();
        let source = of(&mut sources, &row.name);
        source.engine_id.clone_from(&row.engine_id);
        source.last_nano = source.last_nano.max(row.last_nano);
    }

    /// All figures as they are.
    pub fn read(&self) -> BTreeMap<String, Counted> {
        self.sources().clone()
    }

    /// What one commit has stored.
    pub(super) fn add(&self, commit: Commit) {
        let mut sources = self.sources();
        for part in commit.sources.into_values() {
            let source = of(&mut sources, &part.name);
            source.engine_id = part.engine_id.or(source.engine_id.take());
            source.known += part.known;
            source.healed += part.healed;
            source.left_out += part.left_out;
            source.rejected += part.rejected;
            source.last_nano = source.last_nano.max(part.last_nano);
            for reason in part.gaps {
                *source.gaps.entry(reason.as_str()).or_default() += 1;
            }
            for (kind, number) in part.kinds.into_values() {
                let room = source.stored.len() < KINDS;
                let kind = if room || source.stored.contains_key(&kind) { kind } else { (OTHER.into(), OTHER.into()) };
                *source.stored.entry(kind).or_default() += number;
            }
        }
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<String, Counted>> {
        self.sources.lock().expect("no holder of this lock panics")
    }
}

/// The figures of a source; of one too many, those of all others.
fn of<'a>(sources: &'a mut BTreeMap<String, Counted>, name: &str) -> &'a mut Counted {
    let name = if sources.len() < SOURCES || sources.contains_key(name) { name } else { OTHER };
    sources.entry(name.into()).or_default()
}

/// What one commit stores, by the rows of the sources.
#[derive(Debug, Default)]
pub(super) struct Commit {
    sources: HashMap<i64, Part>,
}

/// What one commit stores of one source.
#[derive(Debug)]
pub(super) struct Part {
    name: String,
    engine_id: Option<String>,
    /// By shape, which is cheap to tell apart.
    kinds: HashMap<i64, (Kind, u64)>,
    pub(super) known: u64,
    pub(super) healed: u64,
    pub(super) left_out: u64,
    pub(super) rejected: u64,
    gaps: Vec<Reason>,
    last_nano: Option<i64>,
}

impl Commit {
    /// The part of a source.
    pub(super) fn of(&mut self, id: i64, name: &str, engine_id: Option<&str>) -> &mut Part {
        self.sources.entry(id).or_insert_with(|| Part {
            name: name.into(),
            engine_id: engine_id.map(Into::into),
            kinds: HashMap::new(),
            known: 0,
            healed: 0,
            left_out: 0,
            rejected: 0,
            gaps: Vec::new(),
            last_nano: None,
        })
    }
}

impl Part {
    /// An event of this shape.
    pub(super) fn stores(&mut self, shape: i64, event: &Event<'_>) {
        self.kinds.entry(shape).or_insert_with(|| (kind(event), 0)).1 += 1;
        self.last_nano = self.last_nano.max(Some(event.time_nano));
    }

    /// A gap that was not known before, or for another reason.
    pub(super) fn blind(&mut self, reason: Reason) {
        if reason != Reason::Disconnected {
            self.gaps.push(reason);
        }
    }
}

fn kind(event: &Event<'_>) -> Kind {
    let action = event.action.split_once(':').map_or(&*event.action, |(action, _)| action);
    if event.kind.len() > LONGEST || action.len() > LONGEST {
        return (OTHER.into(), OTHER.into());
    }
    (event.kind.to_string(), action.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(counters: &Counters, source: i64, kinds: impl Iterator<Item = (String, String)>) {
        let mut commit = Commit::default();
        for (shape, (kind, action)) in kinds.enumerate() {
            let line = format!(r#"{{"Type":"{kind}","Action":"{action}","Actor":{{"ID":"a"}},"timeNano":{shape}}}"#);
            let event = Event::parse(line.as_bytes()).unwrap();
            commit.of(source, &format!("s{source}"), None).stores(shape as i64, &event);
        }
        counters.add(commit);
    }

    #[test]
    fn what_follows_the_colon_of_an_action_is_not_told_apart() {
        let counters = Counters::default();
        let of = |action: &str| ("container".to_owned(), action.to_owned());
        stores(&counters, 1, [of("exec_start: ls"), of("exec_start: id"), of("start")].into_iter());
        let counted = &counters.read()["s1"];
        assert_eq!(counted.stored, BTreeMap::from([(of("exec_start"), 2), (of("start"), 1)]));
        assert_eq!(counted.last_nano, Some(2));
    }

    #[test]
    fn a_stranger_who_says_ever_new_things_makes_no_more_figures() {
        let counters = Counters::default();
        stores(&counters, 0, (0..1000).map(|n| ("t".into(), format!("a{n}"))));
        stores(&counters, 0, std::iter::once(("t".repeat(65), "a".into())));
        for source in 1..100 {
            stores(&counters, source, std::iter::once(("t".into(), "a".into())));
        }
        let all = counters.read();
        assert_eq!(all.len(), SOURCES + 1);
        assert_eq!(all["s0"].stored.len(), KINDS + 1);
        assert_eq!((all["s0"].events(), all["s0"].stored[&(OTHER.into(), OTHER.into())]), (1001, 1001 - 128));
        assert_eq!(all[OTHER].events(), 100 - SOURCES as u64);
    }
}
