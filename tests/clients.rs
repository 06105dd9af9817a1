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

#[test]
fn what_needs_no_escape_is_the_same_with_one() {
    for engine in engines() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(outer.path().join("www/sub")).unwrap();
        std::fs::write(outer.path().join("www/sub/a-b.txt"), "file").unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        let config = format!("[www]\ndir = {:?}\npublic = true\n", outer.path().join("www"));
        let server = Server::builder().engine(&engine).config(&config).start();
        let made = server.put("/api/v1/kv/my%2Dhome/my%5fcol/a%2Eb%2Fc", b"1").expect(201);
        assert_eq!(made.header("Location"), Some("/api/v1/kv/my-home/my_col/a.b%2Fc"), "{engine}");
        for (path, status, text) in [
            ("/api/v1/kv/my-home/my_col/a.b%2Fc", 200, "1"),
            ("/api/v1/kv/%6Dy%2dhome/my_col/%61.b%2fc", 200, "1"),
            ("/%61pi/v1/%6Bv/my-home/my_col/a.b%2Fc", 200, "1"),
            ("http://localhost/api/v1/%6Bv/my-home/my_col/a.b%2Fc", 200, "1"),
            ("/%68ealth/live", 200, ""),
            ("/sub/%61%2Db.txt", 200, "file"),
            ("/s%75b/a-b%2etxt?x=%2e", 200, "file"),
            // Once, and no more; and what means something else stays something else.
            ("/api/v1/kv/my%252Dhome/my_col/a.b%2Fc", 400, ""),
            ("/api/v1/kv/my-home/my_col/a.b%252Fc", 404, ""),
            ("/api/v1/kv/my-home%2Fmy_col/a.b", 400, ""),
            ("/api/v1/kv/my-home/my_col/%2e%2e", 400, ""),
            ("/api/v1/kv/my-home/%2e%2e/my_col", 400, ""),
            ("/api/v1/kv/%2ehidden/c/k", 400, ""),
            ("/api/v1/kv/my-home/my_col/%%32%44", 400, ""),
            ("/api%2Fv1/kv/my-home/my_col/a.b", 404, ""),
            ("/sub/%2e%2e/%2e%2e/secret", 404, ""),
            ("/%2e%2e/secret", 404, ""),
            ("/sub%2fa-b.txt", 404, ""),
        ] {
            let answer = server.get(path);
            let shown = format!("{engine} {path}: {}", answer.text());
            assert_eq!(answer.status, status, "{shown}");
            assert!(!answer.text().contains("secret") && (text.is_empty() || answer.text() == text), "{shown}");
        }
        assert_eq!(server.send("POST", "/api/v1/kv/n/c/k/%69ncr", &[], b"").expect(200).json()["value"], 1, "{engine}");
        assert_eq!(
            server.get("/api/v1/kv/my-home/my_col?%70refix=a%2Eb").json()["items"][0]["key"],
            "a.b/c",
            "{engine}"
        );
    }
}

#[test]
fn an_escaped_name_is_no_way_around_a_token() {
    for engine in engines() {
        let server = Server::builder().engine(&engine).config("[auth]\npublic_read = [\"open\"]\n").start();
        server.put("/api/v1/kv/home/c/k", b"1").expect(201);
        server.put("/api/v1/kv/open/c/k", b"2").expect(201);
        let elsewhere = [("X-Forwarded-For", "10.0.0.9")];
        let ask = |path: &str| server.send("GET", path, &elsewhere, b"");
        assert_eq!(ask("/api/v1/kv/%6Fpen/c/k").expect(200).text(), "2", "{engine}");
        for path in ["/api/v1/kv/%68ome/c/k", "/api/v1/kv/open%2F%2e%2e%2Fhome/c/k", "/api/v1/kv/open/%2e%2e/home"] {
            let answer = ask(path);
            assert!(matches!(answer.status, 400 | 401), "{engine} {path}: {}", answer.status);
        }
        ask("/%6Detrics").expect(401);
    }
}
