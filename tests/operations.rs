//! What the person who keeps the board sees of a running larder: its log and its files.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Server, engines, eventually, skipped};

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

#[test]
fn a_slow_request_names_its_client_and_not_the_proxy_before_it() {
    let long = format!("sensor/1 \u{9b}31m {}", "x".repeat(300));
    let kept = format!("agent=\"sensor/1 ?31m {}\"", "x".repeat(48 - "sensor/1 ?31m ".len()));
    for engine in engines() {
        // tiny_http takes nothing beyond ASCII in a head.
        let (long, kept) = match engine.as_str() {
            "tiny_http" => (long.replace('\u{9b}', "?"), kept.clone()),
            _ => (long.clone(), kept.clone()),
        };
        for (trusted, fields, named) in [
            ("", &[("User-Agent", "curl/8.5.0")][..], "peer=127.0.0.1 agent=curl/8.5.0 total_ms="),
            ("", &[("X-Forwarded-For", "203.0.113.7")], "peer=127.0.0.1 total_ms="),
            ("\"127.0.0.1\"", &[("X-Forwarded-For", "203.0.113.7")], "peer=203.0.113.7 proxy=127.0.0.1 total_ms="),
            ("\"127.0.0.1\"", &[("X-Forwarded-For", "1.2.3.4, 2001:db8::7")], "peer=2001:db8::7 proxy=127.0.0.1 "),
            ("\"127.0.0.1\"", &[("X-Forwarded-For", "203.0.113.7, nobody")], "peer=127.0.0.1 total_ms="),
            ("\"127.0.0.1\"", &[("User-Agent", "Mozilla/5.0 (X11)")], "peer=127.0.0.1 agent=\"Mozilla/5.0 (X11)\" "),
            ("", &[("User-Agent", long.as_str())], &kept),
        ] {
            // Every request is slow, with a body to wait for: how fast the machine is must not matter.
            let config = format!(
                "[auth]\nmode = \"open\"\n[log]\nslow_request = \"1ms\"\n[server]\ntrusted_proxies = [{trusted}]"
            );
            let server = Server::builder().engine(&engine).config(&config).start();
            let body = vec![b'x'; 1 << 20];
            let mut log = String::new();
            for _ in 0..200 {
                server.send("PUT", "/api/v1/kv/a/b/c", fields, &body);
                log = server.log();
                if log.contains("slow request") {
                    break;
                }
            }
            let line = log.lines().find(|line| line.contains("slow request")).unwrap_or_default();
            assert!(line.contains(named), "{engine} {fields:?}: {line}\n{log}");
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

/// Runs larder as a user whom permissions bind: as `nobody` where this is root.
fn larder_as_nobody(folder: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    const NOBODY: u32 = 65534;
    // What the tests are built in may be closed to nobody.
    let program = folder.join("larder");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_larder"), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.args(words).current_dir(folder).env_clear();
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_data_folder_that_cannot_be_one_stops_check_and_serve_with_its_path_and_the_user() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    for name in ["closed", "read", "foreign", "foreign/fjall"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("file"), "").unwrap();
    fs::write(folder.path().join("foreign/larder.lock"), "").unwrap();
    set_mode(&folder.path().join("foreign"), 0o777);
    set_mode(&folder.path().join("foreign/larder.lock"), 0o444);
    set_mode(&folder.path().join("read"), 0o555);
    set_mode(&folder.path().join("closed"), 0);
    for (data, path, reason) in [
        ("file", "file", "is not a folder"),
        ("file/data", "file", "is not a folder"),
        ("closed", "closed", ": permission denied, uid "),
        ("closed/data", "closed", ": permission denied, uid "),
        ("read", "read", ": permission denied, uid "),
        ("read/data", "read", ": permission denied, uid "),
        ("foreign", "foreign/larder.lock", ": permission denied, uid "),
    ] {
        for command in ["check", "serve"] {
            let (code, out, err) =
                larder_as_nobody(folder.path(), &[command, "--listen", "127.0.0.1:0", "--data", data]);
            assert_eq!((code, out.as_str()), (Some(78), ""), "{command} {data}: {err}");
            let told = err.starts_with(&format!("larder: flag --data: store.dir: {path}")) && err.contains(reason);
            assert!(told, "{command} {data}: {err}");
        }
    }
    set_mode(&folder.path().join("closed"), 0o700);
}

#[test]
fn check_says_of_folders_what_serve_would() {
    let folder = tempfile::tempdir().unwrap();
    let check = |words: &[&str], www: &str, reserve: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.arg("check").args(words).current_dir(folder.path()).env_clear();
        let output = command.env("LARDER_WWW_DIR", www).env("LARDER_STORE_RESERVE", reserve).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    fs::create_dir(folder.path().join("www")).unwrap();
    let (code, text) = check(&["--data", "new"], "www", "1MiB");
    assert!(code == Some(0) && text.contains("\nnote: new is not there yet and will be made\n"), "{text}");
    let (code, text) = check(&["--data", "new"], "none", "1MiB");
    assert!(code == Some(1) && text.contains("www.dir none cannot be opened by uid "), "{text}");
    let (code, text) = check(&["--data", "new"], "www", "1000000GiB");
    assert!(code == Some(78) && text.contains("no write would ever be taken"), "{text}");
    // All but a little of the card, of which something is always taken.
    let card = rustix::fs::statvfs(folder.path()).unwrap();
    let reserve = format!("{}MiB", ((card.f_blocks * card.f_frsize) >> 20) - 1);
    let (code, text) = check(&["--data", "new"], "www", &reserve);
    assert!(code == Some(0) && text.contains(": writes would get 507"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "check makes nothing");

    let data = folder.path().join("used");
    let server = Server::builder().data(&data).start();
    let (code, text) = check(&["--data", "used"], "www", "1MiB");
    assert!(code == Some(0) && text.contains("note: a larder is running with used"), "{text}");
    set_mode(&data, 0o755);
    let (code, text) = check(&["--data", "used"], "www", "1MiB");
    assert!(code == Some(0) && text.contains("warning: other users of this machine may look into used"), "{text}");
    server.put("/api/v1/kv/n/c/k", b"x").expect(201);
    assert!(server.stop().success());
    let server = Server::builder().data(&data).start();
    eventually("the warning", || server.log().contains("other users of this machine may look into "));
}

#[test]
fn check_and_serve_refuse_a_data_folder_among_the_files_and_files_in_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["www/sub", "www/later", "www/database", "data/www", "elsewhere", "linked", "part"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    for (target, link) in [
        ("www", "link"),
        ("www/later", "later"),
        ("../elsewhere", "www/out"),
        ("../www/database", "linked/fjall"),
        ("../elsewhere", "part/fjall"),
    ] {
        std::os::unix::fs::symlink(target, folder.path().join(link)).unwrap();
    }
    let run = |command: &str, www: &str, data: &str, more: (&str, &str)| {
        let mut larder = Command::new(env!("CARGO_BIN_EXE_larder"));
        larder.args([command, "--data", data]).current_dir(folder.path()).env_clear().env("LARDER_WWW_DIR", www);
        let output = larder.env("LARDER_LISTEN", "127.0.0.1:0").env(more.0, more.1).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let none = ("LARDER_STORE_RESERVE", "1MiB");
    for (www, data) in [
        ("www", "www"),
        ("www", "www/data"),
        ("www", "www/none/deeper"),
        (".", "larder-data"),
        ("www", "www/sub/../data"),
        ("www", "elsewhere/../www/data"),
        ("link", "www/data"),
        ("www", "link/data"),
        ("www", "later"),
        ("www", "linked"),
        ("www/out", "elsewhere/data"),
        ("data", "data"),
        ("data/www", "data"),
        ("data/www/../www", "data"),
    ] {
        for command in ["check", "serve"] {
            let (code, err) = run(command, www, data, none);
            assert_eq!(code, Some(78), "{command} {www} {data}: {err}");
            let told = err.starts_with("larder: environment LARDER_WWW_DIR: www.dir ")
                && [www, data].iter().all(|path| err.contains(&format!(" {path}")));
            assert!(told, "{command} {www} {data}: {err}");
        }
    }
    for (www, data) in [("www", "data"), ("www", "www-data"), ("www", "part"), ("www", "www/../data"), ("link", "data")]
    {
        let (code, err) = run("check", www, data, none);
        assert_eq!(code, Some(0), "{www} {data}: {err}");
    }
    let (code, err) = run("check", "www", "www/data", ("LARDER_STORE_KIND", "memory"));
    assert_eq!(code, Some(0), "nothing is stored there: {err}");
}

#[test]
fn a_data_folder_that_is_mounted_among_the_files_is_refused_too() {
    let possible = Command::new("unshare").args(["--mount", "mount", "--bind", "/tmp", "/tmp"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return skipped("this user may not mount");
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["www/a mount", "outer/data"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    for mounted in ["outer", "outer/data"] {
        let script = r#"mount --bind "$MOUNTED" "www/a mount" && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_larder"),
            "check",
            "--data",
            "outer/data",
        ]);
        command.current_dir(folder.path()).env("MOUNTED", mounted).env("LARDER_WWW_DIR", "www");
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{err}");
        assert!(err.contains("www.dir www holds store.dir outer/data"), "{err}");
    }
}

#[test]
fn a_card_that_is_mounted_read_only_does_not_stop_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    assert!(Server::builder().data(&data).start().stop().success());
    let mount = r#"mount --bind "$CARD" "$CARD" && mount -o remount,bind,ro "$CARD" && exec "$@""#;
    let wrapper = ["unshare", "--mount", "sh", "-c", mount, "sh"];
    let possible = Command::new("unshare").args(["--mount", "mount", "--bind", "/tmp", "/tmp"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return skipped("this user may not mount");
    }
    let card = data.to_str().unwrap();
    let server = Server::builder().data(&data).environment("CARD", card).wrapper(&wrapper).start();
    let health = server.get("/health").expect(503).json();
    let reason = health["reason"].as_str().unwrap();
    assert!(reason.ends_with("its file system is read-only for larder") && !reason.contains(card), "{health}");
    eventually("the path and the user in the log", || server.log().contains(&format!("the store in {card} (as uid ")));
    server.get("/health/live").expect(200);
}
