//! The engine on tiny_http 0.12: a fixed pool of workers that pull requests from it, and a guard around it.
//!
//! It is for trusted networks and TCP only: tiny_http spends a thread on every connection and has no limits of its own
//! (the `epoll` engine has). The way of a request: [`meter`] sees its bytes before tiny_http does, [`threads`] takes it,
//! [`connection`] gives it its turn, [`head`] reads it, [`exchange`] asks the handler, [`reply`] writes the answer;
//! whatever may wait for a client is in a side [`lane`].
//!
//! Invariant: a worker never waits for a client, nor for a sync; answers of one connection leave in the order of its
//! requests, and a request behind an unanswered one is not begun.

mod bodies;
mod body;
mod connection;
mod crew;
mod exchange;
mod figures;
mod guard;
mod head;
mod lane;
mod linger;
mod meter;
mod pieces;
mod porch;
mod porter;
mod reply;
mod shared;
mod socket;
mod source;
mod sys;
mod threads;
mod waiting;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::budget::{Answers, Bodies};
use super::door::Door;
use super::engine::{Ended, Engine, EngineOptions, Handler};
use super::listener::Listener;
use guard::Guard;
use porch::Porch;
use shared::Shared;
use source::Source;

/// What one connection takes at most: tiny_http has its socket twice, and larder once while it waits for the client.
pub const DESCRIPTORS_PER_CONNECTION: usize = 3;

/// How long the engine's threads may take to end once every connection is cut.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that waited for us before we gave the listener its options (socket activation) does not have them. One
/// that sends nothing is ended after the idle time, so first requests that come later than that are of younger ones.
const EARLY_SLACK: Duration = Duration::from_secs(60);

/// The engine on tiny_http.
#[derive(Clone, Copy, Debug, Default)]
pub struct TinyHttp;

impl Engine for TinyHttp {
    fn serve(&self, listeners: Vec<Listener>, handler: Arc<dyn Handler>, options: EngineOptions) -> io::Result<Ended> {
        // Before the first thread of tiny_http or ours, for they inherit it.
        if let Err(error) = sys::run_in_batches() {
            log::warn!("the HTTP threads keep the default scheduling policy, which costs some speed: {error}");
        }
        let (shared, receiver) = build(listeners, handler, &options)?;
        let mut handles = Vec::new();
        let started = start(&shared, &receiver, options.workers, &mut handles);
        let ended = match started {
            Ok(()) => {
                let (ended, couriers) = Guard::new(Arc::clone(&shared), options.drain.clone()).run();
                handles.extend(couriers);
                Ok(ended)
            }
            Err(error) => Err(error),
        };
        stop(&shared, handles);
        ended
    }
}

type Replies = crossbeam::channel::Receiver<Option<exchange::Reply>>;

fn build(
    listeners: Vec<Listener>,
    handler: Arc<dyn Handler>,
    options: &EngineOptions,
) -> io::Result<(Arc<Shared>, Replies)> {
    let figures = Arc::new(figures::Figures::new(&options.registry));
    let door = Door::new(options.unbounded.clone());
    let porch = Arc::new(Porch::new(door, Arc::clone(&options.limits), Arc::clone(&figures)));
    let mut sources = Vec::new();
    let mut send_budget_bytes = usize::MAX;
    for listener in listeners {
        let Listener::Tcp(listener) = listener else {
            let text = "the tiny_http engine serves TCP only; set server.engine = \"epoll\" for Unix sockets";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        };
        let (source, budget_bytes) = Source::start(listener, &porch)?;
        send_budget_bytes = send_budget_bytes.min(budget_bytes);
        sources.push(Arc::new(source));
    }
    let Some(first) = sources.first().map(|source| source.current()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on"));
    };
    // Each connection has at most one request at work, and each of these at most one answer on its way. The limit may
    // be raised while the engine runs.
    let replies_max = options.limits.get().connections_max * 2 + 1024;
    let (replies, receiver) = crossbeam::channel::bounded(replies_max);
    let shared = Shared {
        handler,
        limits: Arc::clone(&options.limits),
        connections: connection::Connections::default(),
        crew: crew::Crew::new(first),
        body_budget: Arc::new(Bodies::new(Arc::clone(&options.limits), &options.registry)),
        answer_budget: Arc::new(Answers::new(Arc::clone(&options.limits), &options.registry)),
        bodies: lane::Lane::default(),
        bodies_waiting: waiting::Waiting::new()?,
        answers: lane::Lane::default(),
        answers_waiting: waiting::Waiting::new()?,
        replies,
        sources,
        figures,
        porch,
        nudge: guard::Nudge::default(),
        send_budget_bytes,
        early_until: Instant::now() + options.limits.get().idle_timeout + EARLY_SLACK,
        imports: AtomicUsize::new(0),
        lingering: linger::Lingering::default(),
        watchdog: options.watchdog.clone(),
        draining: AtomicBool::new(false),
        stopping: AtomicBool::new(false),
    };
    let shared = Arc::new(shared);
    shared.porch.belongs_to(&shared);
    Ok((shared, receiver))
}

fn start(
    shared: &Arc<Shared>,
    receiver: &Replies,
    workers: usize,
    handles: &mut Vec<JoinHandle<()>>,
) -> io::Result<()> {
    // One more than may run handlers: somebody always takes requests.
    for _ in 0..=workers.max(1) {
        let shared = Arc::clone(shared);
        handles.push(threads::spawn("larder-worker", move || threads::work(&shared))?);
    }
    for _ in 0..threads::REPLIERS {
        let (shared, receiver) = (Arc::clone(shared), receiver.clone());
        handles.push(threads::spawn("larder-replier", move || threads::reply(&shared, &receiver))?);
    }
    for _ in 0..lane::THREADS {
        let writing = Arc::clone(shared);
        handles.push(threads::spawn("larder-answer", move || threads::write_answers(&writing))?);
    }
    for _ in 0..lane::BODY_THREADS {
        let reading = Arc::clone(shared);
        handles.push(threads::spawn("larder-body", move || threads::read_bodies(&reading))?);
    }
    let (bodies, answers) = (Arc::clone(shared), Arc::clone(shared));
    handles.push(threads::spawn("larder-body-wait", move || threads::watch_bodies(&bodies))?);
    handles.push(threads::spawn("larder-answ-wait", move || threads::watch_answers(&answers))?);
    let theirs = Arc::clone(shared);
    handles.push(threads::spawn("larder-linger", move || theirs.lingering.run(&theirs))?);
    for (index, source) in shared.sources.iter().enumerate().skip(1) {
        let (shared, server) = (Arc::clone(shared), source.current());
        handles.push(threads::spawn("larder-courier", move || threads::carry(&shared, index, &server))?);
    }
    Ok(())
}

/// Ends the engine's threads. One that is stuck in a handler is left to the end of the process.
fn stop(shared: &Arc<Shared>, handles: Vec<JoinHandle<()>>) {
    shared.stopping.store(true, Ordering::SeqCst);
    shared.bodies_waiting.stop();
    shared.answers_waiting.stop();
    shared.bodies.stop();
    shared.answers.stop();
    shared.crew.stop();
    shared.lingering.stop();
    for _ in 0..threads::REPLIERS {
        let _ = shared.replies.try_send(None);
    }
    let deadline = Instant::now() + JOIN_TIMEOUT;
    for handle in handles {
        while !handle.is_finished() && Instant::now() < deadline {
            for server in shared.sources.iter().flat_map(|source| source.all()) {
                server.unblock();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if handle.is_finished() {
            let _ = handle.join();
        }
    }
}
