//! Bodies of requests: framing, limits, expectations, and the import lane.

use std::io::Write;
use std::time::Duration;

use crate::fixture::{Fixture, a_moment, get, pattern};
use crate::support::{Connection, eventually};

fn post(connection: &mut Connection, path: &str, fields: &str) {
    connection.write(format!("POST {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes());
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

#[test]
fn bodies_of_all_sizes_come_through_whole_in_both_framings() {
    let server = Fixture::start();
    let mut connection = server.connect();
    for len in [1, 1000, 16_000, 16_384, 65_536, 65_537, 200_000, 1_000_000] {
        let body = pattern(len);
        post(&mut connection, "/echo", &format!("Content-Length: {len}\r\n"));
        connection.write(&body);
        // What lies behind the body in the same packet is the next request.
        connection.write(get("/?behind").as_bytes());
        assert!(connection.read(false).body == body, "{len} with a length");
        assert_eq!(connection.read(false).text(), "GET /?behind");
        post(&mut connection, "/echo", "Transfer-Encoding: chunked\r\n");
        let coded: Vec<u8> = body.chunks(7919).flat_map(chunk).collect();
        connection.write(&[coded.as_slice(), b"0\r\n\r\n", get("/?behind").as_bytes()].concat());
        assert!(connection.read(false).body == body, "{len} in chunks");
        assert_eq!(connection.read(false).text(), "GET /?behind");
    }
}

#[test]
fn a_chunked_body_cut_at_every_point_is_the_same_body() {
    let server = Fixture::start();
    let coded = b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nT: v\r\n\r\n";
    let mut connection = server.connect();
    for split in 0..coded.len() {
        post(&mut connection, "/echo", "Transfer-Encoding: chunked\r\n");
        connection.write(&coded[..split]);
        std::thread::sleep(Duration::from_millis(1));
        connection.write(&coded[split..]);
        assert_eq!(connection.read(false).text(), "hello world", "split at {split}");
    }
}

#[test]
fn a_body_as_large_as_the_limit_is_taken_and_one_byte_more_is_413() {
    let server = Fixture::start();
    for (path, limit, code) in [("/value", 1000, "VALUE_TOO_LARGE"), ("/echo", 1_000_000, "BODY_TOO_LARGE")] {
        let body = pattern(limit + 1);
        assert_eq!(server.send("PUT", path, &body[1..]).expect(200).body.len(), limit);
        let refused = server.send("PUT", path, &body);
        assert_eq!((refused.status, refused.code().as_str()), (413, code));
        assert_eq!(refused.header("Connection"), Some("close"));
        let mut chunked = server.connect();
        post(&mut chunked, path, "Transfer-Encoding: chunked\r\n");
        let _ = chunked.stream().write_all(&[chunk(&body[1..]), chunk(b"x")].concat());
        assert_eq!(chunked.read(false).code(), code);
        assert!(chunked.is_closed());
    }
}

#[test]
fn a_client_that_goes_on_sending_a_refused_body_still_sees_the_answer() {
    let server = Fixture::start();
    let mut connection = server.connect();
    post(&mut connection, "/echo", "Content-Length: 5000000\r\n");
    for _ in 0..50 {
        connection.write(&pattern(100_000));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(connection.read(false).code(), "BODY_TOO_LARGE");
    assert!(connection.is_closed());
}

#[test]
fn the_body_is_asked_for_after_the_decision_and_only_if_it_is_wanted() {
    let server = Fixture::start();
    let mut connection = server.connect();
    post(&mut connection, "/echo", "Content-Length: 5\r\nExpect: 100-Continue\r\n");
    assert_eq!(connection.read_head().unwrap().0, 100);
    connection.write(b"hello");
    assert_eq!(connection.read_head().unwrap().0, 200);

    for (path, length, status) in [("/refuse", 5, 401), ("/value", 1001, 413)] {
        let mut unwanted = server.connect();
        post(&mut unwanted, path, &format!("Content-Length: {length}\r\nExpect: 100-continue\r\n"));
        assert_eq!(unwanted.read_head().unwrap().0, status, "the first answer is the last");
    }
    let mut unknown = server.connect();
    post(&mut unknown, "/echo", "Content-Length: 5\r\nExpect: tea\r\n");
    assert_eq!(unknown.read(false).code(), "EXPECTATION_FAILED");
    let mut already_there = server.connect();
    post(
        &mut already_there,
        "/echo",
        "Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello".trim_end_matches("\r\n"),
    );
    let (status, _) = already_there.read_head().unwrap();
    assert!(status == 100 || status == 200, "{status}");
    let mut old = server.connect();
    old.write(b"POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    a_moment();
    old.write(b"hello");
    assert_eq!(old.read_head().unwrap().0, 200, "HTTP/1.0 knows no 100");
}

#[test]
fn a_refused_body_that_is_there_already_is_dropped_and_the_connection_goes_on() {
    let server = Fixture::start();
    let mut connection = server.connect();
    let refused = format!("POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello{}", get("/?next"));
    connection.write(refused.as_bytes());
    assert_eq!(connection.read(false).code(), "UNAUTHORIZED");
    assert_eq!(connection.read(false).text(), "GET /?next");
    post(&mut connection, "/refuse", "Content-Length: 50\r\n");
    assert_eq!(connection.read(false).header("Connection"), Some("close"));
}

#[test]
fn an_import_streams_through_a_pipe_that_holds_the_client_back() {
    let server = Fixture::start();
    let mut connection = server.connect();
    post(&mut connection, "/import?slow", "Transfer-Encoding: chunked\r\n");
    connection.stream().set_nonblocking(true).unwrap();
    let piece = chunk(&pattern(100_000));
    let (mut sent, mut idle_rounds) = (0, 0);
    // The reader takes one piece and waits: the pipe, then the socket's buffers fill, and then nothing goes any more.
    while idle_rounds < 20 {
        let at = sent % piece.len();
        match connection.stream().write(&piece[at..]) {
            Ok(bytes) => (sent, idle_rounds) = (sent + bytes, 0),
            Err(_) => {
                idle_rounds += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        assert!(sent < 200_000_000, "nothing holds the client back");
    }
    connection.stream().set_nonblocking(false).unwrap();
    let rest = (piece.len() - sent % piece.len()) % piece.len();
    let total = (sent + rest) / piece.len() * 100_000;
    for _ in 0..total / 5000 {
        server.open_gate();
    }
    connection.write(&piece[piece.len() - rest..]);
    connection.write(b"0\r\n\r\n");
    connection.write(get("/?after").as_bytes());
    assert_eq!(connection.read(false).text(), format!("imported {total}"));
    assert_eq!(connection.read(false).text(), "GET /?after");
}

#[test]
fn an_import_with_a_length_is_read_to_its_end() {
    let server = Fixture::start();
    let answer = server.send("POST", "/import", &pattern(3_000_000));
    assert_eq!(answer.text(), "imported 3000000");
}

#[test]
fn one_import_more_than_there_are_lanes_is_503_and_a_lane_comes_free_again() {
    let server = Fixture::start();
    let mut open: Vec<Connection> = (0..2).map(|_| server.connect()).collect();
    for connection in &mut open {
        post(connection, "/import", "Transfer-Encoding: chunked\r\n");
        connection.write(&chunk(b"x"));
    }
    eventually("both are begun", || server.seen.begun.lock().len() == 2);
    let refused = server.send("POST", "/import", b"hello");
    assert_eq!((refused.status, refused.code().as_str()), (503, "OVERLOADED"));
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(refused.json()["written"], "no");
    open[0].write(b"0\r\n\r\n");
    assert_eq!(open[0].read(false).text(), "imported 1");
    eventually("a lane is free", || server.send("POST", "/import", b"hello").status == 200);
}

#[test]
fn the_reader_of_an_import_learns_that_its_client_left_or_sent_rubbish() {
    let server = Fixture::start();
    let mut leaves = server.connect();
    post(&mut leaves, "/import", "Content-Length: 1000\r\n");
    leaves.write(b"hello");
    drop(leaves);
    eventually("it was told", || server.seen.import_errors.lock().len() == 1);
    let mut rubbish = server.connect();
    post(&mut rubbish, "/import", "Transfer-Encoding: chunked\r\n");
    rubbish.write(b"3\r\nabcXX");
    assert_eq!(rubbish.read(false).code(), "BAD_REQUEST");
    assert!(rubbish.is_closed());
    let told = server.seen.import_errors.lock().clone();
    assert_eq!(told, [std::io::ErrorKind::ConnectionAborted, std::io::ErrorKind::InvalidData]);
}

#[test]
fn an_import_that_is_answered_before_its_end_ends_the_connection() {
    let server = Fixture::start();
    let mut connection = server.connect();
    post(&mut connection, "/import-deaf", "Content-Length: 5000000\r\n");
    for _ in 0..50 {
        connection.write(&pattern(100_000));
    }
    let answer = connection.read(false);
    assert_eq!(answer.code(), "INVALID_JSON");
    assert_eq!(answer.header("Connection"), Some("close"));
    assert!(connection.is_closed());
}
