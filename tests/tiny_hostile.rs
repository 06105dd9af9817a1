//! What clients may do to the tiny_http engine without harm to the others. HAZARDS of tiny_http 0.12, from outside.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/tiny.rs"]
mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::board::descriptor::{duplicate, numbers};
use larder::http::Ended;
use larder::limits::Limits;
use support::{Client, Running, eventually, start, start_with};

fn short() -> Limits {
    Limits {
        head_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(600),
        body_grace: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(700),
        ..Limits::default()
    }
}

fn closed(server: &Running, reason: &str) -> f64 {
    server.figure(&format!("larder_http_connections_closed_total{{reason=\"{reason}\"}}"))
}

fn assert_alive(server: &Running) {
    assert_eq!(server.connect().get("/const").text(), "hello");
}

#[test]
fn a_huge_content_length_is_413_and_kills_nobody() {
    let server = start(Limits::default());
    // Around what fits into 21, 26, 32, 63 and 64 bits: the sizes of a value, of tiny_http's buffers, of both kinds of usize.
    let lengths =
        [1 << 20, 1 << 26, 1 << 32, 1 << 63, u128::from(u64::MAX)].map(|bound: u128| [bound + 1, bound + 2, bound + 9]);
    let lengths = lengths.as_flattened().iter().filter(|length| u64::try_from(**length).is_ok());
    let near = [u64::from(u32::MAX), i64::MAX as u64, u64::MAX - 1, u64::MAX, 30_000_000_000];
    for length in near.into_iter().chain(lengths.map(|length| *length as u64)) {
        let mut client = server.connect();
        client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"));
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (413, Some("close")), "{length}");
        assert!(got.text().contains("VALUE_TOO_LARGE"));
        assert!(client.is_ended());
    }
    for length in ["18446744073709551616", "100000000000000000000000", "+99999999999", "99999999999x"] {
        let mut client = server.connect();
        client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"));
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (400, Some("close")), "{length}");
    }
    assert_alive(&server);
    eventually("all are gone", || server.figure("larder_http_connections") <= 1.0);
    assert_eq!(server.figure("larder_tiny_http_leaked_threads"), 0.0);
}

#[test]
fn too_many_lost_threads_end_the_run_so_that_a_new_process_can_start() {
    let server = start(Limits { leaked_threads_max: 3, ..Limits::default() });
    // Somebody holds the sockets of connections that have ended, as a thread does that is stuck in tiny_http.
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect();
        assert_eq!(client.get("/const").status, 200);
        let peer = Some(client.stream.local_addr().unwrap());
        let duplicates = numbers().unwrap().into_iter().filter_map(|number| duplicate(number).ok());
        let peer_of = |socket: &OwnedFd| SocketAddr::try_from(rustix::net::getpeername(socket).ok()??).ok();
        held.extend(duplicates.filter(|socket| peer_of(socket) == peer));
    }
    assert!(held.len() >= 3);
    assert_eq!(server.join(), Ended::Exhausted);
}

#[test]
fn a_refused_body_that_is_still_being_sent_does_not_lose_the_answer_nor_become_requests() {
    let server = start(Limits::default());
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100_000);
    for path in ["/refuse", "/echo"] {
        let mut client = server.connect();
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", smuggled.len());
        client.send(&head);
        let mut writing = client.stream.try_clone().unwrap();
        let body = smuggled.clone();
        let writer = std::thread::spawn(move || drop(writing.write_all(body.as_bytes())));
        let got = client.receive(false);
        assert!(matches!(got.status, 403 | 413), "{got:?}");
        writer.join().unwrap();
    }
    let mut client = server.connect();
    client.send("PUT /refuse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("ffff\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.receive(false).status, 403);
    assert!(client.is_ended());
    assert_alive(&server);
    assert!(!server.handler.begun.lock().iter().any(|target| target.contains("smuggled")));
}

#[test]
fn a_client_that_sends_all_of_a_refused_body_before_it_reads_gets_the_answer() {
    let server = start(Limits::default());
    let body = vec![b' '; (4 << 20) + 1];
    for round in 0..20 {
        let mut client = server.connect();
        client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()));
        client.stream.write_all(&body).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (413, Some("close")), "round {round}");
    }
    eventually("no thread is lost", || server.figure("larder_tiny_http_leaked_threads") == 0.0);
}

#[test]
fn a_refusal_leaves_the_body_unasked_for() {
    let server = start(Limits::default());
    let mut client = server.connect();
    client.send("PUT /refuse HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n");
    assert_eq!(client.receive(false).status, 403, "no 100 before it");
    assert!(client.is_ended());
    let mut client = server.connect();
    client.send("PUT /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.receive(false).status, 403);
    assert_eq!(client.get("/const").text(), "hello", "a small body is read already, so the connection goes on");
}

#[test]
fn broken_chunks_are_400_and_what_follows_is_not_a_request() {
    let server = start(Limits::default());
    for chunks in ["zz\r\nabc\r\n", "3\r\nabcX\r\n", "fffffffffffffffff\r\n", "0\r\nX y\r\n\r\n"] {
        let mut client = server.connect();
        client.send(&format!(
            "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}\
             GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
        ));
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (400, Some("close")), "{chunks:?}");
        assert!(client.is_ended(), "{chunks:?}");
    }
    assert!(!server.handler.begun.lock().iter().any(|target| target.contains("smuggled")));
    let mut client = server.connect();
    client.send("PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..40 {
        client.send(&format!("8000\r\n{}\r\n", "c".repeat(0x8000)));
    }
    assert_eq!(client.receive(false).status, 413);
}

#[test]
fn invalid_heads_get_one_refusal_and_the_end() {
    let server = start(Limits::default());
    let cases = [
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"),
        (400, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        (400, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"),
        (400, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n"),
        (400, "PUT / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (501, "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (501, "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n"),
        (400, "G(E)T / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, "GET /a\x01b HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: x\r\nX(y): a\r\n\r\n"),
    ];
    for (status, request) in cases {
        let mut client = server.connect();
        client.send(request);
        client.send("GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n");
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (status, Some("close")), "{request:?}");
        assert_eq!(got.field("content-type"), Some("application/problem+json"), "{request:?}");
        assert!(client.is_ended(), "{request:?}");
    }
    assert!(server.handler.begun.lock().is_empty());
    let mut client = server.connect();
    client.send(&format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9000)));
    assert_eq!(client.receive(false).status, 414);
    let mut client = server.connect();
    client.send(&format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(100)));
    assert_eq!(client.receive(false).status, 431);
}

#[test]
fn a_head_that_trickles_in_is_cut() {
    let server = start(short());
    let mut client = server.connect();
    client.send("GET /const HT");
    assert!(client.is_ended());
    eventually("it is counted", || closed(&server, "head_timeout") == 1.0);
    assert_alive(&server);
}

#[test]
fn a_head_without_end_is_cut() {
    let server = start(Limits::default());
    let mut client = server.connect();
    let line = format!("X: {}\r\n", "y".repeat(1000));
    let sent = client.stream.write_all(format!("GET / HTTP/1.1\r\n{}", line.repeat(1000)).as_bytes());
    assert!(sent.is_err() || client.receive(false).status == 431);
    assert!(client.is_ended());
    eventually("it is counted", || closed(&server, "head_timeout") == 1.0);
    assert_alive(&server);
}

#[test]
fn a_body_that_stalls_is_cut_and_frees_its_thread() {
    let server = start(short());
    let mut stalled: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    for client in &mut stalled {
        client.send("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\nabc");
    }
    assert_alive(&server);
    for client in &mut stalled {
        let mut all = Vec::new();
        let _ = client.stream.read_to_end(&mut all);
        assert!(!String::from_utf8_lossy(&all).contains(" 200 "));
    }
    let mut client = server.connect();
    client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n{}", "b".repeat(2000)));
    assert_eq!(client.receive(false).body.len(), 2000);
}

#[test]
fn a_body_that_comes_too_slowly_is_answered_408() {
    let server = start(short());
    let heads = [
        "Content-Length: 2000\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Transfer-Encoding: chunked\r\n\r\n9\r\nabc",
    ];
    for head in heads {
        let mut client = server.connect();
        client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\n{head}"));
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (408, Some("close")), "{head:?}");
        assert_eq!(got.field("content-type"), Some("application/problem+json"));
        assert!(got.text().contains("REQUEST_TIMEOUT"));
        assert!(client.is_ended());
    }
    eventually("each is counted", || closed(&server, "body_timeout") == 3.0);
    for head in heads {
        let mut client = server.connect();
        client.send(&format!("POST /import HTTP/1.1\r\nHost: x\r\n{head}"));
        let got = client.receive(false);
        assert_eq!(got.status, 400, "{head:?}: a handler that reads its body itself says what it makes of it");
    }
    assert_alive(&server);
}

#[test]
fn an_idle_connection_is_closed_but_not_one_that_waits_for_its_answer() {
    let server = start(short());
    let mut idle = server.connect();
    assert_eq!(idle.get("/const").status, 200);
    let mut never_spoke = server.connect();
    let mut waiting = server.connect();
    waiting.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    server.wait_held(1);
    assert!(idle.is_ended());
    assert!(never_spoke.is_ended());
    eventually("both are counted", || closed(&server, "idle") == 2.0);
    server.release("/hold");
    assert_eq!(waiting.receive(false).text(), "/hold");
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let server = start(short());
    let mut client = server.connect();
    client.send("GET /big?bytes=30000000 HTTP/1.1\r\nHost: x\r\n\r\n");
    eventually("the answer ends unfinished", || server.handler.finished.lock().contains(&(200, false)));
    assert_eq!(closed(&server, "write_timeout"), 1.0);
    assert_alive(&server);
}

#[test]
fn long_answers_to_an_address_do_not_hold_up_its_bodies() {
    let server = start(Limits { answers_bytes_max: 1 << 30, ..Limits::default() });
    let done = Arc::new(AtomicBool::new(false));
    // They always take a little, so that none of them gives its thread up.
    let exports: Vec<_> = (0..6)
        .map(|_| {
            let (mut client, done) = (server.connect(), Arc::clone(&done));
            client.send("GET /big?bytes=30000000 HTTP/1.1\r\nHost: x\r\n\r\n");
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while !done.load(Ordering::Relaxed) && client.stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        })
        .collect();
    eventually("the answers are made", || server.handler.begun.lock().len() == 6);
    let mut client = server.connect();
    client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n{}", "b".repeat(2000)));
    assert_eq!(client.receive(false).body.len(), 2000);
    assert!(exports.iter().any(|export| !export.is_finished()), "the answers are still on their way");
    done.store(true, Ordering::Relaxed);
    for export in exports {
        export.join().unwrap();
    }
}

#[test]
fn at_the_cap_the_longest_idle_connection_makes_room() {
    let server = start(Limits { connections_max: 8, ..Limits::default() });
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..8 {
        let mut client = server.connect();
        assert_eq!(client.get("/const").status, 200);
        clients.push(client);
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut ninth = server.connect();
    assert_eq!(ninth.get("/const").status, 200);
    assert!(clients[0].is_ended(), "the first was idle longest");
    eventually("it is counted", || closed(&server, "evicted") == 1.0);
    assert_eq!(clients[7].get("/const").status, 200);
    assert_eq!(ninth.get("/const").status, 200);
}

#[test]
fn one_address_may_not_take_all_connections() {
    let server = start(Limits { connections_per_address_max: 4, ..Limits::default() });
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..6 {
        let mut client = server.connect();
        assert_eq!(client.get("/const").status, 200);
        clients.push(client);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(clients[0].is_ended());
    assert!(clients[1].is_ended());
    assert_eq!(clients[5].get("/const").status, 200);
    eventually("they are counted", || closed(&server, "evicted") == 2.0);
}

#[test]
fn another_version_is_505_and_costs_no_thread() {
    let server = start(Limits { leaked_threads_max: 1, ..short() });
    let long = format!("GET /{} HTTP/3.0\r\nHost: x\r\n\r\n", "a".repeat(7000));
    for first in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/2.0 x\r\nHost: x\r\n\r\n", &long] {
        for warm in [false, true] {
            let mut client = server.connect();
            if warm {
                client.send("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\nGET / HTTP/2.0\r\n");
                assert_eq!(client.receive(false).status, 200, "a body may say anything");
            }
            client.send(first);
            let got = client.receive(false);
            assert_eq!((got.status, got.field("connection")), (505, Some("close")), "{first:?}");
        }
    }
    assert_alive(&server);
    eventually("they are counted", || closed(&server, "head_timeout") == 6.0);
    assert_eq!(server.figure("larder_tiny_http_leaked_threads"), 0.0);
    assert!(!server.has_ended());
}

#[test]
fn a_head_over_a_limit_is_refused_as_it_comes_and_an_answer_before_it_is_not_lost() {
    let server = start(Limits::default());
    let fields = format!("GET /const HTTP/1.1\r\n{}", "a:b\r\n".repeat(500));
    let line = format!("GET /const HTTP/1.1\r\nX: {}", "y".repeat(40_000));
    let broken = format!("GET /const HTTP/1.1\r\nX: {}", "\n".repeat(40_000));
    let target = format!("GET /{}", "y".repeat(40_000));
    for (head, status) in [(&fields, 431), (&line, 431), (&broken, 400), (&target, 414)] {
        let mut client = server.connect();
        client.send(head);
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (status, Some("close")));
        assert_eq!(got.field("content-type"), Some("application/problem+json"));
        let mut client = server.connect();
        client.send(&format!("GET /const HTTP/1.1\r\nHost: x\r\n\r\n{head}"));
        assert_eq!(client.receive(false).text(), "hello");
    }
    assert_alive(&server);
}

#[test]
fn large_heads_behind_one_another_wait_their_turn_and_are_all_answered() {
    let server = start(Limits { pipelined_requests_max: 4, ..Limits::default() });
    let mut client = server.connect();
    let heads = format!("GET /const HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(30_000)).repeat(40);
    let mut writing = client.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || writing.write_all(heads.as_bytes()));
    for _ in 0..40 {
        assert_eq!(client.receive(false).text(), "hello");
    }
    writer.join().unwrap().unwrap();
}

#[test]
fn heads_that_are_coming_share_a_budget() {
    let server = start(Limits { heads_bytes_max: 200_000, ..Limits::default() });
    let head = format!("GET /const HTTP/1.1\r\nX: {}", "y".repeat(20_000));
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..12 {
        let mut client = server.connect();
        client.send(&head);
        clients.push(client);
        std::thread::sleep(Duration::from_millis(20));
    }
    let got = clients[0].receive(false);
    assert_eq!((got.status, got.field("connection")), (408, Some("close")));
    assert!(clients[0].is_ended());
    clients[11].send("\r\nHost: x\r\n\r\n");
    assert_eq!(clients[11].receive(false).status, 200, "the youngest goes on");
    assert!(closed(&server, "memory") == 8.0);
    assert_alive(&server);
}

#[test]
fn an_import_whose_client_leaves_early_ends_with_an_error_and_kills_nobody() {
    let server = start(Limits::default());
    for length in [100_000u64, 30_000_000_000] {
        let mut client = server.connect();
        client.send(&format!("POST /import HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"));
        client.send(&"i".repeat(50_000));
        let told = server.handler.finished.lock().len();
        drop(client);
        eventually("the import ends", || server.handler.finished.lock().len() > told);
    }
    assert_alive(&server);
}

#[test]
fn a_flood_of_pipelined_requests_on_one_connection_does_not_starve_the_others() {
    let server = start_with(Limits::default(), 2);
    let mut flood = server.connect();
    let mut writing = flood.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let _ = writing.write_all("GET /work?ms=50 HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000).as_bytes());
    });
    for _ in 0..20 {
        assert_alive(&server);
    }
    let mut all = Vec::new();
    let _ = flood.stream.read_to_end(&mut all);
    writer.join().unwrap();
    eventually("it is counted", || closed(&server, "pipelining") == 1.0);
    assert!(server.handler.begun.lock().iter().filter(|target| target.starts_with("/work")).count() < 100);
}

/// Connects from this address, which may have been in use a moment ago.
fn connect_from(local: SocketAddr, server: &Running) -> Option<Client> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &local).ok()?;
    rustix::net::connect(&socket, &server.address).ok()?;
    Some(Client::new(std::net::TcpStream::from(socket)))
}

#[test]
fn a_client_that_comes_back_from_the_same_port_is_served() {
    let server = start(Limits::default());
    // An address that no other test connects from, so that the port stays free.
    let mut client = connect_from(SocketAddr::from(([127, 0, 0, 77], 0)), &server).unwrap();
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.receive(false).status, 400);
    assert!(client.is_ended());
    let local = client.stream.local_addr().unwrap();
    rustix::net::sockopt::set_socket_linger(&client.stream, Some(Duration::ZERO)).unwrap();
    drop(client);
    // Within the moment in which the old connection's rest is thrown away, the new one could be cut once.
    std::thread::sleep(Duration::from_millis(60));
    let mut client = None;
    eventually("the port is free again", || {
        client = connect_from(local, &server);
        client.is_some()
    });
    assert_eq!(client.unwrap().get("/const").text(), "hello");
}
