//! Work that waits for a client, or for a moment: one thread watches all of it, so that none of it costs a thread.
//!
//! tiny_http's own readers and writers block. So before a lane's thread uses one, the kernel is asked whether it may; if
//! not, the work lies here until the kernel says so, its time is over, or the socket is shut. Invariant: what is held is
//! handed out exactly once, also at the end.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::board::watchdog::Heartbeat;

/// How often the times of what is held are looked at.
const LOOK: Duration = Duration::from_millis(50);
const EVENTS_PER_TURN: usize = 64;

/// What work waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The client has sent something.
    Readable,
    /// The client has taken something.
    Writable,
    /// Only its time; the end of the connection ends it as well.
    Later,
}

/// Work of one kind that waits.
pub struct Waiting<J> {
    epoll: OwnedFd,
    /// Calls the thread that watches, which sleeps for as long as nothing is held.
    bell: OwnedFd,
    state: Mutex<State<J>>,
    stopping: AtomicBool,
}

struct State<J> {
    held: HashMap<u64, Held<J>>,
    next: u64,
}

struct Held<J> {
    socket: OwnedFd,
    job: J,
    until: Instant,
}

impl<J> Waiting<J> {
    /// Nothing waits.
    pub fn new() -> io::Result<Waiting<J>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered, so that nobody has to read it.
        epoll::add(&epoll, &bell, EventData::new_u64(u64::MAX), EventFlags::IN | EventFlags::ET)?;
        let state = Mutex::new(State { held: HashMap::new(), next: 0 });
        Ok(Waiting { epoll, bell, state, stopping: AtomicBool::new(false) })
    }

    /// Holds work until its socket is ready, or that time has come. Gives it back if that cannot be watched.
    pub fn hold(&self, socket: OwnedFd, what: Until, until: Instant, job: J) -> Result<(), (OwnedFd, J)> {
        let flags = match what {
            Until::Readable => EventFlags::IN | EventFlags::RDHUP,
            Until::Writable => EventFlags::OUT,
            Until::Later => EventFlags::empty(),
        };
        let mut state = self.state.lock();
        if self.stopping.load(Ordering::SeqCst) {
            return Err((socket, job));
        }
        let number = state.next;
        // IMPORTANT: under the lock, so that whoever hears of it finds it here.
        match epoll::add(&self.epoll, &socket, EventData::new_u64(number), flags | EventFlags::ONESHOT) {
            Ok(()) => {
                state.next += 1;
                let was_empty = state.held.is_empty();
                state.held.insert(number, Held { socket, job, until });
                drop(state);
                if was_empty {
                    self.ring();
                }
                Ok(())
            }
            Err(_) => Err((socket, job)),
        }
    }

    /// The life of the thread that watches. `ready` must not wait for anything.
    pub fn run(&self, heartbeat: &Heartbeat, ready: impl Fn(OwnedFd, J)) {
        let mut events = Vec::with_capacity(EVENTS_PER_TURN);
        let mut looked_at = Instant::now();
        loop {
            events.clear();
            let is_empty = self.state.lock().held.is_empty();
            heartbeat.wait(|max| {
                let pause = if is_empty { max } else { LOOK };
                let timeout = Timespec { tv_sec: pause.as_secs() as _, tv_nsec: pause.subsec_nanos() as _ };
                let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout));
            });
            let stopping = self.stopping.load(Ordering::SeqCst);
            for event in &events {
                self.hand_out(event.data.u64(), &ready);
            }
            let now = Instant::now();
            if stopping || now.saturating_duration_since(looked_at) >= LOOK {
                looked_at = now;
                let state = self.state.lock();
                let over = |held: &Held<J>| stopping || held.until <= now;
                let due: Vec<u64> =
                    state.held.iter().filter(|(_, held)| over(held)).map(|(number, _)| *number).collect();
                drop(state);
                due.into_iter().for_each(|number| self.hand_out(number, &ready));
            }
            if stopping {
                return;
            }
        }
    }

    fn hand_out(&self, number: u64, ready: &impl Fn(OwnedFd, J)) {
        let held = self.state.lock().held.remove(&number);
        if let Some(Held { socket, job, .. }) = held {
            // The descriptor lives on, so closing it would not take it out.
            let _ = epoll::delete(&self.epoll, &socket);
            ready(socket, job);
        }
    }

    /// Ends the thread, which hands out all that is held.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        // It fails only when the counter is full, and then the bell has rung.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// Whether a socket is ready now, or has ended.
pub fn is_ready(socket: &OwnedFd, what: Until) -> bool {
    let flags = match what {
        Until::Readable => PollFlags::IN | PollFlags::RDHUP,
        Until::Writable => PollFlags::OUT,
        Until::Later => PollFlags::empty(),
    };
    let mut asked = [PollFd::new(socket, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::board::watchdog::Watchdog;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn work_is_handed_out_once_when_its_socket_is_ready_or_its_time_is_over() {
        let waiting = Waiting::new().unwrap();
        let (tell, told) = channel();
        let far = Instant::now() + Duration::from_secs(600);
        std::thread::scope(|scope| {
            let heartbeat = Watchdog::new().heartbeat("a thread");
            let waiting = &waiting;
            scope.spawn(move || waiting.run(&heartbeat, |_, job: &str| tell.send(job).unwrap()));
            let (mut client, served) = pair();
            assert!(!is_ready(&served.try_clone().unwrap().into(), Until::Readable));
            waiting.hold(served.try_clone().unwrap().into(), Until::Readable, far, "reads").unwrap();
            client.write_all(b"x").unwrap();
            assert_eq!(told.recv(), Ok("reads"));

            waiting.hold(served.try_clone().unwrap().into(), Until::Writable, far, "writes").unwrap();
            assert_eq!(told.recv(), Ok("writes"));
            waiting.hold(served.try_clone().unwrap().into(), Until::Later, Instant::now(), "is due").unwrap();
            assert_eq!(told.recv(), Ok("is due"));

            let (mut other, gone) = pair();
            waiting.hold(gone.try_clone().unwrap().into(), Until::Later, far, "ends").unwrap();
            gone.shutdown(std::net::Shutdown::Both).unwrap();
            other.shutdown(std::net::Shutdown::Both).unwrap();
            assert_eq!(other.read(&mut [0]).unwrap(), 0);
            assert_eq!(told.recv(), Ok("ends"));

            let (_silent, held) = pair();
            waiting.hold(held.into(), Until::Readable, far, "is left").unwrap();
            waiting.stop();
            assert_eq!(told.recv(), Ok("is left"));
        });
        assert_eq!(waiting.state.lock().held.len(), 0);
        assert!(told.try_recv().is_err(), "each once");
    }
}
