//! Breaks streams on purpose, to test clients. The same seed gives the same streams.

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use hyper::body::Bytes;

/// One way to break a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// `cut@N`: the connection ends in the middle of the event after event N. Occurs once.
    Cut(usize),
    /// `stall@N:S`: nothing is sent for S seconds after event N. Occurs once.
    Stall(usize, Duration),
    /// `garbage@N`: a line that is not an event follows event N. Occurs once.
    Garbage(usize),
    /// `restart@N`: the connection ends after event N, and the first N events are lost. Occurs once.
    Restart(usize),
    /// `split`: events arrive in pieces, each a chunk. Occurs always.
    Split,
}

/// A text that is not a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid fault '{0}': write cut@N, stall@N:SECONDS, garbage@N, restart@N or split")]
pub struct ParseFaultError(String);

impl FromStr for FaultKind {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        let parse = || {
            if text == "split" {
                return Some(FaultKind::Split);
            }
            let (name, position) = text.split_once('@')?;
            Some(match name {
                "cut" => FaultKind::Cut(position.parse().ok()?),
                "garbage" => FaultKind::Garbage(position.parse().ok()?),
                "restart" => FaultKind::Restart(position.parse().ok()?),
                "stall" => {
                    let (position, seconds) = position.split_once(':')?;
                    let stall = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
                    FaultKind::Stall(position.parse().ok()?, stall)
                }
                _ => return None,
            })
        };
        parse().ok_or_else(|| ParseFaultError(text.into()))
    }
}

/// Faults of an engine, shared by clones. The default has none.
#[derive(Clone, Debug, Default)]
pub struct Faults(Option<Arc<Mutex<SharedFaults>>>);

#[derive(Debug)]
struct SharedFaults {
    kinds: Vec<FaultKind>,
    rng: Rng,
    /// Number of events that restarts discarded.
    discarded: usize,
}

impl Faults {
    /// Returns faults whose random part depends only on the seed.
    pub fn new(kinds: Vec<FaultKind>, seed: u64) -> Faults {
        if kinds.is_empty() {
            return Faults(None);
        }
        Faults(Some(Arc::new(Mutex::new(SharedFaults { kinds, rng: Rng::with_seed(seed), discarded: 0 }))))
    }

    /// Returns the faults of a new stream, or `None` without faults.
    pub(super) fn begin_stream(&self) -> Option<StreamFaults> {
        let shared = self.0.clone()?;
        let discarded = lock(&shared).discarded;
        Some(StreamFaults { shared, discarded, sent: 0 })
    }
}

fn lock(shared: &Mutex<SharedFaults>) -> std::sync::MutexGuard<'_, SharedFaults> {
    shared.lock().expect("no holder of this lock panics")
}

/// Faults of one stream.
#[derive(Debug)]
pub(super) struct StreamFaults {
    shared: Arc<Mutex<SharedFaults>>,
    /// Number of events that were discarded before the stream began.
    pub(super) discarded: usize,
    /// Number of events sent.
    sent: usize,
}

/// One action on a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamAction {
    /// Send these bytes as one chunk.
    Send(Bytes),
    /// Send nothing for this time.
    Wait(Duration),
    /// Cut the connection.
    Cut,
}

impl StreamFaults {
    /// Returns the actions for the next event.
    pub(super) fn apply(&mut self, chunk: Bytes) -> Vec<StreamAction> {
        let mut shared = lock(&self.shared);
        let mut actions = Vec::new();
        let mut split = false;
        let mut cut = false;
        let sent = self.sent;
        let mut restarted = false;
        shared.kinds.retain(|kind| match kind {
            FaultKind::Split => {
                split = true;
                true
            }
            FaultKind::Stall(at, stall) if *at == sent => {
                actions.push(StreamAction::Wait(*stall));
                false
            }
            FaultKind::Garbage(at) if *at == sent => {
                actions.push(StreamAction::Send(Bytes::from_static(b"{\"this is\": no event\n")));
                false
            }
            FaultKind::Cut(at) if *at == sent && !cut => {
                cut = true;
                false
            }
            FaultKind::Restart(at) if *at == sent && !cut => {
                (cut, restarted) = (true, true);
                false
            }
            _ => true,
        });
        if restarted {
            shared.discarded = self.discarded + sent;
        }
        if cut {
            let prefix_len = shared.rng.usize(1..chunk.len().max(2)).min(chunk.len());
            actions.push(StreamAction::Send(chunk.slice(..prefix_len)));
            actions.push(StreamAction::Cut);
            return actions;
        }
        self.sent += 1;
        if !split {
            actions.push(StreamAction::Send(chunk));
            return actions;
        }
        let mut rest = chunk;
        while rest.len() > 1 && shared.rng.bool() {
            actions.push(StreamAction::Send(rest.split_to(shared.rng.usize(1..rest.len()))));
        }
        actions.push(StreamAction::Send(rest));
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_bytes(actions: &[StreamAction]) -> Vec<u8> {
        actions
            .iter()
            .flat_map(|action| if let StreamAction::Send(bytes) = action { bytes.to_vec() } else { Vec::new() })
            .collect()
    }

    #[test]
    fn fault_specs_are_parsed() {
        assert_eq!("cut@3".parse(), Ok(FaultKind::Cut(3)));
        assert_eq!("stall@1:0.5".parse(), Ok(FaultKind::Stall(1, Duration::from_millis(500))));
        assert_eq!("split".parse(), Ok(FaultKind::Split));
        for invalid in ["", "cut", "cut@", "cut@x", "stall@1", "stall@1:-1", "split@1", "Cut@1"] {
            assert!(invalid.parse::<FaultKind>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_stream_is_cut_once_in_the_middle_of_an_event() {
        let faults = Faults::new(vec![FaultKind::Cut(1)], 7);
        let mut stream = faults.begin_stream().unwrap();
        assert_eq!(stream.apply("one\n".into()), [StreamAction::Send("one\n".into())]);
        let actions = stream.apply("two\n".into());
        assert_eq!(actions.last(), Some(&StreamAction::Cut));
        assert!(
            !sent_bytes(&actions).is_empty()
                && sent_bytes(&actions).len() < 4
                && b"two\n".starts_with(&sent_bytes(&actions))
        );
        let mut stream = faults.begin_stream().unwrap();
        assert_eq!(stream.apply("one\n".into()), [StreamAction::Send("one\n".into())]);
        assert_eq!(stream.apply("two\n".into()), [StreamAction::Send("two\n".into())]);
    }

    #[test]
    fn split_pieces_add_up_and_depend_only_on_the_seed() {
        let pieces = |seed| {
            let mut stream = Faults::new(vec![FaultKind::Split], seed).begin_stream().unwrap();
            (0..50).flat_map(|n| stream.apply(format!("event {n}\n").into())).collect::<Vec<_>>()
        };
        let input: String = (0..50).map(|n| format!("event {n}\n")).collect();
        assert_eq!(sent_bytes(&pieces(1)), input.as_bytes());
        assert!(pieces(1).len() > 60);
        assert_eq!(pieces(1), pieces(1));
        assert_ne!(pieces(1), pieces(2));
    }

    #[test]
    fn a_restart_discards_earlier_events() {
        let faults = Faults::new(vec![FaultKind::Restart(2)], 0);
        let mut stream = faults.begin_stream().unwrap();
        for n in 0..3 {
            stream.apply(format!("{n}\n").into());
        }
        assert_eq!(faults.begin_stream().unwrap().discarded, 2);
    }
}
