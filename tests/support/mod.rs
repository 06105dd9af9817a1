//! What the tests from outside share: the real binary on a port of its own, and a plain HTTP client on a raw socket.
//!
//! Nothing here links against larder's own HTTP code: what is tested must not be read with its own eyes.
#![allow(dead_code, unused_imports, clippy::duplicated_attributes)]

pub mod card;
pub mod client;
pub mod corpus;
pub mod history;
pub mod server;

pub use card::{Card, CardOptions, Failure, Fault, Kept, Names, Op, Seeded};
pub use client::{Answer, Client, Connection};
pub use server::{Server, ServerBuilder, binary, is_optimised};

/// The engines under test: all there are, or those named in `TEST_ENGINES` (comma-separated).
pub fn engines() -> Vec<String> {
    let chosen = std::env::var("TEST_ENGINES").unwrap_or_else(|_| "tiny_http,epoll".to_owned());
    chosen.split(',').map(str::to_owned).collect()
}

/// Runs a test once for every engine, each on a fresh server, and names the engine that failed.
pub fn on_every_engine(test: impl Fn(&Server) + std::panic::RefUnwindSafe) {
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&server))) {
            eprintln!("failed on engine {engine}; the server's log:\n{}", server.log());
            std::panic::resume_unwind(panic);
        }
    }
}

/// Says loudly that a test could not run. In CI that is a failure: nothing is skipped there.
pub fn skipped(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Ends the threads that look at this flag, also where the test fails: a scope would wait for them for ever.
pub struct Ends<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Asks again until it holds, for at most a minute, since machines are busy: for what must come to pass, not for how fast.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < give_up, "still not so after 60 s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
