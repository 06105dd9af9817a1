//! The client against answers of every framing, whole and in pieces, and against servers that go away.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use super::*;

/// Serves one script a connection: what each request on it is answered with, in pieces.
fn serve(scripts: Vec<Vec<Vec<&'static [u8]>>>) -> (Target, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let server = thread::spawn(move || {
        for script in scripts {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            for pieces in script {
                let mut request = [0; 256];
                let _ = stream.read(&mut request).unwrap();
                for piece in pieces {
                    stream.write_all(piece).unwrap();
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
    });
    (target, server)
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn answers_of_every_framing_are_read_to_their_end_on_one_connection() {
    let (target, server) = serve(vec![vec![
        vec![b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"],
        vec![b"HTTP/1.1 2", b"04 No Content\r\nX: y\r", b"\n\r\n"],
        vec![
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhel",
            b"lo\r\n1\r\n!\r\n0\r",
            b"\nA: b\r\n\r\n",
        ],
        vec![b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n", b"no"],
        vec![b"HTTP/1.1 200 OK\r\n\r\nuntil ", b"close"],
    ]]);
    let mut client = Client::new(&target, TIMEOUT);
    let answers: Vec<_> = (0..5).map(|_| client.exchange(REQUEST, "GET").unwrap()).collect();
    let expected = [(200, 5), (204, 0), (200, 6), (404, 2), (200, 11)];
    assert_eq!(answers, expected.map(|(status, body_bytes)| Answer { status, body_bytes }));
    assert_eq!(client.reconnects, 0);
    server.join().unwrap();
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced_once_where_that_is_safe() {
    let ok: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (target, server) = serve(vec![vec![vec![ok]], vec![vec![ok]], vec![]]);
    let mut client = Client::new(&target, TIMEOUT);
    assert!(client.exchange(REQUEST, "GET").is_ok());
    assert!(client.exchange(REQUEST, "GET").is_ok(), "the second connection");
    assert_eq!(client.reconnects, 1);
    assert_eq!(client.exchange(REQUEST, "POST"), Err(Trouble::Closed), "a POST is never sent twice");
    assert_eq!(client.exchange(REQUEST, "GET"), Err(Trouble::Closed), "a fresh connection is not replaced");
    server.join().unwrap();
    assert_eq!(client.exchange(REQUEST, "GET"), Err(Trouble::Connect), "the listener is gone");
}

#[test]
fn connection_close_is_honoured() {
    let close: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n";
    let (target, server) = serve(vec![vec![vec![close]], vec![vec![close]]]);
    let mut client = Client::new(&target, TIMEOUT);
    assert!(client.exchange(REQUEST, "POST").is_ok() && client.exchange(REQUEST, "POST").is_ok());
    server.join().unwrap();
}

#[test]
fn what_is_cut_or_is_no_http_is_trouble() {
    for (pieces, trouble) in [
        (vec![&b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"[..]], Trouble::Closed),
        (vec![b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], Trouble::Protocol),
        (vec![b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"], Trouble::Protocol),
        (vec![b"SSH-2.0-x\r\n"], Trouble::Protocol),
    ] {
        let (target, server) = serve(vec![vec![pieces]]);
        assert_eq!(Client::new(&target, TIMEOUT).exchange(REQUEST, "GET"), Err(trouble));
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_says_nothing_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let mut client = Client::new(&target, Duration::from_millis(50));
    assert_eq!(client.exchange(REQUEST, "GET"), Err(Trouble::Timeout));
}

#[test]
fn a_target_has_a_port_and_keeps_its_base() {
    let target = Target::new("http://127.0.0.1/larder/", None).unwrap();
    assert_eq!((target.address.port(), target.host.as_str(), target.base.as_str()), (80, "127.0.0.1", "/larder"));
    assert!(Target::new("http://[::1]:81", None).is_ok_and(|target| target.address.port() == 81));
}
