//! The smallest server on larder's epoll engine: one constant answer, no store. It shows what an engine asks of an
//! application, and is what the engine's own cost is measured with.
//!
//! `constant [ADDRESS] [IO_THREADS]`, then for instance `wrk -t1 -c32 http://127.0.0.1:8080/`.

use std::sync::Arc;

use larder::http::epoll::Epoll;
use larder::http::listener::Listener;
use larder::http::{
    Admission, Body, DrainSignal, Engine, EngineOptions, Handler, Outcome, Problem, Request, Responder, Response, Trace,
};
use larder::limits::{CONNECTIONS_EPOLL, Limits, LiveLimits};
use larder::metrics::Registry;

struct Constant {
    fields: bytes::Bytes,
    body: bytes::Bytes,
}

impl Handler for Constant {
    fn admit(&self, _request: &Request, _trace: &mut Trace) -> Admission {
        Admission::Refuse(Problem::new(405, "METHOD_NOT_ALLOWED", "there is nothing to write here").into())
    }

    fn quick(&self, _request: &Request, _trace: &mut Trace) -> Option<Response> {
        let mut response = Response::new(200);
        response.prepared = Some(self.fields.clone());
        response.body = Body::Bytes(self.body.clone());
        Some(response)
    }

    fn handle(&self, _request: Request, _responder: Responder) {}

    fn finished(&self, _trace: &Trace, _outcome: &Outcome) {}
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let address = address.parse().map_err(|_| std::io::Error::other("usage: constant [ADDRESS] [IO_THREADS]"))?;
    let io_threads = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let limits = Limits {
        connections_max: CONNECTIONS_EPOLL,
        connections_per_address_max: CONNECTIONS_EPOLL,
        ..Limits::default()
    };
    let listener = Listener::bind_tcp(address)?;
    println!("{} is process {}", listener.url(), std::process::id());
    let handler = Constant { fields: "Content-Type: text/plain\r\n".into(), body: "x".repeat(100).into() };
    let options = EngineOptions {
        workers: 1,
        io_threads,
        limits: Arc::new(LiveLimits::new(limits)),
        unbounded: Default::default(),
        drain: DrainSignal::default(),
        registry: Registry::default(),
        watchdog: Default::default(),
    };
    Epoll.serve(vec![listener], Arc::new(handler), options)?;
    Ok(())
}
