//! How many streams may be open: each holds a snapshot, and with it tables that the card could be rid of.
//!
//! Invariant: a permit that was given is counted until it is dropped, whatever ends its stream.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::http::Problem;
use crate::http::budget::Client;

/// Of all streams, one in so many is kept for who may do everything.
const ADMIN_PART: usize = 10;

/// The count of open streams.
#[derive(Default)]
pub struct Streams(Arc<Mutex<Open>>);

/// Those that are open, by who asked for them.
#[derive(Debug, Default)]
struct Open {
    total: usize,
    clients: HashMap<Client, usize>,
}

/// The right to one stream; dropped with it.
#[derive(Debug)]
pub struct StreamPermit {
    open: Arc<Mutex<Open>>,
    client: Client,
}

impl Streams {
    /// Asks for one more stream. 503 `OVERLOADED` if `streams_max` are open, or but for an admin all that are not kept for
    /// one, or half of these by the same client.
    pub fn enter(&self, streams_max: usize, client: Client, is_admin: bool) -> Result<StreamPermit, Problem> {
        let common = streams_max - if is_admin { 0 } else { streams_max.div_ceil(ADMIN_PART).min(streams_max / 2) };
        let each = if is_admin { common } else { common.div_ceil(2) };
        let mut open = self.0.lock();
        let own = open.clients.get(&client).copied().unwrap_or(0);
        if open.total < common && own < each {
            open.total += 1;
            *open.clients.entry(client).or_insert(0) += 1;
            return Ok(StreamPermit { open: Arc::clone(&self.0), client });
        }
        let total = open.total;
        drop(open);
        let message = match own < each {
            true => format!("{total} streams are open, and no more are allowed; try again when one has ended"),
            false => format!("{own} streams are open for you, and no more are allowed; try again when one has ended"),
        };
        Err(Problem::new(503, "OVERLOADED", message).field("Retry-After", "5"))
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.lock().total
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.total -= 1;
        if let Some(own) = open.clients.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                open.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stream_too_many_is_refused_and_costs_no_place() {
        let streams = Streams::default();
        let enter = || streams.enter(2, Client::NOBODY, true);
        let first = enter().unwrap();
        let second = enter().unwrap();
        for _ in 0..3 {
            assert_eq!(enter().unwrap_err().code, "OVERLOADED");
        }
        drop(first);
        let third = enter().unwrap();
        assert_eq!(streams.open(), 2);
        drop((second, third));
        assert_eq!(streams.open(), 0);
        assert!(streams.0.lock().clients.is_empty());
    }

    #[test]
    fn a_client_has_half_of_them_and_an_admin_finds_some_left() {
        let streams = Streams::default();
        let fill = |name: &str, is_admin| {
            std::iter::from_fn(|| streams.enter(100, Client::of_token(name), is_admin).ok()).collect::<Vec<_>>()
        };
        let (first, second, third) = (fill("a", false), fill("b", false), fill("c", false));
        assert_eq!((first.len(), second.len(), third.len()), (45, 45, 0));
        assert_eq!(fill("admin", true).len(), 10);
    }

    #[test]
    fn few_streams_are_shared_as_well() {
        for (streams_max, anybody, admin) in [(0, 0, 0), (1, 1, 1), (2, 1, 2), (3, 1, 3)] {
            let count = |is_admin| {
                let streams = Streams::default();
                let enter = || streams.enter(streams_max, Client::NOBODY, is_admin).ok();
                std::iter::from_fn(enter).collect::<Vec<_>>().len()
            };
            assert_eq!((count(false), count(true)), (anybody, admin), "{streams_max}");
        }
    }
}
