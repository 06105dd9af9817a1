//! What a server does at the edge of the machine: no descriptors left, and a client that asks without end.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::{Card, CardOptions, Connection, Server, engines, eventually};

/// Descriptors that are left when they become few: larder would not start with so few, but others may take them later.
const DESCRIPTORS: usize = 96;

const ERRORS: &str = "larder_http_accept_errors_total";

/// A client that has always begun its next request, so that it never counts as idle: where nothing else helps, idle
/// connections make room for new ones.
struct Busy(Connection);

impl Busy {
    fn open(server: &Server) -> Busy {
        let mut connection = server.connect();
        connection.write(b"GET ");
        Busy(connection)
    }

    fn ask(&mut self, path: &str) -> support::Answer {
        self.0.write(format!("{path} HTTP/1.1\r\nHost: localhost\r\n\r\nGET ").as_bytes());
        self.0.read(false).expect(200)
    }

    fn figure(&mut self, name: &str) -> f64 {
        let page = self.ask("/metrics").text();
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}:\n{page}")).trim().parse().unwrap()
    }
}

#[test]
fn without_descriptors_served_connections_go_on_accept_backs_off_and_then_recovers() {
    for engine in engines() {
        let server = Server::builder()
            .engine(&engine)
            .config("[limits]\nconnections_max = 400\nconnections_per_address_max = 400\n")
            .start();
        server.put("/api/v1/kv/n/c/k", b"kept").expect(201);
        let few = Rlimit { current: Some(DESCRIPTORS as u64), maximum: Some(4096) };
        prlimit(Pid::from_raw(server.pid() as i32), Resource::Nofile, few).unwrap();
        let mut served = Busy::open(&server);
        // tiny_http also duplicates each socket, and its accept loop ends if it cannot.
        let restarts = if engine == "tiny_http" { "larder_tiny_http_accept_restarts_total" } else { ERRORS };
        let errors = |served: &mut Busy| served.figure(ERRORS) + served.figure(restarts);
        assert_eq!(errors(&mut served), 0.0, "{engine}");

        // Each has begun a head, so that none of them could be ended for a new one.
        // They are fewer than a listener's queue takes, so that none waits to connect.
        let crowd: Vec<Connection> = (0..DESCRIPTORS + 16)
            .map(|_| {
                let mut connection = server.connect();
                connection.write(b"GET /health HTTP/1.1\r\n");
                connection
            })
            .collect();
        eventually("accept fails", || errors(&mut served) >= 1.0);
        assert_eq!(served.ask("/api/v1/kv/n/c/k").text(), "kept");
        // It tries again, and not all the time: a loop without a pause would have counted hundreds of thousands.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let counted = errors(&mut served);
        assert!(counted < 60.0, "{engine}: {counted} errors of accept");

        drop(crowd);
        eventually("new connections are served", || {
            server.client().try_send("GET", "/api/v1/kv/n/c/k", &[], b"").is_ok_and(|answer| answer.status == 200)
        });
        server.put("/api/v1/kv/n/c/new", b"x").expect(201);
        assert_eq!(served.ask("/api/v1/kv/n/c/k").text(), "kept");
    }
}

fn peak_bytes(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// Sends so many requests and reads nothing; true if the server took them all.
fn flood(connection: &Connection, request: &str) -> bool {
    const REQUESTS: usize = 100_000;
    let timeout = std::time::Duration::from_secs(2);
    connection.stream().set_write_timeout(Some(timeout)).unwrap();
    // It ends when the server reads no more, or has cut the connection.
    std::io::Write::write_all(&mut connection.stream(), request.repeat(REQUESTS).as_bytes()).is_ok()
}

#[test]
fn a_client_that_pipelines_without_end_and_reads_nothing_costs_bounded_memory() {
    for engine in engines() {
        let backing = tempfile::tempdir().unwrap();
        let card = match Card::mount(backing.path(), CardOptions::default()) {
            Ok(card) => card,
            Err(error) => return support::skipped(&format!("no FUSE here: {error}")),
        };
        let data = card.path().join("data");
        let server = Server::builder().engine(&engine).config("[store]\nreserve = 0\n").data(&data).start();
        server.put("/api/v1/kv/n/c/k", &[b'x'; 1000]).expect(201);
        let before = peak_bytes(&server);
        let answers = server.connect();
        assert!(!flood(&answers, "GET /api/v1/kv/n/c/k HTTP/1.1\r\nHost: localhost\r\n\r\n"), "{engine}");
        card.hold_syncs(true);
        let writes = server.connect();
        let put = "PUT /api/v1/kv/n/c/p HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\n\r\n";
        assert!(!flood(&writes, &format!("{put}{}", "x".repeat(60))), "{engine}");
        server.get("/health").expect(200);
        let grown = peak_bytes(&server) - before;
        card.hold_syncs(false);
        println!("{engine}: {grown} bytes");
        assert!(grown < 16 << 20, "{engine}: {grown} bytes");
    }
}
