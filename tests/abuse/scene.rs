//! A server with a 512 MB board's settings, its tokens, a neighbour, and sockets that do as little as they are told.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::{Client, Server};

/// What a board with 512 MB has by default, whatever this machine has.
const BOARD: &str = r#"
[cache]
size = "16MiB"
[store]
block_cache = "4MiB"
memtable = "4MiB"
[limits]
bodies_bytes_max = "32MiB"
heads_bytes_max = "8MiB"
answers_bytes_max = "32MiB"
# Whoever is turned away is so for what he does, not because the machine that tests run on is busy.
request_timeout = "60s"
"#;
/// Attackers come from so many addresses, so that the cap of one does not hide what they do.
const ADDRESSES: usize = 8;

/// The sockets of an attack; it goes on until they are dropped.
pub type Held = Vec<TcpStream>;

pub struct Scene {
    pub server: Server,
    pub engine: String,
    /// A token that may do everything, one for the neighbour, and one for the attackers, which may write.
    pub admin: String,
    neighbours: String,
    pub hostile: String,
    peak_kib: Arc<AtomicU64>,
    watching: Arc<AtomicBool>,
    folder: tempfile::TempDir,
}

fn token(data: &Path, name: &str, scope: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    let output = command.args(["token", "add", name, "--scope", scope, "--data"]).arg(data).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().find(|word| word.starts_with("ldr_")).unwrap().to_owned()
}

/// For how long an attack is held.
pub fn holds() -> Duration {
    Duration::from_secs(std::env::var("ABUSE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1))
}

impl Scene {
    pub fn start(engine: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let [admin, neighbours, hostile] = [("admin", "admin"), ("neighbour", "write"), ("hostile", "write")]
            .map(|(name, scope)| token(&data, name, scope));
        let www = folder.path().join("www");
        std::fs::create_dir(&www).unwrap();
        let config = format!("{BOARD}[www]\ndir = {www:?}\n");
        let server = Server::builder().engine(engine).config(&config).data(&data).environment("MALLOC_ARENA_MAX", "1");
        // The frames of a debug build do not fit the small stacks of a board.
        let small_stacks = if cfg!(debug_assertions) { "2097152" } else { "262144" };
        let server = server.environment("RUST_MIN_STACK", small_stacks).start();
        let (peak_kib, watching) = (Arc::default(), Arc::default());
        Scene { server, engine: engine.to_owned(), admin, neighbours, hostile, peak_kib, watching, folder }
    }

    /// The folder of static files.
    pub fn www(&self) -> std::path::PathBuf {
        self.folder.path().join("www")
    }

    /// A head of the attackers'; `fields` are whole lines.
    pub fn head(&self, line: &str, fields: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{fields}\r\n", self.hostile)
    }

    /// Stores values of 1 MiB that do not compress.
    pub fn fill(&self, values: usize) {
        let authorization = format!("Bearer {}", self.hostile);
        for n in 0..values {
            let value = crate::scenarios::noise(n as u64, 1 << 20);
            let path = format!("/api/v1/kv/big/c/v{n:03}");
            let answer = self.server.send("PUT", &path, &[("Authorization", &authorization)], &value);
            assert!(matches!(answer.status, 201 | 204));
        }
    }

    /// Connects from one of several addresses, with a window as small as it can be.
    pub fn connect(&self, n: usize) -> TcpStream {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        let last = 1 + (n % ADDRESSES) as u8;
        bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 1, last), 0))).unwrap();
        let to: SocketAddrV4 = self.server.address().parse().unwrap();
        connect(&socket, &SocketAddr::V4(to)).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true).unwrap();
        stream
    }

    /// Sends to many at once, as far as they take it.
    pub fn send(&self, count: usize, what: impl Fn(usize) -> Vec<u8>) -> Held {
        let mut all: Vec<(TcpStream, Vec<u8>, usize)> = (0..count).map(|n| (self.connect(n), what(n), 0)).collect();
        let give_up = Instant::now() + Duration::from_secs(5);
        let mut quiet = 0;
        while quiet < 20 && Instant::now() < give_up {
            let mut moved = false;
            for (stream, bytes, sent) in &mut all {
                if let Ok(count @ 1..) = stream.write(&bytes[*sent..]) {
                    *sent += count;
                    moved = true;
                }
            }
            quiet = if moved { 0 } else { quiet + 1 };
            if !moved {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        all.into_iter().map(|(stream, ..)| stream).collect()
    }

    /// Holds the attack for as long as is asked for.
    pub fn hold(&self) {
        std::thread::sleep(holds());
    }

    pub fn resident_mib(&self) -> u64 {
        resident_kib(self.server.pid()) / 1024
    }

    pub fn peak_mib(&self) -> u64 {
        self.watching.store(false, Ordering::SeqCst);
        self.peak_kib.load(Ordering::SeqCst) / 1024
    }

    /// Notes the most memory from now on.
    pub fn watch(&self) {
        let (pid, peak, watching) = (self.server.pid(), self.peak_kib.clone(), self.watching.clone());
        watching.store(true, Ordering::SeqCst);
        std::thread::spawn(move || {
            while watching.load(Ordering::SeqCst) {
                peak.fetch_max(resident_kib(pid), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
    }

    /// Somebody who writes, reads and lists, each time on a connection of his own.
    pub fn neighbour(&self) -> Neighbour {
        let stop = Arc::<AtomicBool>::default();
        let (address, authorization) = (self.server.address().to_owned(), format!("Bearer {}", self.neighbours));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut failures, value) = (Vec::new(), crate::scenarios::noise(7, 100_000));
            let mut turn = 0;
            while !stopped.load(Ordering::SeqCst) || turn == 0 {
                let path = format!("/api/v1/kv/neighbour/c/{}", turn % 20);
                let list = "/api/v1/kv/neighbour/c?limit=5".to_owned();
                for (method, path, body) in
                    [("PUT", &path, &value[..]), ("GET", &path, b""), ("GET", &list, b""), ("HEAD", &path, b"")]
                {
                    let began = Instant::now();
                    let asked = [("Authorization", authorization.as_str())];
                    let answer = Client::new(&address).try_send(method, path, &asked, body);
                    let what = answer.map(|answer| answer.status).map_err(|error| error.kind());
                    if !matches!(what, Ok(200 | 201 | 204)) {
                        failures.push((method, path.clone(), what, began.elapsed()));
                    }
                }
                turn += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            failures
        });
        Neighbour { stop, thread }
    }

    /// The server answers, and gives back what was held.
    pub fn is_well(&self) {
        let authorization = format!("Bearer {}", self.admin);
        crate::support::eventually("all is given back", || {
            let page = self.server.send("GET", "/metrics", &[("Authorization", &authorization)], b"").expect(200);
            let text = page.text();
            let none = |name: &str| text.lines().any(|line| line == format!("{name} 0"));
            none("larder_http_bodies_bytes") && none("larder_http_answers_unsent_bytes")
        });
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

type Failure = (&'static str, String, Result<u16, std::io::ErrorKind>, Duration);

pub struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Failure>>,
}

impl Neighbour {
    /// What failed of his.
    pub fn stop(self) -> Vec<Failure> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// The status that an attacker's socket has got; `None` if it was closed, or has got nothing in its time.
pub fn status(stream: &mut TcpStream) -> Option<u16> {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}
