//! `limits.bodies_bytes_max`: what many slow bodies may hold together, and what becomes of those that do not fit.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{Connection, Server, engines, eventually, on_every_engine};

const MIB: usize = 1 << 20;
const BUDGET: usize = 4 * MIB;

fn start(engine: &str, request_timeout: &str) -> Server {
    let config = format!("[limits]\nbodies_bytes_max = \"4MiB\"\nrequest_timeout = \"{request_timeout}\"\n");
    Server::builder().engine(engine).config(&config).start()
}

fn put_head(n: usize, fields: &str) -> Vec<u8> {
    format!("PUT /api/v1/kv/n/c/{n} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MIB}\r\n{fields}\r\n").into_bytes()
}

/// Keeps bodies coming, a byte at a time: those that stand still would make way for others. Returns the bytes sent.
fn trickle(connections: &mut [Connection], until: &AtomicBool) -> usize {
    let mut sent = 0;
    while !until.load(Ordering::SeqCst) {
        connections.iter_mut().for_each(|connection| connection.write(b"x"));
        sent += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    sent
}

/// A connection that has sent half of a body of 1 MiB.
fn stalled(server: &Server, n: usize) -> Connection {
    let mut connection = server.connect();
    connection.write(&[put_head(n, ""), vec![b'x'; MIB / 2]].concat());
    connection
}

fn resident_bytes(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn many_stalled_bodies_hold_no_more_than_the_budget_and_all_are_stored_once_they_go_on() {
    const CLIENTS: usize = 40;
    for engine in engines() {
        let server = start(&engine, "60s");
        server.put("/api/v1/kv/n/c/first", b"x").expect(201);
        let before = resident_bytes(&server);
        let (half, go_on) = (Barrier::new(CLIENTS + 1), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (server, half, go_on) = (&server, &half, &go_on);
            let clients: Vec<_> = (0..CLIENTS)
                .map(|n| {
                    scope.spawn(move || {
                        let mut connection = server.connect();
                        connection.write(&put_head(n, ""));
                        half.wait();
                        connection.write(&vec![b'x'; MIB / 2]);
                        let mut connection = [connection];
                        let sent = trickle(&mut connection, go_on);
                        connection[0].write(&vec![b'y'; MIB / 2 - sent]);
                        connection[0].read(false).expect(201);
                    })
                })
                .collect();
            let ends = support::Ends(go_on);
            half.wait();
            eventually("the others wait", || {
                server.metric("larder_http_bodies_waited_total") == (CLIENTS - BUDGET / MIB) as f64
            });
            assert_eq!(server.metric("larder_http_bodies_bytes"), BUDGET as f64);
            server.put("/api/v1/kv/n/c/small", b"small ones go past").expect(201);
            let grown = resident_bytes(server).saturating_sub(before);
            assert!(grown < 16 * MIB, "{engine}: {grown} bytes for {CLIENTS} halves of 1 MiB");
            drop(ends);
            for client in clients {
                client.join().unwrap();
            }
        });
        eventually("all is given back", || server.metric("larder_http_bodies_bytes") == 0.0);
        assert_eq!(server.metric("larder_http_bodies_refused_total"), 0.0);
        for n in 0..CLIENTS {
            assert_eq!(server.get(&format!("/api/v1/kv/n/c/{n}")).expect(200).body.len(), MIB, "{engine} {n}");
        }
    }
}

#[test]
fn a_body_that_waits_in_vain_is_503_and_not_asked_for_and_room_comes_back() {
    for engine in engines() {
        let server = start(&engine, "1s");
        let mut holders: Vec<Connection> = (0..BUDGET / MIB).map(|n| stalled(&server, n)).collect();
        eventually("all is taken", || server.metric("larder_http_bodies_bytes") == BUDGET as f64);
        let enough = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let (holders, enough) = (&mut holders, &enough);
            let ends = support::Ends(enough);
            let trickling = scope.spawn(move || trickle(holders, enough));
            for (fields, body) in [("", 64), ("Expect: 100-continue\r\n", 0), ("Content-Encoding: gzip\r\n", 64)] {
                let mut late = server.connect();
                late.write(&[put_head(9, fields), vec![b'x'; body * 1024]].concat());
                let (status, _) = late.read_head().unwrap();
                assert_eq!(status, 503, "{engine}: no 100 before there is room");
            }
            let mut late = server.connect();
            late.write(
                b"POST /api/v1/batch HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n",
            );
            late.write(&[b' '; 64 * 1024]);
            let refused = late.read(false).expect(503);
            assert_eq!((refused.code().as_str(), refused.json()["written"].as_str()), ("OVERLOADED", Some("no")));
            assert_eq!(refused.header("Retry-After"), Some("1"));
            drop(ends);
            trickling.join().unwrap()
        });
        assert_eq!(server.metric("larder_http_bodies_refused_total"), 4.0, "{engine}");

        // One that leaves and one that ends make room for two.
        drop(holders.pop());
        let mut ends = holders.remove(0);
        ends.write(&vec![b'y'; MIB / 2 - sent]);
        ends.read(false).expect(201);
        for n in [10, 11] {
            let mut next = server.connect();
            next.write(&put_head(n, "Expect: 100-continue\r\n"));
            let (status, _) = next.read_head().unwrap();
            assert_eq!(status, 100, "{engine}");
            next.write(&[b'z'; MIB]);
            next.read(false).expect(201);
        }
        drop(holders);
        eventually("all is given back", || server.metric("larder_http_bodies_bytes") == 0.0);
    }
}

#[test]
fn a_body_that_stands_still_makes_way_for_one_that_waits() {
    for engine in engines() {
        let server = start(&engine, "60s");
        let mut holders: Vec<Connection> = (0..BUDGET / MIB).map(|n| stalled(&server, n)).collect();
        eventually("all is taken", || server.metric("larder_http_bodies_bytes") == BUDGET as f64);
        assert_eq!(server.put("/api/v1/kv/n/c/big", &vec![b'x'; MIB]).status, 201, "{engine}");
        assert!(server.metric("larder_http_bodies_evicted_total") >= 1.0, "{engine}");
        let ended = holders.iter_mut().filter_map(|holder| {
            holder.stream().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            holder.try_read(false).ok()
        });
        assert!(ended.map(|answer| answer.code()).any(|code| code == "REQUEST_TIMEOUT"), "{engine}");
    }
}

#[test]
fn a_body_that_waits_and_whose_client_leaves_is_forgotten() {
    for engine in engines() {
        let server = start(&engine, "60s");
        let holders: Vec<Connection> = (0..BUDGET / MIB).map(|n| stalled(&server, n)).collect();
        eventually("all is taken", || server.metric("larder_http_bodies_bytes") == BUDGET as f64);
        let waiting: Vec<Connection> = (10..20).map(|n| stalled(&server, n)).collect();
        eventually("they wait", || server.metric("larder_http_bodies_waited_total") == 10.0);
        drop(waiting);
        drop(holders);
        eventually("all is given back", || server.metric("larder_http_bodies_bytes") == 0.0);
        assert_eq!(server.put("/api/v1/kv/n/c/big", &vec![b'x'; MIB]).status, 201, "{engine}");
    }
}

#[test]
fn a_body_that_comes_in_two_pieces_is_read_whole_wherever_it_was_parted() {
    // Just before the memory for it grows, with an end that comes along.
    for (first, rest) in [(16_284, 600), (16_383, 1000), (15_400, 1500), (81_870, 500), (81_919, 900), (16_384, 700)] {
        on_every_engine(|server| {
            let value: Vec<u8> = (0..first + rest).map(|place| (place % 251) as u8).collect();
            let mut connection = server.connect();
            let length = value.len();
            let head = format!("PUT /api/v1/kv/n/c/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
            connection.write(head.as_bytes());
            connection.write(&value[..first]);
            // Nobody tells when the first piece was read. Too short a pause would only prove less.
            std::thread::sleep(Duration::from_millis(100));
            connection.write(&value[first..]);
            connection.read(false).expect(201);
            assert!(server.get("/api/v1/kv/n/c/k").expect(200).body == value, "{first} and {rest}");
        });
    }
}
