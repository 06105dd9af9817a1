//! Why streams end before their last line: said in that line where their client still takes something, counted by reason,
//! and logged.
//!
//! It ends none itself. Streams whose client left are counted too, since one that is cut on the way looks the same.

use std::time::Duration;

use crate::http::message::Asker;
use crate::http::{Cut, Problem};
use crate::log_limited;
use crate::logging::RateLimit;
use crate::metrics::{Counter, Labels, Registry};
use crate::store::StoreError;

/// Many streams can end for one reason.
static ENDED: RateLimit = RateLimit::new(10, Duration::from_secs(10));

/// Why a stream ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its view was taken away.
    Revoked,
    /// The card cannot be read.
    Store,
    /// What is read is damaged, and no way leads around it.
    Damage,
    /// larder stops.
    Drain,
    /// Its client took nothing for too long.
    Unread,
    /// Memory was short, and its client took too little.
    Memory,
    /// Its connection made way.
    Room,
    /// Its client left.
    Client,
}

const ENDINGS: [(Ending, Labels); 8] = [
    (Ending::Revoked, &[("reason", "revoked")]),
    (Ending::Store, &[("reason", "store")]),
    (Ending::Damage, &[("reason", "damage")]),
    (Ending::Drain, &[("reason", "drain")]),
    (Ending::Unread, &[("reason", "unread")]),
    (Ending::Memory, &[("reason", "memory")]),
    (Ending::Room, &[("reason", "room")]),
    (Ending::Client, &[("reason", "client")]),
];

impl Ending {
    /// The end of a stream that the store gives no more for.
    pub fn of_store(failure: &StoreError) -> Ending {
        match failure {
            StoreError::Revoked => Ending::Revoked,
            StoreError::Corrupt(_) | StoreError::Unreadable(_) => Ending::Damage,
            StoreError::Io(_) | StoreError::NoSpace | StoreError::Locked => Ending::Store,
        }
    }

    /// The end of a stream that the engine cut; `None` for one that had said why itself.
    pub fn of_cut(cut: Cut) -> Option<Ending> {
        match cut {
            Cut::Client => Some(Ending::Client),
            Cut::Unread => Some(Ending::Unread),
            Cut::Memory => Some(Ending::Memory),
            Cut::Room => Some(Ending::Room),
            Cut::Drain => Some(Ending::Drain),
            Cut::Body => None,
        }
    }

    /// The last line of a stream that ends so.
    pub fn problem(self) -> Problem {
        let (status, code, message) = match self {
            Ending::Revoked => (
                503,
                "OVERLOADED",
                "the stream was cut: too much was written while it showed one moment of the store; take it faster, or in parts",
            ),
            Ending::Damage => (500, "INTERNAL", "the stream was cut: the store is damaged here; the log says more"),
            Ending::Drain => (503, "DRAINING", "the stream was cut: larder is stopping; ask again after its restart"),
            Ending::Store => {
                (503, "STORE_UNAVAILABLE", "the stream was cut: the store could not be read; /health says why")
            }
            // Its client takes nothing more.
            Ending::Unread | Ending::Memory | Ending::Room | Ending::Client => {
                (503, "OVERLOADED", "the stream was cut: too little was taken of it")
            }
        };
        Problem::new(status, code, message)
    }

    fn words(self) -> &'static str {
        match self {
            Ending::Revoked => "its view was revoked, since too much was written meanwhile",
            Ending::Store => "the store could not be read",
            Ending::Damage => "the store is damaged there",
            Ending::Drain => "larder stops",
            Ending::Unread => "its client took nothing for too long",
            Ending::Memory => "memory was short and its client took too little",
            Ending::Room => "its connection made way for another",
            Ending::Client => "its client left",
        }
    }
}

/// Counts them.
#[derive(Clone)]
pub struct Endings([Counter; ENDINGS.len()]);

impl Endings {
    /// Registers the figures.
    pub fn new(registry: &Registry) -> Endings {
        let help = "Streams that ended before their last line, by reason.";
        Endings(ENDINGS.map(|(_, labels)| registry.counter("larder_streams_cut_total", help, labels)))
    }

    /// Counts and logs one.
    pub fn note(&self, ending: Ending, route: &str, asker: Asker) {
        if let Some(at) = ENDINGS.iter().position(|(known, _)| *known == ending) {
            self.0[at].inc();
        }
        let level = if ending == Ending::Client { log::Level::Info } else { log::Level::Warn };
        log_limited!(ENDED, level, "a stream of {route} to {asker} was cut: {}", ending.words());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Peer;

    #[test]
    fn each_reason_has_a_figure_and_what_is_said_of_it_fits_a_line() {
        let registry = Registry::default();
        let endings = Endings::new(&registry);
        for (at, (ending, _)) in ENDINGS.into_iter().enumerate() {
            endings.note(ending, "/api/v1/export", Asker { peer: Peer::Unix, forwarded: None });
            assert_eq!(endings.0[at].get(), 1, "{ending:?}");
            let line = String::from_utf8(ending.problem().render(None)).unwrap();
            assert!(line.starts_with("{\"status\":") && line.contains("the stream was cut") && !line.contains('\n'));
        }
    }
}
