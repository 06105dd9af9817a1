//! The files of `www.dir` from outside, on every engine: that they are reached, streamed, guarded and kept inside.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use support::Server;

fn on_every_engine(settings: &str, fill: impl Fn(&Path), test: impl Fn(&Server)) {
    for engine in support::engines() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("www");
        fs::create_dir(&root).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        fill(&root);
        let config = format!("[www]\ndir = {:?}\n{settings}", root.to_str().unwrap());
        let server = Server::builder().engine(&engine).config(&config).start();
        test(&server);
    }
}

#[test]
fn files_are_served_beside_the_store_and_never_in_its_place() {
    let fill = |root: &Path| {
        fs::write(root.join("index.html"), "<p>hello").unwrap();
        fs::create_dir_all(root.join("api/v1/kv")).unwrap();
        fs::write(root.join("api/v1/kv/x"), "not me").unwrap();
        fs::write(root.join("health"), "not me").unwrap();
        fs::write(root.join("m.wasm"), "x").unwrap();
    };
    on_every_engine("public = true\n", fill, |server| {
        let index = server.get("/").expect(200);
        assert_eq!(
            (index.text().as_str(), index.header("Content-Type")),
            ("<p>hello", Some("text/html; charset=utf-8"))
        );
        assert_eq!(server.get("/m.wasm").expect(200).header("Content-Type"), Some("application/wasm"));
        let tag = index.header("ETag").unwrap();
        assert!(server.send("GET", "/", &[("If-None-Match", tag)], b"").expect(304).body.is_empty());
        assert_eq!(server.send("GET", "/", &[("Range", "bytes=3-4")], b"").expect(206).text(), "he");
        assert!(server.get("/health").json()["status"].is_string());
        assert!(server.get("/api/v1/kv/x").json()["items"].is_array());
        assert_eq!(server.get("/api/v1/nothing").expect(404).code(), "NOT_FOUND");
        assert_eq!(server.send("PUT", "/index.html", &[], b"x").expect(405).code(), "METHOD_NOT_ALLOWED");
        assert!(server.send("HEAD", "/", &[], b"").expect(200).body.is_empty());
    });
}

#[test]
fn no_path_on_the_wire_leads_out() {
    let fill = |root: &Path| {
        fs::write(root.join("a"), "inside").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
    };
    on_every_engine("public = true\n", fill, |server| {
        for path in [
            "/../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/out",
            "//secret",
            "/a%00",
            "/./../secret",
            "/a/../../secret",
        ] {
            let mut connection = server.connect();
            connection.write(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
            let bytes = connection.read_to_end();
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.starts_with("HTTP/1.1 40"), "{path}: {text}");
            assert!(!text.contains("\r\n\r\nsecret"), "{path}");
        }
        assert_eq!(server.get("/a").expect(200).text(), "inside");
    });
}

#[test]
fn a_large_file_arrives_whole_and_in_order() {
    let content: Vec<u8> = (0..5_000_000u32).flat_map(u32::to_le_bytes).collect();
    let fill = |root: &Path| fs::write(root.join("large.bin"), &content).unwrap();
    on_every_engine("public = true\n", fill, |server| {
        let answer = server.get("/large.bin").expect(200);
        assert_eq!(answer.header("Content-Length"), Some("20000000"));
        assert!(answer.body == content, "the bytes differ");
    });
}

#[test]
fn navigations_of_a_single_page_get_its_index() {
    let fill = |root: &Path| fs::write(root.join("index.html"), "app").unwrap();
    on_every_engine("public = true\nspa = true\n", fill, |server| {
        let html = [("Accept", "text/html,*/*;q=0.8")];
        assert_eq!(server.send("GET", "/users/42", &html, b"").expect(200).text(), "app");
        assert_eq!(server.send("GET", "/users/42", &[("Accept", "*/*")], b"").expect(200).text(), "app");
        server.send("GET", "/users/42", &[("Accept", "application/json")], b"").expect(404);
        server.send("GET", "/missing.js", &[("Accept", "*/*")], b"").expect(404);
        server.send("GET", "/api/v1/missing", &html, b"").expect(404);
    });
}

#[test]
fn a_file_is_kept_for_as_long_as_its_name_allows() {
    const YEAR: &str = "public, max-age=31536000, immutable";
    const DAY: &str = "public, max-age=86400";
    const CASES: [(&str, &str, &str); 21] = [
        ("index.html", "no-cache", "text/html; charset=utf-8"),
        ("a/page.htm", "no-cache", "text/html; charset=utf-8"),
        ("sw.js", "no-cache", "text/javascript; charset=utf-8"),
        ("firebase-messaging-sw.js", "no-cache", "text/javascript; charset=utf-8"),
        ("app.webmanifest", "no-cache", "application/manifest+json"),
        ("manifest.json", "no-cache", "application/json"),
        ("assets/index-BxY3kQ9z.js", YEAR, "text/javascript; charset=utf-8"),
        ("a/assets/logo-CHdo91hT.svg", YEAR, "image/svg+xml"),
        ("_nuxt/BxY3kQ9z.js", YEAR, "text/javascript; charset=utf-8"),
        ("app.3f2a9c1b.js", YEAR, "text/javascript; charset=utf-8"),
        ("cam-a4cf12fe.jpg", DAY, "image/jpeg"),
        ("config-5ccf7f3a.json", DAY, "application/json"),
        ("log.20240115a.txt", DAY, "text/plain; charset=utf-8"),
        ("index-BxY3kQ9z.js", DAY, "text/javascript; charset=utf-8"),
        ("app.js", DAY, "text/javascript; charset=utf-8"),
        ("live.m3u8", "no-cache", "application/vnd.apple.mpegurl"),
        ("live.ts", DAY, "video/mp2t"),
        ("a.vtt", DAY, "text/vtt; charset=utf-8"),
        ("larder.log", DAY, "text/plain; charset=utf-8"),
        ("a.glb", DAY, "model/gltf-binary"),
        ("README", DAY, "application/octet-stream"),
    ];
    let fill = |root: &Path| {
        for (path, ..) in CASES {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "x").unwrap();
        }
    };
    on_every_engine("public = true\nspa = true\n", fill, |server| {
        for (path, rule, content_type) in CASES {
            let file = server.get(&format!("/{path}")).expect(200);
            assert_eq!((file.header("Cache-Control"), file.header("Content-Type")), (Some(rule), Some(content_type)));
        }
        for path in ["/", "/some/route"] {
            assert_eq!(server.get(path).expect(200).header("Cache-Control"), Some("no-cache"), "{path}");
        }
    });
    on_every_engine("immutable = [\"/a/\"]\n", fill, |server| {
        let rule = |path: &str| server.get(path).expect(200).header("Cache-Control").unwrap().to_owned();
        assert_eq!(rule("/a/assets/logo-CHdo91hT.svg"), "private, max-age=31536000, immutable");
        assert_eq!(rule("/assets/index-BxY3kQ9z.js"), "private, max-age=86400");
    });
}

/// Every file beneath a folder, as a path from there.
fn files_in(folder: &Path, below: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{below}/{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => files_in(&entry.path(), &name, found),
            false => found.push(name),
        }
    }
}

#[test]
fn what_is_larders_own_is_never_a_file_however_it_came_there() {
    use std::os::unix::fs::symlink;
    for engine in support::engines() {
        let outer = tempfile::tempdir().unwrap();
        let path = |name: &str| outer.path().join(name);
        fs::create_dir(path("www")).unwrap();
        fs::write(path("www/page"), "page").unwrap();
        symlink("www", path("current")).unwrap();
        let added = std::process::Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["token", "add", "one", "--scope", "admin"])
            .env("LARDER_AUTH_TOKENS_FILE", path("www/tokens.jsonl"))
            .output()
            .unwrap();
        let token = format!("Bearer {}", String::from_utf8(added.stdout).unwrap().trim());
        let config = format!(
            "[auth]\ntokens_file = {:?}\n[www]\ndir = {:?}\npublic = true\nspa = true",
            path("www/tokens.jsonl"),
            path("current")
        );
        let server = Server::builder().engine(&engine).config(&config).start();
        server.send("PUT", "/api/v1/kv/a/b/c", &[("Authorization", &token)], b"secret").expect(201);
        let folder = server.data().parent().unwrap();
        fs::hard_link(path("www/tokens.jsonl"), path("www/copy.jsonl")).unwrap();
        symlink("copy.jsonl", path("www/link.jsonl")).unwrap();
        fs::write(path("www/tokens.jsonl.new"), "left by a crash").unwrap();
        fs::hard_link(folder.join("larder.toml"), path("www/copy.toml")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("www/socket")).unwrap();
        server.get("/page").expect(200);
        for name in ["tokens.jsonl", "copy.jsonl", "link.jsonl", "tokens.jsonl.new", "copy.toml", "socket"] {
            for (method, fields) in [
                ("GET", &[][..]),
                ("HEAD", &[]),
                ("GET", &[("Range", "bytes=0-1")]),
                ("GET", &[("If-None-Match", "*")]),
            ] {
                server.send(method, &format!("/{name}"), fields, b"").expect(404);
            }
        }
        // The link that a deploy moves may come to point anywhere.
        let turn_to = |target: &Path| {
            symlink(target, path("next")).unwrap();
            fs::rename(path("next"), path("current")).unwrap();
        };
        let mut stored = Vec::new();
        files_in(server.data(), "", &mut stored);
        assert!(stored.iter().any(|name| name.ends_with(".jnl")), "{stored:?}");
        for (target, below) in [(server.data().to_owned(), ""), (folder.to_owned(), "/data")] {
            fs::write(folder.join("page"), "page").unwrap();
            turn_to(&target);
            for name in &stored {
                server.get(&format!("{below}{name}")).expect(404);
            }
            server.get(&format!("{below}/")).expect(404);
        }
        server.get("/page").expect(200);
        server.get("/larder.toml").expect(404);
        turn_to(&path("www"));
        server.get("/page").expect(200);
    }
}

#[test]
fn what_is_stored_is_no_file_of_a_folder_that_it_is_mounted_in() {
    let possible = std::process::Command::new("unshare").args(["--mount", "mount", "--bind", "/tmp", "/tmp"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return support::skipped("this user may not mount");
    }
    let outer = tempfile::tempdir().unwrap();
    let (www, data) = (outer.path().join("www"), outer.path().join("data"));
    fs::create_dir_all(www.join("in")).unwrap();
    fs::create_dir(&data).unwrap();
    fs::write(www.join("page"), "page").unwrap();
    for engine in support::engines() {
        // The mount comes once larder is there: `check` and `serve` refuse one that they find.
        let config = format!("[www]\ndir = {www:?}\npublic = true");
        let server =
            Server::builder().engine(&engine).config(&config).data(&data).wrapper(&["unshare", "--mount"]).start();
        let namespace = format!("--mount=/proc/{}/ns/mnt", server.pid());
        let mut mount = std::process::Command::new("nsenter");
        mount.arg(namespace).args(["mount", "--bind"]).args([&data, &www.join("in")]);
        assert!(mount.status().unwrap().success());
        let mut stored = Vec::new();
        files_in(&data, "/in", &mut stored);
        for name in &stored {
            server.get(name).expect(404);
        }
        assert!(stored.len() > 3, "{stored:?}");
        server.get("/page").expect(200);
        assert!(server.stop().success());
    }
}

#[test]
fn stored_pages_run_no_script_on_the_origin_of_the_files() {
    let fill = |root: &Path| fs::write(root.join("index.html"), "<script>run()</script>").unwrap();
    let settings = "public = true\n[[unsandboxed]]\nnamespace = \"site\"\ncollection = \"pages\"\n\
                    [[cache_control]]\nnamespace = \"aged\"\nvalue = \"max-age=60\"";
    on_every_engine(settings, fill, |server| {
        let policy = "Content-Security-Policy";
        let page = "<script>run()</script>".repeat(100);
        for (content_type, scripts) in [
            ("text/html", true),
            ("TEXT/HTML; charset=utf-8", true),
            ("text/html;", true),
            ("application/xhtml+xml", true),
            ("image/svg+xml", true),
            ("application/xml", true),
            ("text/xml", true),
            ("application/atom+xml", true),
            ("multipart/x-mixed-replace; boundary=x", true),
            ("text/plain", false),
            ("application/json", false),
            ("", false),
            ("image/png", false),
            ("text/javascript", false),
            ("foo/bar", false),
        ] {
            for (path, lifted) in [
                ("/api/v1/kv/home/pages/x", false),
                ("/api/v1/kv/aged/pages/x?ttl=100", false),
                ("/api/v1/kv/site/other/x", false),
                ("/api/v1/kv/site/pages/x", true),
            ] {
                server.send("PUT", path, &[("Content-Type", content_type)], page.as_bytes());
                let path = path.split('?').next().unwrap();
                let tag = server.get(path).expect(200).header("ETag").unwrap().to_owned();
                for (method, fields, status) in [
                    ("GET", &[][..], 200),
                    ("HEAD", &[], 200),
                    ("GET", &[("Cache-Control", "no-cache")], 200),
                    ("GET", &[("Accept-Encoding", "gzip")], 200),
                    ("GET", &[("Range", "bytes=0-7")], 206),
                    ("GET", &[("If-None-Match", tag.as_str())], 304),
                ] {
                    let answer = server.send(method, path, fields, b"").expect(status);
                    let expected = (scripts && !lifted).then_some("sandbox");
                    assert_eq!(answer.header(policy), expected, "{content_type} {path} {method} {fields:?}");
                    let lines = answer.headers.iter().filter(|(name, _)| name == "X-Content-Type-Options");
                    assert_eq!(lines.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["nosniff"]);
                }
            }
        }
        assert_eq!(server.get("/").expect(200).header(policy), None, "the files are the owner's own");
    });
}

#[test]
fn no_answer_leaves_its_type_to_be_guessed() {
    let fill = |root: &Path| fs::write(root.join("index.html"), "<p>").unwrap();
    on_every_engine("public = true\n", fill, |server| {
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/nothing"),
            ("GET", "/health"),
            ("GET", "/openapi.json"),
            ("GET", "/metrics"),
            ("GET", "/api/v1/kv/a/b"),
            ("GET", "/api/v1/kv/a/b/none"),
            ("GET", "/api/v1/export"),
            ("PUT", "/api/v1/kv/_/b/c"),
            ("PUT", "/api/v1/kv/a/b/c"),
            ("POST", "/api/v1/batch"),
            ("POST", "/health"),
            ("OPTIONS", "/health"),
        ] {
            let answer = server.send(method, path, &[], b"");
            assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"), "{method} {path}: {answer:?}");
        }
        let mut connection = server.connect();
        connection.write(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
        assert_eq!(connection.read(false).expect(400).header("X-Content-Type-Options"), Some("nosniff"));
    });
}

#[test]
fn a_folder_that_is_not_there_stops_the_start() {
    let outcome = Server::builder().config("[www]\ndir = \"/nonexistent/folder\"\n").try_start();
    let reason = outcome.err().expect("larder must not start");
    assert!(reason.contains("www.dir"), "{reason}");
}

#[test]
fn a_page_that_makes_its_own_routes_answers_neither_probes_nor_what_browsers_ask_for_else() {
    let fill = |root: &Path| fs::write(root.join("index.html"), "<p>app").unwrap();
    on_every_engine("public = true\nspa = true\n", fill, |server| {
        for (path, place, status) in [
            ("/users/42", None, 200),
            ("/users/42", Some("document"), 200),
            ("/users/42", Some("iframe"), 200),
            ("/users/42", Some("empty"), 200),
            ("/users/42", Some("script"), 404),
            ("/users/42", Some("style"), 404),
            ("/users/42", Some("image"), 404),
            ("/users/42", Some("manifest"), 404),
            ("/users/42", Some("serviceworker"), 404),
            ("/healthy", None, 200),
            ("/health/ready", None, 404),
            ("/healthz", None, 404),
            ("/readyz", None, 404),
            ("/livez", None, 404),
            ("/api/v2/x", None, 404),
        ] {
            let fields: Vec<(&str, &str)> = place.map(|place| ("Sec-Fetch-Dest", place)).into_iter().collect();
            let answer = server.send("GET", path, &[&[("Accept", "*/*")], &fields[..]].concat(), b"");
            assert_eq!(answer.status, status, "{path} {place:?}");
        }
    });
}
