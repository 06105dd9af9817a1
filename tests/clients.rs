//! What clients of all kinds send besides the plain requests of the other tests: web pages of other origins, names in
//! other spellings, bodies as editors and libraries make them. Every engine answers alike.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Answer, Server, engines};

const APP: &str = "https://app.example";

/// Sends bytes as they are and reads one answer.
fn raw(server: &Server, bytes: impl AsRef<[u8]>) -> Answer {
    let mut connection = server.connect();
    // A head that is refused may be answered before all of it is sent.
    let _ = std::io::Write::write_all(&mut connection.stream(), bytes.as_ref());
    connection.read(false)
}

#[test]
fn a_page_may_read_what_the_engine_itself_refuses() {
    let origin = format!("Host: localhost\r\nX-Request-Id: r-1\r\nOrigin: {APP}\r\n");
    let many = "x: y\r\n".repeat(200);
    let cases: Vec<(u16, String)> = vec![
        (414, format!("GET /{} HTTP/1.1\r\n{origin}\r\n", "a".repeat(8_300))),
        (414, format!("GET /{} HTTP/1.1\r\n{origin}\r\n", "a".repeat(12_000))),
        (431, format!("GET / HTTP/1.1\r\n{origin}{many}\r\n")),
        (431, format!("GET / HTTP/1.1\r\n{origin}X: {}\r\n\r\n", "y".repeat(40_000))),
        (400, format!("GET / HTTP/1.1\r\n{origin}Host: other\r\n\r\n")),
        (400, format!("GET /\u{1} HTTP/1.1\r\n{origin}\r\n")),
        (400, format!("GET / HTTP/1.1\r\n{origin}Content-Length: x\r\n\r\n")),
        (501, format!("PUT /api/v1/kv/a/b/c HTTP/1.1\r\n{origin}Transfer-Encoding: x\r\n\r\n")),
        (505, format!("GET / HTTP/2.0\r\n{origin}\r\n")),
        (417, format!("PUT /api/v1/kv/a/b/c HTTP/1.1\r\n{origin}Expect: tea\r\nContent-Length: 1\r\n\r\n")),
        (413, format!("PUT /api/v1/kv/a/b/c HTTP/1.1\r\n{origin}Content-Length: 99999999\r\n\r\n")),
        (400, format!("PUT /api/v1/kv/a/b/c HTTP/1.1\r\n{origin}Transfer-Encoding: chunked\r\n\r\nzz\r\n")),
        (404, format!("GET /api/v1/none HTTP/1.1\r\n{origin}\r\n")),
    ];
    for engine in engines() {
        let server = Server::builder().engine(&engine).config(&format!("[cors]\norigins = [{APP:?}]\n")).start();
        for (status, request) in &cases {
            let shown = format!("{engine}: {status} {:.60}", request.escape_debug().to_string());
            let answer = raw(&server, request);
            assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (*status, Some(APP)), "{shown}");
            assert_eq!(
                (answer.header("Vary"), answer.header("X-Request-Id")),
                (Some("Origin"), Some("r-1")),
                "{shown}"
            );
            assert_eq!(answer.json()["request_id"], "r-1", "{shown}");
            let foreign = raw(&server, request.replace(APP, "https://evil.example"));
            assert_eq!(foreign.header("Access-Control-Allow-Origin"), None, "{shown}");
        }
        let open = Server::builder().engine(&engine).config("[cors]\norigins = [\"*\"]\n").start();
        // Whoever it was: every page may read it.
        let long = raw(&open, format!("GET /{}", "a".repeat(40_000)));
        assert_eq!((long.status, long.header("Access-Control-Allow-Origin")), (414, Some("*")), "{engine}");
    }
}

#[test]
fn a_preflight_allows_what_libraries_add_and_what_the_owner_names() {
    for engine in engines() {
        let config =
            "[cors]\norigins = [\"capacitor://localhost\", \"https://app.example\"]\nheaders = [\"X-Device\"]\n";
        let server = Server::builder().engine(&engine).config(config).start();
        for origin in ["capacitor://localhost", APP] {
            let fields = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
            let answer = server.send("OPTIONS", "/api/v1/kv/a/b/c", &fields, b"").expect(204);
            assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(origin), "{engine}");
            let allowed = answer.header("Access-Control-Allow-Headers").unwrap();
            for name in ["authorization", "if-match", "tracestate", "x-requested-with", "x-device"] {
                assert!(allowed.split(", ").any(|one| one.eq_ignore_ascii_case(name)), "{engine}: {name} in {allowed}");
            }
            let exposed = answer.header("Access-Control-Expose-Headers").unwrap();
            for name in ["ETag", "Allow", "Accept-Patch", "Accept-Encoding", "Retry-After"] {
                assert!(exposed.split(", ").any(|one| one == name), "{engine}: {name} in {exposed}");
            }
        }
    }
}
