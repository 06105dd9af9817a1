//! The files of a folder, asked for through the same door that the server uses, without a socket.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use larder::http::static_files::{StaticFiles, StaticOptions};
use larder::http::{Body, Head, Method, Peer, Request, RequestBody, Response};

const LONG_AGO: Duration = Duration::from_secs(784_111_777);
const LONG_AGO_DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BROWSER: (&str, &str) = ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8");

struct Site {
    /// What lies around the folder and must never be seen.
    outer: tempfile::TempDir,
    files: StaticFiles,
}

impl Site {
    fn new() -> Site {
        Site::with(StaticOptions::default())
    }

    fn with(options: StaticOptions) -> Site {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("secret.txt"), "secret").unwrap();
        fs::create_dir(outer.path().join("www")).unwrap();
        let files = StaticFiles::open(&outer.path().join("www"), options).unwrap();
        Site { outer, files }
    }

    fn root(&self) -> std::path::PathBuf {
        self.outer.path().join("www")
    }

    /// Puts a file in place that was last changed long ago.
    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> &Site {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        set_modified(&path, LONG_AGO);
        self
    }

    fn ask(&self, method: Method, target: &str, fields: &[(&str, &str)]) -> Response {
        let mut head = Head::new(target);
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        let body = RequestBody::Bytes(Bytes::new());
        self.files.respond(&Request { method, head, body, peer: Peer::Unix })
    }

    fn get(&self, target: &str, fields: &[(&str, &str)]) -> Response {
        self.ask(Method::Get, target, fields)
    }

    fn tag(&self, target: &str, fields: &[(&str, &str)]) -> String {
        self.get(target, fields).get("ETag").unwrap().to_owned()
    }
}

fn set_modified(path: &Path, since_1970: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + since_1970).unwrap();
}

fn body(response: Response) -> Vec<u8> {
    match response.body {
        Body::Empty => Vec::new(),
        Body::Bytes(bytes) => bytes.to_vec(),
        Body::Problem(problem) => problem.render(None),
        Body::Pull { length, mut pull, .. } => {
            let mut out = Vec::new();
            while pull(&mut out).unwrap() {}
            assert!(length.is_none_or(|length| length == out.len() as u64));
            out
        }
    }
}

fn text(response: Response) -> String {
    String::from_utf8(body(response)).unwrap()
}

#[test]
fn a_file_is_answered_with_everything_a_browser_wants_to_know() {
    let site = Site::new();
    site.put("a b/page.html", "<p>hello");
    let response = site.get("/a%20b/page.html?v=3", &[]);
    assert_eq!(response.status, 200);
    assert_eq!(response.get("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(response.get("Last-Modified"), Some(LONG_AGO_DATE));
    assert_eq!(response.get("Cache-Control"), Some("no-cache"));
    assert_eq!(response.get("Accept-Ranges"), Some("bytes"));
    assert_eq!(response.get("Vary"), Some("Accept-Encoding"));
    let tag = response.get("ETag").unwrap();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    assert_eq!(text(response), "<p>hello");
}

#[test]
fn wasm_has_its_type_and_unknown_files_are_octets() {
    let site = Site::new();
    site.put("m.wasm", "x").put("README", "x").put("empty.js", "");
    assert_eq!(site.get("/m.wasm", &[]).get("Content-Type"), Some("application/wasm"));
    assert_eq!(site.get("/README", &[]).get("Content-Type"), Some("application/octet-stream"));
    let empty = site.get("/empty.js", &[]);
    assert_eq!((empty.status, text(empty).as_str()), (200, ""));
}

#[test]
fn other_methods_are_refused_with_those_allowed() {
    let site = Site::new();
    site.put("a", "x");
    for method in [Method::Put, Method::Post, Method::Patch, Method::Delete, Method::Other] {
        let response = site.ask(method, "/a", &[]);
        assert_eq!(response.status, 405);
        assert_eq!(response.get("Allow"), Some("GET, HEAD, OPTIONS"));
    }
}

#[test]
fn head_equals_get_without_the_body() {
    let site = Site::new();
    site.put("small.txt", "hello").put("large.bin", vec![1; 200_000]).put("a.js", "x".repeat(5000));
    for (target, fields) in
        [("/small.txt", &[][..]), ("/large.bin", &[]), ("/a.js", &[("Accept-Encoding", "gzip")]), ("/none", &[])]
    {
        let (get, head) = (site.get(target, fields), site.ask(Method::Head, target, fields));
        assert_eq!((get.status, &get.fields), (head.status, &head.fields), "{target}");
        let announced = match &head.body {
            Body::Empty => head.length_only,
            Body::Pull { length, .. } => *length,
            Body::Problem(problem) => Some(problem.render(None).len() as u64),
            Body::Bytes(_) => panic!("a HEAD reads no file"),
        };
        if let Some(announced) = announced {
            assert_eq!(announced, body(get).len() as u64, "{target}");
        }
    }
}

#[test]
fn folders_answer_with_their_index_and_are_never_listed() {
    let site = Site::new();
    site.put("index.html", "root").put("sub/index.html", "sub").put("bare/file.txt", "x");
    assert_eq!(text(site.get("/", &[])), "root");
    assert_eq!(text(site.get("/sub/", &[])), "sub");
    assert_eq!(site.get("/bare/", &[]).status, 404);
    assert_eq!(site.get("/bare", &[]).status, 404);
    assert_eq!(site.get("/sub/index.html/", &[]).status, 404);
}

#[test]
fn a_folder_without_its_slash_is_redirected_within_the_site() {
    let site = Site::new();
    site.put("sub dir/index.html", "x").put("\\evil.example/index.html", "x");
    let response = site.get("/sub%20dir?x=1", &[]);
    assert_eq!((response.status, response.get("Location")), (301, Some("/sub%20dir/?x=1")));
    assert_eq!(site.get("/\\evil.example", &[]).get("Location"), Some("/%5Cevil.example/"));
    assert_eq!(site.get("//sub%20dir", &[]).status, 404);
}

#[test]
fn nothing_outside_the_folder_can_be_reached() {
    let site = Site::new();
    site.put("sub/a.txt", "inside");
    symlink("../secret.txt", site.root().join("out.txt")).unwrap();
    symlink("../../secret.txt", site.root().join("sub/out.txt")).unwrap();
    symlink(site.outer.path(), site.root().join("out")).unwrap();
    symlink("..", site.root().join("up")).unwrap();
    symlink("/etc/passwd", site.root().join("passwd")).unwrap();
    symlink("/proc/self/root", site.root().join("magic")).unwrap();
    for target in [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/sub/..%2f..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/out.txt",
        "/sub/out.txt",
        "/out/secret.txt",
        "/up/secret.txt",
        "/passwd",
        "/magic/etc/passwd",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/sub/a.txt%00",
        "/sub/a.txt%00.html",
        "/%00",
        "/sub//a.txt",
        "/./sub/a.txt",
        "/%ff%fe",
        "secret.txt",
        "*",
        "",
    ] {
        let response = site.get(target, &[BROWSER]);
        assert_eq!(response.status, 404, "{target}");
        let text = text(response);
        assert!(!text.contains("secret") && !text.contains("root:") && !text.contains("www"), "{target}: {text}");
    }
    assert_eq!(site.get("/sub/a.tx%7", &[]).status, 400);
    assert_eq!(site.get(&format!("/{}", "a".repeat(300)), &[]).status, 404);
    assert_eq!(site.get(&format!("/{}", "a/".repeat(4000)), &[]).status, 404);
}

#[test]
fn links_that_stay_inside_are_followed() {
    let site = Site::new();
    site.put("releases/2/a.txt", "two");
    symlink("releases/2", site.root().join("current")).unwrap();
    symlink("../current/a.txt", site.root().join("releases/latest.txt")).unwrap();
    assert_eq!(text(site.get("/current/a.txt", &[])), "two");
    assert_eq!(text(site.get("/releases/latest.txt", &[])), "two");
}

#[test]
fn hidden_files_do_not_exist_but_well_known_ones_do() {
    let site = Site::new();
    site.put(".env", "x").put(".git/config", "x").put("sub/.htpasswd", "x").put(".well-known/security.txt", "ok");
    for target in ["/.env", "/.git/config", "/sub/.htpasswd", "/%2Eenv", "/sub/.well-known/x"] {
        assert_eq!(site.get(target, &[]).status, 404, "{target}");
    }
    assert_eq!(text(site.get("/.well-known/security.txt", &[])), "ok");
}

#[test]
fn pipes_and_sockets_are_refused_without_waiting() {
    let site = Site::new();
    let made = std::process::Command::new("mkfifo").arg(site.root().join("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(site.root().join("socket")).unwrap();
    symlink("pipe", site.root().join("to_pipe")).unwrap();
    for target in ["/pipe", "/socket", "/to_pipe"] {
        assert_eq!(site.get(target, &[]).status, 404, "{target}");
    }
}

#[test]
fn conditions_spare_the_body() {
    let site = Site::new();
    site.put("a.txt", "hello");
    let tag = site.tag("/a.txt", &[]);
    let fresh = site.get("/a.txt", &[("If-None-Match", &format!("\"x\", W/{tag}"))]);
    assert_eq!(fresh.status, 304);
    assert_eq!(fresh.get("ETag"), Some(tag.as_str()));
    assert_eq!(fresh.get("Cache-Control"), Some("public, max-age=86400"));
    assert_eq!(fresh.get("Vary"), Some("Accept-Encoding"));
    assert!(matches!(fresh.body, Body::Empty));
    assert_eq!(site.get("/a.txt", &[("If-Modified-Since", LONG_AGO_DATE)]).status, 304);
    assert_eq!(site.get("/a.txt", &[("If-Modified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")]).status, 200);
    assert_eq!(site.get("/a.txt", &[("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")]).status, 412);
    assert_eq!(site.get("/a.txt", &[("If-Match", &tag)]).status, 200);
    assert_eq!(site.get("/a.txt", &[("If-Match", "\"x\"")]).status, 412);
    assert_eq!(site.get("/a.txt", &[("If-Match", "x")]).status, 400);
    assert_eq!(site.get("/none.txt", &[("If-Match", "*")]).status, 404);
}

#[test]
fn a_tag_changes_when_the_file_is_replaced_or_changed_in_place() {
    let site = Site::new();
    site.put("a.txt", "hello");
    let first = site.tag("/a.txt", &[]);
    assert_eq!(site.tag("/a.txt", &[]), first);
    site.put("new", "hullo");
    fs::rename(site.root().join("new"), site.root().join("a.txt")).unwrap();
    let replaced = site.tag("/a.txt", &[]);
    assert_ne!(replaced, first, "same size and time, another file");
    File::options().append(true).open(site.root().join("a.txt")).unwrap().write_all(b"!").unwrap();
    assert_ne!(site.tag("/a.txt", &[]), replaced);
}

#[test]
fn a_modification_in_the_future_is_not_announced() {
    let site = Site::new();
    site.put("a.txt", "hello");
    set_modified(&site.root().join("a.txt"), Duration::from_secs(4_000_000_000));
    assert_eq!(site.get("/a.txt", &[]).get("Last-Modified"), None);
}

#[test]
fn single_ranges_are_served_and_several_are_answered_whole() {
    let site = Site::new();
    site.put("a.bin", "0123456789");
    let part = site.get("/a.bin", &[("Range", "bytes=2-4")]);
    assert_eq!((part.status, part.get("Content-Range")), (206, Some("bytes 2-4/10")));
    assert_eq!(text(part), "234");
    assert_eq!(text(site.get("/a.bin", &[("Range", "bytes=-3")])), "789");
    assert_eq!(text(site.get("/a.bin", &[("Range", "bytes=8-")])), "89");
    assert_eq!(site.get("/a.bin", &[("Range", "bytes=0-1,4-5")]).status, 200);
    let beyond = site.get("/a.bin", &[("Range", "bytes=10-")]);
    assert_eq!((beyond.status, beyond.get("Content-Range")), (416, Some("bytes */10")));
    assert_eq!(site.ask(Method::Head, "/a.bin", &[("Range", "bytes=2-4")]).status, 200);
}

#[test]
fn a_large_range_streams_exactly_its_bytes() {
    let site = Site::new();
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    site.put("a.bin", &content);
    let part = site.get("/a.bin", &[("Range", "bytes=1000-250999")]);
    assert!(matches!(part.body, Body::Pull { length: Some(250_000), .. }));
    assert_eq!(body(part), content[1000..251_000]);
}

#[test]
fn if_range_resumes_only_the_same_file() {
    let site = Site::new();
    site.put("a.bin", "0123456789");
    let tag = site.tag("/a.bin", &[]);
    let resume = |validator: &str| site.get("/a.bin", &[("Range", "bytes=5-"), ("If-Range", validator)]).status;
    assert_eq!(resume(&tag), 206);
    assert_eq!(resume(LONG_AGO_DATE), 206);
    assert_eq!(resume("\"other\""), 200);
    assert_eq!(resume(&format!("W/{tag}")), 200);
    assert_eq!(resume("Sun, 06 Nov 1994 08:49:38 GMT"), 200);
}

#[test]
fn forms_compressed_beforehand_are_chosen_by_what_is_accepted() {
    let site = Site::new();
    site.put("app.js", "plain").put("app.js.br", "brotli").put("app.js.gz", "gzipped");
    let ask = |accepted: &str| {
        let response = site.get("/app.js", &[("Accept-Encoding", accepted)]);
        assert_eq!(response.get("Content-Type"), Some("text/javascript; charset=utf-8"));
        assert_eq!(response.get("Vary"), Some("Accept-Encoding"));
        let coding = response.get("Content-Encoding").unwrap_or("identity").to_owned();
        (coding, text(response))
    };
    assert_eq!(ask("gzip, deflate, br"), ("br".into(), "brotli".into()));
    assert_eq!(ask("br;q=0.5, gzip"), ("gzip".into(), "gzipped".into()));
    assert_eq!(ask("gzip"), ("gzip".into(), "gzipped".into()));
    assert_eq!(ask("br;q=0, gzip;q=0"), ("identity".into(), "plain".into()));
    assert_eq!(ask("identity, gzip;q=0.5"), ("identity".into(), "plain".into()));
    let plain = site.get("/app.js", &[("Accept-Encoding", "br"), ("X-No-Compression", "1")]);
    assert_eq!(plain.get("Content-Encoding"), None);
    let by_name = site.get("/app.js.gz", &[("Accept-Encoding", "gzip")]);
    assert_eq!((by_name.get("Content-Type"), by_name.get("Content-Encoding")), (Some("application/gzip"), None));
}

#[test]
fn each_form_has_its_own_tag_and_ranges_are_of_the_identity() {
    let site = Site::new();
    site.put("app.js", "plain").put("app.js.br", "brotli").put("app.js.gz", "gzipped");
    let forms = ["identity", "br", "gzip"];
    let tags = forms.map(|coding| site.tag("/app.js", &[("Accept-Encoding", coding)]));
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
    for (coding, tag) in forms.iter().zip(&tags) {
        assert_eq!(site.get("/app.js", &[("Accept-Encoding", coding), ("If-None-Match", tag)]).status, 304);
    }
    let crossed = site.get("/app.js", &[("Accept-Encoding", "br"), ("If-None-Match", &tags[2])]);
    assert_eq!(crossed.status, 200);
    let part = site.get("/app.js", &[("Accept-Encoding", "br"), ("Range", "bytes=0-1")]);
    assert_eq!((part.status, part.get("Content-Encoding"), part.get("ETag")), (206, None, Some(tags[0].as_str())));
    let resumed = site.get("/app.js", &[("Accept-Encoding", "br"), ("Range", "bytes=2-"), ("If-Range", &tags[1])]);
    assert_eq!((resumed.status, resumed.get("Content-Encoding")), (200, Some("br")));
}

#[test]
fn a_form_older_than_its_file_is_passed_over() {
    let site = Site::new();
    site.put("app.css", "new").put("app.css.gz", "old");
    set_modified(&site.root().join("app.css.gz"), LONG_AGO - Duration::from_secs(1));
    assert_eq!(text(site.get("/app.css", &[("Accept-Encoding", "gzip")])), "new");
}

#[test]
fn a_form_that_leads_out_of_the_folder_is_passed_over() {
    let site = Site::new();
    site.put("app.css", "inside");
    symlink("../secret.txt", site.root().join("app.css.gz")).unwrap();
    assert_eq!(text(site.get("/app.css", &[("Accept-Encoding", "gzip")])), "inside");
}

#[test]
fn text_without_a_form_beside_it_is_compressed_while_it_is_sent() {
    let site = Site::new();
    let content = "some text that repeats itself, ".repeat(20_000);
    site.put("a.txt", &content).put("small.txt", "x").put("a.wasm", &content);
    let response = site.get("/a.txt", &[("Accept-Encoding", "gzip")]);
    assert_eq!(response.get("Content-Encoding"), Some("gzip"));
    assert_ne!(response.get("ETag").unwrap(), site.tag("/a.txt", &[]));
    let coded = body(response);
    assert!(coded.len() < content.len() / 10);
    let mut back = String::new();
    flate2::read::GzDecoder::new(&coded[..]).read_to_string(&mut back).unwrap();
    assert_eq!(back, content);
    for target in ["/small.txt", "/a.wasm"] {
        assert_eq!(site.get(target, &[("Accept-Encoding", "gzip")]).get("Content-Encoding"), None, "{target}");
    }
}

#[test]
fn a_client_that_allows_no_form_there_is_gets_406() {
    let site = Site::new();
    site.put("a.png", "x").put("a.txt", "x").put("a.txt.gz", "z");
    assert_eq!(site.get("/a.png", &[("Accept-Encoding", "gzip, identity;q=0")]).status, 406);
    assert_eq!(text(site.get("/a.txt", &[("Accept-Encoding", "gzip, *;q=0")])), "z");
    assert_eq!(site.get("/a.txt", &[("Accept-Encoding", "br, *;q=0")]).status, 406);
}

#[test]
fn a_single_page_answers_whoever_takes_a_page_and_nobody_else() {
    let site = Site::with(StaticOptions { single_page: true, ..StaticOptions::default() });
    site.put("index.html", "app").put("real.html", "real");
    let page = site.get("/users/42", &[BROWSER]);
    assert_eq!(page.status, 200);
    assert_eq!(page.get("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.get("Cache-Control"), Some("no-cache"));
    assert_eq!(page.get("Vary"), Some("Accept-Encoding, Accept, Sec-Fetch-Dest"));
    assert_eq!(text(page), "app");
    assert_eq!(text(site.get("/real.html", &[BROWSER])), "real");
    for (target, accept, status) in [
        ("/users/42", Some("*/*"), 200),
        ("/users/42", None, 200),
        ("/users/42", Some("text/*"), 200),
        ("/users/42/", Some("*/*"), 200),
        ("/users/a.b", Some("*/*"), 200),
        ("/old.html", Some("*/*"), 200),
        ("/users/42", Some("application/json"), 404),
        ("/users/42", Some("image/avif, image/png"), 404),
        ("/users/42", Some("text/html;q=0, */*"), 404),
        // A script that is gone is not a page, unless a person asks for it.
        ("/missing.js", Some("*/*"), 404),
        ("/missing.png", None, 404),
        ("/missing.js", Some("text/html"), 200),
        ("/../x", Some("text/html"), 404),
    ] {
        let fields: Vec<(&str, &str)> = accept.map(|accept| ("Accept", accept)).into_iter().collect();
        assert_eq!(site.get(target, &fields).status, status, "{target} {accept:?}");
    }
    assert_eq!(Site::new().put("index.html", "app").get("/users/42", &[BROWSER]).status, 404);
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_ends_the_connection() {
    let site = Site::new();
    site.put("a.bin", vec![7; 300_000]);
    let Body::Pull { length: Some(300_000), mut pull, .. } = site.get("/a.bin", &[]).body else { panic!() };
    let mut out = Vec::new();
    assert!(pull(&mut out).unwrap());
    File::options().write(true).open(site.root().join("a.bin")).unwrap().set_len(100_000).unwrap();
    let ended = loop {
        match pull(&mut out) {
            Ok(true) => {}
            other => break other,
        }
    };
    assert!(ended.is_err());
    assert!(out.len() <= 100_000);
}

#[test]
fn a_file_replaced_while_it_is_sent_is_sent_as_it_was() {
    let site = Site::new();
    site.put("a.bin", vec![7; 300_000]);
    let response = site.get("/a.bin", &[]);
    site.put("new", vec![8; 10]);
    fs::rename(site.root().join("new"), site.root().join("a.bin")).unwrap();
    assert_eq!(body(response), vec![7; 300_000]);
}

fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_gibibyte_streams_in_constant_memory() {
    const GIB: u64 = 1 << 30;
    let site = Site::new();
    File::create(site.root().join("large.bin")).unwrap().set_len(GIB).unwrap();
    let Body::Pull { length: Some(GIB), mut pull, .. } = site.get("/large.bin", &[]).body else { panic!() };
    let before_kib = rss_kib();
    let (mut sent, mut piece, mut most_kib) = (0u64, Vec::new(), 0);
    loop {
        piece.clear();
        let more = pull(&mut piece).unwrap();
        assert!(piece.len() <= 64 * 1024);
        sent += piece.len() as u64;
        if sent.is_multiple_of(64 << 20) {
            most_kib = most_kib.max(rss_kib());
        }
        if !more {
            break;
        }
    }
    assert_eq!(sent, GIB);
    // The tests beside this one share the process: they hold a few MiB at most, a buffered file would hold hundreds.
    assert!(most_kib < before_kib + 32 * 1024, "from {before_kib} KiB to {most_kib} KiB");
}
