//! Nobody reads what larder says, or it cannot be written: requests, signals and panics go on as if it were read, and the
//! lines that are lost are counted.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use support::{Server, engines, eventually};

/// Opens the descriptors as its arguments say, hands over a listening socket as systemd does, says where it listens (the
/// server's own word may go nowhere), and becomes the server.
const PREPARE: &str = r#"
import os, pty, socket, sys
def full(descriptor):
    os.set_blocking(descriptor, False)
    try:
        while True: os.write(descriptor, b"." * 1024)
    except BlockingIOError: pass
    try:
        while True: os.write(descriptor, b".")
    except BlockingIOError: pass
    os.set_blocking(descriptor, True)
    return descriptor
def end(kind):
    if kind == "/dev/full": return os.open(kind, os.O_WRONLY)
    reader, writer = pty.openpty() if kind.endswith("terminal") else os.pipe()
    if kind.startswith("closed"): os.close(reader)
    else: os.set_inheritable(reader, True)
    return full(writer) if kind.startswith("full") else writer
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
print("larder listening on http://127.0.0.1:%d" % listener.getsockname()[1], flush=True)
for word in sys.argv[1].split(","):
    descriptor, kind = word.split("=")
    os.dup2(end(kind), int(descriptor))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
more = [] if "LARDER_TEST_CHILD" in os.environ else ["--listen", "fd://"]
os.execv(sys.argv[2], sys.argv[2:] + more)
"#;

/// At the level `trace` every write says enough to fill what is kept in the end.
fn server(engine: &str, ends: &str, level: &str) -> Server {
    let config = &format!("log.level = \"{level}\"\nlog.slow_request = \"1ms\"");
    Server::builder().engine(engine).config(config).wrapper(&["python3", "-c", PREPARE, ends]).start()
}

fn write_and_read(server: &Server, from: usize) {
    let mut client = server.client();
    for n in from..from + 20 {
        let path = format!("/api/v1/kv/unread/output/{n}");
        let answer = client.send("PUT", &path, &[], b"value").expect(201);
        assert_eq!(answer.header("Larder-Durability"), Some("synced"));
        client.send("GET", &path, &[("Cache-Control", "no-cache")], b"").expect(200);
    }
}

/// Goes on with requests until lines were dropped.
fn lose_lines(server: &Server) {
    let mut written = 0;
    while server.metric("larder_log_lines_dropped_total") == 0.0 {
        assert!(written < 20_000, "so much was said and nothing dropped");
        write_and_read(server, written);
        written += 20;
    }
    write_and_read(server, written);
}

#[test]
fn a_standard_error_that_takes_nothing_stops_neither_requests_nor_the_stop() {
    for engine in engines() {
        for ends in ["2=full pipe", "2=closed pipe", "2=/dev/full", "2=full terminal", "2=closed terminal"] {
            let mut server = server(&engine, ends, "trace");
            lose_lines(&server);
            for signal in ["HUP", "TERM"] {
                server.signal(signal);
            }
            assert_eq!(server.wait().code(), Some(0), "{engine}, {ends}");
        }
    }
}

#[test]
fn a_standard_output_that_takes_nothing_is_no_more_than_that() {
    for engine in engines() {
        for ends in ["1=full pipe", "1=closed pipe", "1=/dev/full", "1=full terminal", "1=full pipe,2=full pipe"] {
            let mut server = server(&engine, ends, "info");
            write_and_read(&server, 0);
            if !ends.contains("2=") {
                assert_eq!(server.metric("larder_log_lines_dropped_total"), 0.0, "{engine}, {ends}");
            }
            server.signal("TERM");
            assert_eq!(server.wait().code(), Some(0), "{engine}, {ends}");
            assert!(ends.contains("2=") || server.log().contains("SIGTERM: answering"), "{engine}: {}", server.log());
        }
    }
}

#[test]
fn a_second_signal_ends_it_although_nobody_reads() {
    let mut server = server("tiny_http", "1=full pipe,2=full pipe", "trace");
    lose_lines(&server);
    let mut held = server.connect();
    held.write(b"PUT /api/v1/kv/a/b/c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\nxxx");
    // Two that come at once count as one.
    eventually("it leaves without waiting for the client", || {
        server.signal("TERM");
        server.try_wait().is_some_and(|status| status.code() == Some(130))
    });
}

#[test]
fn once_somebody_reads_again_all_that_was_kept_comes_in_order_with_the_number_of_what_was_not() {
    for engine in engines() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--listen", "127.0.0.1:0", "--engine", &engine, "--data"])
            .arg(folder.path())
            .envs([("LARDER_STORE_RESERVE", "1MiB"), ("LARDER_LOG_LEVEL", "trace")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let mut client = support::Client::new(said.trim().strip_prefix("larder listening on http://").unwrap());
        let dropped = |client: &mut support::Client| {
            let page = client.send("GET", "/metrics", &[], b"").text();
            let line = page.lines().find(|line| line.starts_with("larder_log_lines_dropped_total")).unwrap();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        for n in 0.. {
            assert!(n < 20_000, "so much was said and nothing dropped");
            client.send("PUT", &format!("/api/v1/kv/a/b/{n}"), &[], b"x").expect(201);
            if n % 50 == 0 && dropped(&mut client) > 0 {
                break;
            }
        }
        let lost = dropped(&mut client);
        let text = Arc::<Mutex<String>>::default();
        support::server::follow(child.stderr.take().unwrap(), text.clone());
        let told = || text.lock().unwrap().lines().filter_map(dropped_here).sum::<u64>();
        eventually("the gap is told", || told() >= lost);
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{engine}");
        eventually("the last lines came", || text.lock().unwrap().contains("SIGTERM: answering what was accepted"));
        let text = text.lock().unwrap();
        let (before, after) = text.split_once("log lines were dropped here").unwrap();
        assert!(before.contains("Persisting journal") && after.contains("SIGTERM: answering"), "{engine}: {text}");
    }
}

fn dropped_here(line: &str) -> Option<u64> {
    line.split_once(" log lines were dropped here")?.0.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_panic_is_told_in_the_log_and_waits_for_nobody() {
    if std::env::var_os("LARDER_TEST_CHILD").is_some() {
        larder::logging::init(log::LevelFilter::Info).unwrap();
        larder::logging::tell_panics();
        for n in 0..1000 {
            let thread = std::thread::Builder::new().name(format!("fails-{n}"));
            let failed = thread.spawn(|| panic!("as it should\n{}", "x".repeat(200))).unwrap();
            assert!(failed.join().is_err());
        }
        // Not by the end of the test, which has something to say on the full pipe.
        std::process::exit(if larder::logging::dropped_lines() > 0 { 42 } else { 43 });
    }
    let test = "a_panic_is_told_in_the_log_and_waits_for_nobody";
    for ends in ["2=full pipe", "2=closed pipe", "2=/dev/full"] {
        let mut command = Command::new("python3");
        command.args(["-c", PREPARE, ends]).arg(std::env::current_exe().unwrap()).args([
            "--exact",
            test,
            "--nocapture",
        ]);
        let status = command.env("LARDER_TEST_CHILD", "1").stdout(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(42), "{ends}");
    }
}
