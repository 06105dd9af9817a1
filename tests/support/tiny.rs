//! A tiny_http engine on a port of its own with a handler that tests steer, and a client that speaks bare HTTP.
//!
//! Not every test file uses all of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder::http::listener::Listener;
use larder::http::network::Unbounded;
use larder::http::tiny::TinyHttp;
use larder::http::{
    Admission, Body, DrainSignal, Ended, Engine, EngineOptions, Handler, Outcome, Problem, Request, RequestBody,
    Responder, Response, Trace,
};
use larder::limits::{Limits, LiveLimits};
use parking_lot::{Condvar, Mutex};

/// Nothing in a test may take longer than this.
pub const LIVENESS: Duration = Duration::from_secs(20);

/// A handler whose paths say what it does.
#[derive(Default)]
pub struct Steered {
    /// Targets in the order in which they were begun.
    pub begun: Mutex<Vec<String>>,
    /// Statuses and completeness of answers that ended.
    pub finished: Mutex<Vec<(u16, bool)>>,
    /// Answers that a test holds back, by target.
    pub held: Mutex<Vec<(String, Responder)>>,
    held_bell: Condvar,
    /// Handlers that are at work in a worker now.
    pub working: AtomicUsize,
}

fn number(request: &Request, name: &str) -> Option<usize> {
    request.head.query().split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

impl Handler for Steered {
    fn admit(&self, request: &Request, _trace: &mut Trace) -> Admission {
        match request.head.path() {
            "/import" => Admission::Stream,
            "/refuse" => Admission::Refuse(Problem::new(403, "FORBIDDEN", "not you").into()),
            "/panic-admit" => panic!("asked to"),
            _ => Admission::Read { bytes_max: 1 << 20, value: true },
        }
    }

    fn quick(&self, request: &Request, _trace: &mut Trace) -> Option<Response> {
        self.begun.lock().push(request.head.target().to_owned());
        match request.head.path() {
            "/const" => Some(Response::with_body(200, "text/plain", "hello")),
            "/big" => {
                let body = vec![b'x'; number(request, "bytes").unwrap_or(0)];
                Some(Response::with_body(200, "text/plain", body))
            }
            "/status" => Some(Response::new(number(request, "code").unwrap_or(200) as u16)),
            "/close" => {
                let mut response = Response::with_body(200, "text/plain", "bye");
                response.close = true;
                Some(response)
            }
            "/panic-quick" => panic!("asked to"),
            "/echo" => Some(Response::with_body(200, "application/octet-stream", request.body.bytes().to_vec())),
            "/pull" => {
                Some(pulled(number(request, "pieces").unwrap_or(3), number(request, "length").map(|n| n as u64)))
            }
            _ => None,
        }
    }

    fn handle(&self, mut request: Request, responder: Responder) {
        self.working.fetch_add(1, Ordering::SeqCst);
        let target = request.head.target().to_owned();
        match request.head.path() {
            // Held back until the test releases it.
            "/hold" => {
                self.held.lock().push((target, responder));
                self.held_bell.notify_all();
            }
            "/work" => {
                std::thread::sleep(Duration::from_millis(number(&request, "ms").unwrap_or(0) as u64));
                responder.send(Response::with_body(200, "text/plain", "done"));
            }
            "/later" => {
                let ms = number(&request, "ms").unwrap_or(0) as u64;
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(ms));
                    responder.send(Response::with_body(200, "text/plain", target));
                });
            }
            "/import" => {
                let RequestBody::Reader(reader) = &mut request.body else { panic!("an import is a reader") };
                let mut bytes = 0;
                let mut buffer = [0; 4096];
                let response = loop {
                    match reader.read(&mut buffer) {
                        Ok(0) => break Response::with_body(200, "text/plain", bytes.to_string()),
                        Ok(count) => bytes += count,
                        Err(_) => break Problem::new(400, "BAD_REQUEST", "cut").into(),
                    }
                };
                responder.send(response);
            }
            "/drop" => drop(responder),
            "/panic" => {
                self.working.fetch_sub(1, Ordering::SeqCst);
                panic!("asked to")
            }
            _ => responder.send(Problem::new(404, "NOT_FOUND", "nothing here").into()),
        }
        self.working.fetch_sub(1, Ordering::SeqCst);
    }

    fn finished(&self, _trace: &Trace, outcome: &Outcome) {
        self.finished.lock().push((outcome.status, outcome.cut.is_none()));
    }
}

fn pulled(pieces: usize, length: Option<u64>) -> Response {
    let mut left = pieces;
    let mut response = Response::new(200);
    let pull = move |out: &mut Vec<u8>| {
        if left > 0 {
            out.extend_from_slice(b"piece;");
            left -= 1;
        }
        Ok(left > 0)
    };
    response.body = Body::Pull { length, keeps: 0, patience: Duration::MAX, pull: Box::new(pull) };
    response
}

/// A running engine.
pub struct Running {
    pub address: SocketAddr,
    pub handler: Arc<Steered>,
    pub drain: DrainSignal,
    pub limits: Arc<LiveLimits>,
    pub registry: larder::metrics::Registry,
    thread: Option<JoinHandle<std::io::Result<Ended>>>,
}

/// Starts an engine with these limits and two workers.
pub fn start(limits: Limits) -> Running {
    start_with(limits, 2)
}

/// Starts an engine with so many workers.
pub fn start_with(limits: Limits, workers: usize) -> Running {
    let listener = Listener::bind_tcp(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = match &listener {
        Listener::Tcp(listener) => listener.local_addr().unwrap(),
        Listener::Unix(_) => unreachable!(),
    };
    let handler = Arc::new(Steered::default());
    let options = EngineOptions {
        workers,
        io_threads: 1,
        limits: Arc::new(LiveLimits::new(limits)),
        // So that the bound of an address can be met from this machine.
        unbounded: Unbounded { loopback: false, proxies: Vec::new() },
        drain: DrainSignal::default(),
        registry: larder::metrics::Registry::default(),
        watchdog: Default::default(),
    };
    let (drain, limits, registry) = (options.drain.clone(), Arc::clone(&options.limits), options.registry.clone());
    let theirs = Arc::clone(&handler);
    let thread = std::thread::spawn(move || TinyHttp.serve(vec![listener], theirs, options));
    Running { address, handler, drain, limits, registry, thread: Some(thread) }
}

impl Running {
    /// A new connection.
    pub fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// Drains and says how the run ended.
    pub fn stop(mut self) -> Ended {
        self.drain.start();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }

    /// Waits for the run to end by itself.
    pub fn join(mut self) -> Ended {
        self.thread.take().unwrap().join().unwrap().unwrap()
    }

    /// Whether the engine has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the handler holds `count` answers back.
    pub fn wait_held(&self, count: usize) {
        let mut held = self.handler.held.lock();
        while held.len() < count {
            let late = self.handler.held_bell.wait_for(&mut held, LIVENESS).timed_out();
            assert!(!late, "the handler was not called");
        }
    }

    /// Answers the held request with this target, from this thread.
    pub fn release(&self, target: &str) {
        let mut held = self.handler.held.lock();
        let at = held.iter().position(|(held, _)| held == target).expect("it is held");
        let (target, responder) = held.remove(at);
        drop(held);
        responder.send(Response::with_body(200, "text/plain", target));
    }

    /// The value of a figure on the metrics page.
    pub fn figure(&self, series: &str) -> f64 {
        let page = self.registry.expose();
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.start();
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIVENESS;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client that sends bytes and reads responses.
pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// A response as it came.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Got {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    pub fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

impl Client {
    pub fn new(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(LIVENESS)).unwrap();
        stream.set_write_timeout(Some(LIVENESS)).unwrap();
        stream.set_nodelay(true).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Client { stream, reader }
    }

    pub fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
    }

    pub fn get(&mut self, target: &str) -> Got {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        self.receive(false)
    }

    /// Reads one response; `head_only` if it answers HEAD.
    pub fn receive(&mut self, head_only: bool) -> Got {
        let mut head = String::new();
        loop {
            let before = head.len();
            let count = self.reader.read_line(&mut head).expect("a response in time");
            assert!(count > 0, "the connection ended in a head: {head:?}");
            if &head[before..] == "\r\n" {
                break;
            }
        }
        let status = head[9..12].parse().unwrap();
        let mut got = Got { status, head, body: Vec::new() };
        if head_only || matches!(status, 100..=199 | 204 | 304) {
            return got;
        }
        if let Some(length) = got.field("content-length") {
            got.body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut got.body).unwrap();
        } else if got.field("transfer-encoding") == Some("chunked") {
            got.body = self.chunks();
        } else {
            self.reader.read_to_end(&mut got.body).unwrap();
        }
        got
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let start = body.len();
            body.resize(start + size + 2, 0);
            self.reader.read_exact(&mut body[start..]).unwrap();
            assert_eq!(&body[start + size..], b"\r\n");
            body.truncate(start + size);
            if size == 0 {
                return body;
            }
        }
    }

    /// Whether the server ends the connection without sending anything more.
    pub fn is_ended(&mut self) -> bool {
        let mut one = [0; 1];
        match self.reader.read(&mut one) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
