//! Who is let in, from outside: the same table on every engine.

mod support;

use std::process::Command;

use base64::Engine as _;
use support::{Server, client::Answer};

const ENGINES: [&str; 2] = ["tiny_http", "epoll"];
const VALUE: &str = "/api/v1/kv/home/c/k";

/// Makes a token in the data folder of a server that is not running yet.
fn token(data: &std::path::Path, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.args(["token", "add"]).args(words).arg("--data").arg(data);
    let output = command.output().expect("larder can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn challenge(answer: &Answer) -> bool {
    answer.code() == "UNAUTHORIZED"
        && answer.header("WWW-Authenticate").is_some_and(|value| value.starts_with("Bearer"))
}

#[test]
fn without_tokens_only_this_machine_is_served_and_no_proxy_or_foreign_page() {
    for engine in ENGINES {
        let server = Server::builder().engine(engine).start();
        for (fields, let_in) in [
            (&[][..], true),
            (&[("Host", "127.0.0.1:1234")], true),
            (&[("Host", "[::1]")], true),
            (&[("Origin", "http://localhost")], true),
            (&[("Sec-Fetch-Site", "same-origin")], true),
            (&[("Host", "larder.example")], false),
            (&[("Host", "192.168.1.2:8080")], false),
            (&[("Forwarded", "for=1.2.3.4")], false),
            (&[("Via", "1.1 proxy")], false),
            (&[("X-Forwarded-For", "1.2.3.4")], false),
            (&[("X-Forwarded-Host", "a.example")], false),
            (&[("X-Forwarded-Port", "443")], false),
            (&[("Origin", "http://a.example")], false),
            (&[("Origin", "null")], false),
            (&[("Origin", "http://a.example"), ("Content-Type", "text/plain")], false),
            (&[("Sec-Fetch-Site", "cross-site")], false),
            (&[("Authorization", "Bearer ldr_none")], false),
        ] {
            for (method, path, good) in
                [("PUT", VALUE, &[201, 204][..]), ("GET", VALUE, &[200]), ("GET", "/metrics", &[200])]
            {
                let answer = server.send(method, path, fields, if method == "PUT" { b"1" } else { b"" });
                if let_in {
                    assert!(good.contains(&answer.status), "{engine} {method} {path} {fields:?}: {answer:?}");
                } else {
                    assert_eq!(answer.status, 401, "{engine} {method} {path} {fields:?}");
                    assert!(challenge(&answer), "{answer:?}");
                }
            }
            let health = server.send("GET", "/health", fields, b"");
            assert_eq!(health.status, 200, "{engine}: health is open to all");
        }
        assert!(server.metric("larder_access_refused_total{reason=\"missing\"}") > 10.0);
        assert!(server.metric("larder_access_refused_total{reason=\"malformed\"}") > 0.0);
    }
}

#[test]
fn an_open_larder_serves_its_network_and_no_web_page_of_elsewhere() {
    for engine in ENGINES {
        let config = "[auth]\nmode = \"open\"\nhosts = \"kv.example.org\"\n[cors]\norigins = \"https://app.example\"\n";
        let server = Server::builder().engine(engine).config(config).start();
        for (fields, let_in) in [
            (&[("Host", "192.168.1.5:8080")][..], true),
            (&[("Host", "[fd00::5]:8080"), ("Via", "1.1 proxy"), ("X-Forwarded-For", "9.9.9.9")], true),
            (&[("Host", "attic-pi.local:8080"), ("Origin", "http://attic-pi.local:8080")], true),
            (&[("Host", "larder"), ("Authorization", "Bearer none")], true),
            (&[("Host", "kv.example.org"), ("Sec-Fetch-Site", "same-origin")], true),
            (&[("Host", "attic-pi"), ("Origin", "https://app.example")], true),
            (&[("Host", "evil.example")], false),
            (&[("Host", "evil.example:8080"), ("Origin", "http://evil.example:8080")], false),
            (&[("Host", "evil.example"), ("Sec-Fetch-Site", "same-origin")], false),
            (&[("Host", "192.168.1.5:8080"), ("Origin", "http://evil.example")], false),
            (&[("Host", "192.168.1.5:8080"), ("Origin", "http://192.168.1.5:3000")], false),
            (&[("Host", "192.168.1.5:8080"), ("Origin", "null")], false),
            (&[("Host", "192.168.1.5:8080"), ("Sec-Fetch-Site", "cross-site")], false),
            (&[("Host", "192.168.1.5:8080"), ("Origin", "http://evil.example"), ("Content-Type", "text/plain")], false),
        ] {
            let batch = br#"{"operations":[{"op":"get","namespace":"home","collection":"c","key":"k"}]}"#;
            let all: [(&str, &str, &[u8], &[u16]); 7] = [
                ("PUT", VALUE, b"1", &[201, 204]),
                ("GET", VALUE, b"", &[200]),
                ("POST", "/api/v1/kv/home/made", b"1", &[201]),
                ("POST", "/api/v1/batch", batch, &[200]),
                ("GET", "/api/v1/kv", b"", &[200]),
                ("GET", "/api/v1/export", b"", &[200]),
                ("GET", "/metrics", b"", &[200]),
            ];
            for (method, path, body, good) in all {
                let answer = server.send(method, path, fields, body);
                if let_in {
                    assert!(good.contains(&answer.status), "{engine} {method} {path} {fields:?}: {answer:?}");
                } else {
                    assert_eq!(answer.status, 403, "{engine} {method} {path} {fields:?}: {answer:?}");
                    assert_eq!(answer.code(), "FORBIDDEN");
                }
            }
            server.send("GET", "/health", fields, b"").expect(200);
            server.send("OPTIONS", VALUE, fields, b"").expect(204);
        }
        let refused = server.get("/metrics").text();
        assert!(refused.contains("larder_access_refused_total{reason=\"foreign\"} 56\n"), "{engine}: {refused}");
    }
}

#[test]
fn a_token_may_do_what_it_is_for_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let read = bearer(&token(folder.path(), &["read", "--scope", "read"]));
    let home = bearer(&token(folder.path(), &["home", "--scope", "write", "--namespace", "home"]));
    let admin = bearer(&token(folder.path(), &["admin", "--scope", "admin"]));
    let part = bearer(&token(folder.path(), &["part", "--scope", "admin", "--namespace", "home"]));
    let ended = bearer(&token(folder.path(), &["ended", "--scope", "admin", "--expires", "0s"]));
    for engine in ENGINES {
        let server = Server::builder().engine(engine).data(folder.path()).start();
        let other = "/api/v1/kv/other/c/k";
        server.send("PUT", VALUE, &[("Authorization", &admin)], b"1");
        server.send("PUT", other, &[("Authorization", &admin)], b"1");
        for (token, method, path, status) in [
            (&read, "GET", VALUE, 200),
            (&read, "HEAD", other, 200),
            (&read, "PUT", VALUE, 403),
            (&read, "DELETE", VALUE, 403),
            (&read, "PATCH", VALUE, 403),
            (&read, "POST", "/api/v1/import", 403),
            (&read, "GET", "/api/v1/export", 403),
            (&read, "GET", "/metrics", 200),
            (&home, "GET", VALUE, 200),
            (&home, "PUT", VALUE, 204),
            (&home, "GET", other, 403),
            (&home, "PUT", other, 403),
            (&home, "PUT", "/api/v1/kv/%68ome/c/k", 204),
            (&home, "PUT", "/api/v1/kv/%6Fther/c/k", 403),
            (&home, "PUT", "/api/v1/kv/home%2F..%2Fother/c/k", 403),
            (&home, "GET", "/api/v1/export", 403),
            (&admin, "PUT", other, 204),
            (&part, "PUT", VALUE, 204),
            (&part, "GET", "/api/v1/export", 403),
            (&part, "POST", "/api/v1/import", 403),
            (&ended, "GET", VALUE, 401),
        ] {
            let body: &[u8] = if matches!(method, "PUT" | "POST" | "PATCH") { b"1" } else { b"" };
            let answer = server.send(method, path, &[("Authorization", token)], body);
            assert_eq!(answer.status, status, "{engine} {method} {path}: {answer:?}");
            if status == 403 && method != "HEAD" {
                assert_eq!(answer.code(), "FORBIDDEN", "{engine} {method} {path}");
            }
        }
        let anonymous = server.get(VALUE);
        assert!(anonymous.status == 401 && challenge(&anonymous), "{engine}: {anonymous:?}");
        let twice = server.send("GET", VALUE, &[("Authorization", &admin), ("Authorization", &admin)], b"");
        assert!(matches!(twice.status, 400 | 401), "{engine}: {twice:?}");
        assert!(server.stop().success());
    }
}

#[test]
fn a_list_of_namespaces_tells_nobody_of_those_that_he_may_not_see() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let admin = bearer(&token(folder.path(), &["admin", "--scope", "admin"]));
    let part = bearer(&token(folder.path(), &["part", "--scope", "read", "--namespace", "b", "--namespace", "f"]));
    for engine in ENGINES {
        let config = "[auth]\npublic_read = [\"d\", \"none\"]\n";
        let server = Server::builder().engine(engine).config(config).data(folder.path()).start();
        for namespace in ["a-hidden", "b", "c-hidden", "d", "e-hidden", "f", "g-hidden"] {
            server.send("PUT", &format!("/api/v1/kv/{namespace}/c/k"), &[("Authorization", &admin)], b"1");
        }
        for (fields, expected) in [(&[("Authorization", part.as_str())][..], vec!["b", "f"]), (&[], vec!["d"])] {
            let (mut names, mut path) = (Vec::new(), "/api/v1/kv?limit=1".to_owned());
            loop {
                let page = server.send("GET", &path, fields, b"").expect(200).json();
                names.extend(
                    page["items"]
                        .as_array()
                        .expect("names")
                        .iter()
                        .map(|name| name.as_str().expect("a name").to_owned()),
                );
                let Some(next) = page["next"].as_str() else { break };
                let decoded = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(next).expect("base64url");
                let text = String::from_utf8_lossy(&decoded);
                assert!(!text.contains("hidden") && names.len() < 9, "{engine}: {text:?} after {names:?}");
                path = format!("/api/v1/kv?limit=1&cursor={next}");
            }
            assert_eq!(names, expected, "{engine}");
        }
        assert!(server.stop().success());
    }
}

#[test]
fn public_namespaces_are_read_by_anyone_from_anywhere() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let admin = bearer(&token(folder.path(), &["admin", "--scope", "admin"]));
    for engine in ENGINES {
        let config = "[auth]\npublic_read = [\"site\"]\n";
        let server = Server::builder().engine(engine).config(config).data(folder.path()).start();
        let (public, private) = ("/api/v1/kv/site/c/k", VALUE);
        server.send("PUT", public, &[("Authorization", &admin)], b"1");
        server.send("PUT", private, &[("Authorization", &admin)], b"1");
        let far = [("Host", "larder.example"), ("X-Forwarded-For", "1.2.3.4")];
        assert_eq!(server.send("GET", public, &far, b"").status, 200, "{engine}");
        assert_eq!(server.send("PUT", public, &far, b"2").status, 401, "{engine}");
        assert_eq!(server.send("DELETE", public, &far, b"").status, 401, "{engine}");
        assert_eq!(server.send("GET", private, &far, b"").status, 401, "{engine}");
        let bad = server.send("GET", public, &[("Authorization", "Bearer none")], b"");
        assert_eq!(bad.status, 401, "{engine}: a bad token is not served as none");
        assert!(server.stop().success());
    }
}

#[test]
fn the_subprotocol_of_a_websocket_is_a_token_nowhere_else() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let admin = token(folder.path(), &["admin", "--scope", "admin"]);
    let offers = format!("larder.v1, larder.bearer.{admin}");
    let alone = [("Sec-WebSocket-Protocol", offers.as_str())];
    let upgrade = [
        alone[0],
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for engine in ENGINES {
        let server = Server::builder().engine(engine).data(folder.path()).start();
        for (method, path, body) in [
            ("PUT", VALUE, &b"1"[..]),
            ("POST", "/api/v1/kv/home/c", b"1"),
            ("POST", "/api/v1/batch", b"{\"operations\":[]}"),
            ("DELETE", VALUE, b""),
            ("HEAD", VALUE, b""),
        ] {
            assert_eq!(server.send(method, path, &alone, body).status, 401, "{engine} {method} {path}");
            assert_eq!(server.send(method, path, &upgrade, body).status, 401, "{engine} {method} {path}");
        }
        for path in [VALUE, "/api/v1/kv", "/api/v1/export", "/metrics"] {
            assert!(challenge(&server.send("GET", path, &alone, b"")), "{engine} {path}");
            assert!(challenge(&server.send("GET", path, &upgrade[..4], b"")), "{engine} {path}");
        }
        assert_eq!(server.send("GET", VALUE, &upgrade, b"").status, 404, "{engine}: it is let in");
        assert!(server.stop().success());
    }
}

#[test]
fn too_many_requests_get_429_with_the_time_to_come_again() {
    for engine in ENGINES {
        let config = "[rate]\nper_second = 0.01\nburst = 3\n";
        let server = Server::builder().engine(engine).config(config).start();
        for _ in 0..3 {
            assert_eq!(server.get("/api/v1/kv/a/b/none").status, 404, "{engine}");
        }
        let read = server.get("/api/v1/kv/a/b/none");
        assert_eq!((read.status, read.code().as_str()), (429, "TOO_MANY_REQUESTS"), "{engine}");
        assert_eq!(read.json()["written"], serde_json::Value::Null, "{engine}");
        let again: u64 = read.header("Retry-After").and_then(|text| text.parse().ok()).expect("Retry-After");
        assert!((90..=100).contains(&again), "{engine}: {again}");
        let write = server.put(VALUE, b"1");
        assert_eq!((write.status, write.json()["written"].as_str()), (429, Some("no")), "{engine}");
    }
}

#[test]
fn probes_are_answered_however_often_they_come_and_use_up_nothing() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let read = bearer(&token(folder.path(), &["read", "--scope", "read"]));
    for engine in ENGINES {
        let config = "[rate]\nper_second = 0.01\nburst = 2\n";
        let server = Server::builder().engine(engine).config(config).data(folder.path()).start();
        let probe = |method: &str, path: &str, fields: &[(&str, &str)], status: u16| {
            let answer = server.send(method, path, fields, b"");
            assert_eq!(answer.status, status, "{engine} {method} {path} {fields:?}: {answer:?}");
        };
        let known = [("Authorization", read.as_str())];
        let all: [&[(&str, &str)]; 3] = [&[], &known, &[("Authorization", "Bearer none")]];
        let probes = || {
            for (fields, path) in all.into_iter().flat_map(|fields| [(fields, "/health"), (fields, "/health/live")]) {
                probe("GET", path, fields, 200);
                probe("HEAD", path, fields, 200);
                probe("OPTIONS", path, fields, 204);
                probe("GET", &format!("{path}?x=1"), fields, 400);
            }
        };
        probes();
        for (fields, status) in [(&known[..], 404), (&[], 401)] {
            for _ in 0..2 {
                probe("GET", VALUE, fields, status);
            }
            probe("GET", VALUE, fields, 429);
            probe("GET", "/metrics", fields, 429);
        }
        probes();
        assert!(server.stop().success());
    }
}

#[test]
fn what_no_route_takes_uses_up_the_rate_of_its_address_too() {
    for engine in ENGINES {
        for (method, path, status) in [
            ("GET", "/none", 404),
            ("GET", "/api/none", 404),
            ("POST", "/.env", 404),
            ("PUT", "/api/v2/kv/a/b/c", 404),
            ("GET", VALUE, 404),
            ("POST", VALUE, 405),
            ("DELETE", "/health", 405),
            ("PATCH", "/metrics", 405),
            ("GET", "/api/v1/import", 405),
            ("OPTIONS", VALUE, 204),
            ("OPTIONS", "/api/v1/batch", 204),
            ("OPTIONS", "/none", 404),
        ] {
            let config = "[rate]\nper_second = 0.01\nburst = 2\n[cors]\norigins = [\"https://app.example\"]\n";
            let server = Server::builder().engine(engine).config(config).start();
            let fields = [("Origin", "https://app.example")];
            let ask = || server.send(method, path, &fields, b"");
            for wanted in [status, status, 429] {
                let answer = ask();
                assert_eq!(answer.status, wanted, "{engine} {method} {path}: {answer:?}");
                let allowed = answer.header("Access-Control-Allow-Origin");
                assert_eq!(allowed, Some("https://app.example"), "{engine} {method} {path}");
            }
            assert!(ask().header("Retry-After").is_some(), "{engine} {method} {path}");
            // One bucket for all of an address; probes have none.
            assert_eq!(server.get("/metrics").status, 429, "{engine} {method} {path}");
            assert_eq!(server.get("/health").status, 200, "{engine} {method} {path}");
            assert_eq!(server.send("OPTIONS", "/health", &[], b"").status, 204, "{engine} {method} {path}");
        }
    }
}

#[test]
fn browsers_are_told_which_pages_may_use_larder() {
    let app = "https://app.example";
    for engine in ENGINES {
        let server = Server::builder().engine(engine).config(&format!("[cors]\norigins = [\"{app}\"]\n")).start();
        server.put(VALUE, b"1");
        let preflight = [("Origin", app), ("Access-Control-Request-Method", "PUT")];
        let answer = server.send("OPTIONS", VALUE, &preflight, b"");
        assert_eq!(answer.status, 204, "{engine}: {answer:?}");
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(app), "{engine}");
        assert!(
            answer.header("Access-Control-Allow-Methods").is_some_and(|methods| methods.contains("PUT")),
            "{engine}"
        );
        assert!(answer.header("Access-Control-Allow-Headers").is_some_and(|names| names.contains("Authorization")));
        assert_eq!(answer.header("Access-Control-Allow-Credentials"), None);
        let answer = server.send("GET", VALUE, &[("Origin", app)], b"");
        assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (200, Some(app)), "{engine}");
        assert!(answer.header("Access-Control-Expose-Headers").is_some_and(|names| names.contains("ETag")), "{engine}");
        let error = server.send("GET", "/api/v1/kv/home/c/none", &[("Origin", app)], b"");
        assert_eq!((error.status, error.header("Access-Control-Allow-Origin")), (404, Some(app)), "{engine}");
        let foreign = [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "PUT")];
        let answer = server.send("OPTIONS", VALUE, &foreign, b"");
        assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (204, None), "{engine}");
    }
}

#[test]
fn behind_a_trusted_unix_socket_each_client_has_a_rate_of_its_own() {
    for (trusted, own) in
        [("[\"unix\"]", true), ("[\"10.0.0.0/8\"]", false), ("[]", false), ("[\"fd00::/8\", \"unix\"]", true)]
    {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let socket = folder.path().join("l.sock");
        let config = format!(
            "[server]\ntrusted_proxies = {trusted}\n[rate]\nper_second = 0.01\nburst = 2\n[auth]\npublic_read = \"a\"\n"
        );
        let argument = format!("--listen=unix:{}", socket.display());
        let _server = Server::builder().engine("epoll").config(&config).argument(&argument).start();
        support::eventually("the socket is there", || socket.exists());
        let ask = |client: &str| {
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("the socket");
            let field =
                if client.is_empty() { String::new() } else { format!("X-Forwarded-For: 6.6.6.6, {client}\r\n") };
            let head =
                format!("GET /api/v1/kv/a/b/none HTTP/1.1\r\nHost: a.example\r\n{field}Connection: close\r\n\r\n");
            std::io::Write::write_all(&mut stream, head.as_bytes()).expect("a request");
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer");
            answer[9..12].to_owned()
        };
        let first: Vec<String> = ["192.0.2.1", "192.0.2.1", "192.0.2.1"].map(ask).into();
        assert_eq!(first, ["404", "404", "429"], "{trusted}");
        let fresh = if own { "404" } else { "429" };
        for client in ["192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "::ffff:192.0.2.3"] {
            assert_eq!(ask(client), fresh, "{trusted} {client}");
        }
        assert_eq!(ask("2001:db8::2"), fresh, "{trusted}: the second of a network");
        assert_eq!(ask("2001:db8::3"), "429", "{trusted}: the third of a network");
        assert_eq!(ask(""), fresh, "{trusted}: a request of the proxy's own");
    }
}

#[test]
fn health_tells_strangers_whether_it_works_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let read = bearer(&token(folder.path(), &["read", "--scope", "read"]));
    let narrow = bearer(&token(folder.path(), &["narrow", "--scope", "write", "--namespace", "a"]));
    for engine in ENGINES {
        let server = Server::builder().engine(engine).data(folder.path()).start();
        let ask = |fields: &[(&str, &str)], status: u16| {
            let document = server.send("GET", "/health", fields, b"").expect(status).json();
            let mut names: Vec<String> = document.as_object().expect("an object").keys().cloned().collect();
            names.sort();
            (names.join(" "), document)
        };
        let known = [[("Authorization", read.as_str())], [("Authorization", narrow.as_str())]];
        let strange: [&[(&str, &str)]; 4] = [
            &[],
            &[("Authorization", "Bearer none")],
            &[("Authorization", "Bearer ldr_000000000000_0000000000000000000000000000000000000000000")],
            &[("X-Forwarded-For", "192.0.2.1")],
        ];
        for fields in &known {
            assert_eq!(ask(fields, 200).0, "engine status store uptime_seconds version", "{engine}");
        }
        let refused = server.send("GET", "/metrics", &known[0], b"").expect(200);
        for fields in strange {
            assert_eq!(ask(fields, 200).0, "status store", "{engine} {fields:?}");
        }
        let counted = |page: &Answer| {
            let text = page.text();
            text.lines()
                .filter(|line| line.starts_with("larder_access_refused_total"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let after = server.send("GET", "/metrics", &known[0], b"").expect(200);
        assert_eq!(counted(&refused), counted(&after), "{engine}: who asks for health is refused nothing");
        // Without its folder the store takes no writes, and says why.
        std::fs::rename(folder.path().join("fjall"), folder.path().join("aside")).expect("a folder that goes");
        support::eventually("it is noticed", || server.send("GET", "/health", &[], b"").status == 503);
        for fields in strange {
            let (names, document) = ask(fields, 503);
            assert!(!names.contains("reason") && !names.contains("version"), "{engine} {fields:?}: {document}");
            assert_eq!(document["store"], "read_only", "{engine} {fields:?}");
        }
        let (_, document) = ask(&known[0], 503);
        assert!(document["reason"].as_str().is_some_and(|reason| reason.contains("data folder")), "{document}");
        server.kill();
        std::fs::rename(folder.path().join("aside"), folder.path().join("fjall")).expect("and comes back");
    }
}
