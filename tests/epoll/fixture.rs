//! An epoll engine in this process, on a port of its own, with a handler whose paths say what they do.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use larder::http::epoll::Epoll;
use larder::http::listener::Listener;
use larder::http::network::Unbounded;
use larder::http::{
    Admission, Body, DrainSignal, Ended, Engine, EngineOptions, Handler, HeaderName, Outcome, Problem, Request,
    RequestBody, Responder, Response, Trace,
};
use larder::limits::{Limits, LiveLimits};
use larder::metrics::Registry;
use parking_lot::Mutex;

use crate::support::Connection;

/// The bytes of `/pull` and `/bytes`: every place in them is recognisable.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// What the handler has been told or has kept.
#[derive(Default)]
pub struct Seen {
    /// One entry for each call of `finished`: status, body bytes, complete.
    pub finished: Mutex<Vec<(u16, u64, bool)>>,
    /// Paths in the order in which `quick` saw them.
    pub begun: Mutex<Vec<String>>,
    /// Responders of `/hold`.
    pub held: Mutex<Vec<Responder>>,
    /// What ended the reading of an import.
    pub import_errors: Mutex<Vec<std::io::ErrorKind>>,
}

struct TestHandler {
    seen: Arc<Seen>,
    /// `/gate` waits for a message, so that a worker is busy for as long as a test likes.
    gate: Mutex<Receiver<()>>,
}

fn number(request: &Request) -> usize {
    request.head.query().parse().unwrap_or(0)
}

fn pull(length: Option<u64>, len: usize, piece: usize) -> Response {
    let (bytes, mut at) = (pattern(len), 0);
    let mut response = Response::new(200);
    let pull = Box::new(move |buffer: &mut Vec<u8>| {
        let end = (at + piece).min(bytes.len());
        buffer.extend_from_slice(&bytes[at..end]);
        at = end;
        Ok(at < bytes.len())
    });
    response.body = Body::Pull { length, keeps: 0, patience: Duration::MAX, pull };
    response
}

fn text(body: impl Into<bytes::Bytes>) -> Response {
    Response::with_body(200, "text/plain", body)
}

impl Handler for TestHandler {
    fn admit(&self, request: &Request, trace: &mut Trace) -> Admission {
        trace.route = larder::http::RouteId(1);
        match request.head.path() {
            "/import" | "/import-deaf" => Admission::Stream,
            "/refuse" => Admission::Refuse(Problem::new(401, "UNAUTHORIZED", "no").into()),
            "/panic-admit" => panic!("told to"),
            "/value" => Admission::Read { bytes_max: 1000, value: true },
            _ => Admission::Read { bytes_max: 1_000_000, value: false },
        }
    }

    fn quick(&self, request: &Request, _trace: &mut Trace) -> Option<Response> {
        self.seen.begun.lock().push(request.head.target().to_owned());
        Some(match request.head.path() {
            "/" => text(format!("{} {}", request.method.as_str(), request.head.target())),
            "/host" => text(request.head.get(HeaderName::Host).unwrap_or("none").to_owned()),
            "/peer" => text(request.peer.to_string()),
            "/echo" | "/value" => text(request.body.shared()),
            "/empty" => Response::new(204),
            "/close" => {
                let mut response = text("closing");
                response.close = true;
                response
            }
            "/bytes" => text(pattern(number(request))),
            "/pull" => pull(None, number(request), 1000),
            "/pull-length" => pull(Some(number(request) as u64), number(request), 1000),
            "/pull-too-short" => pull(Some(number(request) as u64 + 1), number(request), 1000),
            "/pull-too-long" => pull(Some(number(request) as u64 - 1), number(request), 1000),
            "/pull-slow" => slow_pull(number(request)),
            "/pull-panic" => {
                let mut response = Response::new(200);
                response.body = Body::Pull {
                    length: None,
                    keeps: 0,
                    patience: Duration::MAX,
                    pull: Box::new(|_| panic!("told to")),
                };
                response
            }
            "/panic-quick" => panic!("told to"),
            "*" => text("everything"),
            _ => return None,
        })
    }

    fn handle(&self, request: Request, responder: Responder) {
        match request.head.path() {
            "/hold" => self.seen.held.lock().push(responder),
            "/gate" => {
                let _ = self.gate.lock().recv();
                responder.send(text("open"));
            }
            "/drop" => drop(responder),
            "/panic-handle" => panic!("told to"),
            "/import-deaf" => responder.send(Problem::new(400, "INVALID_JSON", "stop").into()),
            "/import" => self.import(request, responder),
            _ => responder.send(text(format!("worked on {} bytes", request.body.bytes().len()))),
        }
    }

    fn finished(&self, _trace: &Trace, outcome: &Outcome) {
        self.seen.finished.lock().push((outcome.status, outcome.body_bytes, outcome.cut.is_none()));
    }
}

/// A body that has nothing to say on every other call.
fn slow_pull(pieces: usize) -> Response {
    let mut calls = 0;
    let mut response = Response::new(200);
    let pull = Box::new(move |buffer: &mut Vec<u8>| {
        calls += 1;
        if calls % 2 == 0 {
            buffer.extend_from_slice(b"x");
        }
        Ok(calls < pieces * 2)
    });
    response.body = Body::Pull { length: None, keeps: 0, patience: Duration::MAX, pull };
    response
}

impl TestHandler {
    fn import(&self, request: Request, responder: Responder) {
        self.seen.begun.lock().push(request.head.target().to_owned());
        let RequestBody::Reader(mut reader) = request.body else { panic!("an import comes as a reader") };
        let (mut total, mut piece) = (0u64, vec![0; 10_000]);
        let slow = request.head.query() == "slow";
        loop {
            match reader.read(&mut piece) {
                Ok(0) => break responder.send(text(format!("imported {total}"))),
                Ok(bytes) => total += bytes as u64,
                Err(error) => {
                    self.seen.import_errors.lock().push(error.kind());
                    break responder.send(Problem::new(400, "BAD_REQUEST", "the import was cut").into());
                }
            }
            if slow {
                let _ = self.gate.lock().recv();
            }
        }
    }
}

/// A running engine.
pub struct Fixture {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    pub limits: Arc<LiveLimits>,
    pub drain: DrainSignal,
    pub registry: Registry,
    gate: Sender<()>,
    thread: Option<JoinHandle<std::io::Result<Ended>>>,
}

impl Fixture {
    /// With the default limits.
    pub fn start() -> Fixture {
        Fixture::with_limits(|_| {})
    }

    /// With other limits.
    pub fn with_limits(change: impl FnOnce(&mut Limits)) -> Fixture {
        Fixture::build(change, 2, None)
    }

    /// With other limits, so many workers, and perhaps a Unix socket beside the port. This machine's connections are bounded
    /// like everybody's, so that the bound of an address can be met.
    pub fn build(change: impl FnOnce(&mut Limits), workers: usize, unix: Option<&Path>) -> Fixture {
        Fixture::build_for(change, workers, unix, Unbounded { loopback: false, proxies: Vec::new() })
    }

    /// The same, with some whose connections have no bound of their own.
    pub fn build_for(
        change: impl FnOnce(&mut Limits),
        workers: usize,
        unix: Option<&Path>,
        unbounded: Unbounded,
    ) -> Fixture {
        let mut limits = Limits { connections_max: 1000, ..Limits::default() };
        change(&mut limits);
        let limits = Arc::new(LiveLimits::new(limits));
        let listener = Listener::bind_tcp(([127, 0, 0, 1], 0).into()).expect("a port");
        let Listener::Tcp(tcp) = &listener else { panic!("TCP was asked for") };
        let address = tcp.local_addr().expect("an address");
        let mut listeners = vec![listener];
        listeners.extend(unix.map(|path| Listener::bind_unix(path).expect("a socket")));
        let (gate, opened) = channel();
        let seen = Arc::new(Seen::default());
        let handler = TestHandler { seen: Arc::clone(&seen), gate: Mutex::new(opened) };
        let (drain, registry) = (DrainSignal::default(), Registry::default());
        let options = EngineOptions {
            workers,
            io_threads: 2,
            limits: Arc::clone(&limits),
            unbounded,
            drain: drain.clone(),
            registry: registry.clone(),
            watchdog: Default::default(),
        };
        let thread = std::thread::spawn(move || Epoll.serve(listeners, Arc::new(handler), options));
        Fixture { address, seen, limits, drain, registry, gate, thread: Some(thread) }
    }

    /// A raw connection.
    pub fn connect(&self) -> Connection {
        Connection::open(&self.address.to_string())
    }

    /// One request on a connection of its own.
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> crate::support::Answer {
        crate::support::Client::new(&self.address.to_string()).send(method, path, &[], body)
    }

    /// Lets one `/gate` request, or one step of a slow import, go on.
    pub fn open_gate(&self) {
        let _ = self.gate.send(());
    }

    /// The sum of the samples of the metrics page whose line begins with `prefix`.
    pub fn metric(&self, prefix: &str) -> f64 {
        let page = self.registry.expose();
        let samples = page.lines().filter(|line| line.starts_with(prefix));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Drains, and says how the engine ended.
    pub fn stop(mut self) -> Ended {
        self.drain.start();
        self.thread.take().expect("running").join().expect("no panic").expect("no error")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.drain.start();
        // Whoever waits at the gate goes on, so that no worker outlives the test.
        for _ in 0..100 {
            let _ = self.gate.send(());
        }
        self.seen.held.lock().clear();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits a moment: for what must *not* happen.
pub fn a_moment() {
    std::thread::sleep(Duration::from_millis(150));
}

/// A GET as bytes.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")
}
