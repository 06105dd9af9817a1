//! Answers: their order, their framing, and what becomes of them when a client is slow or leaves.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::fixture::{Fixture, a_moment, get, pattern};
use crate::support::eventually;

#[test]
fn a_request_is_answered_and_the_connection_goes_on() {
    let server = Fixture::start();
    let mut connection = server.connect();
    for round in 0..3 {
        connection.write(get(&format!("/?{round}")).as_bytes());
        let answer = connection.read(false).expect(200);
        assert_eq!(answer.text(), format!("GET /?{round}"));
        assert_eq!(answer.header("Connection"), None);
    }
    assert_eq!(server.send("GET", "/work", b"").text(), "worked on 0 bytes");
}

#[test]
fn pipelined_requests_are_answered_in_order_also_behind_a_slow_one() {
    let server = Fixture::start();
    let mut connection = server.connect();
    let requests = ["/?1", "/?2", "/work", "/?3", "/hold", "/?4", "/bytes?100000", "/?5"].map(get).concat();
    connection.write(requests.as_bytes());
    for expected in ["GET /?1", "GET /?2", "worked on 0 bytes", "GET /?3"] {
        assert_eq!(connection.read(false).text(), expected);
    }
    eventually("the slow request is begun", || !server.seen.held.lock().is_empty());
    a_moment();
    assert!(!server.seen.begun.lock().contains(&"/?4".to_owned()), "begun before its predecessor was answered");
    server.seen.held.lock().pop().unwrap().send(larder::http::Response::with_body(200, "text/plain", "held"));
    for expected in ["held", "GET /?4"] {
        assert_eq!(connection.read(false).text(), expected);
    }
    assert_eq!(connection.read(false).body, pattern(100_000));
    assert_eq!(connection.read(false).text(), "GET /?5");
}

#[test]
fn a_hundred_pipelined_requests_in_one_packet_get_a_hundred_answers() {
    let server = Fixture::start();
    let mut connection = server.connect();
    let requests: String = (0..100).map(|n| get(&format!("/?{n}"))).collect();
    connection.write(requests.as_bytes());
    for n in 0..100 {
        assert_eq!(connection.read(false).text(), format!("GET /?{n}"));
    }
    // An answer is reported after it has left.
    eventually("all are reported", || server.seen.finished.lock().len() == 100);
}

#[test]
fn a_request_that_comes_byte_by_byte_is_read() {
    let server = Fixture::start();
    let mut connection = server.connect();
    for byte in b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\nT: v\r\n\r\n" {
        connection.write(&[*byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(connection.read(false).text(), "abc");
}

#[test]
fn bodies_of_every_kind_arrive_whole() {
    let server = Fixture::start();
    let mut connection = server.connect();
    for len in [0, 1, 999, 1000, 1001, 16_383, 16_384, 16_385, 300_000, 3_000_000] {
        for path in ["/bytes", "/pull", "/pull-length"] {
            connection.write(get(&format!("{path}?{len}")).as_bytes());
            let answer = connection.read(false).expect(200);
            assert!(answer.body == pattern(len), "{path} {len}: {} bytes", answer.body.len());
            assert_eq!(answer.header("Content-Length").is_none(), path == "/pull");
        }
    }
    eventually("all are reported", || server.seen.finished.lock().len() == 30);
    assert!(server.seen.finished.lock().iter().all(|(status, _, complete)| *status == 200 && *complete));
    assert_eq!(server.seen.finished.lock().last(), Some(&(200, 3_000_000, true)));
}

#[test]
fn a_slow_reader_gets_all_and_holds_no_thread() {
    let server = Fixture::with_limits(|limits| limits.answers_bytes_max = 100_000_000);
    let len = 30_000_000;
    let mut slow: Vec<_> = ["/bytes", "/pull"].iter().map(|path| (path, server.connect())).collect();
    for (path, connection) in &mut slow {
        connection.write(get(&format!("{path}?{len}")).as_bytes());
    }
    a_moment();
    for _ in 0..20 {
        assert_eq!(server.send("GET", "/work", b"").text(), "worked on 0 bytes");
    }
    for (path, connection) in &mut slow {
        assert!(connection.read(false).body == pattern(len), "{path}");
    }
}

#[test]
fn a_body_that_has_nothing_for_a_while_is_asked_again() {
    let server = Fixture::start();
    assert_eq!(server.send("GET", "/pull-slow?5", b"").text(), "xxxxx");
}

#[test]
fn head_has_the_head_of_get_and_no_body() {
    let server = Fixture::start();
    let mut connection = server.connect();
    for path in ["/bytes?100000", "/pull?100", "/?x", "/empty"] {
        connection.write(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let answer = connection.read(true);
        if path.starts_with("/bytes") {
            assert_eq!(answer.header("Content-Length"), Some("100000"));
        }
    }
    connection.write(get("/?last").as_bytes());
    assert_eq!(connection.read(false).text(), "GET /?last");
}

#[test]
fn http_1_0_is_closed_unless_it_asks_and_gets_no_chunks() {
    let server = Fixture::start();
    let mut connection = server.connect();
    connection.write(b"GET /?a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /pull?5000 HTTP/1.0\r\n\r\n");
    let first = connection.read(false);
    assert_eq!((first.text().as_str(), first.header("Connection")), ("GET /?a", Some("keep-alive")));
    let second = connection.read(false);
    assert_eq!(second.header("Transfer-Encoding"), None);
    assert_eq!(second.header("Connection"), Some("close"));
    assert_eq!(second.body, pattern(5000));
    assert!(connection.is_closed());
}

#[test]
fn connection_close_is_honoured_from_both_sides() {
    let server = Fixture::start();
    let mut asked = server.connect();
    asked.write(b"GET /?a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /?b HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(asked.read(false).header("Connection"), Some("close"));
    assert!(asked.is_closed(), "nothing behind it is answered");
    let mut told = server.connect();
    told.write(get("/close").as_bytes());
    assert_eq!(told.read(false).header("Connection"), Some("close"));
    assert!(told.is_closed());
    assert!(!server.seen.begun.lock().contains(&"/?b".to_owned()));
}

#[test]
fn a_client_that_has_finished_sending_still_gets_its_answers() {
    let server = Fixture::start();
    for path in ["/?x", "/work", "/bytes?1000000"] {
        let mut connection = server.connect();
        connection.write(get("/?first").as_bytes());
        connection.write(get(path).as_bytes());
        connection.stream().shutdown(Shutdown::Write).unwrap();
        connection.read(false).expect(200);
        connection.read(false).expect(200);
        assert!(connection.is_closed());
    }
}

#[test]
fn a_cut_answer_is_seen_as_cut_by_the_client_and_by_the_handler() {
    let server = Fixture::start();
    for path in ["/pull-too-short?5000", "/pull-too-long?5000", "/pull-panic"] {
        let mut connection = server.connect();
        connection.write(get(path).as_bytes());
        assert!(connection.try_read(false).is_err(), "{path} looks complete");
    }
    eventually("all are reported", || server.seen.finished.lock().len() == 3);
    assert!(server.seen.finished.lock().iter().all(|(_, _, complete)| !complete));
}

#[test]
fn an_answer_to_a_client_that_left_is_reported_as_incomplete() {
    let server = Fixture::start();
    let mut leaves_early = server.connect();
    leaves_early.write(get("/hold").as_bytes());
    eventually("the request is begun", || !server.seen.held.lock().is_empty());
    // Closing with an answer unread resets the connection, which the server sees at once.
    leaves_early.write(get("/?behind").as_bytes());
    rustix::net::sockopt::set_socket_linger(leaves_early.stream(), Some(Duration::ZERO)).unwrap();
    drop(leaves_early);
    eventually("the connection is gone", || server.metric("larder_http_connections ") == 0.0);
    server.seen.held.lock().pop().unwrap().send(larder::http::Response::new(204));
    eventually("it is reported", || !server.seen.finished.lock().is_empty());
    assert_eq!(*server.seen.finished.lock(), [(204, 0, false)]);

    let mut reads_little = server.connect();
    reads_little.write(get("/bytes?50000000").as_bytes());
    reads_little.stream().read_exact(&mut [0; 1000]).unwrap();
    drop(reads_little);
    eventually("it is reported", || server.seen.finished.lock().len() == 2);
    let (status, bytes, complete) = server.seen.finished.lock()[1];
    assert_eq!((status, complete), (200, false));
    assert!((500..50_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn a_panic_is_a_500_and_costs_neither_thread_nor_server() {
    let server = Fixture::start();
    for round in 1..=8 {
        for (method, path, body) in
            [("GET", "/panic-quick", ""), ("GET", "/panic-handle", ""), ("POST", "/panic-admit", "x")]
        {
            let answer = server.send(method, path, body.as_bytes());
            assert_eq!((answer.status, answer.code().as_str()), (500, "INTERNAL"));
            assert_eq!(
                answer.json()["written"],
                if method == "POST" { "unknown".into() } else { serde_json::Value::Null }
            );
        }
        // A worker's panic is counted after its answer has left.
        eventually("all are counted", || server.metric("larder_http_handler_panics_total") == f64::from(3 * round));
    }
    assert_eq!(server.send("GET", "/drop", b"").code(), "INTERNAL");
    server.send("GET", "/work", b"").expect(200);
}

#[test]
fn absolute_targets_and_the_asterisk_are_understood() {
    let server = Fixture::start();
    let mut connection = server.connect();
    connection.write(b"GET http://example.org:1/host HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!(connection.read(false).text(), "example.org:1");
    connection.write(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(connection.read(false).text(), "everything");
}

#[test]
fn unix_sockets_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("larder.sock");
    let server = Fixture::build(|_| {}, 1, Some(&path));
    for target in ["/peer", "/work"] {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(target != "/peer" || text.ends_with("\r\n\r\nunix"), "{text}");
    }
    assert!(server.send("GET", "/peer", b"").text().starts_with("127.0.0.1:"));
}
