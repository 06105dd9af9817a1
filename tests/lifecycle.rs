//! Starting and stopping from outside: signals, drain, bursts of connections, order on a connection, order of system calls.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Connection, Server, engines, on_every_engine};

#[test]
fn sigterm_and_sigint_end_it_cleanly_and_lose_nothing() {
    for engine in engines() {
        for signal in ["TERM", "INT"] {
            let folder = tempfile::tempdir().unwrap();
            let mut server = Server::builder().engine(&engine).data(folder.path()).start();
            let acknowledged = AtomicU64::new(0);
            let address = server.address().to_owned();
            let status = std::thread::scope(|scope| {
                for writer in 0..4 {
                    let (acknowledged, address) = (&acknowledged, &address);
                    scope.spawn(move || {
                        let mut client = support::Client::new(address);
                        for n in 0.. {
                            let path = format!("/api/v1/kv/stop/{signal}/{writer}-{n}?durability=relaxed");
                            match client.try_send("PUT", &path, &[], b"x") {
                                Ok(answer) if answer.status == 201 => acknowledged.fetch_add(1, Ordering::SeqCst),
                                Ok(answer) if answer.status == 503 => return,
                                Ok(answer) => panic!("{answer:?}"),
                                Err(_) => return,
                            };
                        }
                    });
                }
                std::thread::sleep(Duration::from_millis(300));
                server.signal(signal);
                server.wait()
            });
            assert_eq!(status.code(), Some(0), "{engine} {signal}: {}", server.log());
            let again = Server::builder().data(folder.path()).start();
            let mut found = 0;
            let mut client = again.client();
            for writer in 0..4 {
                for n in 0.. {
                    match client.send("GET", &format!("/api/v1/kv/stop/{signal}/{writer}-{n}"), &[], b"").status {
                        200 => found += 1,
                        _ => break,
                    }
                }
            }
            let acknowledged = acknowledged.load(Ordering::SeqCst);
            assert!(acknowledged > 0 && found >= acknowledged, "{engine} {signal}: {found} of {acknowledged} found");
        }
    }
}

#[test]
fn health_says_when_it_is_draining() {
    on_every_engine(|server| {
        // A request that is on its way keeps the process alive long enough to be asked.
        let mut held = server.connect();
        held.write(b"PUT /api/v1/kv/a/b/c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\nxxx");
        let mut asker = server.connect();
        let ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        asker.write(ask);
        assert_eq!(asker.read(false).status, 200);
        std::thread::sleep(Duration::from_millis(100));
        server.signal("TERM");
        std::thread::sleep(Duration::from_millis(20));
        let _ = std::io::Write::write_all(&mut asker.stream(), ask);
        // The connection may be ended as idle before the question arrives; an answer must be the true one.
        if let Ok(answer) = asker.try_read(false) {
            assert_eq!(answer.status, 503);
            assert_eq!(answer.code(), "DRAINING");
        }
    });
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut server = Server::builder().start();
    let mut held = server.connect();
    held.write(b"PUT /api/v1/kv/a/b/c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\nxxx");
    std::thread::sleep(Duration::from_millis(200));
    let before = Instant::now();
    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(100));
    server.signal("TERM");
    let status = server.wait();
    assert!(!status.success(), "a forced exit is no clean one");
    assert!(before.elapsed() < Duration::from_secs(5), "it waited for the client");
}

#[test]
fn sighup_under_load_fails_no_request() {
    on_every_engine(|server| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|n| {
                    let done = &done;
                    scope.spawn(move || {
                        let mut client = server.client();
                        let path = format!("/api/v1/kv/hup/x/{n}");
                        let mut answered = 0;
                        while !done.load(Ordering::SeqCst) {
                            assert!(client.send("PUT", &path, &[], b"1").status < 300);
                            client.send("GET", &path, &[], b"").expect(200);
                            answered += 1;
                        }
                        answered
                    })
                })
                .collect();
            let ends = support::Ends(&done);
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(60));
                server.signal("HUP");
            }
            std::thread::sleep(Duration::from_millis(100));
            drop(ends);
            for worker in workers {
                assert!(worker.join().unwrap() > 0);
            }
        });
        server.get("/health").expect(200);
    });
}

#[test]
fn sixty_four_clients_that_connect_at_once_are_all_answered() {
    on_every_engine(|server| {
        for _round in 0..3 {
            let mut connections: Vec<Connection> = (0..60).map(|_| server.connect()).collect();
            for connection in &mut connections {
                connection.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
            }
            for connection in &mut connections {
                connection.stream().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                connection.read(false).expect(200);
            }
        }
    });
}

#[test]
fn answers_of_a_connection_keep_their_order() {
    on_every_engine(|server| {
        let mut connection = server.connect();
        let mut sent = String::new();
        for n in 0..5 {
            sent.push_str(&format!(
                "PUT /api/v1/kv/a/b/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n{n}\
                 GET /api/v1/kv/a/b/k HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ));
        }
        connection.write(sent.as_bytes());
        for n in 0..5 {
            let status = connection.read(false).status;
            assert_eq!(status, if n == 0 { 201 } else { 204 });
            // The read was sent behind the write, so it sees it.
            assert_eq!(connection.read(false).expect(200).text(), n.to_string());
        }
    });
}

#[test]
fn the_sync_returns_before_the_answer_leaves() {
    for engine in engines() {
        let trace = tempfile::NamedTempFile::new().unwrap();
        let path = trace.path().to_str().unwrap();
        // 32-bit systems have a `send` of their own.
        let calls = "trace=fdatasync,fsync,write,writev,/^send(to|msg)?$";
        let words = ["strace", "-f", "-s", "64", "-e", calls, "-o", path];
        if Command::new("strace").arg("-V").output().is_err() {
            return support::skipped("strace is not installed");
        }
        let server = Server::builder().engine(&engine).wrapper(&words).start();
        server.put("/api/v1/kv/a/b/first", b"1").expect(201);
        std::thread::sleep(Duration::from_millis(300));
        let from = std::fs::read_to_string(path).unwrap().len();
        let sent = server.put("/api/v1/kv/a/b/second", b"22").expect(201);
        assert_eq!(sent.header("Larder-Durability"), Some("synced"));
        support::eventually("the trace holds the answer", || {
            std::fs::read_to_string(path).unwrap()[from..].contains("HTTP/1.1 201")
        });
        let all = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = all[from..].lines().collect();
        let answer = lines.iter().position(|line| line.contains("HTTP/1.1 201")).unwrap();
        let sync = lines[..answer].iter().position(|line| {
            line.contains("fdatasync(") && line.contains("= 0")
                || line.contains("fdatasync resumed") && line.contains("= 0")
        });
        assert!(sync.is_some(), "{engine}: no finished fdatasync before the answer:\n{}", lines[..=answer].join("\n"));
        // strace itself is the child: ended first, it lets the server go.
        let children = format!("/proc/{0}/task/{0}/children", server.pid());
        for child in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-TERM", child]).status();
        }
        let mut server = server;
        server.wait();
    }
}

#[test]
fn tokens_made_and_removed_while_it_runs_count_within_seconds() {
    let server = Server::builder().start();
    server.put("/api/v1/kv/a/b/c", b"x").expect(201);
    let file = server.data().join("tokens.jsonl");
    let token = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        let output = command.arg("token").args(arguments).env("LARDER_AUTH_TOKENS_FILE", &file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let secret = token(&["add", "one", "--scope", "read"]);
    let header = format!("Bearer {secret}");
    let status = |headers: &[(&str, &str)]| server.send("GET", "/api/v1/kv/a/b/c", headers, b"").status;
    support::eventually("nobody is served without a token", || status(&[]) == 401);
    assert_eq!(status(&[("Authorization", &header)]), 200);
    token(&["rm", "one"]);
    support::eventually("a removed token is refused", || status(&[("Authorization", &header)]) == 401);
}
