//! A neighbour who misbehaves on this machine, and a client on the same address that must not notice: slow heads, slow
//! bodies, a flood of idle connections, a proxy's pool.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{Connection, Server};

/// What the neighbours send on each of their connections before they send a byte now and then.
const SLOW: [(usize, &str); 2] = [
    (400, "GET /api/v1/kv/a/b/slow HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
    (64, "PUT /api/v1/kv/a/b/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"),
];
/// Idle connections that a flooder keeps.
const KEPT: usize = 1500;

/// Keeps so many connections that drip, and makes new ones for those that were ended.
fn drip(server: &Server, count: usize, sent: &str, done: &AtomicBool) {
    let mut all: VecDeque<Connection> = VecDeque::new();
    while !done.load(Ordering::SeqCst) {
        all.retain(|connection| std::io::Write::write(&mut connection.stream(), b"a").is_ok());
        for _ in all.len()..count {
            let Ok(connection) = Connection::try_open(server.address()) else { break };
            if std::io::Write::write_all(&mut connection.stream(), sent.as_bytes()).is_ok() {
                all.push_back(connection);
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn flood(server: &Server, done: &AtomicBool) {
    let mut idle = VecDeque::new();
    while !done.load(Ordering::SeqCst) {
        idle.extend(Connection::try_open(server.address()));
        if idle.len() > KEPT {
            idle.pop_front();
        }
    }
}

/// A client with a connection for each request, and one that keeps its connection and is busy within a second.
fn behave_well(server: &Server) {
    let mut keeps = server.connect();
    for n in 0..200 {
        let path = format!("/api/v1/kv/a/well/{n}");
        server.put(&path, b"x").expect(201);
        assert_eq!(server.get(&path).expect(200).text(), "x");
        if n % 20 == 0 {
            keeps.write_request("GET", "/health/live", &[], b"").unwrap();
            keeps.read(false).expect(200);
        }
    }
}

#[test]
fn nobody_is_shut_out_by_those_who_only_hold_connections() {
    // With room for all of them, and with room for a part.
    for limits in ["", "[limits]\nconnections_max = 600\n"] {
        let server = Server::builder().engine("epoll").config(limits).start();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (count, sent) in SLOW {
                let (server, done) = (&server, &done);
                scope.spawn(move || drip(server, count, sent, done));
            }
            (0..2).for_each(|_| drop(scope.spawn(|| flood(&server, &done))));
            let behaved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                support::eventually("they are all there", || server.metric("larder_http_connections ") > 550.0);
                behave_well(&server);
            }));
            done.store(true, Ordering::SeqCst);
            if let Err(panic) = behaved {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

#[test]
fn a_proxy_may_keep_a_pool_of_connections() {
    let server = Server::builder().engine("epoll").start();
    std::thread::scope(|scope| {
        for client in 0..150 {
            let server = &server;
            scope.spawn(move || {
                let mut client_of_proxy = server.client();
                for n in 0..3 {
                    let path = format!("/api/v1/kv/a/pool/{client}-{n}");
                    assert_eq!(client_of_proxy.send("PUT", &path, &[], b"x").status, 201);
                }
            });
        }
    });
}
