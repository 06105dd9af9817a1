//! tiny_http's accept loop ends at the first error, or panics; the guard puts a new one in its place.
//!
//! Alone in its file, because it takes the descriptors of the whole process away.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/tiny.rs"]
mod support;

use std::fs::File;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder::limits::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Client, eventually, start};

const DESCRIPTORS: u64 = 96;

fn take_all() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
fn a_dead_accept_loop_is_replaced_and_open_connections_live_on() {
    let server = start(Limits::default());
    let mut old = server.connect();
    assert_eq!(old.get("/const").status, 200);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..limit }).unwrap();
    let restarts = || server.figure("larder_tiny_http_accept_restarts_total");

    // `spare` descriptors are left: one is the client's. With none for the server, accept fails and says so; with one,
    // the duplicate that tiny_http makes fails, and its accept thread panics without a word. The guard's own looks
    // borrow descriptors now and then, so which of the two a round meets, if any, is not certain.
    let panics = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |info| {
        count.fetch_add(usize::from(info.to_string().contains("Too many open files")), Ordering::SeqCst);
        eprintln!("{info}");
    }));
    let mut round = 0;
    eventually("accept loops died and were replaced", || {
        round += 1;
        let mut taken = take_all();
        assert!(!taken.is_empty(), "the descriptors are the limit");
        taken.truncate(taken.len() - 1 - round % 2);
        let waiting = TcpStream::connect(server.address);
        assert_eq!(old.get("/const").text(), "hello", "open connections do not care");
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(taken);
        let mut new = Client::new(TcpStream::connect(server.address).unwrap());
        assert_eq!(new.get("/const").text(), "hello");
        assert_eq!(new.get("/work?ms=0").text(), "done");
        assert_eq!(old.get("/work?ms=0").text(), "done", "the old loop's connections are still served");
        drop(waiting);
        restarts() >= 2.0 && panics.load(Ordering::SeqCst) >= 1
    });
    setrlimit(Resource::Nofile, limit).unwrap();
    assert_eq!(server.stop(), larder::http::Ended::Drained);
}
