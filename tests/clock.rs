//! The clock from outside: what the kernel says of it, by which expired records are deleted or only hidden, and a wall
//! clock that is wrong, stepped and set right, by a library between larder and its C library.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use support::{Server, eventually};

const MARK: &str = "/run/systemd/timesync/synchronized";

/// A server whose kernel answers so, and the trace of what it was asked.
fn under_a_kernel_that_says(answer: &str) -> (Server, tempfile::NamedTempFile) {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let inject = format!("inject=adjtimex:{answer}");
    let path = trace.path().to_str().unwrap();
    let words = ["strace", "-f", "--seccomp-bpf", "-e", "trace=adjtimex", "-e", &inject, "-o", path];
    (Server::builder().wrapper(&words).start(), trace)
}

/// strace itself is the child: ended first, it lets the server go.
fn end(mut server: Server) {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid())).unwrap_or_default();
    for child in children.split_whitespace() {
        let _ = Command::new("kill").args(["-TERM", child]).status();
    }
    server.wait();
}

#[test]
fn expired_records_are_deleted_once_the_kernel_calls_its_clock_right_and_hidden_before() {
    if Command::new("strace").arg("-V").output().is_err() {
        return support::skipped("strace is not installed");
    }
    if std::path::Path::new(MARK).exists() {
        return support::skipped("this machine's clock is kept by systemd-timesyncd, so the kernel is not asked");
    }
    // 0 is TIME_OK, 5 is TIME_ERROR; the error is what a service with ProtectClock=yes gets.
    for (answer, deletes) in [("retval=0", true), ("retval=5", false), ("error=EPERM", false)] {
        let (server, trace) = under_a_kernel_that_says(answer);
        server.put("/api/v1/kv/n/c/k?ttl=0.01", b"x").expect(201);
        eventually("it expires", || server.get("/api/v1/kv/n/c/k").status == 404);
        let asked = || std::fs::read_to_string(trace.path()).unwrap();
        if deletes {
            eventually("it is deleted", || server.metric("larder_expiry_deleted_total") == 1.0);
        } else {
            // The second time is a tick of the keeper, who sweeps as soon as he may.
            eventually("it goes on asking", || asked().matches("adjtimex(").count() >= 2);
            assert_eq!(server.metric("larder_expiry_deleted_total"), 0.0, "{answer}");
        }
        // What a call that failed was given is not shown.
        assert!(answer.starts_with("error") || asked().contains("adjtimex({modes=0"), "{}", asked());
        end(server);
    }
}

/// Moves the wall clock by the seconds in a file, and lets the kernel answer what stands behind them.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

static long said(int which) {
    long numbers[2] = {0, 5};
    FILE *file = fopen(getenv("WALL_FILE"), "r");
    if (file) {
        if (fscanf(file, "%ld %ld", &numbers[0], &numbers[1]) != 2) numbers[1] = 5;
        fclose(file);
    }
    return numbers[which];
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME && result == 0) time->tv_sec += said(0);
    return result;
}

long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (!real) real = dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_adjtimex) return said(1);
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    long d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    return real(number, a, b, c, d, e, f);
}
"#;

/// What the kernel says: TIME_OK or TIME_ERROR.
const RIGHT: i64 = 0;
const UNKNOWN: i64 = 5;

/// A board whose wall clock a test sets.
struct Board {
    folder: tempfile::TempDir,
    engine: &'static str,
}

impl Board {
    /// `None` where that cannot be.
    fn new(engine: &'static str) -> Option<Board> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("wall.c");
        std::fs::write(&source, LIBRARY).unwrap();
        let board = Board { folder, engine };
        let mut compiler = Command::new("cc");
        let compiled = compiler.args(["-shared", "-fPIC", "-w", "-o"]).args([&board.file("wall.so"), &source]).status();
        if !compiled.is_ok_and(|status| status.success()) {
            support::skipped("there is no C compiler");
            return None;
        }
        if Path::new(MARK).exists() {
            support::skipped("this machine's clock is kept by systemd-timesyncd, so the kernel is not asked");
            return None;
        }
        Some(board)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The wall clock is so many seconds ahead.
    fn set(&self, ahead_s: i64, kernel: i64) {
        let (file, new) = (self.file("wall"), self.file("wall.new"));
        std::fs::write(&new, format!("{ahead_s} {kernel}\n")).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    fn start(&self) -> Server {
        let (library, wall) = (self.file("wall.so"), self.file("wall"));
        Server::builder()
            .engine(self.engine)
            .data(&self.file("data"))
            .environment("LD_PRELOAD", library.to_str().unwrap())
            .environment("WALL_FILE", wall.to_str().unwrap())
            .start()
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Seconds left to a key, by the answer to a GET; 0 if it is gone.
fn left(server: &Server, key: &str) -> f64 {
    let answer = server.get(&format!("/api/v1/kv/n/c/{key}"));
    if answer.status == 404 { 0.0 } else { answer.expect(200).header("Larder-Ttl").unwrap().parse().unwrap() }
}

fn put(server: &Server, key: &str, ttl_s: u32) {
    server.put(&format!("/api/v1/kv/n/c/{key}?ttl={ttl_s}"), b"1").expect(201);
}

fn ahead_until_it_is_set(engine: &'static str) {
    let Some(board) = Board::new(engine) else { return };
    board.set(7200, UNKNOWN);
    let server = board.start();
    put(&server, "short", 2);
    put(&server, "long", 7200);
    board.set(0, RIGHT);
    eventually("it expires", || left(&server, "short") == 0.0);
    eventually("it is deleted", || server.metric("larder_expiry_deleted_total") == 1.0);
    let shown = || server.get("/api/v1/kv/n/c").expect(200).json()["items"][0]["expires"].as_str().unwrap().to_owned();
    let expires_s = seconds_of(&shown());
    assert!((3600.0..=7200.0).contains(&(expires_s - now_s())), "{}", shown());
    for ahead_s in [0, 10_000, -10_000] {
        assert!((3600.0..=7200.0).contains(&left(&server, "long")));
        board.set(ahead_s, RIGHT);
    }
    server.kill();
    let server = board.start();
    assert!((3600.0..=7200.0).contains(&left(&server, "long")), "{}", left(&server, "long"));
}

fn up_and_back_and_a_restart(engine: &'static str) {
    for kernel in [UNKNOWN, RIGHT] {
        let Some(board) = Board::new(engine) else { return };
        board.set(0, kernel);
        let server = board.start();
        board.set(3600, kernel);
        put(&server, "short", 3);
        put(&server, "long", 7200);
        let export = server.get("/api/v1/export").expect(200);
        board.set(0, kernel);
        assert!(left(&server, "short") <= 3.0);
        server.kill();
        let server = board.start();
        assert!(left(&server, "short") <= 3.0);
        eventually("it expires", || left(&server, "short") == 0.0);
        assert!((3600.0..=7200.0).contains(&left(&server, "long")));
        server.delete("/api/v1/kv/n/c/long").expect(204);
        let ndjson = [("Content-Type", "application/x-ndjson")];
        server.send("POST", "/api/v1/import", &ndjson, &export.body).expect(200);
        assert!((3600.0..=7200.0).contains(&left(&server, "long")));
    }
}

fn from_1970_to_now(engine: &'static str) {
    let Some(board) = Board::new(engine) else { return };
    board.set(-(now_s() as i64), UNKNOWN);
    let server = board.start();
    put(&server, "long", 7200);
    server.send("POST", "/api/v1/kv/n/c/counter/incr?ttl=7200", &[], b"").expect(200);
    board.set(0, RIGHT);
    eventually("the clock is right", || server.log().contains("the clock was wrong by"));
    let server = {
        server.kill();
        board.start()
    };
    for key in ["long", "counter"] {
        assert!((3600.0..=7200.0).contains(&left(&server, key)), "{key}: {}", left(&server, key));
    }
}

/// Seconds since 1970 of a date as lists show it.
fn seconds_of(date: &str) -> f64 {
    let output = Command::new("date").args(["-u", "-d", date, "+%s"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// What is stored while the clock is ahead seems to be of the future once it is back: no date is told of it, and none
/// is judged by it. `Date` is asked of the kernel without the C library, so here it is back from the start.
fn no_date_of_the_future(engine: &'static str) {
    let Some(board) = Board::new(engine) else { return };
    const VALUE: &str = "/api/v1/kv/n/c/k";
    const PAST: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const FUTURE: &str = "Fri, 31 Dec 9999 23:59:59 GMT";
    board.set(7200, UNKNOWN);
    let server = board.start();
    let text = "text ".repeat(1000);
    server.send("PUT", VALUE, &[("Content-Type", "text/plain")], text.as_bytes()).expect(201);
    let gzip = ("Accept-Encoding", "gzip");
    for round in 0..2 {
        for fields in [&[][..], &[gzip], &[("Range", "bytes=0-3")], &[("Cache-Control", "no-cache")]] {
            for method in ["GET", "HEAD"] {
                let answer = server.send(method, VALUE, fields, b"");
                assert!(answer.status < 300 && answer.header("Date").is_some(), "{answer:?}");
                assert_eq!(answer.header("Last-Modified"), None, "{round} {method} {fields:?}");
                assert!(answer.header("ETag").is_some() && answer.header("Content-Type").is_some());
            }
        }
        for date in [PAST, FUTURE] {
            server.send("GET", VALUE, &[("If-Modified-Since", date)], b"").expect(200);
            server.send("GET", VALUE, &[("If-Unmodified-Since", date)], b"").expect(200);
            server.send("GET", VALUE, &[("Range", "bytes=0-3"), ("If-Range", date)], b"").expect(200);
        }
        // A tag is as good as ever; and what is asked not to be touched since then is not.
        let tag = server.get(VALUE).header("ETag").unwrap().to_owned();
        server.send("GET", VALUE, &[("If-None-Match", &tag), ("If-Modified-Since", PAST)], b"").expect(304);
        server.send("PUT", VALUE, &[("If-Unmodified-Since", PAST)], b"x").expect(412);
        board.set(0, UNKNOWN);
    }
    // Written by now, it is of now.
    server.kill();
    std::fs::remove_dir_all(board.file("data")).unwrap();
    let server = board.start();
    server.put(VALUE, b"x").expect(201);
    eventually("it has a date", || server.get(VALUE).header("Last-Modified").is_some());
    let answer = server.get(VALUE);
    assert!(seconds_of(answer.header("Last-Modified").unwrap()) <= seconds_of(answer.header("Date").unwrap()));
}

#[test]
fn no_value_is_of_the_future_on_tiny_http() {
    no_date_of_the_future("tiny_http");
}

#[test]
fn no_value_is_of_the_future_on_epoll() {
    no_date_of_the_future("epoll");
}

#[test]
fn a_board_that_is_ahead_until_it_is_set_expires_in_time_on_tiny_http() {
    ahead_until_it_is_set("tiny_http");
}

#[test]
fn a_board_that_is_ahead_until_it_is_set_expires_in_time_on_epoll() {
    ahead_until_it_is_set("epoll");
}

#[test]
fn a_clock_that_flies_up_and_comes_back_stops_no_expiry_over_a_restart_on_tiny_http() {
    up_and_back_and_a_restart("tiny_http");
}

#[test]
fn a_clock_that_flies_up_and_comes_back_stops_no_expiry_over_a_restart_on_epoll() {
    up_and_back_and_a_restart("epoll");
}

#[test]
fn what_is_written_in_1970_lives_as_long_as_it_should_on_tiny_http() {
    from_1970_to_now("tiny_http");
}

#[test]
fn what_is_written_in_1970_lives_as_long_as_it_should_on_epoll() {
    from_1970_to_now("epoll");
}

#[test]
fn a_token_that_has_expired_stays_so_on_a_board_that_has_lost_its_clock() {
    for engine in ["tiny_http", "epoll"] {
        let Some(board) = Board::new(engine) else { return };
        board.set(0, RIGHT);
        let server = board.start();
        // A store that has been written to saves the time when it is closed.
        put(&server, "any", 7200);
        let token = |words: &[&str]| {
            let mut command = Command::new(support::binary());
            let output = command.arg("token").args(words).env("LARDER_DATA_DIR", board.file("data")).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            format!("Bearer {}", String::from_utf8(output.stdout).unwrap().trim())
        };
        let lasting = token(&["add", "lasting", "--scope", "read"]);
        let ended = token(&["add", "ended", "--scope", "read", "--expires", "1s"]);
        let status = |server: &Server, token: &str| {
            server.send("GET", "/api/v1/kv/n/c/any", &[("Authorization", token)], b"").status
        };
        eventually("both are taken up, and the one expires", || {
            let said = server.send("GET", "/api/v1/kv/n/c/any", &[("Authorization", ended.as_str())], b"");
            status(&server, &lasting) == 200 && said.text().contains("expired")
        });
        assert!(server.stop().success());
        // Where nobody knows what time it is, nobody knows when a token will end.
        board.set(-50 * 365 * 86_400, UNKNOWN);
        for (words, code) in [(&["--expires", "90d"][..], 1), (&[], 0)] {
            let mut command = Command::new(support::binary());
            command
                .args(["token", "add", "late", "--scope", "read"])
                .args(words)
                .env("LD_PRELOAD", board.file("wall.so"));
            command.env("WALL_FILE", board.file("wall")).env("LARDER_DATA_DIR", board.file("data"));
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        }
        // Fifty years, a day, an hour, a minute back.
        for back_s in [50 * 365 * 86_400, 86_400, 3600, 60] {
            board.set(-back_s, UNKNOWN);
            let server = board.start();
            let said = server.send("GET", "/api/v1/kv/n/c/any", &[("Authorization", ended.as_str())], b"");
            assert!(said.status == 401 && said.text().contains("expired"), "{engine} {back_s}: {said:?}");
            assert_eq!(status(&server, &lasting), 200, "{engine} {back_s}");
            assert!(server.stop().success());
        }
    }
}
