//! The loops of the engine's threads: workers, couriers, repliers, the side lanes.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use tiny_http::Server;

use super::bodies;
use super::crew::{self, Job, Next, Rest};
use super::exchange::{self, Reply};
use super::reply;
use super::shared::Shared;
use crate::board::watchdog::Heartbeat;

/// Threads that write answers which come from elsewhere.
pub const REPLIERS: usize = 2;

/// Starts a named thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// A worker.
pub fn work(shared: &Arc<Shared>) {
    let heartbeat = shared.watchdog.heartbeat("a worker");
    loop {
        heartbeat.allow(2 * shared.limits.get().request_timeout);
        match shared.crew.next(&heartbeat) {
            Next::Job(job) => run(shared, job),
            Next::Lead => lead(shared, &heartbeat),
            Next::Stop => return,
        }
    }
}

fn run(shared: &Arc<Shared>, job: Job) {
    shared.figures.workers_busy.inc();
    let ran = catch_unwind(AssertUnwindSafe(|| exchange::run(shared, job)));
    shared.figures.workers_busy.dec();
    if ran.is_err() {
        shared.figures.panics.inc();
        log::error!("a worker of the HTTP engine panicked and goes on");
    }
}

/// What a leader got from tiny_http.
enum Taken {
    /// A request whose turn it is.
    Job(Job),
    /// One that has to wait, or a call to look around.
    Nothing,
    /// This worker leads no more.
    SteppedDown,
}

/// Takes requests and answers the quick ones, for as long as this worker leads.
fn lead(shared: &Arc<Shared>, heartbeat: &Heartbeat) {
    while crew::is_leader() {
        heartbeat.beat();
        if let Some(job) = shared.crew.fresh() {
            run(shared, job);
            if !crew::is_leader() {
                return;
            }
        }
        match take(shared, heartbeat) {
            Taken::Job(job) => run(shared, job),
            Taken::Nothing => {}
            Taken::SteppedDown => return,
        }
    }
}

/// Takes one request of the first listener and places it; waits for one if this is the only leader.
fn take(shared: &Arc<Shared>, heartbeat: &Heartbeat) -> Taken {
    let mut server = shared.crew.taking.lock();
    let (result, waited) = match server.try_recv() {
        Ok(Some(raw)) => (Ok(raw), false),
        Err(error) => (Err(error), false),
        Ok(None) => match shared.crew.rest() {
            Rest::Job(job) => return Taken::Job(job),
            Rest::StepDown => return Taken::SteppedDown,
            Rest::Block => {
                let result = heartbeat.wait(|max| server.recv_timeout(max));
                shared.crew.unblocked();
                match result.transpose() {
                    Some(result) => (result, true),
                    // Time for a beat, or a call: perhaps to another server.
                    None => {
                        shared.crew.turn_to(&mut server, shared.sources[0].current());
                        return Taken::Nothing;
                    }
                }
            }
        },
    };
    let raw = match result {
        Ok(raw) => raw,
        Err(error) => {
            report(shared, 0, &error);
            shared.crew.turn_to(&mut server, shared.sources[0].current());
            return Taken::Nothing;
        }
    };
    let job = shared.place(shared.sources[0].port, raw);
    drop(server);
    if !waited {
        shared.crew.share_lead();
    }
    job.map_or(Taken::Nothing, Taken::Job)
}

/// Tells the guard of a dead accept loop. Being called out of the queue is an error of another kind.
fn report(shared: &Arc<Shared>, source: usize, error: &io::Error) {
    if error.raw_os_error().is_some() && !shared.is_draining() {
        log::warn!("tiny_http stopped accepting: {error}");
        shared.nudge.accept_died(source);
    }
}

/// Takes the requests of a server that the workers do not take from: a further listener's, or one whose accept loop
/// has died but whose connections live.
pub fn carry(shared: &Arc<Shared>, source: usize, server: &Arc<Server>) {
    let heartbeat = shared.watchdog.heartbeat("a courier");
    while !shared.is_stopping() {
        match heartbeat.wait(|max| server.recv_timeout(max)) {
            Ok(None) => {}
            Ok(Some(raw)) => {
                let placed = catch_unwind(AssertUnwindSafe(|| shared.place(shared.sources[source].port, raw)));
                if let Ok(Some(job)) = placed {
                    shared.push(job);
                }
            }
            Err(error) => report(shared, source, &error),
        }
    }
}

/// Writes answers that come from threads which are not the engine's.
/// `None` ends one of them.
pub fn reply(shared: &Arc<Shared>, replies: &Receiver<Option<Reply>>) {
    let heartbeat = shared.watchdog.heartbeat("a replier");
    loop {
        let reply = match heartbeat.wait(|max| replies.recv_timeout(max)) {
            Ok(Some(reply)) => reply,
            Err(RecvTimeoutError::Timeout) => continue,
            Ok(None) | Err(RecvTimeoutError::Disconnected) => return,
        };
        if catch_unwind(AssertUnwindSafe(|| reply.write(shared))).is_err() {
            shared.figures.panics.inc();
        }
    }
}

/// A thread of the lane for bodies.
pub fn read_bodies(shared: &Arc<Shared>) {
    let heartbeat = shared.watchdog.heartbeat("a reader of bodies");
    while let Some((client, job)) = shared.bodies.next(&heartbeat) {
        if catch_unwind(AssertUnwindSafe(|| bodies::read_aside(shared, job))).is_err() {
            shared.figures.panics.inc();
        }
        shared.bodies.done(client);
    }
}

/// Watches the bodies of which nothing has come.
pub fn watch_bodies(shared: &Arc<Shared>) {
    let heartbeat = shared.watchdog.heartbeat("the watch over bodies");
    shared.bodies_waiting.run(&heartbeat, |socket, job| bodies::go_on(shared, socket, job));
}

/// Watches the answers whose socket is full.
pub fn watch_answers(shared: &Arc<Shared>) {
    let heartbeat = shared.watchdog.heartbeat("the watch over answers");
    shared.answers_waiting.run(&heartbeat, |socket, answer| reply::go_on_writing(shared, socket, answer));
}

/// A thread of the lane for answers.
pub fn write_answers(shared: &Arc<Shared>) {
    let heartbeat = shared.watchdog.heartbeat("a writer of answers");
    while let Some((client, answer)) = shared.answers.next(&heartbeat) {
        if catch_unwind(AssertUnwindSafe(|| reply::write_what_fits(shared, answer))).is_err() {
            shared.figures.panics.inc();
        }
        shared.answers.done(client);
    }
}
