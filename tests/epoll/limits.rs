//! Limits: time-outs, caps, the queue, and the drain. Each is made tiny and then met.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use larder::http::{Ended, Response};

use crate::fixture::{Fixture, a_moment, get, pattern};
use crate::support::{Connection, eventually};

const TINY: Duration = Duration::from_millis(200);

fn closed(server: &Fixture, reason: &str) -> f64 {
    server.metric(&format!("larder_http_connections_closed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_head_that_does_not_end_is_408_also_when_it_drips() {
    let server = Fixture::with_limits(|limits| limits.head_timeout = TINY);
    let mut stalled = server.connect();
    stalled.write(b"GET / HTTP/1.1\r\nHos");
    assert_eq!(stalled.read(false).code(), "REQUEST_TIMEOUT");
    assert!(stalled.is_closed());
    let dripping = server.connect();
    let mut answer = Vec::new();
    dripping.stream().set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    for _ in 0..1000 {
        let _ = dripping.stream().write(b"a");
        let mut piece = [0; 1000];
        match dripping.stream().read(&mut piece) {
            Ok(0) => break,
            Ok(bytes) => answer.extend_from_slice(&piece[..bytes]),
            Err(_) => {}
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", answer.escape_ascii());
    eventually("both are counted", || closed(&server, "head_timeout") == 2.0);
}

#[test]
fn a_head_deadline_starts_with_its_first_byte_and_not_before() {
    let server = Fixture::with_limits(|limits| limits.head_timeout = TINY);
    let mut connection = server.connect();
    for _ in 0..2 {
        std::thread::sleep(2 * TINY);
        connection.write(get("/?x").as_bytes());
        connection.read(false).expect(200);
    }
}

#[test]
fn a_body_that_is_too_slow_or_too_long_under_way_is_408() {
    let slow = Fixture::with_limits(|limits| (limits.body_grace, limits.body_rate_min) = (TINY, 1000));
    let whole = Fixture::with_limits(|limits| limits.body_timeout = TINY);
    for server in [&slow, &whole] {
        let mut connection = server.connect();
        connection.write(b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhello");
        assert_eq!(connection.read(false).code(), "REQUEST_TIMEOUT");
        assert!(connection.is_closed());
        eventually("it is counted", || closed(server, "body_timeout") == 1.0);
    }
    let mut import = slow.connect();
    import.write(b"POST /import HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhello");
    assert_eq!(import.read(false).code(), "BAD_REQUEST", "the handler answers for its import");
    assert_eq!(*slow.seen.import_errors.lock(), [std::io::ErrorKind::TimedOut]);
}

#[test]
fn a_body_within_its_pace_may_take_longer_than_the_grace() {
    let server = Fixture::with_limits(|limits| (limits.body_grace, limits.body_rate_min) = (TINY, 1));
    let mut connection = server.connect();
    connection.write(b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n");
    for _ in 0..20 {
        connection.write(b"x");
        std::thread::sleep(TINY / 5);
    }
    connection.read(false).expect(200);
}

#[test]
fn an_idle_connection_is_closed_without_a_word_and_one_that_waits_for_us_is_not() {
    let server = Fixture::with_limits(|limits| limits.idle_timeout = TINY);
    let mut never_spoke = server.connect();
    let mut spoke = server.connect();
    spoke.write(get("/?x").as_bytes());
    spoke.read(false).expect(200);
    let mut waits = server.connect();
    waits.write(get("/hold").as_bytes());
    assert_eq!(never_spoke.read_to_end(), b"");
    assert_eq!(spoke.read_to_end(), b"");
    eventually("both are counted", || closed(&server, "idle") == 2.0);
    std::thread::sleep(2 * TINY);
    server.seen.held.lock().pop().unwrap().send(Response::new(204));
    waits.read(false).expect(204);
}

#[test]
fn a_client_that_takes_no_byte_of_its_answer_is_cut_and_a_slow_one_is_not() {
    let server = Fixture::with_limits(|limits| {
        limits.idle_timeout = TINY;
        limits.answers_bytes_max = 100_000_000;
    });
    let mut takes_nothing = server.connect();
    takes_nothing.write(get("/bytes?50000000").as_bytes());
    eventually("it is counted", || closed(&server, "write_timeout") == 1.0);
    let mut slow = server.connect();
    slow.write(get("/bytes?20000000").as_bytes());
    let (mut taken, mut piece) = (0, vec![0; 500_000]);
    while taken < 20_000_000 {
        match slow.stream().read(&mut piece).unwrap() {
            0 => panic!("cut after {taken}"),
            bytes => taken += bytes,
        }
        std::thread::sleep(TINY / 20);
    }
}

#[test]
fn limits_may_change_while_the_engine_runs() {
    let server = Fixture::start();
    let mut limits = (*server.limits.get()).clone();
    limits.target_bytes_max = 10;
    server.limits.set(limits);
    eventually("the new limit holds", || server.send("GET", "/?0123456789", b"").status == 414);
}

#[test]
fn a_full_queue_is_503_and_nothing_is_written() {
    let server = Fixture::build(|limits| limits.queued_requests_max = 2, 1, None);
    let mut at_work = server.connect();
    at_work.write(get("/gate").as_bytes());
    eventually("the worker is busy", || server.metric("larder_http_workers_busy") == 1.0);
    let mut queued: Vec<Connection> = (0..2).map(|_| server.connect()).collect();
    for connection in &mut queued {
        connection.write(get("/work").as_bytes());
    }
    eventually("the queue is full", || server.metric("larder_http_queue_depth") == 2.0);
    let refused = server.send("PUT", "/work", b"");
    assert_eq!((refused.status, refused.code().as_str()), (503, "OVERLOADED"));
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(refused.json()["written"], "no");
    assert_eq!(server.send("GET", "/work", b"").json()["written"], serde_json::Value::Null);
    assert_eq!(server.send("GET", "/?quick", b"").status, 200, "what needs no worker is still answered");
    server.open_gate();
    at_work.read(false).expect(200);
    for connection in &mut queued {
        connection.read(false).expect(200);
    }
    assert_eq!(server.metric("larder_http_overloaded_total"), 2.0);
}

#[test]
fn a_request_that_waited_too_long_for_a_worker_is_not_begun() {
    let server = Fixture::build(|limits| limits.request_timeout = TINY, 1, None);
    let mut at_work = server.connect();
    at_work.write(get("/gate").as_bytes());
    eventually("the worker is busy", || server.metric("larder_http_workers_busy") == 1.0);
    let mut queued = server.connect();
    queued.write(b"DELETE /work HTTP/1.1\r\nHost: x\r\n\r\n");
    // The worker stays busy all the while: who waits for it is told all the same.
    let answer = queued.read(false);
    assert_eq!((answer.code().as_str(), answer.json()["written"].as_str()), ("OVERLOADED", Some("no")));
    server.open_gate();
    at_work.read(false).expect(200);
    assert_eq!(server.metric("larder_http_queue_depth"), 0.0);
}

#[test]
fn the_drain_answers_what_was_asked_and_closes_the_rest() {
    let server = Fixture::start();
    let mut idle = server.connect();
    idle.write(get("/?x").as_bytes());
    idle.read(false).expect(200);
    let mut partial = server.connect();
    partial.write(b"GET /?late HTTP/1.1\r\n");
    let mut held = server.connect();
    held.write([get("/hold"), get("/?behind")].concat().as_bytes());
    eventually("it is begun", || !server.seen.held.lock().is_empty());
    let mut reading = server.connect();
    reading.write(get("/bytes?20000000").as_bytes());
    a_moment();
    server.drain.start();
    assert_eq!(idle.read_to_end(), b"");
    partial.write(b"Host: x\r\n\r\n");
    assert_eq!(partial.read(false).header("Connection"), Some("close"));
    let answer = reading.read(false);
    assert!(answer.body == pattern(20_000_000));
    server.seen.held.lock().pop().unwrap().send(Response::new(204));
    assert_eq!(held.read(false).header("Connection"), Some("close"));
    assert!(held.is_closed());
    assert_eq!(server.stop(), Ended::Drained);
}

#[test]
fn the_drain_cuts_what_does_not_end_in_time() {
    let server = Fixture::with_limits(|limits| limits.drain_timeout = TINY);
    let mut held = server.connect();
    held.write(get("/hold").as_bytes());
    eventually("it is begun", || !server.seen.held.lock().is_empty());
    let seen = std::sync::Arc::clone(&server.seen);
    let began = Instant::now();
    assert_eq!(server.stop(), Ended::CutShort);
    assert!(began.elapsed() < Duration::from_secs(8), "the default would have been used");
    assert!(held.is_closed());
    drop(std::mem::take(&mut *seen.held.lock()));
}
