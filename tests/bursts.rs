//! Bursts of short requests on new connections, far more than there are places: each is answered, by 2xx or by 503 with
//! when to come again, and what was acknowledged is there, and nothing else.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::sync::{Barrier, Mutex};

use support::{Answer, Connection, Server, on_every_engine};

/// Requests at once, each on a connection of its own.
const BURST: usize = if cfg!(debug_assertions) { 150 } else { 300 };

/// What a client of the burst does.
#[derive(Clone, Copy, Debug)]
struct Row {
    method: &'static str,
    value_bytes: usize,
    /// Requests sent together.
    pipelined: usize,
    /// It keeps its connection until the burst is over.
    keeps: bool,
    /// The head comes in two parts.
    in_parts: bool,
}

const PUT: Row = Row { method: "PUT", value_bytes: 10, pipelined: 1, keeps: false, in_parts: false };

const ROWS: [Row; 6] = [
    PUT,
    Row { keeps: true, ..PUT },
    Row { value_bytes: 40_000, keeps: true, ..PUT },
    Row { method: "GET", keeps: true, ..PUT },
    Row { pipelined: 3, keeps: true, ..PUT },
    Row { in_parts: true, ..PUT },
];

/// Sends a client's requests and reads the answers, as many as come before a refusal.
fn ask(connection: &mut Connection, row: Row, client: usize) -> std::io::Result<Vec<Answer>> {
    let mut sent = Vec::new();
    for n in 0..row.pipelined {
        let (method, length) = (row.method, row.value_bytes);
        let path = format!("/api/v1/kv/burst/c/{client}-{n}");
        sent.extend(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ").into_bytes());
        let length = if method == "GET" { 0 } else { length };
        sent.extend(format!("{length}\r\n\r\n{}", "x".repeat(length)).into_bytes());
    }
    let (first, rest) = sent.split_at(if row.in_parts { 20 } else { sent.len() });
    // A refusal may come before all of it is sent; then the answer is there, and the rest is not taken.
    let _ = connection.stream().write_all(first);
    if row.in_parts {
        std::thread::sleep(std::time::Duration::from_millis(client as u64 % 50));
        let _ = connection.stream().write_all(rest);
    }
    let mut answers: Vec<Answer> = Vec::new();
    while answers.len() < row.pipelined && answers.last().is_none_or(|last| last.status != 503) {
        answers.push(connection.try_read(false)?);
    }
    Ok(answers)
}

/// One burst; returns whose requests were acknowledged.
fn burst(server: &Server, row: Row) -> Vec<String> {
    let (start, acknowledged) = (Barrier::new(BURST), Mutex::new(Vec::new()));
    let (unanswered, kept) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for client in 0..BURST {
            let (start, acknowledged, unanswered, kept) = (&start, &acknowledged, &unanswered, &kept);
            let run = move || {
                start.wait();
                let mut connection = server.connect();
                let answers = ask(&mut connection, row, client).unwrap_or_else(|error| {
                    unanswered.lock().unwrap().push(format!("{client}: {error}"));
                    Vec::new()
                });
                for (n, answer) in answers.into_iter().enumerate() {
                    match (answer.status, row.method) {
                        (200 | 201 | 204, _) => acknowledged.lock().unwrap().push(format!("{client}-{n}")),
                        (404, "GET") => {}
                        // A head that is not whole may make way.
                        (408, _) if row.in_parts => {}
                        (503, _) => assert_eq!(answer.header("Retry-After"), Some("1"), "{}", answer.text()),
                        (status, _) => panic!("{row:?}: {status} {}", answer.text()),
                    }
                }
                if row.keeps {
                    kept.lock().unwrap().push(connection);
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, run).unwrap();
        }
    });
    let unanswered = unanswered.into_inner().unwrap();
    let page = if unanswered.is_empty() { String::new() } else { server.get("/metrics").text() };
    let closed: Vec<&str> = page.lines().filter(|line| line.contains("closed_total{")).collect();
    assert!(unanswered.is_empty(), "{row:?}: not answered: {unanswered:?}; {closed:#?}");
    acknowledged.into_inner().unwrap()
}

#[test]
fn every_request_of_a_burst_is_answered_and_what_was_acknowledged_is_there() {
    for engine in support::engines() {
        let server = Server::builder().engine(&engine).config("[limits]\nconnections_max = 40\n").start();
        for row in ROWS {
            let acknowledged = burst(&server, row);
            println!("{engine}, {row:?}: {} of {BURST}", acknowledged.len());
            if row.method == "GET" {
                continue;
            }
            let page = server.list("/api/v1/kv/burst/c?limit=1000");
            let items = page["items"].as_array().unwrap();
            let there: Vec<String> = items.iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect();
            let (mut wanted, mut found) = (acknowledged, there);
            wanted.sort();
            found.sort();
            assert_eq!(wanted, found, "{engine}, {row:?}");
            support::eventually("the collection is empty again", || {
                server.delete("/api/v1/kv/burst/c");
                server.list("/api/v1/kv/burst/c")["items"] == serde_json::json!([])
            });
        }
    }
}

#[test]
fn a_client_that_comes_back_to_its_connection_within_a_second_keeps_it_in_a_burst() {
    on_every_engine(|server| {
        let mut keeps = server.client();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                scope.spawn(|| burst(server, Row { keeps: true, ..PUT }));
                for _ in 0..20 {
                    assert_eq!(keeps.send("GET", "/health/live", &[], b"").status, 200);
                }
            });
        }
    });
}
