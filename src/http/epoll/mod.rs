//! The epoll engine: for boards that face many or untrusted clients, and for Unix sockets.
//!
//! A fixed number of I/O threads own the connections, each with its own epoll instance on the shared listeners. A
//! request that needs no disk is answered in the thread that read it; the others go to a fixed pool of workers through
//! a bounded queue, and their answers come back through the I/O thread's mailbox. A connection costs no thread and,
//! while idle, no buffer. What RFC 9112 forbids is refused, and the connection closed.
//!
//! It is not a place for policy: what a path means, who may come in and what is stored is the handler's affair.
//!
//! Invariant: no thread of this engine waits for a client, and no answer is sent twice.

pub mod chunked;
pub mod parse;
mod receive;

mod accept;
mod active;
mod body;
mod connection;
mod intake;
mod io_thread;
mod lane;
mod mailbox;
mod pressure;
mod shared;
mod slab;
mod stats;
mod way;
mod wheel;
mod workers;
mod write;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::io_thread::IoThread;
use self::mailbox::{Mailbox, Message};
use self::shared::{IoThreadView, Shared};
use self::stats::Stats;
use super::budget::{Answers, Bodies};
use super::door::Door;
use super::engine::{Ended, Engine, EngineOptions, Handler};
use super::listener::Listener;

/// How often the serving thread looks at the drain signal, and for requests that wait in vain.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the workers get to end after the connections have.
const WORKERS_GRACE: Duration = Duration::from_secs(1);

/// The engine. It has no state of its own: [`Engine::serve`] makes everything and ends with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epoll;

impl Engine for Epoll {
    fn serve(&self, listeners: Vec<Listener>, handler: Arc<dyn Handler>, options: EngineOptions) -> io::Result<Ended> {
        for listener in &listeners {
            accept::set_nonblocking(listener)?;
        }
        let drain = options.drain.clone();
        let limits = Arc::clone(&options.limits);
        let heartbeat = options.watchdog.heartbeat("the epoll engine");
        let running = Running::start(Arc::new(listeners), handler, options)?;
        while !drain.is_set() && !running.io_has_ended() {
            heartbeat.wait(|_| std::thread::sleep(LOOK_EVERY));
            workers::refuse_overdue(&running.shared);
            running.shared.bodies.tend(limits.get().request_timeout);
            running.shared.answers.tend();
        }
        // The drain has its own time-out.
        heartbeat.rest();
        running.stop(Instant::now() + limits.get().drain_timeout)
    }
}

/// The threads of an engine that serves.
struct Running {
    shared: Arc<Shared>,
    io: Vec<JoinHandle<io::Result<usize>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(listeners: Arc<Vec<Listener>>, handler: Arc<dyn Handler>, options: EngineOptions) -> io::Result<Running> {
        let answers = Arc::new(Answers::new(Arc::clone(&options.limits), &options.registry));
        let views = (0..options.io_threads.max(1)).map(|_| {
            let mailbox = Mailbox::new(&answers)?;
            Ok(IoThreadView { mailbox, load: AtomicUsize::new(0) })
        });
        let views = views.collect::<io::Result<Vec<_>>>()?;
        let stats = Stats::new(&options.registry);
        let bodies = Bodies::new(Arc::clone(&options.limits), &options.registry);
        let door = Door::new(options.unbounded);
        let shared =
            Arc::new(Shared::new(handler, options.limits, stats, (bodies, answers), door, views, options.watchdog));
        let mut running = Running { shared: Arc::clone(&shared), io: Vec::new(), workers: Vec::new() };
        let started = running.start_threads(&listeners, options.workers.max(1));
        if started.is_err() {
            running.send_all(|| Message::Cut);
            shared.queue.close();
        }
        started.map(|()| running)
    }

    fn start_threads(&mut self, listeners: &Arc<Vec<Listener>>, workers: usize) -> io::Result<()> {
        for index in 0..workers {
            let shared = Arc::clone(&self.shared);
            let worker = std::thread::Builder::new().name(format!("larder-work-{index}"));
            self.workers.push(worker.spawn(move || workers::run(&shared))?);
        }
        for index in 0..self.shared.io.len() {
            let thread = IoThread::new(Arc::clone(&self.shared), index, Arc::clone(listeners))?;
            let builder = std::thread::Builder::new().name(format!("larder-io-{index}"));
            self.io.push(builder.spawn(move || thread.run())?);
        }
        Ok(())
    }

    fn send_all(&self, message: impl Fn() -> Message) {
        for view in &self.shared.io {
            view.mailbox.send(message());
        }
    }

    fn io_has_ended(&self) -> bool {
        self.io.iter().any(JoinHandle::is_finished)
    }

    /// Drains until `deadline`, then cuts.
    fn stop(self, deadline: Instant) -> io::Result<Ended> {
        self.send_all(|| Message::Drain);
        wait_until(deadline, || self.io.iter().all(JoinHandle::is_finished));
        self.send_all(|| Message::Cut);
        let mut cut = 0;
        for thread in self.io {
            cut += thread.join().map_err(|_| io::Error::other("an I/O thread panicked"))??;
        }
        self.shared.queue.close();
        let workers_have_ended = wait_until(deadline.max(Instant::now() + WORKERS_GRACE), || {
            self.workers.iter().all(JoinHandle::is_finished) && self.shared.imports.load(Ordering::SeqCst) == 0
        });
        // A worker that is stuck in a handler is left behind: waiting for it could take for ever.
        Ok(if cut == 0 && workers_have_ended { Ended::Drained } else { Ended::CutShort })
    }
}

/// Waits for a condition; false if the deadline came first.
fn wait_until(deadline: Instant, condition: impl Fn() -> bool) -> bool {
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
