//! What the person who keeps the board sees of a running larder: its log and its files.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::{Server, engines};

#[test]
fn a_slow_request_is_logged_with_its_phases_unless_that_is_off() {
    let operations: Vec<String> = (0..1000).map(|n| format!(r#"{{"op":"set","key":"{n}","value":{n}}}"#)).collect();
    let batch = format!(r#"{{"namespace":"a","collection":"b","operations":[{}]}}"#, operations.join(","));
    let fields = [("Content-Type", "application/json"), ("X-Request-Id", "slow-1")];
    for engine in engines() {
        for (setting, logged) in [("1ms", true), ("0s", false)] {
            let config = format!("[log]\nslow_request = \"{setting}\"");
            let server = Server::builder().engine(&engine).config(&config).start();
            // How fast the machine is must not matter: of many large batches one takes a millisecond.
            for _ in 0..if logged { 200 } else { 5 } {
                server.send("POST", "/api/v1/batch", &fields, batch.as_bytes()).expect(200);
                if server.log().contains("slow request") {
                    break;
                }
            }
            let log = server.log();
            let line = log.lines().find(|line| line.contains("slow request")).unwrap_or_default();
            assert_eq!(!line.is_empty(), logged, "{engine} {setting}: {log}");
            for part in ["method=POST route=/api/v1/batch status=200 bytes=", " request_id=slow-1 ", " commit_ms="] {
                assert!(!logged || line.contains(part), "{engine}: {line}");
            }
        }
    }
}

/// Everything below a folder, itself included, that others than its owner may use.
fn open_to_others(path: &Path) -> Vec<PathBuf> {
    let meta = fs::symlink_metadata(path).unwrap();
    let below = meta.is_dir().then(|| fs::read_dir(path).unwrap()).into_iter().flatten();
    let mut found: Vec<PathBuf> = below.flat_map(|entry| open_to_others(&entry.unwrap().path())).collect();
    if meta.permissions().mode() & 0o077 != 0 {
        found.push(path.to_owned());
    }
    found
}

#[test]
fn what_clients_store_is_readable_for_nobody_else_on_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let (data, socket) = (folder.path().join("data"), folder.path().join("l.sock"));
    let listen = format!("unix:{}", socket.display());
    let server = Server::builder().engine("epoll").argument("--listen").argument(&listen).data(&data).start();
    server.put("/api/v1/kv/n/c/secret", b"x").expect(201);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660, "clients of its group come in");
    assert!(server.stop().success());
    assert_eq!(open_to_others(&data), Vec::<PathBuf>::new());
    assert!(fs::read_dir(data.join("fjall")).unwrap().count() > 2, "there was something to look at");
}
