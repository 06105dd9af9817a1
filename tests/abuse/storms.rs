//! Clients that are wrong or gone rather than greedy: resets, other protocols on the plain port, floods, bursts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::scene::{Held, Scene, holds};

/// Again and again, for as long as an attack is held.
fn blow(mut gust: impl FnMut(usize)) {
    let began = Instant::now();
    (0..).take_while(|_| began.elapsed() < holds()).for_each(&mut gust);
}

/// Closes with a reset in place of an end.
fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// Sends what it may and reads to the end, or until nothing comes any more.
fn send_and_read(mut stream: TcpStream, bytes: &[u8]) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // Either may fail: the other side owes such a client nothing.
    let _ = stream.write_all(bytes);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Resets before, within and after a request, and while the answer comes.
pub fn resets(scene: &Scene) -> Held {
    let get = scene.head("GET /api/v1/kv/neighbour/c/1", "");
    let put = scene.head("PUT /api/v1/kv/n/c/reset", "Content-Length: 100000\r\n");
    let pieces = ["", "G", &get[..get.len() / 2], &get, &put, &get.repeat(20)].map(str::to_owned);
    blow(|n| {
        let mut stream = scene.connect(n);
        let _ = stream.write(pieces[n % pieces.len()].as_bytes());
        reset(stream);
    });
    Held::new()
}

/// What a browser sends to `https://` on this port, whole and in part.
pub fn tls(scene: &Scene) -> Held {
    let mut hello = vec![0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    hello.extend(crate::scenarios::noise(3, 194));
    blow(|n| send_and_read(scene.connect(n), &hello));
    scene.send(100, |n| hello[..1 + n % hello.len()].to_vec())
}

/// Prefaces of HTTP/2, also cut and with frames behind them.
pub fn http_2(scene: &Scene) -> Held {
    let preface =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\x40\0\0\0\0\x02\0\0\0\0";
    blow(|n| send_and_read(scene.connect(n), preface));
    scene.send(100, |n| preface[..1 + n % preface.len()].to_vec())
}

/// Far more connections than there may be, each idle, and new ones all the time.
pub fn idle_flood(scene: &Scene) -> Held {
    let mut held = Held::new();
    blow(|n| {
        held.push(scene.connect(n));
        if held.len() > 1500 {
            held.remove(0);
        }
    });
    held
}

/// Hundreds of short writes at once, each on a connection of its own: each is answered, though perhaps with 503.
pub fn bursts(scene: &Scene) -> Held {
    let put = scene.head("PUT /api/v1/kv/n/c/burst", "Content-Length: 5\r\nConnection: close\r\n") + "hello";
    blow(|_| {
        for mut stream in scene.send(250, |_| put.clone().into()) {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            let status = answer.get(9..12).unwrap_or("");
            assert!(matches!(status, "201" | "204" | "503"), "{} of a burst got {answer:?}", scene.engine);
        }
    });
    Held::new()
}
