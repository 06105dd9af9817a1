//! Little memory, and clients that want more: the kernel kills nothing, and what was acknowledged stays readable.
//!
//! A control group holds the server to the limit. Where none can be made, the server is told to be as small, and the most
//! memory that it ever had is held against the limit.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use support::{Connection, Server, engines};

/// What the smallest board leaves to a server beside its system.
const LIMIT_MIB: u64 = 96;
/// What larder chooses for so little memory.
const SMALL: &str = r#"
[cache]
size = "3MiB"
[store]
block_cache = "2MiB"
memtable = "1MiB"
[limits]
bodies_bytes_max = "8MiB"
heads_bytes_max = "1536KiB"
answers_bytes_max = "6MiB"
"#;
const CLIENTS: u64 = 8;
const VALUES: u64 = 30;
const VALUE_BYTES: usize = 200_000;

/// A memory control group, of whichever version this machine has; removed with it.
struct Group(PathBuf);

impl Group {
    fn of(limit_bytes: u64) -> Option<Group> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let v1 = own.lines().find_map(|line| Some(line.split_once(":memory:")?.1.to_owned()));
        let v2 = own.lines().find_map(|line| Some(line.strip_prefix("0::")?.to_owned()));
        let homes = [
            v1.map(|path| {
                (Path::new("/sys/fs/cgroup/memory").join(path.trim_start_matches('/')), "memory.limit_in_bytes")
            }),
            // Controllers of version 2 are given to groups by the one above, which has no processes of its own.
            v2.map(|_| (PathBuf::from("/sys/fs/cgroup"), "memory.max")),
        ];
        homes.into_iter().flatten().find_map(|(home, limit)| {
            let group = home.join(format!("larder-test-{}-{limit_bytes}", std::process::id()));
            fs::create_dir(&group).ok()?;
            let made = Group(group);
            fs::write(made.0.join(limit), limit_bytes.to_string()).ok()?;
            Some(made)
        })
    }

    fn procs(&self) -> String {
        self.0.join("cgroup.procs").display().to_string()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may still be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn value(client: u64, n: u64) -> Vec<u8> {
    let mut state = (client * 1000 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = (0..VALUE_BYTES).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    bytes.collect()
}

fn path(client: u64, n: u64) -> String {
    format!("/api/v1/kv/low/c{client}/{n}")
}

/// Connections that take memory and give nothing: bodies that stop, answers that nobody reads.
fn greedy(address: &str) -> Vec<Connection> {
    let body = vec![b'x'; 900_000];
    let heads = [
        "PUT /api/v1/kv/low/greedy/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".to_owned(),
        "GET /api/v1/kv/low/c0 HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n".to_owned(),
        "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50),
    ];
    let mut held = Vec::new();
    for head in heads.iter().cycle().take(120) {
        let Ok(connection) = Connection::try_open(address) else { continue };
        let mut stream = connection.stream();
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(head.as_bytes());
        let _ = stream.write(&body);
        held.push(connection);
    }
    held
}

fn closes(server: &Server) -> String {
    let page = server.get("/metrics");
    let lines = page.text();
    let lines: Vec<&str> =
        lines.lines().filter(|line| line.contains("closed_total") && !line.ends_with(" 0")).collect();
    lines.join("\n")
}

fn peak_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn endure(engine: &str) {
    let group = Group::of(LIMIT_MIB << 20);
    let (enter, config) = match &group {
        Some(group) => (format!("echo $$ > {} && exec \"$@\"", group.procs()), ""),
        None => ("exec \"$@\"".to_owned(), SMALL),
    };
    let mut server = Server::builder().engine(engine).config(config).wrapper(&["sh", "-c", &enter, "sh"]).start();
    let written: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let server = &server;
        let held = scope.spawn(|| greedy(server.address()));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    let mut written = Vec::new();
                    for n in 0..VALUES {
                        let answer = server.client().try_send("PUT", &path(client, n), &[], &value(client, n));
                        let Ok(answer) = answer else {
                            panic!("{engine}: {answer:?}; metrics:\n{}\nlog:\n{}", closes(server), server.log());
                        };
                        match answer.status {
                            201 => written.push((client, n)),
                            503 => {}
                            other => panic!("{engine}: {other} {}", answer.text()),
                        }
                    }
                    written
                })
            })
            .collect();
        let written = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        drop(held.join().unwrap());
        written
    });
    assert!(written.len() as u64 > CLIENTS * VALUES / 2, "{engine}: only {} written", written.len());
    for (client, n) in written {
        let got = server.get(&path(client, n)).expect(200);
        assert!(got.body == value(client, n), "{engine}: {client}/{n} has other bytes");
    }
    server.get("/health").expect(200);
    let peak = peak_kib(&server);
    assert!(peak <= LIMIT_MIB << 10, "{engine}: {peak} KiB of memory");
    println!("trial: {engine}: {VALUE_BYTES} bytes a value from {CLIENTS} clients, at most {} MiB", peak / 1024);
    server.signal("TERM");
    assert!(server.wait().success(), "{engine}; the log:\n{}", server.log());
}

#[test]
fn little_memory_kills_nobody_and_loses_nothing() {
    engines().iter().for_each(|engine| endure(engine));
}
