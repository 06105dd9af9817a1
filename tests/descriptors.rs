//! Clients without a token take no descriptor that the store needs: floods of every kind against a process that may open
//! few files, while a writer has tables flushed and merged.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Client, Connection, Server, engines};

/// What the neighbours send, each on connections of its own, and never read.
const KINDS: [&str; 7] = [
    "",
    "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "GET /api/v1/kv/a/b/large HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /api/v1/export HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "PUT /api/v1/kv/a/b/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\nhello",
    "POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\nhello",
];
/// Tables that were made while the flood lasted: flushes, and merges of them.
const TABLES: usize = 8;
/// Descriptors that must be free at any time.
const SPARE: usize = 24;

/// This process needs one for each connection of the flood.
fn raise_own_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn limited(engine: &str, descriptors: usize, www: &Path) -> support::ServerBuilder {
    let script = format!("ulimit -n {descriptors}; exec \"$@\"");
    let www = format!("[www]\ndir = {www:?}\n[store]\nmemtable = \"1MiB\"\n");
    Server::builder().engine(engine).wrapper(&["sh", "-c", &script, "sh"]).config(&www)
}

/// Opens connections of all kinds, again and again, and keeps as many as the server could never bear.
fn flood(server: &Server, kept: usize, opened: &AtomicUsize, done: &AtomicBool) {
    let mut all = VecDeque::new();
    for kind in KINDS.iter().cycle() {
        if done.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = Connection::try_open(server.address()) else { continue };
        let _ = connection.stream().write_all(kind.as_bytes());
        opened.fetch_add(1, Ordering::SeqCst);
        all.push_back(connection);
        if all.len() > kept {
            all.pop_front();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn open_descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

/// The highest number of a table so far.
fn newest_table(server: &Server) -> usize {
    let tables = server.data().join("fjall/keyspaces/1/tables");
    let names = std::fs::read_dir(tables).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).max().unwrap_or(0)
}

/// Writes until so many tables were made; returns the most descriptors that were open meanwhile.
fn write(server: &Server, client: &mut Client) -> usize {
    let first = newest_table(server);
    let (mut most, mut seed) = (0, 1u32);
    let mut value: Vec<u8> = (0..100_000).map(|_| noise(&mut seed)).collect();
    while newest_table(server) < first + TABLES {
        value.rotate_left(1);
        let path = format!("/api/v1/kv/a/w/{}?durability=relaxed", noise(&mut seed));
        insist(server, client, "PUT", &path, &value);
        most = most.max(open_descriptors(server));
    }
    most
}

/// Asks until it is answered. Whoever was quiet for long may have lost the connection, and for a while may find no place.
fn insist(server: &Server, client: &mut Client, method: &str, path: &str, body: &[u8]) {
    loop {
        match client.try_send(method, path, &[], body) {
            Ok(answer) if answer.status / 100 == 2 => return,
            Ok(answer) => {
                assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")), "{}", answer.text())
            }
            Err(_) => *client = server.client(),
        }
        assert_eq!(std::fs::read_to_string(format!("/proc/{}/comm", server.pid())).unwrap(), "larder\n");
    }
}

fn noise(seed: &mut u32) -> u8 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*seed >> 24) as u8
}

#[test]
fn no_client_takes_a_descriptor_that_a_flush_needs() {
    raise_own_limit();
    let www = tempfile::tempdir().unwrap();
    std::fs::write(www.path().join("large.bin"), vec![0; 8 << 20]).unwrap();
    // `make trial` runs it optimised, with both for each.
    let counts = |engine: &str| match (cfg!(debug_assertions), engine) {
        (true, "epoll") => vec![256],
        (true, _) => vec![1024],
        (false, _) => vec![256, 1024],
    };
    let engines = engines();
    for (engine, descriptors) in engines.iter().flat_map(|engine| counts(engine).into_iter().map(move |n| (engine, n)))
    {
        let server = limited(engine, descriptors, www.path()).start();
        support::eventually("it says what was cut", || server.log().contains("limits.connections_max is cut from "));
        let mut client = server.client();
        insist(&server, &mut client, "PUT", "/api/v1/kv/a/b/large", &[b'x'; 1_000_000]);
        let (opened, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        let most = std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| flood(&server, descriptors / 2, &opened, &done))));
            let wrote = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                support::eventually("they are more than there is room for", || {
                    // Whoever is busy keeps its connection.
                    insist(&server, &mut client, "GET", "/health/live", b"");
                    opened.load(Ordering::SeqCst) > descriptors / 2
                });
                write(&server, &mut client)
            }));
            done.store(true, Ordering::SeqCst);
            wrote.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        println!("{engine}, {descriptors}: {most} were open");
        assert!(most + SPARE <= descriptors, "{engine}: {most} of {descriptors} were open");
        insist(&server, &mut client, "GET", "/health", b"");
        insist(&server, &mut client, "PUT", "/api/v1/kv/a/b/last", b"x");
        assert_eq!(server.metric("larder_store_writable"), 1.0, "{engine}, {descriptors}");
        assert!(!server.log().contains("Too many open files"), "{}", server.log());
    }
}

#[test]
fn too_few_descriptors_for_any_client_stop_the_start_and_the_check() {
    let folder = tempfile::tempdir().unwrap();
    for engine in engines() {
        for command in ["serve", "check"] {
            let script = format!("ulimit -n 40; exec \"$0\" {command} --engine {engine} --data d --listen 127.0.0.1:0");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script, env!("CARGO_BIN_EXE_larder")]).current_dir(folder.path());
            let output = shell.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{engine}, {command}: {text}");
            assert!(text.contains("may open 40 files, and larder needs "), "{text}");
            assert!(!folder.path().join("d").exists());
        }
    }
}

#[test]
fn a_soft_limit_is_raised_to_the_hard_one() {
    for engine in engines() {
        let script = "ulimit -Sn 64; ulimit -Hn 2048; exec \"$@\"";
        let server = Server::builder().engine(&engine).wrapper(&["sh", "-c", script, "sh"]).start();
        assert_eq!(server.metric("process_max_fds"), 2048.0, "{engine}");
    }
}

/// What the process may map: as little as a board of 32 bits has, so that stacks of tiny_http could take all of it.
const ADDRESSES: &str = "--as=1200000000";

#[test]
fn where_addresses_are_few_connections_are_refused_at_the_door_and_nothing_ends() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return support::skipped("prlimit is not installed");
    }
    let config = "[limits]\nconnections_max = 6000\nconnections_per_address_max = 6000\nidle_timeout = \"600s\"\nhead_timeout = \"600s\"\n[server]\nbacklog = 4096\n";
    // One arena for all threads, as the unit file has it; and the stacks of an optimised build.
    let mut server = Server::builder()
        .config(config)
        .environment("MALLOC_ARENA_MAX", "1")
        .environment("RUST_MIN_STACK", "524288")
        .wrapper(&["prlimit", ADDRESSES])
        .start();
    let mut cut = String::new();
    support::eventually("it says what is cut", || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("limits.connections_max is cut from 6000 to "));
        cut = line.unwrap_or_default().to_owned();
        line.is_some()
    });
    let most: usize = cut.split(" to ").nth(1).and_then(|rest| rest.split(':').next()?.trim().parse().ok()).unwrap();
    assert!((200..4000).contains(&most), "{cut}");
    // Heads that never end, so that none of them can make way.
    let mut held = Vec::new();
    for _ in 0..most + 300 {
        if let Ok(mut stream) = TcpStream::connect(server.address()) {
            let _ = stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
            held.push(stream);
        }
    }
    support::eventually("some are refused", || {
        server.try_wait().is_some()
            || held.iter().any(|stream| {
                stream.set_nonblocking(true).unwrap();
                let mut status = [0; 12];
                stream
                    .peek(&mut status)
                    .is_ok_and(|length| length == 12 && [b"503", b"408"].contains(&status[9..12].try_into().unwrap()))
            })
    });
    assert!(server.try_wait().is_none(), "it ended: {}", server.log());
    drop(held);
    support::eventually("it serves", || {
        support::Client::new(server.address())
            .try_send("GET", "/health/live", &[], b"")
            .is_ok_and(|answer| answer.status == 200)
    });
    assert!(server.stop().success());
}
