//! Streams whose clients are slow, on every engine: an export gets through, and whatever is cut says why.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Server, engines};

/// Keys that stand before the stream begins, with values that hardly compress: several times what sockets can hold, and
/// more for code that is quick.
const KEYS: usize = if cfg!(debug_assertions) { 300 } else { 1200 };
const VALUE_BYTES: usize = 32 * 1024;
/// Pieces that make a full socket take more.
const CHUNKS: usize = if cfg!(debug_assertions) { 10 } else { 80 };
const NOISE_BYTES: usize = 1 << 20;
const NDJSON: (&str, &str) = ("Accept", "application/x-ndjson");
/// What is asked for: the target, its fields, and the name of its route in the log.
type Asked = (&'static str, &'static [(&'static str, &'static str)], &'static str);
const EXPORT: Asked = ("/api/v1/export", &[], "/api/v1/export");
const EXPORT_GZIP: Asked = ("/api/v1/export", &[("Accept-Encoding", "gzip")], "/api/v1/export");
const LIST: Asked = ("/api/v1/kv/n/c", &[NDJSON], "/api/v1/kv/{namespace}/{collection}");
const LIST_BACKWARDS: Asked = ("/api/v1/kv/n/c?reverse=true", &[NDJSON], "/api/v1/kv/{namespace}/{collection}");
const LIST_GZIP: Asked =
    ("/api/v1/kv/n/c", &[NDJSON, ("Accept-Encoding", "gzip")], "/api/v1/kv/{namespace}/{collection}");
const LISTS: [Asked; 3] = [LIST, LIST_BACKWARDS, LIST_GZIP];
const ALL: [Asked; 5] = [EXPORT, EXPORT_GZIP, LIST, LIST_BACKWARDS, LIST_GZIP];
/// Of the keys, those that are not written again.
const CALM: usize = 120;

/// The value that a key has since the `turn`-th round of writes.
fn value(key: usize, turn: u64) -> String {
    static NOISE: LazyLock<String> = LazyLock::new(|| {
        let mut state: u64 = 1;
        let mut word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'(' + (state >> 33) as u8 % 50)
        };
        (0..NOISE_BYTES).map(|_| word()).collect()
    });
    // Neighbours have nothing in common that gzip could see.
    let at = key * 3 * VALUE_BYTES % (NOISE_BYTES - VALUE_BYTES);
    format!("{key} {turn} {}", &NOISE[at..][..VALUE_BYTES])
}

/// The round that a value is of.
fn turn_of(value: &str) -> u64 {
    value.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Writes these keys.
fn write(server: &Server, keys: std::ops::Range<usize>, turn: u64) {
    let mut client = server.client();
    for key in keys {
        let (path, text) = (format!("/api/v1/kv/n/c/{key:05}?durability=relaxed"), json!(value(key, turn)).to_string());
        let answer = client.send("PUT", &path, &[("Content-Type", "application/json")], text.as_bytes());
        assert!(matches!(answer.status, 201 | 204), "{answer:?}");
    }
}

/// A stream that is read as slowly as the test likes.
struct Stream {
    input: BufReader<TcpStream>,
    body: Vec<u8>,
    is_whole: bool,
    gzip: bool,
}

impl Stream {
    fn open(server: &Server, (target, fields, _): Asked) -> Stream {
        let mut connection = server.connect();
        rustix::net::sockopt::set_socket_recv_buffer_size(connection.stream(), 64 * 1024).unwrap();
        connection.write_request("GET", target, fields, b"").unwrap();
        let (status, _) = connection.read_head().unwrap();
        assert_eq!(status, 200);
        let gzip = fields.iter().any(|(name, _)| *name == "Accept-Encoding");
        Stream { input: connection.into_reader(), body: Vec::new(), is_whole: false, gzip }
    }

    /// Reads the next chunk; false behind the last one, or where the stream was cut.
    fn read(&mut self) -> bool {
        let mut line = String::new();
        if self.input.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).unwrap() + 2];
        if self.input.read_exact(&mut chunk).is_err() {
            return false;
        }
        self.is_whole = chunk.len() == 2;
        self.body.extend_from_slice(&chunk[..chunk.len() - 2]);
        !self.is_whole
    }

    fn lines(&mut self) -> Vec<Value> {
        rustix::net::sockopt::set_socket_recv_buffer_size(self.input.get_ref(), 1 << 20).unwrap();
        while self.read() {}
        let mut text = String::new();
        if self.gzip {
            let decoded = flate2::read::GzDecoder::new(&self.body[..]).read_to_string(&mut text);
            assert_eq!(decoded.is_ok(), self.is_whole);
        } else {
            text = String::from_utf8(std::mem::take(&mut self.body)).unwrap();
        }
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Waits until so many views were revoked: some seconds of writes each.
fn until_revoked(server: &Server, views: u64) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while revoked(server) < views {
        assert!(Instant::now() < give_up, "{} views were revoked, not {views}", revoked(server));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn revoked(server: &Server) -> u64 {
    server.get("/api/v1/stats").expect(200).json()["store"]["views_revoked"].as_u64().unwrap()
}

/// Writes round after round over the last third of the keys until the test says so; the last round comes back.
fn churn(server: &Server, stop: &AtomicBool, turn: &AtomicU64) {
    while !stop.load(Ordering::SeqCst) {
        write(server, CALM..KEYS, turn.fetch_add(1, Ordering::SeqCst) + 1);
    }
}

/// Does something beside steady writes.
fn beside_writes<T>(server: &Server, turn: &AtomicU64, act: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| churn(server, &stop, turn));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        stop.store(true, Ordering::SeqCst);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The values by key that lines tell of.
fn values(lines: &[Value]) -> BTreeMap<String, String> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    lines.iter().filter(|line| line["key"].is_string()).map(|line| (text(line, "key"), text(line, "value"))).collect()
}

fn export(server: &Server, query: &str) -> String {
    server.get(&format!("/api/v1/export{query}")).expect(200).text()
}

fn import(server: &Server, lines: &str) {
    let fields = [("Content-Type", "application/x-ndjson")];
    let report = server.send("POST", "/api/v1/import", &fields, lines.as_bytes()).expect(200).json();
    assert_eq!(report["failed"], json!([]));
}

/// A store with small memtables: some seconds of writes revoke a view.
fn store(engine: &str, more: &str) -> Server {
    let config = format!("[store]\nmemtable = \"1MiB\"\n[limits]\nidle_timeout = \"10m\"\n{more}");
    let server = Server::builder().engine(engine).config(&config).start();
    write(&server, 0..KEYS, 0);
    server
}

#[test]
fn an_export_gets_through_steady_writes_in_parts_and_what_it_missed_is_in_the_next() {
    for engine in engines() {
        let server = store(&engine, "");
        let turn = AtomicU64::new(0);
        let last = server.metric("larder_store_last_version") as u64;
        let all = beside_writes(&server, &turn, || {
            let mut streams = [EXPORT, EXPORT_GZIP].map(|asked| Stream::open(&server, asked));
            for views in 1..3 {
                until_revoked(&server, views);
                streams.iter_mut().for_each(|stream| (0..CHUNKS).for_each(|_| assert!(stream.read())));
            }
            streams.map(|mut stream| stream.lines())
        });
        assert_eq!(server.metric("larder_streams_cut_total"), 0.0);
        write(&server, 0..1, 1);
        for lines in all {
            check_chain(&server, &lines, last);
        }
    }
}

/// What an export in parts holds, and that it and what was written since its version are all there is.
fn check_chain(server: &Server, lines: &[Value], last: u64) {
    let (end, items) = lines.split_last().unwrap();
    assert!(end["views"].as_u64().unwrap() > 1, "{end}");
    assert_eq!((&end["end"], &end["items"]), (&json!(true), &json!(items.len())));
    let found = values(items);
    assert_eq!(found.len(), KEYS);
    assert!(found.iter().take(CALM).enumerate().all(|(key, (_, found))| *found == value(key, 0)));
    let newest = items.iter().map(|item| item["version"].as_u64().unwrap()).max().unwrap();
    let version = end["version"].as_u64().unwrap();
    assert!(last <= version && version < newest, "{end}: the version of the first view");

    let other = Server::builder().start();
    import(&other, &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    // Records of later views have versions above the end line's, which must not come back on other bytes.
    assert!(other.put("/api/v1/kv/other/c/k", b"x").expect(201).version() > newest);
    other.delete("/api/v1/kv/other/c/k").expect(204);
    import(&other, &export(server, &format!("?since={version}")));
    let read = |server: &Server| {
        let lines: Vec<Value> = export(server, "").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        values(&lines)
    };
    assert!(read(&other) == read(server));
}

#[test]
fn a_list_shows_one_moment_and_says_why_where_that_cannot_be_kept() {
    for engine in engines() {
        let server = store(&engine, "");
        let mut streams = LISTS.map(|asked| Stream::open(&server, asked));
        beside_writes(&server, &AtomicU64::new(0), || until_revoked(&server, 1));
        for stream in &mut streams {
            let lines = stream.lines();
            let (last, items) = lines.split_last().unwrap();
            assert!(!stream.is_whole && items.len() < KEYS, "{last}");
            assert_eq!((&last["status"], &last["code"]), (&json!(503), &json!("OVERLOADED")));
            assert!(items.iter().all(|item| turn_of(item["value"].as_str().unwrap()) == 0), "of one moment");
            let fields = [("Content-Type", "application/x-ndjson")];
            let torn: String = lines.iter().map(|line| format!("{line}\n")).collect();
            server.send("POST", "/api/v1/import", &fields, torn.as_bytes()).expect(400);
        }
        are_cut(&server, "revoked", &LISTS);
    }
}

/// The streams were counted and logged by their reason, and by no other.
fn are_cut(server: &Server, reason: &str, asked: &[Asked]) {
    let count = || server.metric(&format!("larder_streams_cut_total{{reason=\"{reason}\"}}")) as usize;
    let give_up = Instant::now() + Duration::from_secs(60);
    while count() < asked.len() {
        assert!(Instant::now() < give_up, "{} of {} were cut: {}", count(), asked.len(), server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.metric("larder_streams_cut_total") as usize, asked.len());
    for (.., route) in asked {
        let line = format!("a stream of {route} to 127.0.0.1:");
        support::eventually("it is logged", || server.log().contains(&line));
    }
    support::eventually("its place is free", || server.get("/api/v1/stats").json()["streams"] == 0);
}

#[test]
fn a_client_that_takes_nothing_is_cut_and_counted() {
    for engine in engines() {
        let server = store(&engine, "snapshot_age = \"1s\"\n");
        let streams = ALL.map(|asked| Stream::open(&server, asked));
        are_cut(&server, "unread", &ALL);
        drop(streams);
    }
}

#[test]
fn a_client_that_takes_something_now_and_then_is_not_cut_however_long_it_takes() {
    for engine in engines() {
        let server = store(&engine, "snapshot_age = \"2s\"\n");
        let mut stream = Stream::open(&server, LIST);
        // Less than a third of what the kernel holds for it: meanwhile the socket is full.
        for _ in 0..15 {
            std::thread::sleep(Duration::from_millis(400));
            assert!(stream.read());
        }
        assert_eq!(stream.lines().len(), KEYS + 1);
        assert_eq!(server.metric("larder_streams_cut_total"), 0.0);
    }
}

#[test]
fn a_client_that_leaves_is_told_from_one_that_is_cut() {
    for engine in engines() {
        let server = store(&engine, "");
        drop(Stream::open(&server, EXPORT));
        are_cut(&server, "client", &[EXPORT]);
    }
}

#[test]
fn a_stop_tells_those_who_read_that_it_is_the_reason() {
    for engine in engines() {
        let server = store(&engine, "drain_timeout = \"8s\"\n");
        let mut streams = [EXPORT, LIST_GZIP].map(|asked| Stream::open(&server, asked));
        server.signal("TERM");
        // Streams end when three quarters of the time are over, and are cut at its end.
        let hurry_at = Instant::now() + Duration::from_millis(6500);
        std::thread::scope(|scope| {
            for stream in &mut streams {
                scope.spawn(|| {
                    while stream.read() {
                        // Too slowly to be done by then; what is on its way is read at once.
                        let is_late = Instant::now() > hurry_at;
                        std::thread::sleep(Duration::from_millis(if is_late { 0 } else { 150 }));
                    }
                });
            }
        });
        for stream in &mut streams {
            let (lines, log) = (stream.lines(), server.log());
            let ended = (&lines.last().unwrap()["code"], stream.is_whole);
            assert_eq!(ended, (&json!("DRAINING"), false), "{engine}, gzip {}: {log}", stream.gzip);
        }
        assert!(server.log().contains("larder stops"), "{}", server.log());
    }
}

#[test]
fn the_client_says_why_its_export_was_cut_and_leaves_no_file() {
    for engine in engines() {
        let server = store(&engine, "drain_timeout = \"4s\"\n");
        // More than the buffers of two sockets and a pipe can hold.
        let large = vec![b'x'; 1_000_000];
        (0..24)
            .for_each(|n| drop(server.put(&format!("/api/v1/kv/n/more/{n}?durability=relaxed"), &large).expect(201)));
        let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["export", "--url", &server.url()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let (mut piece, mut taken) = (vec![0; 16 * 1024], 0);
        out.read_exact(&mut piece).unwrap();
        server.signal("TERM");
        while let Ok(count @ 1..) = out.read(&mut piece) {
            taken += count;
            std::thread::sleep(Duration::from_millis(if taken < 6 * 1024 * 1024 { 10 } else { 0 }));
        }
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("larder is stopping") && said.contains("(DRAINING)"), "{said}");
    }
}
