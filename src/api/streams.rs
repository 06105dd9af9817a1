//! How many streams may be open: each holds a snapshot, and with it tables that the card could be rid of.
//!
//! Invariant: a permit that was given is counted until it is dropped, whatever ends its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::http::Problem;

/// The count of open streams.
#[derive(Default)]
pub struct Streams(Arc<AtomicUsize>);

/// The right to one stream; dropped with it.
#[derive(Debug)]
pub struct StreamPermit(Arc<AtomicUsize>);

impl Streams {
    /// Asks for one more stream. 503 `OVERLOADED` if `streams_max` are open.
    pub fn enter(&self, streams_max: usize) -> Result<StreamPermit, Problem> {
        // The permit counts from here, so that whoever is refused gives its place back by the same way.
        let permit = StreamPermit(self.0.clone());
        if self.0.fetch_add(1, Ordering::Relaxed) < streams_max {
            return Ok(permit);
        }
        let message = format!("{streams_max} streams are open, and no more are allowed; try again when one has ended");
        Err(Problem::new(503, "OVERLOADED", message).field("Retry-After", "5"))
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stream_too_many_is_refused_and_costs_no_place() {
        let streams = Streams::default();
        let first = streams.enter(2).unwrap();
        let second = streams.enter(2).unwrap();
        for _ in 0..3 {
            assert_eq!(streams.enter(2).unwrap_err().code, "OVERLOADED");
        }
        drop(first);
        let third = streams.enter(2).unwrap();
        assert_eq!(streams.open(), 2);
        drop((second, third));
        assert_eq!(streams.open(), 0);
    }
}
