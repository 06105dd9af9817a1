//! What the kernel says of its clock, from outside: whether expired records are deleted, or only hidden.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::process::Command;

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
