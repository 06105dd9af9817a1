//! What the attackers do.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::scene::{Held, Scene, status};

/// Bytes that do not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn put(scene: &Scene, fields: &str) -> String {
    scene.head("PUT /api/v1/kv/n/c/k", fields)
}

/// Without a token: a body of one byte that may become anything.
pub fn promised_gzip(scene: &Scene) -> Held {
    let head = "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n";
    scene.send(40, |_| head.into())
}

pub fn chunks_for_nothing(scene: &Scene) -> Held {
    let head = "GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    scene.send(40, |_| head.into())
}

/// The line with a chunk's size does not end.
pub fn endless_chunk_sizes(scene: &Scene) -> Held {
    let head = put(scene, "Transfer-Encoding: chunked\r\n");
    scene.send(12, |_| [head.as_bytes(), &vec![b'1'; 20 << 20]].concat())
}

pub fn promised_bodies(scene: &Scene) -> Held {
    let head = put(scene, "Content-Length: 1048576\r\n");
    scene.send(120, |_| head.clone().into())
}

/// All but the last bytes of a value.
pub fn stalled_bodies(scene: &Scene) -> Held {
    let head = put(scene, "Content-Length: 1048576\r\n");
    scene.send(60, |_| [head.as_bytes(), &vec![b'x'; (1 << 20) - 100]].concat())
}

pub fn gzip_bombs(scene: &Scene) -> Held {
    let bomb = gzip(&vec![b'0'; 1 << 20]);
    let head = put(scene, &format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n", bomb.len()));
    scene.send(120, |_| [head.as_bytes(), &bomb].concat())
}

fn many(scene: &Scene) -> usize {
    if scene.engine == "epoll" { 500 } else { 300 }
}

pub fn partial_heads(scene: &Scene) -> Held {
    let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}", "a".repeat(31_000));
    scene.send(many(scene), |_| head.clone().into())
}

/// Fields of three bytes without end.
pub fn many_fields(scene: &Scene) -> Held {
    let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}", "a:b\r\n".repeat(200_000));
    scene.send(many(scene), |_| head.clone().into())
}

/// As many as a head may hold, in heads that do not end.
pub fn full_heads(scene: &Scene) -> Held {
    let field = format!("a: {}\r\n", "b".repeat(310));
    let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}", field.repeat(98));
    scene.send(many(scene), |_| head.clone().into())
}

/// A field, a target and a line of line feeds without end.
pub fn endless_lines(scene: &Scene) -> Held {
    let starts = ["GET /health HTTP/1.1\r\nHost: localhost\r\nX: a", "GET /a", "GET / HTTP/1.1\r\nX: \n"];
    scene.send(many(scene), |n| {
        let start = starts[n % starts.len()].as_bytes();
        let rest = start[start.len() - 1];
        [start, &vec![rest; 2 << 20]].concat()
    })
}

/// Large heads of requests one after the other, whose answers nobody reads.
pub fn pipelined_heads(scene: &Scene) -> Held {
    let field = format!("X: {}\r\n", "a".repeat(30_000));
    let head = scene.head("PUT /api/v1/kv/n/c/k", &format!("{field}Content-Length: 0\r\n"));
    scene.send(many(scene), |_| head.repeat(20).into())
}

pub fn small_bodies(scene: &Scene) -> Held {
    let head = put(scene, "Content-Length: 16000\r\n");
    scene.send(many(scene), |_| [head.as_bytes(), &[b'x'; 15_990]].concat())
}

pub fn unread_values(scene: &Scene) -> Held {
    scene.fill(48);
    scene.send(150, |n| scene.head(&format!("GET /api/v1/kv/big/c/v{:03}", n % 48), "").into())
}

pub fn unread_ranges(scene: &Scene) -> Held {
    scene.fill(48);
    let range = "Range: bytes=1-1000000\r\n";
    scene.send(150, |n| scene.head(&format!("GET /api/v1/kv/big/c/v{:03}", n % 48), range).into())
}

pub fn unread_pages(scene: &Scene) -> Held {
    scene.fill(4);
    scene.send(60, |_| scene.head("GET /api/v1/kv/big/c", "").into())
}

pub fn unread_batches(scene: &Scene) -> Held {
    scene.fill(4);
    let batch = |n: usize| {
        let body =
            format!(r#"{{"namespace":"big","collection":"c","operations":[{{"op":"get","key":"v{:03}"}}]}}"#, n % 4);
        let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        scene.head("POST /api/v1/batch", &fields) + &body
    };
    scene.send(60, |n| batch(n).into())
}

/// Many small answers for each of many who read none.
pub fn unread_small_answers(scene: &Scene) -> Held {
    scene.send(200, |n| scene.head(["GET /metrics", "GET /openapi.json"][n % 2], "").repeat(12).into())
}

/// From half of the addresses, more streams than there may be; an admin must find one all the same.
pub fn unread_streams(scene: &Scene) -> Held {
    scene.fill(12);
    let head = scene.head("GET /api/v1/kv/big/c", "Accept: application/x-ndjson\r\n");
    let held = scene.send(120, |_| head.clone().into());
    let admin =
        format!("GET /api/v1/export HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", scene.admin);
    let mut export = scene.send(1, |_| admin.clone().into()).remove(0);
    assert_eq!(status(&mut export), Some(200), "{}: an admin's export", scene.engine);
    held
}

fn patch(scene: &Scene, key: usize, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let fields =
        format!("Content-Type: application/merge-patch+json\r\nContent-Encoding: gzip\r\nContent-Length: {length}\r\n");
    [scene.head(&format!("PATCH /api/v1/kv/n/c/p{key}"), &fields).as_bytes(), body].concat()
}

fn members(count: usize, value: &str) -> String {
    let members: Vec<String> = (0..count).map(|n| format!("\"{n}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

pub fn patches_of_many_members(scene: &Scene) -> Held {
    let (flat, deep) = (gzip(members(80_000, "1").as_bytes()), gzip(members(30_000, "{\"a\":{\"b\":1}}").as_bytes()));
    let mut held = scene.send(16, |n| patch(scene, n, if n % 2 == 0 { &flat } else { &deep }));
    for stream in &mut held {
        assert_eq!(status(stream), Some(400), "{}", scene.engine);
    }
    held
}

/// A small patch of a document that has as many members as fit a value.
pub fn patches_of_documents_with_many_members(scene: &Scene) -> Held {
    let document = members(100_000, "1");
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", document.len());
    let store = |n: usize| scene.head(&format!("PUT /api/v1/kv/n/c/p{n}"), &fields) + &document;
    for stream in &mut scene.send(8, |n| store(n).into()) {
        assert_eq!(status(stream), Some(201), "{}", scene.engine);
    }
    let small = gzip(br#"{"7":null,"new":{"a":1}}"#);
    let mut held = scene.send(8, |n| patch(scene, n, &small));
    for stream in &mut held {
        assert_eq!(status(stream), Some(200), "{}", scene.engine);
    }
    held
}

pub fn batches_of_too_many_operations(scene: &Scene) -> Held {
    let body = format!(r#"{{"namespace":"n","collection":"c","operations":[{}]}}"#, vec!["1"; 2_000_000].join(","));
    let body = gzip(body.as_bytes());
    let fields =
        format!("Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n", body.len());
    let head = scene.head("POST /api/v1/batch", &fields);
    let mut held = scene.send(8, |_| [head.as_bytes(), &body].concat());
    for stream in &mut held {
        assert_eq!(status(stream), Some(400), "{}", scene.engine);
    }
    held
}
