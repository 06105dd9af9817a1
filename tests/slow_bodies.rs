//! Bodies that come slowly, as over a bad radio link, cost others nothing, and are stored once they are whole.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use support::{Connection, Server, engines, eventually, on_every_engine};

/// A value that tells where a byte of it is missing.
fn value(n: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|place| b'a' + ((place + n) % 23) as u8).collect()
}

fn in_chunks(value: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for (n, chunk) in value.chunks(size).enumerate() {
        let extension = if n % 2 == 0 { ";a=b" } else { "" };
        wire.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\nX-Trailer: y\r\n\r\n");
    wire
}

/// An upload of which a part is sent at a time.
struct Slow {
    connection: Connection,
    value: Vec<u8>,
    wire: Vec<u8>,
    sent: usize,
}

impl Slow {
    fn start(server: &Server, n: usize) -> Slow {
        let value = value(n, 3000 + n);
        let (framing, body) = match n % 3 {
            0 => (format!("Content-Length: {}", value.len()), value.clone()),
            1 => ("Transfer-Encoding: chunked".to_owned(), in_chunks(&value, 700)),
            _ => ("Connection: Upgrade\r\nTransfer-Encoding: chunked".to_owned(), in_chunks(&value, 5)),
        };
        let head = format!("PUT /api/v1/kv/n/slow/{n} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
        let connection = Connection::open_from(&format!("127.0.0.{}", 2 + n % 6), server.address());
        let mut slow = Slow { connection, value, wire: [head.into_bytes(), body].concat(), sent: 0 };
        slow.send(300 + n);
        slow
    }

    /// Sends so many bytes more, but never the last one.
    fn send(&mut self, bytes: usize) {
        let to = (self.sent + bytes).min(self.wire.len() - 1);
        self.connection.write(&self.wire[self.sent..to]);
        self.sent = to;
    }

    fn end(mut self, server: &Server, n: usize) {
        self.connection.write(&self.wire[self.sent..]);
        self.connection.read(false).expect(201);
        assert!(server.get(&format!("/api/v1/kv/n/slow/{n}")).expect(200).body == self.value, "{n}");
        // The connection goes on.
        self.connection.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.connection.read(false).expect(200);
    }
}

fn upload(server: &Server, key: &str) {
    let honest = value(0, 20_000);
    server.put(&format!("/api/v1/kv/n/honest/{key}"), &honest).expect(201);
    let mut connection = Connection::open_from("127.0.0.9", server.address());
    connection.write(
        format!("PUT /api/v1/kv/n/honest/{key}-c HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            .as_bytes(),
    );
    connection.write(&in_chunks(&honest, 4096));
    connection.read(false).expect(201);
    assert!(server.get(&format!("/api/v1/kv/n/honest/{key}-c")).expect(200).body == honest);
}

#[test]
fn thirty_slow_uploads_hold_up_no_other_and_are_all_stored() {
    on_every_engine(|server| {
        let mut slow: Vec<Slow> = (0..30).map(|n| Slow::start(server, n)).collect();
        for round in 0..8 {
            upload(server, &format!("round-{round}"));
            // Each is cut elsewhere: in sizes, in data, between CR and LF, in trailers.
            slow.iter_mut().for_each(|slow| slow.send(401));
        }
        for step in 0..40 {
            slow.iter_mut().for_each(|slow| slow.send(1 + step % 2));
        }
        upload(server, "last");
        for (n, slow) in slow.into_iter().enumerate() {
            slow.end(server, n);
        }
    });
}

#[test]
fn slow_imports_hold_the_places_of_imports_and_nothing_else() {
    on_every_engine(|server| {
        let record = "{\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"k\",\"value\":1}\n";
        let end = "{\"end\":true,\"items\":40}\n";
        let body = [&record.repeat(40), end].concat().into_bytes();
        let bodies = [
            (format!("Content-Length: {}", body.len()), body.clone()),
            ("Transfer-Encoding: chunked".into(), in_chunks(&body, 50)),
        ];
        let head = "POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
        let start = |(n, (framing, body)): (usize, &(String, Vec<u8>))| {
            let mut connection = Connection::open_from(&format!("127.0.0.{}", 2 + n), server.address());
            connection.write(format!("{head}Expect: 100-continue\r\n{framing}\r\n\r\n").as_bytes());
            assert_eq!(connection.read_head().unwrap().0, 100, "it has its place");
            connection.write(&body[..1500]);
            connection
        };
        let imports: Vec<Connection> = bodies.iter().enumerate().map(start).collect();
        let third = server.send("POST", "/api/v1/import", &[("Content-Type", "application/x-ndjson")], &body);
        assert_eq!(third.status, 503, "both places are taken");
        let mut slow: Vec<Slow> = (0..6).map(|n| Slow::start(server, n)).collect();
        upload(server, "beside");
        slow.iter_mut().for_each(|slow| slow.send(1000));
        for (mut import, (_, body)) in imports.into_iter().zip(&bodies) {
            import.write(&body[1500..]);
            assert_eq!(import.read(false).expect(200).json()["imported"], 40);
            import.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
            import.read(false).expect(200);
        }
        for (n, slow) in slow.into_iter().enumerate() {
            slow.end(server, n);
        }
    });
}

#[test]
fn the_clocks_of_every_body_run_from_its_head_whoever_else_is_slow() {
    for engine in engines() {
        let config = "[limits]\nbody_timeout = \"3s\"\nbody_grace = \"1s\"\n";
        let server = Server::builder().engine(&engine).config(config).start();
        // More than any lane has threads, in one order; none of them may wait for another's end.
        let mut stalled: Vec<Slow> = (0..24).map(|n| Slow::start(&server, n)).collect();
        for slow in &mut stalled {
            let answer = slow.connection.read(false);
            assert_eq!((answer.status, answer.header("Connection")), (408, Some("close")), "{engine}");
        }
        upload(&server, "after");
        let mut import = server.connect();
        let head = "POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
        import.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{{").as_bytes());
        import.stream().set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let answer = import.read(false);
        assert!(matches!(answer.status, 400 | 408), "{engine}: {}", answer.status);
    }
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

#[test]
fn clients_that_reset_within_a_body_take_nothing_with_them() {
    let put = "PUT /api/v1/kv/n/c/reset HTTP/1.1\r\nHost: localhost\r\n";
    let import = "POST /api/v1/import?partial=true HTTP/1.1\r\nHost: localhost\r\n";
    let get = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let begun = [
        format!("{put}Content-Length: 5000\r\n\r\n"),
        format!("{put}Content-Length: 5000\r\n\r\n{}", "z".repeat(100)),
        format!("{put}Content-Length: 900000\r\n\r\n{}", "z".repeat(100_000)),
        format!("{put}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"),
        format!("{put}Content-Length: 5000000\r\n\r\n"),
        format!("{put}Content-Length: 70000000\r\n\r\nx"),
        format!("{put}Transfer-Encoding: chunked\r\n\r\n5\r\nx"),
        format!("{import}Content-Length: 5000\r\n\r\n\n\n"),
        format!("{import}Content-Length: 70000000\r\n\r\n\n\n"),
        format!("{}{put}Content-Length: 5000\r\n\r\nz", get.repeat(5)),
        format!("{}{put}Transfer-Encoding: chunked\r\n\r\n1", get.repeat(5)),
    ];
    on_every_engine(|server| {
        server.put("/api/v1/kv/n/c/k", b"kept").expect(201);
        let before = descriptors(server);
        for round in 0..8 {
            for wire in &begun {
                let mut connection = server.connect();
                connection.write(wire.as_bytes());
                if round % 2 == 0 {
                    // So that its request is at work: it has been taken if another, which came later, is answered.
                    server.get("/api/v1/kv/n/c/k").expect(200);
                }
                rustix::net::sockopt::set_socket_linger(connection.stream(), Some(Duration::ZERO)).unwrap();
            }
        }
        eventually("all is given back", || descriptors(server) <= before + 2);
        assert_eq!(server.metric("larder_tiny_http_leaked_threads"), 0.0);
        assert_eq!(server.get("/api/v1/kv/n/c/k").expect(200).text(), "kept");
    });
}

#[test]
fn uploads_are_not_taken_for_heads_without_end_whenever_a_look_at_their_connection_falls() {
    on_every_engine(|server| {
        // What might become a head that is too long is looked at each 25 ms, and all others with it.
        let mut filling = server.connect();
        filling.write(format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}", "a".repeat(9000)).as_bytes());
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (server, value) = (&server, value(n, 300_000));
                scope.spawn(move || {
                    let mut client = server.client();
                    for turn in 0..40 {
                        let path = format!("/api/v1/kv/n/looks/{n}?durability=relaxed");
                        let answer = client.send("PUT", &path, &[], &value);
                        assert!(matches!(answer.status, 201 | 204), "turn {turn}: {answer:?}");
                        // A client that comes back after the next look.
                        std::thread::sleep(Duration::from_millis(40));
                    }
                });
            }
        });
        drop(filling);
    });
}
