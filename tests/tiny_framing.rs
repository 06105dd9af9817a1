//! On tiny_http larder sees every byte before tiny_http does. What a body holds must not matter to that, nor how the bytes
//! are cut, and what came before a bad head is answered.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/tiny.rs"]
mod support;

use std::time::Duration;

use larder::limits::Limits;
use support::{eventually, start};

/// Text that looks like requests, good and bad.
fn evil(bytes: usize) -> String {
    let text = "GET / HTTP/2.0\r\nExpect: rain\r\nContent-Length: 1000\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n\r\n: \0\r\n";
    text.repeat(bytes / text.len() + 1)[..bytes].to_owned()
}

fn put(body: &str) -> String {
    format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn put_chunked(body: &str) -> String {
    let (first, rest) = body.split_at(body.len() / 3);
    let chunks = format!("{:x};a=b\r\n{first}\r\n{:X}\r\n{rest}\r\n0\r\n\r\n", first.len(), rest.len());
    format!("PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
}

const GET: &str = "GET /const HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn bodies_come_back_as_they_were_sent_whatever_is_in_them_and_however_they_are_cut() {
    let server = start(Limits::default());
    for size in [20, 900, 1024, 1025, 3000, 70_000] {
        let body = evil(size);
        for request in [put(&body), put_chunked(&body)] {
            let all = [GET, &request, &request, GET].concat();
            for cut in [0, GET.len() + 10, GET.len() + 90, GET.len() + request.len() - 5, all.len() - 40] {
                let mut client = server.connect();
                client.send(&all[..cut]);
                if cut > 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                client.send(&all[cut..]);
                assert_eq!(client.receive(false).text(), "hello");
                assert_eq!(client.receive(false).text(), body, "{size} bytes, cut at {cut}");
                assert_eq!(client.receive(false).text(), body, "{size} bytes, cut at {cut}");
                assert_eq!(client.receive(false).text(), "hello");
                // A head that does not come in one read is as good as any.
                client.send(&format!("GET /const HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "k".repeat(12_000)));
                assert_eq!(client.receive(false).text(), "hello");
                client.send("GET / HTTP/2.0\r\n\r\n");
                assert_eq!(client.receive(false).status, 505);
            }
        }
    }
    assert!(!server.handler.begun.lock().iter().any(|target| target.contains("smuggled")));
    assert_eq!(server.figure("larder_tiny_http_leaked_threads"), 0.0);
}

#[test]
fn a_bad_head_behind_good_requests_is_refused_once_they_are_answered() {
    let server = start(Limits::default());
    let bad = [
        "GET / HTTP/1.9\r\n\r\n",
        "\r\n\r\n",
        " a\r\n",
        "GET /\u{e9} HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    ];
    for bad in bad {
        let heads = format!("{GET}{}{GET}", put(&evil(3000)));
        let mut client = server.connect();
        client.send(&[&heads, bad].concat());
        assert_eq!(client.receive(false).text(), "hello");
        assert_eq!(client.receive(false).text().len(), 3000);
        assert_eq!(client.receive(false).text(), "hello");
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (400, Some("close")), "{bad:?}");
    }
    for _ in 0..200 {
        let mut client = server.connect();
        assert_eq!(client.get("/const").text(), "hello");
        client.send(bad[0]);
        assert_eq!(client.receive(false).status, 400, "also right behind an answer");
    }
}

#[test]
fn chunks_that_are_none_are_400_wherever_they_come() {
    let server = start(Limits::default());
    let head = "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    for bad in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "5 x\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
    ] {
        for good in ["", "5\r\nhello\r\n", &format!("fff\r\n{}\r\n", "x".repeat(4095))] {
            for pause in [false, true] {
                let mut client = server.connect();
                client.send(&[head, good].concat());
                if pause {
                    std::thread::sleep(Duration::from_millis(20));
                }
                client.send(&[bad, "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"].concat());
                let got = client.receive(false);
                assert_eq!((got.status, got.field("connection")), (400, Some("close")), "{bad:?} behind {good:.20?}");
            }
        }
    }
    assert!(!server.handler.begun.lock().iter().any(|target| target.contains("smuggled")));
    assert_eq!(server.connect().get("/const").text(), "hello");
}

#[test]
fn neither_idle_connections_nor_bodies_count_as_heads() {
    let server = start(Limits { heads_bytes_max: 100_000, ..Limits::default() });
    let mut idle: Vec<_> = (0..24).map(|_| server.connect()).collect();
    for client in &mut idle {
        client.send(&put(&"a\r\n".repeat(1000)));
        assert_eq!(client.receive(false).status, 200);
    }
    let mut upload = server.connect();
    let body = "a\r\n".repeat(30_000);
    let request = put(&body);
    upload.send(&request[..request.len() - 10]);
    let mut heads: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for client in &mut heads {
        client.send(&format!("GET /const HTTP/1.1\r\nX: {}", "y".repeat(20_000)));
    }
    let memory = "larder_http_connections_closed_total{reason=\"memory\"}";
    eventually("some heads make way", || server.figure(memory) >= 6.0);
    upload.send(&request[request.len() - 10..]);
    assert_eq!(upload.receive(false).text(), body);
    for client in idle.iter_mut().chain([&mut upload]) {
        assert_eq!(client.get("/const").text(), "hello");
    }
}

#[test]
fn a_request_in_one_segment_with_a_heavy_head_or_with_broken_chunks_is_not_lost() {
    let server = start(Limits { heads_bytes_max: 64 * 1024, ..Limits::default() });
    let heavy = format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(95));
    let mut partial: Vec<_> = (0..4).map(|_| server.connect()).collect();
    partial.iter_mut().for_each(|client| client.send(&heavy));
    for _ in 0..3 {
        let mut client = server.connect();
        client.send(&[&put("hello"), "GET / HTTP/1.1\r\n", &"a:\r\n".repeat(100)].concat());
        assert_eq!(client.receive(false).text(), "hello");
        assert_eq!(client.receive(false).status, 408);
    }
    drop(partial);
    let broken = "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n";
    for size in [10, 1500, 5000, 70_000] {
        for good in [put(&evil(size)), put_chunked(&evil(size))] {
            let mut client = server.connect();
            client.send(&[&good, broken].concat());
            assert_eq!(client.receive(false).text(), evil(size));
            assert_eq!(client.receive(false).status, 400);
        }
    }
}

#[test]
fn a_small_body_that_came_with_the_wish_to_be_asked_for_it_is_not_waited_for() {
    let server = start(Limits { body_grace: Duration::from_secs(60), ..Limits::default() });
    let expects = "PUT /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    let mut client = server.connect();
    client.send(&[expects, expects, GET].concat());
    for _ in 0..2 {
        assert_eq!(client.receive(true).status, 100);
        assert_eq!(client.receive(false).text(), "hello");
    }
    assert_eq!(client.receive(false).text(), "hello");
}

#[test]
fn what_small_bodies_become_is_waited_for_by_nobody_who_has_other_work() {
    let limits =
        Limits { bodies_bytes_max: 1 << 20, value_bytes_max: 900_000, body_bytes_max: 1_000_000, ..Limits::default() };
    let server = start(limits);
    let mut large: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut large {
        client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 800000\r\n\r\n{}", "x".repeat(300_000)));
    }
    let small = "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 900\r\n\r\n";
    let mut waiting: Vec<_> = (0..8).map(|_| server.connect()).collect();
    waiting.iter_mut().for_each(|client| client.send(&[small, &"z".repeat(900)].concat()));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.connect().get("/const").text(), "hello");
    for client in &waiting {
        client.stream.set_nonblocking(true).unwrap();
        let seen = client.stream.peek(&mut [0]);
        assert!(seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "they wait still");
    }
}
