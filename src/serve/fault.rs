//! Streams broken on purpose, the same way each time: for the tests of whoever listens.

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use hyper::body::Bytes;

/// One way to break a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// `cut@N`: after N events the connection ends in the middle of the next one. Once.
    Cut(usize),
    /// `stall@N:S`: after N events nothing comes for S seconds. Once.
    Stall(usize, Duration),
    /// `garbage@N`: after N events comes a line that is no event. Once.
    Garbage(usize),
    /// `restart@N`: after N events the connection is cut, and the engine has forgotten them. Once.
    Restart(usize),
    /// `split`: events come in pieces, each a chunk; always.
    Split,
}

/// A text that is no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no fault: write cut@N, stall@N:SECONDS, garbage@N, restart@N or split")]
pub struct NoFault(String);

impl FromStr for FaultKind {
    type Err = NoFault;

    fn from_str(text: &str) -> Result<Self, NoFault> {
        let read = || {
            if text == "split" {
                return Some(FaultKind::Split);
            }
            let (name, place) = text.split_once('@')?;
            Some(match name {
                "cut" => FaultKind::Cut(place.parse().ok()?),
                "garbage" => FaultKind::Garbage(place.parse().ok()?),
                "restart" => FaultKind::Restart(place.parse().ok()?),
                "stall" => {
                    let (place, seconds) = place.split_once(':')?;
                    let stall = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
                    FaultKind::Stall(place.parse().ok()?, stall)
                }
                _ => return None,
            })
        };
        read().ok_or_else(|| NoFault(text.into()))
    }
}

/// The faults of an engine; clones share them. Without any, streams are whole.
#[derive(Clone, Debug, Default)]
pub struct Faults(Option<Arc<Mutex<Pending>>>);

#[derive(Debug)]
struct Pending {
    kinds: Vec<FaultKind>,
    rng: Rng,
    /// So many events were forgotten by restarts.
    forgotten: usize,
}

impl Faults {
    /// These faults; what is random in them comes from the seed alone.
    pub fn new(kinds: Vec<FaultKind>, seed: u64) -> Faults {
        if kinds.is_empty() {
            return Faults(None);
        }
        Faults(Some(Arc::new(Mutex::new(Pending { kinds, rng: Rng::with_seed(seed), forgotten: 0 }))))
    }

    /// A stream begins.
    pub(super) fn begin(&self) -> Option<Fault> {
        let pending = self.0.clone()?;
        let forgotten = lock(&pending).forgotten;
        Some(Fault { pending, forgotten, sent: 0 })
    }
}

fn lock(pending: &Mutex<Pending>) -> std::sync::MutexGuard<'_, Pending> {
    pending.lock().expect("no holder of this lock panics")
}

/// The faults as one stream meets them.
#[derive(Debug)]
pub(super) struct Fault {
    pending: Arc<Mutex<Pending>>,
    /// So many events were forgotten when the stream began.
    pub(super) forgotten: usize,
    /// How many events were sent.
    sent: usize,
}

/// What to do to a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Send these bytes as one chunk.
    Send(Bytes),
    /// Send nothing for so long.
    Wait(Duration),
    /// Break the connection off.
    Cut,
}

impl Fault {
    /// What becomes of the next event.
    pub(super) fn on(&mut self, chunk: Bytes) -> Vec<Act> {
        let mut pending = lock(&self.pending);
        let mut acts = Vec::new();
        let mut split = false;
        let mut cut = false;
        let sent = self.sent;
        let mut restarted = false;
        pending.kinds.retain(|kind| match kind {
            FaultKind::Split => {
                split = true;
                true
            }
            FaultKind::Stall(at, stall) if *at == sent => {
                acts.push(Act::Wait(*stall));
                false
            }
            FaultKind::Garbage(at) if *at == sent => {
                acts.push(Act::Send(Bytes::from_static(b"{\"this is\": no event\n")));
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
            pending.forgotten = self.forgotten + sent;
        }
        if cut {
            let half = pending.rng.usize(1..chunk.len().max(2)).min(chunk.len());
            acts.push(Act::Send(chunk.slice(..half)));
            acts.push(Act::Cut);
            return acts;
        }
        self.sent += 1;
        if !split {
            acts.push(Act::Send(chunk));
            return acts;
        }
        let mut left = chunk;
        while left.len() > 1 && pending.rng.bool() {
            acts.push(Act::Send(left.split_to(pending.rng.usize(1..left.len()))));
        }
        acts.push(Act::Send(left));
        acts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(acts: &[Act]) -> Vec<u8> {
        acts.iter().flat_map(|act| if let Act::Send(bytes) = act { bytes.to_vec() } else { Vec::new() }).collect()
    }

    #[test]
    fn faults_are_read() {
        assert_eq!("cut@3".parse(), Ok(FaultKind::Cut(3)));
        assert_eq!("stall@1:0.5".parse(), Ok(FaultKind::Stall(1, Duration::from_millis(500))));
        assert_eq!("split".parse(), Ok(FaultKind::Split));
        for wrong in ["", "cut", "cut@", "cut@x", "stall@1", "stall@1:-1", "split@1", "Cut@1"] {
            assert!(wrong.parse::<FaultKind>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_stream_is_cut_once_and_in_the_middle_of_an_event() {
        let faults = Faults::new(vec![FaultKind::Cut(1)], 7);
        let mut stream = faults.begin().unwrap();
        assert_eq!(stream.on("one\n".into()), [Act::Send("one\n".into())]);
        let acts = stream.on("two\n".into());
        assert_eq!(acts.last(), Some(&Act::Cut));
        assert!(!bytes(&acts).is_empty() && bytes(&acts).len() < 4 && b"two\n".starts_with(&bytes(&acts)));
        let mut stream = faults.begin().unwrap();
        assert_eq!(stream.on("one\n".into()), [Act::Send("one\n".into())]);
        assert_eq!(stream.on("two\n".into()), [Act::Send("two\n".into())]);
    }

    #[test]
    fn pieces_make_the_whole_and_the_seed_makes_the_pieces() {
        let pieces = |seed| {
            let mut stream = Faults::new(vec![FaultKind::Split], seed).begin().unwrap();
            (0..50).flat_map(|n| stream.on(format!("event {n}\n").into())).collect::<Vec<_>>()
        };
        let whole: String = (0..50).map(|n| format!("event {n}\n")).collect();
        assert_eq!(bytes(&pieces(1)), whole.as_bytes());
        assert!(pieces(1).len() > 60);
        assert_eq!(pieces(1), pieces(1));
        assert_ne!(pieces(1), pieces(2));
    }

    #[test]
    fn a_restart_forgets() {
        let faults = Faults::new(vec![FaultKind::Restart(2)], 0);
        let mut stream = faults.begin().unwrap();
        for n in 0..3 {
            stream.on(format!("{n}\n").into());
        }
        assert_eq!(faults.begin().unwrap().forgotten, 2);
    }
}
