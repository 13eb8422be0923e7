//! What an engine remembers, and which of it an answer holds: as moby's `daemon/events` does it.

use std::collections::VecDeque;
use std::sync::Arc;

/// How many events an engine remembers.
pub(super) const MEMORY: usize = 256;

/// One event that happened.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    /// Its number in the truth.
    pub number: usize,
    pub time_nano: i64,
    /// Its bytes, without a line's end.
    pub line: Arc<str>,
}

#[derive(Default)]
pub(super) struct Memory {
    ring: VecDeque<Happened>,
}

impl Memory {
    pub(super) fn push(&mut self, event: Happened) {
        if self.ring.len() == MEMORY {
            self.ring.pop_front();
        }
        self.ring.push_back(event);
    }

    pub(super) fn forget(&mut self) {
        self.ring.clear();
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Happened> {
        self.ring.iter()
    }

    /// The events from one instant to another, both included. The engine walks back from the newest and stops at the
    /// first that is older than asked for: where the clock stepped back, newer ones hide behind it.
    pub(super) fn between(&self, since: i64, until: Option<i64>) -> Vec<Happened> {
        let walked = self.ring.iter().rev().take_while(|event| event.time_nano >= since);
        let mut found: Vec<_> =
            walked.filter(|event| until.is_none_or(|until| event.time_nano <= until)).cloned().collect();
        found.reverse();
        found
    }
}

/// Which part of its memory an engine is asked for, and whether it goes on then.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// From which instant on; `None`: nothing of the memory.
    pub since: Option<i64>,
    /// Up to which; `None`: without an end.
    pub until: Option<i64>,
    /// `until` is set and bounds the memory too; 0 does not.
    pub bounded: Option<i64>,
}

impl Asked {
    /// What the parameters of a target ask for; the engine's own message if they are wrong.
    pub(super) fn read(target: &str) -> Result<Asked, (u16, String)> {
        let value = |wanted: &str| {
            let pairs = target.split_once('?').map_or("", |(_, query)| query).split('&');
            let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == wanted)?.1;
            (!value.is_empty()).then_some(value)
        };
        let read = |key| value(key).map(|text| instant(text).ok_or_else(|| bad(text))).transpose();
        let (since, until) = (read("since")?, read("until")?);
        if let (Some(from), Some(to)) = (since, until)
            && from > to
        {
            let message = format!("`since` time ({from}) cannot be after `until` time ({to})");
            return Err((400, message));
        }
        let since = if since.is_none() && until.is_some() { Some(i64::MIN) } else { since };
        Ok(Asked { since, until, bounded: until.filter(|until| *until > 0) })
    }
}

fn bad(text: &str) -> (u16, String) {
    (500, format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
}

/// An instant as the engine reads it: unix seconds, a fraction filled up on the right.
fn instant(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.parse::<i64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}
