//! Whole handlers on the memory store, without a socket: what larder itself does for a request, in time and in
//! allocations. The engine's reading and writing is not in it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use larder::api::access::Access;
use larder::api::observer::CacheKeeper;
use larder::api::value_rules::ValueRules;
use larder::api::{Api, Parts};
use larder::cache::Cache;
use larder::config::Config;
use larder::http::headers::Head;
use larder::http::message::{Outcome, Peer, Request, RequestBody, Response, Trace};
use larder::http::method::Method;
use larder::http::responder::{Responder, ResponseSink};
use larder::http::{DrainSignal, Handler};
use larder::limits::LiveLimits;
use larder::metrics::Registry;
use larder::store::{Database, DatabaseOptions, MemoryStore};

/// The system's allocator, and how often it was asked.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came; the counter touches no memory of theirs.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Where answers go: a channel of one.
struct Sink(SyncSender<Response>);

impl ResponseSink for Sink {
    fn deliver(&self, _: u64, mut response: Response, mut trace: Trace) {
        response.seal(&mut trace);
        let _ = self.0.send(response);
    }
}

struct Bench {
    api: Arc<Api>,
    sink: Arc<Sink>,
    answers: Receiver<Response>,
}

impl Bench {
    fn new() -> Bench {
        let registry = Registry::default();
        let config = Arc::new(Config::defaults(512 << 20, 2));
        let cache = Arc::new(Cache::new(config.cache_bytes, 2, &registry));
        let access = Arc::new(Access::open(&config, &registry).unwrap());
        let limits = Arc::new(LiveLimits::new(config.limits.clone()));
        let observer = CacheKeeper { cache: cache.clone(), rules: ValueRules::new(&config) };
        let options = DatabaseOptions::default();
        let db = Database::start(MemoryStore::new(), Arc::new(observer), &registry, options).unwrap();
        let drain = DrainSignal::default();
        let api = Arc::new(Api::new(Parts { config, limits, cache, access, registry, files: None, drain }));
        api.attach_store(db);
        let (to, answers) = sync_channel(1);
        Bench { api, sink: Arc::new(Sink(to)), answers }
    }

    /// One request on the way that an engine takes it.
    fn ask(&self, method: Method, target: &str, body: &'static [u8]) -> Response {
        let peer = Peer::Tcp([127, 0, 0, 1].into(), 40_000);
        let mut head = Head::new(target);
        head.push(b"Host", b"localhost");
        let request = Request { method, head, body: RequestBody::Bytes(body.into()), peer };
        let mut trace = Trace::new(method, peer, Instant::now());
        let response = match self.api.quick(&request, &mut trace) {
            Some(mut response) => {
                response.seal(&mut trace);
                response
            }
            None => {
                let responder = Responder::new(self.sink.clone(), 0, trace.clone());
                self.api.handle(request, responder);
                self.answers.recv().unwrap()
            }
        };
        let outcome = Outcome { cut: None, ..Outcome::unsent(response.status) };
        self.api.finished(&trace, &outcome);
        response
    }
}

/// Allocations of one call, after it has been warmed up.
fn allocations(mut call: impl FnMut()) -> f64 {
    const CALLS: u64 = 10_000;
    (0..1000).for_each(|_| call());
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..CALLS).for_each(|_| call());
    (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / CALLS as f64
}

fn handlers(c: &mut Criterion) {
    let bench = Bench::new();
    let value: &[u8] = &[b'v'; 100];
    assert_eq!(bench.ask(Method::Put, "/api/v1/kv/home/sensors/here", value).status, 201);
    let cases = [
        ("get_hit", Method::Get, "/api/v1/kv/home/sensors/here", 200),
        ("get_miss", Method::Get, "/api/v1/kv/home/sensors/absent", 404),
        ("put", Method::Put, "/api/v1/kv/home/sensors/here", 204),
        ("health", Method::Get, "/health", 200),
    ];
    for (name, method, target, status) in cases {
        let body: &[u8] = if method == Method::Put { value } else { b"" };
        assert_eq!(bench.ask(method, target, body).status, status, "{name}");
        println!("{name}: {:.2} allocations an operation", allocations(|| drop(bench.ask(method, target, body))));
        c.bench_function(name, |b| b.iter(|| bench.ask(black_box(method), black_box(target), body)));
    }
}

criterion_group!(groups, handlers);
criterion_main!(groups);
