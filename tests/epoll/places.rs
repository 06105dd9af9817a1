//! Who gets a connection when there are as many as there may be: who makes way, who never does, and what the others hear.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::http::Response;
use larder::http::network::Unbounded;
use larder::limits::Limits;

use crate::fixture::{Fixture, a_moment, get};
use crate::support::{Client, Connection, Ends, eventually};

fn closed(server: &Fixture, reason: &str) -> f64 {
    server.metric(&format!("larder_http_connections_closed_total{{reason=\"{reason}\"}}"))
}

/// So many places for the only address there is, bounded in one of the two ways.
fn bounded(places: usize, by_address: bool) -> impl FnOnce(&mut Limits) {
    move |limits| match by_address {
        true => limits.connections_per_address_max = places,
        false => limits.connections_max = places,
    }
}

fn ask(connection: &mut Connection) {
    connection.write(get("/?x").as_bytes());
    connection.read(false).expect(200);
}

#[test]
fn the_longest_idle_makes_way_and_the_others_stay() {
    for by_address in [true, false] {
        let server = Fixture::with_limits(bounded(3, by_address));
        let mut busy = server.connect();
        busy.write(get("/hold").as_bytes());
        eventually("it is begun", || !server.seen.held.lock().is_empty());
        let (mut old, mut young) = (server.connect(), server.connect());
        ask(&mut old);
        a_moment();
        ask(&mut young);
        let mut new = server.connect();
        ask(&mut new);
        assert!(old.is_closed(), "the longest idle was to go");
        [&mut young, &mut new].into_iter().for_each(ask);
        eventually("it is counted", || closed(&server, "evicted") == 1.0);
        server.seen.held.lock().pop().unwrap().send(Response::new(204));
        busy.read(false).expect(204);
    }
}

#[test]
fn who_only_holds_a_place_makes_way_and_is_answered_if_it_had_begun_to_ask() {
    let chunked = "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nhello";
    let late = Some((408, "REQUEST_TIMEOUT"));
    let occupants = [
        ("nothing", String::new(), Some((503, "OVERLOADED"))),
        ("an idle connection", get("/?x"), None),
        ("a slow head", "GET /?x HTTP/1.1\r\nHos".to_owned(), late),
        ("the slow head of a write", "PUT /echo HTTP/1.1\r\nHos".to_owned(), late),
        ("a second head that is slow", get("/?x") + "GET /?y", late),
        ("a slow body", "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nhello".into(), late),
        ("a slow chunk", chunked.to_owned(), late),
    ];
    for (what, sent, refusal) in occupants {
        for by_address in [true, false] {
            let server = Fixture::with_limits(bounded(1, by_address));
            let mut occupant = server.connect();
            occupant.write(sent.as_bytes());
            if sent.starts_with(&get("/?x")) {
                occupant.read(false).expect(200);
            }
            a_moment();
            let mut new = server.connect();
            new.write(get("/?new").as_bytes());
            assert_eq!(new.read(false).expect(200).text(), "GET /?new", "beside {what}");
            if let Some(refusal) = refusal {
                let answer = occupant.read(false);
                assert_eq!((answer.status, answer.code().as_str()), refusal, "{what}");
            }
            assert_eq!(occupant.read_to_end(), b"", "{what}");
            eventually("it is counted", || closed(&server, "evicted") == 1.0);
        }
    }
}

#[test]
fn who_is_at_work_never_makes_way_and_the_newcomer_is_told_when_to_come_again() {
    let at_work = [
        get("/bytes?20000000"),
        get("/hold"),
        "POST /import HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\nhello".to_owned(),
    ];
    for (by_address, reason) in [(true, "address_limit"), (false, "full")] {
        let server = Fixture::with_limits(|limits| {
            bounded(at_work.len(), by_address)(limits);
            limits.body_grace = Duration::from_secs(300);
        });
        let mut busy: Vec<Connection> = at_work.iter().map(|_| server.connect()).collect();
        for (n, (connection, sent)) in busy.iter_mut().zip(&at_work).enumerate() {
            connection.write(sent.as_bytes());
            if n == 0 {
                // Of a long answer the beginning is read. It takes its thread a while to make it.
                assert_eq!(connection.read_head().unwrap().0, 200);
            }
        }
        eventually("they are begun", || server.seen.held.lock().len() == 1 && server.seen.begun.lock().len() == 3);
        a_moment();
        for (method, written) in [("PUT", serde_json::json!("no")), ("GET", serde_json::Value::Null)] {
            let mut new = server.connect();
            new.write(format!("{method} /?new HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes());
            let answer = new.read(false);
            assert_eq!((answer.status, answer.code().as_str()), (503, "OVERLOADED"));
            assert_eq!((answer.header("Retry-After"), answer.header("Connection")), (Some("1"), Some("close")));
            assert_eq!(answer.json()["written"], written);
            assert!(new.is_closed());
        }
        let mut head = server.connect();
        head.write(b"HEAD /?new HTTP/1.1\r\nHost: x\r\n\r\n");
        head.read(true).expect(503);
        assert_eq!(head.read_to_end(), b"", "no body after HEAD");
        let mut silent = server.connect();
        assert_eq!(silent.read(false).status, 503);
        assert_eq!(closed(&server, reason), 4.0);
        assert_eq!(closed(&server, "evicted"), 0.0);
        assert!(!server.seen.begun.lock().iter().any(|target| target == "/?new"));
        server.seen.held.lock().pop().unwrap().send(Response::new(204));
        busy[1].read(false).expect(204);
        let mut new = server.connect();
        ask(&mut new);
    }
}

#[test]
fn a_body_that_keeps_its_pace_is_at_work() {
    let server = Fixture::with_limits(bounded(1, true));
    let mut busy = server.connect();
    let (first, last) = ("x".repeat(300_000), "x".repeat(300_000));
    busy.write(format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\n\r\n{first}").as_bytes());
    a_moment();
    for _ in 0..3 {
        let mut new = server.connect();
        new.write(get("/?new").as_bytes());
        new.read(false);
    }
    busy.write(last.as_bytes());
    assert_eq!(busy.read(false).expect(200).body.len(), 600_000);
}

#[test]
fn a_place_that_comes_free_in_time_is_given_to_who_waits() {
    let server = Fixture::with_limits(bounded(1, true));
    eventually("a newcomer is served behind one at work", || {
        let mut busy = server.connect();
        busy.write(get("/hold").as_bytes());
        eventually("it is begun", || !server.seen.held.lock().is_empty());
        let mut new = server.connect();
        new.write(get("/?new").as_bytes());
        server.seen.held.lock().pop().unwrap().send(Response::new(204));
        busy.read(false).expect(204);
        drop(busy);
        new.read(false).status == 200
    });
}

#[test]
fn what_is_on_its_way_to_one_that_makes_way_is_answered() {
    let server = Fixture::with_limits(bounded(4, true));
    let mut busy: Vec<Connection> = (0..4).map(|_| server.connect()).collect();
    busy.iter_mut().for_each(ask);
    // Each round the newcomer takes the place of one that asks at the same time.
    for round in 0..50 {
        let mut new = server.connect();
        for connection in &mut busy {
            connection.write(get("/?x").as_bytes());
        }
        ask(&mut new);
        for connection in &mut busy {
            assert_eq!(connection.read(false).status, 200, "round {round}");
        }
    }
}

#[test]
fn a_flood_of_idle_connections_shuts_nobody_out_who_asks() {
    for by_address in [true, false] {
        let server = Fixture::with_limits(bounded(50, by_address));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut idle = std::collections::VecDeque::new();
                    while !done.load(Ordering::SeqCst) {
                        idle.extend(Connection::try_open(&server.address.to_string()));
                        if idle.len() > 200 {
                            idle.pop_front();
                        }
                    }
                });
            }
            let _ends = Ends(&done);
            eventually("the flood has begun", || closed(&server, "evicted") > 50.0);
            let mut keeps = server.connect();
            for _ in 0..100 {
                ask(&mut keeps);
                ask(&mut server.connect());
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }
}

#[test]
fn proxies_and_unix_sockets_are_bounded_by_the_total_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let loopback = "127.0.0.1".parse().unwrap();
    let (this_machine, proxy) = (Unbounded::default(), Unbounded { loopback: false, proxies: vec![loopback] });
    for unbounded in [this_machine, proxy] {
        let server = Fixture::build_for(bounded(2, true), 2, Some(&path), unbounded);
        // A pool of connections, as a proxy keeps them, and more requests at once than it has connections.
        let mut pool: Vec<Client> = (0..150).map(|_| Client::new(&server.address.to_string())).collect();
        std::thread::scope(|scope| {
            for client in &mut pool {
                scope.spawn(|| (0..3).for_each(|_| assert_eq!(client.send("PUT", "/echo", &[], b"x").status, 200)));
            }
        });
        let unix: Vec<_> = (0..10).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
        eventually("all are in", || server.metric("larder_http_connections ") == 160.0);
        assert_eq!(closed(&server, "evicted") + closed(&server, "address_limit"), 0.0);
        drop((pool, unix, server));
        std::fs::remove_file(&path).unwrap();
    }
}
