//! What really happened: which events an engine made, and which of them a recorder could have.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So long a recorder must have lived on for what it was given to count as given. A recorder killed sooner can only have
/// it from the engine's memory.
const STORED_WITHIN: Duration = Duration::from_secs(1);

/// One event that was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// The name of the engine that made it.
    pub engine: String,
    pub time_nano: i64,
    /// When it last went down a recorder's connection, whole.
    given: Option<Instant>,
}

impl Made {
    pub(crate) fn is_obtainable(&self) -> bool {
        self.given.is_some()
    }
}

/// The truth of an engine's whole life, of all its restarts and names.
#[derive(Clone, Default)]
pub(crate) struct Truth {
    pub made: Vec<Made>,
    numbers: HashMap<u64, usize>,
    /// Lines that are no event and went down a connection.
    pub junk: Vec<Vec<u8>>,
    /// Events that were going down a connection when it was cut: part of one may have arrived.
    pub torn: Vec<Arc<str>>,
    /// How many events were skipped for a subscriber that was too slow.
    pub skipped: usize,
    /// Rises with every recorder that died.
    life: u64,
}

impl Truth {
    /// An event is made; its number.
    pub(crate) fn makes(&mut self, engine: &str, line: &str) -> usize {
        let number = self.made.len();
        self.made.push(Made { engine: engine.into(), time_nano: time_nano(line), given: None });
        self.numbers.insert(digest(line.as_bytes()), number);
        number
    }

    /// Which event these bytes are.
    pub(crate) fn number(&self, line: &[u8]) -> Option<usize> {
        self.numbers.get(&digest(line)).copied()
    }

    /// The life of the recorder that is being talked to now.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// These have gone down a connection of a recorder that lives this life.
    pub(crate) fn gives(&mut self, numbers: impl IntoIterator<Item = usize>, life: u64) {
        if life == self.life {
            let now = Instant::now();
            numbers.into_iter().for_each(|number| self.made[number].given = Some(now));
        }
    }

    /// The recorder was killed: what it was given last it need not have stored.
    pub(crate) fn recorder_died(&mut self) {
        self.life += 1;
        let now = Instant::now();
        for made in &mut self.made {
            made.given = made.given.filter(|given| now.duration_since(*given) > STORED_WITHIN);
        }
    }

    /// What was made from this number on counts as not given, unless it is given again.
    pub(crate) fn takes_back_from(&mut self, number: usize) {
        self.made[number..].iter_mut().for_each(|made| made.given = None);
    }
}

fn digest(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

/// The instant that stands last in a line; made without the parser that is tested.
fn time_nano(line: &str) -> i64 {
    let Some((_, after)) = line.rsplit_once("\"timeNano\":") else { return 0 };
    let digits: String = after.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
    digits.parse().unwrap_or(0)
}
