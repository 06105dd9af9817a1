//! DELETE of a collection, or of the keys with a prefix: in steps, each a request of its own to the committer, so that
//! others' writes go between them.
//!
//! It is not atomic: keys written behind the place it has reached stay. An answer with `"complete": false` says that the
//! time of the request was over first; the same request again goes on. Damaged records go with the others. Keys that the
//! damage hides cannot be removed, as nobody can name them: `"unreadable": n` counts the stretches in which there may be
//! some.
//!
//! Of one token in one namespace one is under way at a time, see [`super::super::chores`].
//!
//! Invariant: at most one step is under way, and it holds at most 100 operations, for which about 1 MiB was read.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;

use crate::http::budget::Client;
use crate::http::query::Query;
use crate::http::{Body, DrainSignal, Problem, Request, Responder, Response, Written};
use crate::limits::{CHUNK_OPERATIONS, GROUP_BYTES_MAX};
use crate::store::bounds::KeyRange;
use crate::store::{
    Action, Database, Durability, OpOutcome, Precondition, Preread, Promise, StoreError, WriteError, WriteOp,
    WriteOutcome, WriteRequest,
};

use super::super::chores::{Refused, Step as Progress, WAITING_MAX, Whose};
use super::super::damage::{self, Found};
use super::super::kv::write::promised;
use super::super::listing::{ListQuery, walk};
use super::super::{Api, error};

/// How long a step waits before it is tried again while the committer's queue is full.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Removes a collection's records, on the thread for chores.
pub fn remove(api: &Api, db: &Arc<Database>, request: &Request, mut responder: Responder, parameters: [&str; 3]) {
    let ready_at = responder.trace().ready_at;
    let timeout = api.limits.get().request_timeout;
    let (range, durability) = match parse(api, request, parameters) {
        Ok(asked) => asked,
        Err(problem) => return responder.send(problem.into()),
    };
    let whose = Whose { client: client_of(request, &mut responder), namespace: parameters[0].to_owned() };
    let mut removal = Removal {
        db: db.clone(),
        drain: api.drain.clone(),
        range,
        durability,
        // A third of the time is left for the last step and the answer.
        stop_at: ready_at + timeout * 2 / 3,
        give_up_at: ready_at + timeout,
        deleted: 0,
        unreadable: 0,
        done: Promise::Synced,
    };
    // A job that the queue does not take is dropped there: whoever comes first takes the responder out of the cell.
    let cell = Arc::new(Mutex::new(Some(responder)));
    let inside = cell.clone();
    let job = Box::new(move || {
        let Some(response) = removal.advance() else { return Progress::More };
        if let Some(responder) = inside.lock().take() {
            responder.send(response);
        }
        Progress::Done
    });
    if let Err(refused) = api.chores.submit(&whose, timeout, job)
        && let Some(responder) = cell.lock().take()
    {
        responder.send(too_many(refused).into());
    }
}

/// On whose behalf it is done.
fn client_of(request: &Request, responder: &mut Responder) -> Client {
    responder.trace().client.unwrap_or_else(|| Client::of_peer(request.peer))
}

fn too_many(refused: Refused) -> Problem {
    let message = match refused {
        Refused::Own => format!(
            "{WAITING_MAX} deletes of this token (or address) in this namespace wait already behind the one under way; \
             they are done one at a time, so repeat this one when some of them have been answered"
        ),
        Refused::All => {
            "too many deletes of collections and prefixes are waiting; repeat this one after a moment".into()
        }
    };
    Problem::new(503, "OVERLOADED", message).written(Written::No).field("Retry-After", "1")
}

/// The range and the durability that a request asks for.
fn parse(api: &Api, request: &Request, parameters: [&str; 3]) -> Result<(KeyRange, Durability), Problem> {
    let (namespace, collection) = super::place(parameters)?;
    let query = Query::parse(request.head.query(), &["prefix", "durability"])?;
    let durability = match query.get("durability") {
        None => api.config.durability,
        Some("sync") => Durability::Sync,
        Some("relaxed") => Durability::Relaxed,
        Some(_) => return Err(Problem::new(400, "INVALID_QUERY", "durability is sync or relaxed")),
    };
    if query.get("prefix") == Some("") {
        // `?prefix=$UNSET` in a script must not empty a collection.
        let message = "an empty prefix would remove everything: leave prefix out if that is meant";
        return Err(Problem::new(400, "INVALID_QUERY", message));
    }
    let prefix = query.get("prefix").unwrap_or_default().to_owned();
    let range = ListQuery { prefix, ..ListQuery::default() }.bounds(namespace, collection);
    // A prefix alone never makes an empty range.
    let nothing = || (Bound::Excluded(Bytes::new()), Bound::Excluded(Bytes::new()));
    Ok((range.unwrap_or_else(nothing), durability))
}

/// A removal on its way.
struct Removal {
    db: Arc<Database>,
    drain: DrainSignal,
    range: KeyRange,
    durability: Durability,
    /// No step begins after this.
    stop_at: Instant,
    /// No answer comes after this.
    give_up_at: Instant,
    /// Records removed so far.
    deleted: usize,
    /// Stretches of keys that could not be read.
    unreadable: u64,
    /// What all steps so far can promise together.
    done: Promise,
}

/// What goes to the committer at once.
struct Step {
    ops: Vec<WriteOp>,
    /// The last key that was looked at; `None`: there is nothing behind what cannot be read.
    last: Option<Bytes>,
    /// Stretches of keys that cannot be read.
    unreadable: u64,
}

impl Removal {
    /// Does one step. An answer if it was the last.
    fn advance(&mut self) -> Option<Response> {
        if Instant::now() >= self.stop_at || self.drain.is_set() {
            return Some(self.answer(false));
        }
        let step = match self.next_step() {
            Ok(Some(step)) => step,
            Ok(None) => return Some(self.answer(true)),
            Err(_) if self.deleted > 0 => return Some(self.answer(false)),
            Err(failure) => return Some(failed(error::read_error(&failure), 0)),
        };
        match self.submit(step.ops) {
            Ok(outcome) => {
                self.deleted += outcome.results.iter().filter(|end| matches!(end, OpOutcome::Deleted { .. })).count();
                self.done = self.done.max(outcome.promise);
                self.unreadable += step.unreadable;
                match step.last {
                    Some(last) => self.range.0 = Bound::Excluded(last),
                    None => return Some(self.answer(true)),
                }
                None
            }
            Err(WriteError::Overloaded) => {
                std::thread::sleep(BUSY_PAUSE);
                None
            }
            // Some steps are done: the client hears of them, and of the trouble when it goes on.
            Err(failure) if self.deleted > 0 && failure != WriteError::OutcomeUnknown => Some(self.answer(false)),
            Err(failure) => Some(failed(error::write_error(&failure), self.deleted)),
        }
    }

    /// The next keys that are there, from a view of this moment; `None` behind the last.
    fn next_step(&self) -> Result<Option<Step>, StoreError> {
        let view = self.db.view();
        let moment = self.db.clock().moment();
        let (mut ops, mut last, mut read_bytes, mut unreadable) = (Vec::new(), None, 0, 0);
        for pair in walk(&*view.snapshot, &self.range, false) {
            let found = match damage::look(pair)? {
                Found::Record(key, record) => {
                    last = Some(key.shared());
                    read_bytes += record.value.len();
                    // What has expired is the sweeper's.
                    let stands = !moment.is_expired(&record);
                    stands.then(|| (key, Some(Preread { instant: view.instant, record: Some(record) }.cut(0))))
                }
                // It goes like any other: a delete needs nothing of what stands there.
                Found::Damaged(Some(key)) => {
                    last = Some(key.shared());
                    Some((key, None))
                }
                Found::Damaged(None) => {
                    unreadable += 1;
                    None
                }
            };
            if let Some((key, preread)) = found {
                ops.push(WriteOp { key, action: Action::Delete, precondition: Precondition::default(), preread });
            }
            if ops.len() == CHUNK_OPERATIONS || read_bytes >= GROUP_BYTES_MAX || Instant::now() >= self.stop_at {
                break;
            }
        }
        Ok((last.is_some() || unreadable > 0).then_some(Step { ops, last, unreadable }))
    }

    fn submit(&self, ops: Vec<WriteOp>) -> Result<WriteOutcome, WriteError> {
        if ops.is_empty() {
            return Ok(WriteOutcome { results: Vec::new(), failed: None, promise: Promise::Synced });
        }
        let (sender, receiver) = bounded(1);
        let reply = Box::new(move |outcome| {
            // Nobody listens any more if the time was over first.
            let _ = sender.try_send(outcome);
        });
        let deadline = Some(self.give_up_at);
        self.db.submit(WriteRequest { ops, atomic: false, durability: self.durability, deadline, reply });
        match receiver.recv_deadline(self.give_up_at) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(WriteError::OutcomeUnknown),
        }
    }

    fn answer(&self, complete: bool) -> Response {
        let unreadable = match self.unreadable {
            0 => String::new(),
            stretches => format!(",\"unreadable\":{stretches}"),
        };
        let json = format!("{{\"deleted\":{},\"complete\":{complete}{unreadable}}}", self.deleted);
        Response::with_text(200, "application/json", json).field("Larder-Durability", &promised(self.done))
    }
}

/// Completes an error: nothing was written, or (its outcome being unknown) so much was removed before it.
fn failed(mut response: Response, deleted: usize) -> Response {
    if let Body::Problem(problem) = &mut response.body {
        problem.written.get_or_insert(Written::No);
        if deleted > 0 {
            problem.extra.get_or_insert_default().insert("deleted".into(), deleted.into());
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;
    use crate::store::memory::MemoryStore;
    use crate::store::{DatabaseOptions, FullKey, NoObserver, Record, Space, Store, record};

    const SYNC: Duration = Duration::from_millis(30);

    /// A store on a slow card with this many records of 1 KiB.
    fn database(records: usize) -> Arc<Database> {
        let store = MemoryStore::with_sync_delay(SYNC);
        let value = Bytes::from(vec![b'x'; 1024]);
        let changes = (0..records).map(|n| {
            let content_type = Bytes::from_static(b"text/plain");
            let record = Record { version: 1, modified_ms: 0, expires_ms: 0, content_type, value: value.clone() };
            let key = FullKey::new("a", "b", &format!("{n:05}"));
            (Space::Data, key.shared(), Some(record::encode(&record)))
        });
        store.commit(changes.collect(), true).unwrap();
        Database::start(store, Arc::new(NoObserver), &Registry::default(), DatabaseOptions::default()).unwrap()
    }

    fn removal(db: &Arc<Database>, time: Duration) -> Removal {
        let range = ListQuery::default().bounds("a", "b").unwrap();
        let now = Instant::now();
        Removal {
            db: db.clone(),
            drain: DrainSignal::default(),
            range,
            durability: Durability::Sync,
            stop_at: now + time,
            give_up_at: now + Duration::from_secs(60),
            deleted: 0,
            unreadable: 0,
            done: Promise::Synced,
        }
    }

    /// All its steps.
    fn run(mut removal: Removal) -> Response {
        loop {
            if let Some(response) = removal.advance() {
                return response;
            }
        }
    }

    /// How many were removed, and whether that was all.
    fn said(response: &Response) -> (u64, bool) {
        let Body::Bytes(body) = &response.body else { panic!("an error") };
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        (body["deleted"].as_u64().unwrap(), body["complete"].as_bool().unwrap())
    }

    #[test]
    fn a_removal_that_runs_out_of_time_says_so_and_goes_on_when_asked_again() {
        let db = database(1000);
        // Ten steps need ten syncs: they cannot fit into the time of three.
        let (mut total, complete) = said(&run(removal(&db, 3 * SYNC)));
        assert!(!complete && total < 1000, "{total}");
        let (rest, complete) = said(&run(removal(&db, Duration::from_secs(60))));
        total += rest;
        assert!(complete);
        assert_eq!(total, 1000);
        assert_eq!(said(&run(removal(&db, Duration::from_secs(60)))), (0, true));
        db.stop().unwrap();
    }

    #[test]
    fn a_step_holds_a_bounded_number_of_operations() {
        let db = database(250);
        let mut removal = removal(&db, Duration::from_secs(60));
        let mut sizes = Vec::new();
        while let Some(step) = removal.next_step().unwrap() {
            sizes.push(step.ops.len());
            removal.range.0 = Bound::Excluded(step.last.unwrap());
        }
        assert_eq!(sizes, [100, 100, 50]);
        db.stop().unwrap();
    }

    #[test]
    fn a_removal_ends_between_steps_when_larder_stops() {
        let db = database(10);
        let removal = removal(&db, Duration::from_secs(60));
        removal.drain.start();
        assert_eq!(said(&run(removal)), (0, false));
        db.stop().unwrap();
    }

    #[test]
    fn a_store_that_takes_no_writes_is_an_error_that_says_nothing_was_written() {
        let db = database(10);
        db.stop().unwrap();
        let response = run(removal(&db, Duration::from_secs(60)));
        let Body::Problem(problem) = &response.body else { panic!("no error") };
        assert_eq!((problem.status, problem.code, problem.written), (503, "DRAINING", Some(Written::No)));
    }
}
