//! The service manager hears that larder is alive only while every thread that serves turns: each kind of thread is
//! stopped by itself, in both engines. And it hears so all the time while there is much to do, while clients are slow,
//! and while the card hangs.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Card, CardOptions, Server, ServerBuilder, engines, eventually};

/// What a thread is to the pings.
enum Thread {
    /// They end with it.
    Needed,
    /// They go on without it, for this reason.
    Spared(&'static str),
}
use Thread::{Needed, Spared};

/// Every thread by the name that the kernel shows (15 bytes, numbers at the end cut off).
const COMMON: &[(&str, Thread)] = &[
    // The main thread is the guard or the drain's watch; the threads that tiny_http starts have its name.
    ("larder", Needed),
    ("larder-committe", Needed),
    ("larder-keeper", Needed),
    ("larder-keeping", Needed),
    ("larder-deadline", Needed),
    ("larder-metrics", Needed),
    ("larder-chores", Needed),
    ("larder-watchdog", Needed),
    ("larder-log", Spared("a standard error that nobody reads must not stop the server")),
    ("larder-say", Spared("it waits for the reader of standard output, and ends")),
    ("larder-signals", Spared("it waits for signals only; the manager ends what does not hear SIGTERM")),
    ("ctrl-c", Spared("a library's own, for SIGINT only, as above")),
    ("larder-warm", Spared("it fills the cache after the start, and ends")),
    ("larder-opening", Spared("it is there only while the store cannot be opened, and /health says so")),
    ("larder-import", Spared("it reads from one client, at that one's pace, and ends")),
    ("larder-reclaim", Spared("one merge may take minutes on a slow card")),
    ("fjall:worker", Spared("not ours, and a merge takes long: without it the committer waits, which is watched")),
];
const TINY_HTTP: &[(&str, Thread)] = &[
    ("larder-worker", Needed),
    ("larder-replier", Needed),
    ("larder-answer", Needed),
    ("larder-body", Needed),
    ("larder-body-wai", Needed),
    ("larder-answ-wai", Needed),
    ("larder-linger", Needed),
    ("larder-courier", Needed),
];
const EPOLL: &[(&str, Thread)] = &[("larder-io", Needed), ("larder-work", Needed)];

/// Stops the threads of a process whose numbers it is given, until its input ends. One thread traces them all, and the
/// kernel lets go of them when it ends.
const TRACER: &str = r#"
import ctypes, os, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT, ANY_CHILD = 0x4206, 0x4207, 0x40000000
for thread in map(int, sys.argv[1:]):
    for request in SEIZE, INTERRUPT:
        if ptrace(request, thread, None, None) != 0: sys.exit(os.strerror(ctypes.get_errno()))
    os.waitpid(thread, ANY_CHILD)
print("stopped", flush=True)
sys.stdin.read()
"#;

/// A server, and the socket on which its manager is told.
struct Watched {
    server: Server,
    manager: UnixDatagram,
    _folder: tempfile::TempDir,
}

impl Watched {
    fn start(builder: ServerBuilder) -> Watched {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        // Four pings a second.
        let builder = builder.environment("WATCHDOG_USEC", "1000000");
        let server = builder.environment("NOTIFY_SOCKET", path.to_str().unwrap()).start();
        Watched { server, manager, _folder: folder }
    }

    /// Whether a ping comes within this time; what has come before does not count.
    fn is_told(&self, within: Duration) -> bool {
        let mut message = [0; 256];
        self.manager.set_nonblocking(true).unwrap();
        while self.manager.recv(&mut message).is_ok() {}
        self.manager.set_nonblocking(false).unwrap();
        self.manager.set_read_timeout(Some(within)).unwrap();
        self.manager.recv(&mut message).is_ok_and(|length| message[..length].starts_with(b"WATCHDOG=1"))
    }

    /// The threads there are, by name.
    fn threads(&self) -> BTreeMap<String, Vec<String>> {
        let mut threads = BTreeMap::<String, Vec<String>>::new();
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.server.pid())).unwrap() {
            let path = entry.unwrap().path();
            let number = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
            let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
            threads.entry(name.to_owned()).or_default().push(number);
        }
        threads
    }

    /// Stops all threads of a name, until what is returned is dropped.
    fn stop(&self, name: &str) -> Tracer {
        let mut command = Command::new("python3");
        command.args(["-c", TRACER]).args(&self.threads()[name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tracer = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "stopped\n", "{name}");
        Tracer(tracer)
    }

    fn is_late(&self) -> bool {
        self.server.log().contains("the watchdog is not answered while this is late")
    }
}

struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn table(engine: &str) -> BTreeMap<&'static str, &'static Thread> {
    let own = if engine == "epoll" { EPOLL } else { TINY_HTTP };
    COMMON.iter().chain(own).map(|(name, thread)| (*name, thread)).collect()
}

/// With all threads that come only with their work: two listeners, a collection that was removed.
fn with_all_threads(engine: &str) -> Watched {
    let watched = Watched::start(Server::builder().engine(engine).argument("--listen=127.0.0.1:0"));
    watched.server.put("/api/v1/kv/a/b/c", b"x").expect(201);
    watched.server.delete("/api/v1/kv/a/b").expect(200);
    eventually("it pings", || watched.is_told(Duration::from_secs(5)));
    watched
}

#[test]
fn every_thread_is_in_the_table_and_those_that_must_turn_are_there() {
    for engine in engines() {
        let (watched, table) = (with_all_threads(&engine), table(&engine));
        let threads = watched.threads();
        let unknown: Vec<_> = threads.keys().filter(|name| !table.contains_key(name.as_str())).collect();
        assert!(unknown.is_empty(), "{engine}: say in the table what these are to the watchdog: {unknown:?}");
        let needed = table.iter().filter(|(_, thread)| matches!(thread, Needed));
        let absent: Vec<_> = needed.filter(|(name, _)| !threads.contains_key(**name)).collect();
        assert!(absent.is_empty(), "{engine}: {:?}", absent.iter().map(|(name, _)| name).collect::<BTreeSet<_>>());
    }
}

#[test]
fn the_pings_end_with_each_thread_that_is_needed_and_come_back_with_it() {
    for engine in engines() {
        std::thread::scope(|scope| {
            for (name, _) in table(&engine).into_iter().filter(|(_, thread)| matches!(thread, Needed)) {
                let engine = &engine;
                scope.spawn(move || {
                    let watched = with_all_threads(engine);
                    let stopped = watched.stop(name);
                    let give_up = Instant::now() + Duration::from_secs(60);
                    while watched.is_told(Duration::from_secs(3)) {
                        assert!(Instant::now() < give_up, "{engine}: it pings although {name} stands still");
                    }
                    drop(stopped);
                    eventually(&format!("{engine}: it pings again after {name}"), || {
                        watched.is_told(Duration::from_secs(5))
                    });
                });
            }
        });
    }
}

#[test]
fn the_pings_go_on_without_those_that_are_spared() {
    std::thread::scope(|scope| {
        for engine in engines() {
            scope.spawn(move || {
                let watched = with_all_threads(&engine);
                let threads = watched.threads();
                let spared = table(&engine).into_iter().filter(|(name, _)| threads.contains_key(*name));
                let stopped: Vec<Tracer> = spared
                    .filter_map(|(name, thread)| match thread {
                        Needed => None,
                        Spared(reason) => {
                            println!("{engine}: {name} is spared: {reason}");
                            Some(watched.stop(name))
                        }
                    })
                    .collect();
                assert!(stopped.len() >= 4, "{engine}: {}", stopped.len());
                goes_on_pinging(&watched, &engine);
            });
        }
    });
}

#[test]
fn the_pings_end_where_writes_wait_for_a_store_whose_own_threads_stand_still() {
    let watched = Watched::start(Server::builder().config("store.memtable = \"1MiB\""));
    let stopped = watched.stop("fjall:worker");
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let address = watched.server.address();
        scope.spawn(move || {
            let (mut client, value) = (support::Client::new(address), vec![b'x'; 200_000]);
            for n in (0..).take_while(|_| !done.load(Ordering::SeqCst)) {
                let _ = client.try_send("PUT", &format!("/api/v1/kv/a/b/{n}"), &[], &value);
            }
        });
        let _ends = support::Ends(done);
        let give_up = Instant::now() + Duration::from_secs(90);
        while watched.is_told(Duration::from_secs(3)) && Instant::now() < give_up {}
        assert!(watched.is_late(), "it pings although nothing is written");
        drop(stopped);
        eventually("it pings again", || watched.is_told(Duration::from_secs(5)));
    });
}

/// For longer than a thread that waits may be silent.
fn goes_on_pinging(watched: &Watched, what: &str) {
    let until = Instant::now() + Duration::from_secs(15);
    while Instant::now() < until {
        assert!(watched.is_told(Duration::from_secs(10)), "{what}");
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(!watched.is_late(), "{what}: {}", watched.server.log());
}

#[test]
fn the_pings_go_on_under_load_and_with_clients_that_are_slow() {
    std::thread::scope(|scope| {
        for engine in engines() {
            scope.spawn(move || {
                let watched = Watched::start(Server::builder().engine(&engine));
                let (server, done) = (&watched.server, AtomicBool::new(false));
                server.put("/api/v1/kv/slow/x/large", &vec![b'x'; 1 << 20]).expect(201);
                let starts: [&[u8]; 4] = [
                    b"PUT /api/v1/kv/slow/x/1 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
                    b"PUT /api/v1/kv/slow/x/2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx",
                    b"GET /api/v1/kv/slow/x/large HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    b"POST /api/v1/import HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
                ];
                // More of each than there are threads for it.
                let mut slow: Vec<_> = (0..32).map(|n| (server.connect(), starts[n % 4])).collect();
                slow.iter_mut().for_each(|(connection, start)| connection.write(start));
                std::thread::scope(|scope| {
                    let _ends = support::Ends(&done);
                    for writer in 0..4 {
                        let done = &done;
                        scope.spawn(move || {
                            let mut client = server.client();
                            for n in (0..).take_while(|_| !done.load(Ordering::SeqCst)) {
                                let path = format!("/api/v1/kv/load/{writer}/{}", n % 1000);
                                let answer = client.send("PUT", &path, &[], b"value");
                                assert!(answer.status < 300, "{answer:?}");
                                client.send("GET", &path, &[("Cache-Control", "no-cache")], b"").expect(200);
                            }
                        });
                    }
                    goes_on_pinging(&watched, &engine);
                });
                for (connection, _) in &mut slow {
                    let _ = connection.stream().write_all(b"x");
                }
            });
        }
    });
}

#[test]
fn the_pings_go_on_while_the_card_hangs_for_a_while() {
    std::thread::scope(|scope| {
        for engine in engines() {
            scope.spawn(move || {
                let backing = tempfile::tempdir().unwrap();
                let card = match Card::mount(backing.path(), CardOptions::default()) {
                    Ok(card) => card,
                    Err(error) => return support::skipped(&format!("no FUSE here: {error}")),
                };
                let watched = Watched::start(Server::builder().engine(&engine).data(&card.path().join("data")));
                watched.server.put("/api/v1/kv/a/b/c", b"old").expect(201);
                card.hold_syncs(true);
                std::thread::scope(|scope| {
                    let address = watched.server.address();
                    scope.spawn(move || support::Client::new(address).send("PUT", "/api/v1/kv/a/b/c", &[], b"new"));
                    eventually("the sync has begun", || card.syncs_in_progress() > 0);
                    goes_on_pinging(&watched, &engine);
                    card.hold_syncs(false);
                });
                let value = || watched.server.get("/api/v1/kv/a/b/c").expect(200).text();
                eventually("the write is seen", || value() == "new");
            });
        }
    });
}
