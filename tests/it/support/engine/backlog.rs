//! The backlog of an engine, and the part of it that a response contains, as in moby's `daemon/events`.

use std::collections::VecDeque;
use std::sync::Arc;

/// Maximum number of events in the backlog.
pub(super) const BACKLOG_LEN: usize = 256;

/// An emitted event.
#[derive(Clone, Debug)]
pub(super) struct NumberedEvent {
    /// Index in [`Truth::emitted`](super::Truth::emitted).
    pub number: usize,
    pub time_nano: i64,
    /// Bytes of the event, without a line ending.
    pub line: Arc<str>,
}

#[derive(Default)]
pub(super) struct Backlog {
    ring: VecDeque<NumberedEvent>,
}

impl Backlog {
    pub(super) fn push(&mut self, event: NumberedEvent) {
        if self.ring.len() == BACKLOG_LEN {
            self.ring.pop_front();
        }
        self.ring.push_back(event);
    }

    pub(super) fn clear(&mut self) {
        self.ring.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NumberedEvent> {
        self.ring.iter()
    }

    /// Events from `since` to `until`, both inclusive. As an engine, it walks back from the newest event and stops at the
    /// first one before `since`: if the clock was set back, that event hides newer ones.
    pub(super) fn between(&self, since: i64, until: Option<i64>) -> Vec<NumberedEvent> {
        let newest_first = self.ring.iter().rev().take_while(|event| event.time_nano >= since);
        let mut found: Vec<_> =
            newest_first.filter(|event| until.is_none_or(|until| event.time_nano <= until)).cloned().collect();
        found.reverse();
        found
    }
}

/// Time range of a request for `/events`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventsParams {
    /// Start of the requested part of the backlog; `None`: no part.
    pub since: Option<i64>,
    /// End of the stream; `None`: no end.
    pub until: Option<i64>,
    /// `until` if it limits the backlog too; 0 does not.
    pub backlog_until: Option<i64>,
}

impl EventsParams {
    /// Parses the parameters of a request target. The error is the status and message of a real engine.
    pub(super) fn parse(target: &str) -> Result<EventsParams, (u16, String)> {
        let value = |name: &str| {
            let pairs = target.split_once('?').map_or("", |(_, query)| query).split('&');
            let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
            (!value.is_empty()).then_some(value)
        };
        let parse_param =
            |key| value(key).map(|text| parse_timestamp(text).ok_or_else(|| parse_error(text))).transpose();
        let (since, until) = (parse_param("since")?, parse_param("until")?);
        if let (Some(from), Some(to)) = (since, until)
            && from > to
        {
            let message = format!("`since` time ({from}) cannot be after `until` time ({to})");
            return Err((400, message));
        }
        let since = if since.is_none() && until.is_some() { Some(i64::MIN) } else { since };
        Ok(EventsParams { since, until, backlog_until: until.filter(|until| *until > 0) })
    }
}

fn parse_error(text: &str) -> (u16, String) {
    (500, format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))
}

/// Parses a time as an engine does: Unix seconds, and a fraction that is padded with zeros on the right.
fn parse_timestamp(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.parse::<i64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}
