//! What clients do on the wire that no RFC asks of them, or that few servers have met: every engine bears it alike.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::Shutdown;

use support::{Connection, Server, engines, on_every_engine};

const LIVE: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn put(key: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("PUT /api/v1/kv/n/c/{key} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n{body}").into_bytes()
}

/// Uploads of a value, each in a framing of its own, with that value.
fn uploads(key: &str) -> Vec<(Vec<u8>, String)> {
    let long = "v".repeat(3000);
    let chunked = "Transfer-Encoding: chunked";
    vec![
        (put(key, "Content-Length: 5", "hello"), "hello".to_owned()),
        (put(key, "Content-Length: 3000", &long), long.clone()),
        (put(key, chunked, "5\r\nhello\r\n0\r\n\r\n"), "hello".to_owned()),
        (put(key, chunked, &format!("bb8;a=b\r\n{long}\r\n0\r\nX-T: y\r\n\r\n")), long.clone()),
        (put(key, "Content-Length: 0", ""), String::new()),
    ]
}

fn is_well(connection: &mut Connection) {
    connection.write(LIVE);
    connection.read(false).expect(200);
}

#[test]
fn an_empty_line_behind_a_body_is_no_request() {
    on_every_engine(|server| {
        server.put("/api/v1/kv/n/c/k", b"x").expect(201);
        for (upload, value) in uploads("k") {
            let mut connection = server.connect();
            for _ in 0..3 {
                connection.write(&[&upload, b"\r\n".as_slice(), LIVE, b"\r\n", LIVE].concat());
                connection.read(false).expect(204);
                assert_eq!(server.get("/api/v1/kv/n/c/k").expect(200).text(), value);
                connection.read(false).expect(200);
                connection.read(false).expect(200);
            }
            connection.write(&upload);
            connection.read(false).expect(204);
            connection.write(b"\r");
            connection.write(b"\n");
            is_well(&mut connection);
            connection.write(b"\r\n\r\n");
            let refused = connection.read(false).expect(400);
            assert_eq!(refused.header("Connection"), Some("close"), "one, and no more");
        }
        for bad in ["\rGET / HTTP/1.1\r\n", "\n", "\r\r\n", "\r\n\n"] {
            let mut connection = server.connect();
            connection.write(bad.as_bytes());
            connection.read(false).expect(400);
        }
    });
}

#[test]
fn an_empty_line_is_no_head_that_comes_slowly() {
    for engine in engines() {
        let server = Server::builder().engine(&engine).config("[limits]\nhead_timeout = \"1s\"\n").start();
        let mut quiet: Vec<Connection> = Vec::new();
        for (upload, _) in uploads("k") {
            let mut connection = server.connect();
            connection.write(&[&upload, b"\r\n".as_slice()].concat());
            connection.read(false);
            quiet.push(connection);
        }
        // One that sends half a head is ended for it, and those have been quiet for longer.
        let mut slow = server.connect();
        slow.write(b"GET /health/live HT");
        slow.read_to_end();
        for connection in &mut quiet {
            is_well(connection);
        }
    }
}

#[test]
fn a_client_may_end_its_side_once_its_body_is_whole_and_not_before() {
    on_every_engine(|server| {
        for (n, (upload, value)) in uploads("KEY").into_iter().enumerate() {
            let upload = String::from_utf8(upload).unwrap();
            for cut in [0, 1, 7] {
                let key = format!("{n}-{cut}");
                let whole = upload.replacen("KEY", &key, 1);
                let mut connection = server.connect();
                if cut > 0 && value.is_empty() {
                    continue;
                }
                connection.write(&whole.as_bytes()[..whole.len() - cut]);
                connection.stream().shutdown(Shutdown::Write).unwrap();
                if cut == 0 {
                    connection.read(false).expect(201);
                    assert_eq!(server.get(&format!("/api/v1/kv/n/c/{key}")).expect(200).text(), value, "{n}");
                } else {
                    let answer = connection.try_read(false);
                    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400), "{n} {cut}");
                    server.get(&format!("/api/v1/kv/n/c/{key}")).expect(404);
                }
            }
        }
    });
}

#[test]
fn an_expectation_that_nobody_knows_is_417_and_ends_the_connection_with_a_word() {
    on_every_engine(|server| {
        for fields in ["Expect: rain", "Expect: 100-continue, rain", "expect: 200-ok", "Expect: 100-continued"] {
            for upload in [put("k", &format!("{fields}\r\nContent-Length: 5"), "hello"), put("k", fields, "")] {
                let mut connection = server.connect();
                connection.write(&upload);
                let answer = connection.read(false).expect(417);
                assert_eq!(answer.header("Connection"), Some("close"), "{fields}");
                assert_eq!(answer.code(), "EXPECTATION_FAILED");
            }
        }
    });
}

#[test]
fn whoever_speaks_another_protocol_is_told_at_once() {
    on_every_engine(|server| {
        // Of TLS: a first byte, a record's head, a hello with and without bytes that look like the ends of lines.
        let hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[0xa5; 500]].concat();
        let lines = [&hello[..], b"\n\r\n"].concat();
        for tls in [&b"\x16"[..], b"\x16\x03\x01", b"\x16\x03\x03\x00\x05", &hello, &lines] {
            let mut connection = server.connect();
            connection.write(tls);
            let answer = connection.read(false).expect(400);
            assert!(answer.text().contains("plain HTTP"), "{}", answer.text());
            assert_eq!(answer.header("Connection"), Some("close"));
        }
        // Older SSL, SOCKS, a terminal's negotiation, MQTT, bytes of nothing.
        for other in
            [&b"\x80\x2e\x01\x00\x02"[..], b"\x05\x01\x00", b"\xff\xfb\x1f", b"\x10\x0c\x00\x04MQTT", b"\0\0\0"]
        {
            let mut connection = server.connect();
            connection.write(other);
            let answer = connection.read(false).expect(400);
            assert_eq!(answer.header("Connection"), Some("close"), "{other:?}");
        }
    });
}

#[test]
fn a_length_is_counted_in_64_bits_whatever_the_machine() {
    on_every_engine(|server| {
        let max = u64::from(u32::MAX);
        let lengths = [67_108_864, 67_108_865, i32::MAX as u64, max, max + 1, max + 6, 1 << 63, u64::MAX - 1, u64::MAX];
        for length in lengths {
            let mut connection = server.connect();
            connection.write(&put("k", &format!("Content-Length: {length}"), "hello"));
            let answer = connection.read(false).expect(413);
            assert_eq!((answer.code().as_str(), answer.header("Connection")), ("VALUE_TOO_LARGE", Some("close")));
            let head = "POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n";
            // The place of the one before is free a moment after its client has gone.
            support::eventually("an import of any length may begin", || {
                let mut import = server.connect();
                import.write(format!("{head}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n").as_bytes());
                let status = import.read_head().unwrap().0;
                assert!(matches!(status, 100 | 503), "{length}: {status}");
                status == 100
            });
        }
        for length in
            ["18446744073709551616", "99999999999999999999999999", "4294967296.0", "0x100000000", "+4294967296"]
        {
            let mut connection = server.connect();
            connection.write(&put("k", &format!("Content-Length: {length}"), "hello"));
            assert_eq!(connection.read(false).expect(400).header("Connection"), Some("close"), "{length}");
        }
        server.put("/api/v1/kv/n/c/k", b"x").expect(201);
    });
}

#[test]
fn an_interim_answer_says_nothing_but_that_it_is_one() {
    on_every_engine(|server| {
        let expects = "Expect: 100-continue";
        let long = "v".repeat(3000);
        for (fields, body) in [
            ("Content-Length: 5", "hello"),
            ("Content-Length: 3000", &long),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
        ] {
            let mut connection = server.connect();
            for _ in 0..2 {
                connection.write(&put("k", &format!("{expects}\r\n{fields}"), ""));
                let (status, headers) = connection.read_head().unwrap();
                assert_eq!((status, headers), (100, Vec::new()), "{fields}");
                connection.write(body.as_bytes());
                let answer = connection.read(false);
                assert!(matches!(answer.status, 201 | 204), "{fields}: {}", answer.status);
            }
            is_well(&mut connection);
        }
        let mut old = server.connect();
        old.write(
            format!(
                "PUT /api/v1/kv/n/c/k HTTP/1.0\r\nHost: localhost\r\n{expects}\r\nContent-Length: 3000\r\n\r\n{long}"
            )
            .as_bytes(),
        );
        old.read(false).expect(204);
    });
}
